"""Families on the unit interval: Beta, LogitNormal, ContinuousBernoulli."""

from __future__ import annotations

__all__ = ["Beta", "ContinuousBernoulli", "LogitNormal"]

import pyro.distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import Parameter


@register
class Beta(Family):
    """Independent Betas: p(z_i) proportional to z_i^(a - 1) (1 - z_i)^(b - 1).

    a = concentration1, b = concentration0. The standard member is Beta(1, 1), the uniform
    distribution.

    Example:
        >>> Beta(2, concentration1=2.0, concentration0=1.0)().mean
        tensor([0.6667, 0.6667])
    """

    spec = {
        "concentration1": Parameter(constraints.softplus_positive, 1.0),
        "concentration0": Parameter(constraints.softplus_positive, 1.0),
    }

    def distribution(self, concentration1: Tensor, concentration0: Tensor) -> TorchDistribution:
        """Return Beta(concentration1, concentration0), independent over features."""
        return dist.Beta(concentration1, concentration0).to_event(len(self.features))


@register
class LogitNormal(Family):
    """Independent logit-normals: z_i = sigmoid(y_i), y_i ~ N(loc_i, scale_i^2).

    Example:
        >>> import torch
        >>> LogitNormal(2)().log_prob(torch.tensor([0.5, 0.5])).item()  # 2 log(4 / sqrt(2 pi))
        0.934...
    """

    spec = {
        "loc": Parameter(constraints.real, 0.0),
        "scale": Parameter(constraints.positive, 1.0),
    }

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return LogitNormal(loc, scale), independent over features."""
        return distributions.LogitNormal(loc, scale).to_event(len(self.features))


@register
class ContinuousBernoulli(Family):
    """A likelihood for grey values: p(x_i) = C(l_i) exp(l_i x_i), 0 <= x_i <= 1, l = logits.

    Unlike a Bernoulli scored at grey values, it is a density: it integrates to 1.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (G. Loaiza-Ganem, J. P. Cunningham, 2019)

    Example:
        >>> import torch
        >>> ContinuousBernoulli(2)().log_prob(torch.tensor([0.2, 0.9]))
        tensor(0.)
    """

    roles = frozenset({"likelihood"})
    spec = {"logits": Parameter(constraints.real, 0.0)}

    def distribution(self, logits: Tensor) -> TorchDistribution:
        """Return ContinuousBernoulli(logits), independent over features."""
        return dist.ContinuousBernoulli(logits=logits).to_event(len(self.features))
