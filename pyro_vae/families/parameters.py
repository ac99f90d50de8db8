"""What a family says of each of its parameters, and how a parameter is made from real numbers.

A parameter that is predicted or trained lives as unconstrained numbers; a bijection carries
them to where the parameter lives. The bijections are torch's and Pyro's `transform_to`, but
for Cholesky factors: theirs reads a whole square matrix and ignores half of it, so half of a
head would never receive a gradient. Ours reads the triangle alone.
"""

from __future__ import annotations

__all__ = [
    "FINITE_VARIANCE",
    "SPACED",
    "Parameter",
    "SoftplusAbove",
    "TriangleToCholesky",
    "transform_for",
]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import AffineTransform, ComposeTransform, SoftplusTransform
from torch.nn.functional import softplus

FINITE_VARIANCE = constraints.greater_than(2.001)
"""Degrees of freedom above 2, with a margin, for in float32 2 + exp(-17) is 2."""


_GAP = 1e-4


class _Spaced(type(constraints.ordered_vector)):
    """Increasing numbers that do not run into each other."""

    def check(self, value: Tensor) -> Tensor:
        # half of it, for differences of floats are rounded
        return (value.diff(dim=-1) > _GAP / 2).all(-1)


SPACED = _Spaced()
"""Increasing numbers at least 1e-4 apart: in float32, 10 + exp(-17) is 10."""


class SoftplusAbove(type(FINITE_VARIANCE)):
    """Numbers above a bound, reached from real numbers by softplus(x) + bound.

    Example:
        >>> transform_for(SoftplusAbove(2.0))(torch.tensor(0.0))
        tensor(2.6931)
    """


# Draws beyond the floats nearest to an end of a support are moved to the last of these, 1e-31 from
# 0 and 6e-8 from 1 in float32, and a density c d^(c - 1) at distance d from the end then says less
# than there is mass, by a factor c. Were concentrations free, most mass would come to lie there: a
# sampled KL would be as low as one likes, and training would go there. Above these bounds at most
# 1 % lie beyond.
BEFORE_0 = SoftplusAbove(0.1)
"""Concentrations that say how fast a density rises from 0, where it is 0 that draws come near."""
BEFORE_1 = SoftplusAbove(0.4)
"""Those that say how fast it rises from 1."""
TO_INFINITY = SoftplusAbove(1 / 8)
"""Those that say how fast it falls to infinity, where draws end at 9e18."""


class Parameter(NamedTuple):
    """One parameter of a family.

    Arguments:
        constraint: Where its values lie.
        default: The value of the standard member, in every element.
        structural: Whether it is a constant unless named in `predict` or `learnable` (degrees
            of freedom, temperatures, bounds).
        admissible: Where values that are predicted or trained lie, if narrower than
            `constraint` (df > 2, so that no step makes a KL infinite).
        shape: Its shape, given the family's `features` and options; by default `features`.
        identity: Whether the default is a matrix with `default` on the diagonal.
        pattern: What the default is multiplied by, given the shape; by default ones.
    """

    constraint: Constraint
    default: float
    structural: bool = False
    admissible: Constraint | None = None
    shape: Callable[[Any], tuple[int, ...]] | None = None
    identity: bool = False
    pattern: Callable[[tuple[int, ...]], Tensor] | None = None

    @property
    def transform(self) -> Transform:
        """The bijection from unconstrained numbers to admissible values."""
        return transform_for(self.admissible or self.constraint)

    def unconstrained(self, value: Tensor) -> Tensor:
        """Return the numbers that `transform` carries to `value`."""
        inverse: Any = self.transform.inv
        return inverse(value)

    def standard(self, shape: tuple[int, ...]) -> Tensor:
        """Return the value of the standard member, with shape `shape`."""
        if self.identity:
            return self.default * torch.eye(shape[-1]).expand(shape).clone()
        if self.pattern is not None:
            return self.default * self.pattern(shape)
        return torch.full(shape, self.default)


class TriangleToCholesky(Transform):
    """Fill a lower-triangular matrix with positive diagonal from D (D + 1) / 2 real numbers.

    The strict triangle is taken as it is, the diagonal through softplus.

    Example:
        >>> TriangleToCholesky()(torch.zeros(3)).shape
        torch.Size([2, 2])
    """

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TriangleToCholesky)

    def _call(self, x: Tensor) -> Tensor:
        size = self.forward_shape(x.shape)[-1]
        rows, columns = torch.tril_indices(size, size, device=x.device)
        full = x.new_zeros(*x.shape[:-1], size, size)
        full[..., rows, columns] = x
        diagonal = softplus(full.diagonal(dim1=-2, dim2=-1))
        return full.tril(-1) + torch.diag_embed(diagonal)

    def _inverse(self, y: Tensor) -> Tensor:
        diagonal = y.diagonal(dim1=-2, dim2=-1)
        free = _inverse_softplus(diagonal)
        rows, columns = torch.tril_indices(y.shape[-1], y.shape[-1], device=y.device)
        return (y.tril(-1) + torch.diag_embed(free))[..., rows, columns]

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the matrices made from vectors of shape `shape`."""
        size = (math.isqrt(8 * shape[-1] + 1) - 1) // 2
        return (*shape[:-1], size, size)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the vectors that fill matrices of shape `shape`."""
        return (*shape[:-2], shape[-1] * (shape[-1] + 1) // 2)


class ToSpaced(Transform):
    """Numbers y_0 = x_0, y_k = y_(k-1) + 1e-4 + softplus(x_k), increasing, of any real x.

    Example:
        >>> ToSpaced()(torch.zeros(3))
        tensor([0.0000, 0.6932, 1.3865])
    """

    domain = constraints.real_vector
    codomain = SPACED
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToSpaced)

    def _call(self, x: Tensor) -> Tensor:
        steps = torch.cat([x[..., :1], _GAP + softplus(x[..., 1:])], -1)
        return steps.cumsum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :1], _inverse_softplus(y.diff(dim=-1) - _GAP)], -1)


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


def transform_for(constraint: Constraint) -> Transform:
    """Return the bijection that carries unconstrained numbers to `constraint`."""
    if type(constraint) is type(constraints.lower_cholesky):
        return TriangleToCholesky()
    if constraint is SPACED:
        return ToSpaced()
    if isinstance(constraint, SoftplusAbove):
        parts: list[Transform] = [SoftplusTransform(), AffineTransform(constraint.lower_bound, 1)]
        return ComposeTransform(parts)
    return transform_to(constraint)
