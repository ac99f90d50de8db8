"""Finished cells on disk: written whole or not at all, and reused only by the same comparison.

A file is named after its guide, its prior and a digest of every setting, every number of the
data and every line of the package that computes. It also keeps the ELBO of the untrained VAE: if
a guide or prior brought under the same name now computes something else, that number differs and
the cell is computed anew.
"""

from __future__ import annotations

__all__ = ["CellWarning", "Store", "code_digest", "data_digest", "digest", "write"]

import functools
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from pyro_vae.pairings.cell import ELBOS, VARIABLES

# wide enough for sums in another order (other threads), narrow enough for any real change
SAME = 1e-5
SHOWING = ("__init__.py", "__main__.py", "cli", "plots", "report", "saved.py")


class CellWarning(UserWarning):
    """A stored cell could not be used and was computed again."""


class Store:
    """Finished cells in a folder.

    Arguments:
        folder: The folder of the comparison; cells lie in its subfolder `cells`. None keeps
            nothing.
        context: Every setting that influences all cells, as `digest` takes them.
    """

    def __init__(self, folder: str | Path | None, context: Mapping[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder).expanduser() / "cells"
        self.context = dict(context)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    def read(self, guide: str, prior: str, untrained: float) -> dict[str, Any] | None:
        """Return a finished cell, or None if there is none.

        Arguments:
            guide: The name of the guide.
            prior: The name of the prior.
            untrained: The ELBO of the untrained VAE.

        Warns:
            CellWarning: If there is a file, but it is damaged.
        """
        if self.folder is None:
            return None
        path, key = self._path(guide, prior)
        if not path.exists():
            return None
        try:
            with xr.open_dataset(path, engine="h5netcdf") as stored:
                values = _values(stored.load(), key)
        except Exception as error:  # a damaged file can raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            warnings.warn(
                f"the cell file {path} is damaged ({reason}); {guide} x "
                f"{prior} is computed again.",
                CellWarning,
                stacklevel=2,
            )
            return None
        if not math.isclose(values.pop("untrained_elbo"), untrained, rel_tol=SAME):
            return None
        return values

    def write(self, guide: str, prior: str, untrained: float, values: Mapping[str, Any]) -> None:
        """Keep a finished cell; arguments as for `read`, and its values by variable."""
        if self.folder is None:
            return
        path, key = self._path(guide, prior)
        variables: dict[str, Any] = {
            name: ("elbo", value) if isinstance(value, list) else ((), value)
            for name, value in values.items()
        }
        attrs = {"digest": key, "guide": guide, "prior": prior}
        write(xr.Dataset(variables | {"untrained_elbo": ((), untrained)}, attrs=attrs), path)

    def found(self, pairs: Iterable[tuple[str, str]]) -> tuple[int, int]:
        """Return how many of these pairs have a file, and how many other files there are."""
        if self.folder is None:
            return 0, 0
        files, own = set(self.folder.glob("*.nc")), {self._path(*pair)[0] for pair in pairs}
        return len(files & own), len(files - own)

    def _path(self, guide: str, prior: str) -> tuple[Path, str]:
        assert self.folder is not None
        key = digest({**self.context, "guide": guide, "prior": prior})
        name = re.sub(r"[^\w.-]", "_", f"{guide}-{prior}")
        return self.folder / f"{name}-{key[:16]}.nc", key


def write(dataset: xr.Dataset, path: Path) -> None:
    """Write a NetCDF file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        dataset.to_netcdf(partial, engine="h5netcdf")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def digest(context: Mapping[str, Any]) -> str:
    """Return the SHA-256 of settings, whatever their order."""
    return hashlib.sha256(json.dumps(context, sort_keys=True).encode()).hexdigest()


def data_digest(*tensors: Tensor) -> str:
    """Return the SHA-256 of the shapes, types and values of tensors."""
    total = hashlib.sha256()
    for x in tensors:
        total.update(f"{tuple(x.shape)} {x.dtype}".encode())
        total.update(np.ascontiguousarray(x.detach().cpu().numpy()).tobytes())
    return total.hexdigest()


@functools.cache  # the code that runs is that of the start
def code_digest() -> str:
    """Return the SHA-256 of the package's own source, but for what only shows results."""
    package, total = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] not in SHOWING:
            total.update(path.read_bytes())
    return total.hexdigest()


def _values(stored: xr.Dataset, key: str) -> dict[str, Any]:
    if stored.attrs.get("digest") != key:
        raise ValueError("its digest is not that of its name")
    missing = [name for name in (*VARIABLES, "untrained_elbo") if name not in stored]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    values = {str(name): variable.values.tolist() for name, variable in stored.items()}
    for name, variable in VARIABLES.items():
        kind = list if variable.by_elbo else type(variable.missing)
        if not isinstance(values[name], kind):
            raise ValueError(f"{name} is not a {kind.__name__}")
        if variable.by_elbo and len(values[name]) != len(ELBOS):
            raise ValueError(f"{name} has {len(values[name])} values")
    return values
