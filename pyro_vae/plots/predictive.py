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
    cells = list(itertools.product(*(table[dim].values for dim in dims)))
    scores = [
        float(table[f"{prefix}_z"].sel(dict(zip(dims, cell, strict=True)))) for cell in cells
    ]
    if len(cells) > MOST:  # those that are farthest off
        far = np.argsort([-abs(s) if np.isfinite(s) else np.inf for s in scores], kind="stable")
        cells = [cells[i] for i in sorted(far[:MOST])]
    rows = math.ceil(len(cells) / COLUMNS)
    figure, axes = canvas(min(COLUMNS, len(cells)), rows, width=3.1, height=2.3)
    for one, cell in zip(axes, cells, strict=False):
        at = table.sel(dict(zip(dims, cell, strict=True)))
        several = table.sizes["observed_site"] > 1
        _statistic(one, at, prefix, f"{cell[0]}: " if several else "", cell)
    for one in axes[len(cells) :]:
        one.set_axis_off()
    return figure


def _statistic(axes: Axes, at: xr.Dataset, prefix: str, head: str, cell: tuple) -> None:
    made, seen = finite(at[f"{prefix}_replicated"]), float(at[f"{prefix}_observed"])
    p, z = float(at[f"{prefix}_p"]), float(at[f"{prefix}_z"])
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
    label(axes, f"{head}{cell[2]} of {cell[1]}\n{told}")
