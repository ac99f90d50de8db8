"""The sphere in three dimensions as a grid, for the oracle of KLs."""

from __future__ import annotations

__all__ = ["sphere_grid"]

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions import PowerSpherical

_STEP, _REACH, _TURNS = 0.125, 38.0, 160


def sphere_grid(q: Any, p: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Points x and weights for integrals over the unit sphere of R^3.

    The trapezoidal rule in y, (1 + cos(angle)) / 2 = 1 / (1 + exp(-y)), and around the axis. Where
    the density of p has a zero it is opposite its axis, so that axis is the pole: no singularity
    lies within the grid.

    Arguments:
        q: The guide, of batch shape (B,) and event shape (3,).
        p: The prior.

    Returns:
        Points, of shape (N, B, 3), their weights, of shape (N, 1), and which points belong to a
        grid with half the nodes in both directions, of shape (N, 1), as 0 or 4.

    Example:
        >>> from pyro_vae.distributions import SphericalUniform
        >>> x, weight, _ = sphere_grid(SphericalUniform(3, (1,)), SphericalUniform(3, (1,)))
        >>> bool((weight.sum() / math.pi - 4).abs() < 1e-12)
        True
    """
    f64 = torch.float64
    power = next((d for d in (p, q) if isinstance(d, PowerSpherical)), None)
    pole = (torch.eye(3, dtype=f64)[2] if power is None else power.loc).detach()
    pole = pole.expand(*q.batch_shape, 3)
    # two directions at right angles to the pole and to each other
    least = torch.nn.functional.one_hot(pole.abs().argmin(-1), 3).double()
    first = torch.linalg.cross(pole, least)
    first = first / first.norm(dim=-1, keepdim=True)
    second = torch.linalg.cross(pole, first)
    half = round(_REACH / _STEP)
    i, j = torch.arange(-half, half + 1), torch.arange(_TURNS)
    y, turn = i.double() * _STEP, j.double() * (2 * math.pi / _TURNS)
    high, low = torch.sigmoid(y), torch.sigmoid(-y)
    radius = 2 * (high * low).sqrt()
    around = turn.cos()[:, None, None] * first + turn.sin()[:, None, None] * second
    x = (high - low)[:, None, None, None] * pole + radius[:, None, None, None] * around
    weight = (2 * high * low * _STEP * 2 * math.pi / _TURNS)[:, None].expand(-1, _TURNS)
    coarse = 4.0 * ((i % 2 == 0)[:, None] & (j % 2 == 0))
    return x.flatten(0, 1), weight.reshape(-1, 1), coarse.double().reshape(-1, 1)
