"""Charts: from a coordinate y on the whole line to x, without losing the ends of the support.

A density on (0, inf) or (0, 1) is best integrated in y = log x or y = logit x, where y may be
-4500 and x nothing. So that a guide in one coordinate can meet a prior in another, a `Point`
carries, besides x, the logarithms of its distances from the ends of its support and of dx/dy; each
`Map` moves all of these forward (towards x) and back (towards a coordinate), and where two charts
end alike, the maps cancel before anything is computed.
"""

from __future__ import annotations

__all__ = [
    "Affine",
    "Chart",
    "Exp",
    "Inverse",
    "Map",
    "Point",
    "Sigmoid",
    "Softplus",
    "backward",
    "forward",
    "log_expm1",
    "matched",
]

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

Bound = Tensor | float | None


class Point(NamedTuple):
    """A place on a support, seen from its ends.

    Arguments:
        x: The place.
        slope: log |dx/dy|, y the coordinate from which it came.
        low: The lower end of the support, None without one.
        high: The upper end, None without one.
        below: log(x - low), if there is a lower end.
        above: log(high - x), if there is an upper end.
    """

    x: Tensor
    slope: Tensor
    low: Bound = None
    high: Bound = None
    below: Tensor | None = None
    above: Tensor | None = None

    def log(self) -> Tensor:
        """Log x, from the distance to the lower end where there is one."""
        return self.x.log() if self.below is None else _beyond(self.below, self.low)

    def log_rest(self) -> Tensor:
        """log(1 - x), likewise from the upper end."""
        if self.above is None:
            return torch.log1p(-self.x)
        return _beyond(self.above, 1 - self.high)  # type: ignore[operator]


def _beyond(log_distance: Tensor, gap: Bound) -> Tensor:
    """log(distance + gap), gap >= 0; where a gap is negative there is no density to be had."""
    if isinstance(gap, Tensor):
        some = gap > 0
        added = torch.logaddexp(log_distance, torch.where(some, gap, 1.0).log())
        return torch.where(some, added, log_distance)
    if not gap:
        return log_distance
    return torch.logaddexp(log_distance, torch.full_like(log_distance, gap).log())


class Map:
    """A bijection of intervals, strictly increasing; without parameters unless it says so."""

    def forward(self, at: Point) -> Point:
        """Move a point towards x."""
        raise NotImplementedError

    def backward(self, at: Point) -> Point:
        """Move a point towards its coordinate."""
        raise NotImplementedError

    def complex_forward(self, z: Tensor) -> Tensor:
        """Apply the map to complex numbers."""
        raise NotImplementedError

    def complex_backward(self, z: Tensor) -> Tensor:
        """Apply the inverse to complex numbers (its principal branch)."""
        raise NotImplementedError

    def singular(self) -> tuple[Tensor | float, ...]:
        """Return the points at which the inverse is singular."""
        return ()

    def complex_singular(self) -> tuple[complex, ...]:
        """Return the points in the upper half-plane, nearest to the axis, where it is singular."""
        return ()

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Map:
        """Return the map with its parameters changed."""
        return self

    def same(self, other: Map) -> bool:
        """Say whether both are the same map, as far as classes and objects tell."""
        return type(self) is type(other)


class Exp(Map):
    """x = exp y."""

    def forward(self, at: Point) -> Point:
        """Move a point towards x."""
        low, below, high, above = 0.0, at.x, None, None
        if at.below is not None:
            low, below = _exp(at.low), _full(at.low, at.x) + log_expm1(at.below)
        if at.above is not None:
            high, above = _exp(at.high), at.x + log_expm1(at.above)
        return Point(at.x.exp(), at.slope + at.x, low, high, below, above)

    def backward(self, at: Point) -> Point:
        """Move a point towards its coordinate."""
        x = at.log()
        return Point(x, at.slope - x)

    def complex_forward(self, z: Tensor) -> Tensor:
        """Apply the map to complex numbers."""
        return z.exp()

    def complex_backward(self, z: Tensor) -> Tensor:
        """Apply the inverse to complex numbers."""
        return z.log()

    def singular(self) -> tuple[Tensor | float, ...]:
        """Return the points at which the inverse is singular."""
        return (0.0,)


class Sigmoid(Map):
    """x = 1 / (1 + exp(-y))."""

    def forward(self, at: Point) -> Point:
        """Move a point towards x."""
        left, right = logsigmoid(at.x), logsigmoid(-at.x)
        low, high, below, above = 0.0, 1.0, left, right
        if at.below is not None:
            # s(x) - s(l) = s(x) s(-l) (1 - exp(l - x))
            end = _full(at.low, at.x)
            low, below = end.sigmoid(), left + logsigmoid(-end) + _log_shrunk(at.below)
        if at.above is not None:
            end = _full(at.high, at.x)
            high, above = end.sigmoid(), right + logsigmoid(end) + _log_shrunk(at.above)
        return Point(at.x.sigmoid(), at.slope + left + right, low, high, below, above)

    def backward(self, at: Point) -> Point:
        """Move a point towards its coordinate."""
        left, right = at.log(), at.log_rest()
        return Point(left - right, at.slope - left - right)

    def complex_forward(self, z: Tensor) -> Tensor:
        """Apply the map to complex numbers."""
        return 1 / (1 + (-z).exp())

    def complex_backward(self, z: Tensor) -> Tensor:
        """Apply the inverse to complex numbers."""
        return z.log() - (1 - z).log()

    def complex_singular(self) -> tuple[complex, ...]:
        """Return where in the upper half-plane it is singular."""
        return (complex(0, math.pi),)

    def singular(self) -> tuple[Tensor | float, ...]:
        """Return the points at which the inverse is singular."""
        return (0.0, 1.0)


