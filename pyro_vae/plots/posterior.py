"""Pictures of what the guide is over all data: calibration, aggregate posterior, latents used."""

from __future__ import annotations

__all__ = ["active_units", "aggregate_posterior", "calibration", "collapse"]

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pyro_vae.plots.bands import distance, ecdf_band, ecdf_difference, kolmogorov
from pyro_vae.plots.canvas import (
    BAD,
    FIRST,
    LIMIT,
    QUIET,
    SECOND,
    canvas,
    empty,
    label,
    legend,
    number,
)
from pyro_vae.plots.shelf import register

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12
"""How many quantities or latents are drawn one by one."""


# ----------------------------------------------------------------------------------- calibration
@register
def calibration(table: xr.Dataset) -> Figure:
    """PIT values: ecdf less the diagonal, in simultaneous bands; coverage; contraction.

    The inner band holds all of one curve with probability 0.95. The outer one is that of the
    verdict: a curve that leaves it is one of a guide that is rejected.

    Arguments:
        table: The Dataset of `diagnostics.calibration`.
    """
    figure, (left, middle, right) = canvas(3, width=4.5)
    values = _pit_values(table)
    p_values = {str(q): float(table.pit_p_value.sel(quantity=q)) for q in table.quantity.values}
    known = sorted((q for q in values if not np.isnan(values[q]).any()), key=p_values.__getitem__)
    shown = known[:MOST]
    if not shown:
        for axes in (left, middle, right):
            empty(axes, "no quantity could be ranked")
        return figure
    _ecdfs(left, table, {q: values[q] for q in shown}, len(known))
    _coverage(middle, table.sel(quantity=shown))
    _bars(right, table, "contraction", "posterior contraction of latents", "1 - E Var_q / Var_p")
    right.axvline(0, color=LIMIT, linewidth=0.8)
    return figure


def _pit_values(table: xr.Dataset) -> dict[str, np.ndarray]:
    """PIT values by quantity."""
    found: dict[str, np.ndarray] = {}
    for name, dim in (("pit", "latent"), ("pit_direction", "direction")):
        if table.sizes.get(dim):
            found |= {str(q): table[name].sel({dim: q}).values for q in table[dim].values}
    found |= {"log_likelihood": table.pit_log_likelihood.values, "hpd": table.pit_hpd.values}
    return {q: found[q] for q in map(str, table.quantity.values) if q in found}


def _ecdfs(axes: Axes, table: xr.Dataset, values: dict[str, np.ndarray], tests: int) -> None:
    count = len(next(iter(values.values())))
    limit = kolmogorov(count, table.attrs["calibration_failure_probability"] / tests)
    axes.axhspan(-limit, limit, color=QUIET, alpha=0.25, linewidth=0, label="verdict")
    at, low, high = ecdf_band(count)
    axes.fill_between(at, low, high, color=QUIET, alpha=0.6, linewidth=0, label="95 % of one")
    for i, (quantity, u) in enumerate(values.items()):
        out = " (out)" if distance(u) > limit else ""
        at = np.linspace(0, 1, 201)
        style: dict[str, Any] = {"linewidth": 1.6 if out else 1.0, "color": f"C{i % 10}"}
        axes.plot(at, ecdf_difference(u, at), label=f"{quantity}{out}", **style)
    axes.set_xlim(0, 1)
    legend(axes, fontsize=7.5, ncols=2)
    p = table.attrs["calibration_p_value"]
    more = f", {len(values)} of {tests} drawn" if len(values) < tests else ""
    label(axes, f"PIT values: p = {p:.2g} for all{more}", "u", "ecdf(u) \N{MINUS SIGN} u")


def _coverage(axes: Axes, table: xr.Dataset) -> None:
    places = np.arange(table.sizes["quantity"])
    for level, colour in ((50, FIRST), (90, SECOND)):
        share, error = table[f"coverage_{level}"], table[f"coverage_{level}_std_error"]
        style = {"linestyle": "", "marker": "o", "markersize": 4, "capsize": 2, "color": colour}
        axes.errorbar(share, places, xerr=2 * error, label=f"{level} %", **style)
        axes.axvline(level / 100, color=colour, linestyle="--", linewidth=0.9)
    axes.set_yticks(places, list(map(str, table.quantity.values)))
    axes.set_xlim(0, 1.02)
    axes.invert_yaxis()
    legend(axes)
    label(
        axes,
        "coverage of regions of 50 and 90 %",
        "share of z* inside, \N{PLUS-MINUS SIGN} 2 s.e.",
    )


