"""Relaxed bits and relaxed one-hot vectors, at any temperature and any logits.

A relaxed (or Concrete) distribution replaces the choice of a class by a point of the interval or
simplex that can be differentiated: with noise g and temperature t,

    x = sigmoid((logits + logistic noise) / t),      x = softmax((logits + Gumbel noise) / t).

As t -> 0 draws tend to 0 or 1, but their density stays a density: it is never to be compared
with a mass. torch has both laws; its draws are exact only for logits within 16 (it clamps the
probabilities from which they are made), in single precision some are 0 or 1 themselves, its
densities of bits overflow, and temperatures that differ between elements are not supported. Here
the laws are the same and hold throughout.

Source: The Concrete distribution: a continuous relaxation of discrete random variables
(C. J. Maddison, A. Mnih, Y. W. Teh, 2017).
"""

from __future__ import annotations

__all__ = ["RelaxedBernoulli", "RelaxedOneHotCategorical"]

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all, clamp_probs
from torch.nn.functional import logsigmoid

_POSITIVE: Any = {"temperature": constraints.positive}


class RelaxedBernoulli(dist.RelaxedBernoulli):
    r"""The distribution of sigmoid((logits + L) / temperature) for L ~ Logistic(0, 1).

    log p(x) = log t + log s(d) + log s(-d) - log x - log(1 - x),  d = logits - t logit x,
    where s is the logistic function and t the temperature.

    At temperature 1 and logits 0 this is the uniform distribution. Draws that would round to an
    end of the interval are kept inside it, where every density has a finite slope.

    Arguments:
        temperature: Positive, of a shape that broadcasts with that of `logits`.
        probs: The probability that x > 1/2, of shape `batch_shape`; or give `logits`.
        logits: The log-odds of it.

    Raises:
        ValueError: If both or none of `probs` and `logits` are given, or, if validation is on,
            a parameter lies outside its range.

    Example:
        >>> x = RelaxedBernoulli(0.01, logits=torch.tensor([-50.0, 50.0])).sample((9,))
        >>> bool(((0 < x) & (x < 1)).all())
        True
    """

    arg_constraints: Any = {**dist.RelaxedBernoulli.arg_constraints, **_POSITIVE}

    def __init__(
        self,
        temperature: Tensor | float,
        probs: Tensor | float | None = None,
        logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if probs is not None:
            temperature, probs = broadcast_all(temperature, probs)
        elif logits is not None:
            temperature, logits = broadcast_all(temperature, logits)
        super().__init__(torch.as_tensor(temperature), probs, logits, validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RelaxedBernoulli:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(RelaxedBernoulli, _instance)
        return super().expand(batch_shape, _instance=new)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws without a gradient, with shape `sample_shape + batch_shape`."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, with shape `sample_shape + batch_shape`."""
        u = _uniform(self.logits, self._extended_shape(sample_shape))
        noise = u.log() - torch.log1p(-u)
        return _inside(((self.logits + noise) / self.temperature).sigmoid())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        log_x, log_rest = value.log(), torch.log1p(-value)
        d = self.logits - self.temperature * (log_x - log_rest)
        return self.temperature.log() + logsigmoid(d) + logsigmoid(-d) - log_x - log_rest


class RelaxedOneHotCategorical(dist.RelaxedOneHotCategorical):
    r"""The distribution of softmax((logits + G) / temperature), G_k ~ Gumbel(0, 1) independent.

    log p(x) = log Gamma(K) + (K - 1) log t + sum_k log softmax(d)_k - sum_k log x_k,
    d = logits - t log x, K the number of classes and t the temperature.

    Draws are kept off the faces of the simplex, where every density has a finite slope.

    Arguments:
        temperature: Positive, of a shape that broadcasts with `batch_shape`.
        probs: The probabilities that x_k is the largest part, with shape `(*batch_shape, K)`; or
            give `logits`.
        logits: Their logarithms, up to a constant.

    Raises:
        ValueError: If both or none of `probs` and `logits` are given, or, if validation is on,
            a parameter lies outside its range.

    Example:
        >>> x = RelaxedOneHotCategorical(0.01, logits=torch.tensor([-50.0, 0.0, 50.0])).sample()
        >>> bool(((0 < x) & (x < 1)).all())
        True
    """

    arg_constraints: Any = {**dist.RelaxedOneHotCategorical.arg_constraints, **_POSITIVE}

    def __init__(
        self,
        temperature: Tensor | float,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if probs is not None:
            temperature, probs = _over_batch(temperature, probs)
        elif logits is not None:
            temperature, logits = _over_batch(temperature, logits)
        super().__init__(torch.as_tensor(temperature), probs, logits, validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RelaxedOneHotCategorical:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(RelaxedOneHotCategorical, _instance)
        return super().expand(batch_shape, _instance=new)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws without a gradient, with shape `sample_shape + batch_shape + (K,)`."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, with shape `sample_shape + batch_shape + (K,)`."""
        u = _uniform(self.logits, self._extended_shape(sample_shape))
        gumbel = -(-u.log()).log()
        return _inside(((self.logits + gumbel) / self.temperature.unsqueeze(-1)).softmax(-1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        count, log_x = value.shape[-1], value.log()
        d = self.logits - self.temperature.unsqueeze(-1) * log_x
        constant = torch.lgamma(self.temperature.new_tensor(float(count)))
        parts = (d.log_softmax(-1) - log_x).sum(-1)
        return constant + (count - 1) * self.temperature.log() + parts


def _over_batch(number: Tensor | float, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Broadcast a number with the batch of a vector."""
    given = torch.as_tensor(number, dtype=vector.dtype, device=vector.device)
    batch = torch.broadcast_shapes(given.shape, vector.shape[:-1])
    return given.expand(batch), vector.expand(*batch, vector.shape[-1])


def _uniform(like: Tensor, shape: torch.Size) -> Tensor:
    """Uniform draws, of which none is 0 or 1."""
    return clamp_probs(torch.rand(shape, dtype=like.dtype, device=like.device))


def _inside(x: Tensor) -> Tensor:
    """Keep draws inside: below 1, and so far above 0 that not even 1 / x^2 overflows."""
    limits = torch.finfo(x.dtype)
    return x.clamp(min=limits.tiny**0.5, max=1 - limits.eps)
