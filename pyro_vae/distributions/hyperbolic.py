"""Hyperbolic space as a sheet of a hyperboloid (the Lorentz model), and a Normal wrapped onto it.

With <x, y> = -x_0 y_0 + x_1 y_1 + ... the points x of R^m with <x, x> = -1 and x_0 > 0 are
hyperbolic space of n = m - 1 dimensions, and the distance of two is arccosh(-<x, y>). A vector v
of the plane that touches it at the origin o = (1, 0, ..., 0) is carried along the geodesic from o
to loc, and followed from there for its length r = |v|:

    u = (0, v) + <loc, (0, v)> / (1 + loc_0) (o + loc),    z = cosh(r) loc + sinh(r) / r u.

For v ~ N(0, scale^2) the density of z, with respect to hyperbolic volume, is

    log p(z) = log N(v; 0, scale^2) - (n - 1) log(sinh(r) / r).

Coordinates grow like exp(distance) and leave few digits for what is near: a point in float32 at
distance d from o is known to within about 1e-7 exp(d). So locations that are trained or
predicted stay within a distance of 5 from o, and the density of a draw is computed from the v that
it was made of, not from its coordinates. The density of a prior about o loses nothing.

References:
    A wrapped normal distribution on hyperbolic space for gradient-based learning
    (Y. Nagano, S. Yamaguchi, Y. Fujita, M. Koyama, 2019)
"""

from __future__ import annotations

__all__ = ["ExponentialMap", "HyperbolicNormal", "Hyperboloid", "hyperboloid"]

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions import Transform, biject_to, transform_to
from torch.distributions.constraints import Constraint

# how far from the origin locations are trained, and how far draws may go in the logarithm of what
# their dtype can hold: the square of a coordinate must not overflow
REACH, FARTHEST = 5.0, 0.4
TOLERANCE = 1e-3


class Hyperboloid(Constraint):
    """Points of R^m, in the last dimension, with -x_0^2 + x_1^2 + ... = -1 and x_0 > 0.

    Example:
        >>> hyperboloid.check(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([ True, False])
    """

    event_dim = 1
    space_kind = "hyperboloid"

    def __repr__(self) -> str:
        return "hyperboloid"

    def check(self, value: Tensor) -> Tensor:
        """Say of each point whether it lies there, to the precision of its largest coordinate."""
        head = value[..., 0]
        sheet = (1 + value[..., 1:].square().sum(-1)).sqrt()
        return (head > 0) & ((head - sheet).abs() <= TOLERANCE * head)


hyperboloid = Hyperboloid()
"""The support of distributions on hyperbolic space."""


