"""Finding the modules that a plain function uses without showing them."""

from __future__ import annotations

__all__ = ["hidden_modules"]

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def hidden_modules(function: Callable[..., Any]) -> list[str]:
    """Return the names under which a function uses modules that have trainable parameters.

    Closures, globals, defaults, partial arguments and the object of a bound method are looked
    at; what the function calls in turn is not.

    Arguments:
        function: A plain function, `functools.partial` or bound method.

    Returns:
        The names, empty if there is nothing to train.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> hidden_modules(lambda z: net(z))
        ['net']
    """
    return [
        name
        for name, value in _used(function)
        if isinstance(value, nn.Module) and any(p.requires_grad for p in value.parameters())
    ]


def _used(function: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(function, functools.partial):
        yield from _used(function.func)
        yield from ((repr(type(value).__name__), value) for value in function.args)
        yield from function.keywords.items()
    elif inspect.ismethod(function):
        yield type(function.__self__).__name__, function.__self__
    elif inspect.isfunction(function):
        used = inspect.getclosurevars(function)
        yield from used.nonlocals.items()
        yield from used.globals.items()
        yield from ((str(i), value) for i, value in enumerate(function.__defaults__ or ()))
