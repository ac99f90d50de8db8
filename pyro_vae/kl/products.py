"""Blocks side by side: their KLs, summed.

For q = prod_b q_b and p = prod_b p_b over the same blocks, KL(q || p) = sum_b KL(q_b || p_b), each
by its own way. A side of independent elements is cut into the blocks of the other, and so is a
product whose blocks are of other sizes; where the cut would go through elements that depend on
each other (a simplex, a correlated Normal) there is no such sum.
"""

from __future__ import annotations

__all__: list[str] = []

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.transforms import _InverseTransform

from pyro_vae.distributions.product import Blockwise, Product
from pyro_vae.kl.parameters import KNOWN, known
from pyro_vae.kl.plan import Plan, broadcast, describe, expanded, plan, reduction, unpack
from pyro_vae.kl.pushforwards import elementwise
from pyro_vae.kl.table import same_class, source_of


@reduction
def _product(q: Any, p: Any) -> Plan | None:
    """A product of blocks on either side: the blocks' KLs, summed."""
    sides = [_as_product(d) for d in (q, p)]
    if not any(isinstance(d, Product) for d in sides):
        return None
    pairs = _paired(*sides)
    if pairs is None:
        return None
    summed = _summed([plan(a, b) for a, b in pairs], pairs)
    told = summed.kind == "closed"
    return summed._replace(source=source_of(q, p, "pyro_vae")) if told else summed


def _as_product(d: Any) -> Any:
    """What is carried block by block from independent elements, as a product; else d itself."""
    if not same_class(d, td.TransformedDistribution) or len(d.transforms) != 1:
        return d
    carry = d.transforms[0]
    if not isinstance(carry, Blockwise):
        return d
    pieces, start = [], 0
    for shape, length in zip(carry.inner.shapes, carry.inner.lengths, strict=True):
        pieces.append(_cut(d.base_dist, start, start + length, shape))
        start += length
    if any(piece is None for piece in pieces):
        return d
    maps = zip(pieces, carry.maps, strict=True)
    return Product([dist.TransformedDistribution(a, [t], validate_args=False) for a, t in maps])


# ------------------------------------------------------------------------------------- the cuts
def _paired(q: Any, p: Any) -> list[tuple[Any, Any]] | None:
    """The blocks of q and p between all ends of either, None where one cannot be cut there."""
    spans = [_spans(d) for d in (q, p)]
    cuts = sorted({stop for side in spans for _, stop, _ in side})
    pairs, start = [], 0
    for stop in cuts:
        whole = [next(span for span in side if span[1] >= stop) for side in spans]
        # a block that is not cut keeps its shape
        shapes = [tuple(s[2].event_shape) for s in whole if s[:2] == (start, stop)]
        shape = shapes[0] if shapes else (*q.event_shape[:-1], stop - start)
        pair = [
            block
            if (first, last) == (start, stop) and tuple(block.event_shape) == shape
            else _cut(block, start - first, stop - first, shape)
            for first, last, block in whole
        ]
        if None in pair:
            return None
        pairs.append((pair[0], pair[1]))
        start = stop
    return pairs


def _spans(d: Any) -> list[tuple[int, int, Any]]:
    """Where blocks begin and end along the last dimension, and the blocks."""
    if not isinstance(d, Product):
        return [(0, d.event_shape[-1], d)]
    return [(*cut, block) for cut, block in zip(d.cuts(), d.blocks, strict=True)]


def _cut(d: Any, start: int, stop: int, shape: tuple[int, ...]) -> Any:
    """Independent elements from `start` to `stop` of the last dimension, as events of a shape.

    Arguments:
        d: A distribution, elements of whose event are cut out; of an event that is flattened in
            its product they are counted as flattened.
        start: The first element.
        stop: The one after the last.
        shape: The shape of one draw of what is cut out.

    Returns:
        The distribution, None if the elements are not independent, or not of a known class.
    """
    base, dims = unpack(d)
    if base.event_shape or not dims or dims != len(d.event_shape):
        return None
    old, event = base.batch_shape, d.event_shape
    # a vector of elements, or rows that keep their place
    flat = math.prod(shape) == stop - start and len(event) > 1
    batch = old[: len(old) - dims]

    def part(t: Tensor) -> Tensor:
        t = t.flatten(-dims) if flat else t
        return t[..., start:stop].reshape(batch + torch.Size(shape))

    elements = _elements(base, old, batch + torch.Size(shape), part)
    return None if elements is None else td.Independent(elements, len(shape), validate_args=False)


