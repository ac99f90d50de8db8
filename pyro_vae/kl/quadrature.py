"""KL between any two lines, by one deterministic rule with an error estimate.

KL(q || p) = int q (log q - log p) dy is integrated in a coordinate t(y) (`pyro_vae.kl.frames`)
made of the place and width of q and of the complex singularities of log p, so that scale ratios
of 1e4 cost no more nodes than equal scales. In t the integrand is analytic and dies away at both
ends, for which the trapezoid converges geometrically; where q falls like a power of y,
t = 2 sinh(tau) makes it die away twice as an exponential. A kink (a Laplace) cuts the range into
panels of Fejer's second rule, which has no node on the kink itself: there the derivative of |y|
that autograd takes would be wrong.

Nodes and weights are constants of the parameters (no gradient passes through them), so autograd
of the sum is the quadrature of the derivative. Only kinks move: their panels follow them, or
second derivatives would miss what happens at the kink.

Nodes are nested, so S_(n/2) is there for nothing, and the error is estimated as

    e = |S_n - S_(n/2)| + |sum w q - 1| (1 + |S_n|),

which is the error of the half rule, and says whether any mass of q was missed. A value counts as
exact if e <= 1e-7 max(1, |S|) with 128, 256 or 512 nodes, each tried for those elements alone
that need it. Inside `make_fx`, `torch.compile` or `vmap` nothing may depend on values, and 256
nodes are taken for all.

The method follows The exponentially convergent trapezoidal rule (L. N. Trefethen,
J. A. C. Weideman, 2014).
"""

from __future__ import annotations

__all__ = ["NODES", "TOLERANCE", "Integral", "accepted", "integral", "traced"]

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_vae.kl.charts import Chart, Point, backward, forward, matched
from pyro_vae.kl.frames import coordinate, inverse, speed
from pyro_vae.kl.lines import Frame, Line

TOLERANCE = 1e-7
"""The error, relative to max(1, |KL|), up to which a value counts as exact."""

NODES = (128, 256, 512)
"""The numbers of nodes (per panel) that are tried; the second is used inside graphs."""

_NEGLIGIBLE = -46.0  # log 1e-20
_OVERFLOW = 1e250


class Integral(NamedTuple):
    """A KL by quadrature.

    Arguments:
        value: The KL in nats; NaN where no range was found beyond which nothing is left.
        error: The estimate of its absolute error; +inf where the value is NaN.
    """

    value: Tensor
    error: Tensor


def integral(
    q: Line,
    p: Line,
    batch: torch.Size,
    *,
    finite: Tensor | None = None,
    fixed_nodes: bool | None = None,
) -> Integral:
    """S_n = sum_i w_i q(y_i) (log q(y_i) - log p(y_i)), for KL(q || p).

    Arguments:
        q: The line of the guide.
        p: The line of the prior, positive wherever q is.
        batch: The broadcast batch shape.
        finite: Shape `batch`: where the KL is finite; elsewhere it is not asked for. None:
            everywhere.
        fixed_nodes: Whether to take 256 nodes for all elements and let no value decide about
            the computation, as graphs want it; None: inside a graph or `vmap` only.

    Returns:
        The value and the estimate of its error, both of shape `batch` in float64. The value is
        differentiable twice in the parameters of both lines; the error carries no gradient.
        Where an end of q's support is a parameter and coincides with an end of p's, the KL is
        infinite on one side of it, and the derivative is that for both ends moving together.

    Example:
        >>> import torch.distributions as td, pyro_vae.kl
        >>> from pyro_vae.kl.lines import line_of
        >>> q, p = td.Normal(0.0, 1.0), td.Normal(1.0, 1.0)
        >>> value, error = integral(line_of(q), line_of(p), torch.Size())
        >>> round(value.item(), 12), bool(error < 1e-12)
        (0.5, True)
    """
    pair = _Pair(q.mapped(_onto(batch)), p.mapped(_onto(batch)), finite)
    if traced() if fixed_nodes is None else fixed_nodes:
        return _sum(pair, NODES[1])
    pair = pair.mapped(lambda t, n: t.reshape(-1, *t.shape[t.dim() - n :]))
    value, error = _sum(pair, NODES[0])
    for nodes in NODES[1:]:
        again = (~accepted(value, error) & error.isfinite()).nonzero().squeeze(-1)
        if not len(again):
            break
        finer = _sum(pair.mapped(partial(_taken, again)), nodes)
        value = value.index_copy(0, again, finer.value)
        error = error.index_copy(0, again, finer.error)
    return Integral(value.reshape(batch), error.reshape(batch))


