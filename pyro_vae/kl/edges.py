"""The ends of supports, where numbers run out before a distribution does.

A Beta(0.1, 0.1) has 10 % of its mass so near to 1 that single precision writes 1, and torch's
Gamma stops at the smallest number there is. Densities at such a number say nothing about the
draws that were rounded to it: a sampled KL of Beta(0.1, 0.1) is off by a nat, and no standard
error tells. `kl.estimate` draws in double precision and, where it can, in a coordinate without
ends; `at_edge` says which draws of anybody else's are at an end.
"""

from __future__ import annotations

__all__ = ["AT_EDGE", "at_edge"]

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.ends import space

AT_EDGE = 0.05
"""From what share of draws on a mean of log densities is not to be trusted to a tenth of a nat: at
each of them it is off by one or two."""


def at_edge(d: Distribution, x: Tensor) -> Tensor:
    """Say which draws lie as near to an end of the support of d as their precision comes.

    At such a draw log densities are those of a rounded number, and a mean of them over draws is
    biased by as much as there is mass: a disagreement with an exact KL is then one of rounding,
    and not to be held against either.

    Arguments:
        d: The distribution that was drawn from.
        x: Draws, of shape (*sample, *batch, *event), in the precision in which they were made.

    Returns:
        A BoolTensor without the event dimensions: whether any number of the event lies at an end
        of its support, or has overflowed.

    Example:
        >>> import torch.distributions as td
        >>> at_edge(td.Beta(0.1, 0.1), torch.tensor([0.0, 0.5, 1.0])).tolist()
        [True, False, True]
    """
    where, near = space(d), torch.zeros_like(x, dtype=torch.bool)
    if where.kind in ("real", "simplex") and x.is_floating_point():
        limits = torch.finfo(x.dtype)
        # a part near 1 has others near 0, and densities on a simplex know it from those
        found = (0.0, torch.inf) if where.kind == "simplex" else (where.lower, where.upper)
        low, high = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in found)
        # torch clamps draws at tiny and at 1 - eps, and pyro_vae at tiny / eps: distributions.wide
        least = 1.001 * limits.tiny / limits.eps
        reach = [(limits.eps * end.abs()).clamp(min=least) for end in (low, high)]
        near = ~x.isfinite() | (low.isfinite() & (x - low <= reach[0]))
        near = near | (high.isfinite() & (high - x <= reach[1]))
    dims = len(d.event_shape)
    return near.flatten(-dims).any(-1) if dims else near
