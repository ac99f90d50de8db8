"""Distributions as maps of simpler ones: taken apart (`unfold`) and put together (`fold`).

A LogNormal is exp of a Normal, and a Normal after an affine map is a Normal. Two distributions
that are one bijection of simpler ones have the KL of those, so `unfold` writes a distribution as
a base and a list of maps, and `fold` lets a base absorb the maps that it can. Whether a scale is
negative is a value, and never asked: families that are symmetric take its absolute value, the
others absorb only scales that are positive constants.
"""

from __future__ import annotations

__all__ = ["RECIPROCAL", "affine_of", "elementwise", "fold", "same_map", "unfold"]

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from pyro.distributions.transforms import (
    CorrMatrixCholeskyTransform,
    LowerCholeskyAffine,
    OrderedTransform,
)
from torch import Tensor
from torch.distributions import Distribution, transforms
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.transforms import Transform, _InverseTransform

from pyro_vae.distributions import (
    GEM,
    Flow,
    FlowTransform,
    LogitNormal,
    Onto,
    SphericalMap,
    StickBreaking,
    Sticks,
)
from pyro_vae.distributions.hyperbolic import ExponentialMap
from pyro_vae.distributions.product import Blockwise
from pyro_vae.kl.table import canonical, same_class

_EXP, _SIGMOID = transforms.ExpTransform(), transforms.SigmoidTransform()
RECIPROCAL = transforms.PowerTransform(torch.tensor(-1.0))
"""The map by which InverseGamma is a Gamma, known by identity: no exponent is ever read."""

Parts = tuple[Any, list[Transform]]


def _made(cls: type[Distribution], *parameters: Any) -> Any:
    return cls(*(p.double() for p in parameters), validate_args=False)


def _logistic(d: LogitRelaxedBernoulli) -> Any:
    temperature = torch.as_tensor(d.temperature)
    return _made(dist.Logistic, d.logits / temperature, 1 / temperature)


def _broken(cls: type[Distribution], a: Tensor, b: Tensor) -> Parts:
    """A simplex broken from independent sticks."""
    return td.Independent(_made(cls, a, b), 1, validate_args=False), [Sticks()]


def _each_stick(d: GEM) -> Tensor:
    return d.concentration.unsqueeze(-1).expand(*d.batch_shape, d.event_shape[0] - 1)


_PARTS: dict[type[Distribution], Callable[[Any], Parts]] = {
    td.TransformedDistribution: lambda d: (d.base_dist, d.transforms),
    Flow: lambda d: (d.base_dist, d.transforms),
    td.LogNormal: lambda d: (_made(td.Normal, d.loc, d.scale), [_EXP]),
    LogitNormal: lambda d: (_made(td.Normal, d.loc, d.scale), [_SIGMOID]),
    td.LogisticNormal: lambda d: (d.base_dist, d.transforms),
    StickBreaking: lambda d: _broken(td.Kumaraswamy, d.concentration1, d.concentration0),
    GEM: lambda d: _broken(td.Beta, torch.ones_like(_each_stick(d)), _each_stick(d)),
    td.InverseGamma: lambda d: (_made(td.Gamma, d.concentration, d.rate), [RECIPROCAL]),
    LogitRelaxedBernoulli: lambda d: (_logistic(d), []),
    td.RelaxedBernoulli: lambda d: (d.base_dist, [_SIGMOID]),
    dist.LKJ: lambda d: (d.base_dist, d.transforms),
}

_PARAMETER_FREE = (
    transforms.ExpTransform,
    transforms.SigmoidTransform,
    transforms.TanhTransform,
    transforms.SoftplusTransform,
    transforms.StickBreakingTransform,
    transforms.CorrCholeskyTransform,
    CorrMatrixCholeskyTransform,
    OrderedTransform,
    Sticks,
    SphericalMap,
)


def unfold(d: Any) -> Parts:
    """Write a distribution as a base and maps: d is the distribution of t_n(...t_1(x)), x ~ base.

    Arguments:
        d: A distribution.

    Returns:
        The base, which is `d` itself where nothing can be taken apart, and [t_1, ..., t_n].

    Example:
        >>> base, maps = unfold(td.LogNormal(0.0, 1.0))
        >>> base, maps
        (Normal(loc: 0.0, scale: 1.0), [ExpTransform()])
    """
    if same_class(d, td.Independent):
        base, maps = unfold(d.base_dist)
        if not (maps or base is not d.base_dist) or not elementwise(maps):
            return d, []
        return td.Independent(base, d.reinterpreted_batch_ndims, validate_args=False), maps
    parts = _PARTS.get(canonical(type(d)))
    if parts is None:
        return d, []
    base, own = parts(d)
    base, maps = unfold(base)
    maps = list(maps)
    for t in _flat(own):
        # a map and its inverse, one after the other, are none
        if maps and same_map(_inverse(maps[-1]), t):
            maps.pop()
        else:
            maps.append(t)
    return base, maps


