"""The continuous Bernoulli as what it is: an exponential family of one parameter.

log p(x) = eta x - A(eta) on [0, 1], eta the logits and A(eta) = log((exp(eta) - 1) / eta), an
even function plus eta / 2. Everything follows from A: E x = A', Var x = A'', the distribution
function is x exp(A(eta x) - A(eta)), and draws are K(eta) / eta, K the cumulant generating
function log(1 + u (exp(eta) - 1)) of a Bernoulli of probability u. All of these are smooth at
eta = 0, where torch switches to constants: its draws have no gradient for probabilities within
0.001 of 1/2, which is where a network starts.
"""

from __future__ import annotations

__all__ = ["ContinuousBernoulli", "log_partition"]

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

from pyro_vae.distributions.unit import InUnit

# A(eta) - eta / 2 = sum_n B_2n eta^2n / (2n (2n)!), B_2n Bernoulli's numbers
_SERIES = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600, -691 / 15692092416000)
_NEAR = 0.3
_NEAR_DRAW = 0.01


class ContinuousBernoulli(InUnit, TorchDistribution):
    r"""The density proportional to exp(logits x) on [0, 1].

    log p(x) = logits x - log((exp(logits) - 1) / logits).

    For logits beyond 0 it is an exponential distribution cut off at 1, counted from 1. `probs`
    is sigmoid(logits), which is not the mean. Beside `torch.distributions.ContinuousBernoulli`
    it is the same law, right for all logits.

    Arguments:
        logits: Real, of shape `batch_shape`.

    Raises:
        ValueError: If validation is on and a logit is not finite.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (G. Loaiza-Ganem, J. P. Cunningham, 2019)

    Example:
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> ContinuousBernoulli(logits).rsample().sum().backward()
        >>> bool((logits.grad > 0).all())
        True
    """

    arg_constraints: Any = {"logits": constraints.real}
    support: Any = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor | float, validate_args: bool | None = None) -> None:
        (self.logits,) = broadcast_all(logits)
        super().__init__(self.logits.shape, validate_args=validate_args)

    @property
    def probs(self) -> Tensor:
        """sigmoid(logits), of shape `batch_shape`."""
        return self.logits.sigmoid()

    @property
    def mean(self) -> Tensor:
        """E x = A'(logits), of shape `batch_shape`."""
        return log_partition(self.logits.double(), 1).to(self.logits.dtype)

    @property
    def variance(self) -> Tensor:
        """Var x = A''(logits), of shape `batch_shape`."""
        return log_partition(self.logits.double(), 2).to(self.logits.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(ContinuousBernoulli, _instance)
        new.logits = self.logits.expand(batch_shape)
        super(ContinuousBernoulli, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def entropy(self) -> Tensor:
        """Return A(eta) - eta A'(eta) in nats, of shape `batch_shape`."""
        # that of |eta| counted from 1, where nothing cancels
        m = -self.logits.double().abs()
        return (log_partition(m) - m * log_partition(m, 1)).to(self.logits.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value), of shape `sample_shape + batch_shape`."""
        x, eta = value.double().clamp(0, 1), self.logits.double()
        log_share = log_partition(eta * x) - log_partition(eta)
        return (x * log_share.exp()).to(torch.promote_types(value.dtype, self.logits.dtype))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the place below which there is a share `value`, between 0 and 1, of the mass."""
        x = _quantile(value.double(), self.logits.double())
        return x.to(torch.promote_types(value.dtype, self.logits.dtype))

    def _draw(self, shape: torch.Size, logits: Tensor) -> Tensor:
        return _quantile(torch.rand(shape, dtype=logits.dtype, device=logits.device), logits)

    def _log_density(self, value: Tensor, logits: Tensor) -> Tensor:
        # counted from the end that holds the mass, where nothing cancels
        distance = torch.where(logits > 0, 1 - value, value)
        size = logits.abs()
        return torch.where(
            size < _NEAR,
            logits * value - log_partition(logits),
            -size * distance - log_partition(-size),
        )


def log_partition(eta: Tensor, derivative: int = 0) -> Tensor:
    """A(eta) = log((exp(eta) - 1) / eta), or its first or second derivative.

    Arguments:
        eta: The logits, in float64.
        derivative: 0, 1 (the mean) or 2 (the variance).

    Returns:
        The value, to about 1e-14 in A and A', 1e-13 in A''; differentiable everywhere.

    Example:
        >>> log_partition(torch.zeros((), dtype=torch.float64), derivative=1).item()
        0.5
    """
    near = eta.abs() < _NEAR
    # each branch is given only arguments that are its own
    s = torch.where(near, eta, torch.zeros_like(eta))
    far = torch.where(near, torch.ones_like(eta), eta)
    m, sign = far.abs(), far.sign()
    shrunk = -torch.expm1(-m)
    if derivative == 0:
        terms = [c * s ** (2 * n) for n, c in enumerate(_SERIES, 1)]
        return torch.where(near, s / 2 + sum(terms), (far + m) / 2 + shrunk.log() - m.log())
    if derivative == 1:
        terms = [2 * n * c * s ** (2 * n - 1) for n, c in enumerate(_SERIES, 1)]
        half = sign * (0.5 - 1 / m + (-m).exp() / shrunk)
        return torch.where(near, 0.5 + sum(terms), 0.5 + half)
    terms = [2 * n * (2 * n - 1) * c * s ** (2 * n - 2) for n, c in enumerate(_SERIES, 1)]
    return torch.where(near, sum(terms), 1 / m**2 - (-m).exp() / shrunk**2)


def _quantile(u: Tensor, eta: Tensor) -> Tensor:
    """log(1 + u (exp(eta) - 1)) / eta, both in float64, with its gradient to eta."""
    u, eta = torch.broadcast_tensors(u, eta)
    near = eta.abs() < _NEAR_DRAW
    small = torch.where(near, eta, 0.0)
    # the cumulants of a Bernoulli(u) by the factorials
    v = u * (1 - u)
    terms = [
        u,
        v / 2,
        v * (1 - 2 * u) / 6,
        v * (1 - 6 * v) / 24,
        v * (1 - 2 * u) * (1 - 12 * v) / 120,
        v * (1 - 30 * v + 120 * v * v) / 720,
    ]
    series = sum(term * small**n for n, term in enumerate(terms))
    # from the end that holds the mass, where the exponential is below 1
    up, size = eta > 0, torch.where(near, 1.0, eta.abs())
    share = torch.where(up, 1 - u, u)
    distance = -torch.log1p(share * torch.expm1(-size)) / size
    return torch.where(near, series, torch.where(up, 1 - distance, distance).clamp(0, 1))
