"""The table of registered forms, and the one rule by which classes are matched.

Dispatch on inheritance is how a wrong number gets in: a subclass with another density inherits
its parent's KL. Here a form belongs to exactly the classes it was written for. The only
identification is that of a Pyro class with the torch class which it wraps without changing the
density, so that `pyro.distributions.Normal` and `torch.distributions.Normal` are one class, and
that of a class of this package which draws or scores better than the one whose density it has.
"""

from __future__ import annotations

__all__ = [
    "Form",
    "Key",
    "canonical",
    "forms",
    "give",
    "given",
    "key_of",
    "lookup",
    "others",
    "package_of",
    "register",
    "same_class",
    "source_of",
    "spellings",
    "watch",
]

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType

import pyro.distributions as dist
import torch.distributions as td
from pyro.distributions.inverse_gamma import InverseGamma
from torch import Tensor
from torch.distributions import Distribution, register_kl
from torch.distributions.kl import _KL_REGISTRY

from pyro_vae import distributions as own

Form = Callable[..., Tensor]
"""A function of (q, p) that returns KL(q || p), in nats, of the broadcast batch shape."""

Key = type[Distribution] | tuple[type[Distribution], type[Distribution]]
"""A class, or `(Independent, Base)` for a product of independent `Base` elements."""

_FORMS: dict[tuple[Key, Key], Form] = {}

_GIVEN: dict[tuple[type[Distribution], type[Distribution]], Form] = {}

_GENERIC = tuple(
    _KL_REGISTRY[kind, kind] for kind in (td.TransformedDistribution, td.ExponentialFamily)
)

_WATCHERS: list[Callable[[Key, Key], object]] = []

# classes of Pyro's and of this package with the density and the attributes of torch's
_TWINS: dict[type, type] = {
    InverseGamma: td.InverseGamma,
    dist.OMTMultivariateNormal: td.MultivariateNormal,
    own.Beta: td.Beta,
    own.ContinuousBernoulli: td.ContinuousBernoulli,
    own.Dirichlet: td.Dirichlet,
    own.Poisson: td.Poisson,
    own.Kumaraswamy: td.Kumaraswamy,
    own.LogisticNormal: td.LogisticNormal,
    own.Uniform: td.Uniform,
    own.Cauchy: td.Cauchy,
    own.Exponential: td.Exponential,
    own.Gamma: td.Gamma,
    own.Gumbel: td.Gumbel,
    own.HalfCauchy: td.HalfCauchy,
    own.HalfNormal: td.HalfNormal,
    own.InverseGamma: td.InverseGamma,
    own.LogNormal: td.LogNormal,
    own.Logistic: dist.Logistic,
    own.LowRankMultivariateNormal: td.LowRankMultivariateNormal,
    own.MixtureSameFamily: td.MixtureSameFamily,
    own.MultivariateStudentT: dist.MultivariateStudentT,
    own.ProjectedNormal: dist.ProjectedNormal,
    own.StudentT: td.StudentT,
    own.VonMises: td.VonMises,
    own.Weibull: td.Weibull,
    own.OneHotCategorical: td.OneHotCategorical,
    own.RelaxedBernoulli: td.RelaxedBernoulli,
    own.RelaxedOneHotCategorical: td.RelaxedOneHotCategorical,
    own.StraightThroughBernoulli: td.Bernoulli,
    own.StraightThroughOneHotCategorical: td.OneHotCategorical,
}


def canonical(cls: type[Distribution]) -> type[Distribution]:
    """Return the class that stands for `cls`: torch's, if `cls` is Pyro's wrapper of it.

    Arguments:
        cls: A class of distributions.

    Returns:
        torch's class for a direct wrapper of Pyro's, else `cls` itself.

    Example:
        >>> canonical(dist.Normal) is td.Normal
        True
    """
    if cls.__module__ == "pyro.distributions.torch":
        return cls.__bases__[0]
    return _TWINS.get(cls, cls)