def _elements(d: Any, old: torch.Size, new: torch.Size, part: Callable[[Tensor], Tensor]) -> Any:
    """Some of the elements of a batch of shape `old`, in a batch of shape `new`."""
    if d.batch_shape != old or d.event_shape:
        return None
    copied = _copied(d, old, new, part)
    return _rebuilt(d, part) if copied is None else copied


def _copied(d: Any, old: torch.Size, new: torch.Size, part: Callable[[Tensor], Tensor]) -> Any:
    """A copy in which every tensor is cut, if maps are the same for all elements."""
    maps = d.transforms if isinstance(d, td.TransformedDistribution) else []
    if not (known(d) or maps) or not elementwise(maps) or not all(map(_constant, maps)):
        return None
    made, parts = copy.copy(d), {}
    for name, value in list(vars(made).items()):
        if isinstance(value, td.Distribution):
            inner = _elements(value, old, new, part)
            if inner is None:
                return None
            vars(made)[name] = inner
        elif isinstance(value, Tensor) and value.dim():
            if value.shape != old:
                return None
            # one tensor may have two names, by which it is known that neither is derived
            vars(made)[name] = parts.setdefault(id(value), part(value))
    made._batch_shape, made._validate_args = new, False
    return made


def _rebuilt(d: Any, part: Callable[[Tensor], Tensor]) -> Any:
    """The same of a class that keeps its parameters in another form, as Beta and Gumbel do."""
    accepted = inspect.signature(type(d).__init__).parameters
    names = [n for n in type(d).arg_constraints if n in accepted]
    needed = {n for n, p in accepted.items() if p.default is p.empty} - {"self"}
    if not type(d).__module__.startswith(KNOWN) or not names or not needed <= set(names):
        return None
    if {"probs", "logits"} <= set(names):
        names.remove("probs")
    cut = {n: part(torch.as_tensor(getattr(d, n)).expand(d.batch_shape)) for n in names}
    return type(d)(**cut, validate_args=False)


def _constant(t: Any) -> bool:
    """Whether a map is the same for all elements."""
    if isinstance(t, torch.nn.Module):
        return False
    own = [
        value
        for name, value in vars(t).items()
        if name != "_inv" or isinstance(t, _InverseTransform)
    ]
    held = [v for value in own for v in (value if isinstance(value, list) else [value])]
    inner = [v for v in held if isinstance(v, Transform)]
    return not any(isinstance(v, Tensor) and v.dim() for v in held) and all(map(_constant, inner))


# -------------------------------------------------------------------------------------- the sum
_ORDER = ("closed", "quadrature", "sampled", "undefined")


def _summed(plans: list[Plan], pairs: list[tuple[Any, Any]]) -> Plan:
    """The sum of the KLs of blocks: as good as the worst of them."""
    batch = torch.broadcast_shapes(*(broadcast(q, p) for q, p in pairs))
    plans = [expanded(each, batch) for each in plans]
    names = [f"block {i} ({describe(q)} || {describe(p)})" for i, (q, p) in enumerate(pairs, 1)]
    kind = max((each.kind for each in plans), key=_ORDER.index)
    masks = [each.finite for each in plans if each.finite is not None]
    finite = torch.stack(masks).all(0) if masks else None
    values = [each.value for each in plans if each.value is not None]
    errors = [each.error for each in plans if each.error is not None]
    limits = dict.fromkeys(each.limit for each in plans if each.error is not None)

    def why() -> str:
        told = zip(names, plans, strict=True)
        return "; ".join(f"{name}: {each.why()}" for name, each in told if each.why())

    def value() -> Tensor:
        return torch.stack([of().expand(batch) for of in values]).sum(0)

    def error() -> Tensor:
        return torch.stack([of().expand(batch) for of in errors]).sum(0)

    complete = len(values) == len(plans)
    return Plan(
        kind,
        "pyro_vae" if complete else "none",
        batch,
        finite,
        value if complete else None,
        why,
        "; ".join(f"{name}: {each.how}" for name, each in zip(names, plans, strict=True)),
        error if errors and complete else None,
        " or ".join(limits) or Plan._field_defaults["limit"],
    )
