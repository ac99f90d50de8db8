"""From a pair of distributions to the computation of its KL: reductions, then a form.

A reduction trades a pair for a simpler one with the same KL up to a sum, a mask or a known term
(`pyro_vae.kl.reductions`). What is left is a pair of leaves, for which supports, tails and the
table of forms decide. All of this follows from types and constants; nothing here reads a
tensor's values.
"""

from __future__ import annotations

__all__ = [
    "Plan",
    "Reduction",
    "broadcast",
    "changed",
    "describe",
    "expanded",
    "plan",
    "reduction",
    "reductions",
    "sum_last",
    "unpack",
]

import math
from collections.abc import Callable
from functools import cache
from inspect import getdoc
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.enumeration import LARGEST, count_of
from pyro_vae.kl.finiteness import finiteness
from pyro_vae.kl.forms import find
from pyro_vae.kl.line_elements import element_of
from pyro_vae.kl.parameters import device_of, prepared, tensors
from pyro_vae.kl.quadrature import TOLERANCE, Integral, integral
from pyro_vae.kl.table import same_class


class Plan(NamedTuple):
    """How KL(q || p) is to be had.

    Arguments:
        kind: "closed", "quadrature", "sampled" (no exact way is known) or "undefined".
        source: The package whose form it is, "none" without one.
        batch: The broadcast batch shape.
        finite: Shape `batch`: where the KL is not known to be infinite; None: everywhere.
        value: Returns the KL in float64, meaningless where not finite; None without a form.
        why: Returns the reason why the KL is infinite or undefined, "" if it is neither.
        how: What the value is made of, for people.
        error: Returns the estimate of the error of a quadrature, of shape `batch` (0 where not
            finite); None for closed forms.
        limit: What is wrong with the value where the error is too large, for people.
    """

    kind: str
    source: str
    batch: torch.Size
    finite: Tensor | None
    value: Callable[[], Tensor] | None
    why: Callable[[], str]
    how: str
    error: Callable[[], Tensor] | None = None
    limit: str = f"has an error above {TOLERANCE:g} (relative)"


Reduction = Callable[[Any, Any], "Plan | None"]
"""A function of (q, p) that returns the plan of their KL, or None where it does not apply."""

_REDUCTIONS: list[Reduction] = []


def reduction(reduce: Reduction) -> Reduction:
    """Register a reduction; they are tried in the order of registration, the first that applies.

    Arguments:
        reduce: A function of (q, p), which have the same event shape and batch shapes that
            broadcast. It returns None where it does not apply, else the plan of the KL, most
            often that of a simpler pair (from `plan`), `changed`.

    Returns:
        The function unchanged.

    Raises:
        ValueError: If it has no docstring.
    """
    if not getdoc(reduce):
        raise ValueError(f"the reduction {reduce.__name__} has no docstring; write one.")
    _REDUCTIONS.append(reduce)
    return reduce


def reductions() -> tuple[Reduction, ...]:
    """Return the reductions in the order in which they are tried."""
    return tuple(_REDUCTIONS)


def plan(q: Distribution, p: Distribution) -> Plan:
    """Find out how KL(q || p) is to be had, without computing it.

    Arguments:
        q: The guide.
        p: The prior.

    Returns:
        The plan, of the broadcast batch shape.

    Raises:
        ValueError: If the batch shapes do not broadcast.

    Example:
        >>> import pyro.distributions as dist
        >>> q = dist.Normal(0.0, 1.0).expand([5, 3]).to_event(1)
        >>> made = plan(q, dist.Laplace(torch.zeros(3), 1.0).to_event(1))
        >>> made.kind, made.batch
        ('closed', torch.Size([5]))
    """
    batch = broadcast(q, p)
    if q.event_shape != p.event_shape:
        return _undefined(
            batch,
            f"the event shapes differ: {tuple(q.event_shape)} of {describe(q)}, "
            f"{tuple(p.event_shape)} of {describe(p)}",
        )
    for reduce in _REDUCTIONS:
        reduced = reduce(q, p)
        if reduced is not None:
            return expanded(reduced, batch)
    return _leaf(q, p, batch)


def sum_last(t: Tensor, dims: int) -> Tensor:
    """Sum over the last `dims` dimensions.

    Arguments:
        t: A tensor.
        dims: How many dimensions to sum over, possibly none.

    Returns:
        The sums.

    Example:
        >>> sum_last(torch.ones(2, 3), 1).tolist(), sum_last(torch.ones(2), 0).tolist()
        ([3.0, 3.0], [1.0, 1.0])
    """
    return t.sum(tuple(range(-dims, 0))) if dims else t


def _leaf(q: Distribution, p: Distribution, batch: torch.Size) -> Plan:
    verdict = finiteness(q, p)
    if not verdict.defined:
        return _undefined(batch, verdict.explain())
    finite = _mask(verdict.finite, batch, q)
    found = find(q, p)
    if found is None:
        return _by_quadrature(q, p, batch, finite, verdict.explain)

    def value() -> Tensor:
        if verdict.finite is False:
            return _anchored(q, p).expand(batch)
        kl = found.form(prepared(q, batch, finite), prepared(p, batch, finite)).expand(batch)
        # an infinity in torch's table is a constant, and the gradient has to be 0, not None
        return kl if finite is None else kl + _anchored(q, p)

    how = f"closed form of KL({describe(q)} || {describe(p)}) ({found.source})"
    return Plan("closed", found.source, batch, finite, value, verdict.explain, how)


