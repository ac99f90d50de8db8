"""What is asked of the sites of a model and its guide before anything is measured."""

from __future__ import annotations

__all__ = ["latent_sites", "refuse_random_rows"]

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample

# a site as Pyro's traces hold it
Node: TypeAlias = Any


def latent_sites(model: Mapping[str, Node], guide: Mapping[str, Node]) -> list[str]:
    """Return the names of the model's latent sites.

    Raises:
        ValueError: If the guide does not draw one of them.
    """
    samples = {n: s for n, s in model.items() if s["type"] == "sample"}
    latent = [n for n, s in samples.items() if not (s["is_observed"] or site_is_subsample(s))]
    missing = [n for n in latent if n not in guide]
    if missing:
        raise ValueError(
            f"the model's latent site {missing[0]!r} is not drawn by the guide, so the ELBO has "
            "no term for it; sample it in the guide."
        )
    return latent


def refuse_random_rows(nodes: Mapping[str, Node], guide: Any, args: Any, kwargs: Any) -> None:
    """Raise if a plate draws its subsample at random, so that a row is not always one datum.

    Arguments:
        nodes: The nodes of a trace of the guide.
        guide: The guide, which is run once more if a plate is subsampled.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        ValueError: If the subsample of the second run is another one.
    """
    partial = [
        name
        for name, node in nodes.items()
        if node["type"] == "sample" and site_is_subsample(node) and _is_partial(node)
    ]
    if not partial:
        return
    again = poutine.trace(guide).get_trace(*args, **kwargs).nodes
    for name in partial:
        if name in again and not torch.equal(nodes[name]["value"], again[name]["value"]):
            raise ValueError(
                f"plate {name!r} draws its subsample at random, so a row would be another datum "
                "in each draw; pass a fixed batch, pyro.plate(..., subsample=indices)."
            )


def _is_partial(node: Node) -> bool:
    return node["fn"].subsample_size is not None and node["fn"].subsample_size < node["fn"].size
