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
exact if e <= 1e-7 max(1, |S|) with 64, 128, 256 or 512 nodes, each tried for those elements
alone that need it (64 only for e <= 1e-9): convergence is geometric, so that the error itself
is nearer to the square of e, and that of the derivatives below 1e-6. Inside `make_fx`,
`torch.compile` or `vmap` nothing may depend on values, and 256 nodes are taken for all.

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

from pyro_vae.kl.frames import coordinate, inverse, speed
from pyro_vae.kl.line_pairs import Pair, extent, frames_of, panels, traced
from pyro_vae.kl.lines import Frame, Line

TOLERANCE = 1e-7
"""The error, relative to max(1, |KL|), up to which a value counts as exact."""

NODES = (64, 128, 256, 512)
"""The numbers of nodes (per panel) that are tried."""

_IN_GRAPHS = 256
_FIRST = 0.01  # how much less than the tolerance the fewest nodes are allowed


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
        >>> round(value.item(), 12), bool(error < 1e-8)
        (0.5, True)
    """
    pair = Pair(q.mapped(_onto(batch)), p.mapped(_onto(batch)), finite)
    if traced() if fixed_nodes is None else fixed_nodes:
        return _sum(pair, _IN_GRAPHS)
    pair = pair.mapped(lambda t, n: t.reshape(-1, *t.shape[t.dim() - n :]))
    value, error = _sum(pair, NODES[0])
    for i, nodes in enumerate(NODES[1:]):
        good = accepted(value, error if i else error / _FIRST)
        again = (~good & error.isfinite()).nonzero().squeeze(-1)
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


def _onto(batch: torch.Size) -> Callable[[Tensor, int], Tensor]:
    return lambda t, n: t.expand(torch.Size([*batch, *t.shape[t.dim() - n :]]))


def _taken(index: Tensor, t: Tensor, _: int) -> Tensor:
    return t[index]


# ---------------------------------------------------------------------------------- the rule
class _Rule(NamedTuple):
    """Nodes on [-1, 1] and weights; and the half rule, at every other node of the same.

    Arguments:
        x: The nodes.
        weight: Their weights.
        first: The first node of the half rule.
        share: The weights of the half rule in units of the weights of the rule.
    """

    x: np.ndarray
    weight: np.ndarray
    first: int
    share: np.ndarray


def _sum(pair: Pair, nodes: int) -> Integral:
    with torch.no_grad():
        frames = frames_of(pair)
        low, high, ok = extent(pair)
    # a gradient through an element that has no value would be NaN; it is cut at the parameters
    pair = pair.mapped(partial(_gated, ok))
    places = panels(pair, low, high)
    rule = _trapezoid(nodes) if len(places) == 2 else _fejer(nodes)
    with torch.no_grad():
        y, w = _nodes(pair, frames, places, rule)
    if len(places) > 2:
        y, w = _following(y, w, places, rule)
    return _weighed(pair, y, w, rule, ok)


def _weighed(pair: Pair, y: Tensor, w: Tensor, rule: _Rule, ok: Tensor) -> Integral:
    """The sums over nodes, and the error that they tell."""
    log_q, log_p = pair.log_densities(y)
    mass = log_q.exp() * w
    terms = mass * (log_q - log_p)
    value = terms.sum(0)
    with torch.no_grad():
        share = _column(rule.share, y)
        coarse = (terms.unflatten(0, (-1, len(rule.x)))[:, rule.first :: 2] * share).sum((0, 1))
        error = (value - coarse).abs() + (mass.sum(0) - 1).abs() * (1 + value.abs())
        ok = ok & error.isfinite()
    return Integral(torch.where(ok, value, torch.nan), torch.where(ok, error, torch.inf))


def _gated(ok: Tensor, t: Tensor, beyond: int) -> Tensor:
    return torch.where(ok.reshape(ok.shape + (1,) * beyond), t, t.detach())


def _column(numbers: np.ndarray, like: Tensor) -> Tensor:
    """Numbers along the nodes, the first dimension of `like`."""
    return torch.as_tensor(numbers, device=like.device).reshape(-1, *(1,) * (like.dim() - 1))


def _nodes(pair: Pair, frames: list[Frame], places: Tensor, rule: _Rule) -> tuple[Tensor, Tensor]:
    """Nodes y and their weights, panel after panel."""
    heavy = pair.q.heavy
    edges = coordinate(frames, places)
    edges = (edges / 2).asinh() if heavy else edges
    x, weight = _column(rule.x, edges), _column(rule.weight, edges)
    lengths = (edges[1:] - edges[:-1]) / 2
    tau = torch.cat(
        [m + h * x for m, h in zip((edges[1:] + edges[:-1]) / 2, lengths, strict=True)]
    )
    y = inverse(frames, 2 * tau.sinh() if heavy else tau)
    w = torch.cat([h * weight for h in lengths]) * speed(frames, y)
    return y, w * (2 * tau.cosh()) if heavy else w


@lru_cache
def _trapezoid(nodes: int) -> _Rule:
    weight = np.full(nodes + 1, 2 / nodes)
    weight[[0, -1]] /= 2
    return _Rule(np.linspace(-1, 1, nodes + 1), weight, 0, np.full(nodes // 2 + 1, 2.0))


@lru_cache
def _fejer(nodes: int) -> _Rule:
    """Fejer's second rule: weights (4 sin a / n) sum_j sin((2j - 1) a) / (2j - 1)."""

    def weights(n: int) -> np.ndarray:
        a = np.pi * np.arange(1, n) / n
        odd = 2 * np.arange(1, n // 2 + 1) - 1
        return 4 * np.sin(a) / n * (np.sin(np.outer(a, odd)) / odd).sum(1)

    weight = weights(nodes)
    x = -np.cos(np.pi * np.arange(1, nodes) / nodes)
    return _Rule(x, weight, 1, weights(nodes // 2) / weight[1::2])


def _following(y: Tensor, w: Tensor, places: Tensor, rule: _Rule) -> tuple[Tensor, Tensor]:
    """Let the nodes of each panel move with its edges, by zero, but with a derivative."""
    moves, fixed = places - places.detach(), places.detach()
    x, weight = _column((1 + rule.x) / 2, y), _column(rule.weight / 2, y)
    shifts, stretches = [], []
    for i, (nodes_y, nodes_w) in enumerate(
        zip(y.split(len(rule.x)), w.split(len(rule.x)), strict=True)
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
