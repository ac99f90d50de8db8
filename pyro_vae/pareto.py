"""Pareto-smoothed importance sampling, and the tail index k, for many columns at once.

The largest values of S draws beyond a threshold follow a generalised Pareto distribution, whose
shape k says which moments exist: those of order below 1 / k. For importance weights k < 1/2 means
a finite variance, and up to about 0.7 smoothed weights remain useful. For f = log q - log p drawn
from q itself, KL(q || p) is finite iff k < 1, and the Monte Carlo estimate has a finite variance
iff k < 1/2.

The tail is the largest M = ceil(min(S / 5, 3 sqrt(S))) draws; the shape is the estimate of
Zhang and Stephens, shrunk towards 1/2 as by ten observations, (M k + 5) / (M + 10).

Sources: Pareto smoothed importance sampling (A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry,
2024); A new and efficient estimation method for the generalized Pareto distribution (J. Zhang,
M. A. Stephens, 2009).
"""

from __future__ import annotations

__all__ = ["MIN_DRAWS", "PSIS", "Status", "psis", "tail_index"]

import enum
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MIN_DRAWS = 25
"""Fewer draws than these have no k."""

_MIN_TAIL = 5
_CHUNK_BYTES = 2**24


class Status(enum.IntEnum):
    """What became of a column's fit, the meaning of the codes in `PSIS.status`."""

    OK = 0
    """k was fitted."""
    CONSTANT = 1
    """The largest values are all equal: there is no tail, and k is -inf."""
    NONFINITE = 2
    """NaN or +inf among the values, or nothing but -inf: k is NaN."""
    TOO_FEW = 3
    """Too few draws for a tail of five: k is NaN."""
    DEGENERATE = 4
    """At most four weights are not negligible: k is +inf."""


class PSIS(NamedTuple):
    """Smoothed weights and the diagnosis of each column.

    Arguments:
        log_weights: Smoothed log weights, normalised to sum to 1 along `dim`, in float64, of the
            shape given (NaN in columns with `Status.NONFINITE`).
        k: The shape of the tail of the weights, without `dim`, in float64.
        status: `Status` codes as uint8, without `dim`.
        log_mean: The logarithm of the mean of the smoothed weights before they are normalised,
            without `dim`, in float64 (NaN in columns with `Status.NONFINITE`).
    """

    log_weights: Tensor
    k: Tensor
    status: Tensor
    log_mean: Tensor


def psis(log_weights: Tensor, dim: int = 0) -> PSIS:
    """Smooth the largest weights of each column by the fitted tail, and diagnose it.

    The M largest weights exp(l) become the expected order statistics of the generalised Pareto
    distribution fitted to them, F^-1((j - 1/2) / M), truncated at the largest raw weight.

    Arguments:
        log_weights: Logarithms of importance ratios, any shape; -inf is a weight of 0.
        dim: The dimension of the S draws.

    Returns:
        Smoothed normalised log weights, k, status and log mean; detached from any graph.

    Raises:
        ValueError: If there are no draws, or the values are not floating-point numbers.

    Example:
        >>> result = psis(torch.linspace(-1.0, 1.0, 1000))
        >>> round(result.log_weights.exp().sum().item(), 6), bool(result.k < 0.5)
        (1.0, True)
    """
    columns, shape = _columns(log_weights, dim)
    parts = [_psis(part) for part in columns.split(_chunk(columns.shape[-1]))]
    smoothed, *fields = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
    # the draws go back to where they were
    back = smoothed.reshape(*shape, columns.shape[-1]).movedim(-1, dim)
    k, status, log_mean = (field.reshape(shape) for field in fields)
    return PSIS(back, k, status, log_mean)