def fold(base: Any, maps: Sequence[Transform]) -> Any:
    """Return the distribution of t_n(...t_1(x)), x ~ base, as a known family as far as possible.

    Arguments:
        base: A distribution.
        maps: The maps t_1, ..., t_n.

    Returns:
        A distribution with parameters in float64 where it absorbed a map; what no family absorbs
        stays a `TransformedDistribution`.

    Example:
        >>> fold(td.Normal(1.0, 2.0), [transforms.AffineTransform(1.0, -3.0), _EXP])
        LogNormal()
    """
    rest = list(maps)
    while rest:
        absorbed = _absorbed(base, rest[0])
        if absorbed is None:
            return _transformed(base, rest)
        base = absorbed
        rest.pop(0)
    return base


def _transformed(base: Any, maps: list[Transform]) -> Any:
    """What no family absorbs, taken apart as far as the maps leave numbers apart."""
    needed = max(max(t.domain.event_dim, t.codomain.event_dim) for t in maps)
    outer = base.reinterpreted_batch_ndims - needed if same_class(base, td.Independent) else 0
    if outer > 0:
        inner = base.base_dist
        if needed:
            inner = td.Independent(inner, needed, validate_args=False)
        inner = td.TransformedDistribution(inner, maps, validate_args=False)
        return td.Independent(inner, outer, validate_args=False)
    return td.TransformedDistribution(base, maps, validate_args=False)


def same_map(a: Any, b: Any) -> bool:
    """Say whether two maps are one bijection: one object, or equal by type and constants.

    Flows are equal if one module made them, and looked at nothing else.

    Equality of tensors is never asked, for that would depend on their values.

    Arguments:
        a: A transform.
        b: Another one.

    Returns:
        True if they are known to be the same bijection.

    Example:
        >>> same_map(transforms.ExpTransform(), transforms.ExpTransform())
        True
        >>> fold = transforms.AbsTransform()
        >>> same_map(fold, fold)
        False
    """
    if isinstance(a, _InverseTransform) and isinstance(b, _InverseTransform):
        return same_map(a._inv, b._inv)
    if not (a.bijective and b.bijective):
        return False
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if type(a) is FlowTransform:
        return a == b
    if type(a) is transforms.ReshapeTransform:
        return a.in_shape == b.in_shape and a.out_shape == b.out_shape
    if type(a) is transforms.AffineTransform:
        constants = [t for t in (a.loc, a.scale, b.loc, b.scale) if not isinstance(t, Tensor)]
        return len(constants) == 4 and (a.loc, a.scale) == (b.loc, b.scale)
    if type(a) is Blockwise:
        pairs = zip(a.maps, b.maps, strict=False)
        return a.codomain.shapes == b.codomain.shapes and all(same_map(*pair) for pair in pairs)
    if type(a) is ExponentialMap:
        return a == b
    return type(a) in _PARAMETER_FREE


def elementwise(maps: Sequence[Any]) -> bool:
    """Say whether all these maps act on each number by itself.

    Arguments:
        maps: Transforms.

    Returns:
        True if so.

    Example:
        >>> elementwise([_EXP]), elementwise([Sticks()])
        (True, False)
    """
    return all(t.domain.event_dim == t.codomain.event_dim == 0 for t in maps)


def _flat(maps: Sequence[Any]) -> list[Transform]:
    """The maps without composition; an `IndependentTransform` maps as its base does."""
    flat: list[Transform] = []
    for t in maps:
        if isinstance(t, transforms.ComposeTransform):
            flat += _flat(t.parts)
        elif isinstance(t, transforms.IndependentTransform):
            flat += _flat([t.base_transform])
        elif isinstance(t, Onto):
            flat += _flat([t.bijection])
        else:
            flat.append(t)
    return flat


def _inverse(t: Any) -> Any:
    return t._inv if isinstance(t, _InverseTransform) else _InverseTransform(t)


# ------------------------------------------------------------------------------------ absorption
def _absorbed(base: Any, t: Any) -> Any:
    """The distribution of t(x), x ~ base, if it is of a known family, else None."""
    if same_class(base, td.Independent):
        if isinstance(t, LowerCholeskyAffine) and base.reinterpreted_batch_ndims == 1:
            return _correlated(base.base_dist, t)
        inner = _absorbed(base.base_dist, t) if elementwise([t]) or affine_of(t) else None
        dims = base.reinterpreted_batch_ndims
        return None if inner is None else td.Independent(inner, dims, validate_args=False)
    for cls, kind, family in _NAMED:
        if type(t) is kind and same_class(base, cls):
            return _made(family, *_parameters(base))
    if t is RECIPROCAL and same_class(base, td.Gamma):
        return _made(td.InverseGamma, base.concentration, base.rate)
    affine = affine_of(t)
    if affine is None:
        return None
    known = _AFFINE.get(canonical(type(base)))
    return None if known is None else known(base, *affine)


