"""The von Mises-Fisher distribution on the sphere of any dimension."""

from __future__ import annotations

__all__ = ["VonMisesFisher"]

import torch
from torch import Tensor

from pyro_vae.distributions.axial import Axial, log_area
from pyro_vae.distributions.heights import Heights


class VonMisesFisher(Axial):
    r"""The von Mises-Fisher distribution on the unit sphere of R^m, m >= 2.

    log p(x) = k mu . x + log C(k),
    log C(k) = (m / 2 - 1) log k - (m / 2) log(2 pi) - log I_(m / 2 - 1)(k),

    with mu = `loc` and k = `concentration`. E[mu . x] = A(k) = I_(m / 2)(k) / I_(m / 2 - 1)(k).

    Draws are reparameterised: the marginal of mu . x is inverted with its exact derivative
    (`pyro_vae.distributions.heights`), to 2e-7 in probability, and to 2e-6 for parameters in
    float32, without rejection, loops that depend on data, or a way through the host. No Bessel
    function is evaluated: C and its derivatives come from a quadrature over the angle in float64,
    and cannot underflow.

    Arguments:
        loc: The mean direction, unit vectors of shape `(*batch_shape, m)`.
        concentration: Not negative, of shape `batch_shape` (broadcast with `loc`); 0 is uniform.

    Raises:
        ValueError: If the shapes do not broadcast or m < 2, and, if validation is on, if `loc` is
            not of unit length or `concentration` is negative.

    References:
        Directional statistics (K. V. Mardia, P. E. Jupp, 2000); Hyperspherical variational
        auto-encoders (T. R. Davidson, L. Falorsi, N. De Cao, T. Kipf, J. M. Tomczak, 2018)

    Example:
        >>> loc = torch.tensor([0.0, 0.6, 0.8])
        >>> d = VonMisesFisher(loc, torch.tensor([1.0, 100.0]))
        >>> d.batch_shape, d.event_shape, d.rsample((5,)).shape
        (torch.Size([2]), torch.Size([3]), torch.Size([5, 2, 3]))
        >>> d.mean[1]  # in three dimensions A(k) = coth(k) - 1 / k
        tensor([0.0000, 0.5940, 0.7920])
    """

    _tilted = True

    def heights(self, concentration: Tensor | None = None) -> Heights:
        """The law of h = (1 - mu . x) / 2, proportional to (h (1 - h))^(a - 1) exp(-2 k h)."""
        k = self.concentration if concentration is None else concentration
        return Heights(self.event_shape[0], slope=2 * k.double().clamp(min=1e-12))

    def log_top(self) -> Tensor:
        """The log density at mu, log C(k) + k, in float64, of shape `batch_shape`."""
        m = self.event_shape[0]
        # against the uniform law: the mean of exp(-2 k h) over the sphere
        log_beta = 2 * torch.lgamma(torch.tensor((m - 1) / 2, dtype=torch.float64)) - torch.lgamma(
            torch.tensor(m - 1.0, dtype=torch.float64)
        )
        return log_beta.item() - log_area(m) - self.heights().rule().log_mass()

    def log_normalizer(self) -> Tensor:
        """Log C(k), in float64, of shape `batch_shape`."""
        return self.log_top() - self.concentration.double()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        # k (mu . x - 1), which keeps its digits where x is near mu
        chord = (value - self.loc).square().sum(-1).double()
        return (self.log_top() - self.concentration.double() / 2 * chord).to(value.dtype)

    def entropy(self) -> Tensor:
        """Return -E log p in nats, of shape `batch_shape`."""
        rule = self.heights().rule()
        fall = 2 * self.concentration.double() * rule.mean(rule.h)
        return (fall - self.log_top()).to(self.loc.dtype)
