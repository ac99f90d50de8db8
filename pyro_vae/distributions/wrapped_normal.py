"""The wrapped normal distribution: a Normal wound round the circle.

Its density is a theta function, and a theta function can be summed in two ways: over windings,

    p(x) = sum_k N(x + 2 pi k; loc, scale^2),

which takes few terms for small scales, or over frequencies,

    p(x) = (1 + 2 sum_n exp(-n^2 scale^2 / 2) cos(n (x - loc))) / (2 pi),

which takes few for large ones. At scale^2 = 2 pi both fall off alike, and there they are joined.
"""

from __future__ import annotations

__all__ = ["WrappedNormal"]

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

from pyro_vae.distributions.circular import circle, wrapped

# terms of either sum: the next is below 1e-20 of the whole
_WINDINGS, _FREQUENCIES = 3, 3
_JOINT = math.sqrt(2 * math.pi)


class WrappedNormal(TorchDistribution):
    r"""Angles loc + scale * noise, wound round the circle: p(x) = sum_k N(x + 2 pi k; loc, scale).

    The derivative of a draw is its motion on the circle, and so serves periodic functions of it;
    see `pyro_vae.distributions.circular`.

    Arguments:
        loc: The mean direction, any angle, with shape `batch_shape` (broadcast).
        scale: The standard deviation before winding, positive.

    Raises:
        ValueError: If validation is on and `scale` is not positive.

    References:
        Directional statistics (K. V. Mardia, P. E. Jupp, 2000)

    Example:
        >>> x = WrappedNormal(3.0, 1.0).sample((100,))
        >>> bool((x.abs() <= torch.pi).all())
        True
    """

    arg_constraints: Any = {"loc": constraints.real, "scale": constraints.positive}
    support: Any = circle
    has_rsample = True

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: WrappedNormal | None = None) -> WrappedNormal:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(WrappedNormal, _instance)
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        super(WrappedNormal, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, with shape `sample_shape + batch_shape`."""
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device).double()
        return wrapped(self.loc.double() + self.scale.double() * noise, self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        away = wrapped(value.double() - self.loc.double())
        scale = self.scale.double()
        narrow = scale < _JOINT
        log_p = torch.where(
            narrow,
            _over_windings(away, torch.where(narrow, scale, 1.0)),
            _over_frequencies(away, torch.where(narrow, _JOINT, scale)),
        )
        return log_p.to(torch.promote_types(value.dtype, self.loc.dtype))

    @property
    def mean(self) -> Tensor:
        """The mean direction, an angle."""
        return wrapped(self.loc)

    @property
    def variance(self) -> Tensor:
        """The circular variance, 1 - E cos(x - loc) = 1 - exp(-scale^2 / 2)."""
        return -torch.expm1(-self.scale.square() / 2)


def _over_windings(away: Tensor, scale: Tensor) -> Tensor:
    windings = torch.arange(-_WINDINGS, _WINDINGS + 1, dtype=away.dtype, device=away.device)
    z = (away.unsqueeze(-1) + 2 * math.pi * windings) / scale.unsqueeze(-1)
    return (-z.square() / 2).logsumexp(-1) - scale.log() - 0.5 * math.log(2 * math.pi)


def _over_frequencies(away: Tensor, scale: Tensor) -> Tensor:
    n = torch.arange(1, _FREQUENCIES + 1, dtype=away.dtype, device=away.device)
    fall = (-(n * scale.unsqueeze(-1)).square() / 2).exp()
    waves = (fall * (n * away.unsqueeze(-1)).cos()).sum(-1)
    return torch.log1p(2 * waves) - math.log(2 * math.pi)
