"""The circle: the uniform, wrapped normal and von Mises distributions against each other.

A wrapped normal of scale s has the trigonometric moments E cos n(x - m) = exp(-n^2 s^2 / 2), and
its density is a theta function, of which Jacobi's product gives the Fourier series of the
logarithm. With r = exp(-s^2) and Euler's function phi(r) = prod_n (1 - r^n), n = 1, 2, ...,

    log(2 pi p(x)) = log phi(r) - 2 sum_n (-1)^n r^(n/2) cos(n (x - m)) / (n (1 - r^n)),

so that the KLs between it and the uniform distribution are

    KL(q || uniform) = log phi(r) - 2 sum_n (-1)^n r^(n (n + 1) / 2) / (n (1 - r^n)),
    KL(uniform || p) = -log phi(r).

For small s the windings of q do not overlap, and its entropy is that of the Normal; phi comes from
the modular transformation of Dedekind's eta function.

Against a wrapped normal p what is left is E_q log p. Its log density is a parabola about m that is
rounded off opposite to m, over a length of s^2 / (2 pi). Gauss's rule, on panels that end there
and where q does, gives the mean to rounding, whichever of the two is the narrower.

Source: Directional statistics (K. V. Mardia, P. E. Jupp, 2000) for the moments.
"""

from __future__ import annotations

__all__ = ["log_euler", "negentropy"]

import math

import numpy as np
import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae.distributions import CircularUniform, VonMises, WrappedNormal
from pyro_vae.distributions.circular import wrapped
from pyro_vae.kl.closed_forms.von_mises import mean_cosine
from pyro_vae.kl.table import register

# the two ends of a Normal of this scale, folded over, are 9 standard deviations off
_APART = 0.35
_TERMS = 28
_PRODUCT = 6
# how far a density, and the rounded edge of a parabola, reach in units of their lengths
_SPREADS, _LENGTHS = 12.0, 37.0
_NODES, _WEIGHTS = (torch.tensor(_v) for _v in np.polynomial.legendre.leggauss(64))


def log_euler(scale: Tensor) -> Tensor:
    """Log of Euler's function, log phi(r) = sum_n log(1 - r^n), r = exp(-scale^2).

    Arguments:
        scale: Positive, float64.

    Returns:
        The logarithm, negative.

    Example:
        >>> round(log_euler(torch.tensor(1.0, dtype=torch.float64)).item(), 12)
        -0.684328866977
    """
    square = scale.square()
    wide = square > 2 * math.pi
    n = torch.arange(1, _PRODUCT + 1, dtype=scale.dtype, device=scale.device)

    def product(rate: Tensor) -> Tensor:
        return torch.log1p(-(-n * rate.unsqueeze(-1)).exp()).sum(-1)

    large, small = torch.where(wide, square, 7.0), torch.where(wide, 6.0, square)
    turned = product(4 * math.pi**2 / small) + 0.5 * (2 * math.pi / small).log()
    turned = turned + small / 24 - math.pi**2 / (6 * small)
    return torch.where(wide, product(large), turned)


def negentropy(scale: Tensor) -> Tensor:
    """What the entropy of a wrapped normal lacks of log(2 pi).

    Arguments:
        scale: Positive, float64.

    Returns:
        KL(q || uniform), positive.

    Example:
        >>> round(negentropy(torch.tensor(1.0, dtype=torch.float64)).item(), 12)
        0.423761008681
    """
    apart = scale < _APART
    normal = 0.5 * (math.log(2 * math.pi) - 1) - torch.where(apart, scale, 1.0).log()
    some = torch.where(apart, 1.0, scale)
    n = torch.arange(1, _TERMS + 1, dtype=scale.dtype, device=scale.device)
    sign = 1 - 2 * (n % 2)
    square = some.square().unsqueeze(-1)
    waves = sign / n * (-square * n * (n + 1) / 2).exp() / torch.expm1(-n * square)
    return torch.where(apart, normal, log_euler(some) + 2 * waves.sum(-1))


def _expected_log(q: WrappedNormal | VonMises, spread: Tensor, p: WrappedNormal) -> Tensor:
    """E_q log p, q of about this standard deviation where it is narrow."""
    with torch.no_grad():
        apart = wrapped(q.loc - p.loc)
        opposite = torch.where(apart > 0, math.pi, -math.pi) - apart
        edges = _edges(spread, opposite, p.scale)
        nodes, weights = (
            v.to(apart.device).reshape(-1, *(1,) * edges.dim()) for v in (_NODES, _WEIGHTS)
        )
        half = edges.diff(dim=0) / 2
        away = (edges[:-1] + half + half * nodes).flatten(0, 1)
        weight = (weights * half).flatten(0, 1)
    x = q.loc.detach() + away
    return (weight * q.log_prob(x).exp() * p.log_prob(x)).sum(0)


