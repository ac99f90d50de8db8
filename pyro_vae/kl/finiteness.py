"""When a KL is defined, and when it is finite: supports first, tails second.

KL(q || p) is undefined if q and p are densities with respect to different measures, and +inf if
q puts mass where p has none. Otherwise it is finite iff at each end of the support of q its tail
carries the growth of -log p there (`pyro_vae.kl.tails`), which is that of p's own end if both end
in one place, and that of a positive number where p goes on. A mixture q needs this of every
component with mass, a mixture p of one component.
"""

from __future__ import annotations

__all__ = ["Finiteness", "finiteness"]

import math
from collections.abc import Callable
from functools import reduce
from operator import and_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.atoms import atoms, known
from pyro_vae.kl.ends import End, Ends, ends_of, space
from pyro_vae.kl.enumeration import enumerable, impossible
from pyro_vae.kl.table import canonical
from pyro_vae.kl.tails import LOG, Growth, Tail, carries
from pyro_vae.supports import Space, matched


class Finiteness(NamedTuple):
    """Whether KL(q || p) is defined, and in which elements it is finite.

    Arguments:
        defined: False if the two are densities with respect to different measures.
        finite: True or False for all elements, or a BoolTensor that broadcasts to the batch shape.
        decided: Whether a rule has decided; False if no rule knows the pair and `finite` is
            merely not known to be False.
        explain: Returns the reason as a sentence, "" if there is nothing to explain.
    """

    defined: bool
    finite: bool | Tensor
    decided: bool
    explain: Callable[[], str]


def finiteness(q: Distribution, p: Distribution) -> Finiteness:
    """Decide from supports and tails whether KL(q || p) is defined and finite.

    Arguments:
        q: The guide, without wrappers.
        p: The prior, without wrappers, of the same event shape.

    Returns:
        The decision, elementwise where it depends on parameters.

    Example:
        >>> import torch.distributions as td
        >>> q = td.StudentT(torch.tensor([1.5, 3.0]), 0.0, 1.0)
        >>> finiteness(q, td.Normal(0.0, 1.0)).finite
        tensor([False,  True])
        >>> finiteness(q, td.Normal(0.0, 1.0)).explain()
        'StudentT with df = 1.5 has no variance, and -log p of Normal grows quadratically'
    """
    inner, outer = space(q), space(p)
    if "unknown" not in (inner.kind, outer.kind) and not _comparable(inner, outer):
        return Finiteness(
            False,
            False,
            True,
            lambda: (
                f"{_name(q)} lives on {_describe(inner)} and {_name(p)} on {_describe(outer)}, "
                "and densities with respect to different measures have no KL divergence"
            ),
        )
    contained = _contained(q, p, inner, outer)
    if contained is False:
        return Finiteness(True, False, True, lambda: _outside(q, p, inner, outer))
    if not known(q, p) and enumerable(q, p):
        return _nowhere(q, p, ~impossible(q, p))
    within = _masses(q, p) if inner.is_discrete else _tails(q, p)
    if isinstance(contained, Tensor):
        inside = contained

        def explain() -> str:
            return _outside(q, p, inner, outer) if not bool(inside.all()) else within.explain()

        return within._replace(finite=inside & within.finite, explain=explain)
    if contained is None:
        why = f"the supports of {_name(q)} and {_name(p)} could not be compared"
        return within._replace(decided=False, explain=lambda: within.explain() or why)
    return within


# ------------------------------------------------------------------------------------- supports
def _comparable(inner: Space, outer: Space) -> bool:
    """Whether densities on both are with respect to one measure."""
    if "product" not in (inner.kind, outer.kind):
        return inner.kind == outer.kind
    pairs = matched(inner, outer)
    return pairs is not None and all(
        a.space.kind == b.space.kind and a.shape == b.shape for a, b in pairs
    )


def _contained(q: Distribution, p: Distribution, inner: Space, outer: Space) -> Any:
    """Whether the support of q lies within that of p: a bool, a BoolTensor, None if unknown."""
    if "unknown" in (inner.kind, outer.kind):
        return True if canonical(type(q)) is canonical(type(p)) else None
    pairs = matched(inner, outer)
    if pairs is not None:
        return all(
            a.space.lower >= b.space.lower and a.space.upper <= b.space.upper for a, b in pairs
        )
    below = _at_most(outer.lower, inner.lower)
    above = _at_most(inner.upper, outer.upper)
    if isinstance(below, bool) and isinstance(above, bool):
        return below and above
    within = torch.as_tensor(below) & torch.as_tensor(above)
    # a vector lies within bounds if all of its elements do
    dims = min(len(q.event_shape), within.dim())
    return within.all(tuple(range(-dims, 0))) if dims else within


def _at_most(small: float | Tensor, large: float | Tensor) -> bool | Tensor:
    """Whether one bound is at most another, up to what float32 has made of one of them."""
    if not isinstance(small, Tensor) and not isinstance(large, Tensor):
        return small <= large
    a, b = torch.as_tensor(small), torch.as_tensor(large)
    # pi is above pi in float32; of two bounds in float64 every digit is meant
    meant = isinstance(small, Tensor) and isinstance(large, Tensor) and a.dtype == b.dtype
    return a <= b if meant else (a <= b) | (a.float() == b.float())


def _outside(q: Distribution, p: Distribution, inner: Space, outer: Space) -> str:
    return (
        f"{_name(q)} puts mass on {_describe(inner)}, of which {_name(p)} has only "
        f"{_describe(outer)}"
    )


