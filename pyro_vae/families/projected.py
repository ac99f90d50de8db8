"""The projected normal family on the sphere: directions of Normal vectors."""

from __future__ import annotations

__all__ = ["ProjectedNormal"]

from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import Parameter


@register
class ProjectedNormal(Family):
    """Directions z = x / |x| of x ~ N(concentration, I), in the last dimension of `features`.

    `concentration` is any vector of R^m: its direction is where z points, its length how
    concentrated z is. So a network predicts it without a constraint, and can follow data that lie
    on a sphere. The standard member, concentration 0, is the uniform distribution.

    Example:
        >>> import torch
        >>> guide = ProjectedNormal(4, context=8)
        >>> guide(torch.zeros(5, 8)).rsample().shape
        torch.Size([5, 4])
    """

    spec = {"concentration": Parameter(constraints.real, 0.0)}
    min_features = 2

    def distribution(self, concentration: Tensor) -> TorchDistribution:
        """Return ProjectedNormal(concentration), independent over all but the last dimension."""
        return distributions.ProjectedNormal(concentration).to_event(len(self.features) - 1)
