"""Families on the sphere: VonMisesFisher, PowerSpherical, SphericalUniform.

Features count ambient dimensions: `VonMisesFisher(3)` lives on the surface of the ball in R^3.
Dimensions of `features` before the last are independent, each a sphere of its own.

A mean direction that is trained or predicted is the direction of a vector of m numbers, so that a
network can point anywhere. (The projected normal, whose one parameter is such a vector, stands in
`pyro_vae.families.projected`.)
"""

from __future__ import annotations

__all__ = ["PowerSpherical", "SphericalUniform", "VonMisesFisher"]

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.families.family import Family, Role, register
from pyro_vae.families.parameters import Parameter


def _diagonal(shape: tuple[int, ...]) -> Tensor:
    """A unit vector, the same in every coordinate: no raw number of it is 0."""
    return torch.full(shape, 1 / math.sqrt(shape[-1]))


def _unit(loc: Tensor) -> Tensor:
    """Of unit length in its own precision, whatever it was rounded in before."""
    return loc / torch.linalg.vector_norm(loc, dim=-1, keepdim=True)


_AXIAL = {
    "loc": Parameter(constraints.sphere, 1.0, pattern=_diagonal),
    "concentration": Parameter(
        constraints.softplus_positive, 1.0, shape=lambda family: family.features[:-1]
    ),
}


@register
class VonMisesFisher(Family):
    """Von Mises-Fisher on the last dimension: log p(z) = concentration loc . z + log C.

    The standard member has concentration 1 about the diagonal.

    Example:
        >>> guide = VonMisesFisher(16, context=8)
        >>> z = guide(torch.zeros(5, 8)).rsample()
        >>> z.shape, z.requires_grad
        (torch.Size([5, 16]), True)
    """

    min_features = 2
    spec = _AXIAL

    def distribution(self, loc: Tensor, concentration: Tensor) -> TorchDistribution:
        """Return VonMisesFisher, independent over all but the last dimension."""
        sphere = distributions.VonMisesFisher(_unit(loc), concentration)
        return sphere.to_event(len(self.features) - 1)


@register
class PowerSpherical(Family):
    """Power spherical on the last dimension: log p(z) = concentration log(1 + loc . z) + log N.

    The standard member has concentration 1 about the diagonal.

    Example:
        >>> guide = PowerSpherical(16, context=8)
        >>> guide(torch.zeros(5, 8)).rsample().shape
        torch.Size([5, 16])
    """

    min_features = 2
    spec = _AXIAL

    def distribution(self, loc: Tensor, concentration: Tensor) -> TorchDistribution:
        """Return PowerSpherical, independent over all but the last dimension."""
        sphere = distributions.PowerSpherical(_unit(loc), concentration)
        return sphere.to_event(len(self.features) - 1)


@register
class SphericalUniform(Family):
    """The uniform distribution on the sphere: log p(z) = -log area.

    A prior alone: it has no parameter to train or to predict.

    Example:
        >>> SphericalUniform(3)().log_prob(torch.eye(3)[0]).item()  # -log(4 pi)
        -2.531...
    """

    roles: ClassVar[frozenset[Role]] = frozenset({"prior"})
    min_features = 2

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # carries dtype and device, which no parameter does
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def distribution(self, like: Tensor) -> TorchDistribution:
        """Return the uniform distribution, independent over all but the last dimension."""
        *batch, dim = self.features
        return distributions.SphericalUniform(dim, batch, like).to_event(len(batch))

    def extra_repr(self) -> str:
        """Return the features."""
        return str(self.features[0] if len(self.features) == 1 else self.features)
