"""A logistic variable that is only seen to fall between two marks: grey levels, ordered classes.

The mass between marks a < b, in units of the scale from the location, is

    s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)),    s(t) = 1 / (1 + exp(-t)),

so that its logarithm is a sum of three terms without any difference of nearly equal numbers: no
value is 0 that should not be, far out on either side, and no gradient NaN. At the ends, where a or
b is infinite, two of the three vanish: the first and the last class hold the tails.
"""

from __future__ import annotations

__all__ = ["DiscretizedLogistic", "OrderedLogistic"]

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.wide import OnIntegers


class _Marked(OnIntegers, TorchDistribution):
    """Whole numbers 0 ... K, with moments by how likely it is to lie beyond each."""

    @property
    def mean(self) -> Tensor:
        """The mean number, the sum over k of P(x > k), of shape `batch_shape`."""
        return self._beyond().sum(-1).to(self._dtype())

    @property
    def variance(self) -> Tensor:
        """The variance of the number, of shape `batch_shape`."""
        beyond = self._beyond()
        odd = 2 * torch.arange(beyond.shape[-1], dtype=beyond.dtype, device=beyond.device) + 1
        return ((odd * beyond).sum(-1) - beyond.sum(-1).square()).to(self._dtype())

    def _beyond(self) -> Tensor:
        """P(x > k) for k = 0 ... K - 1, in a last dimension."""
        raise NotImplementedError


