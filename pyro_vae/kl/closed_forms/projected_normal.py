"""The projected normal distribution on the sphere of R^m: its entropy and its mean.

The direction u of x ~ N(c, I) depends on the angle to c alone. With the part of x along c in
|c| +- 9 and the length of the rest in sqrt(m - 1) +- 9, but for 1e-18 of the mass, the angle lies
between those of the corners of this box, where Gauss's rule integrates

    KL(q || uniform) = E log p(u) + log |S|   and   E u = c R(|c|) / |c|,   R = E cos.

Against a von Mises-Fisher distribution the KL needs no more than these. The uniform distribution
against a projected normal is one angle too, on whose far side log p bends within 1 / |c| of the
equator: the rule is stretched there. For two axes (another projected normal, a power spherical) a
second angle enters, and the KL is not exact here.

Source: The general projected normal distribution of arbitrary dimension: modeling and Bayesian
inference (D. Hernandez-Stumpfhauser, F. J. Breidt, M. J. van der Woerd, 2017) for the density.
"""

from __future__ import annotations

__all__ = ["mean_ratio", "negentropy"]

import math

import numpy as np
import torch
from torch import Tensor

from pyro_vae.distributions import ProjectedNormal, SphericalUniform, VonMisesFisher
from pyro_vae.distributions.axial import log_area
from pyro_vae.distributions.projected_normal import log_radial
from pyro_vae.kl.table import register

_NODES, _WEIGHTS = (torch.tensor(_v) for _v in np.polynomial.legendre.leggauss(96))
_REACH = 9.0
# below this R(c) / c is its limit to rounding
_SMALL = 1e-5


def negentropy(c: Tensor, m: int) -> Tensor:
    """What the entropy of a projected normal lacks of log |S|.

    Arguments:
        c: The length of its concentration, float64.
        m: The ambient dimension, at least 2.

    Returns:
        KL(q || uniform), not negative.

    Example:
        >>> negentropy(torch.tensor(0.0, dtype=torch.float64), 5).abs().item() < 1e-12
        True
    """
    angle, weight, log_p = _rule(c, m)
    return (weight * (log_p + log_area(m))).sum(0)


def mean_ratio(c: Tensor, m: int) -> Tensor:
    """R(c) / c, by which the concentration is multiplied in E u.

    Arguments:
        c: The length of the concentration, float64.
        m: The ambient dimension, at least 2.

    Returns:
        The ratio; Gamma((m + 1) / 2) / (sqrt(2) Gamma(m / 2 + 1)) at 0, 1 / c far out.

    Example:
        >>> round(mean_ratio(torch.tensor(0.0, dtype=torch.float64), 3).item(), 9)
        0.531923041
    """
    small = c < _SMALL
    far = torch.where(small, 1.0, c)
    angle, weight, _ = _rule(far, m)
    limit = math.exp(math.lgamma((m + 1) / 2) - math.lgamma(m / 2 + 1)) / math.sqrt(2)
    return torch.where(small, limit, (weight * angle.cos()).sum(0) / far)


@register(ProjectedNormal, SphericalUniform)
def _onto_uniform(q: ProjectedNormal, p: SphericalUniform) -> Tensor:
    """Log |S| - H(q)."""
    return negentropy(_length(q), q.event_shape[0]) + 0 * p.level


@register(ProjectedNormal, VonMisesFisher)
def _onto_fisher(q: ProjectedNormal, p: VonMisesFisher) -> Tensor:
    """-H(q) - log C(k) - k mu . E u."""
    c, m = _length(q), q.event_shape[0]
    along = mean_ratio(c, m) * (q.concentration * p.loc).sum(-1)
    cross = p.concentration * (1 - along) - p.log_top()
    return negentropy(c, m) - log_area(m) + cross


@register(SphericalUniform, ProjectedNormal)
def _from_uniform(q: SphericalUniform, p: ProjectedNormal) -> Tensor:
    """-log |S| - E log p."""
    c, m = _length(p), p.event_shape[0]
    with torch.no_grad():
        stretch = c.clamp(min=1.0)
        rest = max(math.sqrt(m - 1) - _REACH, 0.0)
        end = (stretch * math.atan2(_REACH, rest)).asinh()
        nodes, weights = _gauss(c)
        # the angle beyond the equator
        beyond = (end * nodes).sinh() / stretch
        speed = (end * nodes).cosh() * end / stretch
        ring = log_area(m - 1) - log_area(m) + (m - 2) * beyond.cos().log()
        weight = weights * speed * ring.exp()
    log_p = _log_density(math.pi / 2 + beyond, c, m)
    return -log_area(m) - (weight * log_p).sum(0) + 0 * q.level


def _length(d: ProjectedNormal) -> Tensor:
    """|c|, with gradient 0 at 0, where all forms are even in c."""
    return (d.concentration.square().sum(-1) + 1e-300).sqrt()


def _gauss(like: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss's rule on [-1, 1], of shape (n, *batch)."""
    shape = (-1, *(1,) * like.dim())
    return _NODES.to(like.device).reshape(shape), _WEIGHTS.to(like.device).reshape(shape)


def _log_density(angle: Tensor, c: Tensor, m: int) -> Tensor:
    aside = (c * angle.sin()).square() / 2
    return log_radial(c * angle.cos(), m) - aside - m / 2 * math.log(2 * math.pi)


def _rule(c: Tensor, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Angles, weights times their density, and the log density of points, of shape (n, *batch)."""
    with torch.no_grad():
        rest = math.sqrt(m - 1)
        near = torch.full_like(c, max(rest - _REACH, 0.0))
        low = torch.atan2(near, c + _REACH)
        wide = torch.where(c > _REACH, rest + _REACH, near)
        half = (torch.atan2(wide, c - _REACH) - low) / 2
        nodes, weights = _gauss(c)
        angle = low + half * (1 + nodes)
        ring = log_area(m - 1) + (m - 2) * angle.sin().log()
    log_p = _log_density(angle, c, m)
    return angle, weights * half * (ring + log_p).exp(), log_p
