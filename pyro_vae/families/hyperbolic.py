"""Families on hyperbolic space: HyperbolicNormal."""

from __future__ import annotations

__all__ = ["HyperbolicNormal"]

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.distributions.hyperbolic import hyperboloid
from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import Parameter


def _origin(shape: tuple[int, ...]) -> Tensor:
    point = torch.zeros(shape)
    point[..., 0] = 1
    return point


@register
class HyperbolicNormal(Family):
    """Normals wrapped onto hyperbolic space, in the last dimension of `features`.

    Features count ambient coordinates, as on the sphere: `HyperbolicNormal(3)` lives on the
    hyperbolic plane, whose `scale` has two numbers. Locations that are trained or predicted stay
    within a distance of 5 from the origin, about which the standard member stands.

    Example:
        >>> guide = HyperbolicNormal(3, context=8)
        >>> guide(torch.zeros(5, 8)).rsample().shape
        torch.Size([5, 3])
    """

    min_features = 2
    spec = {
        "loc": Parameter(hyperboloid, 1.0, pattern=_origin),
        "scale": Parameter(
            constraints.softplus_positive,
            1.0,
            shape=lambda family: (*family.features[:-1], family.features[-1] - 1),
        ),
    }

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return HyperbolicNormal(loc, scale), independent over all but the last dimension."""
        outer = len(self.features) - 1
        return distributions.HyperbolicNormal(loc, scale).to_event(outer)
