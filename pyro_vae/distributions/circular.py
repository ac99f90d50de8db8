"""The circle as angles in [-pi, pi), and the uniform distribution on it.

An angle x and x + 2 pi are one point. Draws are kept in [-pi, pi), so a density here is one with
respect to dx on that interval; but what is a smooth motion on the circle, a jump from pi to -pi,
is none on the line. Hence the derivative of a draw is that of its motion on the circle, and
E f(x) has the derivative E f'(x) dx only for functions f of the point, that is, periodic ones.
So distributions on the circle are a space of their own, whose priors are paired with its guides
alone; and whatever reads an angle should read cos x and sin x.

Two maps lead here from real numbers. `transform_to(circle)` is the direction of a vector of the
plane, (a, b) -> atan2(b, a): it is smooth all the way round, so a network whose data lie on a loop
can follow the loop (a network that predicts a plain number has to tear it somewhere), and its
gradient, (-b, a) / (a^2 + b^2), never vanishes. `biject_to(circle)` cuts the circle open at pi.
"""

from __future__ import annotations

__all__ = ["Circle", "CircularUniform", "Direction", "Rotation", "circle", "wrapped"]

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Transform, biject_to, transform_to
from torch.distributions.constraints import Constraint


class Circle(Constraint):
    """Angles in [-pi, pi], both ends the same point.

    Example:
        >>> circle.check(torch.tensor([-3.0, 4.0]))
        tensor([ True, False])
    """

    space_kind = "circle"
    lower_bound, upper_bound = -math.pi, math.pi

    def __repr__(self) -> str:
        return "circle"

    def check(self, value: Tensor) -> Tensor:
        """Say of each element whether it is such an angle."""
        return (value >= self.lower_bound) & (value <= self.upper_bound)


circle = Circle()
"""The support of a distribution of angles."""


class Direction(Transform):
    """The angle of a vector of the plane: x = atan2(b, a), for (a, b) in the last dimension.

    The vector (0, 0), which has no direction, is taken for (1, 0).

    Example:
        >>> Direction()(torch.tensor([0.0, 2.0]))
        tensor(1.5708)
    """

    domain = constraints.real_vector
    codomain = circle

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Direction)

    def __hash__(self) -> int:
        return hash(Direction)

    def _call(self, x: Tensor) -> Tensor:
        length = torch.hypot(x[..., 0], x[..., 1]).detach()
        nowhere = length == 0
        # scaled to length 1 first, for the squares of the derivative may overflow
        unit = x / torch.where(nowhere, 1.0, length).unsqueeze(-1)
        return wrapped(torch.atan2(unit[..., 1], torch.where(nowhere, 1.0, unit[..., 0])))

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.stack([y.cos(), y.sin()], -1)

    def forward_shape(self, shape: Any) -> Any:
        """Return the shape of angles, given that of vectors."""
        return shape[:-1]

    def inverse_shape(self, shape: Any) -> Any:
        """Return the shape of vectors, given that of angles."""
        return torch.Size([*shape, 2])


class Rotation(Transform):
    """An angle turned by another one: y = x + loc mod 2 pi.

    Arguments:
        loc: Angles, with a shape that broadcasts with that of x.

    Example:
        >>> Rotation(torch.tensor(3.0))(torch.tensor([-1.0, 1.0]))
        tensor([ 2.0000, -2.2832])
    """

    domain = codomain = circle
    bijective = True

    def __init__(self, loc: Tensor) -> None:
        super().__init__()
        self.loc = loc

    def _call(self, x: Tensor) -> Tensor:
        return wrapped(x + self.loc)

    def _inverse(self, y: Tensor) -> Tensor:
        return wrapped(y - self.loc)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |dy/dx| = 0, with the shape of `y`, and with a gradient, which is 0 too."""
        return 0 * y


@transform_to.register(Circle)
def _direction(constraint: Circle) -> Transform:
    return Direction()


@biject_to.register(Circle)
def _cut_open(constraint: Circle) -> Transform:
    return biject_to(constraints.interval(-math.pi, math.pi))


def wrapped(angle: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the angle in (-pi, pi) of the same point.

    Arguments:
        angle: Any real numbers.
        dtype: Of the result; that of `angle` by default.

    Returns:
        Angles strictly between -pi and pi in that precision, with the derivative 1.

    Example:
        >>> wrapped(torch.tensor([0.5, 7.0]))
        tensor([0.5000, 0.7168])
    """
    dtype = dtype or angle.dtype
    turns = (angle.detach() / (2 * math.pi)).round()
    near = (angle - 2 * math.pi * turns).to(dtype)
    end = math.pi * (1 - torch.finfo(dtype).eps)
    # a draw that rounds to the cut is moved by one rounding error, but keeps its gradient
    return near + (near.detach().clamp(-end, end) - near.detach())


class CircularUniform(TorchDistribution):
    """The uniform distribution on the circle: log p(x) = -log(2 pi), -pi <= x < pi.

    Arguments:
        batch_shape: The batch shape; a shape, since there is no parameter to give it.
        like: A tensor whose dtype and device draws are to have; the default dtype on the CPU
            without one.

    Example:
        >>> CircularUniform((3,)).log_prob(torch.zeros(3))
        tensor([-1.8379, -1.8379, -1.8379])
    """

    arg_constraints: Any = {}
    support: Any = circle
    has_rsample = True

    def __init__(
        self,
        batch_shape: Any = (),
        like: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        # a number per element that carries dtype and device, as parameters do elsewhere
        self.level = (torch.zeros(()) if like is None else like.new_zeros(())).expand(batch_shape)
        super().__init__(torch.Size(batch_shape), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: CircularUniform | None = None) -> Any:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(CircularUniform, _instance)
        new.level = self.level.expand(batch_shape)
        super(CircularUniform, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, with shape `sample_shape + batch_shape`."""
        u = torch.rand(
            self._extended_shape(sample_shape), dtype=self.level.dtype, device=self.level.device
        )
        return wrapped(2 * math.pi * u - math.pi)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        return self.level - math.log(2 * math.pi) + 0 * value
