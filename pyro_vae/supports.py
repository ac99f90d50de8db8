"""Supports: which space a constraint describes, and which space lies within which.

KL(q || p) needs q to put no mass where p has none, so a guide may be paired with a prior only
if the support of q lies within that of p, and both are densities with respect to the same
measure. torch and Pyro describe supports by constraints, which they cannot compare; here a
constraint is read as a `Space` (a kind and its bounds), and spaces are compared.

The kinds are `real` (a product of intervals of the line, bounded or not), `simplex`, `sphere`,
`circle`, `one_hot`, `integer` and, for whatever is not recognised, `unknown`. An angle is no
number of an interval: its space has no ends, and a function of a number (a prior's density, say)
is none of a point on the circle. A constraint may name a kind itself, as `space_kind`.
"""

from __future__ import annotations

__all__ = ["Space", "inside", "interior_point", "legal_point", "lies_within", "space_of"]

import math
from typing import NamedTuple

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint
from torch.utils._python_dispatch import _disable_current_modes


class Space(NamedTuple):
    """A support: its kind, its bounds, and a name for messages.

    Arguments:
        kind: One of `real`, `integer`, `simplex`, `sphere`, `circle`, `one_hot`,
            `unknown`, or what a constraint says itself.
        lower: The greatest lower bound of each element (`-inf` without one).
        upper: The least upper bound of each element (`inf` without one).
    """

    kind: str
    lower: float = -math.inf
    upper: float = math.inf

    @property
    def name(self) -> str:
        """The name people use: real line, positive half-line, unit interval, simplex, ..."""
        named = {
            ("real", -math.inf, math.inf): "real line",
            ("real", 0.0, math.inf): "positive half-line",
            ("real", 0.0, 1.0): "unit interval",
            ("integer", 0.0, math.inf): "counts",
            ("integer", 0.0, 1.0): "{0, 1}",
            ("one_hot", -math.inf, math.inf): "one-hot vectors",
        }
        if self in named:
            return named[self]
        if self.kind in ("real", "integer"):
            body = f"[{self.lower:g}, {self.upper:g}]"
            return f"interval {body}" if self.kind == "real" else f"integers in {body}"
        return self.kind

    @property
    def is_discrete(self) -> bool:
        """Whether distributions on this space are masses, not densities."""
        return self.kind in ("integer", "one_hot")


def space_of(support: Constraint) -> Space:
    """Read a constraint as a space; event dimensions are looked through.

    Bounds that differ between elements are not one space, and are `unknown`.

    Arguments:
        support: A constraint of torch or Pyro, as `distribution.support`.

    Returns:
        The space, of kind `unknown` where the constraint is not recognised.

    Example:
        >>> space_of(constraints.independent(constraints.positive, 1)).name
        'positive half-line'
    """
    while isinstance(support, (constraints.independent, MixtureSameFamilyConstraint)):
        support = support.base_constraint
    kind = type(support)
    named = getattr(support, "space_kind", None)
    if isinstance(named, str):
        return Space(named)
    if kind is type(constraints.real):
        return Space("real")
    if kind is type(constraints.boolean):
        return Space("integer", 0.0, 1.0)
    for constraint, name in (("simplex", "simplex"), ("sphere", "sphere"), ("one_hot", "one_hot")):
        if kind is type(getattr(constraints, constraint)):
            return Space(name)
    lower, upper = (
        _bound(support, "lower_bound", -math.inf),
        _bound(support, "upper_bound", math.inf),
    )
    if math.isnan(lower) or math.isnan(upper):
        return Space("unknown")
    bounded = lower > -math.inf or upper < math.inf
    if not bounded:
        return Space("unknown")
    return Space("integer" if support.is_discrete else "real", lower, upper)


def _bound(support: Constraint, name: str, default: float) -> float:
    """The one value of a bound, `default` without one, NaN if its elements differ."""
    if not hasattr(support, name):
        return default
    # a bound is a constant of the program, to be read also while its operations are recorded
    with _disable_current_modes():
        bound = torch.as_tensor(getattr(support, name))
        if bound.numel() == 0 or not bool((bound == bound.flatten()[0]).all()):
            return math.nan
        return float(bound.flatten()[0])


def lies_within(inner: Constraint, outer: Constraint) -> bool | None:
    """Say whether one support lies within another, with respect to the same measure.

    A simplex lies in R^K but has no volume there, and integers none on the line: such pairs
    are not within each other, since a density with respect to one measure is not one with
    respect to the other.

    Arguments:
        inner: The support of q (the guide).
        outer: The support of p (the prior).

    Returns:
        True, False, or None where one of the two is not recognised and they are not equal.

    Example:
        >>> lies_within(constraints.unit_interval, constraints.positive)
        True
        >>> lies_within(constraints.real, constraints.unit_interval)
        False
        >>> lies_within(constraints.simplex, constraints.real_vector)
        False
    """
    q, p = space_of(inner), space_of(outer)
    if "unknown" in (q.kind, p.kind):
        return True if inner is outer else None
    return q.kind == p.kind and q.lower >= p.lower and q.upper <= p.upper


def interior_point(support: Constraint) -> float:
    """Return one number that lies in the support of every element.

    It stands in for masked entries, whose value must not matter but must be legal.

    Arguments:
        support: A constraint on numbers (event dimensions are looked through); for a simplex,
            a sphere or one-hot vectors no single number will do.

    Returns:
        0 on the line, on the circle and for discrete data, the midpoint of an interval, and a
        point at distance 1 from a single bound.

    Raises:
        ValueError: If no single number lies in the support.

    Example:
        >>> interior_point(constraints.unit_interval), interior_point(constraints.positive)
        (0.5, 1.0)
    """
    space = space_of(support)
    if space.kind == "circle":
        return 0.0
    if space.kind == "integer":
        return space.lower if space.lower > -math.inf else space.upper
    if space.kind == "real":
        if math.isinf(space.lower) and math.isinf(space.upper):
            return 0.0
        if math.isinf(space.upper):
            return space.lower + 1.0
        return space.upper - 1.0 if math.isinf(space.lower) else (space.lower + space.upper) / 2
    raise ValueError(
        f"no single number lies in the support ({space.name}), so entries of such data cannot "
        "be masked one by one; mask whole data points instead (a mask of shape (batch,))."
    )


def inside(support: Constraint, value: Tensor) -> Tensor:
    """Say, as a 0-dim tensor, whether every element of `value` lies in the support."""
    return support.check(value).all()


def legal_point(support: Constraint, like: Tensor) -> Tensor:
    """Return one event that lies in the support, to stand in for data that were not observed.

    Arguments:
        support: The support of one event.
        like: A tensor whose trailing dimensions, dtype and device are those of an event.

    Returns:
        A tensor that broadcasts to `like`.

    Example:
        >>> legal_point(constraints.simplex, torch.zeros(7, 4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    space = space_of(support)
    if space.kind in ("real", "integer", "circle"):
        return like.new_full((), interior_point(support))
    if space.kind == "simplex":
        return like.new_full(like.shape[-1:], 1 / like.shape[-1])
    if space.kind in ("sphere", "one_hot", "hyperboloid"):
        return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)[0]
    return like.new_zeros(())