def _describe(space: Space) -> str:
    if space.kind == "point":
        return "a single point"
    if isinstance(space.lower, Tensor) or isinstance(space.upper, Tensor):
        return "an interval set by its parameters"
    return f"the {space.name}" if not space.name.startswith(("{", "[")) else space.name


def _name(d: Distribution) -> str:
    return type(d).__name__


# --------------------------------------------------------------------------------------- masses
def _masses(q: Any, p: Any) -> Finiteness:
    """The decision for masses: p may not be 0 where q is not."""
    if not known(q, p):
        return Finiteness(True, True, False, lambda: "")
    return _nowhere(q, p, atoms(q, p))


def _nowhere(q: Any, p: Any, finite: bool | Tensor) -> Finiteness:
    def explain() -> str:
        if bool(torch.as_tensor(finite).all()):
            return ""
        return f"{_name(p)} gives probability 0 to what {_name(q)} may take"

    return Finiteness(True, finite, True, explain)


# ---------------------------------------------------------------------------------------- tails
class _Meeting(NamedTuple):
    """What happens at one end: the tail, the growth, and where the one carries the other."""

    place: float | Tensor
    tail: Tail
    growth: Growth
    carried: bool | Tensor


def _tails(q: Distribution, p: Distribution) -> Finiteness:
    """The decision by tails, given that the support of q lies within that of p."""
    guide, prior = ends_of(q), ends_of(p)
    if guide is None or prior is None:
        return Finiteness(True, True, False, lambda: "")
    dims, mixed = len(q.event_shape), guide.held is not None or prior.held is not None
    found = []
    for falls, grows in ((guide.low, prior.low), (guide.high, prior.high)):
        if mixed:
            falls = _beside(falls, dims, 2 if guide.held is None else 1, 0)
            grows = _beside(grows, dims, 2 if prior.held is None else 1, 1)
        if falls.tail is None or grows.growth is None:
            return Finiteness(True, True, False, lambda: "")
        carried = _met(falls.tail, grows.growth, falls.place, grows.place)
        carried = _summed_up(carried, guide, prior, dims) if mixed else carried
        if dims and isinstance(carried, Tensor):
            carried = carried.expand(torch.broadcast_shapes(carried.shape, q.event_shape))
            carried = carried.all(tuple(range(-dims, 0)))
        found.append(_Meeting(falls.place, falls.tail, grows.growth, carried))
    finite = reduce(and_, (one.carried for one in found))

    def explain() -> str:
        for one in found:
            carried = torch.as_tensor(one.carried)
            if not bool(carried.all()):
                return _reason(q, p, one, carried, mixed)
        return ""

    # where components grow in ways of their own, each may carry one axis of a vector
    decided = not dims or prior.held is None or _alike(prior)
    return Finiteness(True, finite, decided, explain)


def _alike(prior: Ends) -> bool:
    """Whether all components grow in the same way, whatever their parameters."""
    numbers = [v for end in (prior.low, prior.high) for v in (end.place, *(end.growth or ()))]
    return not any(isinstance(v, Tensor) for v in numbers)


def _met(tail: Tail, growth: Growth, here: Any, there: Any) -> bool | Tensor:
    """Where the tail carries the growth of p at its end, or of a positive number before it."""
    same, own = here == there, carries(tail, growth)
    if same is True:
        return own
    before = carries(tail, LOG)
    return before if same is False else (same & own) | (~same & before)


def _beside(end: End, dims: int, more: int, before: int) -> End:
    """Give all tensors a dimension for the components of the guide, and one for the prior's."""

    def change(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < dims:
            return value
        at = value.dim() - dims - (before if more == 1 else 0)
        return value.reshape(value.shape[:at] + (1,) * more + value.shape[at:])

    return End(
        change(end.place),
        None if end.tail is None else Tail(*(change(v) for v in end.tail)),
        None if end.growth is None else Growth(*(change(v) for v in end.growth)),
    )


def _summed_up(carried: Any, guide: Ends, prior: Ends, dims: int) -> Tensor:
    """Every component of the guide has to be carried by one component of the prior."""
    ones = torch.ones((1,) * (2 + dims), dtype=torch.bool)
    carried, axis = ones & carried, -1 - dims
    if prior.held is not None:
        held = prior.held.reshape(prior.held.shape[:-1] + (1, -1) + (1,) * dims)
        carried = carried & held
    carried = carried.any(axis)
    if guide.held is not None:
        carried = carried | ~guide.held.reshape(guide.held.shape + (1,) * dims)
    return carried.all(axis)


def _reason(q: Any, p: Any, one: _Meeting, carried: Tensor, mixed: bool) -> str:
    tail, growth, subject = one.tail, one.growth, _name(q)
    if mixed:
        subject += " has a component whose tails are"
        return f"{subject} too heavy for the growth of -log p of {_name(p)}"
    if tail.value is not None and hasattr(q, tail.parameter):
        worst, where = torch.broadcast_tensors(tail.value.detach(), carried)
        subject += f" with {tail.parameter} = {worst[~where][0].item():g}"
    moment = {1.0: ("mean", "linearly"), 2.0: ("variance", "quadratically")}
    far = not isinstance(one.place, Tensor) and math.isinf(one.place)
    powers = all(not isinstance(s.level, Tensor) and s.level == 1 for s in (tail, growth))
    if far and powers and not isinstance(growth.rate, Tensor) and growth.rate in moment:
        name, how = moment[growth.rate]
        return f"{subject} has no {name}, and -log p of {_name(p)} grows {how}"
    return f"{subject} has tails too heavy for the growth of -log p of {_name(p)}"
