"""The continuous Bernoulli as what it is: an exponential family of one parameter.

log q(x) = eta x - A(eta) on [0, 1] with A(eta) = log((exp(eta) - 1) / eta), eta the logits, hence
KL(q || p) = A(eta_p) - A(eta_q) - (eta_p - eta_q) A'(eta_q), the Bregman divergence of A.

torch switches to a series in the *probability* near 1/2 and loses the rest of the range to
cancellation (its KL of logits -500 against 20 is negative); in terms of eta, A is an even function
plus eta / 2 and everything is smooth. Where the two logits are not far apart the divergence is

    (eta_p - eta_q)^2 times the integral of (1 - s) A''(eta_q + s (eta_p - eta_q)) over [0, 1],

by 12 Gauss-Legendre nodes: A'' is positive and has no singularity nearer than 2 pi i.

The continuous Bernoulli (G. Loaiza-Ganem, J. P. Cunningham, 2019).
"""

from __future__ import annotations

__all__ = ["log_partition"]

from functools import cache

import numpy as np
import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae.distributions.continuous_bernoulli import log_partition
from pyro_vae.kl.table import register


@register(td.ContinuousBernoulli, td.ContinuousBernoulli)
def _same(q: td.ContinuousBernoulli, p: td.ContinuousBernoulli) -> Tensor:
    """A(eta_p) - A(eta_q) - (eta_p - eta_q) A'(eta_q), the Bregman divergence."""
    eta, prior = torch.broadcast_tensors(q.logits, p.logits)
    near = (prior - eta).abs() < (eta.abs() / 2).clamp(min=4.0)
    start, step = torch.where(near, eta, 0.0), torch.where(near, prior - eta, 0.0)
    nodes, weights = (eta.new_tensor(v) for v in _gauss_legendre(12))
    between = start.unsqueeze(-1) + nodes * step.unsqueeze(-1)
    curvature = (weights * log_partition(between, derivative=2)).sum(-1)
    slope = log_partition(eta, derivative=1)
    far = log_partition(prior) - log_partition(eta) - (prior - eta) * slope
    return torch.where(near, step**2 * curvature, far)


@cache
def _gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of the integral over [0, 1] with the weight 1 - s."""
    x, w = np.polynomial.legendre.leggauss(count)
    return list((1 + x) / 2), list(w * (1 - x) / 4)


@register(td.Uniform, td.ContinuousBernoulli)
def _uniform(q: td.Uniform, p: td.ContinuousBernoulli) -> Tensor:
    """-log(high - low) + A(eta_p) - eta_p (low + high) / 2."""
    return log_partition(p.logits) - p.logits * (q.low + q.high) / 2 - (q.high - q.low).log()