def tail_index(values: Tensor, dim: int = 0) -> Tensor:
    """The shape k of the upper tail of values themselves, E |x|^r < inf iff r < 1 / k.

    Arguments:
        values: Draws, any shape; -inf is harmless.
        dim: The dimension of the S draws.

    Returns:
        k in float64, without `dim`: -inf for a constant tail, NaN for NaN or +inf among the
        values and for fewer than 25 draws.

    Raises:
        ValueError: If there are no draws, or the values are not floating-point numbers.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> cauchy = torch.distributions.Cauchy(0.0, 1.0).sample((100_000,))
        >>> bool(0.8 < tail_index(cauchy) < 1.2)
        True
    """
    columns, shape = _columns(values, dim)
    parts = [_tail_index(part) for part in columns.split(_chunk(columns.shape[-1]))]
    return torch.cat(parts).reshape(shape)


# ---------------------------------------------------------------------------- a chunk of columns
def _psis(columns: Tensor) -> PSIS:
    """Smoothed weights, k and status of columns (one per row)."""
    x, peak = _shifted(columns)
    # weights that underflow beside the largest are no tail
    tail = _tail_of(x, math.log(torch.finfo(x.dtype).tiny))
    k, status = torch.full_like(peak, torch.nan), tail.status(peak)
    for size in tail.sizes(status):
        rows = _all_or_some((tail.count == size) & (status == Status.OK))
        floor = tail.threshold[rows].exp().unsqueeze(-1)
        k[rows], scale = _fit(tail.values[rows, :size].exp().flip(-1) - floor)
        order = (torch.arange(size, dtype=x.dtype, device=x.device) + 0.5) / size
        smoothed = (_quantile(order, k[rows], scale) + floor).log().clamp(max=0).flip(-1)
        # a failed fit leaves the weights as they are
        smoothed = torch.where(smoothed.isfinite(), smoothed, tail.values[rows, :size])
        x[rows] = x[rows].scatter(-1, tail.index[rows, :size], smoothed)
    k = torch.where(status == Status.CONSTANT, -torch.inf, k)
    k = torch.where(status == Status.DEGENERATE, torch.inf, k)
    x[~peak.isfinite()] = torch.nan
    total = x.logsumexp(-1)
    return PSIS(x - total.unsqueeze(-1), k, status, total + peak - math.log(x.shape[-1]))


def _tail_index(columns: Tensor) -> Tensor:
    """Tail indices of the values of columns (one per row)."""
    x, peak = _shifted(columns)
    tail = _tail_of(x, -math.inf)
    k, status = torch.full_like(peak, torch.nan), tail.status(peak)
    for size in tail.sizes(status):
        rows = _all_or_some((tail.count == size) & (status == Status.OK))
        excess = tail.values[rows, :size].flip(-1) - tail.threshold[rows].unsqueeze(-1)
        k[rows], _ = _fit(excess)
    k = torch.where(status == Status.CONSTANT, -torch.inf, k)
    return torch.where(status == Status.DEGENERATE, torch.inf, k)


class _Tail(NamedTuple):
    """The largest values of each row, in falling order, and the threshold that they exceed."""

    values: Tensor
    index: Tensor
    threshold: Tensor
    count: Tensor
    draws: int

    def status(self, peak: Tensor) -> Tensor:
        """The status of each row before any fit."""
        status = torch.full_like(self.count, Status.OK, dtype=torch.uint8)
        status[self.count < _MIN_TAIL] = Status.DEGENERATE
        if self.draws < MIN_DRAWS:
            status[:] = Status.TOO_FEW
        # all values beyond the threshold equal it
        status[self.threshold == 0] = Status.CONSTANT
        if self.draws < _MIN_TAIL:
            status[:] = Status.TOO_FEW  # that so few are equal says nothing
        status[~peak.isfinite()] = Status.NONFINITE
        return status

    def sizes(self, status: Tensor) -> list[int]:
        """The different lengths of tails to be fitted: one, unless there are ties."""
        return self.count[status == Status.OK].unique().tolist()