def _by_quadrature(
    q: Distribution,
    p: Distribution,
    batch: torch.Size,
    finite: Tensor | None,
    why: Callable[[], str],
) -> Plan:
    """The plan of a pair without a form: one integral, if both have a line."""
    how = f"KL({describe(q)} || {describe(p)}) has no closed form that is known here"
    count = count_of(q)
    if count is not None and count > LARGEST:
        size = f"{count}" if count < 10**6 else f"about 10^{math.log10(count):.0f}"
        how += f", and q takes {size} values, of which at most {LARGEST} are enumerated"
    guide, prior = element_of(q), element_of(p)
    if guide is None or prior is None:
        return Plan("sampled", "none", batch, finite, None, why, how)

    @cache
    def computed() -> Integral:
        return integral(guide, prior, batch, finite=finite)

    def value() -> Tensor:
        return computed().value + (0.0 if finite is None else _anchored(q, p))

    def error() -> Tensor:
        estimate = computed().error
        return estimate if finite is None else torch.where(finite, estimate, 0.0)

    how = f"quadrature of KL({describe(q)} || {describe(p)})"
    return Plan("quadrature", "pyro_vae", batch, finite, value, why, how, error)


# -------------------------------------------------------------------------------------- plumbing
def changed(
    inner: Plan,
    batch: torch.Size,
    finite: Tensor | None,
    change: Callable[[Callable[[], Tensor]], Tensor],
    how: str,
) -> Plan:
    """Return the plan of a pair that was reduced to another, with its value changed.

    Arguments:
        inner: The plan of the other pair.
        batch: The batch shape of the pair.
        finite: Shape `batch`: where its KL is finite; None for everywhere.
        change: From the value of the other pair (as a function) to that of the pair; it is
            affine, so that an error goes through its linear part.
        how: What was changed, for people.

    Returns:
        The plan.
    """
    of, wrong = inner.value, inner.error

    def error() -> Tensor:
        assert wrong is not None
        estimate = wrong()
        with torch.no_grad():
            return change(lambda: estimate) - change(lambda: torch.zeros_like(estimate))

    return inner._replace(
        batch=batch,
        finite=finite,
        value=None if of is None else lambda: change(of),
        how=f"{inner.how}, {how}",
        error=None if wrong is None else error,
    )


def expanded(inner: Plan, batch: torch.Size) -> Plan:
    """Return the plan expanded to a batch shape.

    Arguments:
        inner: A plan.
        batch: A shape to which its batch shape broadcasts.

    Returns:
        The plan of that batch shape.
    """
    if inner.batch == batch:
        return inner
    of, wrong = inner.value, inner.error
    return inner._replace(
        batch=batch,
        finite=None if inner.finite is None else inner.finite.expand(batch),
        value=None if of is None else lambda: of().expand(batch),
        error=None if wrong is None else lambda: wrong().expand(batch),
    )


def _undefined(batch: torch.Size, why: str) -> Plan:
    return Plan("undefined", "none", batch, None, None, lambda: why, "")


def _mask(finite: bool | Tensor, batch: torch.Size, q: Distribution) -> Tensor | None:
    if finite is True:
        return None
    if finite is False:
        return torch.zeros(batch, dtype=torch.bool, device=device_of(q))
    return torch.as_tensor(finite).expand(batch)


def _anchored(q: Distribution, p: Distribution) -> Tensor:
    """Zero, with a zero gradient for every parameter of both sides."""
    # a logit may be -inf
    parts = [(0.0 * t.double()).nan_to_num().sum() for d in (q, p) for t in tensors(d)]
    return torch.stack(parts).sum()


def broadcast(q: Distribution, p: Distribution) -> torch.Size:
    """Return the broadcast batch shape of a pair.

    Arguments:
        q: The guide.
        p: The prior.

    Returns:
        The shape.

    Raises:
        ValueError: If the batch shapes do not broadcast.
    """
    try:
        return torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    except RuntimeError:
        raise ValueError(
            f"the batch shapes of q ({describe(q)}, {tuple(q.batch_shape)}) and p ({describe(p)}, "
            f"{tuple(p.batch_shape)}) do not broadcast; expand one of them."
        ) from None


def describe(d: Distribution) -> str:
    """Return the name of the class of `d`, as people would write it.

    Arguments:
        d: A distribution.

    Returns:
        The name.

    Example:
        >>> describe(td.Normal(torch.zeros(2), 1.0))
        'Normal'
    """
    base, dims = unpack(d)
    return f"Independent({type(base).__name__})" if dims else type(base).__name__


def unpack(d: Any) -> tuple[Any, int]:
    """Return the base of nested `Independent`s and the number of their dimensions.

    Arguments:
        d: A distribution.

    Returns:
        What lies within, and how many of its batch dimensions are event dimensions of `d`.

    Example:
        >>> unpack(td.Independent(td.Normal(torch.zeros(2), 1.0), 1))[1]
        1
    """
    dims = 0
    while same_class(d, td.Independent):
        dims += d.reinterpreted_batch_ndims
        d = d.base_dist
    return d, dims
