"""Vectors: the multivariate Student-t and the low-rank Normal, right at extreme parameters."""

from __future__ import annotations

__all__ = ["LowRankMultivariateNormal", "MultivariateStudentT"]

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Size, Tensor
from torch.nn.functional import pad

from pyro_vae.distributions.real import heavy_factor, log_normaliser
from pyro_vae.distributions.wide import kept, log1p_square

_LOG_2PI = math.log(2 * math.pi)


class MultivariateStudentT(dist.MultivariateStudentT):
    """log p(x) = log C - log |L| - ((df + D) / 2) log(1 + |y|^2 / df), with y = L^-1 (x - loc).

    A Normal of random precision. As Pyro's, but drawn and scored in float64, the draws kept near
    enough to `loc` that no value or gradient is infinite.

    Arguments:
        df: Degrees of freedom, with shape `batch_shape`, positive.
        loc: The centre, with shape `(*batch_shape, D)`.
        scale_tril: The Cholesky factor L of the scale matrix, `(*batch_shape, D, D)`.

    Example:
        >>> d = MultivariateStudentT(torch.tensor(1e-3), torch.zeros(2), torch.eye(2))
        >>> bool(d.sample().isfinite().all())
        True
    """

    def _loc_and_tril(self) -> tuple[Tensor, Tensor]:
        tril: Any = self.scale_tril
        return self.loc.double(), tril.double()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, with shape `sample_shape + batch_shape + (D,)`."""
        shape = self._extended_shape(sample_shape)
        loc, tril = self._loc_and_tril()
        normal = torch.randn(shape, dtype=loc.dtype, device=loc.device)
        heavy = heavy_factor(self.df.double(), shape[:-1]).unsqueeze(-1)
        away = heavy * (tril @ normal.unsqueeze(-1)).squeeze(-1)
        return (loc + kept(away, self.loc.dtype)).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, computed in float64."""
        if self._validate_args:
            self._validate_sample(value)
        df, (loc, tril) = self.df.double(), self._loc_and_tril()
        away = (value.double() - loc).unsqueeze(-1)
        y = torch.linalg.solve_triangular(tril, away, upper=False).squeeze(-1)
        log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        dim = y.shape[-1]
        power = (df + dim) / 2 * log1p_square(_length(y) / df.sqrt())
        log_density = log_normaliser(df, dim) - log_det - power
        return log_density.to(torch.promote_types(value.dtype, self.loc.dtype))


def _length(y: Tensor) -> Tensor:
    """The Euclidean length, whose squares may overflow, with gradient 0 at 0."""
    largest = y.detach().abs().amax(-1, keepdim=True).clamp(min=torch.finfo(y.dtype).tiny)
    inner = (y / largest).square().sum(-1)
    at_zero = inner == 0
    length = torch.where(at_zero, 1.0, inner).sqrt()
    return torch.where(at_zero, 0.0, length) * largest.squeeze(-1)


class LowRankMultivariateNormal(dist.LowRankMultivariateNormal):
    """log p(x) = log N(x; loc, W W' + D), W = cov_factor with few columns, D = diag(cov_diag).

    As torch's, but in float64 and by a QR factorisation of what torch squares,

        I + W' D^-1 W = R' R,   Q R = [D^-1/2 W; I],

    so that a large W beside a small D has a density, where torch's Cholesky factorisation fails.
    The squared distance is the residual of the least squares problem of [D^-1/2 (x - loc); 0].

    Arguments:
        loc: The mean, with shape `(*batch_shape, D)`.
        cov_factor: W, with shape `(*batch_shape, D, rank)`.
        cov_diag: The diagonal of D, with shape `(*batch_shape, D)`, positive.

    Example:
        >>> d = LowRankMultivariateNormal(torch.zeros(3), 1e6 * torch.ones(3, 2), torch.ones(3))
        >>> bool(d.log_prob(d.sample()).isfinite())
        True
    """

    def __init__(
        self,
        loc: Tensor,
        cov_factor: Tensor,
        cov_diag: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        size = loc.shape[-1]
        if cov_factor.shape[-2:-1] != (size,) or cov_diag.shape[-1:] != (size,):
            raise ValueError(
                f"loc has shape {tuple(loc.shape)}, so cov_factor must have shape (..., {size}, "
                f"rank) and cov_diag (..., {size}), not {tuple(cov_factor.shape)} and "
                f"{tuple(cov_diag.shape)}."
            )
        batch = torch.broadcast_shapes(loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1])
        self._unbroadcasted_cov_factor = cov_factor
        self._unbroadcasted_cov_diag = cov_diag
        self.loc = loc.expand(*batch, size)
        self.cov_factor = cov_factor.expand(*batch, *cov_factor.shape[-2:])
        self.cov_diag = cov_diag.expand(*batch, size)
        # torch's entropy and precision read it; a QR factorisation is unique up to signs
        upper = self._factors()[1]
        signs = upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)
        self._capacitance_tril = (signs * upper).mT.to(loc.dtype)
        td.Distribution.__init__(self, batch, Size((size,)), validate_args=validate_args)

    def expand(
        self, batch_shape: Any, _instance: LowRankMultivariateNormal | None = None
    ) -> LowRankMultivariateNormal:
        """Return the same distribution over a larger batch shape."""
        parent: Any = super()
        new = self.__new__(type(self)) if _instance is None else _instance
        return parent.expand(batch_shape, _instance=new)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """Q and R of [D^-1/2 W; I]."""
        factor, diag = self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag
        white = factor.double() / diag.double().sqrt().unsqueeze(-1)
        rank = white.shape[-1]
        eye = torch.eye(rank, dtype=white.dtype, device=white.device)
        stacked = torch.cat([white, eye.expand(*white.shape[:-2], rank, rank)], -2)
        q, r = torch.linalg.qr(stacked)
        return q, r

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, computed in float64."""
        if self._validate_args:
            self._validate_sample(value)
        (q, r), diag = self._factors(), self._unbroadcasted_cov_diag.double()
        white = (value.double() - self.loc.double()) / diag.sqrt()
        rank = r.shape[-1]
        target = pad(white, (0, rank)).unsqueeze(-1)
        residual = (target - q @ (q.mT @ target)).squeeze(-1)
        log_det = diag.log().sum(-1) + 2 * r.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        log_density = -0.5 * (residual.square().sum(-1) + log_det + white.shape[-1] * _LOG_2PI)
        return log_density.to(torch.promote_types(value.dtype, self.loc.dtype))
