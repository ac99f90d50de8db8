"""The row of Uniform(low, high) in the statistics table.

On the half-line log x is log(high) less a variable of density e^-s, s in [0, L], cut off at
L = log(high / low), and so

    E log x = log(high) - 1 + low L / w,       Var log x = 1 - L^2 low high / w^2,

with w the width. Both hold at low = 0, where L is infinite; there the derivative with respect to
low is infinite as well wherever the density of the prior is 0 or infinite, and is given as that at
the smallest double, a large number of the right sign.
"""

from __future__ import annotations

__all__: list[str] = []

import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae.kl.remainders import exp_remainder, log_ratio, sinh_remainder
from pyro_vae.kl.statistics import Statistics, row

_TINY = torch.finfo(torch.float64).tiny


@row(td.Uniform)
class _Uniform(Statistics):
    """Uniform(low, high)."""

    @property
    def width(self) -> Tensor:
        return self.q.high - self.q.low

    def entropy(self) -> Tensor:
        return self.width.log()

    def mean(self) -> Tensor:
        return (self.q.low + self.q.high) / 2

    def variance(self) -> Tensor:
        return self.width**2 / 12

    def abs_deviation(self, a: Tensor) -> Tensor:
        # the distance to the interval, and what lies on either side of its nearest point
        inside = torch.where(
            a < self.q.low, self.q.low, torch.where(a > self.q.high, self.q.high, a)
        )
        sides = (inside - self.q.low) ** 2 + (self.q.high - inside) ** 2
        return (a - inside).abs() + sides / (2 * self.width)

    def exp_decay(self, a: Tensor, c: Tensor) -> Tensor:
        return ((a - self.q.low) / c).exp() * _mean_exp(-self.width / c)

    def log(self) -> Tensor:
        return _mean_log(self.q.low, self.q.high)

    def log_variance(self) -> Tensor:
        span = _log_span(self.q.low, self.q.high)
        # 1 - (z / sinh z)^2 with z = L / 2, which is small where the ends are close
        near = span < 1
        rest = sinh_remainder(torch.where(near, span / 2, 0.0))
        far = 1 - span**2 * self.q.low * self.q.high / self.width**2
        return torch.where(near, rest * (2 - rest), far)

    def power(self, k: Tensor, unit: Tensor) -> Tensor:
        low, high, up = self.q.low, self.q.high, k + 1
        held = low > 0
        start = torch.where(held, low, high / 2)
        span = log_ratio(high, start)
        inside = (k * (high / unit).log()).exp() * _mean_exp(-up * span) / _mean_exp(-span)
        from_zero = (high / unit) ** k * high / (torch.where(held, 1.0, up) * self.width)
        return torch.where(held, inside, from_zero)

    def logit(self) -> Tensor:
        low, high = self.q.low, self.q.high
        return _mean_log(low, high) - _mean_log(1 - high, 1 - low)


def _mean_exp(z: Tensor) -> Tensor:
    """(e^z - 1) / z, the mean of e^x over x between 0 and z."""
    near = z.abs() < 1
    small, far = torch.where(near, z, 0.0), torch.where(near, 1.0, z)
    return torch.where(near, 1 + small * exp_remainder(small), torch.expm1(far) / far)


def _log_span(low: Tensor, high: Tensor) -> Tensor:
    return log_ratio(high, low.clamp(min=_TINY))


def _mean_log(low: Tensor, high: Tensor) -> Tensor:
    return high.log() - 1 + low * _log_span(low, high) / (high - low)
