"""Monotone rational-quadratic splines, on the line and on the circle, inverted without loss.

A spline goes through knots (x_k, y_k) with derivatives d_k. In the piece of width w and height h,
with s = h / w and z = (x - x_k) / w,

    y = y_k + h (s z^2 + d_0 z (1 - z)) / (s + (d_0 + d_1 - 2 s) z (1 - z)).

z is the root of a quadratic. Its discriminant, as the difference that the textbook formula makes
of it, is negative by rounding where slopes are far apart (float32 then gives NaN). With
t = (y - y_k) / h it is a sum of squares,

    r^2 = (d_0 (1 - t) - d_1 t)^2 + 4 s^2 t (1 - t),

and of z = 2 s t / (B + r) and 1 - z = 2 s (1 - t) / (B' + r), in which B' = d_1 - (1 - t) g,
B = d_0 - t g, g = d_0 + d_1 - 2 s, one at least has no cancellation, since B + B' = 2 s.
"""

from __future__ import annotations

__all__ = ["CircularSpline", "Spline"]

import math
from typing import Any, NamedTuple

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform
from torch.nn.functional import pad

from pyro_vae.distributions.circular import circle, wrapped


class _Piece(NamedTuple):
    """The piece in which a number lies, and where in it, from the left and from the right."""

    start: Tensor
    size: Tensor
    slope: Tensor
    first: Tensor
    last: Tensor
    to_start: Tensor
    to_size: Tensor
    left: Tensor
    right: Tensor


class OnePass(Transform):
    """A map whose value and log |dy/dx| come from one pass, either way."""

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value at x, and log |dy/dx|."""
        raise NotImplementedError

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |dy/dx|, as `call_and_ladj` does."""
        return self.call_and_ladj(x)[1]

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        back: Any = self.inv
        return back.call_and_ladj(y)[0]


