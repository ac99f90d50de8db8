"""The logit-normal distribution: a Normal seen through the logistic function."""

from __future__ import annotations

__all__ = ["LogitNormal"]

import math
from numbers import Number
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

from pyro_vae.distributions.unit import kept_within


class LogitNormal(TorchDistribution):
    r"""The distribution of sigmoid(Y) for Y ~ Normal(loc, scale).

    log p(x) = log N(logit x; loc, scale) - log x - log(1 - x),  0 < x < 1.

    Draws that would round to 0 or 1 are kept inside, where every draw has a finite density and
    a finite slope.

    Arguments:
        loc: The mean of logit x, with shape `batch_shape` (broadcast with `scale`).
        scale: The standard deviation of logit x, positive.

    Raises:
        ValueError: If validation is on and `scale` is not positive.

    References:
        Logistic-normal distributions: some properties and uses (J. Aitchison, S. M. Shen, 1980)

    Example:
        >>> x = LogitNormal(0.0, 1.0).sample((2,))
        >>> bool(((0 < x) & (x < 1)).all())
        True
    """

    arg_constraints: Any = {"loc": constraints.real, "scale": constraints.positive}
    support: Any = constraints.unit_interval
    has_rsample = True

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        scalars = isinstance(loc, Number) and isinstance(scale, Number)
        batch_shape = torch.Size() if scalars else self.loc.size()
        super().__init__(batch_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: LogitNormal | None = None) -> LogitNormal:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(LogitNormal, _instance)
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        super(LogitNormal, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, with shape `sample_shape + batch_shape`."""
        noise = torch.randn(
            self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device
        )
        x = torch.sigmoid(self.loc + self.scale * noise)
        return kept_within(x, x.new_zeros(()), 1.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        log_x, log_rest = torch.log(value), torch.log1p(-value)
        z = (log_x - log_rest - self.loc) / self.scale
        half_log_2pi = 0.5 * math.log(2 * math.pi)
        return -0.5 * z**2 - half_log_2pi - torch.log(self.scale) - log_x - log_rest
