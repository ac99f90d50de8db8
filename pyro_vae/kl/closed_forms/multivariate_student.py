"""The multivariate Student-t, against Gaussians and after them.

With scale matrix S = L L', log p(x) = log Gamma((df + D) / 2) - log Gamma(df / 2)
- (D / 2) log(df pi) - log |L| - ((df + D) / 2) log(1 + |L^-1 (x - m)|^2 / df).
"""

from __future__ import annotations

__all__ = ["entropy"]

import math
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from pyro.distributions import MultivariateStudentT
from torch import Tensor

from pyro_vae.kl.closed_forms.frullani import log_quadratic, student_log_quadratic
from pyro_vae.kl.remainders import lgamma_remainder, log_ratio
from pyro_vae.kl.special import digamma
from pyro_vae.kl.table import register

Gaussian = td.MultivariateNormal | td.LowRankMultivariateNormal


def entropy(df: Tensor, dim: int, log_scale: Tensor) -> Tensor:
    """Log |L| + (D / 2) log(df pi) - log[G((df + D) / 2) / G(df / 2)] + ((df + D) / 2) E log(1+Q).

    Here E log(1 + Q) = psi((df + D) / 2) - psi(df / 2), and G is Gamma.

    Arguments:
        df: Degrees of freedom, float64.
        dim: The dimension D.
        log_scale: log |L|, broadcastable with `df`.

    Returns:
        The entropy in nats.

    Example:
        >>> two = torch.tensor(2.0, dtype=torch.float64)
        >>> (entropy(two, 1, two.log()) - td.StudentT(two, 0.0, 2.0).entropy()).abs() < 1e-14
        tensor(True)
    """
    half, more = df / 2, torch.full_like(df, dim / 2)
    spread = (half + more) * (digamma(half + more) - digamma(half))
    return log_scale + dim / 2 * (df * math.pi).log() - _log_gamma_ratio(half, more) + spread


@register((td.Independent, td.Normal), MultivariateStudentT)
def _diagonal(q: td.Independent, p: MultivariateStudentT) -> Tensor:
    """E_q[-log p] - H(q), with E log(1 + Q) as one integral (Frullani)."""
    return _kl(q.base_dist.loc, torch.diag_embed(q.base_dist.scale), p)


@register(td.MultivariateNormal, MultivariateStudentT)
def _full(q: td.MultivariateNormal, p: MultivariateStudentT) -> Tensor:
    """E_q[-log p] - H(q), with E log(1 + Q) as one integral (Frullani)."""
    return _kl(q.loc, q.scale_tril, p)


@register(td.LowRankMultivariateNormal, MultivariateStudentT)
def _low_rank(q: td.LowRankMultivariateNormal, p: MultivariateStudentT) -> Tensor:
    """E_q[-log p] - H(q), with E log(1 + Q) as one integral (Frullani)."""
    return _kl(q.loc, torch.linalg.cholesky(q.covariance_matrix), p)


def _kl(loc: Tensor, tril: Tensor, p: MultivariateStudentT) -> Tensor:
    """The KL of Normal(loc, tril tril').

    (D/2)[log(df/2) - psi(df/2) - 1] - R + ((df + D)/2) E log(1 + Q) + log |L| - log |tril|, with R
    the remainder of log Gamma from df / 2 to (df + D) / 2, so that a large df costs no digits.
    """
    dim, half = loc.shape[-1], p.df / 2
    white, offset = _whitened(loc, tril, p)
    logs = log_quadratic(
        white @ white.mT / p.df[..., None, None], offset / p.df.sqrt().unsqueeze(-1)
    )
    rest = lgamma_remainder(half, torch.full_like(half, dim / 2))
    constant = dim / 2 * (half.log() - digamma(half) - 1) - rest
    return constant + (half + dim / 2) * logs + _log_det(p.scale_tril) - _log_det(tril)


