"""Test statistics: what is looked at on a datum when a model's data are compared with real ones.

One is a function of data of shape (M, *event) to one number for each of them, (M,). What is
registered by `@statistic`, every check uses from then on; a check also takes functions by name.
"""

from __future__ import annotations

__all__ = ["STATISTICS", "Statistic", "Statistics", "chosen", "statistic"]

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from torch import Tensor

from pyro_vae.registry import Registry

Statistic: TypeAlias = Callable[[Tensor], Tensor]
Statistics: TypeAlias = Mapping[str, Statistic] | Sequence[str] | None

STATISTICS: Registry[Statistic] = Registry("statistic")
"""Test statistics by name: from data of shape (M, *event) to one number for each, (M,)."""

statistic = STATISTICS.register
"""Register a test statistic, which then every check uses: `@statistic`."""


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).double()


@statistic
def mean(x: Tensor) -> Tensor:
    """The mean over the elements of a datum."""
    return _flat(x).mean(1)


@statistic
def sd(x: Tensor) -> Tensor:
    """The standard deviation over the elements of a datum; 0 for a single one."""
    return _flat(x).std(1, correction=0)


@statistic
def minimum(x: Tensor) -> Tensor:
    """The smallest element of a datum."""
    return _flat(x).min(1).values


@statistic
def maximum(x: Tensor) -> Tensor:
    """The largest element of a datum."""
    return _flat(x).max(1).values


@statistic
def sparsity(x: Tensor) -> Tensor:
    """The share of elements of a datum that are 0."""
    return (_flat(x) == 0).double().mean(1)


@statistic
def roughness(x: Tensor) -> Tensor:
    """The mean squared difference of neighbours along the last dimension of an event."""
    x = x.double() if x.dim() > 1 else x.double()[:, None]
    if x.shape[-1] < 2:
        return x.new_zeros(len(x))
    return x.diff(dim=-1).square().reshape(len(x), -1).mean(1)


def chosen(statistics: Statistics) -> dict[str, Statistic]:
    """The statistics by name: those given, those named, or all that are registered.

    Arguments:
        statistics: Functions by name, or names, or None.

    Raises:
        KeyError: If a name is not registered.
    """
    if statistics is None:
        return dict(STATISTICS.items())
    if isinstance(statistics, Mapping):
        return dict(statistics)
    return {name: STATISTICS[name] for name in statistics}