# --------------------------------------------------------------------------- aggregate posterior
@register
def aggregate_posterior(table: xr.Dataset) -> Figure:
    """Mutual information and KL(q(z) || p), each between its two bounds; the KL by latent.

    Arguments:
        table: The Dataset of `diagnostics.aggregate_posterior`.
    """
    figure, (left, right) = canvas(2, width=5.6)
    names = {
        "mutual_information": "I(x; z)",
        "kl_aggregate": "KL(q(z) || p(z))",
        "total_correlation": "total correlation",
    }
    for place, (name, text) in enumerate(names.items()):
        low, high = table[name].values
        error = table[f"{name}_std_error"].values
        _sandwich(left, place, (low, high), error)
        known = f"{number(low)} ... {number(high)}" if np.isfinite(low) else "not known"
        left.annotate(known, (high if np.isfinite(high) else 0, place - 0.22), fontsize=8)
        names[name] = text
    mean, error = float(table.kl_mean), float(table.kl_mean_std_error)
    style = {"marker": "o", "markersize": 5, "color": LIMIT, "capsize": 3}
    left.errorbar(mean, len(names), xerr=2 * error, **style)
    left.annotate(number(mean), (mean, len(names) - 0.22), fontsize=8)
    left.set_yticks(range(len(names) + 1), [*names.values(), "E KL(q(z|x) || p(z))"])
    limit = table.attrs["aggregate_log_num_data"]
    left.axvline(limit, color=BAD, linestyle=":", linewidth=1.2)
    style: dict[str, Any] = {"color": BAD, "fontsize": 8, "rotation": 90, "va": "bottom"}
    left.text(limit, len(names) + 0.4, " log N", ha="right", **style)
    left.axvline(0, color=LIMIT, linewidth=0.8)
    left.set_ylim(len(names) + 0.5, -0.5)
    left.margins(x=0.12)
    saturated = " (saturated)" if table.attrs["mutual_information_saturated"] else ""
    title = f"E KL = I + KL of the aggregate{saturated}"
    label(left, title, "nats: lower and upper bound, \N{PLUS-MINUS SIGN} 2 s.e.")
    _dimensions(right, table)
    return figure


def _sandwich(axes: Axes, place: float, bounds: tuple[float, float], error: np.ndarray) -> None:
    style: dict[str, Any] = {"solid_capstyle": "butt"}
    axes.plot(bounds, (place, place), color=FIRST, linewidth=7, alpha=0.55, **style)
    for bound, noise in zip(bounds, error, strict=True):
        reach = (bound - 2 * noise, bound + 2 * noise)
        axes.plot(reach, (place, place), color=FIRST, linewidth=1.4)
        axes.plot(bound, place, marker="|", markersize=13, color=FIRST)


def _dimensions(axes: Axes, table: xr.Dataset) -> None:
    by_latent = table.kl_dimension.transpose("bound", "latent")
    known = by_latent.notnull().all("bound").values
    if not known.any():
        empty(axes, f"no KL by latent:\n{table.attrs['kl_dimension_reason']}")
        return
    by_latent = by_latent.isel(latent=known)
    errors = table.kl_dimension_std_error.transpose("bound", "latent").isel(latent=known)
    order = np.argsort(-by_latent.mean("bound").values, kind="stable")[:MOST]
    for place, i in enumerate(order):
        low, high = by_latent.values[:, i]
        _sandwich(axes, place, (low, high), errors.values[:, i])
    axes.set_yticks(range(len(order)), [str(by_latent.latent.values[i]) for i in order])
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.axvline(0, color=LIMIT, linewidth=0.8)
    total = number(float(by_latent.sum("latent").mean()))
    more = f", {len(order)} of {int(known.sum())} drawn" if len(order) < known.sum() else ""
    label(axes, f"KL(q(z_d) || p(z_d)): {total} in all{more}", "nats, \N{PLUS-MINUS SIGN} 2 s.e.")


