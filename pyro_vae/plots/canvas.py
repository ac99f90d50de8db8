"""Figures of their own, with the colours and habits that all pictures share."""

from __future__ import annotations

__all__ = [
    "BAD",
    "FIRST",
    "LIMIT",
    "QUIET",
    "SECOND",
    "bins",
    "canvas",
    "empty",
    "finite",
    "label",
    "legend",
    "number",
    "png",
    "require_matplotlib",
]

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST, SECOND, QUIET, BAD, LIMIT = "#2f6db3", "#d9822b", "#b8bec6", "#b3261e", "#444444"
"""Colours: of the first and the second series, of what is not in the foreground, of what is
wrong, and of lines that are limits."""


def require_matplotlib() -> None:
    """Raise an ImportError with the cure if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "pyro-vae[plots]"') from error


def canvas(
    columns: int = 1, rows: int = 1, *, width: float = 4.8, height: float = 3.3
) -> tuple[Figure, list[Axes]]:
    """Return a figure that no window and no pyplot knows of, and its axes, row by row.

    Arguments:
        columns: The number of axes in a row.
        rows: The number of rows.
        width: Of one of the axes, in inches.
        height: Of one of the axes, in inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    made = figure.subplots(rows, columns, squeeze=False)
    for axes in made.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
    return figure, list(made.flat)


def label(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Write the title of axes, to the left, and what its sides show."""
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def empty(axes: Axes, reason: str) -> None:
    """Say on axes why there is nothing to draw."""
    axes.set_axis_off()
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "color": LIMIT}
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, wrap=True, **style)


def legend(axes: Axes, **style: Any) -> None:
    """A legend where there is room, which hides little of what lies below it."""
    axes.legend(**{"fontsize": 8, "framealpha": 0.8, "edgecolor": "none", "loc": "best"} | style)


def bins(values: np.ndarray) -> int:
    """Return how many bars a histogram of so many numbers bears."""
    return int(np.clip(len(values) // 5, 8, 40))


def finite(values: Any) -> np.ndarray:
    """Return the finite numbers among values, in one row."""
    flat = np.asarray(values, dtype=float).ravel()
    return flat[np.isfinite(flat)]


def number(value: float, digits: int = 2) -> str:
    """Return a number with a true minus sign, or why it is none."""
    if np.isnan(value):
        return "none"
    if np.isinf(value):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()
