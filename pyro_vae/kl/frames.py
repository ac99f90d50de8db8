"""The coordinate in which an integrand on the line is everywhere of one width.

With frames (c_j, s_j), j = 1 ... J, the coordinate is

    t = G(y) = (1 / J) sum_j asinh((y - c_j) / s_j):

around each centre a step in t is a step of that frame's length, and away from all of them a step
in log |y|. One frame is y = c + s sinh t. Two can be inverted in closed form: with T = 2t,
r = s_1 / s_2, k = (c_1 - c_2) / s_2, D = 1 + r^2 + 2 r cosh T,

    (y - c_1) / s_1 = [sinh T sqrt(k^2 + D) - k (r + cosh T)] / D.

More are inverted from a table, by Newton steps that stay between two of its entries.
"""

from __future__ import annotations

__all__ = ["coordinate", "inverse", "speed"]

import torch
from torch import Tensor

from pyro_vae.kl.lines import Frame

_STEPS = 5
_TABLE = 81


def coordinate(frames: list[Frame], y: Tensor) -> Tensor:
    """G(y), the coordinate t.

    Arguments:
        frames: At least one.
        y: Shape (nodes, *batch).

    Returns:
        The coordinate t.

    Example:
        >>> one = Frame(torch.tensor(1.0), torch.tensor(2.0))
        >>> coordinate([one], torch.tensor(1.0)).item()
        0.0
    """
    return sum(((y - c) / s).asinh() for c, s in frames) / len(frames)  # type: ignore[return-value]


def speed(frames: list[Frame], y: Tensor) -> Tensor:
    """The derivative dy/dt = J / sum_j 1 / sqrt(s_j^2 + (y - c_j)^2).

    Arguments:
        frames: At least one.
        y: Shape (nodes, *batch).

    Returns:
        The derivative, positive.

    Example:
        >>> one = Frame(torch.tensor(1.0), torch.tensor(2.0))
        >>> speed([one], torch.tensor(1.0)).item()
        2.0
    """
    rate: Tensor = sum(torch.hypot(y - c, s).reciprocal() for c, s in frames)  # type: ignore[assignment]
    return len(frames) / rate


def inverse(frames: list[Frame], t: Tensor) -> Tensor:
    """The place y with G(y) = t.

    Arguments:
        frames: At least one.
        t: Shape (nodes, *batch).

    Returns:
        The place y.

    Example:
        >>> two = [Frame(torch.tensor(c).double(), torch.tensor(s).double())
        ...        for c, s in ((1.0, 2.0), (-30.0, 1e-3))]
        >>> t = torch.linspace(-20, 20, 9).double()
        >>> coordinate(two, inverse(two, t)).allclose(t, atol=1e-10)
        True
    """
    if len(frames) == 1:
        (c, s) = frames[0]
        return c + s * t.sinh()
    return _two(frames[0], frames[1], t) if len(frames) == 2 else _many(frames, t)


def _two(first: Frame, second: Frame, t: Tensor) -> Tensor:
    r, k = first.scale / second.scale, (first.centre - second.centre) / second.scale
    half = t.abs().exp()
    e = half.reciprocal().square()
    # sinh T, cosh T and D in units of exp |T|, which overflows
    sh, ch = torch.copysign(0.5 - 0.5 * e * e, t), 0.5 + 0.5 * e * e
    d = (1 + r * r) * e + 2 * r * ch
    a = sh * (k * k * e + d).sqrt() * half
    b = k * (r * e + ch)
    # a - b cancels where both have one sign, and there is another way to write it
    same = (a * b) > 0
    ke = k * e
    other = (sh - ke) * half / torch.where(same, a + b, 1.0) * ((sh + ke) * half)
    return first.centre + first.scale * torch.where(same, other, (a - b) / d)


def _many(frames: list[Frame], t: Tensor) -> Tensor:
    c, s = frames[0]
    # a table about every centre, in which each t is found between two neighbours
    u = torch.linspace(-6, 6, _TABLE, dtype=t.dtype, device=t.device).sinh() * 2
    u = u.reshape(-1, *(1,) * (t.dim() - 1)).expand(_TABLE, *t.shape[1:])
    table = torch.cat([centre + scale * u.sinh() for centre, scale in frames]).sort(0).values
    seen = coordinate(frames, table)
    right = torch.searchsorted(
        seen.movedim(0, -1).contiguous(), t.movedim(0, -1).contiguous()
    ).movedim(-1, 0)
    right = right.clamp(1, len(table) - 1)
    places = ((table - c) / s).asinh()
    low, high = places.gather(0, right - 1), places.gather(0, right)
    first, last = seen.gather(0, right - 1), seen.gather(0, right)
    v = low + (high - low) * ((t - first) / (last - first).clamp(min=1e-300))
    for _ in range(_STEPS):
        y = c + s * v.sinh()
        step = v - (coordinate(frames, y) - t) * speed(frames, y) / (s * v.cosh())
        v = torch.minimum(torch.maximum(step, low), high)
    return c + s * v.sinh()
