"""The heatmap of a comparison: guides in rows, priors in columns."""

from __future__ import annotations

__all__ = ["FALLBACK", "REFUSED", "heatmap"]

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pyro_vae.plots.canvas import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY, RED = "#e4e4e4", "#f2c4c0"
FALLBACK = "TraceMeanField_ELBO samples this KL in silence"
LINE, MANY, CLIPPED = 13, 50, 0.05
REFUSED = "TraceMeanField_ELBO refuses this guide"


def heatmap(dataset: xr.Dataset, variable: str = "elbo_per_datum") -> Figure:
    """Draw a variable of `compare_pairings`: guides in rows, priors in columns, by space.

    Each cell shows its number and the route of its KL; dots and stripes say where
    `TraceMeanField_ELBO` samples or refuses; pairs that are not admissible are grey. With more
    than 50 numbers the lowest twentieth shares one colour, which the colour bar shows.

    Arguments:
        dataset: The result of `compare_pairings`.
        variable: A variable with dims `guide` and `prior`. One that has dim `elbo` too is drawn
            for one ELBO at a time: `heatmap(dataset.sel(elbo="Trace_ELBO"), "gradient_snr")`.

    Returns:
        A figure; `figure.savefig(path)` writes it.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no such variable, or its dims are others.

    Example:
        >>> table = xr.Dataset(
        ...     {"kl_analytic": (("guide", "prior"), [[1.5]], {"units": "nats"})},
        ...     {"guide": ["normal"], "prior": ["laplace"]},
        ... )
        >>> heatmap(table, "kl_analytic").axes[0].get_title(loc="left")
        'kl_analytic (nats)'
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = _values(dataset, variable)
    rows, columns = values.shape
    figure = Figure(figsize=(4.6 + 1.12 * columns, 2.5 + 0.56 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shades = _shades(values)
    for i, j in np.ndindex(rows, columns):
        cell = dataset.isel(guide=i, prior=j)
        _draw_cell(axes, (j, i), cell, float(values[i, j]), shades)
    _frame(axes, dataset)
    # room for the names of spaces, which may take two lines
    pad = 48 if "prior_space" in dataset else 8
    label = dataset[variable].attrs.get("long_name", variable)
    units = dataset[variable].attrs.get("units", "")
    axes.set_title(f"{label}{f' ({units})' if units else ''}", loc="left", fontsize=12, pad=pad)
    if shades.get_array() is not None:
        clipped = "min" if (values < shades.norm.vmin).any() else "neither"
        style: dict[str, Any] = {"shrink": 0.8, "pad": 0.02, "extend": clipped}
        figure.colorbar(shades, ax=axes, label=units, **style)
    _legend(figure, dataset)
    return figure


def _values(dataset: xr.Dataset, variable: str) -> np.ndarray:
    if variable not in dataset:
        known = [str(name) for name, v in dataset.items() if v.dtype.kind == "f"]
        raise ValueError(f"there is no variable {variable!r}; numbers: {', '.join(known)}.")
    if set(dataset[variable].dims) != {"guide", "prior"}:
        raise ValueError(
            f"{variable} has dims {', '.join(map(str, dataset[variable].dims))}; a heatmap needs "
            'guide and prior alone, such as dataset.sel(elbo="Trace_ELBO").'
        )
    return dataset[variable].transpose("guide", "prior").values.astype(float)


def _shades(values: np.ndarray) -> Any:
    """The map from numbers to colours, over the finite ones."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    finite = values[np.isfinite(values)]
    # one pair that fails to learn must not take the colours from all others
    low = np.quantile(finite, CLIPPED) if finite.size > MANY else finite.min(initial=np.inf)
    high = finite.max(initial=-np.inf)
    shades = ScalarMappable(Normalize(float(low), float(high)) if finite.size else Normalize(0, 1))
    shades.set_cmap("viridis")
    shades.set_array(finite if finite.size else None)
    return shades


def _draw_cell(
    axes: Axes, corner: tuple[int, int], cell: xr.Dataset, value: float, shades: Any
) -> None:
    from matplotlib.patches import Rectangle

    number, colour, ink = _number(cell, value, shades)
    x, y, route = corner[0] + 0.5, corner[1], _text(cell, "kl_route")
    axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5))
    mean_field = _text(cell, "mean_field_route")
    if mean_field == "refused":
        stripes = {"hatch": "////", "edgecolor": ink, "alpha": 0.3, "linewidth": 0}
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, **stripes))
    elif mean_field == "fallback":
        axes.plot(x + 0.39, y + 0.17, marker="o", markersize=5, color=ink, fillstyle="none")
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    axes.text(x, y + (0.38 if route else 0.5), number, fontsize=10, fontweight="bold", **style)
    if route:
        axes.text(x, y + 0.74, route, fontsize=7.5, **style)


