"""Two lines that meet: log ratios in the coordinate of q, where they count and where they bend.

What the quadrature (`pyro_vae.kl.quadrature`) integrates, and where it puts its nodes: the frames
of its coordinate, the range beyond which nothing is left, and the kinks that cut it in panels.
"""

from __future__ import annotations

__all__ = ["Pair", "extent", "frames_of", "panels", "traced"]

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_vae.kl.charts import Chart, Point, backward, forward, matched
from pyro_vae.kl.lines import Frame, Line

_NEGLIGIBLE = -46.0  # log 1e-20
_OVERFLOW = 1e300
_FAR = 300.0  # log y from which on a heavy line is asked for its tail: y^2 overflows at 354
_BISECTIONS, _CLOSER = 4, 12
_STEP = 1e-3


class Pair(NamedTuple):
    """The lines of a guide and a prior.

    Arguments:
        q: The line of the guide.
        p: The line of the prior, positive wherever q is.
        finite: Where their KL is finite, of the batch shape; None for everywhere.
    """

    q: Line
    p: Line
    finite: Tensor | None

    def mapped(self, change: Callable[[Tensor, int], Tensor]) -> Pair:
        """Change every parameter, given with the number of its dimensions beyond the batch."""
        finite = None if self.finite is None else change(self.finite, 0)
        return Pair(self.q.mapped(change), self.p.mapped(change), finite)

    def log_densities(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Log q and log p, both with respect to dy, at the coordinate y of q."""
        to_x, from_x = matched(self.q.chart, self.p.chart)
        if not to_x and not from_x:
            return self.q.log_density(y), self.p.log_density(y)
        at = backward(from_x, forward(to_x, y))
        return self.q.log_density(y), _log_density(self.p, at) + at.slope


def _log_density(p: Line, at: Point) -> Tensor:
    if not p.heavy or at.below is None:
        return p.log_density(at.x)
    # exp y overflows long before the tails of a heavy guide and a heavy prior are negligible
    far = at.below > _FAR
    near = p.log_density(torch.where(far, 1.0, at.x))
    return torch.where(far, p.log_tail(torch.where(far, at.below, _FAR)), near)


def traced() -> bool:
    """Say whether this runs inside a graph or a function transform, where values are not known.

    Returns:
        True under `make_fx`, `torch.compile`, `torch.jit.trace` and `torch.func`.
    """
    return (
        get_proxy_mode() is not None
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.maybe_current_level() is not None  # type: ignore[attr-defined]
    )


# --------------------------------------------------------------------------------------- frames
def frames_of(pair: Pair) -> list[Frame]:
    """The frames of q, and the singularities of log p as seen from the coordinate of q.

    Arguments:
        pair: The lines.

    Returns:
        At least one frame.

    Example:
        >>> import torch.distributions as td, pyro_vae.kl
        >>> from pyro_vae.kl.lines import line_of
        >>> q, p = td.Normal(0.0, 1.0), td.StudentT(4.0, 1.0, 3.0)
        >>> frames = frames_of(Pair(line_of(q), line_of(p), None))
        >>> [(f.centre.item(), f.scale.item()) for f in frames]
        [(0.0, 1.0), (1.0, 6.0)]
    """
    frames, seen = pair.q.frames(), pair.p.singularities()
    if len(pair.p.frames()) > 1:
        seen = pair.p.frames() + seen
    own = frames[0]
    to_x, from_x = matched(pair.q.chart, pair.p.chart)
    if not to_x and not from_x:
        return frames + seen
    ends = forward(to_x, own.centre)
    marks = [torch.complex(*torch.broadcast_tensors(c, s)) for c, s in seen]
    for step in from_x:
        marks = [step.complex_forward(z) for z in marks]
        # where both supports end in one place, y sees no singularity there
        marks += [_real(z, own) for z in step.singular() if z not in _constants(ends)]
    for step in reversed(to_x):
        marks = [step.complex_backward(z) for z in marks]
    if to_x and not pair.q.near_chart:
        marks += [torch.full_like(own.centre, z, dtype=torch.complex128) for z in _own(to_x)]
    for z in marks:
        usable = z.real.isfinite() & z.imag.isfinite() & (z.imag != 0)
        centre = torch.where(usable, z.real, own.centre)
        frames.append(Frame(centre, torch.where(usable, z.imag.abs(), own.scale)))
    return frames


def _own(chart: Chart) -> tuple[complex, ...]:
    return chart[0].complex_singular()


def _constants(at: Point) -> list[float]:
    return [end for end in (at.low, at.high) if isinstance(end, float)]


def _real(z: Tensor | float, like: Frame) -> Tensor:
    x = z if isinstance(z, Tensor) else torch.full_like(like.centre, z)
    return torch.complex(x, torch.zeros_like(x))


# ---------------------------------------------------------------------------------------- range
def extent(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """The ends beyond which |q log(q / p)| dy is below 1e-20 max(1, KL), where such were found.

    Arguments:
        pair: The lines.

    Returns:
        The lower and the upper end in the coordinate of q (its centre where there are none), and
        a BoolTensor that says where there are.

    Example:
        >>> import torch.distributions as td, pyro_vae.kl
        >>> from pyro_vae.kl.lines import line_of
        >>> q, p = td.Normal(0.0, 1.0), td.Normal(1.0, 1.0)
        >>> low, high, ok = extent(Pair(line_of(q), line_of(p), None))
        >>> bool(ok), 9 < high.item() < 11
        (True, True)
    """
    frames = pair.q.frames()
    ends = [_reach(pair, frame) for frame in frames]
    low, high = (
        torch.stack([e[0] for e in ends]).amin(0),
        torch.stack([e[1] for e in ends]).amax(0),
    )
    ok = torch.stack([e[2] for e in ends]).all(0)
    ok = ok if pair.finite is None else ok & pair.finite
    centre = frames[0].centre
    return torch.where(ok, low, centre), torch.where(ok, high, centre), ok


@lru_cache
def _scan(heavy: bool) -> np.ndarray:
    """Places v at which to look first; y = centre + scale sinh v, or sinh(2 sinh v) if heavy."""
    side = np.arange(1, 14) * 0.5 if heavy else np.array([1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16.0])
    return np.concatenate([-side[::-1], side])


def _reach(pair: Pair, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
    """The range about one frame: from the last places that count, out to the first that do not."""
    grid = torch.as_tensor(_scan(pair.q.heavy), device=frame.centre.device)
    mass, size = _sizes(pair, frame, grid.reshape(-1, *(1,) * frame.centre.dim()))
    regular = size < torch.inf
    # in a KL that is large, more is negligible, though not in the mass of q
    limit = _NEGLIGIBLE + torch.where(regular, size, 0.0).amax(0).clamp(min=0)
    counts = _counts(mass, size, limit)
    inner, outer = _sides(grid, counts)
    ok = counts.any(0) & ~counts[0] & ~counts[-1]
    for _ in range(_BISECTIONS):
        middle = (inner + outer) / 2
        counts = _counts(*_sizes(pair, frame, middle), limit)
        inner, outer = torch.where(counts, middle, inner), torch.where(counts, outer, middle)
    ok = ok & _sizes(pair, frame, outer)[1].isfinite().all(0)
    if traced() or not bool(regular.all()):
        ok = ok & _falls(pair, frame, limit, *_sides(grid, regular))
    low, high = _placed(pair, frame, outer)[0]
    return low, high, ok & low.isfinite() & high.isfinite()


def _counts(mass: Tensor, size: Tensor, limit: Tensor) -> Tensor:
    return ((mass > _NEGLIGIBLE) | (size > limit)) & (size < torch.inf)


def _sides(grid: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest place inside, and their neighbours outside."""
    last = len(grid) - 1
    order = torch.arange(len(grid), device=grid.device).reshape(-1, *(1,) * (inside.dim() - 1))
    ends = [torch.where(inside, order, last).amin(0), torch.where(inside, order, 0).amax(0)]
    beyond = [(ends[0] - 1).clamp(min=0), (ends[1] + 1).clamp(max=last)]
    return grid[torch.stack(ends)], grid[torch.stack(beyond)]


def _falls(pair: Pair, frame: Frame, limit: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """Whether the integrand is negligible and falls where the log ratio comes to overflow.

    It cannot be looked at beyond, and may rise there from nothing to more than float64 holds:
    Normal against a narrow Gumbel. In logarithms it is concave there, and once it falls, it falls.
    """
    for _ in range(_CLOSER):
        middle = (inner + outer) / 2
        regular = _sizes(pair, frame, middle)[1] < torch.inf
        inner, outer = torch.where(regular, middle, inner), torch.where(regular, outer, middle)
    size, before = (_sizes(pair, frame, v)[1] for v in (inner, inner * (1 - _STEP)))
    falls = (size < limit) & ((size < before) | (size == -torch.inf))
    # an end of the grid that was never beyond
    return (falls | (inner == outer)).all(0)


def _placed(pair: Pair, frame: Frame, v: Tensor) -> tuple[Tensor, Tensor]:
    u = 2 * v.sinh() if pair.q.heavy else v
    return frame.centre + frame.scale * u.sinh(), u


def _sizes(pair: Pair, frame: Frame, v: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of q and of q (1 + |log ratio|), per unit of u; +inf where that overflows."""
    y, u = _placed(pair, frame, v)
    log_q, log_p = pair.log_densities(y)
    mass = log_q + (frame.scale * u.cosh()).log()
    ratio = (log_q - log_p).abs()
    size = torch.where(ratio < _OVERFLOW, mass + torch.log1p(ratio), torch.inf)
    # q is nothing at all where its logarithm overflows
    return mass, torch.where((log_q == -torch.inf) & log_p.isfinite(), -torch.inf, size)


# ---------------------------------------------------------------------------------------- kinks
def panels(pair: Pair, low: Tensor, high: Tensor) -> Tensor:
    """The edges of the panels: both ends and, with their gradients, the kinks between them.

    Arguments:
        pair: The lines.
        low: The lower end of the range.
        high: The upper end.

    Returns:
        Shape (2 + kinks, *batch), sorted; a kink outside of the range lies at its upper end.

    Example:
        >>> import torch.distributions as td, pyro_vae.kl
        >>> from pyro_vae.kl.lines import line_of
        >>> pair = Pair(line_of(td.Laplace(0.0, 1.0)), line_of(td.Laplace(9.0, 1.0)), None)
        >>> panels(pair, torch.tensor(-5.0), torch.tensor(6.0)).tolist()
        [-5.0, 0.0, 6.0, 6.0]
    """
    places = list(pair.q.kinks())
    to_x, from_x = matched(pair.q.chart, pair.p.chart)
    for kink in pair.p.kinks():
        with torch.no_grad():
            place = backward(to_x, forward(from_x, kink)).x
            inside = (place > low) & (place < high)
            stand_in = backward(from_x, forward(to_x, (low + high) / 2)).x
        # the logarithm of a place that q does not reach would poison the gradient
        place = backward(to_x, forward(from_x, torch.where(inside, kink, stand_in))).x
        places.append(torch.where(inside, place, high))
    if not places:
        return torch.stack([low, high])
    inner = torch.stack([torch.where((k > low) & (k < high), k, high) for k in places])
    inner = inner.sort(0).values
    return torch.cat([low.unsqueeze(0), inner, high.unsqueeze(0)])
