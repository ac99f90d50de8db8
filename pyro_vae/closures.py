"""Finding the modules that a plain function uses without showing them."""

from __future__ import annotations

__all__ = ["hidden_modules", "used_modules"]

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def hidden_modules(function: Callable[..., Any]) -> list[str]:
    """Return the names under which a function uses modules that have trainable parameters.

    Closures, globals, defaults, partial arguments, and the attributes of a callable object or
    of a bound method's are looked at; what the function calls in turn is not.

    Arguments:
        function: A plain function, `functools.partial`, bound method or callable object.

    Returns:
        The names, empty if there is nothing to train.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> hidden_modules(lambda z: net(z))
        ['net']
    """
    modules = used_modules(function)
    return [n for n, module in modules if any(p.requires_grad for p in module.parameters())]


def used_modules(function: Callable[..., Any]) -> list[tuple[str, nn.Module]]:
    """Return the modules that a function uses, with the names under which it does."""
    return [(name, value) for name, value in _used(function) if isinstance(value, nn.Module)]


def _used(function: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(function, functools.partial):
        yield from _used(function.func)
        yield from ((type(value).__name__, value) for value in function.args)
        yield from function.keywords.items()
    elif inspect.ismethod(function):
        yield from _held(function.__self__)
    elif inspect.isfunction(function):
        used = inspect.getclosurevars(function)
        yield from used.nonlocals.items()
        yield from used.globals.items()
        parameters = inspect.signature(function).parameters
        yield from ((name, parameter.default) for name, parameter in parameters.items())
    else:
        yield from _held(function)


def _held(owner: Any) -> Iterator[tuple[str, Any]]:
    """An object itself, which may be a module, and what its attributes hold."""
    yield type(owner).__name__, owner
    if not isinstance(owner, nn.Module):
        yield from getattr(owner, "__dict__", {}).items()
