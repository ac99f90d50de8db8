"""Masses whose draws carry a gradient: straight-through one-hot vectors and bits.

A straight-through draw is a draw of the discrete distribution, z, whose derivative is declared to
be that of its mean: dz = d E[z] = d probs. With a log mass that is linear in z,

    log q(z) = sum_k z_k log q_k,      log q(z) - log p(z) = sum_k z_k (log q_k - log p_k),

the gradient of the latter through z is sum_k dq_k (log q_k - log p_k), which is that of
KL(q || p) itself, whatever was drawn: the KL keeps an unbiased gradient, also where it is
sampled. That of any other function of z is biased, unless that function is linear. The value of
an ELBO is not touched by any of this: a mass is compared with a mass, so it is a bound.

torch scores a one-hot vector by the position of its largest element, through which no gradient
passes, so the log mass is written anew for one-hot vectors.

Source: Estimating or propagating gradients through stochastic neurons for conditional computation
(Y. Bengio, N. Leonard, A. Courville, 2013).
"""

from __future__ import annotations

__all__ = ["OneHotCategorical", "StraightThroughBernoulli", "StraightThroughOneHotCategorical"]

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class OneHotCategorical(dist.OneHotCategorical):
    """One-hot vectors, with a log mass that is linear in the vector.

    log p(z) = sum_k z_k log p_k, where p = softmax(logits).

    The values are those of torch's class, but a gradient with respect to z passes, so that a
    straight-through guide is told what a prior thinks of its draws.

    Arguments:
        probs: Shape `(*batch_shape, K)`; or give `logits`.
        logits: Shape `(*batch_shape, K)`.

    Raises:
        ValueError: If both or none are given, or, if validation is on, one is out of range.

    Example:
        >>> z = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> OneHotCategorical(torch.tensor([0.25, 0.75])).log_prob(z).backward()
        >>> z.grad.exp()
        tensor([0.2500, 0.7500])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        never = (self.logits == -torch.inf) & (value != 0)
        # 0 times -inf has neither value nor slope
        finite = self.logits.clamp(min=torch.finfo(self.logits.dtype).min)
        log_mass = (value * finite).sum(-1)
        return torch.where(never.any(-1), -torch.inf, log_mass)


class StraightThroughOneHotCategorical(OneHotCategorical):
    """One-hot vectors whose draws have the gradient of their probabilities.

    z ~ OneHotCategorical(logits), dz = d softmax(logits).

    Arguments:
        probs: Shape `(*batch_shape, K)`; or give `logits`.
        logits: Shape `(*batch_shape, K)`.

    Raises:
        ValueError: If both or none are given, or, if validation is on, one is out of range.

    Example:
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> z = StraightThroughOneHotCategorical(logits=logits).rsample()
        >>> z.sum().item(), z.requires_grad
        (1.0, True)
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return one-hot draws, with shape `sample_shape + batch_shape + (K,)`."""
        return _through(self.sample(torch.Size(sample_shape)), self.probs)


class StraightThroughBernoulli(dist.Bernoulli):
    """Bits whose draws have the gradient of their probability.

    z ~ Bernoulli(logits), dz = d sigmoid(logits).

    Arguments:
        probs: The probability of 1, of shape `batch_shape`; or give `logits`.
        logits: The log-odds of 1, of shape `batch_shape`.

    Raises:
        ValueError: If both or none are given, or, if validation is on, one is out of range.

    Example:
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> z = StraightThroughBernoulli(logits=logits).rsample()
        >>> bool(((z == 0) | (z == 1)).all())
        True
        >>> z.sum().backward()
        >>> logits.grad
        tensor([0.2500, 0.2500, 0.2500])
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws of 0 and 1, with shape `sample_shape + batch_shape`."""
        return _through(self.sample(torch.Size(sample_shape)), self.probs)


def _through(drawn: Tensor, mean: Tensor) -> Tensor:
    """What was drawn, to the last bit, with the gradient of the mean."""
    return drawn + (mean - mean.detach())