def spellings(cls: type[Distribution]) -> tuple[type[Distribution], ...]:
    """Return the classes that `canonical` maps to this one and that do not inherit from it.

    Arguments:
        cls: A canonical class.

    Returns:
        The class and its twins.

    Example:
        >>> spellings(td.Normal) == (td.Normal,)
        True
        >>> [c.__module__ for c in spellings(td.InverseGamma)]
        ['torch.distributions.inverse_gamma', 'pyro.distributions.inverse_gamma']
    """
    twins = (twin for twin, own in _TWINS.items() if own is cls and not issubclass(twin, cls))
    return (cls, *twins)


def same_class(a: Distribution | type[Distribution], b: Distribution | type[Distribution]) -> bool:
    """Say whether two distributions are of exactly the same class, Pyro's wrappers apart.

    Arguments:
        a: A distribution or a class of distributions.
        b: Another one.

    Returns:
        True if both stand for the same class; a subclass is not the same class.

    Example:
        >>> same_class(dist.Normal(0.0, 1.0), td.Normal)
        True
        >>> same_class(td.Chi2, td.Gamma)
        False
    """
    return canonical(_class_of(a)) is canonical(_class_of(b))


def _class_of(d: Distribution | type[Distribution]) -> type[Distribution]:
    return d if isinstance(d, type) else type(d)


def key_of(d: Distribution) -> Key:
    """Return the key under which forms of `d` are registered.

    Arguments:
        d: A distribution.

    Returns:
        Its canonical class; for independent elements the pair `(Independent, Base)`.

    Example:
        >>> key_of(dist.Normal(0.0, 1.0).expand([3]).to_event(1))[1] is td.Normal
        True
    """
    cls = canonical(type(d))
    if isinstance(d, td.Independent):
        return (cls, canonical(type(d.base_dist)))
    return cls


def register(q: Key, p: Key) -> Callable[[Form], Form]:
    """Register a closed form of KL(q || p): `@register(Q, P)`.

    The form is called with two distributions of exactly these classes (Pyro's wrappers of
    torch's classes included), both expanded to the broadcast batch shape and, for classes of
    torch, Pyro and this package, with parameters in float64. Where the KL is known to be
    infinite its value and gradient are discarded. It is consulted before torch's own table, and
    given to that if it lacks the pair (`pyro_vae.kl.given`).

    Arguments:
        q: The class of the first argument, or `(Independent, Base)` for a product of
            independent elements of class `Base`.
        p: The class of the second argument, likewise.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: If the pair is registered already, or the function has no docstring.

    Example:
        >>> class Coin(dist.Bernoulli):
        ...     pass
        >>> @register(Coin, Coin)
        ... def coins(q, p):
        ...     \"\"\"KL between two coins.\"\"\"
        ...     return q.probs * (q.probs / p.probs).log()
        >>> lookup(Coin, Coin) is coins
        True
    """
    key = (_canonical_key(q), _canonical_key(p))

    def add(form: Form) -> Form:
        if key in _FORMS:
            raise ValueError(
                f"KL({_name(key[0])} || {_name(key[1])}) is registered already "
                f"({_where(_FORMS[key])}); a second form ({_where(form)}) would replace it in "
                "silence, so register it for a class of your own."
            )
        if not inspect.getdoc(form):
            raise ValueError(
                f"the form of KL({_name(key[0])} || {_name(key[1])}) ({_where(form)}) has no "
                "docstring; write down the formula and its source."
            )
        _FORMS[key] = form
        for told in _WATCHERS:
            told(*key)
        return form

    return add


def lookup(q: Key, p: Key) -> Form | None:
    """Return the form registered for exactly this pair, or None.

    Arguments:
        q: The class (or key) of the first argument.
        p: The class (or key) of the second argument.

    Returns:
        The function that was registered, None without one.

    Example:
        >>> class Unheard(td.Normal):
        ...     pass
        >>> lookup(Unheard, td.Normal) is None
        True
    """
    return _FORMS.get((_canonical_key(q), _canonical_key(p)))


