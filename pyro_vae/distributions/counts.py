"""Counts 0, 1, 2, ...: Poisson and negative binomial, by their mean, and with zeros on top.

In float32 log x! of a count of 10^6 is wrong by a nat, and torch's negative binomial, stated by
the odds of one more, has its mean in two parameters at once. Here masses are computed in float64
whatever the type of the parameters, and every distribution has a `rate`, its mean (before zeros
are put in), which is what an exposure multiplies: of a cell of which twice as many molecules were
read, of a street watched twice as long, twice as many counts are expected.
"""

from __future__ import annotations

__all__ = ["NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial"]

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.wide import OnIntegers, capped_exp, log_gamma_draw


class Poisson(OnIntegers, dist.Poisson):
    r"""The Poisson distribution, torch's law with its mass computed in float64.

    log p(x) = x log rate - rate - log x!.

    Arguments:
        rate: The mean, not negative, of shape `batch_shape`.

    Raises:
        ValueError: If validation is on and a rate is negative or NaN.

    Example:
        >>> many = torch.tensor(1e6)
        >>> round(Poisson(many).log_prob(many).item(), 4)  # -log sqrt(2 pi 10^6)
        -7.8267
    """

    def _draw(self, shape: torch.Size, rate: Tensor) -> Tensor:
        return torch.poisson(rate.expand(shape))

    def _log_density(self, value: Tensor, rate: Tensor) -> Tensor:
        return value * _kept(rate).log() - rate - torch.lgamma(value + 1)


