"""Families on grey levels 0 ... L - 1, the whole numbers in which images are stored."""

from __future__ import annotations

__all__ = ["DiscretizedLogistic", "DiscretizedLogisticMixture"]

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyro_vae import distributions as own
from pyro_vae.families.family import Family, Role, register
from pyro_vae.families.parameters import Parameter
from pyro_vae.networks import Rescale


class _Grey(Family):
    """A likelihood of the whole numbers 0 ... levels - 1."""

    roles: ClassVar[frozenset[Role]] = frozenset({"likelihood"})

    levels: int

    def __init__(
        self,
        features: int | Sequence[int],
        context: int = 0,
        *,
        levels: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(features, context, levels=levels, **options)
        if levels < 2:
            raise ValueError(
                f"{type(self).__name__}: levels must be at least 2, black and white, not {levels}."
            )

    def scaling(self) -> tuple[nn.Module, ...]:
        """Return x / (levels - 1)."""
        return (Rescale(scale=self.levels - 1),)


@register
class DiscretizedLogistic(_Grey):
    """A likelihood for grey levels: logistic variables, rounded to 0 ... levels - 1.

    log p(x) = sum_i log[s((x_i + 1/2 - m_i) / t_i) - s((x_i - 1/2 - m_i) / t_i)], s the logistic
    function, m = (levels - 1) loc and t = (levels - 1) scale; the first and the last level hold
    the tails. It is a mass on the levels as they are stored, so that bits per pixel are
    -log p(x) / (D log 2), and can be compared between models.

    Data are the levels themselves, 0 to 255 (not divided by 255), while `loc` and `scale` are in
    units of the range: loc = 0 is black, 1 is white. `levels` is 256 unless given. An encoder is
    best shown numbers of the size of 1: `nn.Sequential(networks.Rescale(scale=255), ...)`.

    Arguments:
        features: The event shape.
        context: As for every family.
        levels: The number of levels, at least 2.
        **options: As for every family.

    Raises:
        ValueError: If there are fewer than two levels, and as for every family.

    References:
        PixelCNN++: improving the PixelCNN with discretized logistic mixture likelihood and other
        modifications (T. Salimans, A. Karpathy, X. Chen, D. P. Kingma, 2017)

    Example:
        >>> import torch
        >>> d = DiscretizedLogistic(1, levels=17)()
        >>> bool((d.log_prob(torch.arange(17.0)[:, None]).exp().sum() - 1).abs() < 1e-6)
        True
    """

    spec = {
        "loc": Parameter(constraints.real, 0.5),
        "scale": Parameter(constraints.positive, 0.2),
    }
    options = ("levels",)
    example_options = {"levels": 256}

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return DiscretizedLogistic(loc, scale), independent over features."""
        law = own.DiscretizedLogistic(loc, scale, self.levels)
        return law.to_event(len(self.features))


def _components(family: Family) -> tuple[int, ...]:
    count = getattr(family, "logistics")  # noqa: B009 (an option, set by name)
    if count < 1:
        raise ValueError(f"{type(family).__name__}: logistics must be at least 1, not {count}.")
    return *family.features, count


def _spread(shape: tuple[int, ...]) -> Tensor:
    """Places that divide the range evenly: components that were alike would stay so."""
    count = shape[-1]
    return ((torch.arange(count) + 0.5) / count).expand(shape).clone()


@register
class DiscretizedLogisticMixture(_Grey):
    """A likelihood for grey levels of several humps: for each feature a mixture of its own.

    log p(x) = sum_i log sum_k softmax(logits_i)_k DL(x_i; loc_ik, scale_ik), DL the mass of
    `DiscretizedLogistic`: a pixel that may be black or white, but hardly grey. `logistics` is K;
    all parameters have shape `(*features, K)`. Features are independent given z, each with a
    choice of its own, as in PixelCNN++ and its kin; one choice for all features is
    `Mixture(family=DiscretizedLogistic)`.

    Arguments:
        features: The event shape.
        context: As for every family.
        levels: The number of levels, at least 2.
        **options: `logistics`, and as for every family.

    Raises:
        ValueError: If there are fewer than two levels or no logistic, and as for every family.

    References:
        PixelCNN++: improving the PixelCNN with discretized logistic mixture likelihood and other
        modifications (T. Salimans, A. Karpathy, X. Chen, D. P. Kingma, 2017)

    Example:
        >>> d = DiscretizedLogisticMixture(1, logistics=2, loc=[0.0, 1.0], scale=0.01)()
        >>> d.log_prob(torch.tensor([[0.0], [128.0], [255.0]])).exp() > 0.2
        tensor([ True, False,  True])
    """

    spec = {
        "logits": Parameter(constraints.real, 0.0, shape=_components),
        "loc": Parameter(constraints.real, 1.0, shape=_components, pattern=_spread),
        "scale": Parameter(constraints.positive, 0.1, shape=_components),
    }
    options = ("logistics", "levels")
    example_options = {"logistics": 3, "levels": 256}

    def distribution(self, logits: Tensor, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return a mixture of K DiscretizedLogistics for each feature."""
        each = own.DiscretizedLogistic(loc, scale, self.levels)
        choice: Any = dist.Categorical(logits=logits)
        return own.MixtureSameFamily(choice, each).to_event(len(self.features))

    def _shown(self, value: Tensor) -> str:
        """The range of a parameter, for components differ."""
        low, high = value.min().item(), value.max().item()
        return f"{low:g}" if low == high else f"{low:.3g} to {high:.3g}"
