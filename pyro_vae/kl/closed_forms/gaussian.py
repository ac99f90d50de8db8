"""Gaussians, correlated or not, in differences of their factors.

With S = L L' and N = L_p^-1 (L_q - L_p), which is lower triangular,

    KL(q || p) = sum_i [x_i - 1 - log x_i] + |N|^2 / 2 + |L_p^-1 d|^2 / 2,   x_i = L_q,ii / L_p,ii,

d the difference of the means: nothing of first order is left to cancel. Covariances W W' + D of
low rank keep their structure, see `low_rank`.
"""

from __future__ import annotations

__all__ = ["from_factors", "low_rank"]

import torch
import torch.distributions as td
from torch import Tensor
from torch.linalg import solve_triangular
from torch.nn.functional import pad

from pyro_vae.kl.remainders import excess
from pyro_vae.kl.table import register

AnyGaussian = td.MultivariateNormal | td.LowRankMultivariateNormal


def from_factors(tril: Tensor, prior_tril: Tensor, offset: Tensor) -> Tensor:
    """sum_i [x_i - 1 - log x_i] + |N|^2 / 2 + |L_p^-1 d|^2 / 2.

    Arguments:
        tril: The Cholesky factor of the covariance of q, shape (..., n, n).
        prior_tril: That of p.
        offset: The difference d of the means, shape (..., n).

    Returns:
        The KL, of shape (...).

    Example:
        >>> eye = torch.eye(2)
        >>> from_factors(eye, eye, torch.ones(2)).item()
        1.0
    """
    mean = solve_triangular(prior_tril, offset.unsqueeze(-1), upper=False)
    return _between(tril, prior_tril) + mean.square().sum((-2, -1)) / 2


def low_rank(
    w: Tensor, diagonal: Tensor, prior_w: Tensor, prior_diagonal: Tensor, offset: Tensor
) -> Tensor:
    """KL between Gaussians of covariances W W' + B (of q) and V V' + A (of p), A and B diagonal.

    With C_q = I + W' B^-1 W, C_p = I + V' A^-1 V (the capacitances), e = B - A, D = W - V, and P
    the covariance of p, twice the KL is

        sum_i [B_i / A_i - 1 - log(B_i / A_i)] + tr(C_p^-1 C_q) - r - log |C_p^-1 C_q|
            + tr(D' P^-1 D) - tr(C_p^-1 F' B^-1 F) + d' P^-1 d,   F = e A^-1 V - D,

    from Woodbury's identity, with all that is of first order taken out by hand. Its cost is
    linear in the dimension.

    Arguments:
        w: W, shape (..., n, r).
        diagonal: The diagonal of B, shape (..., n).
        prior_w: V, its rank possibly another (it is filled up with zeros).
        prior_diagonal: The diagonal of A.
        offset: The difference d of the means, shape (..., n).

    Returns:
        The KL, of shape (...).

    Example:
        >>> w, one = torch.ones(3, 1), torch.ones(3)
        >>> low_rank(w, one, w, one, torch.zeros(3)).item()
        0.0
    """
    rank = max(w.shape[-1], prior_w.shape[-1])
    w, v = (pad(t, (0, rank - t.shape[-1])) for t in (w, prior_w))
    b, a = diagonal.unsqueeze(-1), prior_diagonal.unsqueeze(-1)
    capacitance, prior_capacitance = _capacitance(w, b), _capacitance(v, a)

    def whitened(x: Tensor) -> Tensor:
        return solve_triangular(prior_capacitance, x, upper=False)

    def square(x: Tensor) -> Tensor:
        """Trace of x' P^-1 x."""
        return (x**2 / a).sum((-2, -1)) - whitened((v / a).mT @ x).square().sum((-2, -1))

    step = w - v
    f = ((b - a) / a * v - step) / b.sqrt()
    second = square(step) - whitened(f.mT).square().sum((-2, -1))
    scales = excess(diagonal, prior_diagonal).sum(-1)
    between = 2 * _between(capacitance, prior_capacitance)
    return (scales + between + second + square(offset.unsqueeze(-1))) / 2


def _between(tril: Tensor, prior_tril: Tensor) -> Tensor:
    """The KL of centred Gaussians of these Cholesky factors."""
    diagonals = (t.diagonal(dim1=-2, dim2=-1) for t in (tril, prior_tril))
    step = solve_triangular(prior_tril, tril - prior_tril, upper=False)
    return excess(*diagonals).sum(-1) + step.square().sum((-2, -1)) / 2


def _capacitance(w: Tensor, diagonal: Tensor) -> Tensor:
    """The Cholesky factor of I + W' D^-1 W."""
    identity = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    return torch.linalg.cholesky(identity + w.mT @ (w / diagonal))


def _tril(d: AnyGaussian) -> Tensor:
    """The Cholesky factor of the covariance."""
    if isinstance(d, td.MultivariateNormal):
        return d.scale_tril
    return torch.linalg.cholesky(d.covariance_matrix)


def _parts(d: td.LowRankMultivariateNormal | td.Independent) -> tuple[Tensor, Tensor, Tensor]:
    """Factor, diagonal and mean of a covariance of low rank, which may be rank 0."""
    if isinstance(d, td.LowRankMultivariateNormal):
        return d.cov_factor, d.cov_diag, d.loc
    base = d.base_dist
    return base.scale.new_zeros((*base.scale.shape, 0)), base.scale.square(), base.loc


@register(td.MultivariateNormal, td.MultivariateNormal)
@register(td.MultivariateNormal, td.LowRankMultivariateNormal)
@register(td.LowRankMultivariateNormal, td.MultivariateNormal)
def _full(q: AnyGaussian, p: AnyGaussian) -> Tensor:
    """sum_i [x_i - 1 - log x_i] + |N|^2 / 2 + |L_p^-1 d|^2 / 2, from Cholesky factors."""
    return from_factors(_tril(q), _tril(p), q.loc - p.loc)


@register((td.Independent, td.Normal), td.MultivariateNormal)
def _diagonal_full(q: td.Independent, p: td.MultivariateNormal) -> Tensor:
    """The same, the Cholesky factor of q being diagonal."""
    base = q.base_dist
    return from_factors(torch.diag_embed(base.scale), p.scale_tril, base.loc - p.loc)


@register(td.MultivariateNormal, (td.Independent, td.Normal))
def _full_diagonal(q: td.MultivariateNormal, p: td.Independent) -> Tensor:
    """The same, the Cholesky factor of p being diagonal: no system is left to solve."""
    scale, tril = p.base_dist.scale, q.scale_tril
    diagonal = excess(tril.diagonal(dim1=-2, dim2=-1), scale).sum(-1)
    step = (tril - torch.diag_embed(scale)) / scale.unsqueeze(-1)
    mean = ((q.loc - p.base_dist.loc) / scale).square().sum(-1)
    return diagonal + (step.square().sum((-2, -1)) + mean) / 2


@register(td.LowRankMultivariateNormal, td.LowRankMultivariateNormal)
@register(td.LowRankMultivariateNormal, (td.Independent, td.Normal))
@register((td.Independent, td.Normal), td.LowRankMultivariateNormal)
def _low_rank(
    q: td.LowRankMultivariateNormal | td.Independent,
    p: td.LowRankMultivariateNormal | td.Independent,
) -> Tensor:
    """The form of `low_rank`, independent elements being of rank 0."""
    (w, b, mean), (v, a, prior_mean) = _parts(q), _parts(p)
    return low_rank(w, b, v, a, mean - prior_mean)
