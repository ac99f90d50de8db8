"""A shelf of named things: one definition, one registration.

A `Registry` maps names to what was registered under them. It refuses a second item of the
same name and an item without a docstring (the catalogue prints first lines), and an unknown
name is answered with the nearest known ones.
"""

from __future__ import annotations

__all__ = ["Registry", "nearest"]

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, overload

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the sentence that helps whoever mistyped `name`.

    Arguments:
        name: The name that is not known.
        known: The names that are.

    Returns:
        "Did you mean 'x'? Known: x, y, z." (without the question if nothing is near).

    Example:
        >>> nearest("lapalce", ["laplace", "normal"])
        "Did you mean 'laplace'? Known: laplace, normal."
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    question = f"Did you mean {close[0]!r}? " if close else ""
    return f"{question}Known: {', '.join(names)}."


class Registry(Mapping[str, T]):
    """A read-only mapping from names to items, filled by decoration.

    Arguments:
        kind: What is on the shelf, in the singular ("family"), for messages.

    Raises:
        ValueError: On registration of a name that is taken, or of an item without docstring.
        KeyError: On look-up of an unknown name, with the nearest known ones.

    Example:
        >>> colours = Registry("colour")
        >>> @colours.register
        ... class DarkRed:
        ...     \"\"\"The colour of wine.\"\"\"
        >>> colours["dark_red"] is DarkRed
        True
        >>> colours["dark_rod"]
        Traceback (most recent call last):
            ...
        KeyError: "no colour is named 'dark_rod'. Did you mean 'dark_red'? Known: dark_red."
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    @overload
    def register(self, item: str) -> Callable[[T], T]: ...

    @overload
    def register(self, item: T) -> T: ...

    def register(self, item: Any) -> Any:
        """Register an item: `@register`, or `@register("name")` to choose the name.

        Arguments:
            item: A class or function, or the name under which to register it. Without a name,
                `CamelCase` becomes `camel_case`.

        Returns:
            The item unchanged (or a decorator, if a name was given).

        Raises:
            ValueError: If the name is taken or the item has no docstring.
        """
        if isinstance(item, str):
            return lambda actual: self._add(item, actual)
        return self._add(snake_case(item.__name__), item)

    def _add(self, name: str, item: T) -> T:
        if name in self._items:
            raise ValueError(
                f"a {self.kind} named {name!r} is registered already "
                f"({_where(self._items[name])}); choose another name for {_where(item)}."
            )
        if not _own_docstring(item):
            raise ValueError(
                f"the {self.kind} {name!r} ({_where(item)}) has no docstring; its first line is "
                "what the catalogue prints, so write one."
            )
        self._items[name] = item
        return item

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise KeyError(f"no {self.kind} is named {name!r}. {nearest(name, self._items)}")
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}: {', '.join(self._items) or 'empty'})"

    def name_of(self, item: T) -> str:
        """Return the name under which `item` was registered.

        Raises:
            KeyError: If it was not.
        """
        for name, known in self._items.items():
            if known is item:
                return name
        raise KeyError(f"{_where(item)} is not a registered {self.kind}.")

    def summary(self, name: str) -> str:
        """Return the first line of the docstring of the item called `name`."""
        return (inspect.getdoc(self[name]) or "").partition("\n")[0]


def snake_case(name: str) -> str:
    """Return `CamelCase` as `camel_case`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _own_docstring(item: object) -> str | None:
    # inspect.getdoc would hand a subclass its parent's text
    return (vars(item) if isinstance(item, type) else {}).get("__doc__") or (
        None if isinstance(item, type) else getattr(item, "__doc__", None)
    )


def _where(item: object) -> str:
    module = getattr(item, "__module__", "?")
    return f"{module}.{getattr(item, '__qualname__', repr(item))}"
