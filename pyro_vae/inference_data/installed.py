"""The ArviZ that is installed: 0.x with its InferenceData, or 1.x with xarray's DataTree.

All that differs between the two lines stands here, on xarray alone, so that it can be tried
wherever an ArviZ is, with or without torch.
"""

from __future__ import annotations

__all__ = ["container", "elpd_data", "first_line", "installed"]

import importlib
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr


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


def container(datasets: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> Any:
    """The container of ArviZ: `arviz.InferenceData` (0.x) or `xarray.DataTree` (1.x).

    Arguments:
        datasets: Datasets by group.
        attrs: Those of the container itself.
    """
    if first_line():
        return installed().InferenceData(attrs=dict(attrs), **dict(datasets))
    tree = xr.DataTree.from_dict(dict(datasets))
    tree.attrs.update(attrs)
    return tree


def elpd_data(
    pointwise: xr.DataArray, khat: xr.DataArray | None, num_samples: int, good_k: float
) -> Any:
    """ArviZ's record of an expected log predictive density, under the kind "loo".

    Arguments:
        pointwise: Log p(x_n), with one dimension.
        khat: Of the same shape, or None.
        num_samples: The number of draws behind each.
        good_k: The threshold of k-hat.
    """
    numbers: dict[str, Any] = {
        "n_samples": num_samples,
        "n_data_points": pointwise.size,
        # NaN is as bad as a heavy tail
        "warning": khat is not None and not bool((khat <= good_k).all()),
        "scale": "log",
    }
    elpd, se = float(pointwise.sum()), float(np.sqrt(pointwise.size * pointwise.values.var()))
    # constant weights, of an exact guide, have k = -inf, which no axis can show
    tails = {} if khat is None else {"pareto_k": khat.where(~np.isneginf(khat), 0.0)}
    if first_line():
        # a pandas Series, whose first entries are known by their place
        content = {"elpd_loo": elpd, "se": se, "p_loo": np.nan, **numbers}
        content |= {"loo_i": pointwise, **tails, "good_k": good_k}
        return installed().ELPDData(data=list(content.values()), index=list(content))
    numbers |= {"elpd": elpd, "se": se, "p": np.nan, "elpd_i": pointwise, "good_k": good_k}
    utils = installed("arviz_stats.utils")
    if hasattr(utils, "ELPDDataLOO"):
        return utils.ELPDDataLOO(**numbers, **tails)
    return utils.ELPDData(kind="loo", **numbers, **tails)
