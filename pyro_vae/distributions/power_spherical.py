"""The power spherical distribution on the sphere of any dimension."""

from __future__ import annotations

__all__ = ["PowerSpherical"]

import math

import torch
from torch import Tensor

from pyro_vae.distributions.axial import Axial, log_area
from pyro_vae.distributions.heights import Heights


class PowerSpherical(Axial):
    r"""The power spherical distribution on the unit sphere of R^m, m >= 2.

    log p(x) = k log(1 + mu . x) + log N(k),
    log N(k) = log Gamma(a + b) - log Gamma(b) - (a + b) log 2 - a log pi,

    with mu = `loc`, k = `concentration`, a = (m - 1) / 2 and b = a + k. The law of
    (1 + mu . x) / 2 is Beta(b, a).

    Draws are reparameterised: that law is inverted (`pyro_vae.distributions.heights`) with its
    exact derivative, in terms of 1 - mu . x, so that float32 keeps its digits for large k.

    Arguments:
        loc: The mean direction, unit vectors of shape `(*batch_shape, m)`.
        concentration: Not negative, of shape `batch_shape` (broadcast with `loc`); 0 is uniform.

    Raises:
        ValueError: If the shapes do not broadcast or m < 2, and, if validation is on, if `loc` is
            not of unit length or `concentration` is negative.

    References:
        The power spherical distribution (N. De Cao, W. Aziz, 2020)

    Example:
        >>> d = PowerSpherical(torch.tensor([0.0, 0.6, 0.8]), torch.tensor(2.0))
        >>> d.rsample((5,)).shape
        torch.Size([5, 3])
        >>> d.mean  # (b - a) / (b + a) mu
        tensor([0.0000, 0.3000, 0.4000])
    """

    _tilted = False

    def heights(self, concentration: Tensor | None = None) -> Heights:
        """The law of h = (1 - mu . x) / 2, Beta(a, a + k)."""
        k = self.concentration if concentration is None else concentration
        return Heights(self.event_shape[0], power=k.double())

    def powers(self) -> tuple[float, Tensor]:
        """The powers a and b = a + k, in float64."""
        a = (self.event_shape[0] - 1) / 2
        return a, a + self.concentration.double()

    def cosine_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of mu . x, in float64, of shape `batch_shape`."""
        a, b = self.powers()
        return (b - a) / (a + b), 4 * a * b / ((a + b).square() * (a + b + 1))

    def log_normalizer(self) -> Tensor:
        """Log N(k), in float64, of shape `batch_shape`."""
        a, b = self.powers()
        gammas = torch.lgamma(a + b) - torch.lgamma(b)
        return gammas - (a + b) * math.log(2) - a * math.log(math.pi)

    def log_top(self) -> Tensor:
        """The log density at mu, in float64, of shape `batch_shape`."""
        a, b = self.powers()
        ratio = torch.lgamma(a + b) - torch.lgamma(b) - math.lgamma(2 * a) + math.lgamma(a)
        return ratio - log_area(self.event_shape[0])

    def mean_log(self) -> Tensor:
        """E log((1 + mu . x) / 2), in float64, of shape `batch_shape`."""
        a, b = self.powers()
        return _digamma(b) - _digamma(a + b)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        # log((1 + mu . x) / 2), which keeps its digits on both sides: 1 - |x - mu|^2 / 4 near mu,
        # |x + mu|^2 / 4 opposite, where a point that rounds to -mu counts as the nearest float
        near = (value - self.loc).square().sum(-1).double() / 4
        tiny = torch.finfo(value.dtype).eps ** 2
        far = (value + self.loc).square().sum(-1).double().clamp(min=tiny) / 4
        kernel = torch.where(near < 0.5, torch.log1p(-near.clamp(max=0.5)), far.log())
        return (self.log_top() + self.concentration.double() * kernel).to(value.dtype)

    def entropy(self) -> Tensor:
        """Return -E log p in nats, of shape `batch_shape`."""
        fall = self.concentration.double() * self.mean_log()
        return (-self.log_top() - fall).to(self.loc.dtype)


def _digamma(x: Tensor) -> Tensor:
    """The digamma function with a derivative to full precision, which torch's has not."""
    shift = 12
    r = (x + shift).reciprocal()
    r2 = r * r
    # Bernoulli numbers over 2 k
    tail = r2 * (1 / 12 - r2 * (1 / 120 - r2 * (1 / 252 - r2 * (1 / 240 - r2 / 132))))
    return -r.log() - r / 2 - tail - sum((x + n).reciprocal() for n in range(shift))
