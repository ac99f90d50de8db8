"""Pictures of predictive checks: what a statistic is of the data, and of what the model makes."""

from __future__ import annotations

__all__ = ["prior_predictive_check", "reconstruction_check"]

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from pyro_vae.plots.canvas import BAD, FIRST, LIMIT, canvas, finite, label, number
from pyro_vae.plots.shelf import register

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS, MOST, FAR = 4, 24, 3.0


@register
def prior_predictive_check(table: xr.Dataset) -> Figure:
    """Each statistic of the data (a line) among those of data sets of the model (a histogram).

    Arguments:
        table: The Dataset of `diagnostics.prior_predictive_check`.
    """
    return _check(table, "prior_predictive")


@register
def reconstruction_check(table: xr.Dataset) -> Figure:
    """Each statistic of the data (a line) among those of their reconstructions (a histogram).

    Arguments:
        table: The Dataset of `diagnostics.reconstruction_check`.
    """
    return _check(table, "reconstruction")


def _check(table: xr.Dataset, prefix: str) -> Figure:
    dims = ("observed_site", "statistic", "over")
    products = itertools.product(*(table[dim].values for dim in dims))
    cells = [table.sel(dict(zip(dims, at, strict=True))) for at in products]
    # what never varies and is the same in the data tells nothing
    cells = [cell for cell in cells if _varies(cell, prefix)] or cells
    if len(cells) > MOST:  # those that are farthest off
        scores = [abs(float(cell[f"{prefix}_z"])) for cell in cells]
        far = np.argsort([-s if np.isfinite(s) else -np.inf for s in scores], kind="stable")
        cells = [cells[i] for i in sorted(far[:MOST])]
    rows = math.ceil(len(cells) / COLUMNS)
    figure, axes = canvas(min(COLUMNS, len(cells)), rows, width=3.1, height=2.3)
    for one, cell in zip(axes, cells, strict=False):
        several = table.sizes["observed_site"] > 1
        _statistic(one, cell, prefix, f"{cell.observed_site.item()}: " if several else "")
    for one in axes[len(cells) :]:
        one.set_axis_off()
    return figure


def _varies(cell: xr.Dataset, prefix: str) -> bool:
    return not bool((cell[f"{prefix}_replicated"] == cell[f"{prefix}_observed"]).all())


def _statistic(axes: Axes, cell: xr.Dataset, prefix: str, head: str) -> None:
    made, seen = finite(cell[f"{prefix}_replicated"]), float(cell[f"{prefix}_observed"])
    p, z = float(cell[f"{prefix}_p"]), float(cell[f"{prefix}_z"])
    far = abs(z) > FAR
    if made.size and np.ptp(made) > 0:
        axes.hist(made, bins=20, color=FIRST, alpha=0.8)
    elif made.size:  # nothing varies, so there is nothing to bin
        axes.axvline(made[0], color=FIRST, linewidth=5, alpha=0.8)
    axes.axvline(seen, color=BAD if far else LIMIT, linewidth=2)
    axes.set_yticks([])
    axes.margins(x=0.08)
    axes.tick_params(labelsize=7.5)
    axes.locator_params(axis="x", nbins=4)
    told = f"p = {number(p, 3)}, z = {number(z, 1)}" if np.isfinite(z) else "no spread"
    label(axes, f"{head}{cell.over.item()} of {cell.statistic.item()}\n{told}")
