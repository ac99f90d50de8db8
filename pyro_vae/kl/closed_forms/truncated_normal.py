"""Row and column of TruncatedNormal(loc, scale, low, high) in the statistics table.

Entropy and moments are integrals of a Gauss curve over the interval, which are computed from the
point x_m of it nearest to loc (`pyro_vae.distributions.truncated_gauss`): with d = (x - x_m) /
scale and m = (x_m - loc) / scale,

    -log p(x) = d (m + d / 2) + log scale + log mass,

which cancels nothing, however far from loc the interval lies.

Continuous univariate distributions, volume 1 (N. L. Johnson, S. Kotz, N. Balakrishnan, 1994).
"""

from __future__ import annotations

__all__: list[str] = []

from torch import Tensor

from pyro_vae.distributions import TruncatedNormal
from pyro_vae.distributions.truncated_gauss import log_mass, window
from pyro_vae.kl.statistics import Statistics, column, row


@row(TruncatedNormal)
class _TruncatedNormal(Statistics):
    """TruncatedNormal(loc, scale, low, high)."""

    def entropy(self) -> Tensor:
        return self.q.entropy()

    def mean(self) -> Tensor:
        return self.q.mean

    def variance(self) -> Tensor:
        return self.q.variance


@column(TruncatedNormal, needs=("mean", "variance"))
def _truncated_normal(p: TruncatedNormal, q: Statistics) -> Tensor:
    """E d (m + d / 2) + log scale + log mass, for q on a part of [low, high]."""
    w = window(p.loc, p.scale, p.low, p.high)
    mean = (q.mean() - w.place) / p.scale
    square = q.variance() / p.scale**2 + mean**2
    return mean * w.mode + square / 2 + p.scale.log() + log_mass(w)
