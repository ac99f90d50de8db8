"""KL by enumeration: q takes so few values that they can all be looked at.

The sum over x of q(x) [log q(x) - log p(x)], by the densities of both sides themselves, serves
every pair on a common measure, whatever the classes: a Binomial against a Categorical, a class of
somebody else's against anything. It is the way of last resort for discrete pairs, after forms.
"""

from __future__ import annotations

__all__ = ["LARGEST", "count_of", "enumerable", "impossible", "support_of", "total"]

import math
from typing import Any

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.parameters import unvalidated
from pyro_vae.kl.table import canonical, same_class

LARGEST = 1024
"""The largest number of values that is enumerated."""


def support_of(q: Any) -> Tensor | None:
    """Return all values of a distribution, if they can be listed and are at most `LARGEST`.

    Arguments:
        q: A distribution.

    Returns:
        The values, of shape (K, *ones for the batch dimensions, *event_shape), or None.

    Example:
        >>> support_of(td.Binomial(2, torch.tensor([0.5, 0.1]))).shape
        torch.Size([3, 1])
        >>> support_of(td.Poisson(1.0)) is None
        True
    """
    if same_class(q, td.MixtureSameFamily):
        # what a component can take, less the dimension of the components
        values = support_of(q.component_distribution)
        batch = [1] * len(q.batch_shape)
        return None if values is None else values.reshape(len(values), *batch, *q.event_shape)
    if same_class(q, td.Independent):
        return _products(q)
    if not getattr(q, "has_enumerate_support", False):
        return None
    try:
        values = q.enumerate_support(expand=False)
    except NotImplementedError:
        # e.g. a Binomial whose count differs between elements
        return None
    return values if len(values) <= LARGEST else None


def count_of(q: Any) -> int | None:
    """Return how many values a distribution takes, None where they cannot be listed.

    Arguments:
        q: A distribution.

    Returns:
        The number of values, however large.

    Example:
        >>> count_of(td.Independent(td.Bernoulli(torch.ones(100) / 2), 1)) == 2**100
        True
    """
    if same_class(q, td.MixtureSameFamily):
        return count_of(q.component_distribution)
    if same_class(q, td.Independent):
        each = count_of(q.base_dist)
        return None if each is None else each ** _elements(q)
    values = support_of(q)
    return None if values is None else len(values)


def _products(q: Any) -> Tensor | None:
    """All values of independent elements: each of one beside each of the others."""
    each, count = support_of(q.base_dist), _elements(q)
    if each is None or count == 0 or len(each) ** count > LARGEST:
        return None
    choices = [torch.arange(len(each), device=each.device)] * count
    index = torch.cartesian_prod(*choices).reshape(-1, count)
    values = each.reshape(len(each), *q.base_dist.event_shape)[index]
    return values.reshape(len(index), *[1] * len(q.batch_shape), *q.event_shape)


def _elements(q: Any) -> int:
    batch = q.base_dist.batch_shape
    return math.prod(batch[len(batch) - q.reinterpreted_batch_ndims :])


def enumerable(q: Any, p: Any) -> bool:
    """Say whether the KL of q and p can be had by enumeration.

    Arguments:
        q: A distribution.
        p: Another.

    Returns:
        True if q has a `support_of`, and both are discrete.

    Example:
        >>> enumerable(td.Bernoulli(0.5), td.Poisson(1.0))
        True
    """
    try:
        return bool(q.support.is_discrete and p.support.is_discrete and support_of(q) is not None)
    except NotImplementedError:
        return False


def total(q: Any, p: Any) -> Tensor:
    """Sum over the values x of q of q(x) [log q(x) - log p(x)].

    Arguments:
        q: A distribution with a `support_of`.
        p: Another of the same event shape.

    Returns:
        The KL, of the broadcast batch shape; meaningless where it is infinite.

    Example:
        >>> total(td.Binomial(1, torch.tensor(0.5)), td.Categorical(torch.ones(2))).item()
        0.0
    """
    log_q, log_p, held, _ = _masses(q, p)
    return torch.where(held, log_q.exp() * (log_q - log_p), 0.0).sum(0)


def impossible(q: Any, p: Any) -> Tensor:
    """Say where q takes a value that p does not.

    Arguments:
        q: A distribution with a `support_of`.
        p: Another of the same event shape.

    Returns:
        A BoolTensor of the broadcast batch shape: where the KL is infinite.

    Example:
        >>> q = td.Binomial(2, torch.tensor([0.0, 0.5]))
        >>> impossible(q, td.Bernoulli(0.5)).tolist()
        [False, True]
    """
    _, log_p, held, inside = _masses(q, p)
    return (held & ~(inside & (log_p > -torch.inf))).any(0)


def _masses(q: Any, p: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log masses of both sides, where q has mass, and what lies in the support of p."""
    values = support_of(q)
    assert values is not None, f"{type(q).__name__} is not enumerated; ask support_of first"
    batch = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    q, p = unvalidated(q), unvalidated(p)
    # class numbers come as integers, which some densities score in float32 or not at all
    values = values.double().reshape(len(values), *[1] * len(batch), *q.event_shape)
    inside = p.support.check(values)
    scored = inside.reshape(inside.shape + (1,) * len(q.event_shape))
    legal = torch.where(scored, values, _some(p, values))
    log_q, log_p, inside = torch.broadcast_tensors(
        _log_mass(q, values), _log_mass(p, legal), inside.expand(len(values), *batch)
    )
    return log_q, log_p, log_q > -torch.inf, inside


def _log_mass(d: Any, values: Tensor) -> Tensor:
    """The log density, -inf also where torch keeps a probability of 0 or 1 off its end."""
    inner, cls = getattr(d, "_categorical", d), canonical(type(d))
    if cls is td.MixtureSameFamily:
        return _mixed(d, values)
    if cls is td.Independent:
        each = _log_mass(d.base_dist, values)
        dims = d.reinterpreted_batch_ndims
        return each.sum(tuple(range(-dims, 0))) if dims else each
    # what was derived from the other is not kept in an unvalidated copy
    probs = None if "logits" in vars(inner) else vars(inner).get("probs")
    log = d.log_prob(values)
    if probs is None:
        return log
    if cls in (td.Bernoulli, td.Binomial, td.NegativeBinomial):
        most = d.total_count if cls is td.Binomial else 1
        never = ((probs == 0) & (values > 0)) | ((probs == 1) & (values < most))
    elif cls is td.Categorical:
        wide = torch.broadcast_shapes(values.shape, d.batch_shape)
        index = values.long().expand(wide).unsqueeze(-1)
        never = (probs.expand(*wide, -1).gather(-1, index) == 0).squeeze(-1)
    elif cls in (td.OneHotCategorical, td.OneHotCategoricalStraightThrough):
        never = (probs * values).sum(-1) == 0
    else:
        return log
    return torch.where(never, -torch.inf, log)


def _mixed(d: Any, values: Tensor) -> Tensor:
    """The same of a mixture: -inf where no component has mass."""
    parts = _log_mass(d.component_distribution, values.unsqueeze(-1 - len(d.event_shape)))
    joint = d.mixture_distribution.logits.log_softmax(-1) + parts
    never = (joint == -torch.inf).all(-1)
    # a logsumexp of nothing but -inf has no gradient
    some = torch.where(never.unsqueeze(-1), 0.0, joint).logsumexp(-1)
    return torch.where(never, -torch.inf, some)


def _some(p: Distribution, values: Tensor) -> Tensor:
    """A value that p can score."""
    known = support_of(p)
    if known is None:
        return torch.zeros_like(values[:1])
    return known[0].reshape(values[:1].shape).to(values.dtype)