class ExponentialMap(Transform):
    """From the plane at the origin: v -> (cosh r, sinh(r) / r v), r = |v|; log |det| in volume.

    Arguments:
        reach: If given, r is first bent to reach tanh(r / reach), which is less than `reach`.
        cache_size: 1 to remember the last pair of argument and value.

    Example:
        >>> ExponentialMap()(torch.zeros(2))
        tensor([1., 0., 0.])
    """

    domain = constraints.real_vector
    codomain = hyperboloid
    bijective = True

    def __init__(self, reach: float = math.inf, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.reach = reach

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExponentialMap) and other.reach == self.reach

    def __hash__(self) -> int:
        return hash((ExponentialMap, self.reach))

    def with_cache(self, cache_size: int = 1) -> ExponentialMap:
        """Return the same map with another cache."""
        return ExponentialMap(self.reach, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        v = x.double()
        if math.isfinite(self.reach):
            length = _length(v)
            v = v * (self.reach * torch.tanh(length / self.reach) / length).unsqueeze(-1)
        return _lifted(_within(v, x.dtype), x.dtype)

    def _inverse(self, y: Tensor) -> Tensor:
        tail = y[..., 1:].double()
        far = _length(tail)
        r = torch.asinh(far)
        if math.isfinite(self.reach):
            r = self.reach * torch.atanh((r / self.reach).clamp(max=1 - 1e-12))
        return (tail * (r / far).unsqueeze(-1)).to(y.dtype)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (n - 1) log(sinh r / r), the logarithm of volume over area."""
        if math.isfinite(self.reach):
            raise NotImplementedError("a map of bounded reach makes parameters, not draws.")
        return ((x.shape[-1] - 1) * _log_sinhc(_length(x.double()))).to(x.dtype)

    def forward_shape(self, shape: Any) -> Any:
        """Return the shape of points, given that of vectors."""
        return Size([*shape[:-1], shape[-1] + 1])

    def inverse_shape(self, shape: Any) -> Any:
        """Return the shape of vectors, given that of points."""
        return Size([*shape[:-1], shape[-1] - 1])


@transform_to.register(Hyperboloid)
def _near(constraint: Hyperboloid) -> Transform:
    return ExponentialMap(REACH)


@biject_to.register(Hyperboloid)
def _onto(constraint: Hyperboloid) -> Transform:
    return ExponentialMap()


class HyperbolicNormal(TorchDistribution):
    """A Normal wrapped onto hyperbolic space: log p(z) = log N(v) - (n - 1) log(sinh r / r).

    Arguments:
        loc: Points of the hyperboloid, with shape `(*batch, n + 1)`.
        scale: Standard deviations of v in the plane at the origin, with shape `(*batch, n)`.

    Raises:
        ValueError: If the shapes do not match, or if validation is on and a parameter is illegal.

    Example:
        >>> d = HyperbolicNormal(torch.tensor([1.0, 0.0, 0.0]), torch.ones(2))
        >>> z = d.sample((100,))
        >>> z.shape, bool(hyperboloid.check(z).all())
        (torch.Size([100, 3]), True)
    """

    arg_constraints: Any = {
        "loc": hyperboloid,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support: Any = hyperboloid
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        if loc.dim() < 1 or scale.dim() < 1 or loc.shape[-1] != scale.shape[-1] + 1:
            raise ValueError(
                f"loc has shape {tuple(loc.shape)} and scale {tuple(scale.shape)}; a point has "
                "one coordinate more than the space has dimensions: (*batch, n + 1), (*batch, n)."
            )
        batch = torch.broadcast_shapes(loc.shape[:-1], scale.shape[:-1])
        self.loc, self.scale = loc.expand(*batch, -1), scale.expand(*batch, -1)
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: HyperbolicNormal | None = None) -> Any:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(HyperbolicNormal, _instance)
        new.loc = self.loc.expand(*batch_shape, -1)
        new.scale = self.scale.expand(*batch_shape, -1)
        new._drawn = None
        super(HyperbolicNormal, new).__init__(
            Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, with shape `sample_shape + batch_shape + (n + 1,)`."""
        shape = self._extended_shape(sample_shape)[:-1] + self.scale.shape[-1:]
        noise = torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        v = _within(self.scale.double() * noise.double(), self.loc.dtype)
        z = _carried(self.loc.double(), v, self.loc.dtype)
        self._drawn = z, v
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats by hyperbolic volume, with shape `sample + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        v = self._plane(value)
        scale = self.scale.double()
        normal = -0.5 * (v / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
        volume = (v.shape[-1] - 1) * _log_sinhc(_length(v))
        dtype = torch.promote_types(value.dtype, self.loc.dtype)
        return (normal.sum(-1) - volume).to(dtype)

    def _plane(self, value: Tensor) -> Tensor:
        """The v of a point; that of a draw is remembered to more digits than its coordinates."""
        own = self._drawn is not None and self._drawn[0] is value
        if own and self._drawn is not None and value.requires_grad:
            return self._drawn[1]
        v = _returned(self.loc.double(), value.double())
        if own and self._drawn is not None:
            # a draw that stays where it is when loc moves: its v does not
            v = self._drawn[1] + (v - v.detach())
        return v


# ------------------------------------------------------------------------------------- geometry
def _length(v: Tensor) -> Tensor:
    """|v|, and for v = 0 a number so small that no ratio notices, with a derivative of 0."""
    return v.square().sum(-1).clamp(min=1e-40).sqrt()


def _log_sinhc(r: Tensor) -> Tensor:
    """log(sinh(r) / r), which neither overflows nor cancels."""
    small = r < 1e-3
    safe = torch.where(small, 1.0, r)
    large = safe + torch.log1p(-torch.exp(-2 * safe)) - math.log(2) - safe.log()
    return torch.where(small, r.square() / 6, large)


def _within(v: Tensor, dtype: torch.dtype) -> Tensor:
    """v, no longer than what the coordinates of its point can hold."""
    limit = FARTHEST * math.log(torch.finfo(dtype).max) - REACH
    length = _length(v)
    return v * torch.where(length > limit, limit / length, 1.0).unsqueeze(-1)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x[..., 1:] * y[..., 1:]).sum(-1) - x[..., 0] * y[..., 0]


def _lifted(v: Tensor, dtype: torch.dtype) -> Tensor:
    r = _length(v)
    tail = v * (torch.sinh(r) / r).unsqueeze(-1)
    return torch.cat([torch.cosh(r).unsqueeze(-1), tail], -1).to(dtype)


def _carried(loc: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
    along = (loc[..., 1:] * v).sum(-1) / (1 + loc[..., 0])
    r = _length(v)
    spread = torch.sinh(r) / r
    tail = torch.cosh(r).unsqueeze(-1) * loc[..., 1:]
    tail = tail + spread.unsqueeze(-1) * (v + along.unsqueeze(-1) * loc[..., 1:])
    # the first coordinate from the others, so that the point lies on the sheet
    head = (1 + tail.square().sum(-1, keepdim=True)).sqrt()
    return torch.cat([head, tail], -1).to(dtype)


def _returned(loc: Tensor, z: Tensor) -> Tensor:
    """The v that leads from loc to z."""
    away = z - loc
    # 2 (cosh d - 1) = <z - loc, z - loc>, without the cancellation of arccosh near 1
    square = _inner(away, away).clamp(min=1e-36)
    d = 2 * torch.asinh(square.sqrt() / 2)
    stretch = torch.exp(-_log_sinhc(d)).unsqueeze(-1)
    # u = d / sinh d (z - cosh(d) loc), and z - cosh(d) loc = away - square / 2 loc
    u = stretch * (away - (square / 2).unsqueeze(-1) * loc)
    back = -u[..., :1] / (1 + loc[..., :1])
    return u[..., 1:] + back * loc[..., 1:]
