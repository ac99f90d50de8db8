"""Families on the counts 0, 1, 2, ..., likelihoods with a mean called `rate`, and exposures.

    Poisson                         variance = rate
    NegativeBinomial                variance = rate + rate^2 / total_count
    ZeroInflatedNegativeBinomial    the same, with zeros put in, sigmoid(gate_logits) of all

Counts were often watched for unequal lengths: cells of which more or fewer molecules were read,
texts of unequal length. What is known of that is no matter for z to find out, but a factor of the
mean, the exposure; its logarithm is the offset of generalised linear models. `WithOffset` is a
decoder that takes it from `y`.
"""

from __future__ import annotations

__all__ = ["NegativeBinomial", "Poisson", "WithOffset", "ZeroInflatedNegativeBinomial"]

from collections.abc import Callable
from typing import ClassVar

from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyro_vae import distributions as own
from pyro_vae.checks import require
from pyro_vae.families.family import Family, Role, register
from pyro_vae.families.parameters import Parameter
from pyro_vae.networks import Log1p

_RATE = Parameter(constraints.positive, 1.0)
_COUNT = Parameter(constraints.softplus_positive, 1.0)


class _Counts(Family):
    """A likelihood of counts with a mean called `rate`."""

    roles: ClassVar[frozenset[Role]] = frozenset({"likelihood"})

    def scaling(self) -> tuple[nn.Module, ...]:
        """Return log(1 + x): counts may be of any size."""
        return (Log1p(),)


@register
class Poisson(_Counts):
    """A likelihood for counts: log p(x) = sum_i x_i log rate_i - rate_i - log x_i!.

    Example:
        >>> import torch
        >>> Poisson(2)().log_prob(torch.tensor([0.0, 1.0])).item()
        -2.0
    """

    spec = {"rate": _RATE}

    def distribution(self, rate: Tensor) -> TorchDistribution:
        """Return Poisson(rate), independent over features."""
        return own.Poisson(rate).to_event(len(self.features))


@register
class NegativeBinomial(_Counts):
    """A likelihood for counts that spread: Poissons whose rates vary, Var x = m + m^2 / r.

    m = `rate` is the mean and r = `total_count` the inverse of the dispersion: in the limit of
    large r it is `Poisson`. As the scale of a Normal, r is predicted, or given, or learned as one
    constant per feature (`learnable=("total_count",)`, usual for genes). The standard member has
    mean 1 and variance 2.

    Example:
        >>> NegativeBinomial(2, rate=3.0, total_count=1.5)().variance
        tensor([9., 9.])
    """

    spec = {"rate": _RATE, "total_count": _COUNT}

    def distribution(self, rate: Tensor, total_count: Tensor) -> TorchDistribution:
        """Return NegativeBinomial(rate, total_count), independent over features."""
        return own.NegativeBinomial(rate, total_count).to_event(len(self.features))


@register
class ZeroInflatedNegativeBinomial(_Counts):
    """A likelihood for counts with zeros on top: p(x) = g [x = 0] + (1 - g) NB(x; m, r).

    g = sigmoid(`gate_logits`) is the probability of a zero that was put in, m = `rate` and
    r = `total_count` are those of `NegativeBinomial`. The standard member has g = 1/2.

    A low mean and a large dispersion make zeros too: whether more have to be put in is a question
    to ask of held-out data, by the log p(x) of both.

    References:
        Deep generative modeling for single-cell transcriptomics (R. Lopez, J. Regier, M. B. Cole,
        M. I. Jordan, N. Yosef, 2018)

    Example:
        >>> ZeroInflatedNegativeBinomial(2, rate=3.0)().mean
        tensor([1.5000, 1.5000])
    """

    spec = {
        "rate": _RATE,
        "total_count": _COUNT,
        "gate_logits": Parameter(constraints.real, 0.0),
    }

    def distribution(
        self, rate: Tensor, total_count: Tensor, gate_logits: Tensor
    ) -> TorchDistribution:
        """Return ZeroInflatedNegativeBinomial(...), independent over features."""
        law = own.ZeroInflatedNegativeBinomial(rate, total_count, gate_logits)
        return law.to_event(len(self.features))


class WithOffset(nn.Module):
    """A decoder of counts whose means are known up to an exposure: rate_ni = e_n rate_i(z_n).

    The offset log e_n (of a library size, a length, a time) is the last column of `y`, which
    encoder and decoder of a `VAE` are given; it multiplies the mean and passes by the network, so
    that z need not carry it. Columns of `y` before it go into the network beside z.

        decoder = fam.WithOffset(networks.MLP(2, 64), fam.NegativeBinomial(100, context=64))
        vae.model(x, y=log_exposure)    # y of shape (batch, 1)

    Exposures are best divided by their mean, so that `rate` is the count of a usual datum.

    Arguments:
        net: What comes before the family: a callable of z (and of the other columns of `y`).
        family: A likelihood of counts, with a `rate`.

    Raises:
        TypeError: If the family has no mean that an exposure could multiply.
        ValueError: When called with no more than the offset, or with one whose exponential is 0
            or infinite (the exposure in the place of its logarithm, say).

    References:
        Generalized linear models (J. A. Nelder, R. W. M. Wedderburn, 1972)

    Example:
        >>> import torch
        >>> decoder = WithOffset(nn.Identity(), Poisson(3, context=2))
        >>> z, log_exposure = torch.randn(7, 2), torch.log(torch.full((7, 1), 4.0))
        >>> ratio = decoder(torch.cat([z, log_exposure], -1)).mean / decoder.family(z).mean
        >>> torch.allclose(ratio, torch.tensor(4.0))
        True
    """

    def __init__(self, net: Callable[[Tensor], Tensor], family: Family) -> None:
        super().__init__()
        if not isinstance(family, _Counts):
            raise TypeError(
                f"WithOffset: {type(family).__name__} has no mean count for an exposure to "
                "multiply; fam.Poisson, fam.NegativeBinomial and "
                "fam.ZeroInflatedNegativeBinomial have."
            )
        self.net, self.family = net, family

    def forward(self, context: Tensor) -> TorchDistribution:
        """Return p(x|z) at an exposure.

        Arguments:
            context: z, other columns of `y` and the offset side by side, with shape
                `(*batch, D + 1)`.

        Returns:
            The family's distribution with its rates multiplied by exp(offset).

        Raises:
            ValueError: If there is nothing beside the offset, or its exponential is no exposure.
        """
        if context.shape[-1] < 2:
            raise ValueError(
                f"WithOffset received a context of shape {tuple(context.shape)}, of which the "
                "last column is the offset and nothing is left for the network. Pass the "
                "logarithm of the exposure as y=, with shape (batch, 1)."
            )
        values, offset = self.family.values(self.net(context[..., :-1])), context[..., -1]
        exposure = offset.exp().reshape(*offset.shape, *[1] * len(self.family.features))
        legal = (exposure > 0) & exposure.isfinite()
        require(legal.all(), lambda: _no_exposure(offset))
        return self.family.distribution(**{**values, "rate": values["rate"] * exposure})


def _no_exposure(offset: Tensor) -> ValueError:
    return ValueError(
        f"WithOffset: the offset, the last column of y, ranges over [{offset.min().item():g}, "
        f"{offset.max().item():g}], so that an exposure exp(offset) is 0 or infinite. It is the "
        "logarithm of the exposure: y=torch.log(exposure / exposure.mean())."
    )