class Softplus(Map):
    """x = log(1 + exp y)."""

    def forward(self, at: Point) -> Point:
        """Move a point towards x."""
        x, slope = softplus(at.x), at.slope + logsigmoid(at.x)
        if at.low is None and at.high is None:
            far = at.x < -36
            below = torch.where(far, at.x, softplus(torch.where(far, 0.0, at.x)).log())
            return Point(x, slope, 0.0, None, below)
        low, high = (None if b is None else softplus(_full(b, at.x)) for b in (at.low, at.high))
        below = None if low is None else (x - low).log()
        return Point(x, slope, low, high, below, None if high is None else (high - x).log())

    def backward(self, at: Point) -> Point:
        """Move a point towards its coordinate."""
        x = log_expm1(at.log())
        return Point(x, at.slope - logsigmoid(x))

    def complex_forward(self, z: Tensor) -> Tensor:
        """Apply the map to complex numbers."""
        return (1 + z.exp()).log()

    def complex_backward(self, z: Tensor) -> Tensor:
        """Apply the inverse to complex numbers."""
        return (z.exp() - 1).log()

    def singular(self) -> tuple[Tensor | float, ...]:
        """Return the points at which the inverse is singular."""
        return (0.0,)

    def complex_singular(self) -> tuple[complex, ...]:
        """Return where in the upper half-plane it is singular."""
        return (complex(0, math.pi),)


class Affine(Map):
    """x = loc + scale y; where there are ends, NaN comes out of a negative scale.

    Arguments:
        loc: The shift.
        scale: The factor.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale

    def forward(self, at: Point) -> Point:
        """Move a point towards x."""
        return self._moved(at, lambda x: self.loc + self.scale * x, 1.0)

    def backward(self, at: Point) -> Point:
        """Move a point towards its coordinate."""
        return self._moved(at, lambda x: (x - self.loc) / self.scale, -1.0)

    def _moved(self, at: Point, move: Callable[..., Tensor], sign: float) -> Point:
        log = sign * self.scale.log()
        return Point(
            move(at.x),
            at.slope + sign * self.scale.abs().log(),
            None if at.low is None else move(at.low),
            None if at.high is None else move(at.high),
            None if at.below is None else at.below + log,
            None if at.above is None else at.above + log,
        )

    def complex_forward(self, z: Tensor) -> Tensor:
        """Apply the map to complex numbers."""
        return self.loc + self.scale * z

    def complex_backward(self, z: Tensor) -> Tensor:
        """Apply the inverse to complex numbers."""
        return (z - self.loc) / self.scale

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Affine:
        """Return the map with its parameters changed."""
        return Affine(change(self.loc), change(self.scale))

    def same(self, other: Map) -> bool:
        """Say whether both are the same map."""
        return self is other


class Inverse(Map):
    """The inverse of a map.

    Arguments:
        inner: The map.
    """

    def __init__(self, inner: Map) -> None:
        self.inner = inner
        self.forward, self.backward = inner.backward, inner.forward
        self.complex_forward = inner.complex_backward
        self.complex_backward = inner.complex_forward

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Inverse:
        """Return the map with its parameters changed."""
        return Inverse(self.inner.mapped(change))

    def same(self, other: Map) -> bool:
        """Say whether both are the same map."""
        return isinstance(other, Inverse) and self.inner.same(other.inner)


Chart = tuple[Map, ...]
"""Maps from a coordinate to x, in the order in which they are applied."""


def forward(chart: Chart, y: Tensor) -> Point:
    """Return the point whose coordinate is y.

    Arguments:
        chart: The chart.
        y: The coordinate, of any shape.

    Returns:
        The point.

    Example:
        >>> forward((Sigmoid(),), torch.tensor(-800.0)).below.item()
        -800.0
    """
    at = Point(y, torch.zeros_like(y))
    for step in chart:
        at = step.forward(at)
    return at


def backward(chart: Chart, at: Point) -> Point:
    """Return the coordinate of a point, as the x of a point, with the slope accumulated.

    Arguments:
        chart: The chart.
        at: The point.

    Returns:
        The point moved to the chart's coordinate.

    Example:
        >>> backward((Exp(),), forward((Exp(),), torch.tensor(-800.0))).x.item()
        -800.0
    """
    for step in reversed(chart):
        at = step.backward(at)
    return at


def matched(q: Chart, p: Chart) -> tuple[Chart, Chart]:
    """Return both charts without the maps in which they end alike.

    Arguments:
        q: A chart.
        p: Another one.

    Returns:
        What is left of each.

    Example:
        >>> matched((Exp(),), (Exp(),))
        ((), ())
    """
    while q and p and q[-1].same(p[-1]):
        q, p = q[:-1], p[:-1]
    return q, p


def log_expm1(log_x: Tensor) -> Tensor:
    """log(exp(x) - 1) of x = exp(log_x), with all digits for any size of x.

    Arguments:
        log_x: The logarithm of a positive number.

    Returns:
        The value, differentiable.

    Example:
        >>> log_expm1(torch.tensor([-900.0, 3.0])).tolist()
        [-900.0, 20.08553695678711]
    """
    return log_x.exp() + _log_shrunk(log_x)


def _log_shrunk(log_x: Tensor) -> Tensor:
    """log(1 - exp(-x)) of x = exp(log_x)."""
    tiny = log_x < -36
    x = torch.where(tiny, 0.0, log_x).exp()
    return torch.where(tiny, log_x, (-torch.expm1(-x)).log())


def _exp(bound: Bound) -> Bound:
    return None if bound is None else torch.as_tensor(bound, dtype=torch.float64).exp()


def _full(bound: Bound, like: Tensor) -> Tensor:
    return bound if isinstance(bound, Tensor) else torch.full_like(like, bound)  # type: ignore[arg-type]
