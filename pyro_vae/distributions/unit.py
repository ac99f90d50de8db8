"""What distributions on the unit interval and the simplex share: precise scores, draws inside.

Near an end of (0, 1) a float holds 1 - x to few digits and x to all of them, a draw of
Beta(1e-3, 1e-3) is neither 0 nor 1 and yet rounds to one of them, and log-gamma functions of 1e6
cancel to nothing in float32. So a distribution here draws and scores in float64, whatever the
type of its parameters, and casts the result; a draw that the cast would put onto an end is kept
at the nearest place inside, with gradient 0. Above 0 that is `tiny / eps` rather than `tiny`, so
that slopes like concentration / x are finite as well for concentrations up to 1 / eps.
"""

from __future__ import annotations

__all__ = ["InUnit", "kept_within", "log_shrunk"]

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor


class InUnit(TorchDistributionMixin):
    """A distribution of numbers in (0, 1), one by one or as parts of a whole.

    A subclass defines `_draw(shape, **parameters)` and `_log_density(value, **parameters)`, both
    of float64 tensors; the parameters are those of its `arg_constraints`.
    """

    arg_constraints: Any
    _validate_args: Any
    _validate_sample: Any
    _extended_shape: Any

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws without a gradient, of shape `sample_shape + batch_shape + event_shape`."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, of shape `sample_shape + batch_shape + event_shape`."""
        x = self._draw(self._extended_shape(sample_shape), **self._wide())
        return self._kept(x)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, computed in float64, -inf outside the support."""
        if self._validate_args:
            self._validate_sample(value)
        inside = self.support.check(value)
        # a stand-in where there is no density, since no `where` would stop the gradient of NaN
        each = inside.reshape(inside.shape + (1,) * len(self.event_shape))
        log_density = self._log_density(
            torch.where(each, value, self._interior()).double(), **self._wide()
        )
        narrow = torch.promote_types(value.dtype, self._dtype())
        return torch.where(inside, log_density, -torch.inf).to(narrow)

    def _draw(self, shape: torch.Size, **parameters: Tensor) -> Tensor:
        raise NotImplementedError

    def _log_density(self, value: Tensor, **parameters: Tensor) -> Tensor:
        raise NotImplementedError

    def _kept(self, x: Tensor) -> Tensor:
        return kept_within(x, torch.zeros((), dtype=self._dtype(), device=x.device), 1.0)

    def _interior(self) -> Any:
        """A legal value: the middle, or equal parts."""
        return 1 / self.event_shape[-1] if self.event_shape else 0.5

    def _wide(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).double() for name in self.arg_constraints}

    def _dtype(self) -> torch.dtype:
        return getattr(self, next(iter(self.arg_constraints))).dtype


def kept_within(x: Tensor, low: Tensor, high: Tensor | float) -> Tensor:
    """Cast float64 draws and keep them strictly between two ends.

    Arguments:
        x: Draws.
        low: The lower end, of the type that is wanted.
        high: The upper end.

    Returns:
        The draws in the type of `low`, with gradient 0 where they were moved.

    Example:
        >>> ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> x = kept_within(ends, torch.tensor(0.0), 1.0)
        >>> x.dtype, bool(((0 < x) & (x < 1)).all())
        (torch.float32, True)
    """
    limits = torch.finfo(low.dtype)
    high = torch.as_tensor(high, dtype=low.dtype, device=low.device)
    gap = limits.tiny / limits.eps
    first = torch.maximum(torch.nextafter(low, high), low + gap)
    last = torch.minimum(torch.nextafter(high, low), high - gap)
    return torch.clamp(x.to(low.dtype), first.detach(), last.detach())


def log_shrunk(log_x: Tensor) -> Tensor:
    """Return log(1 - exp(-x)) of x = exp(log_x), with all digits for any size of x.

    Arguments:
        log_x: The logarithm of a positive number, in float64.

    Returns:
        The value, differentiable.

    Example:
        >>> log_shrunk(torch.tensor([-900.0, 0.0], dtype=torch.float64)).tolist()
        [-900.0, -0.458675145387...]
    """
    # each branch sees arguments of its own alone, lest another poison its gradient
    tiny, large = log_x < -36, log_x > -0.4
    inner = torch.where(tiny | large, -1.0, log_x).exp()
    # beyond exp(8) the value is 0 in any type
    outer = torch.where(large, log_x, 0.0).clamp(max=8.0).exp()
    value = torch.where(large, torch.log1p(-(-outer).exp()), (-torch.expm1(-inner)).log())
    return torch.where(tiny, log_x, value)
