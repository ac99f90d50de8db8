"""Supports: which space a constraint describes, and which space lies within which.

KL(q || p) needs q to put no mass where p has none, so a guide may be paired with a prior only
if the support of q lies within that of p, and both are densities with respect to the same
measure. torch and Pyro describe supports by constraints, which they cannot compare; here a
constraint is read as a `Space` (a kind and its bounds), and spaces are compared.

The kinds are `real` (a product of intervals of the line, bounded or not), `simplex`, `sphere`,
`circle`, `one_hot`, `integer`, `product` and, for whatever is not recognised, `unknown`. An angle
is no number of an interval: its space has no ends, and a function of a number (a prior's density,
say) is none of a point on the circle. A constraint may name a kind itself, as `space_kind`.

A `product` has parts that lie side by side along the last dimension of an event. A constraint
says so by attributes `blocks` (one constraint each), `lengths` (along the last dimension) and
`shapes` (of one draw of each). Neighbours that are one space of numbers are one part, and a
product of one such space is no product, but that space: R x R is real.
"""

from __future__ import annotations

__all__ = [
    "Part",
    "Space",
    "data_support",
    "inside",
    "interior_point",
    "legal_point",
    "lies_within",
    "matched",
    "space_of",
]

import itertools
import math
from typing import Any, NamedTuple

import pyro.distributions as dist
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
        parts: Of a product, what lies side by side.
    """

    kind: str
    lower: float = -math.inf
    upper: float = math.inf
    parts: tuple[Part, ...] = ()

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
        if self.kind == "product":
            return " x ".join(part.space.name for part in self.parts)
        if self[:3] in named:
            return named[self[:3]]
        if self.kind in ("real", "integer"):
            body = f"[{self.lower:g}, {self.upper:g}]"
            return f"interval {body}" if self.kind == "real" else f"integers in {body}"
        return self.kind

    @property
    def is_discrete(self) -> bool:
        """Whether distributions on this space are masses, not densities."""
        return self.kind in ("integer", "one_hot") or any(p.space.is_discrete for p in self.parts)


class Part(NamedTuple):
    """A part of a product.

    Arguments:
        space: The space.
        length: How long it is along the last dimension of an event.
        shape: The shape of one draw; empty for a space of numbers, each of which lies in it by
            itself.
    """

    space: Space
    length: int
    shape: tuple[int, ...] = ()


# spaces of numbers, of which any part of an event lies in the same
_OF_NUMBERS = ("real", "integer", "circle")


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
    if named == "product":
        return _product(support)
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


def _product(support: Any) -> Space:
    """The space of constraints side by side."""
    parts: list[Part] = []
    for block, length, shape in zip(support.blocks, support.lengths, support.shapes, strict=True):
        space = space_of(block)
        if space.kind == "unknown" or (
            space.kind == "product" and len(shape) != support.event_dim
        ):
            return Space("unknown")
        own = () if space.kind in _OF_NUMBERS else tuple(shape)
        for part in space.parts or (Part(space, length, own),):
            if parts and not part.shape and part.space == parts[-1].space:
                part = part._replace(length=part.length + parts.pop().length)
            parts.append(part)
    return parts[0].space if len(parts) == 1 else Space("product", parts=tuple(parts))


def matched(inner: Space, outer: Space) -> list[tuple[Part, Part]] | None:
    """Return what of one product stands beside what of another, or of a space of numbers.

    Arguments:
        inner: A space.
        outer: Another one, of events of the same shape.

    Returns:
        Pairs of parts of equal length, in order; None if one of the two does not come apart
        where the other does (a simplex cannot be cut), or neither is a product.

    Example:
        >>> halves = Space("product", parts=(Part(Space("real"), 2), Part(Space("real", 0.0), 1)))
        >>> [(q.space.name, p.length) for q, p in matched(Space("real"), halves)]
        [('real line', 2), ('real line', 1)]
    """
    if "product" not in (inner.kind, outer.kind):
        return None
    total = sum(part.length for part in (inner.parts or outer.parts))
    sides = [
        s.parts or (Part(s, total, () if s.kind in _OF_NUMBERS else (-1,)),)
        for s in (inner, outer)
    ]
    ends = [list(itertools.accumulate(part.length for part in side)) for side in sides]
    if ends[0][-1] != ends[1][-1]:
        return None
    cuts, pairs, start = sorted({*ends[0], *ends[1]}), [], 0
    for end in cuts:
        parts = [side[sum(e < end for e in at)] for side, at in zip(sides, ends, strict=True)]
        if any(part.shape and part.length != end - start for part in parts):
            return None
        q, p = (part._replace(length=end - start) for part in parts)
        pairs.append((q, p))
        start = end
    return pairs


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
    if "product" in (q.kind, p.kind):
        pairs = matched(q, p)
        return pairs is not None and all(_within(*pair) for pair in pairs)
    return _within(Part(q, 0), Part(p, 0))


def _within(q: Part, p: Part) -> bool:
    same = q.space.kind == p.space.kind and q.shape == p.shape
    return same and q.space.lower >= p.space.lower and q.space.upper <= p.space.upper


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


def data_support(distribution: Any) -> Constraint:
    """Return where data have a log density that is finite: the support, or less of it.

    A class says so by an attribute `data_support` where its support has ends at which its density
    is 0 or infinite: draws never lie there, but data may.

    Arguments:
        distribution: A distribution, possibly of independent elements, masked, or a mixture.

    Returns:
        A constraint on events.

    Example:
        >>> from pyro_vae.distributions import Beta
        >>> beta = Beta(torch.ones(1), 1.0)
        >>> ends = torch.tensor([0.0, 1.0])
        >>> beta.support.check(ends).tolist(), data_support(beta).check(ends).tolist()
        ([True, True], [False, False])
    """
    base: Any = distribution
    dims = 0
    while not hasattr(base, "data_support"):
        if isinstance(base, dist.Independent):
            dims += base.reinterpreted_batch_ndims
        if isinstance(
            base, dist.Independent | dist.MaskedDistribution | dist.ExpandedDistribution
        ):
            base = base.base_dist
        elif isinstance(base, torch.distributions.MixtureSameFamily):
            base = base.component_distribution
        else:
            return distribution.support
    found = base.data_support
    return constraints.independent(found, dims) if dims else found


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
    if space.kind == "product":
        return _legal_parts(support, like)
    if space.kind in _OF_NUMBERS:
        return like.new_full((), interior_point(support))
    if space.kind == "simplex":
        return like.new_full(like.shape[-1:], 1 / like.shape[-1])
    if space.kind in ("sphere", "one_hot", "hyperboloid"):
        return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)[0]
    return like.new_zeros(())


def _legal_parts(support: Any, like: Tensor) -> Tensor:
    """Legal points of all blocks, side by side."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    points = []
    for block, length, shape in zip(support.blocks, support.lengths, support.shapes, strict=True):
        point = legal_point(block, like.new_zeros(shape)).expand(shape)
        points.append(point.reshape((*like.shape[-support.event_dim :][:-1], length)))
    return torch.cat(points, -1)
