"""The logistic-normal distribution on the simplex, by the logarithms of its sticks."""

from __future__ import annotations

__all__ = ["LogisticNormal"]

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.sticks import log_parts, log_sticks
from pyro_vae.distributions.unit import InUnit

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class LogisticNormal(InUnit, dist.LogisticNormal):
    r"""A stick broken K - 1 times, where logit v_k + log(K - k) ~ Normal(loc_k, scale_k).

    log p(x) = sum_k log N(y_k; loc_k, scale_k) - sum_j log x_j over all parts x_j, with
    y_k = log x_k - log(x_(k+1) + ... + x_K) + log(K - k),  k = 1 ... K - 1.

    At loc 0 the parts are equal in the middle. It is torch's law; torch computes what is left of
    the stick as 1 - cumsum(x), and has draws with parts of 0.

    Arguments:
        loc: The means of the y_k, of shape `(*batch_shape, K - 1)`.
        scale: Their standard deviations, positive.

    Raises:
        ValueError: If validation is on and `scale` is not positive.

    References:
        Logistic-normal distributions: some properties and uses (J. Aitchison, S. M. Shen, 1980)

    Example:
        >>> d = LogisticNormal(torch.tensor([0.0, 100.0]), torch.ones(2))
        >>> x = d.sample()
        >>> x.shape, bool((x > 0).all()), bool(d.log_prob(x).isfinite())
        (torch.Size([3]), True, True)
    """

    def _draw(self, shape: torch.Size, loc: Tensor, scale: Tensor) -> Tensor:
        sticks = torch.Size([*shape[:-1], shape[-1] - 1])
        noise = torch.randn(sticks, dtype=loc.dtype, device=loc.device)
        logit = loc + scale * noise - _later(loc).log()
        return log_parts(logsigmoid(logit), logsigmoid(-logit)).exp()

    def _log_density(self, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        _, log_rest, log_left = log_sticks(value)
        log_x = value.log()
        y = log_x[..., :-1] - log_rest - log_left + _later(loc).log()
        z = (y - loc) / scale
        return (-0.5 * z * z - scale.log() - _HALF_LOG_2PI).sum(-1) - log_x.sum(-1)


def _later(like: Tensor) -> Tensor:
    """The number of later parts of each stick."""
    return torch.arange(like.shape[-1], 0, -1, dtype=like.dtype, device=like.device)
