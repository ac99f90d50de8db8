"""Matrices: Wishart, and the Cholesky factors of correlation matrices (LKJ).

Both are exponential families, and their KL is written as the remainder of the log partition
function, in differences of parameters. torch's form of the Wishart has no gradient with respect
to q, and in a batch adds up one of its terms over all elements.
"""

from __future__ import annotations

__all__: list[str] = []

import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae.kl.remainders import excess, lgamma_remainder, log_ratio
from pyro_vae.kl.table import register


@register(td.Wishart, td.Wishart)
def _wishart(q: td.Wishart, p: td.Wishart) -> Tensor:
    """(n/2)[tr X - D - log |X|] - (m - n)/2 log |X| + sum_i R_i, with X = V_p^-1 V_q.

    n and m are the degrees of freedom of q and p, R_i the remainder of log Gamma from
    (n - i) / 2 to (m - i) / 2, i = 0, ..., D - 1. With A = L_p^-1 L_q, tr X - D - log |X| is the
    square of what A has below its diagonal and the excess of its squared diagonal.
    """
    upper, lower = q.scale_tril, p.scale_tril
    below = torch.linalg.solve_triangular(lower, upper - lower, upper=False).tril(-1)
    a, b = upper.diagonal(dim1=-2, dim2=-1), lower.diagonal(dim1=-2, dim2=-1)
    stein = excess(a**2, b**2).sum(-1) + below.square().sum((-2, -1))
    log_det = 2 * log_ratio(a, b).sum(-1)
    i = torch.arange(a.shape[-1], dtype=a.dtype, device=a.device)
    step = (p.df - q.df).unsqueeze(-1) / 2
    gammas = lgamma_remainder((q.df.unsqueeze(-1) - i) / 2, step).sum(-1)
    return q.df / 2 * stein - step.squeeze(-1) * log_det + gammas


@register(td.LKJCholesky, td.LKJCholesky)
def _lkj(q: td.LKJCholesky, p: td.LKJCholesky) -> Tensor:
    """Sum over k < D of (D - k) [R(a_k) - R(a_k + 1/2)], with a_k = eta_q + (D - 1 - k) / 2.

    R is the remainder of log Gamma over the step eta_p - eta_q. Up to constants the log partition
    function is the sum of (D - k) [log B(a_k, a_k) + 2 a_k log 2], which Legendre's duplication
    turns into (D - k) [log Gamma(a_k) - log Gamma(a_k + 1/2)].

    Source: Generating random correlation matrices based on vines and extended onion method
    (D. Lewandowski, D. Kurowicka, H. Joe, 2009).
    """
    k = torch.arange(1, q.dim, dtype=q.concentration.dtype, device=q.concentration.device)
    a = q.concentration.unsqueeze(-1) + (q.dim - 1 - k) / 2
    step = (p.concentration - q.concentration).unsqueeze(-1)
    return ((q.dim - k) * (lgamma_remainder(a, step) - lgamma_remainder(a + 0.5, step))).sum(-1)
