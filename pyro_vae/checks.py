"""What has to hold of values, read at once or, inside a graph, left for whoever runs the graph.

A check of data reads a number, and a program in which a number is read is no fixed list of tensor
operations. While checks are deferred their flags are collected instead, so that they can be
outputs of the graph; where one comes out False, running the program itself tells the error.
"""

from __future__ import annotations

__all__ = ["assume", "deferred", "is_deferred", "require"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_FLAGS: ContextVar[list[Tensor] | None] = ContextVar("flags", default=None)


def require(holds: Tensor, error: Callable[[], Exception]) -> None:
    """Raise unless `holds`; while checks are deferred, note the flag and go on.

    Arguments:
        holds: A 0-dim boolean tensor.
        error: Makes the exception.

    Raises:
        Exception: What `error` makes.

    Example:
        >>> import torch
        >>> require(torch.tensor(False), lambda: ValueError("x is NaN"))
        Traceback (most recent call last):
        ...
        ValueError: x is NaN
    """
    if not assume(holds):
        raise error()


def assume(holds: Tensor) -> bool:
    """Return whether `holds`; while checks are deferred, note the flag and return True.

    For a way that is right wherever the flag holds, beside one that always is: a graph holds the
    first, and whoever runs the graph goes the other where the flag is False.

    Arguments:
        holds: A 0-dim boolean tensor.

    Example:
        >>> import torch
        >>> assume(torch.tensor(False))
        False
        >>> with deferred() as flags:
        ...     assume(torch.tensor(False))
        True
    """
    flags = _FLAGS.get()
    if flags is None:
        return bool(holds)
    flags.append(holds)
    return True


@contextmanager
def deferred() -> Iterator[list[Tensor]]:
    """Collect the flags of `require` in place of reading them.

    Example:
        >>> import torch
        >>> with deferred() as flags:
        ...     require(torch.tensor(False), lambda: ValueError("x is NaN"))
        >>> flags
        [tensor(False)]
    """
    flags: list[Tensor] = []
    token = _FLAGS.set(flags)
    try:
        yield flags
    finally:
        _FLAGS.reset(token)


def is_deferred() -> bool:
    """Say whether checks are deferred here."""
    return _FLAGS.get() is not None
