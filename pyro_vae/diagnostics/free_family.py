"""A guide's distribution with parameters of its own for each datum: its family, freed.

A distribution is taken apart into its class and its parameters, each of which is carried to real
numbers by `transform_to` of its constraint, and put together again at other numbers. What is put
together at the numbers it began with must have the density it was taken from: that is tried on
its own draws, and a distribution that fails is refused by name.
"""

from __future__ import annotations

__all__ = ["STRUCTURAL", "FreeFamily"]

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Transform, transform_to
from torch.distributions.transforms import _InverseTransform

from pyro_vae.distributions import Flow, Product
from pyro_vae.supports import space_of

STRUCTURAL = frozenset(
    {"df", "temperature", "low", "high", "lower", "upper", "total_count", "validate_args"}
)
"""Parameters that say which family it is, and so are held: a support, tails, a relaxation."""

# of several names for one thing, the one that is free
_PREFERRED = (
    ("scale_tril", ("covariance_matrix", "precision_matrix")),
    ("logits", ("probs",)),
)
_AGREEMENT = 1e-3

Rebuild = Callable[[Mapping[str, Tensor]], Any]


@dataclass
class FreeFamily:
    """The family of one distribution, in unconstrained coordinates.

    Arguments:
        start: By parameter, the numbers of the distribution it was made from.
        rebuild: From numbers to the distribution.

    Example:
        >>> family = FreeFamily.of(dist.Normal(torch.zeros(3), 2.0).to_event(1), "z")
        >>> family.start["scale"].exp()
        tensor([2., 2., 2.])
        >>> family.rebuild({n: u + 1 for n, u in family.start.items()}).base_dist.loc
        tensor([1., 1., 1.])
    """

    start: dict[str, Tensor]
    rebuild: Rebuild

    @classmethod
    def of(cls, fn: Any, site: str, held: frozenset[str] = STRUCTURAL) -> FreeFamily:
        """Take a distribution apart.

        Arguments:
            fn: The distribution.
            site: The name of its site, for messages.
            held: The names of parameters that are not freed.

        Raises:
            ValueError: If it cannot be, or has nothing to free.
        """
        start: dict[str, Tensor] = {}
        rebuild = _taken_apart(fn, site, held, "", start)
        family = cls(start, rebuild)
        if not start:
            raise ValueError(f"{_of(site, fn)} has no parameter that could be freed.")
        for name, value in start.items():
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"{_of(site, fn)} has {name} at the edge of where it may lie, so that it has "
                    "no finite unconstrained coordinates to start from."
                )
        family._check(fn, site)
        return family

    def _check(self, fn: Any, site: str) -> None:
        draws = fn.sample((2,))
        was, now = fn.log_prob(draws), self.rebuild(self.start).log_prob(draws)
        if not torch.allclose(was, now, rtol=_AGREEMENT, atol=_AGREEMENT, equal_nan=True):
            raise ValueError(
                f"{_of(site, fn)} has another density when it is built again from its "
                f"parameters {sorted(self.start)}, so its family is not known."
            )


def _taken_apart(
    fn: Any, site: str, held: frozenset[str], prefix: str, start: dict[str, Tensor]
) -> Rebuild:
    """Fill `start` with the numbers of a distribution, and return how to build it from them."""

    def inner(part: Any, name: str = "") -> Rebuild:
        return _taken_apart(part, site, held, prefix + name, start)

    if isinstance(fn, dist.Independent | torch.distributions.Independent):
        base, dims = inner(fn.base_dist), fn.reinterpreted_batch_ndims
        return lambda u: dist.Independent(base(u), dims)
    if isinstance(fn, MaskedDistribution):
        base, mask = inner(fn.base_dist), fn._mask
        return lambda u: base(u).mask(mask)
    if isinstance(fn, ExpandedDistribution):
        # every datum is freed, also where all of them had one parameter
        return inner(_expanded(fn))
    if isinstance(fn, torch.distributions.MixtureSameFamily):
        mixture = inner(fn.mixture_distribution, "mixture.")
        component = inner(fn.component_distribution, "component.")
        kind: Any = type(fn)
        return lambda u: kind(mixture(u), component(u))
    if isinstance(fn, Product):
        blocks = [inner(block, f"block{i}.") for i, block in enumerate(fn.blocks)]
        return lambda u: Product([block(u) for block in blocks])
    if isinstance(fn, Flow):
        return _flow(fn, site, inner, prefix, start)
    names = _names(fn, held)
    if names is None:
        return _transformed(fn, site, inner)
    return _leaf(fn, site, names, prefix, start)


def _leaf(
    fn: Any, site: str, names: tuple[list[str], list[str]], prefix: str, start: dict[str, Tensor]
) -> Rebuild:
    """A distribution that its class makes of its parameters."""
    free, fixed = names
    transforms: dict[str, Any] = {}
    for name in free:
        value = getattr(fn, name).detach()
        transform = transforms[name] = _transform(fn, site, name, value)
        start[prefix + name] = transform.inv(_whole(fn, name, value)).clone()
    constants = {n: getattr(fn, n) for n in fixed}
    kind = type(fn)

    def build(u: Mapping[str, Tensor]) -> Any:
        freed = {n: transforms[n](u[prefix + n]) for n in free}
        return kind(**constants, **freed)

    return build


