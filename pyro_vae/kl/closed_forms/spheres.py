r"""Laws on the sphere that are symmetric about an axis.

With t = mu . x for the axis mu of q, all that p asks of q is E t or nothing, but where p is power
spherical (`pyro_vae.kl.axial`).

* p uniform: E_q log q + log area.
* p von Mises-Fisher about nu: E nu . x = E[t] mu . nu.
* q uniform has every axis.

Everything is written relative to the pole: log p(x) = log_top - k (1 - nu . x), with
1 - E nu . x = (1 - E t) + E t |mu - nu|^2 / 2, which keeps its digits where both laws are narrow.
E t and log_top of the von Mises-Fisher law are integrals over the angle, without a Bessel
function, to full precision (`pyro_vae.distributions.heights`).

Source: Hyperspherical variational auto-encoders (T. R. Davidson, L. Falorsi, N. De Cao, T. Kipf,
J. M. Tomczak, 2018); The power spherical distribution (N. De Cao, W. Aziz, 2020).
"""

from __future__ import annotations

__all__: list[str] = []

import math

import torch
from torch import Tensor

from pyro_vae.distributions import PowerSpherical, SphericalUniform, VonMisesFisher
from pyro_vae.distributions.axial import log_area
from pyro_vae.kl.table import register


def _chord(q: VonMisesFisher | PowerSpherical, p: VonMisesFisher) -> Tensor:
    """|mu - nu|^2 / 2 = 1 - mu . nu."""
    return (q.loc - p.loc).square().sum(-1) / 2


@register(SphericalUniform, SphericalUniform)
def _uniforms(q: SphericalUniform, p: SphericalUniform) -> Tensor:
    """0."""
    return 0.0 * (q.level + p.level)


@register(VonMisesFisher, SphericalUniform)
def _fisher_uniform(q: VonMisesFisher, p: SphericalUniform) -> Tensor:
    """K A(k) + log C(k) + log area."""
    return log_area(p.event_shape[0]) - q.entropy() + 0.0 * p.level


@register(PowerSpherical, SphericalUniform)
def _power_uniform(q: PowerSpherical, p: SphericalUniform) -> Tensor:
    """Log N(k) + k E log(1 + t) + log area, with E log(1 + t) = log 2 + psi(b) - psi(a + b)."""
    return log_area(p.event_shape[0]) - q.entropy() + 0.0 * p.level


@register(SphericalUniform, VonMisesFisher)
def _uniform_fisher(q: SphericalUniform, p: VonMisesFisher) -> Tensor:
    """-log area - log C(k)."""
    return -log_area(q.event_shape[0]) - p.log_normalizer() + 0.0 * (q.level + p.loc.sum(-1))


@register(SphericalUniform, PowerSpherical)
def _uniform_power(q: SphericalUniform, p: PowerSpherical) -> Tensor:
    """-log area - log N(k) - k (log 2 + psi(a) - psi(2 a)), a = (m - 1) / 2."""
    a = torch.tensor((q.event_shape[0] - 1) / 2, dtype=torch.float64)
    mean_log = (torch.digamma(a) - torch.digamma(2 * a)).item() + math.log(2)
    value = -log_area(q.event_shape[0]) - p.log_normalizer() - p.concentration * mean_log
    return value + 0.0 * (q.level + p.loc.sum(-1))


@register(VonMisesFisher, VonMisesFisher)
def _fishers(q: VonMisesFisher, p: VonMisesFisher) -> Tensor:
    """A(k_q) (k_q - k_p mu . nu) + log C(k_q) - log C(k_p)."""
    rule = q.heights().rule()
    below = 2 * rule.mean(rule.h)  # 1 - A
    level = q.log_top() - p.log_top() - (q.concentration - p.concentration) * below
    return level + p.concentration * (1 - below) * _chord(q, p)


@register(PowerSpherical, VonMisesFisher)
def _power_fisher(q: PowerSpherical, p: VonMisesFisher) -> Tensor:
    """Minus the entropy of q, - log C(k_p) - k_p mu . nu (b - a) / (a + b)."""
    a, b = q.powers()
    below = 2 * a / (a + b)  # 1 - E t
    missed = below + (1 - below) * _chord(q, p)
    return p.concentration * missed - q.entropy() - p.log_top()
