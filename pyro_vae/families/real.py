"""Families of independent numbers on the line: Normal, Laplace, Student-t and others."""

from __future__ import annotations

__all__ = ["Cauchy", "Gumbel", "Laplace", "Logistic", "Normal", "StudentT"]

import pyro.distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions as own
from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import FINITE_VARIANCE, Parameter

_LOCATION_SCALE = {
    "loc": Parameter(constraints.real, 0.0),
    "scale": Parameter(constraints.positive, 1.0),
}


@register
class Normal(Family):
    """Independent Normals: log p(z) = sum_i log N(z_i; loc_i, scale_i^2); standard member N(0, I).

    As a likelihood its scale is one of three, and the choice matters: a fixed scale weighs errors
    of x against the KL, a learned one is the noise of the data, a predicted one lets the decoder
    say where it is sure (and collapse onto data that it knows by heart).

        Normal(D, context=C, scale=0.1)                            given: a constant
        Normal(D, context=C, scale=1.0, learnable=("scale",))      learned: a number per feature
        Normal(D, context=C)                                       predicted: for each datum

    The same holds of every scale of a likelihood, of a `StudentT` or of a `NegativeBinomial`.

    Example:
        >>> Normal(2, scale=0.5)().variance
        tensor([0.2500, 0.2500])
        >>> Normal(2, context=16, scale=1.0, learnable=("scale",)).predicted
        ('loc',)
    """

    roles = frozenset({"prior", "guide", "likelihood"})
    spec = _LOCATION_SCALE

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return Normal(loc, scale), independent over features."""
        return dist.Normal(loc, scale).to_event(len(self.features))


@register
class Laplace(Family):
    """Independent Laplaces: log p(z) = sum_i -log(2 scale_i) - |z_i - loc_i| / scale_i.

    Example:
        >>> Laplace(2)().variance
        tensor([2., 2.])
    """

    roles = frozenset({"prior", "guide", "likelihood"})
    spec = _LOCATION_SCALE

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return Laplace(loc, scale), independent over features."""
        return dist.Laplace(loc, scale).to_event(len(self.features))


@register
class StudentT(Family):
    """Independent Student-t: z_i = loc_i + scale_i T with T ~ t(df); df = 5 unless given.

    `df` is structural: a constant, unless named in `predict` or `learnable`, and then kept
    above 2, so that the variance, and with it the KL to a Normal prior, stays finite.

    Example:
        >>> StudentT(2, df=4.0)().variance
        tensor([2., 2.])
    """

    roles = frozenset({"prior", "guide", "likelihood"})
    spec = {
        "df": Parameter(constraints.positive, 5.0, structural=True, admissible=FINITE_VARIANCE),
        **_LOCATION_SCALE,
    }

    def distribution(self, df: Tensor, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return StudentT(df, loc, scale), independent over features."""
        return own.StudentT(df, loc, scale).to_event(len(self.features))


@register
class Cauchy(Family):
    """Independent Cauchys: p(z_i) = 1 / (pi scale_i (1 + t_i^2)), t = (z - loc) / scale.

    Without mean or variance: as a guide its KL is infinite beside any prior but Cauchys and
    Student-ts.

    Example:
        >>> import torch
        >>> round(Cauchy(1)().log_prob(torch.zeros(1)).item(), 4)  # -log pi
        -1.1447
    """

    roles = frozenset({"prior", "guide", "likelihood"})
    spec = _LOCATION_SCALE

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return Cauchy(loc, scale), independent over features."""
        return own.Cauchy(loc, scale).to_event(len(self.features))


@register
class Logistic(Family):
    """Independent logistics: p(z_i) = s(t_i) s(-t_i) / scale_i, t = (z - loc) / scale, s logistic.

    The standard member has scale 1, and so variance pi^2 / 3.

    Example:
        >>> Logistic(2)().variance
        tensor([3.2899, 3.2899])
    """

    roles = frozenset({"prior", "guide", "likelihood"})
    spec = _LOCATION_SCALE

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return Logistic(loc, scale), independent over features."""
        return own.Logistic(loc, scale).to_event(len(self.features))


@register
class Gumbel(Family):
    """Independent Gumbels: p(z_i) = exp(-t_i - exp(-t_i)) / scale_i, t = (z - loc) / scale.

    As a prior it allows next to nothing far below `loc`: the KL is finite only for guides whose
    lower tail falls faster than exp(z / scale), such as a Laplace of a smaller scale.

    Example:
        >>> Gumbel(2)().mean
        tensor([0.5772, 0.5772])
    """

    roles = frozenset({"prior", "guide", "likelihood"})
    spec = _LOCATION_SCALE

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return Gumbel(loc, scale), independent over features."""
        return own.Gumbel(loc, scale).to_event(len(self.features))
