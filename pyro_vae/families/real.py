"""Families on the real line: Normal, FullNormal, Laplace, StudentT."""

from __future__ import annotations

__all__ = ["FullNormal", "Laplace", "Normal", "StudentT"]

import math
from typing import Any

import pyro.distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions.transforms import ReshapeTransform

from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import Parameter

_LOCATION_SCALE = {
    "loc": Parameter(constraints.real, 0.0),
    "scale": Parameter(constraints.positive, 1.0),
}

# df > 2 with a margin, for in float32 2 + exp(-17) is 2
_FINITE_VARIANCE = constraints.greater_than(2.001)


@register
class Normal(Family):
    """Independent Normals: log p(z) = sum_i log N(z_i; loc_i, scale_i^2); standard member N(0, I).

    As a likelihood, `scale` predicted, given, or learned as one constant per feature
    (`learnable=("scale",)`).

    Example:
        >>> Normal(2, scale=0.5)().variance
        tensor([0.2500, 0.2500])
    """

    roles = frozenset({"prior", "guide", "likelihood"})
    spec = _LOCATION_SCALE

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return Normal(loc, scale), independent over features."""
        return dist.Normal(loc, scale).to_event(len(self.features))


def _square(family: Family) -> tuple[int, int]:
    size = math.prod(family.features)
    return size, size


@register
class FullNormal(Family):
    """Normal with full covariance: log N(z; loc, L L^T), L = scale_tril; standard member N(0, I).

    `loc` and `scale_tril` are over the D flattened features, with shapes `(D,)` and `(D, D)`.

    Example:
        >>> FullNormal(2, scale_tril=[[1.0, 0.0], [1.0, 1.0]])().covariance_matrix
        tensor([[1., 1.],
                [1., 2.]])
    """

    spec = {
        "loc": Parameter(constraints.real, 0.0, shape=lambda f: _square(f)[:1]),
        "scale_tril": Parameter(constraints.lower_cholesky, 1.0, shape=_square, identity=True),
    }

    def distribution(self, loc: Tensor, scale_tril: Tensor) -> TorchDistribution:
        """Return the multivariate Normal, its draws reshaped to `features`."""
        flat: Any = dist.MultivariateNormal(loc, scale_tril=scale_tril)
        if len(self.features) == 1:
            return flat
        return dist.TransformedDistribution(
            flat, [ReshapeTransform(loc.shape[-1:], Size(self.features))]
        )


@register
class Laplace(Family):
    """Independent Laplaces: log p(z) = sum_i -log(2 scale_i) - |z_i - loc_i| / scale_i.

    Example:
        >>> Laplace(2)().variance
        tensor([2., 2.])
    """

    roles = frozenset({"prior", "guide", "likelihood"})
    spec = _LOCATION_SCALE

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return Laplace(loc, scale), independent over features."""
        return dist.Laplace(loc, scale).to_event(len(self.features))


@register
class StudentT(Family):
    """Independent Student-t: z_i = loc_i + scale_i T with T ~ t(df); df = 5 unless given.

    `df` is structural: a constant, unless named in `predict` or `learnable`, and then kept
    above 2, so that the variance, and with it the KL to a Normal prior, stays finite.

    Example:
        >>> StudentT(2, df=4.0)().variance
        tensor([2., 2.])
    """

    roles = frozenset({"prior", "guide", "likelihood"})
    spec = {
        "df": Parameter(constraints.positive, 5.0, structural=True, admissible=_FINITE_VARIANCE),
        **_LOCATION_SCALE,
    }

    def distribution(self, df: Tensor, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return StudentT(df, loc, scale), independent over features."""
        return dist.StudentT(df, loc, scale).to_event(len(self.features))
