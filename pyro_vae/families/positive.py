"""Families on the positive half-line: Gamma."""

from __future__ import annotations

__all__ = ["Gamma"]

import pyro.distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import Parameter


@register
class Gamma(Family):
    """Independent Gammas: p(z_i) proportional to z_i^(concentration - 1) exp(-rate z_i).

    The standard member is Gamma(1, 1), the exponential distribution of mean 1.

    Example:
        >>> Gamma(2, concentration=3.0)().mean
        tensor([3., 3.])
    """

    spec = {
        "concentration": Parameter(constraints.softplus_positive, 1.0),
        "rate": Parameter(constraints.softplus_positive, 1.0),
    }

    def distribution(self, concentration: Tensor, rate: Tensor) -> TorchDistribution:
        """Return Gamma(concentration, rate), independent over features."""
        return dist.Gamma(concentration, rate).to_event(len(self.features))