def _number(cell: xr.Dataset, value: float, shades: Any) -> tuple[str, Any, str]:
    """The text of a cell, its colour, and that of the ink upon it."""
    if "admissible" in cell and not int(cell["admissible"]):
        return "\N{EN DASH}", GREY, "#909090"
    if _text(cell, "failure"):
        return "failed", RED, "#8c1d18"
    if math.isnan(value):
        return "none", GREY, "#606060"
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}", RED, "#8c1d18"
    red, green, blue, _ = colour = shades.to_rgba(value)
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
    text = f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
    return text, colour, "black" if light else "white"


def _frame(axes: Axes, dataset: xr.Dataset) -> None:
    """Names of guides and priors on the sides, lines and names where a space ends."""
    guides, priors = (list(map(str, dataset[dim].values)) for dim in ("guide", "prior"))
    axes.set_xlim(0, len(priors))
    axes.set_ylim(len(guides), 0)
    axes.set_xticks(np.arange(len(priors)) + 0.5, [_broken(p) for p in priors])
    axes.set_yticks(np.arange(len(guides)) + 0.5, guides)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("prior p(z)", fontsize=11)
    axes.set_ylabel("guide q(z|x)", fontsize=11)
    for start, end, space in _groups(dataset, "prior_space"):
        axes.axvline(end, color="white", linewidth=6) if end < len(priors) else None
        _brace(axes, (start, end), space, along="x")
    for start, end, space in _groups(dataset, "guide_space"):
        axes.axhline(end, color="white", linewidth=6) if end < len(guides) else None
        _brace(axes, (start, end), space, along="y")


def _brace(axes: Axes, span: tuple[int, int], space: str, along: str) -> None:
    """A line beside a group of columns (above) or rows (to the right), and its name."""
    ends, middle = (span[0] + 0.06, span[1] - 0.06), sum(span) / 2
    name = space if along == "y" or span[1] - span[0] > 1 else _broken(space)
    line = {"color": "#606060", "linewidth": 1.2, "clip_on": False}
    style = {"fontsize": 8.5, "color": "#404040"}
    if along == "x":
        # a few points above the table, however high it is
        near, far = (axes.get_xaxis_transform() + _points(axes, 0, n) for n in (4, 9))
        axes.plot(ends, (1, 1), transform=near, **line)
        axes.text(middle, 1, name, ha="center", va="bottom", transform=far, **style)
    else:
        near, far = (axes.get_yaxis_transform() + _points(axes, n, 0) for n in (5, 10))
        axes.plot((1, 1), ends, transform=near, **line)
        axes.text(1, middle, name, ha="left", va="center", transform=far, **style)


def _points(axes: Axes, right: float, up: float) -> Any:
    """A shift by so many points."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    assert figure is not None
    return ScaledTranslation(right / 72, up / 72, figure.dpi_scale_trans)


def _groups(dataset: xr.Dataset, coordinate: str) -> Iterator[tuple[int, int, str]]:
    """Runs of neighbours on one space: first, end, name."""
    spaces: Sequence[Any] = dataset[coordinate].values.tolist() if coordinate in dataset else []
    start = 0
    for space, run in itertools.groupby(spaces):
        end = start + len(list(run))
        yield start, end, str(space)
        start = end


def _broken(name: str) -> str:
    """A long name on several lines, at its spaces and underscores."""
    lines = [""]
    for word in re.findall(r"[^ _]+[ _]?", name):
        if lines[-1] and len(lines[-1] + word) > LINE:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.strip() for line in lines)


def _legend(figure: Figure, dataset: xr.Dataset) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    routes = set(dataset["mean_field_route"].values.flat) if "mean_field_route" in dataset else ()
    marks: list[Any] = []
    if "kl_route" in dataset:
        marks.append(
            Line2D([], [], linestyle="", label="below the number: the route of KL(q || p)")
        )
    if "fallback" in routes:
        ring: dict[str, Any] = {
            "marker": "o",
            "linestyle": "",
            "color": "#404040",
            "fillstyle": "none",
        }
        marks.append(Line2D([], [], label=FALLBACK, **ring))
    if "refused" in routes:
        marks.append(Patch(facecolor="white", edgecolor="#606060", hatch="////", label=REFUSED))
    if "admissible" in dataset and not bool(dataset["admissible"].all()):
        marks.append(Patch(facecolor=GREY, label="\N{EN DASH}  not admissible"))
    if marks:
        figure.legend(handles=marks, loc="outside lower left", ncols=2, frameon=False, fontsize=9)


def _text(cell: xr.Dataset, variable: str) -> str:
    return str(cell[variable].item()) if variable in cell else ""