class NegativeBinomial(OnIntegers, TorchDistribution):
    r"""A Poisson whose rate is drawn from a Gamma of mean m = `rate` and shape r = `total_count`.

    log p(x) = log Gamma(x + r) - log Gamma(r) - log x! + r log(r / (r + m)) + x log(m / (r + m)).

    The mean is m and the variance m + m^2 / r: r is torch's `total_count`, the inverse of the
    dispersion, and the Poisson distribution the limit of large r. Beside
    `torch.distributions.NegativeBinomial`, which is stated by r and the odds m / r, the mean
    stays where it is when r moves, and the mass keeps its digits however large r.

    Arguments:
        rate: The mean m, not negative, of shape `batch_shape` (broadcast with `total_count`).
        total_count: r, positive; no whole number is needed.

    Raises:
        ValueError: If validation is on and a parameter lies outside its range.

    References:
        An inquiry into the nature of frequency distributions representative of multiple
        happenings (M. Greenwood, G. U. Yule, 1920)

    Example:
        >>> d = NegativeBinomial(torch.tensor(3.0), torch.tensor(1.5))
        >>> d.mean.item(), d.variance.item()
        (3.0, 9.0)
    """

    arg_constraints: Any = {"rate": constraints.nonnegative, "total_count": constraints.positive}
    support: Any = constraints.nonnegative_integer

    def __init__(
        self,
        rate: Tensor | float,
        total_count: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.rate, self.total_count = broadcast_all(rate, total_count)
        super().__init__(self.rate.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, `rate`."""
        return self.rate

    @property
    def variance(self) -> Tensor:
        """The variance, rate + rate^2 / total_count."""
        return self.rate + self.rate.square() / self.total_count

    def _draw(self, shape: torch.Size, rate: Tensor, total_count: Tensor) -> Tensor:
        return _polya_draw(shape, rate, total_count, self._dtype())

    def _log_density(self, value: Tensor, rate: Tensor, total_count: Tensor) -> Tensor:
        return _log_polya(value, rate, total_count)


class ZeroInflatedNegativeBinomial(OnIntegers, TorchDistribution):
    r"""Zero with probability g, else a negative binomial: p(x) = g [x = 0] + (1 - g) NB(x).

    g = sigmoid(gate_logits), NB that of `NegativeBinomial(rate, total_count)`. The mean is
    (1 - g) rate.

    Arguments:
        rate: The mean of the negative binomial, not negative, of shape `batch_shape` (broadcast
            with the others).
        total_count: Its shape r, positive.
        gate_logits: The logit of g, real.

    Raises:
        ValueError: If validation is on and a parameter lies outside its range.

    References:
        Zero-inflated Poisson and binomial regression with random effects (D. B. Hall, 2000)

    Example:
        >>> three, one = torch.tensor(3.0), torch.tensor(1.0)
        >>> d = ZeroInflatedNegativeBinomial(three, one, torch.tensor(0.0))
        >>> round(d.log_prob(torch.tensor(0.0)).exp().item(), 4)  # 1/2 + 1/2 * 1/4
        0.625
    """

    arg_constraints: Any = {
        "rate": constraints.nonnegative,
        "total_count": constraints.positive,
        "gate_logits": constraints.real,
    }
    support: Any = constraints.nonnegative_integer

    def __init__(
        self,
        rate: Tensor | float,
        total_count: Tensor | float,
        gate_logits: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.rate, self.total_count, self.gate_logits = broadcast_all(
            rate, total_count, gate_logits
        )
        super().__init__(self.rate.shape, validate_args=validate_args)

    @property
    def gate(self) -> Tensor:
        """The probability g of a zero that is put in."""
        return self.gate_logits.sigmoid()

    @property
    def mean(self) -> Tensor:
        """The mean, (1 - g) rate."""
        return (-self.gate_logits).sigmoid() * self.rate

    @property
    def variance(self) -> Tensor:
        """The variance, (1 - g) (rate + rate^2 / total_count + g rate^2)."""
        spread = self.rate + self.rate.square() * (1 / self.total_count + self.gate)
        return (-self.gate_logits).sigmoid() * spread

    def _draw(
        self, shape: torch.Size, rate: Tensor, total_count: Tensor, gate_logits: Tensor
    ) -> Tensor:
        counts = _polya_draw(shape, rate, total_count, self._dtype())
        return torch.where(torch.rand_like(counts) < gate_logits.sigmoid(), 0.0, counts)

    def _log_density(
        self, value: Tensor, rate: Tensor, total_count: Tensor, gate_logits: Tensor
    ) -> Tensor:
        counted = logsigmoid(-gate_logits) + _log_polya(value, rate, total_count)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(gate_logits), counted), counted)


def _polya_draw(
    shape: torch.Size, rate: Tensor, total_count: Tensor, dtype: torch.dtype
) -> Tensor:
    """Poisson draws of Gamma draws, the latter no larger than the type of the counts holds."""
    log_gamma = log_gamma_draw(total_count, shape) + (_kept(rate) / total_count).log()
    return torch.poisson(capped_exp(log_gamma, dtype))


# what an exponential has made of a prediction far below 0 has no logarithm
_LEAST_RATE = 1e-150


def _kept(rate: Tensor) -> Tensor:
    """Rates of which x log(rate) and its slope are finite; below, with gradient 0."""
    return rate.clamp(min=_LEAST_RATE)


# from here on log Gamma is given by Stirling's series, to the last digit
_LARGE = 50.0


def _log_polya(x: Tensor, rate: Tensor, total_count: Tensor) -> Tensor:
    """The log mass in float64; each branch sees arguments of its own alone."""
    rate, large = _kept(rate), total_count > _LARGE
    r = torch.where(large, 1.0, total_count)
    rising = torch.lgamma(x + r) - torch.lgamma(r)
    near = rising - r * torch.log1p(rate / r) + x * (rate.log() - (r + rate).log())
    # log Gamma(x + r) - log Gamma(r) without the two, which for large r are nearly equal
    r = torch.where(large, total_count, _LARGE)
    shape = (r - 0.5) * torch.log1p(x / r) - r * torch.log1p(rate / r)
    scale = x * (rate.log() + torch.log1p((x - rate) / (r + rate))) - x
    far = shape + scale + _stirling(x + r) - _stirling(r)
    return torch.where(large, far, near) - torch.lgamma(x + 1)


def _stirling(r: Tensor) -> Tensor:
    """What log Gamma(r), r at least 50, is above (r - 1/2) log r - r + log sqrt(2 pi)."""
    terms = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680)
    return sum((c / r ** (2 * n + 1) for n, c in enumerate(terms)), torch.zeros_like(r))
