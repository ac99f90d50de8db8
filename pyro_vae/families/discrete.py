"""Families on finite sets: OneHotCategorical, Bernoulli, Categorical."""

from __future__ import annotations

__all__ = ["Bernoulli", "Categorical", "OneHotCategorical"]

import pyro.distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import Parameter


def _logits(family: Family) -> tuple[int, ...]:
    categories = getattr(family, "categories")  # noqa: B009 (an option, set by name)
    if categories < 2:
        raise ValueError(
            f"{type(family).__name__}: categories must be at least 2, not {categories}: with "
            "fewer there is nothing to choose from."
        )
    return *family.features, categories


@register
class OneHotCategorical(Family):
    """One-hot vectors: log p(z) = sum_g log softmax(logits_g) . z_g, groups independent.

    `features` counts the groups and `categories` the classes of each, so one draw has shape
    `(*features, categories)`. The standard member is uniform over classes.

    Example:
        >>> OneHotCategorical(3, categories=10)().event_shape
        torch.Size([3, 10])
    """

    spec = {"logits": Parameter(constraints.real, 0.0, shape=_logits)}
    options = ("categories",)
    example_options = {"categories": 4}

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one draw, `(*features, categories)`."""
        return _logits(self)

    def distribution(self, logits: Tensor) -> TorchDistribution:
        """Return OneHotCategorical(logits), independent over groups."""
        return dist.OneHotCategorical(logits=logits).to_event(len(self.features))


@register
class Bernoulli(Family):
    """A likelihood for binary data: log p(x) = sum_i x_i l_i - log(1 + exp l_i), l = logits.

    Data strictly between 0 and 1 are not binary; binarise them or use `ContinuousBernoulli`.

    Example:
        >>> import torch
        >>> Bernoulli(2)().log_prob(torch.tensor([0.0, 1.0])).item()  # -2 log 2
        -1.386...
    """

    roles = frozenset({"likelihood"})
    spec = {"logits": Parameter(constraints.real, 0.0)}

    def distribution(self, logits: Tensor) -> TorchDistribution:
        """Return Bernoulli(logits), independent over features."""
        return dist.Bernoulli(logits=logits).to_event(len(self.features))


@register
class Categorical(Family):
    """A likelihood for classes 0 ... K - 1: log p(x) = sum_i log softmax(logits_i)[x_i].

    `categories` is K; a draw has shape `features` and holds class numbers.

    Example:
        >>> import torch
        >>> Categorical(2, categories=5)().log_prob(torch.tensor([0, 4])).item()  # -2 log 5
        -3.218...
    """

    roles = frozenset({"likelihood"})
    spec = {"logits": Parameter(constraints.real, 0.0, shape=_logits)}
    options = ("categories",)
    example_options = {"categories": 4}

    def distribution(self, logits: Tensor) -> TorchDistribution:
        """Return Categorical(logits), independent over features."""
        return dist.Categorical(logits=logits).to_event(len(self.features))
