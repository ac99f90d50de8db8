"""The ends of a support: where they are, how q falls and how -log p grows there, through maps.

A distribution that is a monotone map of another one, exp(Exponential) or 1 - 2 Gumbel, has the
ends of that one mapped: their places, and the tails and growths at them, on the ladder of
`pyro_vae.kl.tails`. A mixture has the ends of its components side by side. Nothing here reads a
tensor's values: where the sign of a scale decides which end is which, both cases are computed.
"""

from __future__ import annotations

__all__ = ["End", "Ends", "ends_of", "space"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution, constraints, transforms
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_vae.kl.pushforwards import RECIPROCAL, affine_of, elementwise, unfold
from pyro_vae.kl.table import canonical, same_class
from pyro_vae.kl.tails import Growth, Number, Tail, growths_of, tails_of
from pyro_vae.supports import Space, space_of


class End(NamedTuple):
    """An end of a support.

    Arguments:
        place: Where it is; infinite only as a float.
        tail: How the distribution falls towards it, None where no rule knows.
        growth: How -log of its density grows there, None where no rule knows.
    """

    place: Number
    tail: Tail | None
    growth: Growth | None


class Ends(NamedTuple):
    """Both ends of a support.

    Arguments:
        low: The left end.
        high: The right end.
        held: Of a mixture, which components have mass, shape (*batch, K), K being a dimension of
            all tensors of the ends as well; None otherwise.
        final: Whether it is the sign of a tensor that tells which end is infinite, so that no
            rule for a further map can be chosen.
    """

    low: End
    high: End
    held: Tensor | None = None
    final: bool = False


# ---------------------------------------------------------------------------------------- places
# where the support that a class states is larger than where it lives
_SPACES: dict[type, Space] = {
    td.VonMises: Space("real", -math.pi, math.pi),
    ExpRelaxedCategorical: Space("log-simplex"),
    dist.Delta: Space("point"),
}


def space(d: Distribution) -> Space:
    """Return the support as a space whose bounds are tensors where they are parameters.

    Arguments:
        d: A distribution.

    Returns:
        The space; `unknown` where it is not recognised, or is only known to lie in another.

    Example:
        >>> space(td.Pareto(1.0, 2.0)).lower
        tensor(1.)
        >>> exp = [transforms.ExpTransform()]
        >>> space(td.TransformedDistribution(td.Exponential(1.0), exp)).lower
        1.0
    """
    named = _SPACES.get(canonical(type(d)))
    if named is not None:
        return named
    if same_class(d, td.Independent):
        return space(_elements(d))
    if same_class(d, td.MixtureSameFamily):
        return _mixed_space(d)
    if same_class(d, td.TransformedDistribution):
        return _mapped_space(d)
    try:
        support: Any = d.support
    except NotImplementedError:
        return Space("unknown")
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None and high is None:
        return _numbers(space_of(support))
    return Space(
        "integer" if support.is_discrete else "real",
        -math.inf if low is None else low,
        math.inf if high is None else high,
    )


def _numbers(space: Space) -> Space:
    """An angle counts as a number here, of the interval where its density lives."""
    return Space("real", -math.pi, math.pi) if space.kind == "circle" else space


def _mixed_space(d: Any) -> Space:
    """The hull of the supports of the components with mass."""
    each, dims = space(d.component_distribution), len(d.event_shape)
    held = d.mixture_distribution.probs > 0
    held = held.reshape(held.shape + (1,) * dims)

    def hull(bound: Number, far: float, of: Callable[[Tensor, int], Tensor]) -> Number:
        if not isinstance(bound, Tensor):
            return bound
        return of(torch.where(held, bound, far), -1 - dims)

    return each._replace(
        lower=hull(each.lower, math.inf, torch.amin),
        upper=hull(each.upper, -math.inf, torch.amax),
    )


def _mapped_space(d: Any) -> Space:
    """The base's support, mapped; torch knows only the codomain of the last map."""
    base, maps = unfold(d)
    if not maps:
        return space(base)
    last = space_of(d.support)
    if last.kind not in ("real", "circle") or not elementwise(maps):
        return _numbers(last)
    within = space(_elements(base))
    ends = Ends(End(within.lower, None, None), End(within.upper, None, None))
    mapped = _through(ends, maps) if within.kind == "real" else None
    if mapped is None:
        return Space("unknown")
    return Space("real", mapped.low.place, mapped.high.place)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------- ends
def ends_of(d: Distribution) -> Ends | None:
    """Return the ends of a distribution on the line, or of each of its elements.

    Arguments:
        d: A distribution without masks.

    Returns:
        Both ends, None if its class has no row of tails or growths, or a map is not known.

    Example:
        >>> exp = [transforms.ExpTransform()]
        >>> ends = ends_of(td.TransformedDistribution(td.Exponential(3.0), exp))
        >>> ends.low.place, ends.high.tail.level, ends.high.tail.rate  # a Pareto
        (1.0, 1, tensor(3.))
    """
    if same_class(d, td.MixtureSameFamily):
        return _components(d)
    if same_class(d, td.Independent):
        return ends_of(_elements(d))
    tails, growths = tails_of(d), growths_of(d)
    if tails is not None or growths is not None:
        within = space(d)
        (falls, drops), (grows, rises) = tails or (None, None), growths or (None, None)
        ends = Ends(End(within.lower, falls, grows), End(within.upper, drops, rises))
        return _lifted(ends, len(d.event_shape))
    base, maps = unfold(d)
    if base is d or not elementwise(maps):
        return None
    inner = ends_of(base)
    return None if inner is None else _through(inner, maps)


def _components(d: Any) -> Ends | None:
    each, weights = ends_of(d.component_distribution), d.mixture_distribution
    if each is None or each.held is not None:
        return None
    return each._replace(held=weights.probs > 0)


def _elements(d: Any) -> Any:
    while same_class(d, td.Independent):
        d = d.base_dist
    return d


def _lifted(ends: Ends, dims: int) -> Ends:
    """The ends of a class of vectors, with dimensions for the elements."""

    def lift(value: Any) -> Any:
        return value.reshape(value.shape + (1,) * dims) if isinstance(value, Tensor) else value

    return _changed(ends, lift) if dims else ends


def _changed(ends: Ends, change: Callable[[Any], Any]) -> Ends:
    low, high = (
        End(
            change(end.place),
            None if end.tail is None else Tail(*(change(v) for v in end.tail)),
            None if end.growth is None else Growth(*(change(v) for v in end.growth)),
        )
        for end in (ends.low, ends.high)
    )
    return ends._replace(low=low, high=high)


# ----------------------------------------------------------------------------------------- maps
def _through(ends: Ends, maps: Any) -> Ends | None:
    """The ends after all maps; None if one is not known, or has parameters in a mixture."""
    for t in maps:
        rule = _RULES.get(_key(t))
        if affine_of(t) is not None:
            rule = _affine
        elif t is RECIPROCAL:
            rule = _reciprocal
        made = None if rule is None or ends.final else rule(ends, t)
        if made is None:
            return None
        ends = made
    return ends


def _key(t: Any) -> Any:
    inverse = isinstance(t, transforms._InverseTransform)
    return (type(t._inv), "inverse") if inverse else type(t)


def _affine(ends: Ends, t: Any) -> Ends | None:
    """Scaled, and turned round where the scale is negative."""
    loc, scale = affine_of(t) or (0.0, 1.0)
    if ends.held is not None and (isinstance(scale, Tensor) or isinstance(loc, Tensor)):
        return None
    low, high = (_stretched(end, loc, scale) for end in (ends.low, ends.high))
    if not isinstance(scale, Tensor):
        low, high = (low, high) if scale > 0 else (high, low)
        return ends._replace(low=low, high=high)
    turned, far = scale < 0, [_infinite(end.place) for end in (low, high)]
    left, right = _either(turned, high, low), _either(turned, low, high)
    if all(far):
        left, right = left._replace(place=-math.inf), right._replace(place=math.inf)
    return Ends(left, right, final=any(far) and not all(far))


def _stretched(end: End, loc: Number, scale: Number) -> End:
    size = abs(scale)
    if _infinite(end.place):
        place: Number = end.place * (scale / size)
        if isinstance(place, Tensor):
            place = place.double()
        return End(place, *(_scaled(step, size) for step in end[1:]))
    return End(loc + scale * end.place, *(_scaled(step, 1 / size) for step in end[1:]))


def _infinite(place: Number) -> bool:
    return not isinstance(place, Tensor) and math.isinf(place)


def _either(turned: Tensor, one: End, other: End) -> End:
    """One end where the scale is negative, the other elsewhere."""
    place = _where(turned, one.place, other.place)
    return End(place, *(_chosen(turned, *steps) for steps in zip(one[1:], other[1:], strict=True)))


def _chosen(turned: Tensor, one: Any, other: Any) -> Any:
    if one is None or other is None:
        return None
    return type(other)(*(_where(turned, *pair) for pair in zip(one[:3], other[:3], strict=True)))


def _where(choice: Tensor, one: Number, other: Number) -> Number:
    if not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other:
        return one
    one, other = (torch.as_tensor(v, dtype=torch.float64) for v in (one, other))
    return torch.where(choice, one, other)


def _reciprocal(ends: Ends, t: Any) -> Ends | None:
    """1 / x on the half-line: X is the same at the ends, which change places."""
    if (ends.low.place, ends.high.place) != (0.0, math.inf):
        return None
    return Ends(ends.high._replace(place=0.0), ends.low._replace(place=math.inf), ends.held)


def _monotone(
    to: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    far: dict[float, tuple[float, str, float]],
) -> Callable[[Ends, Any], Ends | None]:
    """The rule of an increasing map.

    Arguments:
        to: The map.
        slope: Its derivative, at a finite place.
        far: From the places where the derivative is 0 or infinite to where they go, what becomes
            of X there ("rise": e^X, "fall": log X, "keep"), and what multiplies X before.
    """

    def rule(ends: Ends, _: Any) -> Ends | None:
        moved = [_moved(end) for end in (ends.low, ends.high)]
        return None if None in moved else Ends(moved[0], moved[1], ends.held)  # type: ignore[arg-type]

    def _moved(end: End) -> End | None:
        if not isinstance(end.place, Tensor) and end.place in far:
            place, kind, factor = far[end.place]
            change = {"rise": _down, "fall": _up, "keep": lambda step: step}[kind]
            return End(place, *(change(_scaled(step, factor)) for step in end[1:]))
        if isinstance(end.place, Tensor) and any(math.isfinite(p) for p in far):
            return None  # a bound that may or may not be one of those places
        here = torch.as_tensor(end.place, dtype=torch.float64)
        place, factor = to(here), 1 / slope(here)
        numbers = (
            (place, factor) if isinstance(end.place, Tensor) else (place.item(), factor.item())
        )
        return End(numbers[0], *(_scaled(step, numbers[1]) for step in end[1:]))

    return rule


def _s_slope(x: Tensor) -> Tensor:
    return x.sigmoid() * (-x).sigmoid()


_INF = math.inf
_RULES: dict[Any, Callable[[Ends, Any], Ends | None]] = {
    transforms.ExpTransform: _monotone(
        torch.exp, torch.exp, {-_INF: (0.0, "rise", 1.0), _INF: (_INF, "rise", 1.0)}
    ),
    (transforms.ExpTransform, "inverse"): _monotone(
        torch.log, torch.reciprocal, {0.0: (-_INF, "fall", 1.0), _INF: (_INF, "fall", 1.0)}
    ),
    transforms.SigmoidTransform: _monotone(
        torch.sigmoid, _s_slope, {-_INF: (0.0, "rise", 1.0), _INF: (1.0, "rise", 1.0)}
    ),
    (transforms.SigmoidTransform, "inverse"): _monotone(
        torch.logit,
        lambda x: 1 / (x * (1 - x)),
        {0.0: (-_INF, "fall", 1.0), 1.0: (_INF, "fall", 1.0)},
    ),
    # 1 - tanh x falls like e^-2x
    transforms.TanhTransform: _monotone(
        torch.tanh,
        lambda x: 1 - torch.tanh(x) ** 2,
        {-_INF: (-1.0, "rise", 2.0), _INF: (1.0, "rise", 2.0)},
    ),
    transforms.SoftplusTransform: _monotone(
        torch.nn.functional.softplus,
        torch.sigmoid,
        {-_INF: (0.0, "rise", 1.0), _INF: (_INF, "keep", 1.0)},
    ),
}


# ---------------------------------------------------------------------------------------- steps
def _scaled(step: Any, by: Number) -> Any:
    """The step once X is multiplied; levels 0 and 1 do not notice."""
    if step is None or isinstance(step.level, Tensor):
        return None
    if step.level < 2 or (not isinstance(by, Tensor) and by == 1.0):
        return step
    if step.level == 2:
        return step._replace(factor=step.factor / by**step.rate)
    return step._replace(rate=step.rate / by)


def _down(step: Any) -> Any:
    """The step once X has become e^X."""
    if step is None or isinstance(step.level, Tensor) or step.level == -1:
        return None
    if step.level == 3:
        return step._replace(level=2)
    if step.level < 2:
        # what a tail of level -1 carries is not known
        return None if step.level == 0 and isinstance(step, Tail) else _on(step, step.level - 1)
    below = [step._replace(level=1, rate=step.factor, factor=0.0)] * 3
    if isinstance(step, Tail):
        below[0], below[2] = Tail(0, math.inf), Tail(1, math.inf)
    if not isinstance(step.rate, Tensor):
        return below[0 if step.rate < 1 else 1 if step.rate == 1 else 2]
    return _chosen(step.rate < 1, below[0], _chosen(step.rate > 1, below[2], below[1]))


def _up(step: Any) -> Any:
    """The step once X has become log X."""
    if step is None or isinstance(step.level, Tensor) or step.level == 3:
        return None
    if step.level == 2:
        return step._replace(level=3)
    if step.level == 1:
        return step._replace(level=2, rate=1.0, factor=step.rate)
    return _on(step, step.level + 1)


def _on(step: Any, level: float) -> Any:
    return step._replace(level=level, factor=0.0)
