"""Bijections from the real line that name the space they lead to."""

from __future__ import annotations

__all__ = ["Onto"]

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.constraints import Constraint


class Onto(Transform):
    """A bijection that says truly where it leads.

    torch's bijections onto intervals end in an affine step and so name the whole real line as
    their codomain; a distribution carried by them would misstate its support.

    Arguments:
        bijection: The map, from the real line.
        codomain: The space that it maps onto, with the event dimensions of the map.
        cache_size: 1 to remember the last pair of argument and value.

    Example:
        >>> from torch.distributions import biject_to, constraints
        >>> half = constraints.interval(0.0, 0.5)
        >>> biject_to(half).codomain, Onto(biject_to(half), half).codomain
        (Real(), Interval(lower_bound=0.0, upper_bound=0.5))
    """

    bijective = True

    def __init__(self, bijection: Transform, codomain: Constraint, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.bijection, self.domain, self.codomain = bijection, bijection.domain, codomain

    def with_cache(self, cache_size: int = 1) -> Onto:
        """Return the same map with another cache."""
        return Onto(self.bijection, self.codomain, cache_size)

    def _call(self, x: Tensor) -> Any:
        return self.bijection(x)

    def _inverse(self, y: Tensor) -> Any:
        inverse: Any = self.bijection.inv
        return inverse(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |dy/dx|, summed over event dimensions."""
        return self.bijection.log_abs_det_jacobian(x, y)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of values, given that of arguments."""
        return self.bijection.forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of arguments, given that of values."""
        return self.bijection.inverse_shape(shape)
