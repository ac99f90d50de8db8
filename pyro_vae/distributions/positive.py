"""Positive numbers: torch's distributions, right at extreme parameters in float32.

Parameters, moments and densities are torch's. What differs: draws are never 0 or infinite, and
neither they nor the densities nor any gradient is NaN (`pyro_vae.distributions.wide`).
"""

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

import math

import pyro.distributions as dist
import torch
import torch.distributions as td
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor

from pyro_vae.distributions.wide import (
    OnHalfLine,
    capped_exp,
    exponential,
    log1p_square,
    log_gamma_draw,
)

_LOG_2 = math.log(2)
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Gamma(OnHalfLine, dist.Gamma):
    """log p(x) = c log rate - log Gamma(c) + (c - 1) log x - rate x, c = concentration.

    Arguments:
        concentration: The shape c, positive.
        rate: The inverse scale, positive.

    Example:
        >>> Gamma(torch.tensor(1e-3), torch.tensor(1e6)).sample() > 0
        tensor(True)
    """

    def _log_draw(self, shape: Size, concentration: Tensor, rate: Tensor) -> Tensor:
        return log_gamma_draw(concentration, shape) - rate.log()

    def _log_density(self, value: Tensor, concentration: Tensor, rate: Tensor) -> Tensor:
        c = concentration
        return torch.xlogy(c, rate) - torch.lgamma(c) + torch.xlogy(c - 1, value) - rate * value


class InverseGamma(OnHalfLine, td.InverseGamma, TorchDistributionMixin):
    """log p(x) = c log rate - log Gamma(c) - (c + 1) log x - rate / x: 1 / x is a Gamma(c, rate).

    Arguments:
        concentration: The shape c, positive; moments below order c are finite.
        rate: The scale of x, the rate of 1 / x; positive.

    Example:
        >>> InverseGamma(torch.tensor(1e-3), torch.tensor(1e6)).sample().isfinite()
        tensor(True)
    """

    def _log_draw(self, shape: Size, concentration: Tensor, rate: Tensor) -> Tensor:
        return rate.log() - log_gamma_draw(concentration, shape)

    def _log_density(self, value: Tensor, concentration: Tensor, rate: Tensor) -> Tensor:
        c = concentration
        log_inverse = rate.log() - value.log()
        inverse = capped_exp(log_inverse, self._dtype())
        return c * log_inverse - torch.lgamma(c) - value.log() - inverse


class Weibull(OnHalfLine, dist.Weibull):
    """log p(x) = log k - log scale + (k - 1) log t - t^k, t = x / scale, k = concentration.

    Arguments:
        scale: The scale, positive.
        concentration: The exponent k, positive; t^k is a standard exponential.

    Example:
        >>> Weibull(torch.tensor(1.0), torch.tensor(1e-3)).sample().isfinite()
        tensor(True)
    """

    def _log_draw(self, shape: Size, scale: Tensor, concentration: Tensor) -> Tensor:
        return scale.log() + exponential(shape, scale).log() / concentration

    def _log_density(self, value: Tensor, scale: Tensor, concentration: Tensor) -> Tensor:
        log_t = value.log() - scale.log()
        power = concentration * log_t
        hazard = capped_exp(power, self._dtype())
        return concentration.log() - value.log() + power - hazard


class LogNormal(OnHalfLine, dist.LogNormal):
    """log p(x) = log N(log x; loc, scale^2) - log x.

    Arguments:
        loc: The mean of log x.
        scale: The standard deviation of log x, positive.

    Example:
        >>> LogNormal(torch.tensor(0.0), torch.tensor(1e6)).sample().isfinite()
        tensor(True)
    """

    def _log_draw(self, shape: Size, loc: Tensor, scale: Tensor) -> Tensor:
        return loc + scale * torch.randn(shape, dtype=loc.dtype, device=loc.device)

    def _log_density(self, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        log_x = value.log()
        return -0.5 * ((log_x - loc) / scale).square() - _HALF_LOG_2PI - scale.log() - log_x


class Exponential(OnHalfLine, dist.Exponential):
    """log p(x) = log rate - rate x.

    Arguments:
        rate: The inverse of the mean, positive.

    Example:
        >>> Exponential(torch.tensor(1e6)).sample() > 0
        tensor(True)
    """

    def _log_draw(self, shape: Size, rate: Tensor) -> Tensor:
        return exponential(shape, rate).log() - rate.log()

    def _log_density(self, value: Tensor, rate: Tensor) -> Tensor:
        return rate.log() - rate * value


class HalfNormal(OnHalfLine, dist.HalfNormal):
    """log p(x) = log 2 + log N(x; 0, scale^2): the size of a Normal.

    Arguments:
        scale: The standard deviation of the Normal, positive.

    Example:
        >>> HalfNormal(torch.tensor(1e-6)).sample() > 0
        tensor(True)
    """

    def _log_draw(self, shape: Size, scale: Tensor) -> Tensor:
        return scale.log() + torch.randn(shape, dtype=scale.dtype, device=scale.device).abs().log()

    def _log_density(self, value: Tensor, scale: Tensor) -> Tensor:
        return _LOG_2 - _HALF_LOG_2PI - scale.log() - 0.5 * (value / scale).square()


class HalfCauchy(OnHalfLine, dist.HalfCauchy):
    """log p(x) = log(2 / pi) - log scale - log(1 + (x / scale)^2): the size of a Cauchy.

    Arguments:
        scale: The median, positive.

    Example:
        >>> HalfCauchy(torch.tensor(1e6)).sample().isfinite()
        tensor(True)
    """

    def _log_draw(self, shape: Size, scale: Tensor) -> Tensor:
        # the tangent of a uniform angle, of which the logarithm knows both ends equally well
        half = torch.rand(shape, dtype=scale.dtype, device=scale.device) * (math.pi / 2)
        return scale.log() + half.sin().log() - half.cos().log()

    def _log_density(self, value: Tensor, scale: Tensor) -> Tensor:
        return math.log(2 / math.pi) - scale.log() - log1p_square(value / scale)