def accepted(value: Tensor, error: Tensor) -> Tensor:
    """Say where a value counts as exact: error <= 1e-7 max(1, |value|).

    Arguments:
        value: Values in nats.
        error: Estimates of their absolute errors.

    Returns:
        A BoolTensor.

    Example:
        >>> accepted(torch.tensor([1.0, 1e6]), torch.tensor([1e-3, 1e-3])).tolist()
        [False, True]
    """
    return error <= TOLERANCE * value.detach().abs().clamp(min=1.0)


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


class _Pair(NamedTuple):
    q: Line
    p: Line
    finite: Tensor | None

    def mapped(self, change: Callable[[Tensor, int], Tensor]) -> _Pair:
        finite = None if self.finite is None else change(self.finite, 0)
        return _Pair(self.q.mapped(change), self.p.mapped(change), finite)

    def terms(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Log q and the log ratio at y, y the coordinate of q."""
        log_q = self.q.log_density(y)
        to_x, from_x = matched(self.q.chart, self.p.chart)
        at = backward(from_x, forward(to_x, y))
        return log_q, log_q - (self.p.log_density(at.x) + at.slope)


def _onto(batch: torch.Size) -> Callable[[Tensor, int], Tensor]:
    return lambda t, n: t.expand(torch.Size([*batch, *t.shape[t.dim() - n :]]))


def _taken(index: Tensor, t: Tensor, _: int) -> Tensor:
    return t[index]


# ---------------------------------------------------------------------------------- the rule
def _sum(pair: _Pair, nodes: int) -> Integral:
    if pair.q.periodic:
        return _weighed(pair, *_ring(pair.q, nodes), _usable(pair))
    with torch.no_grad():
        frames = _frames(pair)
        low, high, ok = _range(pair, frames)
    # a gradient through an element that has no value would be NaN; it is cut at the parameters
    pair = pair.mapped(partial(_gated, ok))
    places = _kinks(pair, low, high)
    with torch.no_grad():
        y, w, half = _nodes(pair, frames, places, nodes)
    if len(places) > 2:
        y, w = _following(y, w, places, nodes)
    return _weighed(pair, y, w, half, ok)


def _weighed(pair: _Pair, y: Tensor, w: Tensor, half: Tensor, ok: Tensor) -> Integral:
    """The sums over nodes, and the error that they tell."""
    log_q, ratio = pair.terms(y)
    density = log_q.exp()
    value = (w * density * ratio).sum(0)
    with torch.no_grad():
        coarse = (half * density * ratio).sum(0)
        mass = (w * density).sum(0)
        error = (value - coarse).abs() + (mass - 1).abs() * (1 + value.abs())
        ok = ok & error.isfinite()
    return Integral(torch.where(ok, value, torch.nan), torch.where(ok, error, torch.inf))


def _ring(q: Line, nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes and weights on the circle, tan(y / 2) = s tan(t / 2) about the centre of q."""
    with torch.no_grad():
        centre, s = q.frame()
        t = torch.arange(nodes, dtype=s.dtype, device=s.device) * (2 * np.pi / nodes) - np.pi
        t = t.reshape(-1, *(1,) * s.dim()) / 2
        y = centre + 2 * torch.atan2(s * t.sin(), t.cos())
        w = 2 * np.pi / nodes * s / (t.cos().square() + (s * t.sin()).square())
        even = (torch.arange(nodes, device=s.device) % 2 == 0).reshape(t.shape)
        return y, w, torch.where(even, 2 * w, 0.0)


def _usable(pair: _Pair) -> Tensor:
    every = torch.ones_like(pair.q.frame().centre, dtype=torch.bool)
    return every if pair.finite is None else every & pair.finite


def _gated(ok: Tensor, t: Tensor, beyond: int) -> Tensor:
    return torch.where(ok.reshape(ok.shape + (1,) * beyond), t, t.detach())


def _nodes(
    pair: _Pair, frames: list[Frame], places: Tensor, nodes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes y, weights, and weights of the half rule, panel after panel."""
    heavy = pair.q.heavy
    edges = coordinate(frames, places)
    edges = (edges / 2).asinh() if heavy else edges
    x, full, half = (
        torch.as_tensor(r, device=edges.device).reshape(-1, *(1,) * (edges.dim() - 1))
        for r in _reference(nodes, smooth=len(places) == 2)
    )
    lengths = (edges[1:] - edges[:-1]) / 2
    tau = torch.cat(
        [m + h * x for m, h in zip((edges[1:] + edges[:-1]) / 2, lengths, strict=True)]
    )
    y = inverse(frames, 2 * tau.sinh() if heavy else tau)
    jacobian = speed(frames, y) * (2 * tau.cosh() if heavy else 1.0)
    weights, coarse = (torch.cat([h * r for h in lengths]) * jacobian for r in (full, half))
    return y, weights, coarse


@lru_cache
def _reference(nodes: int, *, smooth: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes on [-1, 1], weights, and weights of the half rule at the same nodes."""
    if smooth:
        full, half = np.full(nodes + 1, 2 / nodes), np.zeros(nodes + 1)
        half[::2] = 4 / nodes
        for w in (full, half):
            w[[0, -1]] /= 2
        return np.linspace(-1, 1, nodes + 1), full, half
    angles = np.pi * np.arange(1, nodes) / nodes
    half = np.zeros(nodes - 1)
    half[1::2] = _fejer(nodes // 2)
    return -np.cos(angles), _fejer(nodes), half


def _fejer(nodes: int) -> np.ndarray:
    """Weights of Fejer's second rule, (4 sin a / n) sum_j sin((2j - 1) a) / (2j - 1)."""
    a = np.pi * np.arange(1, nodes) / nodes
    odd = 2 * np.arange(1, nodes // 2 + 1) - 1
    return 4 * np.sin(a) / nodes * (np.sin(np.outer(a, odd)) / odd).sum(1)


# ----------------------------------------------------------------------------- frames and range
def _frames(pair: _Pair) -> list[Frame]:
    """The frames of q, and the singularities of log p as seen from the coordinate of q."""
    frames, seen = pair.q.frames(), pair.p.singularities()
    if len(pair.p.frames()) > 1:
        seen = pair.p.frames() + seen
    own = frames[0]
    to_x, from_x = matched(pair.q.chart, pair.p.chart)
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


@lru_cache
def _scan(heavy: bool) -> np.ndarray:
    """Places u at which to look for the ends of the range, y = centre + scale sinh u."""
    side = 2 * np.sinh(np.arange(4, 59) * 0.1) if heavy else np.arange(2, 29) * 0.5
    return np.concatenate([-side[::-1], side])


def _range(pair: _Pair, frames: list[Frame]) -> tuple[Tensor, Tensor, Tensor]:
    """The ends in y beyond which the integrand is negligible, and where such were found."""
    u = torch.as_tensor(_scan(pair.q.heavy), device=frames[0].centre.device)
    ends = [_extent(pair, frame, u) for frame in pair.q.frames()]
    low = torch.stack([e[0] for e in ends]).amin(0)
    high = torch.stack([e[1] for e in ends]).amax(0)
    ok = torch.stack([e[2] for e in ends]).all(0)
    ok = ok if pair.finite is None else ok & pair.finite
    centre = frames[0].centre
    return torch.where(ok, low, centre), torch.where(ok, high, centre), ok


def _extent(pair: _Pair, frame: Frame, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u = u.reshape(-1, *(1,) * frame.centre.dim())
    y = frame.centre + frame.scale * u.sinh()
    log_q, ratio = pair.terms(y)
    regular = (ratio.abs() < _OVERFLOW) & log_q.isfinite()
    size = log_q + torch.log1p(ratio.abs()) + (frame.scale * u.cosh()).log()
    counts = regular & (size > _NEGLIGIBLE)
    wider = torch.cat([counts[1:], counts[-1:]]) | counts | torch.cat([counts[:1], counts[:-1]])
    # nothing that counts may lie at an end, nor beside a place where the log ratio overflows:
    # log q + log |log ratio| is concave in the tails, so from a negligible place on it falls
    ok = counts.any(0) & ~counts[0] & ~counts[-1] & ~(wider & ~regular).any(0)
    low = torch.where(wider, y, torch.inf).amin(0)
    high = torch.where(wider, y, -torch.inf).amax(0)
    return low, high, ok & low.isfinite() & high.isfinite()


# ---------------------------------------------------------------------------------------- kinks
def _kinks(pair: _Pair, low: Tensor, high: Tensor) -> Tensor:
    """The edges of the panels: both ends and, with their gradients, the kinks between them."""
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


def _following(y: Tensor, w: Tensor, places: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Let the nodes of each panel move with its edges, by zero, but with a derivative."""
    moves = places - places.detach()
    x = torch.as_tensor(_reference(nodes, smooth=False)[0], device=y.device)
    x = ((1 + x) / 2).reshape(-1, *(1,) * (y.dim() - 1))
    weight = torch.as_tensor(_fejer(nodes), device=y.device).reshape(x.shape) / 2
    shifts, stretches = [], []
    fixed = places.detach()
    for i, (nodes_y, nodes_w) in enumerate(
        zip(y.split(nodes - 1), w.split(nodes - 1), strict=True)
    ):
        length, start = fixed[i + 1] - fixed[i], fixed[i]
        empty = length <= 0
        safe = torch.where(empty, 1.0, length)
        share = torch.where(empty, x, (nodes_y - start) / safe)
        part = torch.where(empty, weight, nodes_w / safe)
        change = moves[i + 1] - moves[i]
        shifts.append(moves[i] + share * change)
        stretches.append(part * change)
    return y + torch.cat(shifts), w + torch.cat(stretches)
