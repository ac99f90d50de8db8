"""What `TraceMeanField_ELBO` does at a site, and whether it may.

It asks torch for KL(q || p); on `NotImplementedError` it samples without a word. It refuses
guides that are not fully reparameterised (with validation on; with validation off it drops the
score term). It takes scale and mask from the guide alone. And its analytic term is unbiased
only if no latent site among the parents of s in the model is a descendant of s in the guide.
"""

from __future__ import annotations

__all__ = [
    "ANALYTIC",
    "AUXILIARY",
    "FALLBACK",
    "REFUSED",
    "MeanFieldTerm",
    "biased_sites",
    "distribution_name",
    "mean_field_term",
]

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.infer.inspect import get_dependencies
from pyro.infer.util import check_fully_reparametrized
from torch import Tensor
from torch.distributions import kl_divergence

ANALYTIC, FALLBACK, REFUSED, AUXILIARY = "analytic", "fallback", "refused", "auxiliary"


class MeanFieldTerm(NamedTuple):
    """The term of one site in `TraceMeanField_ELBO`.

    Arguments:
        route: `analytic`, `fallback` (sampled in silence), `refused` or `auxiliary`.
        reason: Why, in words.
        value: The analytic KL, with the batch shape of q, unscaled; None if there is none.
    """

    route: str
    reason: str
    value: Tensor | None = None


def mean_field_term(q: dict[str, Any], p: dict[str, Any] | None) -> MeanFieldTerm:
    """Return the term that `TraceMeanField_ELBO` computes from a guide and a model site."""
    if p is None:
        return MeanFieldTerm(AUXILIARY, "a site of the guide alone adds log q to the loss")
    fn = q["fn"]
    try:
        check_fully_reparametrized(q)
    except NotImplementedError:
        return MeanFieldTerm(
            REFUSED,
            f"{distribution_name(fn)} is not fully reparameterised; with validation off the "
            "gradient would lack its score term in silence",
        )
    pair = f"{distribution_name(fn)} || {distribution_name(p['fn'])}"
    try:
        value = kl_divergence(fn, p["fn"])
    except NotImplementedError:
        return MeanFieldTerm(
            FALLBACK,
            f"neither torch nor Pyro has a form for {pair}, so it samples without saying so",
        )
    except (ValueError, IndexError, AssertionError, RuntimeError) as error:
        return MeanFieldTerm(REFUSED, f"torch's form fails: {error}")
    value = torch.as_tensor(value)
    if value.dim() and value.shape != fn.batch_shape:
        return MeanFieldTerm(
            REFUSED,
            f"torch's form has shape {tuple(value.shape)} where {tuple(fn.batch_shape)} is needed",
        )
    return MeanFieldTerm(ANALYTIC, f"torch's form for {pair}", value)


def biased_sites(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    names: list[str],
) -> set[str]:
    """Return the sites at which an analytic KL with the draws of the others is biased.

    A site is biased if one of its parents in the model is one of its descendants in the guide,
    by the dependencies that Pyro finds through the values.

    Arguments:
        model: A Pyro model.
        guide: A Pyro guide.
        args: Their positional arguments.
        kwargs: Their keyword arguments.
        names: The latent sites.
    """
    if len(names) < 2:
        return set()
    parents = _parents(model, args, kwargs, names)
    guide_parents = _parents(guide, args, kwargs, names)
    return {
        name
        for name in names
        if any(name in _ancestors(parent, guide_parents) for parent in parents[name])
    }


def _parents(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]
) -> dict[str, set[str]]:
    found: Any = get_dependencies(function, args, kwargs)["prior_dependencies"]
    return {n: {p for p in found.get(n, {}) if p != n and p in names} for n in names}


def _ancestors(name: str, parents: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    queue = [name]
    while queue:
        for parent in parents[queue.pop()]:
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return seen


def distribution_name(d: Any) -> str:
    """Return the class name of a distribution, wrappers left out."""
    while type(d).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        d = d.base_dist
    return type(d).__name__