def _edges(spread: Tensor, opposite: Tensor, scale: Tensor) -> Tensor:
    """The edges of four panels about the mean of q, given where the mean of p lies opposite."""
    reach = _SPREADS * spread
    round_off = (_LENGTHS * scale.square() / (2 * math.pi)).clamp(max=math.pi)
    # all the way round from there, or as far as q reaches
    first = torch.where(opposite > 0, opposite - 2 * math.pi, opposite)
    last = first + 2 * math.pi
    around = torch.stack([first, first + round_off, last - round_off, last, last])
    near = torch.stack([-reach, opposite - round_off, opposite, opposite + round_off, reach])
    return torch.where(reach < math.pi, near.clamp(-reach, reach), around)


@register(CircularUniform, CircularUniform)
def _uniforms(q: CircularUniform, p: CircularUniform) -> Tensor:
    """0."""
    return 0 * (q.level + p.level)


@register(WrappedNormal, CircularUniform)
def _winding(q: WrappedNormal, p: CircularUniform) -> Tensor:
    """log(2 pi) - H(q)."""
    return negentropy(q.scale) + 0 * (q.loc + p.level)


@register(CircularUniform, WrappedNormal)
def _unwinding(q: CircularUniform, p: WrappedNormal) -> Tensor:
    """-log phi(r), for all waves of log p have mean 0."""
    return -log_euler(p.scale) + 0 * (p.loc + q.level)


@register(td.VonMises, CircularUniform)
def _towards(q: td.VonMises, p: CircularUniform) -> Tensor:
    """K A(k) - log I_0(k)."""
    k = q.concentration
    return k * (mean_cosine(k) - 1) - torch.special.i0e(k).log() + 0 * (q.loc + p.level)


@register(CircularUniform, td.VonMises)
def _away(q: CircularUniform, p: td.VonMises) -> Tensor:
    """Log I_0(k), for cos(x - m) has mean 0."""
    k = p.concentration
    return torch.special.i0e(k).log() + k + 0 * (p.loc + q.level)


@register(WrappedNormal, td.VonMises)
def _moment(q: WrappedNormal, p: td.VonMises) -> Tensor:
    """log(2 pi) - H(q) + log I_0(k) - k exp(-s^2 / 2) cos(D), D between the two means."""
    k, shrunk = p.concentration, -torch.expm1(-q.scale.square() / 2)
    turn = 2 * ((q.loc - p.loc) / 2).sin().square()
    # 1 - exp(-s^2 / 2) cos D, which for small s and D would cancel
    fall = shrunk + (1 - shrunk) * turn
    return negentropy(q.scale) + torch.special.i0e(k).log() + k * fall


@register(td.VonMises, WrappedNormal)
def _onto_winding(q: td.VonMises, p: WrappedNormal) -> Tensor:
    """K A(k) - log(2 pi I_0(k)) - E log p."""
    k = q.concentration
    own = k * (mean_cosine(k) - 1) - torch.special.i0e(k).log() - math.log(2 * math.pi)
    guide = VonMises(q.loc, k, validate_args=False)
    return own - _expected_log(guide, k.detach().rsqrt(), p)


@register(WrappedNormal, WrappedNormal)
def _windings(q: WrappedNormal, p: WrappedNormal) -> Tensor:
    """-H(q) - E log p."""
    return negentropy(q.scale) - math.log(2 * math.pi) - _expected_log(q, q.scale.detach(), p)


@register(td.Uniform, CircularUniform)
def _arc(q: td.Uniform, p: CircularUniform) -> Tensor:
    """log(2 pi) - log(high - low)."""
    return math.log(2 * math.pi) - (q.high - q.low).log() + 0 * p.level


@register(CircularUniform, td.Uniform)
def _within(q: CircularUniform, p: td.Uniform) -> Tensor:
    """log(high - low) - log(2 pi)."""
    return (p.high - p.low).log() - math.log(2 * math.pi) + 0 * q.level


@register(WrappedNormal, td.Uniform)
def _wound_within(q: WrappedNormal, p: td.Uniform) -> Tensor:
    """log(high - low) - H(q); the circle is [-pi, pi]."""
    return (p.high - p.low).log() - math.log(2 * math.pi) + negentropy(q.scale) + 0 * q.loc
