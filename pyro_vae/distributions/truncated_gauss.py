"""Integrals and quantiles of a Gauss curve on an interval, however far out in its tail.

Everything is counted from the mode of the truncated curve, the point x_m of [low, high] nearest
to loc, in units of scale: with m = (x_m - loc) / scale and d = (x - x_m) / scale,

    exp(-((x - loc) / scale)^2 / 2) = exp(-m^2 / 2) exp(-d (m + d / 2)),

so that nothing cancels, be the interval 1e12 scales from loc or as narrow as 1e-6 of one. What is
left is integrated by Gauss-Legendre nodes on the part of the interval where d (m + d / 2) < 40.

A quantile with its interval in a tail (m beyond 0, by symmetry) is found by Newton's method from

    s (m + s / 2) + log M(m) - log M(m + s) = -log(1 - c K(w) / M(m)),

where M(x) = (1 - Phi(x)) / phi(x) is Mills' ratio, K(w) the integral over the interval and c the
share of the mass between mode and quantile: the left-hand side is convex in s, and its solution
without the ratios lies beyond the root, so every step improves on the last.
"""

from __future__ import annotations

__all__ = [
    "Moments",
    "Quantile",
    "Window",
    "log_mass",
    "log_share",
    "moments",
    "quantile",
    "window",
]

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_NODES = 40
_DROP = 80.0  # twice the exponent at which the curve is nothing
_STEPS = 7
_SQRT_2PI = math.sqrt(2 * math.pi)


class Window(NamedTuple):
    """An interval in units of scale, seen from its point nearest to loc.

    Arguments:
        place: That point, x_m; constant, for nothing depends on its choice.
        mode: m = (x_m - loc) / scale: 0 if loc lies inside.
        below: (low - x_m) / scale, not positive.
        above: (high - x_m) / scale, not negative.
    """

    place: Tensor
    mode: Tensor
    below: Tensor
    above: Tensor


class Moments(NamedTuple):
    """Integrals over a window.

    Arguments:
        log_mass: The logarithm of the integral of exp(-d (m + d / 2)).
        mean: E d.
        variance: Var d.
        drop: E d (m + d / 2).
    """

    log_mass: Tensor
    mean: Tensor
    variance: Tensor
    drop: Tensor


class Quantile(NamedTuple):
    """A quantile and its derivatives, all constants.

    Arguments:
        offset: d, in units of scale.
        by_loc: dx / dloc.
        by_scale: dx / dscale.
        by_low: dx / dlow.
        by_high: dx / dhigh.
    """

    offset: Tensor
    by_loc: Tensor
    by_scale: Tensor
    by_low: Tensor
    by_high: Tensor


