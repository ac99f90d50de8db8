"""From a pair of distributions to the computation of its KL: reductions, then a form.

A reduction trades a pair for a simpler one with the same KL up to a sum, a mask or a known term:

* `Expanded`: the base, broadcast;  `Masked`: the base, multiplied by the mask of both sides;
* `Independent` on both sides: the elements, summed over the dimensions that both share;
* a point mass: log_density - log p(v);
* a Gaussian with correlations against independent elements: its marginals, and its total
  correlation, since  KL(q || prod p_i) = sum_i KL(q_i || p_i) + sum_i H(q_i) - H(q);
* transforms that are the same bijective objects on both sides: the base distributions.

What is left is a pair of leaves, for which supports, tails and the table of forms decide. All
of this follows from types and constants; nothing here reads a tensor's values.
"""

from __future__ import annotations

__all__ = ["Plan", "plan", "sum_last"]

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
import torch.distributions as td
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Distribution, transform_to, transforms

from pyro_vae.kl.finiteness import finiteness
from pyro_vae.kl.forms import find
from pyro_vae.kl.parameters import device_of, prepared, tensors
from pyro_vae.kl.table import same_class


class Plan(NamedTuple):
    """How KL(q || p) is to be had.

    Arguments:
        kind: "closed", "sampled" (nobody has a form) or "undefined".
        source: The package whose form it is, "none" without one.
        batch: The broadcast batch shape.
        finite: Shape `batch`: where the KL is not known to be infinite; None: everywhere.
        value: Returns the KL in float64, meaningless where not finite; None without a form.
        why: Returns the reason why the KL is infinite or undefined, "" if it is neither.
        how: What the value is made of, for people.
    """

    kind: str
    source: str
    batch: torch.Size
    finite: Tensor | None
    value: Callable[[], Tensor] | None
    why: Callable[[], str]
    how: str


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
        >>> import pyro_vae.kl
        >>> q = dist.Normal(0.0, 1.0).expand([5, 3]).to_event(1)
        >>> made = plan(q, dist.Laplace(torch.zeros(3), 1.0).to_event(1))
        >>> made.kind, made.batch
        ('closed', torch.Size([5]))
    """
    batch = _broadcast(q, p)
    if q.event_shape != p.event_shape:
        return _undefined(
            batch,
            f"the event shapes differ: {tuple(q.event_shape)} of {_name(q)}, "
            f"{tuple(p.event_shape)} of {_name(p)}",
        )
    for reduction in _REDUCTIONS:
        reduced = reduction(q, p)
        if reduced is not None:
            return _expanded(reduced, batch)
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
        how = f"KL({_name(q)} || {_name(p)}) has no closed form that is known here"
        return Plan("sampled", "none", batch, finite, None, verdict.explain, how)

    def value() -> Tensor:
        if verdict.finite is False:
            return _anchored(q, p).expand(batch)
        kl = found.form(prepared(q, batch, finite), prepared(p, batch, finite)).expand(batch)
        # an infinity in torch's table is a constant, and the gradient has to be 0, not None
        return kl if finite is None else kl + _anchored(q, p)

    how = f"closed form of KL({_name(q)} || {_name(p)}) ({found.source})"
    return Plan("closed", found.source, batch, finite, value, verdict.explain, how)


# ----------------------------------------------------------------------------------- reductions
def _expand(q: Any, p: Any) -> Plan | None:
    if not isinstance(q, ExpandedDistribution) and not isinstance(p, ExpandedDistribution):
        return None
    return plan(
        q.base_dist if isinstance(q, ExpandedDistribution) else q,
        p.base_dist if isinstance(p, ExpandedDistribution) else p,
    )


def _masked(q: Any, p: Any) -> Plan | None:
    masks = [d._mask for d in (q, p) if isinstance(d, MaskedDistribution)]
    if not masks:
        return None
    inner = plan(
        q.base_dist if isinstance(q, MaskedDistribution) else q,
        p.base_dist if isinstance(p, MaskedDistribution) else p,
    )
    mask = torch.ones(inner.batch, dtype=torch.bool, device=device_of(q))
    for factor in masks:
        mask = mask & factor
    inner = _expanded(inner, mask.shape)
    finite = None if inner.finite is None else inner.finite | ~mask

    def value(of: Callable[[], Tensor]) -> Tensor:
        return torch.where(mask, of(), 0.0)

    return _changed(inner, mask.shape, finite, value, "masked")


def _independent(q: Any, p: Any) -> Plan | None:
    outer, inner = _unpack(q), _unpack(p)
    shared = min(outer[1], inner[1])
    if shared == 0:
        # an Independent of nothing, or of an Independent, is only another way to write it
        return plan(_packed(*outer), _packed(*inner)) if _odd(q) or _odd(p) else None
    elements = plan(_packed(outer[0], outer[1] - shared), _packed(inner[0], inner[1] - shared))
    dims = tuple(range(-shared, 0))
    batch = elements.batch[: len(elements.batch) - shared]
    finite = None if elements.finite is None else elements.finite.all(dims)

    def value(of: Callable[[], Tensor]) -> Tensor:
        return sum_last(of(), shared)

    return _changed(elements, batch, finite, value, "summed over independent elements")


def _point(q: Any, p: Any) -> Plan | None:
    """Delta with density: log_density - log p(v)."""
    if not same_class(q, dist.Delta):
        return None
    batch = _broadcast(q, p)
    finite = p.support.check(q.v).expand(batch)

    def value() -> Tensor:
        inside = finite.reshape(finite.shape + (1,) * q.event_dim)
        point = torch.where(inside, q.v, _legal(p, q.v))
        return (q.log_density - p.log_prob(point)).double()

    def why() -> str:
        return "" if bool(finite.all()) else f"the point lies outside the support of {_name(p)}"

    how = f"log density of a point mass against {_name(p)}"
    return Plan("closed", "pyro_vae", batch, finite, value, why, how)


def _legal(p: Any, point: Tensor) -> Tensor:
    """A point of the support of p, to stand in for one that is not; discrete ones do no harm."""
    support = p.support
    if support.is_discrete:
        return point
    free = transform_to(support)
    return free(point.new_zeros(free.inverse_shape(point.shape)))


def _marginals(q: Any, p: Any) -> Plan | None:
    """Gaussian against independent elements: marginals plus total correlation."""
    if not any(same_class(q, c) for c in (td.MultivariateNormal, td.LowRankMultivariateNormal)):
        return None
    prior, dims = _unpack(p)
    if dims != 1 or prior.event_shape or isinstance(prior, MaskedDistribution):
        return None
    wide: Any = prepared(q, q.batch_shape, None)
    marginals = td.Normal(wide.loc, wide.variance.sqrt(), validate_args=False)
    elements = plan(td.Independent(marginals, 1), p)

    def value(of: Callable[[], Tensor]) -> Tensor:
        total_correlation = marginals.entropy().sum(-1) - wide.entropy()
        return of() + total_correlation

    how = "of the marginals, plus the total correlation"
    reduced = _changed(elements, elements.batch, elements.finite, value, how)
    # torch may have the form of the marginals, but not that of the pair
    return reduced if reduced.value is None else reduced._replace(source="pyro_vae")


def _transformed(q: Any, p: Any) -> Plan | None:
    if not all(same_class(d, td.TransformedDistribution) for d in (q, p)):
        return None
    pairs = list(zip(q.transforms, p.transforms, strict=False))
    if len(q.transforms) != len(p.transforms) or not all(_shared(a, b) for a, b in pairs):
        return None
    inner = plan(q.base_dist, p.base_dist)
    if inner.batch != _broadcast(q, p):
        return None
    return inner._replace(how=f"{inner.how}, seen through the same bijection")


_REDUCTIONS = (_expand, _masked, _point, _independent, _marginals, _transformed)

_PARAMETER_FREE = (
    transforms.ExpTransform,
    transforms.SigmoidTransform,
    transforms.TanhTransform,
    transforms.SoftplusTransform,
    transforms.StickBreakingTransform,
)


def _shared(a: Any, b: Any) -> bool:
    """Whether two transforms are one bijection: the same object, or free of parameters."""
    same = a is b or (type(a) is type(b) and type(a) in _PARAMETER_FREE)
    return same and bool(a.bijective)


def _unpack(d: Any) -> tuple[Any, int]:
    """The base of nested `Independent`s and the number of their dimensions."""
    dims = 0
    while same_class(d, td.Independent):
        dims += d.reinterpreted_batch_ndims
        d = d.base_dist
    return d, dims


def _packed(base: Any, dims: int) -> Any:
    if dims and same_class(base, dist.Delta):
        density: Any = sum_last(base.log_density, dims)
        return dist.Delta(base.v, density, base.event_dim + dims)
    return td.Independent(base, dims, validate_args=False) if dims else base


def _odd(d: Any) -> bool:
    """Whether d is an `Independent` that `_packed` would write otherwise."""
    if not same_class(d, td.Independent):
        return False
    base, dims = _unpack(d)
    return dims == 0 or same_class(base, dist.Delta) or same_class(d.base_dist, td.Independent)


# -------------------------------------------------------------------------------------- plumbing
def _changed(
    inner: Plan,
    batch: torch.Size,
    finite: Tensor | None,
    change: Callable[[Callable[[], Tensor]], Tensor],
    how: str,
) -> Plan:
    """The plan of a reduced pair, with its value changed."""
    of = inner.value
    return inner._replace(
        batch=batch,
        finite=finite,
        value=None if of is None else lambda: change(of),
        how=f"{inner.how}, {how}",
    )


def _expanded(inner: Plan, batch: torch.Size) -> Plan:
    if inner.batch == batch:
        return inner
    of = inner.value
    return inner._replace(
        batch=batch,
        finite=None if inner.finite is None else inner.finite.expand(batch),
        value=None if of is None else lambda: of().expand(batch),
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
    return torch.stack([0.0 * t.double().sum() for d in (q, p) for t in tensors(d)]).sum()


def _broadcast(q: Distribution, p: Distribution) -> torch.Size:
    try:
        return torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    except RuntimeError:
        raise ValueError(
            f"the batch shapes of q ({_name(q)}, {tuple(q.batch_shape)}) and p ({_name(p)}, "
            f"{tuple(p.batch_shape)}) do not broadcast; expand one of them."
        ) from None


def _name(d: Distribution) -> str:
    base, dims = _unpack(d)
    return f"Independent({type(base).__name__})" if dims else type(base).__name__