_NAMED = (
    (td.Normal, transforms.ExpTransform, td.LogNormal),
    (td.Normal, transforms.SigmoidTransform, LogitNormal),
)


def _parameters(d: Any) -> tuple[Any, Any]:
    return d.loc, d.scale


def affine_of(t: Any) -> tuple[Any, Any] | None:
    """Return shift and scale of an affine map of numbers, or of the inverse of one.

    Arguments:
        t: A transform.

    Returns:
        Both, None if it is no such map.

    Example:
        >>> affine_of(transforms.AffineTransform(1.0, 2.0).inv)
        (-0.5, 0.5)
    """
    if type(t) is transforms.AffineTransform:
        return t.loc, t.scale
    if isinstance(t, _InverseTransform) and type(t._inv) is transforms.AffineTransform:
        loc, scale = t._inv.loc, t._inv.scale
        return -loc / scale, 1 / scale
    return None


def _symmetric(d: Any, loc: Any, scale: Any) -> Any:
    shape = [d.df] if isinstance(d, td.StudentT) else []
    new = (torch.as_tensor(d.loc).double() * scale + loc, d.scale.double() * abs(scale))
    return _made(canonical(type(d)), *shape, *new)


def _gumbel(d: Any, loc: Any, scale: Any) -> Any:
    if not _positive(scale):
        return None
    return _made(td.Gumbel, d.loc.double() * scale + loc, d.scale.double() * scale)


def _uniform(d: Any, loc: Any, scale: Any) -> Any:
    ends = (d.low.double() * scale + loc, d.high.double() * scale + loc)
    return _made(td.Uniform, torch.minimum(*ends), torch.maximum(*ends))


def _scaled(parameters: Callable[[Any, float], tuple[Any, ...]]) -> Callable[..., Any]:
    """The rule of a family on the half-line: it absorbs positive constants, and no shift."""

    def rule(d: Any, loc: Any, scale: Any) -> Any:
        if isinstance(loc, Tensor) or loc != 0 or not _positive(scale):
            return None
        return _made(canonical(type(d)), *parameters(d, scale))

    return rule


def _positive(scale: Any) -> bool:
    return not isinstance(scale, Tensor) and scale > 0


def _full(d: Any, loc: Any, scale: Any) -> Any:
    """With s the scales, s (L z + m) + a = L' z' + m' where L' = diag(s) L diag(sign s)."""
    scale = torch.as_tensor(scale).double().expand(d.loc.shape)
    sign = torch.where(scale < 0, -1.0, 1.0)
    tril = scale.unsqueeze(-1) * d.scale_tril.double() * sign.unsqueeze(-2)
    new = d.loc.double() * scale + loc
    if isinstance(d, dist.MultivariateStudentT):
        return _made(dist.MultivariateStudentT, d.df, new, tril)
    return td.MultivariateNormal(new, scale_tril=tril, validate_args=False)


def _low_rank(d: Any, loc: Any, scale: Any) -> Any:
    scale = torch.as_tensor(scale).double().expand(d.loc.shape)
    factor = d.cov_factor.double() * scale.unsqueeze(-1)
    new, diagonal = d.loc.double() * scale + loc, d.cov_diag.double() * scale**2
    return _made(td.LowRankMultivariateNormal, new, factor, diagonal)


def _correlated(elements: Any, t: Any) -> Any:
    """Independent Normals after a linear map, which is lower triangular."""
    if not same_class(elements, td.Normal):
        return None
    tril = t.scale_tril.double() * elements.scale.double().unsqueeze(-2)
    loc = t(elements.loc.double())
    return td.MultivariateNormal(loc, scale_tril=tril, validate_args=False)


_AFFINE: dict[type[Distribution], Callable[..., Any]] = {
    **dict.fromkeys((td.Normal, td.Laplace, td.Cauchy, td.StudentT, dist.Logistic), _symmetric),
    td.Gumbel: _gumbel,
    td.Uniform: _uniform,
    td.MultivariateNormal: _full,
    dist.MultivariateStudentT: _full,
    td.LowRankMultivariateNormal: _low_rank,
    td.Gamma: _scaled(lambda d, s: (d.concentration, d.rate / s)),
    td.InverseGamma: _scaled(lambda d, s: (d.concentration, d.rate * s)),
    td.Exponential: _scaled(lambda d, s: (d.rate / s,)),
    td.Weibull: _scaled(lambda d, s: (d.scale * s, d.concentration)),
    td.Pareto: _scaled(lambda d, s: (d.scale * s, d.alpha)),
    td.LogNormal: _scaled(lambda d, s: (d.loc + math.log(s), d.scale)),
    td.HalfNormal: _scaled(lambda d, s: (d.scale * s,)),
    td.HalfCauchy: _scaled(lambda d, s: (d.scale * s,)),
}
