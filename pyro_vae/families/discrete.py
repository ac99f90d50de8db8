"""Families on finite sets: bits, one-hot vectors, classes, and straight-through guides of them.

A mass does not depend smoothly on a draw, so an ELBO moves a discrete guide by the
score-function gradient, which is unbiased and noisy. There are two ways round it, and they are
not alike:

* *straight-through* (here): draws are 0 and 1, scored by their mass, so that the ELBO is a bound
  like any other; but the gradient through the likelihood is that of another function, biased.
  The gradient of the KL is not: see `pyro_vae.distributions.straight_through`.
* *relaxed* (`pyro_vae.families.relaxed`): draws lie between 0 and 1 and are scored by a density.
  Gradients are unbiased, but of the bound of another model, whose prior has to be relaxed too.

Where the KL is exact (`TraceExactKL_ELBO`), both kinds of discrete guide take it as a finite sum.
"""

from __future__ import annotations

__all__ = [
    "Bernoulli",
    "Categorical",
    "OneHotCategorical",
    "StraightThroughBernoulli",
    "StraightThroughOneHotCategorical",
    "classes",
]

import pyro.distributions as dist
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import Parameter


def classes(family: Family) -> tuple[int, ...]:
    """Return the shape of the logits of a family with the option `categories`.

    Arguments:
        family: A family of groups of classes.

    Returns:
        `(*features, categories)`.

    Raises:
        ValueError: If there are fewer than two categories.

    Example:
        >>> classes(OneHotCategorical(3, categories=10))
        (3, 10)
    """
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
    `(*features, categories)`. The standard member is uniform over classes. As a guide it has no
    reparameterised draws: `Trace_ELBO` and `TraceExactKL_ELBO` use the score function.

    Example:
        >>> OneHotCategorical(3, categories=10)().event_shape
        torch.Size([3, 10])
    """

    spec = {"logits": Parameter(constraints.real, 0.0, shape=classes)}
    options = ("categories",)
    example_options = {"categories": 4}

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one draw, `(*features, categories)`."""
        return classes(self)

    def distribution(self, logits: Tensor) -> TorchDistribution:
        """Return OneHotCategorical(logits), independent over groups."""
        return distributions.OneHotCategorical(logits=logits).to_event(len(self.features))


@register
class StraightThroughOneHotCategorical(OneHotCategorical):
    """One-hot vectors whose draws have the gradient of their mean: dz = d softmax(logits).

    A guide for `OneHotCategorical` priors, of the same mass. The ELBO keeps its value, a true
    bound, and its KL an unbiased gradient; only the gradient through the likelihood is biased,
    for the decoder is asked for its slope where it is never evaluated.

    References:
        Estimating or propagating gradients through stochastic neurons for conditional computation
        (Y. Bengio, N. Leonard, A. Courville, 2013)

    Example:
        >>> import torch
        >>> q = StraightThroughOneHotCategorical(2, context=5, categories=4)(torch.randn(7, 5))
        >>> z = q.rsample()
        >>> z.sum(-1).unique().tolist(), z.requires_grad
        ([1.0], True)
    """

    roles = frozenset({"guide"})

    def distribution(self, logits: Tensor) -> TorchDistribution:
        """Return StraightThroughOneHotCategorical(logits), independent over groups."""
        groups = distributions.StraightThroughOneHotCategorical(logits=logits)
        return groups.to_event(len(self.features))


@register
class Bernoulli(Family):
    """Independent bits: log p(x) = sum_i x_i l_i - log(1 + exp l_i), l = logits.

    Data strictly between 0 and 1 are not binary; binarise them or use `ContinuousBernoulli`. As
    a guide it has no reparameterised draws: `Trace_ELBO` and `TraceExactKL_ELBO` use the score
    function.

    Example:
        >>> import torch
        >>> Bernoulli(2)().log_prob(torch.tensor([0.0, 1.0])).item()  # -2 log 2
        -1.386...
    """

    roles = frozenset({"prior", "guide", "likelihood"})
    spec = {"logits": Parameter(constraints.real, 0.0)}

    def distribution(self, logits: Tensor) -> TorchDistribution:
        """Return Bernoulli(logits), independent over features."""
        return dist.Bernoulli(logits=logits).to_event(len(self.features))


@register
class StraightThroughBernoulli(Family):
    """Independent bits whose draws have the gradient of their mean: dz = d sigmoid(logits).

    A guide for `Bernoulli` priors, of the same mass. The ELBO keeps its value, a true bound, and
    its KL an unbiased gradient; only the gradient through the likelihood is biased.

    References:
        Estimating or propagating gradients through stochastic neurons for conditional computation
        (Y. Bengio, N. Leonard, A. Courville, 2013)

    Example:
        >>> import torch
        >>> z = StraightThroughBernoulli(2, context=5)(torch.randn(7, 5)).rsample()
        >>> bool(((z == 0) | (z == 1)).all()), z.requires_grad
        (True, True)
    """

    roles = frozenset({"guide"})
    spec = {"logits": Parameter(constraints.real, 0.0)}

    def distribution(self, logits: Tensor) -> TorchDistribution:
        """Return StraightThroughBernoulli(logits), independent over features."""
        bits = distributions.StraightThroughBernoulli(logits=logits)
        return bits.to_event(len(self.features))


@register
class Categorical(Family):
    """A likelihood for classes 0 ... K - 1: log p(x) = sum_i log softmax(logits_i)[x_i].

    `categories` is K; a draw has shape `features` and holds class numbers. It is no prior and no
    guide, for a class number is no quantity: a decoder that reads it as one would take class 4 to
    be twice class 2. `OneHotCategorical` is the same law in a form that networks can read.

    Example:
        >>> import torch
        >>> Categorical(2, categories=5)().log_prob(torch.tensor([0, 4])).item()  # -2 log 5
        -3.218...
    """

    roles = frozenset({"likelihood"})
    spec = {"logits": Parameter(constraints.real, 0.0, shape=classes)}
    options = ("categories",)
    example_options = {"categories": 4}

    def distribution(self, logits: Tensor) -> TorchDistribution:
        """Return Categorical(logits), independent over features."""
        return dist.Categorical(logits=logits).to_event(len(self.features))
