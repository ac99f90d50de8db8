"""Pictures of a guide beside what is nearer to the truth: its family's best, AIS, NUTS."""

from __future__ import annotations

__all__ = ["ais", "bdmc", "gaps", "nuts_check"]

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pyro_vae.plots.canvas import (
    BAD,
    FIRST,
    LIMIT,
    QUIET,
    SECOND,
    bins,
    canvas,
    finite,
    label,
    legend,
    number,
)
from pyro_vae.plots.shelf import register

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PM = "\N{PLUS-MINUS SIGN}"


@register
def gaps(table: xr.Dataset) -> Figure:
    """What the ELBO misses, split: by the encoder, and by the family of the guide.

    Arguments:
        table: The Dataset of `diagnostics.gaps`.
    """
    figure, (left, right) = canvas(2)
    names = {"amortisation_gap": (FIRST, "encoder"), "approximation_gap": (SECOND, "family")}
    start = 0.0
    for name, (colour, text) in names.items():
        mean, error = table.attrs[f"{name}_mean"], table.attrs[f"{name}_mean_std_error"]
        told = f"{text}: {number(mean, 3)} {PM} {number(error, 3)}"
        left.bar(0, mean, bottom=start, width=0.5, color=colour, label=told)
        left.errorbar(0, start + mean, yerr=2 * error, color=LIMIT, capsize=4)
        start += mean
    left.set_xlim(-0.5, 1.7)
    left.set_xticks([])
    left.axhline(0, color=LIMIT, linewidth=0.8)
    legend(left, loc="upper right")
    title = f"log p(x) \N{MINUS SIGN} ELBO = {number(start, 3)} nats: whose part"
    label(left, title, "", f"nats a datum, {PM} 2 s.e.")
    _by_datum(right, table, "amortisation_gap", "approximation_gap")
    label(right, "by datum", "amortisation gap (nats)", f"approximation gap (nats), {PM} 2 s.e.")
    return figure


def _by_datum(axes: Axes, table: xr.Dataset, x: str, y: str) -> None:
    """Two gaps by datum, with the line where they are equal."""
    both = [table[n].values for n in (x, y)]
    errors = [2 * table[f"{n}_std_error"].values for n in (x, y)]
    style = {"linestyle": "", "marker": ".", "color": FIRST, "ecolor": QUIET, "elinewidth": 0.8}
    axes.errorbar(both[0], both[1], xerr=errors[0], yerr=errors[1], **style)
    axes.axline((0, 0), slope=1, color=LIMIT, linestyle="--", linewidth=1)
    axes.axhline(0, color=LIMIT, linewidth=0.6)
    axes.axvline(0, color=LIMIT, linewidth=0.6)


@register
def ais(table: xr.Dataset) -> Figure:
    """Log p(x) by annealed importance sampling over data, what chains add, and their moves.

    Arguments:
        table: The Dataset of `diagnostics.ais`.
    """
    figure, (left, middle, right) = canvas(3, width=4.4)
    mean, error = (table.attrs[f"ais_log_px_mean{end}"] for end in ("", "_std_error"))
    values = finite(table.ais_log_px)
    left.hist(values, bins=bins(values), color=FIRST)
    left.axvline(mean, color=LIMIT, linestyle="--", linewidth=1)
    label(left, f"log p(x): {number(mean)} {PM} {number(error)} nats", "nats", "data")
    more = finite(table.ais_log_px - table.ais_chain_bound)
    middle.hist(more, bins=bins(more), color=FIRST)
    title = f"{table.attrs['num_chains']} chains of {table.attrs['num_steps']} temperatures"
    label(middle, title, "log p(x) less the mean of single chains (nats)", "data")
    _moves(right, table, ("ais_acceptance", "ais_lowest_acceptance"))
    return figure


def _moves(axes: Axes, table: xr.Dataset, names: tuple[str, str]) -> None:
    edges = np.linspace(0, 1, 26).tolist()
    for name, colour in zip(names, (FIRST, SECOND), strict=True):
        text = name.partition("_")[2].replace("_", " ")
        axes.hist(finite(table[name]), bins=edges, color=colour, alpha=0.65, label=text)
    axes.set_xlim(0, 1)
    legend(axes)
    label(axes, "share of moves accepted", "", "data")


