r"""A law about one axis of the sphere against a power spherical law about another: one quadrature.

KL(q || p) needs E_q log(1 + nu . x). With t = mu . x, s = sqrt(1 - t^2), c = mu . nu and w a
coordinate of a point that is uniform on the sphere of one dimension less,

    nu . x = c t + sqrt(1 - c^2) s w,   p(w) proportional to (1 - w^2)^((m - 4) / 2).

w and -w are equally likely, and (1 + nu . x) for the two multiply to
(t + c)^2 + (1 - c^2) s^2 (1 - w^2). So for m = 3 the mean over w is log((1 + c t + |t + c|) / 2).
For m > 3 it is a trapezoidal sum in y, w = tanh(y / 2), on which the logarithm is smooth however
small t + c is. The sum over t ends its panels at t = -c. The error is what coarser rules in both
give otherwise. On the circle, m = 2, the mean is log |t + c|, which no such sum can be
differentiated through; there the pair is sampled.
"""

from __future__ import annotations

__all__: list[str] = []

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions import PowerSpherical, VonMisesFisher
from pyro_vae.distributions.axial import Axial
from pyro_vae.kl.parameters import prepared
from pyro_vae.kl.plan import Plan, broadcast, describe, reduction
from pyro_vae.kl.table import same_class

_RULES = ((96, 80), (72, 60))


@reduction
def _about_axes(q: Any, p: Any) -> Plan | None:
    """Axial laws against power spherical: E_q log(1 + nu . x) is a sum over two angles."""
    known = same_class(q, VonMisesFisher) or same_class(q, PowerSpherical)
    if not known or not same_class(p, PowerSpherical) or q.event_shape[0] == 2:
        return None
    batch = broadcast(q, p)

    def total(rule: tuple[int, int]) -> Tensor:
        guide: Any = prepared(q, batch, None)
        prior: Any = prepared(p, batch, None)
        level = -guide.entropy() - prior.log_top()
        return (level - prior.concentration * _mean_log(guide, prior, *rule)).expand(batch)

    def error() -> Tensor:
        with torch.no_grad():
            return (total(_RULES[0]) - total(_RULES[1])).abs()

    how = f"quadrature of KL({describe(q)} || {describe(p)}) over two angles"
    return Plan(
        "quadrature", "pyro_vae", batch, None, lambda: total(_RULES[0]), lambda: "", how, error
    )


def _mean_log(q: Axial, p: PowerSpherical, heights: int, across: int) -> Tensor:
    """E_q log((1 + nu . x) / 2)."""
    dim = q.event_shape[0]
    miss = (q.loc - p.loc).square().sum(-1) / 4  # (1 - c) / 2
    rule = q.heights().rule(heights, (1 - miss).detach().clamp(0, 1))
    past = rule.rest - miss  # (t + c) / 2
    if dim == 3:
        mean = torch.where(past > 0, rule.rest * (1 - miss), rule.h * miss)
        return rule.mean(mean.clamp(min=1e-300).log())
    cross = 4 * rule.h * rule.rest * miss * (1 - miss)
    narrow, weight = (t.reshape(-1, *(1,) * past.dim()) for t in _ring(dim, across, cross))
    product = (past.square() + cross * narrow).clamp(min=1e-300)
    return rule.mean((weight * product.log()).sum(0) / 2)


def _ring(dim: int, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """1 - w^2 at the nodes of a rule for w > 0, and weights of sum 1."""
    # where cosh(y / 2)^(2 - m) has fallen to e^-36
    reach = 2 * math.acosh(math.exp(36 / (dim - 2)))
    y = torch.linspace(0, reach, count, dtype=like.dtype, device=like.device)
    weight = torch.cosh(y / 2) ** (2 - dim)
    weight[0] = weight[0] / 2
    return torch.cosh(y / 2) ** -2, weight / weight.sum()
