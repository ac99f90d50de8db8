"""The shelf of data sets, and the one place where a likelihood decides how data are presented.

A loader knows a source: raw rows, their splits, their labels, the level that means 1, and the
likelihoods for which the rows make sense. `load` knows the forms: binary, grey, counts, real.
"""

from __future__ import annotations

__all__ = ["Data", "Source", "datasets", "load", "register"]

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.datasets.convert import as_tensor, binarize, check_unit_interval
from pyro_vae.registry import Registry, nearest

SPLITS = ("train", "validation", "test")


class Source(NamedTuple):
    """What a loader returns: raw rows in three splits, before any likelihood has seen them.

    Arguments:
        train: Rows of shape (n, *shape), anything `as_tensor` reads; images as (n, rows, columns).
        validation: Rows of the same shape.
        test: Rows of the same shape.
        likelihoods: Names of the families for which the rows make sense, the usual one first.
        levels: The value that means 1 (255 for bytes): x / levels is grey in [0, 1].
        train_labels: Whole numbers of shape (n,), or None.
        validation_labels: The same for the validation rows.
        test_labels: The same for the test rows.
        note: What else to say about how the values came about.
    """

    train: Any
    validation: Any
    test: Any
    likelihoods: tuple[str, ...]
    levels: float = 1.0
    train_labels: Any = None
    validation_labels: Any = None
    test_labels: Any = None
    note: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set in the form of one likelihood, split in three.

    Arguments:
        name: The name under which it was loaded.
        train: Rows of shape (n, features), flattened images, in the default dtype.
        validation: The same.
        test: The same.
        train_labels: Long tensor of shape (n,), or None.
        validation_labels: The same.
        test_labels: The same.
        likelihood: The family whose support the rows lie in.
        likelihoods: The families the data set states.
        image_shape: The shape of a row before flattening, (8, 8).
        policy: How the values were made for this likelihood, in words.
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    train_labels: Tensor | None
    validation_labels: Tensor | None
    test_labels: Tensor | None
    likelihood: str
    likelihoods: tuple[str, ...]
    image_shape: tuple[int, ...]
    policy: str

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.image_shape))
        lines = [
            f"Data {self.name!r} for {self.likelihood} (states: {', '.join(self.likelihoods)})",
            f"  values      {self.policy}",
        ]
        for split in SPLITS:
            x, labels = getattr(self, split), getattr(self, f"{split}_labels")
            classes = "" if labels is None else f", {len(labels.unique())} classes"
            rows = f"{len(x)} of {shape}, mean {float(x.mean()):.4f}"
            lines.append(f"  {split:<10}  {rows}{classes}")
        return "\n".join(lines)


Loader = Callable[[Path | None], Source]

datasets: Registry[Loader] = Registry("data set")
"""Loaders by name: functions of the root folder (or None) that return a `Source`."""

register = datasets.register
"""Put a loader on the shelf: `@register` above a function `name(root) -> Source`."""


class _Form(NamedTuple):
    present: Callable[[Tensor, float, str], Tensor]
    policy: str


def _grey(x: Tensor, levels: float, name: str) -> Tensor:
    return check_unit_interval(x / levels, name)


def _binary(x: Tensor, levels: float, name: str) -> Tensor:
    return binarize(_grey(x, levels, name))


def _counts(x: Tensor, levels: float, name: str) -> Tensor:
    wrong = int(((x < 0) | (x != x.round())).sum())
    if wrong:
        raise ValueError(
            f"{name} has {wrong} of {x.numel()} values that are no counts (0, 1, 2, ...), so the "
            "data set should not state a likelihood of counts."
        )
    return x


def _real(x: Tensor, levels: float, name: str) -> Tensor:
    return x / levels