@register
def bdmc(table: xr.Dataset) -> Figure:
    """The sandwich around log p(x) of simulated data: both bounds, and what lies between.

    Arguments:
        table: The Dataset of `diagnostics.bdmc`.
    """
    figure, (left, middle, right) = canvas(3, width=4.4)
    for place, name in enumerate(("bdmc_lower", "bdmc_upper")):
        mean, error = table.attrs[f"{name}_mean"], table.attrs[f"{name}_mean_std_error"]
        bar = {"marker": "o", "color": (FIRST, SECOND)[place], "capsize": 4}
        left.errorbar(place, mean, yerr=2 * error, **bar)
        left.annotate(f"  {number(mean)}", (place, mean), fontsize=8.5, va="center")
    left.set_xlim(-0.6, 1.9)
    left.set_xticks([0, 1], ["lower", "upper"])
    label(left, "log p(x) of simulated data", "", f"nats a datum, {PM} 2 s.e.")
    low, high = (table[n].values for n in ("bdmc_lower", "bdmc_upper"))
    middle.plot(low, high, linestyle="", marker=".", color=FIRST)
    known = finite(low)
    if known.size:
        middle.axline(
            (known.min(), known.min()), slope=1, color=LIMIT, linestyle="--", linewidth=1
        )
    label(middle, "by datum (bounds hold in the mean)", "lower (nats)", "upper (nats)")
    gap, error = table.attrs["bdmc_gap_mean"], table.attrs["bdmc_gap_mean_std_error"]
    between = finite(table.bdmc_gap)
    right.hist(between, bins=bins(between), color=FIRST)
    right.axvline(gap, color=LIMIT, linestyle="--", linewidth=1)
    title = f"between them: {number(gap, 3)} {PM} {number(error, 3)} nats"
    label(right, title, "upper less lower (nats)", "data")
    return figure


@register
def nuts_check(table: xr.Dataset) -> Figure:
    """The guide beside NUTS on a few data: shift of the mean, ratio of sds, whole marginals.

    Data whose chains are not to be believed are hollow.

    Arguments:
        table: The Dataset of `diagnostics.nuts_check`.
    """
    figure, (left, middle, right) = canvas(3, width=4.4)
    checked = table.isel(data=table.nuts_believed.notnull().values)
    believed = checked.nuts_believed.values == 1
    good, all_of = int(believed.sum()), len(believed)
    parts = (
        (left, "mean_shift", 0.0, "shift of the mean, in sd of NUTS"),
        (middle, "sd_ratio", 1.0, "sd of the guide over that of NUTS"),
        (right, "ks_distance", None, "greatest distance of distribution functions"),
    )
    for axes, name, right_value, title in parts:
        _latents(axes, checked, name, believed)
        if right_value is not None:
            axes.axhline(right_value, color=LIMIT, linestyle="--", linewidth=1)
        label(axes, title, "latent", f"{PM} 2 s.e." if f"{name}_std_error" in checked else "")
    right.set_ylim(bottom=0)
    doubt = "" if good == all_of else " (hollow: not to be believed)"
    figure.suptitle(
        f"NUTS on {all_of} data, {good} of which mixed{doubt}", fontsize=10, x=0.01, ha="left"
    )
    return figure


def _latents(axes: Axes, table: xr.Dataset, name: str, believed: np.ndarray) -> None:
    values = table[name].transpose("data", "latent").values
    noise = f"{name}_std_error"
    errors = 2 * table[noise].transpose("data", "latent").values if noise in table else None
    places = np.arange(values.shape[1])
    for i, row in enumerate(values):
        # data side by side at each latent
        across = places + 0.5 * (i / max(len(values) - 1, 1) - 0.5)
        style: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 4, "color": FIRST}
        style |= {} if believed[i] else {"fillstyle": "none", "color": BAD}
        bars = None if errors is None else errors[i]
        axes.errorbar(across, row, yerr=bars, elinewidth=0.8, **style)
    names = list(map(str, table.latent.values))
    if len(names) <= 16:
        axes.set_xticks(places, names, rotation=60, ha="right")
