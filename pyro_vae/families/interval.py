"""Families on intervals, by default the unit interval (0, 1)."""

from __future__ import annotations

__all__ = [
    "Beta",
    "ContinuousBernoulli",
    "Kumaraswamy",
    "LogitNormal",
    "TruncatedNormal",
    "Uniform",
]

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.families.family import Family, Role, register
from pyro_vae.families.parameters import BEFORE_0, BEFORE_1, Parameter

_CONCENTRATIONS = {
    "concentration1": Parameter(constraints.softplus_positive, 1.0, admissible=BEFORE_0),
    "concentration0": Parameter(constraints.softplus_positive, 1.0, admissible=BEFORE_1),
}


@register
class Beta(Family):
    """Independent Betas: p(z_i) proportional to z_i^(a - 1) (1 - z_i)^(b - 1).

    a = concentration1, b = concentration0. The standard member is Beta(1, 1), the uniform
    distribution. As a likelihood it is for shares strictly between 0 and 1: at the ends its
    density is 0 or infinite, and data there are refused.

    Example:
        >>> Beta(2, concentration1=2.0, concentration0=1.0)().mean
        tensor([0.6667, 0.6667])
    """

    roles: ClassVar[frozenset[Role]] = frozenset({"prior", "guide", "likelihood"})
    spec = _CONCENTRATIONS

    def distribution(self, concentration1: Tensor, concentration0: Tensor) -> TorchDistribution:
        """Return Beta(concentration1, concentration0), independent over features."""
        beta = distributions.Beta(concentration1, concentration0)
        return beta.to_event(len(self.features))


@register
class Kumaraswamy(Family):
    """Independent Kumaraswamys: p(z_i) proportional to z_i^(a - 1) (1 - z_i^a)^(b - 1).

    a = concentration1, b = concentration0. Shaped like a Beta, with draws that are a formula:
    z = (1 - u^(1 / b))^(1 / a), u uniform. The standard member is the uniform distribution.

    References:
        A generalized probability density function for double-bounded random processes
        (P. Kumaraswamy, 1980)

    Example:
        >>> Kumaraswamy(2, concentration1=2.0, concentration0=1.0)().mean
        tensor([0.6667, 0.6667])
    """

    spec = _CONCENTRATIONS

    def distribution(self, concentration1: Tensor, concentration0: Tensor) -> TorchDistribution:
        """Return Kumaraswamy(concentration1, concentration0), independent over features."""
        law: Any = distributions.Kumaraswamy
        return law(concentration1, concentration0).to_event(len(self.features))


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
    """Exponentials cut off: p(x_i) proportional to exp(l_i x_i), 0 <= x_i <= 1, l = logits.

    As a likelihood it is made for grey values: unlike a Bernoulli scored at them, it is a
    density that integrates to 1. As prior or guide it has one parameter and the uniform
    distribution, its standard member, in the middle.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (G. Loaiza-Ganem, J. P. Cunningham, 2019)

    Example:
        >>> import torch
        >>> ContinuousBernoulli(2)().log_prob(torch.tensor([0.2, 0.9]))
        tensor(0.)
    """

    roles: ClassVar[frozenset[Role]] = frozenset({"prior", "guide", "likelihood"})
    spec = {"logits": Parameter(constraints.real, 0.0)}

    def distribution(self, logits: Tensor) -> TorchDistribution:
        """Return ContinuousBernoulli(logits), independent over features."""
        return distributions.ContinuousBernoulli(logits).to_event(len(self.features))


class _Bounded(Family):
    """A family on an interval [low, high], one for all features and (0, 1) unless given.

    The ends are constants: a support that moved in training would change who may be paired.
    """

    ends: ClassVar[Mapping[str, Parameter]] = {
        "low": Parameter(constraints.real, 0.0, structural=True, shape=lambda _: ()),
        "high": Parameter(constraints.real, 1.0, structural=True, shape=lambda _: ()),
    }

    def __init__(
        self,
        features: int | Sequence[int],
        context: int = 0,
        *,
        learnable: bool | Iterable[str] = False,
        predict: Iterable[str] = (),
        **parameters: Any,
    ) -> None:
        super().__init__(features, context, learnable=learnable, predict=predict, **parameters)
        moving = [name for name in (*self.learned, *self.predicted) if name in self.ends]
        if moving:
            raise ValueError(
                f"{type(self).__name__}: {moving[0]!r} is an end of the support, which is never "
                "trained or predicted; give it as a constant."
            )
        values = dict(self.named_buffers(recurse=False))
        low, high = (values[name].item() for name in self.ends)
        if not low < high:
            raise ValueError(
                f"{type(self).__name__} needs low < high, but low={low:g} and high={high:g}."
            )


@register
class TruncatedNormal(_Bounded):
    """Independent Normal(loc_i, scale_i)s, given that they lie in [low, high].

    `low` and `high` are constants, 0 and 1 unless given; loc may lie outside. The standard member
    has loc 0.5 and scale 1.

    Example:
        >>> TruncatedNormal(2, low=-1.0, high=2.0)().mean
        tensor([0.5000, 0.5000])
    """

    spec = {
        "loc": Parameter(constraints.real, 0.5),
        "scale": Parameter(constraints.positive, 1.0),
        **_Bounded.ends,
    }

    def distribution(
        self, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor
    ) -> TorchDistribution:
        """Return TruncatedNormal(loc, scale, low, high), independent over features."""
        truncated = distributions.TruncatedNormal(loc, scale, low, high)
        return truncated.to_event(len(self.features))


@register
class Uniform(_Bounded):
    """Independent uniforms on [low, high]: nothing is preferred, and nothing trained.

    `low` and `high` are constants, 0 and 1 unless given. A prior alone, for there is nothing to
    predict.

    Example:
        >>> Uniform(2, high=4.0)().mean
        tensor([2., 2.])
    """

    roles: ClassVar[frozenset[Role]] = frozenset({"prior"})
    spec = {**_Bounded.ends}

    def distribution(self, low: Tensor, high: Tensor) -> TorchDistribution:
        """Return Uniform(low, high), independent over features."""
        uniform: Any = distributions.Uniform(low, high).expand(self.features)
        return uniform.to_event(len(self.features))
