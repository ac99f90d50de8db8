"""Families of real vectors with correlations: full and low-rank Normals, Student-t.

All parameters are over the D flattened features; draws have shape `features`.
"""

from __future__ import annotations

__all__ = ["FullNormal", "LowRankNormal", "MultivariateStudentT"]

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions.transforms import ReshapeTransform

from pyro_vae import distributions as own
from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import FINITE_VARIANCE, Parameter


def _flat(family: Family) -> tuple[int]:
    return (math.prod(family.features),)


def _square(family: Family) -> tuple[int, int]:
    (size,) = _flat(family)
    return size, size


def _shaped(family: Family, flat: Any) -> TorchDistribution:
    """The distribution of vectors, its draws reshaped to `features`."""
    if len(family.features) == 1:
        return flat
    reshape = ReshapeTransform(Size(_flat(family)), Size(family.features))
    return dist.TransformedDistribution(flat, [reshape])


_LOC = Parameter(constraints.real, 0.0, shape=_flat)
_SCALE_TRIL = Parameter(constraints.lower_cholesky, 1.0, shape=_square, identity=True)


@register
class FullNormal(Family):
    """Normal with full covariance: log N(z; loc, L L^T), L = scale_tril; standard member N(0, I).

    `loc` and `scale_tril` are over the D flattened features, with shapes `(D,)` and `(D, D)`.

    Example:
        >>> FullNormal(2, scale_tril=[[1.0, 0.0], [1.0, 1.0]])().covariance_matrix
        tensor([[1., 1.],
                [1., 2.]])
    """

    spec = {"loc": _LOC, "scale_tril": _SCALE_TRIL}

    def distribution(self, loc: Tensor, scale_tril: Tensor) -> TorchDistribution:
        """Return the multivariate Normal, its draws reshaped to `features`."""
        return _shaped(self, dist.MultivariateNormal(loc, scale_tril=scale_tril))


def _factor(family: Any) -> tuple[int, int]:
    (size,), rank = _flat(family), family.rank
    if not 1 <= rank <= size:
        raise ValueError(
            f"LowRankNormal: rank must lie between 1 and the number of features, {size}, "
            f"not be {rank}; FullNormal has full rank."
        )
    return size, rank


@register
class LowRankNormal(Family):
    """Normal with low-rank covariance: log N(z; loc, W W^T + diag(cov_diag)), W = cov_factor.

    `loc`, `cov_factor` and `cov_diag` are over the D flattened features, with shapes `(D,)`,
    `(D, rank)` and `(D,)`. The standard member has cov_diag = 1 and w_kk = 0.1, so nearly unit
    covariance: at W = 0 the gradient to W would vanish, and at equal columns they would stay so.

    Example:
        >>> LowRankNormal(2, rank=1, cov_factor=[[1.0], [2.0]])().covariance_matrix
        tensor([[2., 2.],
                [2., 5.]])
    """

    spec = {
        "loc": _LOC,
        "cov_factor": Parameter(
            constraints.real, 0.1, shape=_factor, pattern=lambda shape: torch.eye(*shape)
        ),
        "cov_diag": Parameter(constraints.positive, 1.0, shape=_flat),
    }
    options = ("rank",)
    example_options = {"rank": 1}

    def distribution(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor) -> TorchDistribution:
        """Return the low-rank Normal, its draws reshaped to `features`."""
        return _shaped(self, own.LowRankMultivariateNormal(loc, cov_factor, cov_diag))


@register
class MultivariateStudentT(Family):
    """Student-t vectors: z = loc + L x sqrt(df / c), x ~ N(0, I), c ~ chi^2(df), L = scale_tril.

    The factor sqrt(df / c) is common to all features, which are therefore heavy-tailed together
    and dependent even where L is diagonal. `df` = 5 is one structural number: a constant, unless
    named in `predict` or `learnable`, and then kept above 2, so that the variance is finite.
    `loc` and `scale_tril` are over the D flattened features, with shapes `(D,)` and `(D, D)`.

    Example:
        >>> MultivariateStudentT(2, df=4.0)().variance
        tensor([2., 2.])
    """

    spec = {
        "df": Parameter(
            constraints.positive,
            5.0,
            structural=True,
            admissible=FINITE_VARIANCE,
            shape=lambda family: (),
        ),
        "loc": _LOC,
        "scale_tril": _SCALE_TRIL,
    }

    def distribution(self, df: Tensor, loc: Tensor, scale_tril: Tensor) -> TorchDistribution:
        """Return the multivariate Student-t, its draws reshaped to `features`."""
        return _shaped(self, own.MultivariateStudentT(df, loc, scale_tril))
