"""What the commands share: exit codes, errors in one line, data by name or file."""

from __future__ import annotations

__all__ = [
    "DONE",
    "FAILED",
    "HELD_OUT_EVERY",
    "SPLITS",
    "STOPPED",
    "USAGE",
    "Rows",
    "UsageError",
    "check_threads",
    "check_writable",
    "data_of",
    "say",
    "threads",
    "usage_errors",
]

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae import datasets
from pyro_vae.registry import nearest

DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 130
USER_ERRORS = (ValueError, TypeError, KeyError, ImportError, OSError)
HELD_OUT_EVERY = 10
SPLITS = ("train", "validation", "test")


class UsageError(Exception):
    """What the user can mend; its message is the one line they see."""


def say(line: str) -> None:
    """Write a line to standard error."""
    print(line, file=sys.stderr)  # noqa: T201


class Rows(NamedTuple):
    """Data for a command.

    Arguments:
        splits: Rows by split: "train", "validation", and "test" for a registered data set.
        likelihood: The family that scores them.
        image_shape: The shape of a row as an image; empty if it is none.
    """

    splits: dict[str, Tensor]
    likelihood: str
    image_shape: tuple[int, ...]


def data_of(name: str, root: str | None, likelihood: str | None) -> Rows:
    """Return the data of a registered name, or of a file.

    Of a file, every tenth row is held out for validation, and serves as test split as well.

    Arguments:
        name: The name of a data set, or a path.
        root: The folder of a data set that needs one.
        likelihood: A family; by default the data set's own, bernoulli for a file.

    Raises:
        ValueError: If there is no such data set or file, or if it holds a single row.
    """
    if name in datasets.datasets:
        data = datasets.load(name, root, likelihood=likelihood)
        splits = {split: getattr(data, split) for split in SPLITS}
        return Rows(splits, data.likelihood, tuple(data.image_shape))
    path = Path(name).expanduser()
    if not (path.suffix or path.exists()):
        raise ValueError(
            f"no data set is named {name!r}. {nearest(name, datasets.datasets)} Or give "
            "a file, such as data.npy."
        )
    rows = datasets.read(path)
    if len(rows) < 2:
        raise ValueError(f"{path} holds one row; at least two are needed, one to hold out.")
    # every tenth row rather than the last ones: files are often sorted
    held_out = torch.arange(len(rows)) % HELD_OUT_EVERY == min(HELD_OUT_EVERY, len(rows)) - 1
    shape = tuple(rows.shape[1:])
    image = shape if len(shape) in (2, 3) else ()
    splits = {"train": rows[~held_out], "validation": rows[held_out], "test": rows[held_out]}
    return Rows(splits, likelihood or "bernoulli", image)


def check_writable(*folders: Path) -> None:
    """Make folders, the outermost first, or raise a ValueError if they cannot be written to."""
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder) as file:
                file.write(b"?")
    except OSError as error:
        raise ValueError(
            f"the folder {folders[0]} cannot be written to ({error.strerror or error}); choose "
            "another by --out."
        ) from error


@contextmanager
def usage_errors(kinds: tuple[type[Exception], ...] = USER_ERRORS) -> Iterator[None]:
    """Errors that are the user's to mend, as one line."""
    try:
        yield
    except kinds as error:
        raise UsageError(error.args[0] if isinstance(error, KeyError) else error) from error


def check_threads(number: int) -> None:
    """Raise a ValueError if torch cannot be given so many threads."""
    if number < 1:
        raise ValueError(f"threads must be a whole number, at least 1, not {number}.")


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
