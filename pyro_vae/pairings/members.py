"""Guides and priors by name: from the shelf, or from whoever brings their own.

A member is made by a factory `(features, context) -> conditional`: a prior with context 0, a
guide with the width of what it predicts from. Two names on the shelf need more: `transported`
carries a Normal onto the support of the prior beside which it stands, and `vamp_prior` is made of
the encoder beside which it stands (`OfEncoder`).
"""

from __future__ import annotations

__all__ = [
    "ELSEWHERE",
    "GUIDES",
    "PRIORS",
    "Factory",
    "OfEncoder",
    "Pair",
    "absent",
    "first_sentence",
    "home",
    "members",
    "pair_of",
    "shelf",
]

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, overload

import torch
from pyro.distributions import Independent
from torch import nn

from pyro_vae import families as fam
from pyro_vae.families.pairing import Side, check_pair, side
from pyro_vae.registry import nearest
from pyro_vae.supports import space_of

GUIDES = (
    "normal",
    "full_normal",
    "laplace",
    "student_t",
    "gamma",
    "beta",
    "logit_normal",
    "dirichlet",
    "von_mises_fisher",
    "one_hot_categorical",
    "transported",
)
PRIORS = (
    "normal",
    "laplace",
    "student_t",
    "gamma",
    "beta",
    "dirichlet",
    "spherical_uniform",
    "von_mises_fisher",
    "one_hot_categorical",
)
SPACES = (
    "real line",
    "positive half-line",
    "unit interval",
    "simplex",
    "sphere",
    "circle",
    "hyperboloid",
    "one-hot vectors",
    "{0, 1}",
)
LEARNABLE, CARRIED, SHARED = "learnable_", "transported", "vamp_prior"

ELSEWHERE = ("the prior's", "the guide's")
"""The space of a guide, and of a prior, that depends on what it stands beside."""

_HOMELESS: dict[str, str] = dict(zip((CARRIED, SHARED), ELSEWHERE, strict=True))

# (features, context, prior) -> conditional; the prior is None when a prior is made
Factory = Callable[[int, int, Any], Any]


class OfEncoder(NamedTuple):
    """A prior that is made of the guide's encoder, and lives where the guide does.

    Arguments:
        make: `(encoder, inputs) -> prior`: the encoder a module that takes inputs of shape
            `(K, *event_shape)`; `inputs` rows of the training data, with that shape.

    Example:
        >>> from pyro_vae.pairings import compare_pairings
        >>> few = OfEncoder(lambda encoder, inputs: fam.VampPrior(encoder, inputs=inputs[:3]))
        >>> table = compare_pairings(
        ...     ["gamma"], {"few": few}, torch.ones(20, 4), epochs=1, progress=False
        ... )
        >>> table.kl_route.values
        array([['sampled']], dtype='<U7')
    """

    make: Callable[[nn.Module, torch.Tensor], Any]


@overload
def members(
    given: Iterable[str] | Mapping[str, Any],
    role: Literal["guide"],
    categories: int = 10,
    components: int = 50,
) -> dict[str, Factory]: ...


@overload
def members(
    given: Iterable[str] | Mapping[str, Any],
    role: fam.Role,
    categories: int = 10,
    components: int = 50,
) -> dict[str, Factory | OfEncoder]: ...


def members(
    given: Iterable[str] | Mapping[str, Any],
    role: fam.Role,
    categories: int = 10,
    components: int = 50,
) -> dict[str, Any]:
    """Return factories by name.

    Arguments:
        given: Names of registered families; or a mapping from names to factories
            `(features, context) -> conditional`, or to names of registered families; a prior may
            also be an `OfEncoder`. One whose name begins with `learnable_` is the family with
            its parameters trained (those of a VampPrior are, but for its weights, anyway).
        role: "guide" or "prior".
        categories: Classes in each group of a one-hot family, and parts of each group of a
            family on the simplex, whose draws have shape (features, categories) alike.
        components: Components of a mixture.

    Raises:
        ImportError: If a family needs a package that is not installed.
        TypeError: If a value is neither a name nor a factory.
        ValueError: If a name is unknown, plays another role or comes twice, or none is given.

    Example:
        >>> members(["normal", "learnable_gamma"], "prior")["learnable_gamma"](3, 0, None)
        Gamma(3, learnable=('concentration', 'rate'))
    """
    if isinstance(given, str):
        raise TypeError(f"{role}s must be a list of names or a mapping, not the text {given!r}.")
    pairs = list(given.items()) if isinstance(given, Mapping) else [(n, n) for n in given]
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the {role} {name!r} is named twice.")
        found[name] = _factory(name, value, role, categories, components)
    if not found:
        raise ValueError(f"no {role} was named. Known: {', '.join(shelf(role))}.")
    return found


def shelf(role: fam.Role) -> list[str]:
    """Return the names on the shelf that play a role and can be made without more, by space.

    Example:
        >>> "transported" in shelf("guide"), "transported" in shelf("prior")
        (True, False)
    """
    names = [n for n, cls in fam.registry.items() if role in cls.roles and not cls.available()]
    # a prior has nothing that it could be carried to
    return sorted((n for n in names if (n, role) != (CARRIED, "prior")), key=_place)


