"""The truncated normal distribution, which torch and Pyro lack."""

from __future__ import annotations

__all__ = ["TruncatedNormal"]

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

from pyro_vae.distributions.truncated_gauss import (
    Moments,
    Window,
    log_mass,
    log_share,
    moments,
    quantile,
    window,
)
from pyro_vae.distributions.unit import InUnit, kept_within


class TruncatedNormal(InUnit, TorchDistribution):
    r"""A Normal(loc, scale) given that it lies in [low, high].

    log p(x) = -((x - loc) / scale)^2 / 2 - log scale - log (the integral of exp(-z^2 / 2) over
    [(low - loc) / scale, (high - loc) / scale]),  low <= x <= high.

    `loc` may lie anywhere, also far outside the interval, where the law is nearly exponential.
    Draws are quantiles of uniform noise, with exact derivatives to all four parameters.

    Arguments:
        loc: The place of the peak before truncation, real, of shape `batch_shape`.
        scale: The width before truncation, positive.
        low: The lower end.
        high: The upper end, greater than `low`.

    Raises:
        ValueError: If validation is on and `scale` is not positive, or `low` not below `high`.

    References:
        Continuous univariate distributions, volume 1 (N. L. Johnson, S. Kotz, N. Balakrishnan,
        1994)

    Example:
        >>> d = TruncatedNormal(torch.tensor([0.5, -1e6]), 1.0)
        >>> x = d.sample((100,))
        >>> bool(((0 < x) & (x < 1)).all()), d.mean
        (True, tensor([5.0000e-01, 1.0000e-06]))
    """

    arg_constraints: Any = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.real,
        "high": constraints.real,
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: Tensor | float = 0.0,
        high: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.low, self.high = broadcast_all(loc, scale, low, high)
        super().__init__(self.loc.shape, validate_args=validate_args)
        if self._validate_args and not bool((self.low < self.high).all()):
            raise ValueError("TruncatedNormal needs low < high in every element.")

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The interval [low, high]."""
        return constraints.interval(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        """E x, of shape `batch_shape`."""
        w, of = self._moments()
        return (w.place + self.scale.double() * of.mean).to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        """Var x, of shape `batch_shape`."""
        _, of = self._moments()
        return (self.scale.double().square() * of.variance).to(self.loc.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TruncatedNormal:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(TruncatedNormal, _instance)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(TruncatedNormal, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def entropy(self) -> Tensor:
        """Return -E log p(x) in nats, of shape `batch_shape`."""
        _, of = self._moments()
        return (self.scale.double().log() + of.log_mass + of.drop).to(self.loc.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value), of shape `sample_shape + batch_shape`."""
        w, of = self._moments()
        offset = (value.double() - w.place) / self.scale.double()
        share = (log_share(w, offset) - of.log_mass).exp()
        return share.to(torch.promote_types(value.dtype, self.loc.dtype))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the place below which there is a share `value`, between 0 and 1, of the mass."""
        x = self._quantile(value.double(), **self._wide())
        return x.to(torch.promote_types(value.dtype, self.loc.dtype))

    def _moments(self) -> tuple[Window, Moments]:
        w = window(**self._wide())
        return w, moments(w)

    def _quantile(
        self, share: Tensor, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor
    ) -> Tensor:
        w = window(loc, scale, low, high)
        of = quantile(w, share)
        x = w.place + scale.detach() * of.offset
        slopes = (of.by_loc, of.by_scale, of.by_low, of.by_high)
        for parameter, slope in zip((loc, scale, low, high), slopes, strict=True):
            if parameter.requires_grad:
                x = x + slope * (parameter - parameter.detach())
        return x

    def _draw(self, shape: torch.Size, **parameters: Tensor) -> Tensor:
        u = torch.rand(shape, dtype=torch.float64, device=self.loc.device)
        return self._quantile(u, **parameters)

    def _kept(self, x: Tensor) -> Tensor:
        return kept_within(x, self.low, self.high)

    def _interior(self) -> Tensor:
        return (self.low + self.high) / 2

    def _log_density(
        self, value: Tensor, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor
    ) -> Tensor:
        w = window(loc, scale, low, high)
        d = (value - w.place) / scale
        return -d * (w.mode + d / 2) - scale.log() - log_mass(w)
