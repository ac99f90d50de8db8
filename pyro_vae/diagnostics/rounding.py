"""Draws where floats end, and how many there are.

A Gamma(0.001, 1) has more than 90 % of its mass nearer to 0 than float32 reaches. Its draws are
moved to the last float, whose density says nothing of the mass that was moved there, and log p(z)
- log q(z) at such draws is no part of a bound. Where a guide and a learned prior can both go
there, training follows: an ELBO of +100 nats for bits has been seen.
"""

from __future__ import annotations

__all__ = ["LOOKED_AT", "shares_at_edge"]

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_vae import kl
from pyro_vae.diagnostics.particles import Laws, SiteShape, Values

LOOKED_AT = 100
"""How many draws of each datum are looked at, at most."""


def shares_at_edge(
    laws: Laws, values: Values, sites: Mapping[str, SiteShape], dim: int
) -> dict[str, Tensor]:
    """The share of draws of which a number lies where floats end, by site and datum.

    Arguments:
        laws: The distributions by site, as a program gave them.
        values: Their draws, (draws, *batch, *event).
        sites: The shapes of a draw.
        dim: The dim of the data plate.

    Returns:
        Of each site whose draws can be told from its distribution, (data,) in float64.
    """
    found = {}
    for name, law in laws.items():
        shape = sites[name].batch
        if not _broadcasts(law.batch_shape, shape):  # that of repeated data, of other rows
            continue
        near = kl.at_edge(law, values[name][:LOOKED_AT])
        inner = tuple(d for d in range(1 - near.dim(), 0) if d != dim)
        found[name] = (near.any(inner) if inner else near).double().mean(0)
    return found


def _broadcasts(batch: torch.Size, shape: tuple[int, ...]) -> bool:
    try:
        return torch.broadcast_shapes(batch, shape) == torch.Size(shape)
    except RuntimeError:
        return False