class Spline(OnePass):
    """A monotone rational-quadratic spline from [-bound, bound] onto itself, else the identity.

    Derivatives are 1 at both ends, so that it is smooth there. All numbers 0 give the identity.

    Arguments:
        widths: Unconstrained widths of the K pieces, with shape `(*, K)`.
        heights: Their unconstrained heights, with shape `(*, K)`.
        derivatives: Unconstrained derivatives at the knots between them, with shape `(*, K - 1)`.
        bound: Where the spline ends.
        slope: The least derivative at a knot, its inverse being the greatest; widths and heights
            differ by no more than that factor either.
        inverted: Whether this is the map from y to x.

    References:
        Neural Spline Flows (C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, 2019)

    Example:
        >>> spline = Spline(torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(3))
        >>> y = spline(torch.tensor([-2.5, 0.0, 7.0]))
        >>> y, spline.inv(y)
        (tensor([-0.8009,  1.1327,  7.0000]), tensor([-2.5000,  0.0000,  7.0000]))
    """

    domain: Any = constraints.real
    codomain: Any = constraints.real
    bijective = True
    sign = 1  # type: ignore[assignment]

    def __init__(
        self,
        widths: Tensor,
        heights: Tensor,
        derivatives: Tensor,
        bound: float = 5.0,
        slope: float = 1e-3,
        *,
        inverted: bool = False,
    ) -> None:
        super().__init__()
        self.bound, self.inverted = bound, inverted
        self.widths = 2 * bound * _soft(2 * widths, slope).div(2).softmax(-1)
        self.heights = 2 * bound * _soft(2 * heights, slope).div(2).softmax(-1)
        self.derivatives = self._ends(_soft(derivatives, slope)).exp()

    def _ends(self, inner: Tensor) -> Tensor:
        """The logarithms of the derivatives at all K + 1 knots."""
        return pad(inner, (1, 1), value=0.0)

    @property
    def inv(self) -> Spline:  # type: ignore[override]
        """The spline from y to x."""
        new = object.__new__(type(self))
        Transform.__init__(new)
        new.bound, new.inverted = self.bound, not self.inverted
        new.widths, new.heights, new.derivatives = self.widths, self.heights, self.derivatives
        return new

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value at x and the logarithm of the derivative, both shaped as `x`."""
        inside = x.abs() < self.bound
        piece = self._piece(torch.where(inside, x, 0.0))
        z, rest = _root(piece) if self.inverted else (piece.left, piece.right)
        slope, first, last = piece.slope, piece.first, piece.last
        # sums of what is positive: 1 - 2 z (1 - z) = z^2 + (1 - z)^2
        below = slope * (z * z + rest * rest) + (first + last) * z * rest
        above = 2 * slope * z * rest + first * rest * rest + last * z * z
        log_slope = 2 * slope.log() + above.log() - 2 * below.log()
        if self.inverted:
            y, log_slope = piece.to_start + piece.to_size * z, -log_slope
        else:
            y = piece.to_start + piece.to_size * (slope * z * z + first * z * rest) / below
        return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)

    def _piece(self, x: Tensor) -> _Piece:
        here, there = self.widths, self.heights
        if self.inverted:
            here, there = there, here
        x, _ = torch.broadcast_tensors(x, here[..., 0])
        knots, to_knots = (
            pad(sizes[..., :-1].cumsum(-1), (1, 0)) - self.bound for sizes in (here, there)
        )
        index = (knots <= x.unsqueeze(-1)).sum(-1, keepdim=True) - 1

        def at(values: Tensor) -> Tensor:
            return values.expand(*x.shape, values.shape[-1]).gather(-1, index).squeeze(-1)

        start, size, to_size = at(knots), at(here), at(there)
        left = _within((x - start) / size)
        return _Piece(
            start=start,
            size=size,
            slope=at(self.heights) / at(self.widths),
            first=at(self.derivatives[..., :-1]),
            last=at(self.derivatives[..., 1:]),
            to_start=at(to_knots),
            to_size=to_size,
            left=left,
            right=1 - left,
        )


class CircularSpline(Spline):
    """A spline of the circle: the angle turned by pi, then a spline of [-pi, pi] with one end.

    The derivative at the cut is free, and one number on both sides of it. Turning brings what was
    opposite the cut to it, so that several in a row favour no point.

    Arguments:
        widths: Unconstrained widths of the K pieces, with shape `(*, K)`.
        heights: Their unconstrained heights, with shape `(*, K)`.
        derivatives: Unconstrained derivatives at the K knots, with shape `(*, K)`.
        slope: The least derivative at a knot, as for `Spline`.

    References:
        Normalizing Flows on Tori and Spheres (D. J. Rezende and others, 2020)

    Example:
        >>> turn = CircularSpline(torch.zeros(4), torch.zeros(4), torch.zeros(4))
        >>> turn(torch.tensor([1.0, -1.0]))  # the identity, but for the turn
        tensor([-2.1416,  2.1416])
    """

    domain = circle
    codomain = circle

    def __init__(
        self, widths: Tensor, heights: Tensor, derivatives: Tensor, slope: float = 1e-3
    ) -> None:
        super().__init__(widths, heights, derivatives, math.pi, slope)

    def _ends(self, inner: Tensor) -> Tensor:
        return torch.cat([inner, inner[..., :1]], -1)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the angle at x and the logarithm of the derivative, both shaped as `x`."""
        if self.inverted:
            y, log_slope = super().call_and_ladj(x)
            return wrapped(y + math.pi), log_slope
        return super().call_and_ladj(wrapped(x + math.pi))


def _soft(x: Tensor, slope: float) -> Tensor:
    """Real numbers brought smoothly between log(slope) and -log(slope)."""
    return x / (1 + (x / math.log(slope)).abs())


def _root(piece: _Piece) -> tuple[Tensor, Tensor]:
    """Z and 1 - z at t = (y - y_k) / h, each from the formula without cancellation."""
    slope, first, last, t, rest = piece.slope, piece.first, piece.last, piece.left, piece.right
    gap = first + last - 2 * slope
    root = ((first * rest - last * t).square() + 4 * slope.square() * t * rest).sqrt()
    from_left, from_right = first - t * gap, last - rest * gap
    near, far = from_left >= 0, from_right >= 0
    # the formula that is not used must not divide by 0, or its gradient is no number
    z = 2 * slope * t / torch.where(near, from_left + root, 1.0)
    opposite = 2 * slope * rest / torch.where(far, from_right + root, 1.0)
    return (
        _within(torch.where(near, z, 1 - opposite)),
        _within(torch.where(far, opposite, 1 - z)),
    )


def _within(share: Tensor) -> Tensor:
    """What rounding puts beyond 0 or 1 brought back, with its gradient."""
    return share + (share.detach().clamp(0.0, 1.0) - share.detach())
