"""Streaming: the data cut into batches, or repeated once for each draw."""

from __future__ import annotations

__all__ = ["Arguments", "Data", "cut"]

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


class Data(NamedTuple):
    """The arguments of a program, and which of them are data: tensors as long as the first one.

    Arguments:
        args: Positional arguments.
        kwargs: Keyword arguments.
        size: The number of data; 0 if no argument is a tensor.

    Example:
        >>> import torch
        >>> data = Data.of((torch.arange(3), "label"), {"y": torch.arange(3)})
        >>> data.rows(1, 3).args[0].tolist(), data.repeated(2).kwargs["y"].tolist()
        ([1, 2], [0, 1, 2, 0, 1, 2])
        >>> data.take([2, 0]).args[0].tolist()
        [2, 0]
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int
    names: frozenset[int | str] = frozenset()

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Data:
        """Find the data among the arguments."""
        named = {**dict(enumerate(args)), **kwargs}
        tensors = {n: a for n, a in named.items() if isinstance(a, Tensor) and a.dim()}
        size = len(next(iter(tensors.values()))) if tensors else 0
        return cls(args, kwargs, size, frozenset(n for n, a in tensors.items() if len(a) == size))

    def rows(self, start: int, stop: int) -> Data:
        """The data from `start` to `stop`."""
        stop = min(stop, self.size)
        return self._mapped(lambda a: a[start:stop], stop - start)

    def take(self, indices: Sequence[int]) -> Data:
        """The data with these numbers, in this order."""
        return self._mapped(lambda a: a[list(indices)], len(indices))

    def repeated(self, times: int) -> Data:
        """All data, `times` times over: row `k * size + n` is datum n."""
        return self._mapped(lambda a: a.repeat(times, *[1] * (a.dim() - 1)), times * self.size)

    def _mapped(self, change: Callable[[Tensor], Tensor], size: int) -> Data:
        args = tuple(change(a) if i in self.names else a for i, a in enumerate(self.args))
        kwargs = {n: change(a) if n in self.names else a for n, a in self.kwargs.items()}
        return Data(args, kwargs, size, self.names)


def cut(
    args: tuple[Any, ...], kwargs: dict[str, Any], batch_size: int | None
) -> Iterator[Arguments]:
    """Yield the arguments for each batch: tensors as long as the first one are cut.

    Arguments:
        args: Positional arguments.
        kwargs: Keyword arguments.
        batch_size: The number of data in a batch, or None for all at once.

    Raises:
        ValueError: If `batch_size` is not positive or no argument is a tensor.
    """
    if batch_size is None:
        yield args, kwargs
        return
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, not {batch_size}.")
    data = Data.of(args, kwargs)
    if not data.size:
        raise ValueError("batch_size= needs the data as a tensor among the arguments.")
    for start in range(0, data.size, batch_size):
        batch = data.rows(start, start + batch_size)
        yield batch.args, batch.kwargs