# ------------------------------------------------------------------------------- latents in use
@register
def active_units(table: xr.Dataset) -> Figure:
    """The activity of each latent coordinate, and how many are active at each threshold.

    Arguments:
        table: The Dataset of `diagnostics.active_units`.
    """
    figure, (left, right) = canvas(2)
    table = table.isel(latent=np.isfinite(table.activity.values))
    activity = table.activity.values
    order = np.argsort(-activity, kind="stable")
    limit = table.attrs["activity_threshold"]
    # unbiased variances may come out negative; they stand at the foot
    positive = activity[activity > 0]
    floor = min(limit, positive.min(initial=limit)) / 3
    places, heights = np.arange(len(order)), activity[order].clip(floor)
    colours = [FIRST if activity[i] > limit else QUIET for i in order]
    error = 2 * table.activity_std_error.values[order]
    # a whisker that reached below zero would leave the logarithmic axis
    down = np.minimum(error, heights - floor)
    left.bar(places, heights - floor, bottom=floor, color=colours, width=0.8)
    left.errorbar(places, heights, yerr=(down, error), linestyle="", color=LIMIT, linewidth=0.8)
    left.axhline(limit, color=LIMIT, linestyle="--", linewidth=1)
    left.set_yscale("log")
    names = [str(table.latent.values[i]) for i in order]
    if len(names) <= 2 * MOST:
        left.set_xticks(places, names, rotation=60, ha="right")
    count = table.attrs["num_active_units"]
    title = f"{count} of {len(order)} latent coordinates are active"
    label(left, title, "latent" if len(names) > 2 * MOST else "", "Var_x E_q[z_d | x]")
    thresholds = table.threshold.values
    for name, colour, text in (
        ("active_units", FIRST, "variance of the posterior mean"),
        ("active_units_relative", SECOND, "its share of the variance of q(z)"),
    ):
        right.step(thresholds, table[name], where="mid", color=colour, label=text)
    right.axvline(limit, color=LIMIT, linestyle="--", linewidth=1)
    right.set_xscale("log")
    right.set_ylim(0, len(order) * 1.08 + 0.2)
    legend(right)
    label(right, "how far that hangs on the threshold", "threshold", "active units")
    return figure


@register
def collapse(table: xr.Dataset) -> Figure:
    """What the decoder gets out of each latent, and what the guide puts into it.

    Arguments:
        table: The Dataset of `diagnostics.collapse`.
    """
    figure, (left, middle, right) = canvas(3, width=4.3)
    rows = {
        "decoder_sd": "decoder: sd of log p(x|z)\nover the prior",
        "decoder_gain_all": "decoder: loss by z of\nanother datum",
        "guide_gain": "guide: gain of its own x",
    }
    means = [float(table[n]) for n in rows]
    errors = [2 * float(table[f"{n}_std_error"]) for n in rows]
    places = np.arange(len(rows))
    blamed = [table.attrs["decoder_ignores_z"], 0, table.attrs["guide_ignores_x"]]
    colours = [BAD if blame else FIRST for blame in blamed]
    left.barh(places, means, xerr=errors, color=colours, height=0.55, capsize=3)
    left.set_yticks(places, list(rows.values()))
    left.invert_yaxis()
    left.axvline(0, color=LIMIT, linewidth=0.8)
    names = ("decoder ignores z", "", "guide ignores x")
    who = [name for name, blame in zip(names, blamed, strict=True) if blame]
    label(left, " and ".join(who) or "who looks at what", "nats, \N{PLUS-MINUS SIGN} 2 s.e.")
    count = table.attrs["collapsed_latents"]
    gone = table.collapsed.values == 1
    text = f"{count} of {len(gone)} latents are collapsed"
    _bars(middle, table, "kl_latent", text, "KL of the marginals (nats)", gone)
    _bars(right, table, "decoder_gain", "what the decoder gets of each", "nats", gone)
    return figure


def _bars(
    axes: Axes, table: xr.Dataset, name: str, title: str, x: str, marked: Any = None
) -> None:
    """A variable by latent with its errors, the largest above."""
    values, errors = table[name].values, table[f"{name}_std_error"].values
    known = np.isfinite(values)
    if not known.any():
        empty(axes, f"{title}:\nnot known for these latents")
        return
    order = [i for i in np.argsort(-values, kind="stable") if known[i]]
    # the ends are what one looks for
    half = MOST // 2
    shown = order if len(order) <= MOST else [*order[:half], *order[-half:]]
    places = np.arange(len(shown))
    colours = [QUIET if marked is not None and marked[i] else FIRST for i in shown]
    bars = {"height": 0.7, "capsize": 2, "ecolor": LIMIT}
    axes.barh(places, values[shown], xerr=2 * errors[shown], color=colours, **bars)
    names = [str(table.latent.values[i]) for i in shown]
    if len(shown) < len(order):
        names[half - 1] += " ..."
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.axvline(0, color=LIMIT, linewidth=0.8)
    label(axes, title, f"{x}, \N{PLUS-MINUS SIGN} 2 s.e.")
