"""What torch's elementwise distributions lack at extreme parameters, said once for all of them.

In float32 the log-gamma function of 1e6 is wrong by half a nat, Gamma(1e-3) draws numbers that
no float can hold, and the derivative of 1 / x overflows where x does not. Here a distribution
draws and scores in float64, whatever the type of its parameters, and casts the result; what the
cast could not hold is kept at the edge of what it can, with gradient 0:

* positive draws are made as logarithms and kept within [least, edge];
* draws on the line are kept within `edge` of their location;
* so are the exponentials in a log density (exp(1000) for a Gumbel),

where least = tiny / eps and edge = sqrt(max) / 2, of the smallest normal and the largest number of
the parameters' type and its precision (1e-31 and 9e18 in float32), so that reciprocals, squares
and their gradients stay finite. That changes a distribution only where floats cannot follow it.
"""

from __future__ import annotations

__all__ = [
    "OnHalfLine",
    "OnIntegers",
    "OnLine",
    "capped_exp",
    "exponential",
    "kept",
    "log1p_square",
    "log_gamma_draw",
]

import math
from typing import Any

import torch
import torch.distributions as td
from torch import Tensor


class _Wide:
    """Scores in float64; stands before a class of torch's whose `arg_constraints` name all."""

    __init__: Any
    arg_constraints: Any
    support: Any
    _validate_args: Any
    _validate_sample: Any
    _extended_shape: Any

    def _wide(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).double() for name in self.arg_constraints}

    def _dtype(self) -> torch.dtype:
        return getattr(self, next(iter(self.arg_constraints))).dtype

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, with shape `sample_shape + batch_shape`."""
        raise NotImplementedError

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return the same draws without gradient; a transformed distribution has its own way."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, computed in float64, -inf outside the support."""
        if self._validate_args:
            self._validate_sample(value)
        inside = self.support.check(value)
        # a stand-in where there is no density, since no `where` would stop the gradient of NaN
        legal = torch.where(inside, value, 1.0).double()
        log_density = self._log_density(legal, **self._wide())
        narrow = torch.promote_types(value.dtype, self._dtype())
        return torch.where(inside, log_density, -math.inf).to(narrow)

    def _log_density(self, value: Tensor, **parameters: Tensor) -> Tensor:
        raise NotImplementedError


class OnIntegers(_Wide):
    """A distribution of whole numbers, whose draws have no gradient.

    A subclass defines `_draw(shape, **parameters)` and `_log_density(value, **parameters)`, both
    of float64 tensors; parameters have the batch shape, or that and dimensions of their own that
    `arg_constraints` tell of.
    """

    has_rsample = False
    _get_checked_instance: Any

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, as floats of the type of the parameters."""
        with torch.no_grad():
            draws = self._draw(self._extended_shape(sample_shape), **self._wide())
            return draws.to(self._dtype())

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the same distribution over a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        for name, constraint in self.arg_constraints.items():
            value = getattr(self, name)
            own = value.shape[value.dim() - constraint.event_dim :]
            setattr(new, name, value.expand(batch_shape + own))
        td.Distribution.__init__(new, batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _draw(self, shape: torch.Size, **parameters: Tensor) -> Tensor:
        raise NotImplementedError


class OnHalfLine(_Wide):
    """A distribution of positive numbers, which states the logarithm of its draws.

    A subclass defines `_log_draw(shape, **parameters)` and `_log_density(value, **parameters)`,
    both of float64 tensors.
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws within [least, edge]."""
        log_x = self._log_draw(self._extended_shape(sample_shape), **self._wide())
        limits = torch.finfo(self._dtype())
        least = math.log(limits.tiny / limits.eps)
        return capped_exp(log_x.clamp(min=least), self._dtype()).to(self._dtype())

    def _log_draw(self, shape: torch.Size, **parameters: Tensor) -> Tensor:
        raise NotImplementedError


class OnLine(_Wide):
    """A distribution of loc + scale z on the line, which states its standard draws z.

    A subclass defines `_standard_draw(shape, **parameters)` and
    `_log_density(value, **parameters)`, both of float64 tensors.
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws within `edge` of `loc`."""
        parameters = self._wide()
        z = self._standard_draw(self._extended_shape(sample_shape), **parameters)
        return (parameters["loc"] + kept(parameters["scale"] * z, self._dtype())).to(self._dtype())

    def _standard_draw(self, shape: torch.Size, **parameters: Tensor) -> Tensor:
        raise NotImplementedError


def kept(deviation: Tensor, dtype: torch.dtype) -> Tensor:
    """Keep deviations from a location where their squares are finite in a type.

    Arguments:
        deviation: A float64 tensor.
        dtype: The type it will be cast to.

    Returns:
        The deviations within +-edge, with gradient 0 where they were beyond.

    Example:
        >>> kept(torch.tensor([1.0, -1e30], dtype=torch.float64), torch.float32).tolist()[0]
        1.0
    """
    return deviation.clamp(-_edge(dtype), _edge(dtype))


def capped_exp(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return exp(y) where it is finite in a type, and so is its square.

    Arguments:
        y: A float64 tensor.
        dtype: The type it will be cast to.

    Returns:
        The exponentials up to edge, with gradient 0 where they were beyond.

    Example:
        >>> capped_exp(torch.tensor([0.0, 1e9], dtype=torch.float64), torch.float32).isfinite()
        tensor([True, True])
    """
    return y.clamp(max=math.log(_edge(dtype))).exp()


def _edge(dtype: torch.dtype) -> float:
    return math.sqrt(torch.finfo(dtype).max) / 2


def exponential(shape: torch.Size, like: Tensor) -> Tensor:
    """Return standard exponential noise that is never 0.

    Arguments:
        shape: The shape of the draws.
        like: A tensor of their type and device.

    Returns:
        Positive numbers, without gradient.

    Example:
        >>> bool((exponential(torch.Size([9]), torch.zeros(())) > 0).all())
        True
    """
    return like.new_empty(shape).exponential_().clamp(min=torch.finfo(like.dtype).tiny)


def log_gamma_draw(concentration: Tensor, shape: torch.Size) -> Tensor:
    """Return log G, G ~ Gamma(concentration, 1), reparameterised.

    Below 1 as log G' + log(U) / a for G' ~ Gamma(a + 1), U uniform: neither the draw nor its
    gradient underflows, however small the concentration a.

    Arguments:
        concentration: Positive, float64.
        shape: The shape of the draws.

    Returns:
        The logarithms, with gradient to `concentration`.

    References:
        A simple method for generating gamma variables (G. Marsaglia, W. W. Tsang, 2000)

    Example:
        >>> a = torch.tensor(1e-3, dtype=torch.float64)
        >>> bool(log_gamma_draw(a, torch.Size([1000])).isfinite().all())
        True
    """
    a = concentration.expand(shape)
    small = a < 1
    boost = -exponential(shape, a) / a
    gamma = td.Gamma(a + small, torch.ones_like(a), validate_args=False).rsample()
    return gamma.log() + torch.where(small, boost, 0.0)


def log1p_square(z: Tensor) -> Tensor:
    """Return log(1 + z^2) for any z whose square may overflow.

    Arguments:
        z: A tensor.

    Returns:
        A tensor of the same shape.

    Example:
        >>> log1p_square(torch.tensor(1e30)).item() == 2 * torch.tensor(1e30).log().item()
        True
    """
    large = z.abs() > 1
    inner, outer = torch.where(large, 0.0, z), torch.where(large, z, 1.0)
    far = 2 * outer.abs().log() + torch.log1p(outer.reciprocal().square())
    return torch.where(large, far, torch.log1p(inner.square()))
