"""Families on the simplex: Dirichlet."""

from __future__ import annotations

__all__ = ["Dirichlet"]

import pyro.distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import Parameter


@register
class Dirichlet(Family):
    """Dirichlet on the last dimension: p(z) proportional to prod_k z_k^(concentration_k - 1).

    Dimensions of `features` before the last are independent. The standard member is uniform.

    Example:
        >>> Dirichlet(4)().mean
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    min_features = 2
    spec = {"concentration": Parameter(constraints.softplus_positive, 1.0)}

    def distribution(self, concentration: Tensor) -> TorchDistribution:
        """Return Dirichlet(concentration), independent over all but the last feature dimension."""
        return dist.Dirichlet(concentration).to_event(len(self.features) - 1)
