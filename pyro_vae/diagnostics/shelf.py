"""How a diagnostic is made and registered, and how it takes its place in `diagnose`.

A diagnostic is a function `(model, guide, *args, num_samples=..., seed=..., **options)` that
returns a Dataset, registered by `@diagnostics.register`; that puts it into the catalogue. Two
decorators below it say more:

* `@from_weights(...)`: the function takes a block of `LogWeights` and returns columns by datum.
  It becomes a diagnostic, and all of this kind share one pass over the draws in `diagnose`;
* `@step(order=..., judge=...)`: `diagnose` runs it, in this order, and its `judge` says in plain
  language what the numbers mean (`Finding`). After a finding that closes the gate, steps with
  `gated=True` are left out, and that is told.
"""

from __future__ import annotations

__all__ = [
    "DIAGNOSTICS",
    "Columns",
    "DiagnosticWarning",
    "Finding",
    "FromWeights",
    "NotApplicable",
    "Step",
    "from_weights",
    "register",
    "step",
    "summarised",
]

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_vae.diagnostics.block import LogWeights
from pyro_vae.diagnostics.weights import Stream
from pyro_vae.registry import Registry

Columns: TypeAlias = Mapping[str, Tensor | tuple[tuple[str, ...], Any]]
"""By name, a tensor of shape (data,), or dims and what has their shape (a list of names, say)."""

_Table: TypeAlias = dict[str, tuple[tuple[str, ...], np.ndarray]]

DIAGNOSTICS: Registry[Callable[..., xr.Dataset]] = Registry("diagnostic")
"""All diagnostics by name."""

register = DIAGNOSTICS.register
"""Register a diagnostic: `@register`, or `@register("name")`."""


class DiagnosticWarning(UserWarning):
    """A number is returned that is not to be trusted, and the message says why."""


class NotApplicable(ValueError):
    """A diagnostic has nothing to say of this model and guide; `diagnose` goes on without it."""


class Finding(NamedTuple):
    """What the numbers of a diagnostic say, in plain language.

    Arguments:
        level: "good", "care" (use with care) or "bad".
        text: One sentence with the numbers behind it.
        advice: What to try next; empty if all is well.
        closes: Whether later steps that are gated make no sense any more.
    """

    level: Literal["good", "care", "bad"]
    text: str
    advice: str = ""
    closes: bool = False


Judge: TypeAlias = Callable[[xr.Dataset], Sequence[Finding]]


@dataclass(frozen=True)
class Step:
    """The place of a diagnostic in `diagnose`.

    Arguments:
        order: Steps run in rising order: k-hat 10, the bounds 20, IWAE 30; 40 and more are free.
        judge: From the diagnostic's own Dataset to findings.
        gated: Whether it is left out once a finding has closed the gate.
        shows: The variables by datum that go into the table which `diagnose` prints.
        optional: Whether it is run only if it is named, since it is expensive.
    """

    order: int
    judge: Judge
    gated: bool = False
    shows: tuple[str, ...] = ()
    optional: bool = False


Function = TypeVar("Function", bound=Callable[..., xr.Dataset])


def step(
    order: int,
    judge: Judge,
    *,
    gated: bool = False,
    shows: Sequence[str] = (),
    optional: bool = False,
) -> Callable[[Function], Function]:
    """Let `diagnose` run a diagnostic: a decorator below `@register`.

    Arguments:
        order: As in `Step`.
        judge: As in `Step`.
        gated: As in `Step`.
        shows: As in `Step`.
        optional: As in `Step`.
    """

    def decorate(function: Function) -> Function:
        function.step = Step(order, judge, gated, tuple(shows), optional)  # type: ignore[attr-defined]
        return function

    return decorate


class FromWeights:
    """A diagnostic that is a reduction of log weights; made by `from_weights`.

    Called as `(model, guide, *args, num_samples=1000, seed=0, **options)`, the options being
    those of `diagnostics.Stream`.

    Arguments:
        columns: From a block of log weights to columns by datum.
        summary: From the Dataset of all data to attrs and further variables.
        exact_kl: Whether it wants exact KLs in the weights.
    """

    def __init__(
        self,
        columns: Callable[[LogWeights], Columns],
        summary: Callable[[xr.Dataset], xr.Dataset] | None,
        exact_kl: bool,
    ) -> None:
        self.columns, self.summary, self.exact_kl = columns, summary, exact_kl
        functools.update_wrapper(self, columns)
        self.__signature__ = inspect.signature(self.__call__)

    def __call__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Any,
        num_samples: int = 1000,
        seed: int = 0,
        **options: Any,
    ) -> xr.Dataset:
        """Draw, reduce block by block, and summarise; the options are those of `Stream`."""
        options |= {"num_samples": num_samples, "seed": seed, "exact_kl": self.exact_kl}
        return summarised([self], Stream(model, guide, *args, **options))[0]


def from_weights(
    *, summary: Callable[[xr.Dataset], xr.Dataset] | None = None, exact_kl: bool = False
) -> Callable[[Callable[[LogWeights], Columns]], FromWeights]:
    """Make a diagnostic of a reduction of log weights: a decorator.

    Arguments:
        summary: From the Dataset of all data, to which it adds attrs or variables, to itself.
        exact_kl: Whether it wants exact KLs in the weights.

    Example:
        >>> @from_weights()
        ... def largest_weight(weights):
        ...     \"\"\"The largest normalised weight of each datum.\"\"\"
        ...     return {"largest_weight": weights.log_weight.softmax(0).max(0).values}
    """
    return lambda columns: FromWeights(columns, summary, exact_kl)


def summarised(diagnostics: Sequence[FromWeights], stream: Stream) -> list[xr.Dataset]:
    """Run several diagnostics over one pass of a stream.

    Arguments:
        diagnostics: Reductions of log weights.
        stream: The log weights.

    Returns:
        The Dataset of each, with the attrs of the stream.
    """
    parts: list[list[_Table]] = [[] for _ in diagnostics]
    for block in stream:
        for diagnostic, own in zip(diagnostics, parts, strict=True):
            own.append(_table(diagnostic.columns(block)))
    return [
        _summary(d, _joined(own, stream.size), stream)
        for d, own in zip(diagnostics, parts, strict=True)
    ]


def _summary(diagnostic: FromWeights, table: xr.Dataset, stream: Stream) -> xr.Dataset:
    table = table.assign_attrs(stream.attrs)
    return table if diagnostic.summary is None else diagnostic.summary(table)


def _table(columns: Columns) -> _Table:
    return {
        name: (("data",), _numpy(column))
        if isinstance(column, Tensor)
        else (tuple(column[0]), _numpy(column[1]))
        for name, column in columns.items()
    }


def _joined(blocks: Sequence[_Table], size: int) -> xr.Dataset:
    """The columns of all blocks, one after the other; what is not by datum is in all the same."""
    variables: _Table = {}
    for name, (dims, first) in blocks[0].items():
        values = [block[name][1] for block in blocks]
        if "data" in dims:
            first = np.concatenate(values, dims.index("data"))
        elif not all(np.array_equal(first, value) for value in values[1:]):
            raise ValueError(f"{name!r} is not by datum, but differs between blocks of data.")
        variables[name] = dims, first
    return xr.Dataset(variables, coords={"data": np.arange(size)})


def _numpy(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
