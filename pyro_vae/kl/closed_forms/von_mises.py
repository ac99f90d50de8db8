"""The von Mises distribution on the circle, log q(x) = k cos(x - m) - log(2 pi I_0(k)).

With A = I_1 / I_0, the mean of cos(x - m), and D the angle between the two means,

    KL(q || p) = log I_0(k_p) - log I_0(k_q) - (k_p - k_q) A(k_q) + 2 k_p A(k_q) sin^2(D / 2).

The first three terms are what log I_0 leaves beyond its tangent, so they are the integral of
(k_p - k) A'(k) from k_q to k_p: taken over log k by Gauss's rule they do not cancel where k_p is
near k_q. Elsewhere they are computed as they stand.

Source: Directional statistics (K. V. Mardia, P. E. Jupp, 2000) for the density and A.
"""

from __future__ import annotations

__all__ = ["mean_cosine", "mean_cosine_slope"]

import math

import numpy as np
import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae.kl.remainders import log_ratio
from pyro_vae.kl.table import register

_FAR = 25.0
# I_0(k) = e^k / sqrt(2 pi k) sum_j c_j k^-j
_COEFFICIENTS = [1.0]
for _j in range(1, 30):
    _COEFFICIENTS.append(_COEFFICIENTS[-1] * (2 * _j - 1) ** 2 / (8 * _j))

_NODES, _WEIGHTS = (torch.tensor(_v) for _v in np.polynomial.legendre.leggauss(64))


def mean_cosine(k: Tensor) -> Tensor:
    """A(k) = I_1(k) / I_0(k), the mean of cos(x - m).

    Arguments:
        k: The concentration, positive, float64.

    Returns:
        The mean, between 0 and 1.

    Example:
        >>> round(mean_cosine(torch.tensor(1.0, dtype=torch.float64)).item(), 12)
        0.446389965897
    """
    far, near, _ = _split(k)
    large = 1 - _shortfall(torch.where(far, k, _FAR))
    return torch.where(far, large, torch.special.i1e(near) / torch.special.i0e(near))


def mean_cosine_slope(k: Tensor) -> Tensor:
    """A'(k) = 1 - A^2 - A / k, the variance of cos(x - m).

    For large k, where this cancels to 1 / (2 k^2), from the asymptotic series of log I_0.

    Arguments:
        k: The concentration, positive, float64.

    Returns:
        The derivative of `mean_cosine`.

    Example:
        >>> k = torch.tensor(1e6, dtype=torch.float64)
        >>> round((mean_cosine_slope(k) * 2 * k**2).item(), 5)
        1.0
    """
    far, near, y = _split(k)
    s, s1, s2 = _series(y)
    large = y**2 * (0.5 + 2 * y * s1 / s + y**2 * (s2 * s - s1**2) / s**2)
    a = torch.special.i1e(near) / torch.special.i0e(near)
    return torch.where(far, large, 1 - a**2 - a / near)


@register(td.VonMises, td.VonMises)
def _same(q: td.VonMises, p: td.VonMises) -> Tensor:
    """The remainder of log I_0 from k_q to k_p, plus 2 k_p A(k_q) sin^2(D / 2)."""
    start, end = q.concentration, p.concentration
    gap = log_ratio(end, start)
    share = ((_NODES.to(start.device) + 1) / 2).reshape(-1, *(1,) * gap.dim())
    weight = (_WEIGHTS.to(start.device) / 2).reshape(share.shape)
    k = start * (share * gap).exp()
    # k_p - k and dk, both proportional to the gap, which therefore appears squared
    rest = k * torch.expm1((1 - share) * gap)
    remainder = (weight * rest * mean_cosine_slope(k) * k).sum(0) * gap
    ratio = (torch.special.i0e(end) / torch.special.i0e(start)).log()
    plain = ratio + (end - start) * _shortfall(start)
    remainder = torch.where(gap.abs() > 1, plain, remainder)
    turn = 2 * torch.sin((q.loc - p.loc) / 2) ** 2
    return remainder + end * mean_cosine(start) * turn


@register(td.VonMises, td.Uniform)
def _uniform(q: td.VonMises, p: td.Uniform) -> Tensor:
    """log(high - low) - log(2 pi) + k A(k) - log I_0(k); the circle is [-pi, pi]."""
    k = q.concentration
    log_i0 = torch.special.i0e(k).log() + k
    width = (p.high - p.low).log() - math.log(2 * math.pi)
    return width + k * mean_cosine(k) - log_i0


@register(td.Uniform, td.VonMises)
def _arc(q: td.Uniform, p: td.VonMises) -> Tensor:
    """log(2 pi I_0(k)) - log(high - low) - k times the mean of cos(x - m) over the arc."""
    k, middle, half = p.concentration, (q.low + q.high) / 2, (q.high - q.low) / 2
    # sinc keeps its digits where the arc is short
    cosine = torch.cos(middle - p.loc) * torch.sinc(half / math.pi)
    log_i0 = torch.special.i0e(k).log()
    return math.log(math.pi) + log_i0 + k * (1 - cosine) - half.log()


def _shortfall(k: Tensor) -> Tensor:
    """1 - A(k)."""
    far, near, y = _split(k)
    s, s1, _ = _series(y)
    large = y / 2 + y**2 * s1 / s
    return torch.where(far, large, 1 - torch.special.i1e(near) / torch.special.i0e(near))


def _split(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which k are large, the others (1 in their place), and 1 / k of those (0 in their place)."""
    far = k > _FAR
    return far, torch.where(far, 1.0, k), torch.where(far, 1 / torch.where(far, k, 1.0), 0.0)


def _series(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of c_j y^j and its first two derivatives, by Horner's rule."""
    s, s1, s2 = (torch.zeros_like(y) for _ in range(3))
    for c in reversed(_COEFFICIENTS):
        s2 = s2 * y + 2 * s1
        s1 = s1 * y + s
        s = s * y + c
    return s, s1, s2
