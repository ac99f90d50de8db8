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
from pyro import poutine
from pyro.infer.util import check_fully_reparametrized
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.infer import ancestry
from pyro_vae.infer.terms import distribution_name

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
            f"torch's table has no form for {pair}, or the form declines (where the KL is "
            "infinite), so it samples without saying so",
        )
    except (ValueError, IndexError, AssertionError, RuntimeError) as error:
        return MeanFieldTerm(REFUSED, f"the form for {pair} in torch's table fails: {error}")
    value = torch.as_tensor(value)
    if value.dim() and value.shape != fn.batch_shape:
        return MeanFieldTerm(
            REFUSED,
            f"the form for {pair} in torch's table has shape {tuple(value.shape)}, not "
            f"{tuple(fn.batch_shape)}",
        )
    return MeanFieldTerm(ANALYTIC, f"the form for {pair} in torch's table", value)


def biased_sites(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> set[str]:
    """Return the sites at which an analytic KL with the draws of the others is biased.

    A site is biased if one of its parents in the model is, or may be, one of its descendants in
    the guide.

    Arguments:
        model: A Pyro model.
        guide: A Pyro guide.
        args: Their positional arguments.
        kwargs: Their keyword arguments.
    """
    drawn = poutine.trace(guide).get_trace(*args, **kwargs)
    replayed = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs)
    return set(ancestry.biased_sites(model, guide, args, kwargs, replayed, drawn))
