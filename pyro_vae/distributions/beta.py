"""Beta and Dirichlet at any concentration: torch's laws, drawn as logarithms of Gammas.

With G_k ~ Gamma(a_k, 1) independent, G_1 / (G_1 + G_2) is a Beta(a_1, a_2), and the shares of K
of them are a Dirichlet. The logarithms of the G_k do not underflow, however small a_k. In float32
some of torch's draws of Beta(1e6, 1e-2) have gradients that are NaN, and its density of a
Dirichlet of ten concentrations of 1e6 is off by 15 nats; here both are computed in float64.
"""

from __future__ import annotations

__all__ = ["Beta", "Dirichlet"]

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.unit import InUnit
from pyro_vae.distributions.wide import log_gamma_draw


class _Inside(constraints.interval):
    """The open unit interval, for data: at its ends densities are 0 or infinite."""

    description = "unit interval without its ends"

    def check(self, value: Tensor) -> Tensor:
        return (value > self.lower_bound) & (value < self.upper_bound)


class Beta(InUnit, dist.Beta):
    r"""The Beta distribution on (0, 1), with draws strictly inside.

    log p(x) = (a - 1) log x + (b - 1) log(1 - x) - log B(a, b),
    with a = concentration1 and b = concentration0.

    Arguments:
        concentration1: a, positive, of shape `batch_shape` (broadcast with `concentration0`).
        concentration0: b, positive.

    Raises:
        ValueError: If validation is on and a concentration is not positive.

    Example:
        >>> x = Beta(torch.tensor(1e-3), 1e-3).sample((100,))
        >>> bool(((0 < x) & (x < 1)).all())
        True
    """

    data_support: Any = _Inside(0.0, 1.0)

    def _draw(self, shape: torch.Size, concentration1: Tensor, concentration0: Tensor) -> Tensor:
        logit = log_gamma_draw(concentration1, shape) - log_gamma_draw(concentration0, shape)
        return logit.sigmoid()

    def _log_density(
        self, value: Tensor, concentration1: Tensor, concentration0: Tensor
    ) -> Tensor:
        a, b = concentration1, concentration0
        log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
        return torch.xlogy(a - 1, value) + torch.special.xlog1py(b - 1, -value) - log_beta


class Dirichlet(InUnit, dist.Dirichlet):
    r"""The Dirichlet distribution on the simplex, with draws off its faces.

    log p(x) = sum_k (a_k - 1) log x_k - sum_k log Gamma(a_k) + log Gamma(sum_k a_k),
    with a = concentration.

    Arguments:
        concentration: a, positive, of shape `(*batch_shape, K)`.

    Raises:
        ValueError: If `concentration` is a number or, validation being on, not positive.

    Example:
        >>> x = Dirichlet(torch.full((9,), 1e-3)).sample((100,))
        >>> bool(((0 < x) & (x < 1)).all())
        True
    """

    def _draw(self, shape: torch.Size, concentration: Tensor) -> Tensor:
        return log_gamma_draw(concentration, shape).softmax(-1)

    def _log_density(self, value: Tensor, concentration: Tensor) -> Tensor:
        constant = torch.lgamma(concentration.sum(-1)) - torch.lgamma(concentration).sum(-1)
        return torch.xlogy(concentration - 1, value).sum(-1) + constant