def absent(role: fam.Role) -> dict[str, str]:
    """Return what has to be installed for those that play a role but cannot be built, by name.

    Example:
        >>> set(absent("guide")) & set(shelf("guide"))
        set()
    """
    found = {n: cls.available() for n, cls in fam.registry.items() if role in cls.roles}
    return {name: missing for name, missing in found.items() if missing}


def home(name: str) -> str:
    """Return the name of the space on which a family lives, or whose it is.

    Example:
        >>> home("gamma"), home("vamp_prior")
        ('positive half-line', "the guide's")
    """
    return _HOMELESS.get(name) or space_of(fam.registry[name].where()).name


def _place(name: str) -> int:
    """The place of a family's space: neighbours on a table live on one space."""
    if name in _HOMELESS:
        return len(SPACES) + 1
    space = home(name)
    return SPACES.index(space) if space in SPACES else len(SPACES)


def _factory(
    name: str, value: Any, role: fam.Role, categories: int, components: int
) -> Factory | OfEncoder:
    if isinstance(value, str):
        return _shelved(value, role, categories, components)
    if isinstance(value, OfEncoder) and role == "prior":
        return value
    if not callable(value):
        raise TypeError(
            f"the {role} {name!r} is a {type(value).__name__}; it must be the name of a family "
            "or a factory (features, context) -> conditional."
        )
    return lambda features, context, prior: value(features, context)


def _shelved(name: str, role: fam.Role, categories: int, components: int) -> Factory | OfEncoder:
    known = shelf(role)
    learnable = role == "prior" and name.startswith(LEARNABLE)
    family = name.removeprefix(LEARNABLE) if learnable else name
    if missing := absent(role).get(family):
        raise ImportError(f"the {role} {name!r} cannot be built: {missing}")
    if family not in known:
        raise ValueError(f"no {role} is named {name!r}. {nearest(name, known)}")
    if family == CARRIED:
        return _transported
    if family == SHARED:
        trained = ("inputs", "logits") if learnable else ("inputs",)
        return OfEncoder(lambda e, u: fam.VampPrior(e, inputs=u, learnable=trained))
    cls = fam.registry[family]
    options = dict(cls.example_options)
    if "categories" in options:
        options["categories"] = categories
    if "components" in options:
        options["components"] = components
    groups = space_of(cls.where()).kind == "simplex" and "categories" not in options

    def made(features: int, context: int, prior: Any) -> Any:
        shape = (features, categories) if groups else features
        return cls.named(shape, context, learnable=learnable, **options)

    return made


def _transported(features: int, context: int, prior: Any) -> fam.Transported:
    if prior is None:
        raise ValueError(
            "a transported guide lives where its prior does, and a prior made of its guide where "
            "that does: neither says where; name a guide that has a space of its own."
        )
    target = prior if isinstance(prior, fam.Family) else prior()
    shape = fam.Transported.base_shape(target)  # type: ignore[arg-type]
    return fam.Transported(fam.Normal(shape, context), to=target)  # type: ignore[arg-type]


class Pair(NamedTuple):
    """A guide and a prior made for each other.

    Arguments:
        guide: The conditional q(z|.), None if it could not be made.
        prior: The conditional p(z), None if it could not be made.
        refusal: Why the two cannot go together: one sentence, empty if they can.
        spaces: The names of the spaces on which they live, empty where not made.
    """

    guide: Any
    prior: Any
    refusal: str
    spaces: tuple[str, str]


def pair_of(guide: Factory, prior: Factory | OfEncoder, features: int, context: int) -> Pair:
    """Make a guide and a prior, and say whether the one may stand beside the other.

    A prior made of the encoder gets one that is the guide alone.

    Arguments:
        guide: The factory of the guide.
        prior: The factory of the prior.
        features: Features of a draw of z.
        context: The width of what the guide predicts from.

    Raises:
        TypeError: If the guide is not a module, so that its parameters would not be trained.
    """
    q = p = q_side = p_side = None
    refusal = ""
    try:
        if isinstance(prior, OfEncoder):
            q = _module(guide(features, context, None))
            p = prior.make(q, torch.zeros(2, context))
            p_side = _side(p)
        else:
            p = prior(features, 0, None)
            p_side = _side(p)
            q = _module(guide(features, context, p))
        q_side = _side(q, torch.zeros(1, context))
        check_pair("z", q_side, p_side)
    except ValueError as error:
        refusal = first_sentence(error)
    spaces = tuple("" if s is None else space_of(s.support).name for s in (q_side, p_side))
    return Pair(q, p, refusal, spaces)  # type: ignore[arg-type]


def _module(q: Any) -> nn.Module:
    if not isinstance(q, nn.Module):
        raise TypeError(
            f"a guide must be a module, whose parameters are trained, but the factory made a "
            f"{type(q).__name__}; let it return a family or a torch.nn.Module."
        )
    return q


def _side(conditional: Any, *arguments: torch.Tensor) -> Side:
    if isinstance(conditional, fam.Family):
        return side(conditional)
    d = conditional(*arguments)
    support, shape = d.support, tuple(d.event_shape)
    while isinstance(d, Independent):
        d = d.base_dist
    return Side(type(d).__name__, support, shape)


def first_sentence(error: Exception) -> str:
    """Return the first sentence of an error's message, without its full stop."""
    # Pyro appends a table of shapes to the errors of a model
    text = " ".join(str(error).partition("Trace Shapes:")[0].split())
    return re.split(r"\.(?=\s+[A-Z]|$)", text)[0].removeprefix("site 'z': ")
