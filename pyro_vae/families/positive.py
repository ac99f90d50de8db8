"""Families on the positive half-line, independent over features: Gamma, Weibull and others."""

from __future__ import annotations

__all__ = [
    "Exponential",
    "Gamma",
    "HalfCauchy",
    "HalfNormal",
    "InverseGamma",
    "LogNormal",
    "Weibull",
]

from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions as own
from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import BEFORE_0, TO_INFINITY, Parameter

_SCALE = Parameter(constraints.positive, 1.0)
_RATE = Parameter(constraints.softplus_positive, 1.0)


@register
class Gamma(Family):
    """Independent Gammas: p(z_i) proportional to z_i^(concentration - 1) exp(-rate z_i).

    The standard member is Gamma(1, 1), the exponential distribution of mean 1.

    Example:
        >>> Gamma(2, concentration=3.0)().mean
        tensor([3., 3.])
    """

    spec = {
        "concentration": Parameter(constraints.softplus_positive, 1.0, admissible=BEFORE_0),
        "rate": _RATE,
    }

    def distribution(self, concentration: Tensor, rate: Tensor) -> TorchDistribution:
        """Return Gamma(concentration, rate), independent over features."""
        return own.Gamma(concentration, rate).to_event(len(self.features))


@register
class InverseGamma(Family):
    """Independent inverse Gammas: p(z_i) proportional to z_i^-(c + 1) exp(-rate / z_i).

    c = `concentration`: moments below order c are finite. The standard member, InverseGamma(3, 2),
    has mean 1 and variance 1. As a prior it allows next to nothing near 0: the KL is finite only
    for guides whose density vanishes at 0, such as a Gamma of concentration above 1.

    Example:
        >>> InverseGamma(2)().mean
        tensor([1., 1.])
    """

    spec = {
        "concentration": Parameter(constraints.softplus_positive, 3.0, admissible=TO_INFINITY),
        "rate": Parameter(constraints.softplus_positive, 2.0),
    }

    def distribution(self, concentration: Tensor, rate: Tensor) -> TorchDistribution:
        """Return InverseGamma(concentration, rate), independent over features."""
        return own.InverseGamma(concentration, rate).to_event(len(self.features))


@register
class Weibull(Family):
    """Independent Weibulls: p(z_i) proportional to t^(k - 1) exp(-t^k), t = z_i / scale_i.

    k = `concentration`: (z / scale)^k is a standard exponential. The standard member has scale 1
    and k = 2, so a density that vanishes at 0.

    Example:
        >>> Weibull(2, concentration=1.0, scale=3.0)().mean
        tensor([3., 3.])
    """

    spec = {
        "scale": _SCALE,
        "concentration": Parameter(constraints.softplus_positive, 2.0, admissible=BEFORE_0),
    }

    def distribution(self, scale: Tensor, concentration: Tensor) -> TorchDistribution:
        """Return Weibull(scale, concentration), independent over features."""
        return own.Weibull(scale, concentration).to_event(len(self.features))


@register
class LogNormal(Family):
    """Independent log-normals: log z_i ~ Normal(loc_i, scale_i); standard member loc 0, scale 1.

    Example:
        >>> LogNormal(2, scale=0.5)().mean  # exp(loc + scale^2 / 2)
        tensor([1.1331, 1.1331])
    """

    spec = {"loc": Parameter(constraints.real, 0.0), "scale": _SCALE}

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return LogNormal(loc, scale), independent over features."""
        return own.LogNormal(loc, scale).to_event(len(self.features))


@register
class Exponential(Family):
    """Independent exponentials: log p(z) = sum_i log rate_i - rate_i z_i; standard mean 1.

    Example:
        >>> Exponential(2, rate=4.0)().mean
        tensor([0.2500, 0.2500])
    """

    spec = {"rate": _RATE}

    def distribution(self, rate: Tensor) -> TorchDistribution:
        """Return Exponential(rate), independent over features."""
        return own.Exponential(rate).to_event(len(self.features))


@register
class HalfNormal(Family):
    """Independent half-normals: log p(z) = sum_i log 2 + log N(z_i; 0, scale_i^2), z_i > 0.

    Example:
        >>> HalfNormal(2)().mean  # sqrt(2 / pi)
        tensor([0.7979, 0.7979])
    """

    spec = {"scale": _SCALE}

    def distribution(self, scale: Tensor) -> TorchDistribution:
        """Return HalfNormal(scale), independent over features."""
        return own.HalfNormal(scale).to_event(len(self.features))


@register
class HalfCauchy(Family):
    """Independent half-Cauchys: p(z_i) = 2 / (pi scale_i (1 + z_i^2 / scale_i^2)), z_i > 0.

    `scale` is the median; there is no mean. As a guide its KL is infinite beside most priors.

    Example:
        >>> import torch
        >>> round(HalfCauchy(1, scale=3.0)().base_dist.cdf(torch.tensor(3.0)).item(), 6)
        0.5
    """

    spec = {"scale": _SCALE}

    def distribution(self, scale: Tensor) -> TorchDistribution:
        """Return HalfCauchy(scale), independent over features."""
        return own.HalfCauchy(scale).to_event(len(self.features))
