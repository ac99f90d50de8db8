"""The ArviZ that is installed: 0.x with its InferenceData, or 1.x with xarray's DataTree."""

from __future__ import annotations

__all__ = ["first_line", "installed"]

import importlib
import warnings
from types import ModuleType


def installed(module: str = "arviz") -> ModuleType:
    """Import ArviZ, or a part of it, only now: it takes seconds, and training does not need it.

    Arguments:
        module: `arviz`, or a module of its parts.
    """
    with warnings.catch_warnings():
        # 0.23 announces 1.x once a day; both are supported here
        warnings.simplefilter("ignore", FutureWarning)
        return importlib.import_module(module)


def first_line() -> bool:
    """Whether it is 0.x."""
    return int(installed().__version__.partition(".")[0]) == 0
