"""Families on the counts 0, 1, 2, ...: Poisson."""

from __future__ import annotations

__all__ = ["Poisson"]

import pyro.distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import Parameter


@register
class Poisson(Family):
    """A likelihood for counts: log p(x) = sum_i x_i log rate_i - rate_i - log x_i!.

    Example:
        >>> import torch
        >>> Poisson(2)().log_prob(torch.tensor([0.0, 1.0])).item()
        -2.0
    """

    roles = frozenset({"likelihood"})
    spec = {"rate": Parameter(constraints.positive, 1.0)}

    def distribution(self, rate: Tensor) -> TorchDistribution:
        """Return Poisson(rate), independent over features."""
        return dist.Poisson(rate).to_event(len(self.features))
