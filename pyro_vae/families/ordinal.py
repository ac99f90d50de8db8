"""Families on ordered classes 0 ... K - 1: grades, stages, answers from "never" to "always"."""

from __future__ import annotations

__all__ = ["Ordinal"]

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions as own
from pyro_vae.families.discrete import classes
from pyro_vae.families.family import Family, Role, register
from pyro_vae.families.parameters import SPACED, Parameter


def _cutpoints(family: Family) -> tuple[int, ...]:
    *features, count = classes(family)
    return *features, count - 1


def _equal_shares(shape: tuple[int, ...]) -> Tensor:
    """Cutpoints between which a standard logistic variable falls with equal probability."""
    count = shape[-1] + 1
    return torch.logit(torch.arange(1, count) / count).expand(shape).clone()


@register
class Ordinal(Family):
    """A likelihood for ordered classes: P(x_i <= k) = s(c_ik - predictor_i), s logistic.

    `categories` is K, `cutpoints` c_0 < ... < c_(K - 2) for each feature: where a logistic
    variable about `predictor` passes from one class to the next. It knows that class 2 lies
    between 1 and 3, as a `Categorical` does not, with one number to predict in place of K.

    Cutpoints are structural: a constant, so placed that the standard member is uniform, unless
    named. `Ordinal(D, context=C, categories=K, learnable=("cutpoints",))` is the usual model,
    which learns them for each feature; they stay in order whatever step is taken.

    References:
        Regression models for ordinal data (P. McCullagh, 1980)

    Example:
        >>> import torch
        >>> Ordinal(2, categories=5)().log_prob(torch.tensor([0.0, 3.0])).item()  # -2 log 5
        -3.218...
    """

    roles: ClassVar[frozenset[Role]] = frozenset({"likelihood"})
    spec = {
        "predictor": Parameter(constraints.real, 0.0),
        "cutpoints": Parameter(
            constraints.ordered_vector,
            1.0,
            structural=True,
            admissible=SPACED,
            shape=_cutpoints,
            pattern=_equal_shares,
        ),
    }
    options = ("categories",)
    example_options = {"categories": 4}

    def distribution(self, predictor: Tensor, cutpoints: Tensor) -> TorchDistribution:
        """Return OrderedLogistic(predictor, cutpoints), independent over features."""
        return own.OrderedLogistic(predictor, cutpoints).to_event(len(self.features))
