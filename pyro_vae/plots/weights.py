"""Pictures of what log weights tell: k-hat, the ELBO with both its KLs, the curve of bounds."""

from __future__ import annotations

__all__ = ["elbo", "iwae", "pareto_k"]

from typing import TYPE_CHECKING

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
    empty,
    finite,
    label,
    legend,
    number,
)
from pyro_vae.plots.shelf import register

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = (-1.0, 2.0)
"""Values of k-hat beyond are drawn at these ends, and counted."""


@register
def pareto_k(table: xr.Dataset) -> Figure:
    """k-hat over data, with its threshold and the share above; and the relative ESS.

    Arguments:
        table: The Dataset of `diagnostics.pareto_k`.
    """
    figure, (left, right) = canvas(2)
    _khat(left, table)
    ess = finite(table.relative_ess)
    right.hist(ess, bins=np.linspace(0, 1, 31).tolist(), color=FIRST)
    right.set_xlim(0, 1)
    middle = f", median {number(float(np.median(ess)))}" if ess.size else ""
    label(right, f"effective share of draws{middle}", "relative ESS of smoothed weights", "data")
    return figure


def _khat(axes: Axes, table: xr.Dataset) -> None:
    values, limit = table.khat.values.ravel(), table.attrs["khat_threshold"]
    known = values[~np.isnan(values)]
    low, high = SHOWN
    # an edge lies at the threshold, so that no bar is half good
    step = 0.1
    steps = np.arange(-np.ceil((limit - low) / step) - 1, np.ceil((high - limit) / step) + 1)
    edges = limit + step * steps
    edges[[0, -1]] = low - step, high
    clipped = known.clip(low, high)
    axes.hist(clipped[clipped <= limit], bins=edges.tolist(), color=FIRST)
    axes.hist(clipped[clipped > limit], bins=edges.tolist(), color=BAD)
    axes.axvline(limit, color=LIMIT, linestyle="--", linewidth=1)
    share, error = (
        100 * table.attrs[n] for n in ("khat_share_above", "khat_share_above_std_error")
    )
    title = (
        f"above {number(limit)} for {number(share, 1)} \N{PLUS-MINUS SIGN} {number(error, 1)} %"
    )
    label(axes, f"k-hat: {title} of data", "k-hat", "data")
    notes = {
        f"{int((known == -np.inf).sum())} of constant weights (exact guide), at the left end": (
            known == -np.inf
        ).any(),
        f"{int((known > high).sum())} above {high:g}, at the right end": (known > high).any(),
        f"{int(np.isnan(values).sum())} unknown (too few draws, or NaN)": np.isnan(values).any(),
    }
    text = "\n".join(note for note, holds in notes.items() if holds)
    axes.text(0.98, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=8)


@register
def elbo(table: xr.Dataset) -> Figure:
    """KL(q || p) of each datum, analytic against sampled, and the ELBO over data.

    Arguments:
        table: The Dataset of `diagnostics.elbo`.
    """
    figure, (left, right) = canvas(2)
    _kls(left, table)
    values = finite(table.elbo)
    right.hist(values, bins=bins(values), color=FIRST)
    mean, error = table.attrs["elbo_mean"], table.attrs["elbo_mean_std_error"]
    right.axvline(mean, color=LIMIT, linestyle="--", linewidth=1)
    title = f"ELBO: mean {number(mean)} \N{PLUS-MINUS SIGN} {number(error, 3)} nats"
    label(right, title, "ELBO of a datum (nats)", "data")
    return figure


def _kls(axes: Axes, table: xr.Dataset) -> None:
    exact, sampled = table.kl_analytic.values, table.kl_sampled.values
    known = np.isfinite(exact) & np.isfinite(sampled)
    if not known.any():
        values = finite(sampled)
        axes.hist(values, bins=bins(values), color=FIRST)
        infinite = np.isposinf(exact).any()
        why = "the analytic one is infinite" if infinite else "no analytic one is known"
        label(axes, f"sampled KL(q || p): {why}", "KL(q || p) of a datum (nats)", "data")
        return
    noise = table.kl_sampled_std_error.values[known]
    style = {"linestyle": "", "marker": ".", "markersize": 4, "color": FIRST, "ecolor": QUIET}
    axes.errorbar(exact[known], sampled[known], yerr=2 * noise, elinewidth=0.8, **style)
    ends = float(exact[known].min()), float(exact[known].max())
    axes.axline((ends[0], ends[0]), slope=1, color=LIMIT, linestyle="--", linewidth=1)
    z = number(table.attrs["kl_z_score"], 1)
    left_out = int((~known).sum())
    more = f"; {left_out} without an analytic one" if left_out else ""
    title = f"KL(q || p) by datum (total differs by {z} s.e.{more})"
    label(axes, title, "analytic (nats)", "sampled (nats), \N{PLUS-MINUS SIGN} 2 s.e.")


@register
def iwae(table: xr.Dataset) -> Figure:
    """The bound over the number of particles, with errors; and what the ELBO misses by datum.

    Arguments:
        table: The Dataset of `diagnostics.iwae`.
    """
    figure, (left, right) = canvas(2)
    _curve(left, table)
    values = finite(table.iwae_gap)
    if values.size:
        right.hist(values, bins=bins(values), color=FIRST)
    else:
        empty(right, "no finite gap")
    mean, error = table.attrs["iwae_gap_mean"], table.attrs["iwae_gap_mean_std_error"]
    title = f"gap: mean {number(mean, 3)} \N{PLUS-MINUS SIGN} {number(error, 3)} nats"
    label(right, title, "log p(x) \N{MINUS SIGN} ELBO of a datum (nats)", "data")
    return figure


def _curve(axes: Axes, table: xr.Dataset) -> None:
    curve = table.iwae_curve.transpose("particles", "data").values
    noise = table.iwae_curve_std_error.transpose("particles", "data").values
    mean = curve.mean(1)
    # draws of different data are independent of each other
    error = np.sqrt(np.square(noise).sum(1)) / curve.shape[1]
    particles = table.particles.values
    bar = {"marker": "o", "markersize": 4, "color": FIRST, "capsize": 3}
    axes.errorbar(particles, mean, yerr=2 * error, label="importance-weighted bound", **bar)
    axes.axhline(mean[0], color=QUIET, linewidth=1.2, label="ELBO")
    smoothed = table.attrs["psis_log_px_mean"]
    if np.isfinite(smoothed):
        axes.axhline(smoothed, color=SECOND, linestyle=":", linewidth=1.5, label="Pareto-smoothed")
    axes.set_xscale("log")
    legend(axes)
    warned = table.attrs["iwae_unreliable_share"]
    title = "bounds of log p(x)"
    if table.attrs["iwae_warning"]:
        title += f", not to be trusted for {100 * warned:.0f} % of data"
    label(axes, title, "particles K", "nats a datum, \N{PLUS-MINUS SIGN} 2 s.e.")
