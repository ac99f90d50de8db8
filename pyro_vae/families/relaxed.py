"""Relaxed (Concrete) families: bits and one-hot vectors that can be differentiated.

They are densities on the open interval and simplex, so that beside one stands another density:
a relaxed guide beside a relaxed prior, a `Beta`, a `Dirichlet`. Beside a `Bernoulli` or
`OneHotCategorical` prior the difference of log density and log mass is no KL, and the ELBO no
bound, so that pair is refused; the straight-through guides are made for it.

At low temperatures draws crowd at the ends, where single precision cannot tell them apart; a KL
that is exact (`TraceExactKL_ELBO`) is computed in logits and does not suffer.
"""

from __future__ import annotations

__all__ = ["RelaxedBernoulli", "RelaxedOneHotCategorical"]

from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.families.discrete import classes
from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import Parameter

# two thirds and a half are the values that Maddison et al. settled on; one for both sides lets
# the KL of more than two classes be exact
TEMPERATURE = Parameter(constraints.positive, 0.5, structural=True)


@register
class RelaxedBernoulli(Family):
    """Independent relaxed bits: z_i = sigmoid((logits_i + logistic noise) / temperature_i).

    `temperature` is a constant, 0.5 unless given: below 1 draws crowd at 0 and 1, above they
    crowd in the middle. The standard member has logits 0.

    References:
        The Concrete distribution: a continuous relaxation of discrete random variables
        (C. J. Maddison, A. Mnih, Y. W. Teh, 2017)

    Example:
        >>> z = RelaxedBernoulli(4, temperature=0.1)().sample()
        >>> bool(((0 < z) & (z < 1)).all())
        True
    """

    spec = {"logits": Parameter(constraints.real, 0.0), "temperature": TEMPERATURE}

    def distribution(self, logits: Tensor, temperature: Tensor) -> TorchDistribution:
        """Return RelaxedBernoulli(temperature, logits), independent over features."""
        bits = distributions.RelaxedBernoulli(temperature, logits=logits)
        return bits.to_event(len(self.features))


@register
class RelaxedOneHotCategorical(Family):
    """Relaxed one-hot vectors: z_g = softmax((logits_g + Gumbel noise) / temperature_g).

    `features` counts the groups and `categories` the classes of each, so one draw has shape
    `(*features, categories)` and lies in the open simplex. `temperature`, one of each group, is a
    constant, 0.5 unless given: towards 0 draws become one-hot. The standard member has equal
    logits. The KL of a pair is exact where temperatures are equal, and for two classes.

    References:
        The Concrete distribution: a continuous relaxation of discrete random variables
        (C. J. Maddison, A. Mnih, Y. W. Teh, 2017)

    Example:
        >>> z = RelaxedOneHotCategorical(3, categories=10)().sample()
        >>> z.shape, bool((z > 0).all())
        (torch.Size([3, 10]), True)
    """

    spec = {
        "logits": Parameter(constraints.real, 0.0, shape=classes),
        "temperature": TEMPERATURE,
    }
    options = ("categories",)
    example_options = {"categories": 4}

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one draw, `(*features, categories)`."""
        return classes(self)

    def distribution(self, logits: Tensor, temperature: Tensor) -> TorchDistribution:
        """Return RelaxedOneHotCategorical(temperature, logits), independent over groups."""
        groups = distributions.RelaxedOneHotCategorical(temperature, logits=logits)
        return groups.to_event(len(self.features))
