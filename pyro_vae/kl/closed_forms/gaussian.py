"""Gaussians with and without correlations.

With S the covariance of p and d the difference of the means,

    KL(q || p) = (1/2) [tr(S^-1 S_q) + d' S^-1 d - D + log |S| - log |S_q|].

The reverse case, correlated q against independent elements of any class, is a reduction to q's
marginals (`pyro_vae.kl.plan`).
"""

from __future__ import annotations

__all__: list[str] = []

import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae.kl.table import register


@register((td.Independent, td.Normal), td.MultivariateNormal)
def _diagonal_full(q: td.Independent, p: td.MultivariateNormal) -> Tensor:
    """(1/2) [|L^-1 diag(s)|^2 + |L^-1 d|^2 - D] + sum log diag L - sum log s, with S = L L'."""
    scale, tril = q.base_dist.scale, p.scale_tril
    identity = torch.eye(scale.shape[-1], dtype=tril.dtype, device=tril.device)
    inverse = torch.linalg.solve_triangular(tril, identity, upper=False)
    trace = (inverse.square().sum(-2) * scale.square()).sum(-1)
    offset = (inverse @ (q.base_dist.loc - p.loc).unsqueeze(-1)).squeeze(-1)
    log_ratio = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) - scale.log().sum(-1)
    return (trace + offset.square().sum(-1) - scale.shape[-1]) / 2 + log_ratio


@register((td.Independent, td.Normal), td.LowRankMultivariateNormal)
def _diagonal_low_rank(q: td.Independent, p: td.LowRankMultivariateNormal) -> Tensor:
    """The same with S = W W' + diag(c), inverted by Woodbury's identity."""
    scale, c, w = q.base_dist.scale, p.cov_diag, p.cov_factor
    whitened = w / c.unsqueeze(-1)
    capacitance = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device) + w.mT @ whitened
    tril = torch.linalg.cholesky(capacitance)
    # S^-1 = diag(1/c) - A' A
    a = torch.linalg.solve_triangular(tril, whitened.mT, upper=False)
    d = q.base_dist.loc - p.loc
    trace = (scale.square() * (1 / c - a.square().sum(-2))).sum(-1)
    square = (d.square() / c).sum(-1) - (a @ d.unsqueeze(-1)).square().sum((-2, -1))
    log_det = c.log().sum(-1) + 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (trace + square - scale.shape[-1] + log_det) / 2 - scale.log().sum(-1)
