"""Data drawn from the model itself, of which an exact draw of the posterior is known.

If (x, z) ~ p(x, z), then z is a draw of p(z | x).
"""

from __future__ import annotations

__all__ = ["Simulated", "simulate"]

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.diagnostics.posterior import Posterior, Values, seed_of
from pyro_vae.infer.batches import Data

_SIMULATION = 7


class Simulated(NamedTuple):
    """Simulated data and the latent values they were made of.

    Arguments:
        args: Positional arguments of the programs, the data replaced.
        kwargs: Keyword arguments, likewise.
        draws: By block, the latent values by site, (1, *shape of one draw).
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    draws: list[Values]


def simulate(posterior: Posterior, observed: Mapping[str, int | str] | None = None) -> Simulated:
    """Draw as many data from the model as there are, and put them into its arguments.

    Arguments:
        posterior: The model, its guide and the data; what is not observed (what a conditional
            model looks at, masks) stays as it is.
        observed: By observed site, the position or name of the argument that is its value. By
            default it is the argument that equals what the site observes.

    Raises:
        ValueError: If there is no such argument.
    """
    data = posterior.stream.data
    drawn: list[Values] = []
    pieces: dict[int | str, list[Tensor]] = {}
    for block, _ in posterior.blocks():
        with posterior.aside():
            batch = block.batch
            pyro.set_rng_seed(seed_of(posterior.seed, block.number, _SIMULATION))
            real = poutine.trace(posterior.stream.model).get_trace(
                *batch.data.args, **batch.data.kwargs
            )
            made = poutine.trace(poutine.uncondition(posterior.stream.model)).get_trace(
                *batch.data.args, **batch.data.kwargs
            )
            nodes: dict[str, Any] = dict(made.nodes)
            drawn.append({n: nodes[n]["value"][None] for n in batch.sites})
            for name, node in dict[str, Any](real.nodes).items():
                if node["type"] != "sample" or not node["is_observed"]:
                    continue
                for where in _arguments(name, node["value"], batch.data, observed):
                    value = _like(nodes[name]["value"], batch.data, where)
                    pieces.setdefault(where, []).append(value)
    whole = {where: torch.cat(values) for where, values in pieces.items()}
    return Simulated(
        tuple(whole.get(i, a) for i, a in enumerate(data.args)),
        {n: whole.get(n, a) for n, a in data.kwargs.items()},
        drawn,
    )


def _named(data: Data) -> dict[int | str, Any]:
    return {**dict(enumerate(data.args)), **data.kwargs}


def _arguments(
    site: str, value: Tensor, data: Data, observed: Mapping[str, int | str] | None
) -> list[int | str]:
    """Which arguments are the value of an observed site."""
    named = _named(data)
    if observed is not None and site in observed:
        where = observed[site]
        if where not in named:
            raise ValueError(
                f"observed= says that site {site!r} is argument {where!r}, but the arguments are "
                f"{list(named)}."
            )
        return [where]
    found = [
        where
        for where in sorted(data.names, key=str)
        if named[where].shape == value.shape
        and torch.equal(named[where].to(value.dtype), value.to(named[where].device))
    ]
    if not found:
        raise ValueError(
            f"no argument equals what site {site!r} observes, so simulated data cannot take its "
            f"place; say which one it is, as observed={{{site!r}: 0}} (a position or a name)."
        )
    return found


def _like(value: Tensor, data: Data, where: int | str) -> Tensor:
    like = _named(data)[where]
    return value.detach().reshape(like.shape).to(like.dtype)
