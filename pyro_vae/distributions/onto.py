"""Bijections from real numbers onto a support, which name the space they lead to."""

from __future__ import annotations

__all__ = ["Onto", "onto"]

import math
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform, biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import ExpTransform, IndependentTransform

from pyro_vae.distributions.product import Blocks, Blockwise
from pyro_vae.distributions.spherical_map import SphericalMap


class Onto(Transform):
    """A bijection that says truly where it leads, and stays there.

    torch's bijections onto intervals end in an affine step and so name the whole real line as
    their codomain; a distribution carried by them would misstate its support. And where floats
    are too coarse to follow, they reach the ends of the interval, infinity or a face of a simplex;
    here values are kept inside, with gradient 0 there.

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
        (low, high), limits = _ends(self.codomain), torch.finfo(x.dtype)
        if (low is None) != (high is None):
            # beyond, the square of exp(x) overflows
            x = x.clamp(max=math.log(math.sqrt(limits.max) / 2))
        y: Any = self.bijection(x)
        least = limits.tiny / limits.eps
        if type(self.codomain) is type(constraints.simplex):
            return y.clamp(min=least)
        if low is not None:
            y = y.clamp(min=low + max(limits.eps * abs(low), least))
        return y if high is None else y.clamp(max=high - max(limits.eps * abs(high), least))

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


def _ends(codomain: Any) -> list[float | None]:
    """The ends of an interval that are numbers of the program, None where there is none."""
    ends = [getattr(codomain, name, None) for name in ("lower_bound", "upper_bound")]
    return [end if isinstance(end, int | float) else None for end in ends]


def onto(support: Constraint) -> Transform:
    """Return a bijection from real numbers onto a support (all but a point of it, on spheres).

    It is torch's `biject_to`, and more: spheres have one, blocks side by side have theirs side by
    side, and its codomain is the support. Numbers from 0 or up have exp, whatever they are
    called.

    Arguments:
        support: Where values lie.

    Returns:
        The map; its `inverse_shape` tells how many real numbers it takes.

    Raises:
        NotImplementedError: If none is known.

    Example:
        >>> onto(constraints.sphere)(torch.zeros(3))
        tensor([1., 0., 0., 0.])
    """
    if isinstance(support, constraints.independent):
        inner = onto(support.base_constraint)
        return IndependentTransform(inner, support.reinterpreted_batch_ndims)
    if isinstance(support, Blocks):
        return Blockwise([onto(block) for block in support.blocks], support)
    if type(support) is type(constraints.sphere):
        return SphericalMap()
    half_line = _ends(support) == [0, None] and not support.is_discrete
    return Onto(ExpTransform() if half_line else biject_to(support), support)
