"""What a latent site is measured by: its coordinates, whatever space it lives in.

A draw of a site is flattened, a number after another; two kinds of numbers need more care:

* an angle has no smallest value, so it is ranked by how far it lies, counter-clockwise, from the
  circular mean of all draws compared, and it varies as the point (cos, sin);
* a class (of a Categorical) has no order, so it is measured as a one-hot vector.

Points on spheres have their ambient coordinates, and are ranked by mu . z besides, mu being the
mean direction of all draws compared. Means are taken over the true value and the draws alike, a
symmetric function of all of them, so that ranks stay uniform where guide and posterior agree.
"""

from __future__ import annotations

__all__ = ["Coordinates", "coordinates_of", "data_first"]

import itertools
import math
from typing import Any, NamedTuple

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_vae.diagnostics.particles import SiteShape
from pyro_vae.supports import space_of


def data_first(value: Tensor, site: SiteShape, dim: int) -> Tensor:
    """Draws (draws, *batch, *event) with the dimension of data, `dim` of the batch, as second.

    Returns:
        A tensor of shape (draws, data, *other batch dimensions, *event).
    """
    return value.movedim(value.dim() - len(site.event) + dim, 1)


class Coordinates(NamedTuple):
    """The coordinates of a latent site.

    Arguments:
        name: The site.
        kind: Its space: "circle", "sphere", "class", or another where numbers are numbers.
        shape: The shape of one draw of one datum.
        classes: The number of classes, for a site of classes.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    classes: int = 0

    @property
    def labels(self) -> list[str]:
        """A name for each coordinate: `z` for a number, `z[0]`, `z[0,1]`; `z=2` for a class."""
        if self.kind == "class":
            heads = Coordinates(self.name, "", self.shape).labels
            return [f"{h}={k}" for h in heads for k in range(self.classes)]
        if not self.shape:
            return [self.name]
        places = itertools.product(*map(range, self.shape))
        return [f"{self.name}[{','.join(map(str, place))}]" for place in places]

    @property
    def ranked_labels(self) -> list[str]:
        """The names of what is ranked: the coordinates, and mean directions on spheres."""
        return self.labels + [f"{label}.mean" for label in self._directions]

    @property
    def _directions(self) -> list[str]:
        return Coordinates(self.name, "", self.shape[:-1]).labels if self.kind == "sphere" else []

    def flat(self, value: Tensor) -> Tensor:
        """Coordinates of draws given data first: (draws, data, coordinates), in float64."""
        if self.kind == "class":
            value = one_hot(value.long(), self.classes)
        return value.reshape(*value.shape[:2], -1).double()

    def ranked(self, truth: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """What is ranked of the true value and of the draws.

        Arguments:
            truth: Coordinates (data, K).
            draws: Coordinates (S, data, K).

        Returns:
            Tensors of shape (data, R) and (S, data, R), in the order of `ranked_labels`.
        """
        both = torch.cat([truth[None], draws])
        if self.kind == "circle":
            centre = torch.atan2(both.sin().sum(0), both.cos().sum(0))
            both = torch.remainder(both - centre + math.pi, 2 * math.pi)
        elif self.kind == "sphere":
            points = both.unflatten(-1, (-1, self.shape[-1]))
            along = (points * points.sum(0)).sum(-1)
            both = torch.cat([both, along], -1)
        return both[0], both[1:]

    def points(self, flat: Tensor) -> Tensor:
        """Where coordinates are as points: (..., K, 1), or (..., K, 2) for angles."""
        return (
            torch.stack([flat.cos(), flat.sin()], -1) if self.kind == "circle" else flat[..., None]
        )


def coordinates_of(name: str, fn: Any, site: SiteShape, dim: int) -> Coordinates:
    """Read the coordinates of a site off its distribution.

    Arguments:
        name: The site.
        fn: Its distribution.
        site: The shape of a draw.
        dim: The dim of the data plate.
    """
    at = len(site.batch) + dim
    shape = (*site.batch[:at], *site.batch[at + 1 :], *site.event)
    base: Any = fn
    while hasattr(base, "base_dist") and isinstance(
        base, dist.Independent | dist.MaskedDistribution
    ):
        base = base.base_dist
    if isinstance(base, torch.distributions.Categorical):
        return Coordinates(name, "class", shape, base.logits.shape[-1])
    if isinstance(base, torch.distributions.VonMises):
        return Coordinates(name, "circle", shape)
    return Coordinates(name, space_of(fn.support).kind, shape)