def window(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Window:
    """Return the window of an interval, all arguments in float64.

    Arguments:
        loc: Where the curve has its peak.
        scale: Its width.
        low: The lower end of the interval.
        high: The upper end.

    Returns:
        The window.

    Example:
        >>> zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> window(-3 * one, one, zero, one).mode.item()
        3.0
    """
    place = torch.minimum(torch.maximum(loc, low), high).detach()
    return Window(place, (place - loc) / scale, (low - place) / scale, (high - place) / scale)


def log_mass(w: Window) -> Tensor:
    """Return the logarithm of the integral of exp(-d (m + d / 2)) over the window.

    Arguments:
        w: The window.

    Returns:
        The logarithm, differentiable.

    Example:
        >>> zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> round(log_mass(window(zero, one, -one, one)).exp().item() / 2.5066282746, 9)
        0.682689492
    """
    d, weights = _nodes(*_cut(w))
    return (weights * (-d * (w.mode + d / 2)).exp()).sum(0).log()


def moments(w: Window) -> Moments:
    """Return mass and moments of exp(-d (m + d / 2)) over the window.

    Arguments:
        w: The window.

    Returns:
        The moments, differentiable.

    Example:
        >>> zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> round(moments(window(zero, one, -one, one)).variance.item(), 9)
        0.291125095
    """
    d, weights = _nodes(*_cut(w))
    drop = d * (w.mode + d / 2)
    density = weights * (-drop).exp()
    mass = density.sum(0)
    mean = (density * d).sum(0) / mass
    variance = (density * (d - mean).square()).sum(0) / mass
    return Moments(mass.log(), mean, variance, (density * drop).sum(0) / mass)


def log_share(w: Window, offset: Tensor) -> Tensor:
    """Return the logarithm of the integral of exp(-d (m + d / 2)) up to an offset.

    Arguments:
        w: The window.
        offset: d, within the window.

    Returns:
        The logarithm, -inf at the lower end.

    Example:
        >>> zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> (log_share(window(zero, one, -one, one), zero).exp() / 2.5066282746 ).item()
        0.3413447460...
    """
    low, high = _cut(w)
    d, weights = _nodes(low, torch.minimum(torch.maximum(offset, low), high))
    return (weights * (-d * (w.mode + d / 2)).exp()).sum(0).log()


def quantile(w: Window, share: Tensor) -> Quantile:
    """Return the place below which there is a share of the mass, without a graph.

    Arguments:
        w: The window.
        share: Between 0 and 1, in float64, of a shape to which the window broadcasts.

    Returns:
        The quantile, to about 1e-15 of scale or of the width of the tail it lies in, and its
        derivatives.

    Example:
        >>> zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> far = quantile(window(-1e9 * one, one, zero, one), one / 2)
        >>> round(far.offset.item() * 1e9, 9)  # exponential, there: log 2
        0.693147181
    """
    with torch.no_grad():
        mass = log_mass(w).exp()
        given = torch.broadcast_tensors(w.mode, w.below, w.above, share, mass)
        pairs = zip(_across(*given), _in_tail(*given), strict=True)
        return Quantile(*(torch.where(given[0] == 0, *pair) for pair in pairs))


def _across(mode: Tensor, below: Tensor, above: Tensor, u: Tensor, mass: Tensor) -> Quantile:
    """With loc inside: by the normal quantile, from the side on which there is less."""
    inside = mode == 0
    a, b = torch.where(inside, below, -1.0), torch.where(inside, above, 1.0)
    total = torch.where(inside, mass, 1.0) / _SQRT_2PI
    left = torch.special.ndtr(a) + u * total
    right = torch.special.ndtr(-b) + (1 - u) * total
    z = torch.where(left < right, torch.special.ndtri(left), -torch.special.ndtri(right))
    z = torch.minimum(torch.maximum(z, a), b)
    by_low = (1 - u) * ((z - a) * (z + a) / 2).exp()
    by_high = u * ((z - b) * (z + b) / 2).exp()
    by_scale = z - by_low * a - by_high * b
    return Quantile(z, 1 - by_low - by_high, by_scale, by_low, by_high)


def _in_tail(mode: Tensor, below: Tensor, above: Tensor, u: Tensor, mass: Tensor) -> Quantile:
    """With loc outside: by Newton's method, counted from the end that is nearer to it."""
    outside, up = mode != 0, mode > 0
    m = torch.where(outside, mode.abs(), 1.0)
    width = torch.where(outside, above - below, 1.0)
    c = torch.where(up, u, 1 - u)
    part = (c * torch.where(outside, mass, 0.5) / _mills(m)).clamp(max=1 - 1e-16)
    level = -torch.log1p(-part)
    s, log_mills = 2 * level / (m + (m * m + 2 * level).sqrt()), _mills(m).log()
    for _ in range(_STEPS):
        ratio = _mills(m + s)
        s = s - (s * (m + s / 2) + log_mills - ratio.log() - level) * ratio
    s = torch.minimum(s.clamp(min=0.0), width)
    # the derivatives to both ends, in units of the distance from the nearer one
    near = (1 - c) * (s * (m + s / 2)).exp()
    far = c * (-(width - s) * (m + (width + s) / 2)).exp()
    # 1 - near - far, without the cancellation
    by_loc = _lag(m, s) - near * _lag(m, torch.zeros_like(s)) - far * _lag(m, width)
    by_scale = s + m * by_loc - far * width
    sign = torch.where(up, 1.0, -1.0)
    ends = torch.where(up, near, far), torch.where(up, far, near)
    return Quantile(sign * s, by_loc, sign * by_scale, *ends)


def _lag(m: Tensor, s: Tensor) -> Tensor:
    """The integral of t exp(-t (m + t / 2)) beyond s, in units of exp(-s (m + s / 2))."""
    x = m + s
    large = x > 20
    far = torch.where(large, x, 20.0).reciprocal().square()
    # 1 - x M(x) = 1/x^2 - 3/x^4 + 15/x^6 - ...
    series, term = torch.zeros_like(far), torch.ones_like(far)
    for k in range(12):
        term = -term * (2 * k + 1) * far
        series = series - term
    near = torch.where(large, 1.0, x)
    return torch.where(large, series, 1 - near * _mills(near)) + s * _mills(x)


def _mills(x: Tensor) -> Tensor:
    """(1 - Phi(x)) / phi(x), x not negative."""
    return math.sqrt(math.pi / 2) * torch.special.erfcx(x / math.sqrt(2))


def _cut(w: Window) -> tuple[Tensor, Tensor]:
    """The part of the window where the curve is not negligible."""
    m = w.mode.detach().abs()
    reach = _DROP / (m + (m * m + _DROP).sqrt())
    return torch.maximum(w.below, -reach), torch.minimum(w.above, reach)


def _nodes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    x, w = (
        torch.as_tensor(r, device=low.device).reshape(-1, *(1,) * high.dim()) for r in _legendre()
    )
    half = (high - low) / 2
    return (high + low) / 2 + half * x, half * w


@lru_cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    x, w = np.polynomial.legendre.leggauss(_NODES)
    return x, w
