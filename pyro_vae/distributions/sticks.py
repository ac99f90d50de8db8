"""The map from sticks to the simplex, under which independent sticks make a distribution there.

As logarithms, sticks and parts are known to all digits, however little of the stick is left.
"""

from __future__ import annotations

__all__ = ["Sticks", "log_parts", "log_sticks"]

from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.transforms import Transform


class Sticks(Transform):
    """x_k = v_k prod_{j < k} (1 - v_j), the last x what is left: break a stick K - 1 times.

    From (0, 1)^(K - 1) to the simplex of K parts, a bijection without parameters. Beta sticks
    Beta(a_k, sum_{j > k} a_j) make Dirichlet(a), sticks Beta(1, a) the (truncated) GEM
    distribution; sticks of any other kind make a distribution of their own, as
    `TransformedDistribution(Kumaraswamy(a, b).to_event(1), [Sticks()])`.

    Arguments:
        cache_size: 1 to remember the last argument and value, 0 (default) not to.

    Example:
        >>> Sticks()(torch.tensor([0.5, 0.5, 0.5]))
        tensor([0.5000, 0.2500, 0.1250, 0.1250])
    """

    domain = constraints.independent(constraints.unit_interval, 1)
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sticks)

    def __hash__(self) -> int:
        return hash(Sticks)

    def _call(self, x: Tensor) -> Tensor:
        left = (1 - x).cumprod(-1)
        one = torch.ones_like(x[..., :1])
        return torch.cat([x, one], -1) * torch.cat([one, left], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        # what is left is summed from the far end, where 1 - cumsum would cancel
        left = y.flip(-1).cumsum(-1).flip(-1)[..., :-1]
        return y[..., :-1] / left.clamp(min=torch.finfo(y.dtype).tiny)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum over k < K - 1 of log(1 - v_k) (K - 1 - k), i.e. of log of what is left."""
        count = x.shape[-1]
        later = torch.arange(count - 1, -1, -1, dtype=x.dtype, device=x.device)
        return (torch.log1p(-x) * later).sum(-1)

    def forward_shape(self, shape: Any) -> Any:
        """Return the shape of K parts for K - 1 sticks."""
        return shape[:-1] + (shape[-1] + 1,)

    def inverse_shape(self, shape: Any) -> Any:
        """Return the shape of K - 1 sticks for K parts."""
        return shape[:-1] + (shape[-1] - 1,)


def log_parts(log_stick: Tensor, log_rest: Tensor) -> Tensor:
    """Return the logarithms of the parts of a broken stick.

    Arguments:
        log_stick: log v_k, of shape `(..., K - 1)`.
        log_rest: log(1 - v_k), likewise.

    Returns:
        log x_k, of shape `(..., K)`.

    Example:
        >>> half = torch.tensor([0.5, 0.5]).log()
        >>> log_parts(half, half).exp()
        tensor([0.5000, 0.2500, 0.2500])
    """
    none, left = torch.zeros_like(log_rest[..., :1]), log_rest.cumsum(-1)
    return torch.cat([log_stick, none], -1) + torch.cat([none, left], -1)


def log_sticks(parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logarithms of the sticks that make these parts.

    Arguments:
        parts: x_k > 0, of shape `(..., K)`.

    Returns:
        log v_k, log(1 - v_k) and log of what was left before breaking off v_k, each of shape
        `(..., K - 1)`; the sum of the last is log |det dx/dv|.

    Example:
        >>> log_stick, log_rest, log_left = log_sticks(torch.tensor([0.5, 0.25, 0.25]))
        >>> log_stick.exp(), log_left.exp()
        (tensor([0.5000, 0.5000]), tensor([1.0000, 0.5000]))
    """
    # summed from the far end, where 1 - cumsum would cancel
    log_left = parts.flip(-1).cumsum(-1).flip(-1).log()
    log_left, log_next = log_left[..., :-1], log_left[..., 1:]
    log_rest = log_next - log_left
    most = log_rest < -0.7
    rest = torch.where(most, log_rest, -1.0).exp()
    log_stick = torch.where(most, torch.log1p(-rest), parts[..., :-1].log() - log_left)
    return log_stick, log_rest, log_left
