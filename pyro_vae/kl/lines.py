"""What the quadrature knows of a distribution on the line: one class, one registration.

A `Line` states the log density in an unconstrained coordinate y, written directly in y, so that
nothing rounds to an end of the support. Everything else guides the placing of nodes and can cost
accuracy (which the error estimate sees), never correctness: where the mass is and how wide, how
near the axis the log density is singular in the complex plane, where it has a kink.

A pair needs nothing of its own: each class that is registered here is paired with all others.
"""

from __future__ import annotations

__all__ = ["Frame", "Line", "line", "line_of", "lines"]

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.charts import Chart
from pyro_vae.kl.parameters import prepared
from pyro_vae.kl.table import canonical

L = TypeVar("L", bound="type[Line]")


class Frame(NamedTuple):
    """A place in y, and the length on which something happens around it."""

    centre: Tensor
    scale: Tensor


class Line:
    """A distribution on the line, read in float64.

    Arguments:
        **parameters: The tensors that the subclass annotates, which `of` reads from attributes
            of the same names; of shapes that broadcast.
    """

    names: ClassVar[tuple[str, ...]] = ()
    """The parameters: what a subclass and its parents annotate as `name: Tensor`."""
    heavy: bool = False
    """Whether the density falls like a power of y, as a Student-t does."""
    near_chart: bool = False
    """Whether the frame is no wider than the distance to the chart's complex singularities."""
    chart: Chart = ()
    """The maps from y to x."""

    def __init_subclass__(cls) -> None:
        own = vars(cls).get("__annotations__", {})
        cls.names += tuple(name for name, kind in own.items() if kind in (Tensor, "Tensor"))

    def __init__(self, **parameters: Tensor) -> None:
        for name in self.names:
            setattr(self, name, parameters[name])

    @classmethod
    def of(cls, d: Any) -> Line | None:
        """Read a distribution; None if this one has no line."""
        return cls(**{name: _wide(getattr(d, name)) for name in cls.names})

    def log_density(self, y: Tensor) -> Tensor:
        """The log density with respect to dy, with y of shape (nodes, *batch)."""
        raise NotImplementedError

    def log_tail(self, log_y: Tensor) -> Tensor:
        """The log density at y = exp(log_y), of a heavy line at a y whose square overflows."""
        return self.log_density(log_y.exp())

    def frame(self) -> Frame:
        """Where the mass is, and its narrowest width."""
        raise NotImplementedError

    def frames(self) -> list[Frame]:
        """All places where there is mass."""
        return [self.frame()]

    def singularities(self) -> list[Frame]:
        """The singularities of the log density nearest to the axis: real parts, distances."""
        return []

    def kinks(self) -> list[Tensor]:
        """The places where the log density is continuous but not smooth."""
        return []

    def mapped(self, change: Callable[[Tensor, int], Tensor]) -> Line:
        """Change every parameter, given with the number of its dimensions beyond the batch."""
        return type(self)(**{name: change(getattr(self, name), 0) for name in self.names})


_LINES: dict[type[Distribution], type[Line]] = {}


def line(*classes: type[Distribution]) -> Callable[[L], L]:
    """Register a `Line` for classes of distributions.

    Arguments:
        *classes: The classes that it can read.

    Returns:
        A decorator that returns the class unchanged.

    Raises:
        ValueError: If a class has a line already, or the line has no docstring of its own.
    """

    def add(item: L) -> L:
        if not vars(item).get("__doc__"):
            raise ValueError(f"the line {item.__name__} has no docstring; write its density.")
        for cls in classes:
            if canonical(cls) in _LINES:
                raise ValueError(
                    f"{cls.__name__} has a line already ({_LINES[canonical(cls)].__name__})."
                )
            _LINES[canonical(cls)] = item
        return item

    return add


def line_of(d: Distribution) -> Line | None:
    """Return the line of a distribution, its parameters in float64.

    Arguments:
        d: A distribution without wrappers.

    Returns:
        The line, or None if exactly this class has none.

    Example:
        >>> import torch.distributions as td, pyro_vae.kl
        >>> line_of(td.LogNormal(0.0, 1.0)).frame().scale.dtype
        torch.float64
        >>> line_of(td.Poisson(1.0)) is None
        True
    """
    found = _LINES.get(canonical(type(d)))
    return None if found is None else found.of(prepared(d, d.batch_shape, None))


def lines() -> Mapping[type[Distribution], type[Line]]:
    """Return a live, read-only view of the lines by class of distribution."""
    return MappingProxyType(_LINES)


def _wide(value: Any) -> Tensor:
    return torch.as_tensor(value).double()