@register(MultivariateStudentT, td.MultivariateNormal)
@register(MultivariateStudentT, td.LowRankMultivariateNormal)
def _gaussian(q: MultivariateStudentT, p: Gaussian) -> Tensor:
    """(1/2)[D log 2pi + log |S| + df / (df - 2) tr(S^-1 Sigma) + d' S^-1 d] - H(q), df > 2."""
    if isinstance(p, td.MultivariateNormal):
        tril = p.scale_tril
    else:
        tril = torch.linalg.cholesky(p.covariance_matrix)
    dim = q.loc.shape[-1]
    white = torch.linalg.solve_triangular(tril, q.scale_tril, upper=False)
    offset = torch.linalg.solve_triangular(tril, (q.loc - p.loc).unsqueeze(-1), upper=False)
    trace = white.square().sum((-2, -1)) * q.df / (q.df - 2)
    cross = (dim * math.log(2 * math.pi) + trace + offset.square().sum((-2, -1))) / 2
    return cross + _log_det(tril) - entropy(q.df, dim, _log_det(q.scale_tril))


@register(MultivariateStudentT, MultivariateStudentT)
def _same(q: MultivariateStudentT | _Vector, p: MultivariateStudentT | _Vector) -> Tensor:
    """One integral (Frullani, mixed over the scale of q) in any dimension, for any pair.

    log |L_p| - log |L_q| + (D / 2) log(df_p / df_q) + R(df_q / 2) - R((df_q + D) / 2)
    + ((df_p + D) / 2) [E log(1 + Q) - psi((df_q + D) / 2) + psi(df_q / 2)], R being the remainder
    of log Gamma over the step (df_p - df_q) / 2. All of it is exactly 0 at q = p.
    """
    dim = q.loc.shape[-1]
    root = p.df.sqrt().unsqueeze(-1)
    white, offset = _whitened(q.loc, q.scale_tril, p)
    shape = (q.df / p.df)[..., None, None] * (white @ white.mT)
    logs = student_log_quadratic(q.df, shape, offset / root)
    step, more = (p.df - q.df) / 2, (q.df + dim) / 2
    gammas = lgamma_remainder(q.df / 2, step) - lgamma_remainder(more, step)
    scales = _log_det_ratio(p.scale_tril, q.scale_tril) + dim / 2 * log_ratio(p.df, q.df)
    return scales + gammas + (p.df + dim) / 2 * logs


@register(td.StudentT, td.StudentT)
def _univariate(q: td.StudentT, p: td.StudentT) -> Tensor:
    """The same in one dimension."""
    one, other = (_Vector(d.df, d.loc[..., None], d.scale[..., None, None]) for d in (q, p))
    return _same(one, other)


class _Vector(NamedTuple):
    """What the form reads; Pyro's class builds a Chi2 that checks values, which no graph can."""

    df: Tensor
    loc: Tensor
    scale_tril: Tensor


def _whitened(loc: Tensor, tril: Any, p: MultivariateStudentT | _Vector) -> tuple[Tensor, Tensor]:
    """L_p^-1 tril and L_p^-1 (loc - loc_p); the difference of equal factors is exactly 0."""
    lower: Any = p.scale_tril
    identity = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
    white = identity + torch.linalg.solve_triangular(lower, tril - lower, upper=False)
    offset = torch.linalg.solve_triangular(lower, (loc - p.loc).unsqueeze(-1), upper=False)
    return white, offset.squeeze(-1)


def _log_det_ratio(a: Any, b: Any) -> Tensor:
    return log_ratio(a.diagonal(dim1=-2, dim2=-1), b.diagonal(dim1=-2, dim2=-1)).sum(-1)


def _log_det(tril: Any) -> Tensor:
    return tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _log_gamma_ratio(x: Tensor, d: Tensor) -> Tensor:
    """Log Gamma(x + d) - log Gamma(x), to the digits of the difference."""
    return d * digamma(x) + lgamma_remainder(x, d)