def _flow(
    fn: Flow, site: str, inner: Callable[..., Rebuild], prefix: str, start: dict[str, Tensor]
) -> Rebuild:
    """A flow: at each context one member of the family, which has its networks in common.

    A flow that looks at no context is a map like others, and its base is freed.
    """
    (carry,) = fn.transforms
    if carry.context is None:
        base = inner(fn.base_dist)
        return lambda u: Flow(base(u), [carry])
    if carry.source is None:
        raise ValueError(
            f"{_of(site, fn)} cannot be freed: which module makes it of a context is not known. "
            "Take fam.Flow(flow, context=C), or distributions.from_zuko(..., source=, context=)."
        )
    name = f"{prefix}context"
    start[name] = carry.context.detach().expand(*fn.batch_shape, -1).clone()
    return lambda u: carry.source(u[name])


def _transformed(fn: Any, site: str, inner: Callable[..., Rebuild]) -> Rebuild:
    """A base distribution pushed through maps that have no parameters of their own."""
    if not isinstance(fn, torch.distributions.TransformedDistribution):
        raise ValueError(
            f"{_of(site, fn)} cannot be freed: its class does not take its parameters "
            f"({', '.join(_constraints(fn)) or 'it names none'}) by name."
        )
    for transform in _maps(fn.transforms):
        if isinstance(transform, torch.nn.Module) or _tensors(transform):
            raise ValueError(
                f"{_of(site, fn)} cannot be freed: its {type(transform).__name__} has parameters "
                "of a network, which are the encoder's and not a datum's. Refine a guide whose "
                "distribution has parameters of its own (fam.FullNormal, say)."
            )
    base, transforms = inner(fn.base_dist), list(fn.transforms)
    return lambda u: dist.TransformedDistribution(base(u), transforms)


def _names(fn: Any, held: frozenset[str]) -> tuple[list[str], list[str]] | None:
    """Which parameters of the constructor are freed, and which held; None if it takes none."""
    accepted = inspect.signature(type(fn).__init__).parameters
    stated = [n for n in _constraints(fn) if n in accepted]
    for preferred, others in _PREFERRED:
        if preferred in stated:
            stated = [n for n in stated if n not in others]
    required = [
        n
        for n, p in accepted.items()
        if n != "self"
        and p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    alternatives = {o for p, others in _PREFERRED if p in stated for o in others}
    missing = [n for n in required if n not in stated and n not in alternatives]
    if not stated or any(not hasattr(fn, n) for n in missing):
        return None
    discrete = {n for n in stated if space_of(_constraints(fn)[n]).is_discrete}
    fixed = [n for n in [*stated, *missing] if n in held | discrete | set(missing)]
    return [n for n in stated if n not in fixed], fixed


def _whole(fn: Any, name: str, value: Tensor) -> Tensor:
    """A parameter as large as its distribution's batch: one of all data becomes one of each."""
    batch = fn.batch_shape
    if value.shape[: len(batch)] == batch:
        return value
    constraint = _constraints(fn)[name]
    dims = 0 if constraints.is_dependent(constraint) else constraint.event_dim
    return value.expand(*batch, *value.shape[value.dim() - dims :])


def _constraints(fn: Any) -> dict[str, Any]:
    return getattr(fn, "arg_constraints", None) or {}


def _transform(fn: Any, site: str, name: str, value: Tensor) -> Any:
    """The map from real numbers to where a parameter lives."""
    constraint: Any = _constraints(fn)[name]
    if getattr(type(fn), "arg_constraints", None) and constraints.is_dependent(constraint):
        constraint = constraints.real
    if space_of(constraint).kind == "sphere":
        return _Direction()
    try:
        return transform_to(constraint)
    except NotImplementedError as error:
        raise ValueError(
            f"{_of(site, fn)} has {name} in {constraint}, to which no map from real numbers is "
            "registered (torch.distributions.transform_to)."
        ) from error


class _Direction(Transform):
    """From vectors to their directions."""

    domain = constraints.real_vector
    codomain = constraints.sphere
    bijective = False

    def _call(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    def _inverse(self, y: Tensor) -> Tensor:
        return y


def _expanded(fn: Any) -> Any:
    """An `ExpandedDistribution` with parameters as large as its batch."""
    return fn.base_dist.expand(fn.batch_shape)


def _maps(transforms: Any) -> Iterator[Any]:
    for transform in transforms:
        parts = getattr(transform, "parts", None)
        if parts is not None:
            yield from _maps(parts)
        elif hasattr(transform, "base_transform"):
            yield from _maps([transform.base_transform])
        elif isinstance(transform, _InverseTransform):
            yield from _maps([transform._inv])
        else:
            yield transform


def _tensors(transform: Any) -> bool:
    return any(isinstance(v, Tensor) and v.dim() > 0 for v in vars(transform).values())


def _of(site: str, fn: Any) -> str:
    base = fn
    while isinstance(base, dist.Independent | torch.distributions.Independent):
        base = base.base_dist
    return f"the guide's distribution at site {site!r}, {type(base).__name__},"