def _tail_of(x: Tensor, lowest: float) -> _Tail:
    """Cut off the tail of each row: at most M values, those above the next largest."""
    size = math.ceil(min(x.shape[-1] / 5, 3 * math.sqrt(x.shape[-1])))
    values, index = _largest(x, min(size + 1, x.shape[-1]))
    threshold = values[:, -1].clamp(min=lowest)
    count = (values > threshold.unsqueeze(-1)).sum(-1)
    return _Tail(values, index, threshold, count, x.shape[-1])


def _largest(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest values of each row in falling order, and where they stand."""
    if x.device.type != "cpu":
        top = x.topk(count)
        return top.values, top.indices
    # NumPy selects by vector instructions, twice as fast as torch
    array = x.numpy()
    index = np.argpartition(array, array.shape[-1] - count)[:, array.shape[-1] - count :]
    values = np.take_along_axis(array, index, -1)
    order = np.argsort(-values)
    found = (np.take_along_axis(a, order, -1) for a in (values, index))
    first, second = map(torch.from_numpy, found)
    return first, second


def _all_or_some(rows: Tensor) -> Tensor | slice:
    """An index of rows; usually of all, which then need no copy."""
    return slice(None) if bool(rows.all()) else rows


def _fit(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale of the generalised Pareto distribution, rows of rising exceedances."""
    size = excess.shape[-1]
    grid = _grid_size(size)
    steps = torch.arange(1, grid + 1, dtype=excess.dtype, device=excess.device) - 0.5
    quartile = excess[:, int(size / 4 + 0.5) - 1].unsqueeze(-1)
    b = (1 - (grid / steps).sqrt()) / (3 * quartile) + 1 / excess[:, -1:]
    shapes = (-b.unsqueeze(-1) * excess.unsqueeze(-2)).log1p_().mean(-1)
    likelihood = size * ((-b / shapes).log() - shapes - 1)
    weights = likelihood.softmax(-1)
    weights = torch.where(weights >= 10 * torch.finfo(b.dtype).eps, weights, 0.0)
    best = (b * weights).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)
    shape = torch.log1p(-best * excess).mean(-1)
    return (size * shape + 5) / (size + 10), -shape / best.squeeze(-1)


def _quantile(probability: Tensor, shape: Tensor, scale: Tensor) -> Tensor:
    """The quantiles of generalised Pareto distributions, one row each."""
    shape, scale = shape.unsqueeze(-1), scale.unsqueeze(-1)
    exponential = -torch.log1p(-probability)
    flat = shape.abs() < torch.finfo(shape.dtype).eps
    safe = torch.where(flat, 1.0, shape)
    return scale * torch.where(flat, exponential, torch.expm1(safe * exponential) / safe)


def _grid_size(size: int) -> int:
    return 30 + math.isqrt(size)


# ------------------------------------------------------------------------------------- columns
def _columns(values: Tensor, dim: int) -> tuple[Tensor, torch.Size]:
    """One row per column of draws, in float64, and the shape without the draws."""
    if not values.is_floating_point():
        raise ValueError(f"the values must be floating-point numbers, not {values.dtype}.")
    if values.dim() == 0 or values.shape[dim] == 0:
        raise ValueError(
            f"no draws: the values have shape {tuple(values.shape)}, and dim={dim} must hold at "
            "least one."
        )
    last = values.detach().movedim(dim, -1)
    return last.reshape(-1, last.shape[-1]).double(), last.shape[:-1]


def _chunk(draws: int) -> int:
    """How many columns to fit at a time, so that no intermediate exceeds the memory allowed."""
    size = math.ceil(min(draws / 5, 3 * math.sqrt(draws)))
    return max(1, _CHUNK_BYTES // (8 * max(draws, size * _grid_size(size))))


def _shifted(x: Tensor) -> tuple[Tensor, Tensor]:
    """The values less their maximum (0 if that is not finite), and the maximum."""
    peak = x.amax(-1)
    finite, shifted = peak.isfinite(), x - peak.unsqueeze(-1)
    return (shifted if finite.all() else torch.where(finite.unsqueeze(-1), shifted, 0.0)), peak
