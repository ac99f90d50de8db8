"""Families on the circle and the torus: VonMises, WrappedNormal, CircularUniform.

Each feature is an angle in [-pi, pi); several are a torus. An angle x and x + 2 pi are one point,
so whatever reads z (a decoder, a summary) should read cos z and sin z: gradients through draws
follow their motion on the circle, and are right for functions of the point alone
(`pyro_vae.distributions.circular`). For the same reason these families are paired with each
other, and not with priors on the real line, whose densities jump where the circle is cut.

A mean direction that is trained or predicted is the direction of a vector of two numbers. So a
network can follow data that lie on a loop all the way round, and the gradient never dies: it is
that with respect to the angle, divided by the length of the vector, and at right angles to it.
"""

from __future__ import annotations

__all__ = ["CircularUniform", "VonMises", "WrappedNormal"]

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.distributions.circular import circle
from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import Parameter


@register
class VonMises(Family):
    """Independent von Mises angles: log p(z) = sum_i k_i cos(z_i - loc_i) - log(2 pi I_0(k_i)).

    k = concentration. The standard member has loc 0 and concentration 1.

    Example:
        >>> import torch
        >>> guide = VonMises(2, context=8)
        >>> z = guide(torch.zeros(5, 8)).rsample()
        >>> z.shape, z.requires_grad
        (torch.Size([5, 2]), True)
    """

    spec = {
        "loc": Parameter(circle, 0.0),
        "concentration": Parameter(constraints.softplus_positive, 1.0),
    }

    def distribution(self, loc: Tensor, concentration: Tensor) -> TorchDistribution:
        """Return VonMises(loc, concentration), independent over features."""
        return distributions.VonMises(loc, concentration).to_event(len(self.features))


@register
class WrappedNormal(Family):
    """Independent Normals wound round the circle: p(z) = prod_i sum_n N(z_i + 2 pi n; loc_i, s_i).

    s = scale, before winding. The standard member has loc 0 and scale 1.

    Example:
        >>> WrappedNormal(2, scale=[0.1, 100.0])().log_prob(torch.zeros(2)).item()
        -0.454...
    """

    spec = {"loc": Parameter(circle, 0.0), "scale": Parameter(constraints.positive, 1.0)}

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return WrappedNormal(loc, scale), independent over features."""
        return distributions.WrappedNormal(loc, scale).to_event(len(self.features))


@register
class CircularUniform(Family):
    """The uniform distribution on the torus: log p(z) = -n log(2 pi) for n angles.

    A prior alone: it has no parameter to train or to predict.

    Example:
        >>> CircularUniform(2)().log_prob(torch.zeros(2)).item()  # -2 log(2 pi)
        -3.675...
    """

    roles = frozenset({"prior"})

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # carries dtype and device, which no parameter does
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def distribution(self, like: Tensor) -> TorchDistribution:
        """Return the uniform distribution, independent over features."""
        return distributions.CircularUniform(self.features, like).to_event(len(self.features))

    def extra_repr(self) -> str:
        """Return the features."""
        return str(self.features[0] if len(self.features) == 1 else self.features)