def forms() -> Mapping[tuple[Key, Key], Form]:
    """Return a live, read-only view of all registered forms by their pair of keys.

    Example:
        >>> len(forms()) > 0
        True
    """
    return MappingProxyType(_FORMS)


def watch(told: Callable[[Key, Key], object]) -> None:
    """Call a function with the keys of every form registered from now on.

    Arguments:
        told: A function of two keys.

    Example:
        >>> seen = []
        >>> watch(lambda q, p: seen.append((q, p)))
        >>> _ = _WATCHERS.pop()
    """
    _WATCHERS.append(told)


def give(q: type[Distribution], p: type[Distribution], form: Form) -> None:
    """Put a form into torch's own table, unless something is there for exactly this pair.

    Arguments:
        q: A class.
        p: Another class.
        form: The form, which has to guard itself against subclasses.

    Example:
        >>> give(td.Normal, td.Normal, lambda q, p: None)
        >>> given(td.Normal, td.Normal)
        False
    """
    if (q, p) not in _KL_REGISTRY:
        register_kl(q, p)(form)
        _GIVEN[q, p] = form


def given(q: type[Distribution], p: type[Distribution]) -> bool:
    """Say whether torch's form for exactly this pair of classes is the one given from here.

    Arguments:
        q: A class.
        p: Another class.

    Returns:
        True if it was given and nobody has replaced it since.

    Example:
        >>> given(td.Normal, td.Normal)
        False
    """
    return (q, p) in _GIVEN and _KL_REGISTRY.get((q, p)) is _GIVEN[q, p]


def others(q: type[Distribution], p: type[Distribution]) -> list[Form]:
    """Return all forms in torch's table that it may dispatch a pair to, but for ours.

    torch's two rules for whole kinds of distributions serve none but two of one class.

    Arguments:
        q: A class.
        p: Another class.

    Returns:
        The forms of torch, Pyro and their users.

    Example:
        >>> [form.__module__ for form in others(td.Normal, td.Laplace)]
        ['torch.distributions.kl']
        >>> others(td.LogNormal, td.Weibull)
        []
    """
    found = [
        form
        for (a, b), form in _KL_REGISTRY.items()
        if issubclass(q, a) and issubclass(p, b) and not given(a, b)
    ]
    return found if same_class(q, p) else [form for form in found if form not in _GENERIC]


def source_of(q: Distribution, p: Distribution, package: str) -> str:
    """Name the source of a form: its package, and what torch has for the pair.

    Arguments:
        q: A distribution.
        p: Another.
        package: The package that defines the form.

    Returns:
        The package, followed by ", given to torch" if torch has the form from there, or by
        ", in place of torch's" (or Pyro's, or a user's) if there is another.

    Example:
        >>> source_of(td.Normal(0.0, 1.0), td.Normal(0.0, 1.0), "pyro_vae")
        "pyro_vae, in place of torch's"
    """
    classes = type(q), type(p)
    if given(*(canonical(c) for c in classes)):
        return f"{package}, given to torch"
    replaced = others(*classes)
    return f"{package}, in place of {package_of(replaced[-1])}'s" if replaced else package


def package_of(form: Form) -> str:
    """Return the name of the package that defines a form.

    Arguments:
        form: A function.

    Returns:
        The first part of the name of its module.

    Example:
        >>> package_of(td.kl_divergence)
        'torch'
    """
    return (form.__module__ or "?").partition(".")[0]


def _canonical_key(key: Key) -> Key:
    if isinstance(key, tuple):
        return (canonical(key[0]), canonical(key[1]))
    return canonical(key)


def _name(key: Key) -> str:
    return ".".join(c.__name__ for c in key) if isinstance(key, tuple) else key.__name__


def _where(form: Form) -> str:
    return f"{form.__module__}.{getattr(form, '__qualname__', form)}"