_BINARY = _Form(_binary, "binary: 1 where {x} > 0.5, else 0")
_GREY = _Form(_grey, "grey: {x} in [0, 1], both ends included")
_COUNTS = _Form(_counts, "counts: whole numbers, as the source has them")
_LEVELS = _Form(_counts, "grey levels: whole numbers, as the source has them")
_CLASSES = _Form(_counts, "classes: whole numbers, as the source has them")
_REAL = _Form(_real, "real: {x}")
_FORMS = {
    "bernoulli": _BINARY,
    "continuous_bernoulli": _GREY,
    "poisson": _COUNTS,
    "negative_binomial": _COUNTS,
    "zero_inflated_negative_binomial": _COUNTS,
    "discretized_logistic": _LEVELS,
    "categorical": _CLASSES,
    "ordinal": _CLASSES,
    "normal": _REAL,
    "student_t": _REAL,
    "laplace": _REAL,
}


def load(name: str, root: str | Path | None = None, *, likelihood: str | None = None) -> Data:
    """Load a registered data set in the form that a likelihood scores.

    | likelihood | form |
    |---|---|
    | bernoulli | 1[x / levels > 0.5] |
    | continuous_bernoulli | x / levels in [0, 1], ends included (the support is closed) |
    | discretized_logistic | the levels themselves, 0 ... levels |
    | ordinal, categorical | the numbers of the classes |
    | poisson, negative_binomial, zero_inflated_negative_binomial | the counts themselves |
    | normal, student_t, laplace | x / levels |

    For binary data by another policy load the grey ones and `binarize` them.

    Arguments:
        name: A name on the shelf, `datasets.datasets`.
        root: A folder (or file) for the data sets that need one.
        likelihood: The name of a family that the data set states; by default the first.

    Returns:
        The data set; the same rows in the same order at every call.

    Raises:
        KeyError: If no data set has this name.
        ValueError: If the likelihood is not stated, or if files are missing or damaged.
        ImportError: If the data set needs a package that is not installed.

    Example:
        >>> load("digits")
        Data 'digits' for bernoulli (states: bernoulli, ..., poisson)
          values      binary: 1 where x / 16 > 0.5, else 0
          train       1400 of 8 x 8, mean 0.2931, 10 classes
          validation  197 of 8 x 8, mean 0.2905, 10 classes
          test        200 of 8 x 8, mean 0.2937, 10 classes
    """
    source = datasets[name](None if root is None else Path(root).expanduser())
    chosen = _choose(name, source.likelihoods, likelihood)
    form = _FORMS[chosen]
    raw = {split: as_tensor(getattr(source, split), f"{name}.{split}") for split in SPLITS}
    rows = {
        split: form.present(x, source.levels, f"{name}.{split}").flatten(1)
        for split, x in raw.items()
    }
    labels = {
        split: _labels(getattr(source, f"{split}_labels"), len(x), f"{name}.{split}")
        for split, x in raw.items()
    }
    scaled = "x" if source.levels == 1 else f"x / {source.levels:g}"
    return Data(
        name=name,
        **rows,
        train_labels=labels["train"],
        validation_labels=labels["validation"],
        test_labels=labels["test"],
        likelihood=chosen,
        likelihoods=source.likelihoods,
        image_shape=tuple(raw["train"].shape[1:]),
        policy=form.policy.format(x=scaled) + (f" ({source.note})" if source.note else ""),
    )


def _choose(name: str, stated: tuple[str, ...], wanted: str | None) -> str:
    unknown = [likelihood for likelihood in stated if likelihood not in _FORMS]
    if unknown or not stated:
        problem = f"states {', '.join(unknown)}" if unknown else "states no likelihood"
        raise ValueError(
            f"the data set {name!r} {problem}; its Source must state at least one of "
            f"{', '.join(_FORMS)}, and no other."
        )
    chosen = stated[0] if wanted is None else wanted
    if chosen not in stated:
        raise ValueError(
            f"the data set {name!r} does not come in a form for {chosen!r}. "
            f"{nearest(str(chosen), stated)}"
        )
    return chosen


def _labels(labels: Any, rows: int, name: str) -> Tensor | None:
    if labels is None:
        return None
    numbers = torch.from_numpy(np.asarray(labels).astype(np.int64))
    if numbers.shape != (rows,):
        raise ValueError(
            f"{name} has {rows} rows, but labels of shape {tuple(numbers.shape)}; one a row is "
            "needed."
        )
    return numbers
