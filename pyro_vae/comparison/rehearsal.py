"""One run before the measurement: which parameters there are, and whether rows mean data."""

from __future__ import annotations

__all__ = ["rehearse"]

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.infer.guard import modules_of
from pyro_vae.infer.sites import latent_sites, refuse_random_rows


def rehearse(
    model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[dict[str, Tensor], list[str]]:
    """Run guide and model once, and return the trainable leaf tensors by name.

    Parameters of modules go by `model.` or `guide.` and their own name, others by their name in
    Pyro's store.

    Returns:
        The tensors, and the names of those that Pyro is not told of, so that `SVI` would not
        train them.

    Raises:
        ValueError: If the guide does not draw one of the model's latent sites, or a plate draws
            its subsample at random, so that a row would be another datum in each draw.
    """
    with torch.no_grad(), poutine.trace(param_only=True) as capture:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.trace(poutine.replay(model, trace=guide_trace))
        latent_sites(replayed.get_trace(*args, **kwargs).nodes, guide_trace.nodes)
        refuse_random_rows(guide_trace.nodes, guide, args, kwargs)
    sites: Any = capture.trace.nodes
    announced = {name: site["value"].unconstrained() for name, site in sites.items()}
    known = {id(p) for p in announced.values()}
    leaves: dict[int, tuple[str, Tensor]] = {}
    for name, parameter in (_module_parameters(model, guide) | announced).items():
        if parameter.requires_grad:
            leaves.setdefault(id(parameter), (name, parameter))
    return dict(leaves.values()), [name for i, (name, _) in leaves.items() if i not in known]


def _module_parameters(model: Any, guide: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for side, function in (("guide", guide), ("model", model)):
        for label, module in modules_of(function):
            prefix = f"{side}.{label}." if label else f"{side}."
            found |= {f"{prefix}{name}": p for name, p in module.named_parameters()}
    return found
