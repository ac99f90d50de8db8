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

import numpy as np
import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae.kl.table import register

# A(eta) - eta / 2 = sum_n B_2n eta^2n / (2n (2n)!), B_2n Bernoulli's numbers
_SERIES = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600, -691 / 15692092416000)
_NEAR = 0.3


def log_partition(eta: Tensor, derivative: int = 0) -> Tensor:
    """A(eta) = log((exp(eta) - 1) / eta), or its first or second derivative.

    Arguments:
        eta: The logits, in float64.
        derivative: 0, 1 (the mean) or 2 (the variance).

    Returns:
        The value, to about 1e-14 in A and A', 1e-13 in A''; differentiable everywhere.

    Example:
        >>> log_partition(torch.zeros((), dtype=torch.float64), derivative=1).item()
        0.5
    """
    near = eta.abs() < _NEAR
    # each branch is given only arguments that are its own
    s = torch.where(near, eta, torch.zeros_like(eta))
    far = torch.where(near, torch.ones_like(eta), eta)
    m, sign = far.abs(), far.sign()
    shrunk = -torch.expm1(-m)
    if derivative == 0:
        terms = [c * s ** (2 * n) for n, c in enumerate(_SERIES, 1)]
        return torch.where(near, s / 2 + sum(terms), (far + m) / 2 + shrunk.log() - m.log())
    if derivative == 1:
        terms = [2 * n * c * s ** (2 * n - 1) for n, c in enumerate(_SERIES, 1)]
        half = sign * (0.5 - 1 / m + (-m).exp() / shrunk)
        return torch.where(near, 0.5 + sum(terms), 0.5 + half)
    terms = [2 * n * (2 * n - 1) * c * s ** (2 * n - 2) for n, c in enumerate(_SERIES, 1)]
    return torch.where(near, sum(terms), 1 / m**2 - (-m).exp() / shrunk**2)


@register(td.ContinuousBernoulli, td.ContinuousBernoulli)
def _same(q: td.ContinuousBernoulli, p: td.ContinuousBernoulli) -> Tensor:
    """A(eta_p) - A(eta_q) - (eta_p - eta_q) A'(eta_q), the Bregman divergence."""
    eta, prior = torch.broadcast_tensors(q.logits, p.logits)
    near = (prior - eta).abs() < (eta.abs() / 2).clamp(min=4.0)
    start, step = torch.where(near, eta, 0.0), torch.where(near, prior - eta, 0.0)
    nodes, weights = (eta.new_tensor(v) for v in _NODES)
    between = start.unsqueeze(-1) + nodes * step.unsqueeze(-1)
    curvature = (weights * log_partition(between, derivative=2)).sum(-1)
    slope = log_partition(eta, derivative=1)
    far = log_partition(prior) - log_partition(eta) - (prior - eta) * slope
    return torch.where(near, step**2 * curvature, far)


def _gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of the integral over [0, 1] with the weight 1 - s."""
    x, w = np.polynomial.legendre.leggauss(count)
    return list((1 + x) / 2), list(w * (1 - x) / 4)


_NODES = _gauss_legendre(12)


@register(td.Uniform, td.ContinuousBernoulli)
def _uniform(q: td.Uniform, p: td.ContinuousBernoulli) -> Tensor:
    """-log(high - low) + A(eta_p) - eta_p (low + high) / 2."""
    return log_partition(p.logits) - p.logits * (q.low + q.high) / 2 - (q.high - q.low).log()
