"""The projected normal distribution on the sphere of any dimension.

The direction u = x / |x| of x ~ N(c, I) in R^m has, with s = c . u and the length integrated out,

    p(u) = (2 pi)^(-m / 2) exp(-|c - s u|^2 / 2) K(s),
    K(s) = int_0^inf r^(m - 1) exp(-(r - s)^2 / 2) dr.

The recurrence for K in m cancels for negative s. In log r the integrand is log-concave, with a
peak and a curvature in closed form; it falls exponentially towards r = 0 and faster on the right.
So the trapezoidal rule in t, log r = log peak + width (1 + t - exp(-t)), gives log K to rounding
for every m and every s.
"""

from __future__ import annotations

__all__ = ["ProjectedNormal", "log_radial"]

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

# beyond these ends the integrand is below e^-37 of its peak, for every m >= 2 and s
_LOW, _HIGH, _NODES = -4.6, 8.0, 71


class ProjectedNormal(TorchDistribution):
    r"""The direction of a Normal vector: u = x / |x|, x ~ N(concentration, I), m >= 2.

    Unlike Pyro's, it has a density in every dimension, to full precision in the tails as well.
    Concentration 0 is the uniform distribution. For m = 2 the variance of gradients through draws
    is infinite (as that of 1 / |x| is), though only logarithmically.

    Arguments:
        concentration: The mean c of x, with shape `(*batch_shape, m)`: its direction is the
            location of u, its length says how concentrated u is.

    Raises:
        ValueError: If `concentration` has fewer than two elements in its last dimension.

    References:
        The general projected normal distribution of arbitrary dimension: modeling and Bayesian
        inference (D. Hernandez-Stumpfhauser, F. J. Breidt, M. J. van der Woerd, 2017)

    Example:
        >>> u = ProjectedNormal(torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0])).rsample((2,))
        >>> u.shape, u.square().sum(-1).round()
        (torch.Size([2, 5]), tensor([1., 1.]))
    """

    arg_constraints: Any = {"concentration": constraints.real_vector}
    support: Any = constraints.sphere
    has_rsample = True

    def __init__(self, concentration: Tensor, validate_args: bool | None = None) -> None:
        if concentration.dim() < 1 or concentration.shape[-1] < 2:
            raise ValueError(
                "ProjectedNormal needs a concentration of shape (*batch, m) with m >= 2, not "
                f"{tuple(concentration.shape)}: with one element a direction is only a sign."
            )
        self.concentration = concentration
        shape = concentration.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: ProjectedNormal | None = None) -> Any:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(ProjectedNormal, _instance)
        new.concentration = self.concentration.expand(torch.Size([*batch_shape, -1]))
        super(ProjectedNormal, new).__init__(
            torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, with shape `sample_shape + batch_shape + (m,)`."""
        c = self.concentration
        noise = torch.randn(self._extended_shape(sample_shape), dtype=c.dtype, device=c.device)
        return _unit(c.double() + noise.double()).to(c.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        c, u = self.concentration.double(), _unit(value.double())
        s = (c * u).sum(-1)
        aside = (c - s.unsqueeze(-1) * u).square().sum(-1)
        m = self.event_shape[0]
        log_p = log_radial(s, m) - aside / 2 - m / 2 * math.log(2 * math.pi)
        return log_p.to(torch.promote_types(value.dtype, self.concentration.dtype))

    @property
    def mode(self) -> Tensor:
        """The most likely direction; that of the first axis for concentration 0."""
        return _unit(self.concentration)


def log_radial(s: Tensor, m: int) -> Tensor:
    """Log int_0^inf r^(m - 1) exp(-(r - s)^2 / 2) dr.

    Arguments:
        s: Any real numbers, float64.
        m: At least 1.

    Returns:
        The logarithm, differentiable in s.

    Example:
        >>> round(log_radial(torch.tensor(0.0, dtype=torch.float64), 2).exp().item(), 12)
        1.0
    """
    with torch.no_grad():
        # r = peak (the positive root of r (r - s) = m), without cancellation
        root = torch.hypot(s, torch.full_like(s, 2 * math.sqrt(m)))
        peak = torch.where(s > 0, (s + root) / 2, 2 * m / (root - s.clamp(max=0.0)))
        width = (peak.square() + m).rsqrt()
        t = torch.linspace(_LOW, _HIGH, _NODES, dtype=s.dtype, device=s.device)
        t = t.reshape(-1, *(1,) * s.dim())
        log_r = peak.log() + width * (1 + t - (-t).exp())
        step = (_HIGH - _LOW) / (_NODES - 1)
        log_weight = m * log_r + (width * (1 + (-t).exp())).log() + math.log(step)
        r = log_r.exp()
    return (log_weight - (r - s).square() / 2).logsumexp(0)


def _unit(x: Tensor) -> Tensor:
    """X / |x|; the vector 0, which has no direction, is taken for the first axis."""
    length = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True)
    axis = torch.zeros_like(x)
    axis[..., 0] = 1
    # scaled by a constant first, for squares may overflow
    x = torch.where(length > 0, x / torch.where(length > 0, length, 1.0), axis)
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