class DiscretizedLogistic(_Marked):
    r"""Grey levels 0 ... L - 1: a logistic variable, rounded to the nearest level.

    p(x) = s((x + 1/2 - m) / t) - s((x - 1/2 - m) / t),  m = (L - 1) loc, t = (L - 1) scale,

    with s the logistic function, the first level taking all that lies below it and the last all
    that lies above. `loc` and `scale` are in units of the range: 0 is black and 1 is white, so
    that networks predict numbers of the size of 1.

    Arguments:
        loc: The location, real, of shape `batch_shape` (broadcast with `scale`).
        scale: The scale, positive.
        levels: L, at least 2.

    Raises:
        ValueError: If there are fewer than two levels, or if validation is on and a parameter
            lies outside its range.

    References:
        PixelCNN++: improving the PixelCNN with discretized logistic mixture likelihood and other
        modifications (T. Salimans, A. Karpathy, X. Chen, D. P. Kingma, 2017)

    Example:
        >>> d = DiscretizedLogistic(torch.tensor(0.5), torch.tensor(0.1))
        >>> bool((d.log_prob(torch.arange(256.0)).exp().sum() - 1).abs() < 1e-6)
        True
    """

    arg_constraints: Any = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        levels: int = 256,
        validate_args: bool | None = None,
    ) -> None:
        if levels < 2:
            raise ValueError(f"levels must be at least 2, black and white, not {levels}.")
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The whole numbers 0 ... levels - 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        """Return the same distribution over a larger batch shape."""
        new = super().expand(batch_shape, _instance)
        new.levels = self.levels
        return new

    def _beyond(self) -> Tensor:
        """P(x > k) for k = 0 ... levels - 2, in a last dimension."""
        wide = {name: value.unsqueeze(-1) for name, value in self._wide().items()}
        k = torch.arange(self.levels - 1, dtype=torch.float64, device=self.loc.device)
        return (-_standard((k + 0.5) / (self.levels - 1), **wide)).sigmoid()

    def _draw(self, shape: torch.Size, loc: Tensor, scale: Tensor) -> Tensor:
        top = self.levels - 1
        return ((loc + scale * _logistic(shape, loc)) * top).round().clamp(0, top)

    def _log_density(self, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        top = self.levels - 1
        below, above = ((value + half) / top for half in (-0.5, 0.5))
        width = 1 / (top * scale)
        return _log_mass(
            _standard(below, loc, scale),
            _standard(above, loc, scale),
            width,
            value == 0,
            value == top,
        )


class OrderedLogistic(_Marked):
    r"""Ordered classes 0 ... K - 1: where a logistic variable falls among K - 1 cutpoints.

    P(x <= k) = s(c_k - predictor),  s the logistic function, c_0 < ... < c_(K - 2) the cutpoints.

    The same law as `pyro.distributions.OrderedLogistic` where the latter can be computed: classes
    whose probability is too small for a float keep a finite log mass with a gradient.

    Arguments:
        predictor: The location of the variable, real, of shape `batch_shape`.
        cutpoints: Increasing, of shape `(*batch_shape, K - 1)` (broadcast with `predictor`).

    Raises:
        ValueError: If validation is on and cutpoints do not increase.

    References:
        Regression models for ordinal data (P. McCullagh, 1980)

    Example:
        >>> d = OrderedLogistic(torch.tensor(0.0), torch.tensor([-1.0, 1.0]))
        >>> d.log_prob(torch.arange(3.0)).exp()
        tensor([0.2689, 0.4621, 0.2689])
    """

    arg_constraints: Any = {
        "predictor": constraints.real,
        "cutpoints": constraints.ordered_vector,
    }

    def __init__(
        self,
        predictor: Tensor | float,
        cutpoints: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        predictor = torch.as_tensor(predictor, dtype=cutpoints.dtype, device=cutpoints.device)
        batch_shape = torch.broadcast_shapes(predictor.shape, cutpoints.shape[:-1])
        self.predictor = predictor.expand(batch_shape)
        self.cutpoints = cutpoints.expand(batch_shape + cutpoints.shape[-1:])
        super().__init__(batch_shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The whole numbers 0 ... K - 1."""
        return constraints.integer_interval(0, self.cutpoints.shape[-1])

    @property
    def probs(self) -> Tensor:
        """The probability of each class, of shape `(*batch_shape, K)`."""
        k = torch.arange(self.cutpoints.shape[-1] + 1, device=self.predictor.device)
        return self.log_prob(k.reshape(-1, *[1] * self.predictor.dim())).exp().movedim(0, -1)

    def _beyond(self) -> Tensor:
        """P(x > k) for k = 0 ... K - 2, in a last dimension."""
        return (self.predictor.double().unsqueeze(-1) - self.cutpoints.double()).sigmoid()

    def _draw(self, shape: torch.Size, predictor: Tensor, cutpoints: Tensor) -> Tensor:
        y = predictor + _logistic(shape, predictor)
        return (y.unsqueeze(-1) > cutpoints).sum(-1)

    def _log_density(self, value: Tensor, predictor: Tensor, cutpoints: Tensor) -> Tensor:
        top = cutpoints.shape[-1]
        shape = torch.broadcast_shapes(value.shape, predictor.shape)
        cutpoints = cutpoints.expand(*shape, top)
        k = value.long().expand(shape).unsqueeze(-1)
        # of the first and the last class one cutpoint is infinite, and any other stands for it
        below = cutpoints.gather(-1, (k - 1).clamp(min=0)).squeeze(-1)
        above = cutpoints.gather(-1, k.clamp(max=top - 1)).squeeze(-1)
        first, last = (value == 0).expand(shape), (value == top).expand(shape)
        width = torch.where(first | last, 1.0, above - below)
        return _log_mass(below - predictor, above - predictor, width, first, last)


def _standard(mark: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return (mark - loc) / scale


def _log_mass(below: Tensor, above: Tensor, width: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """log[s(above) - s(below)] with width = above - below, but tails in the first and last."""
    between = torch.log(-torch.expm1(-width))
    return (
        torch.where(last, 0.0, logsigmoid(above))
        + torch.where(first, 0.0, logsigmoid(-below))
        + torch.where(first | last, 0.0, between)
    )


def _logistic(shape: torch.Size, like: Tensor) -> Tensor:
    """Standard logistic draws, finite."""
    u = torch.rand(shape, dtype=like.dtype, device=like.device)
    return torch.logit(u, eps=torch.finfo(like.dtype).eps / 4)
