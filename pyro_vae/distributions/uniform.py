"""The uniform distribution with draws strictly inside."""

from __future__ import annotations

__all__ = ["Uniform"]

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.distributions.unit import kept_within


class Uniform(dist.Uniform):
    r"""The uniform distribution on (low, high), with draws strictly inside.

    log p(x) = -log(high - low),  low <= x <= high.

    torch's draws may equal `low`, and in rounding `high`, where its own density is 0.

    Arguments:
        low: The lower end, of shape `batch_shape` (broadcast with `high`).
        high: The upper end.

    Raises:
        ValueError: If validation is on and `low` is not below `high`.

    Example:
        >>> Uniform(0.0, 2.0).log_prob(torch.tensor([0.0, 2.0]))
        tensor([-0.6931, -0.6931])
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, of shape `sample_shape + batch_shape`."""
        low, high = self.low.double(), self.high.double()
        u = torch.rand(self._extended_shape(sample_shape), dtype=low.dtype, device=low.device)
        return kept_within(low + u * (high - low), self.low, self.high)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, -inf outside the support, whose ends belong to it."""
        if self._validate_args:
            self._validate_sample(value)
        inside = (value >= self.low) & (value <= self.high)
        return torch.where(inside, -(self.high - self.low).log(), -torch.inf)
