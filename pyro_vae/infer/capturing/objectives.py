"""Loss and surrogate of an ELBO as tensors, no number read: ours, Pyro's two, and users' own.

Pyro's classes call `.item()` site by site, so what they compute is written out here once more, in
the order of their own sums.
"""

from __future__ import annotations

__all__ = ["ObjectiveFunction", "objective_of"]

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.trace_elbo import _compute_log_r
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.infer.bound import Bound, Objective

ObjectiveFunction: TypeAlias = Callable[..., Objective]


def objective_of(elbo: ELBO) -> ObjectiveFunction:
    """Return a function `(model, guide, args, kwargs) -> Objective` of an ELBO.

    Arguments:
        elbo: One of ours, `Trace_ELBO`, `TraceMeanField_ELBO`, or one whose
            `differentiable_loss` reads no number.

    Raises:
        TypeError: If it has no `differentiable_loss`, or is compiled by `torch.jit` already.

    Example:
        >>> from pyro.infer import RenyiELBO
        >>> objective_of(RenyiELBO())
        Traceback (most recent call last):
        ...
        TypeError: RenyiELBO has no differentiable_loss, so no graph can be made of it. For ...
    """
    if isinstance(elbo, Bound):
        return elbo._objective
    if type(elbo) is Trace_ELBO:
        return lambda *call: _pyro(elbo, _trace_particle, *call)
    if type(elbo) is TraceMeanField_ELBO:
        return lambda *call: _pyro(elbo, _mean_field_particle, *call)
    name = type(elbo).__name__
    if name.startswith("Jit"):
        raise TypeError(f"{name} is compiled by torch.jit; capture {name[3:]} instead.")
    if not hasattr(elbo, "differentiable_loss"):
        raise TypeError(
            f"{name} has no differentiable_loss, so no graph can be made of it. For "
            "importance-weighted bounds take infer.TraceIWAE_ELBO."
        )
    return lambda *call: _own(elbo, *call)


def _own(elbo: Any, model: Any, guide: Any, args: Any, kwargs: Any) -> Objective:
    loss = elbo.differentiable_loss(model, guide, *args, **kwargs)
    return Objective(loss.detach(), loss, [])


def _pyro(elbo: Any, particle: Any, model: Any, guide: Any, args: Any, kwargs: Any) -> Objective:
    loss: Any = 0.0
    surrogate: Any = 0.0
    for traces in elbo._get_traces(model, guide, args, kwargs):
        value, direction = particle(*traces)
        loss = loss + value / elbo.num_particles
        surrogate = surrogate + direction / elbo.num_particles
    loss, surrogate = torch.as_tensor(loss), torch.as_tensor(surrogate)
    return Objective(loss.detach(), surrogate, [])


def _trace_particle(model: Any, guide: Any) -> tuple[Any, Any]:
    """Minus the ELBO of one particle, and minus the surrogate that `Trace_ELBO` has for it."""
    elbo: Any = 0.0
    surrogate: Any = 0.0
    log_r = None
    for site in _samples(model):
        elbo = elbo + _detached(site["log_prob_sum"])
        surrogate = surrogate + site["log_prob_sum"]
    for site in _samples(guide):
        _, score, entropy = site["score_parts"]
        elbo = elbo - _detached(site["log_prob_sum"])
        if not is_identically_zero(entropy):
            surrogate = surrogate - entropy.sum()
        if not is_identically_zero(score):
            log_r = _compute_log_r(model, guide) if log_r is None else log_r
            depends: Any = log_r.sum_to(site["cond_indep_stack"])
            surrogate = surrogate + (depends * score).sum()
    return -elbo, -surrogate


def _mean_field_particle(model: Any, guide: Any) -> tuple[Any, Any]:
    """Minus the ELBO of one particle as `TraceMeanField_ELBO` has it, its own surrogate."""
    elbo: Any = 0.0
    for name, site in model.nodes.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            elbo = elbo + site["log_prob_sum"]
        else:
            elbo = elbo + _mean_field_term(guide.nodes[name], site)
    for name, site in guide.nodes.items():
        if site["type"] == "sample" and name not in model.nodes:
            elbo = elbo - site["score_parts"].entropy_term.sum()
    return _detached(-elbo), -elbo


def _mean_field_term(q: Any, p: Any) -> Any:
    try:
        value: Any = kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:  # what Pyro does, too; `compare` tells of it
        return p["log_prob_sum"] - q["score_parts"].entropy_term.sum()
    value = scale_and_mask(value, scale=q["scale"], mask=q["mask"])
    if isinstance(value, Tensor):
        return -value.sum()
    return -value * torch.Size(q["fn"].batch_shape).numel()


def _samples(trace: Any) -> list[Any]:
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
