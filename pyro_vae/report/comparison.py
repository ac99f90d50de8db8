"""A comparison of pairings for people: a table for the terminal, a Markdown and an HTML page."""

from __future__ import annotations

__all__ = ["markdown", "page", "table"]

import html
import json
import math
from collections.abc import Callable, Iterator

import xarray as xr

from pyro_vae.report.html import image, paragraph, require_tabulate, whole

MEAN_FIELD = {"analytic": "analytic", "fallback": "falls back", "refused": "refused"}
TEXT_COLUMNS = 4

HOW_TO_READ = (
    "Each row is a VAE trained with one guide q(z|x) and one prior p(z), by the same networks, "
    "steps and data; training minimised Trace_ELBO, which applies to every pair.",
    "ELBO is the lower bound on log p(x), in nats per datum, more is better; its error is over "
    "draws of the guide. KL is KL(q || p), in nats per datum: its analytic value where one is "
    "known, and its mean over draws, which should agree within its error. For mixtures of "
    "Gaussians no exact value is known, but bounds [lower, upper] that hold always.",
    "KL route says how KL(q || p) can be had exactly (by a closed form or by quadrature), or that "
    "it can only be sampled. Whose a form is: ours alone; ours where torch has one too; or ours "
    "and given to torch, so that Pyro finds it. Mean-field says what Pyro's TraceMeanField_ELBO "
    "does: use an analytic form, fall back to sampling without saying so, or refuse the guide.",
    "SNR is the norm of the mean gradient of the guide over the deviation of one call, under "
    "Trace_ELBO and under TraceMeanField_ELBO (MF): more is better. An analytic KL "
    "often makes the gradient quieter, but not always.",
)


def table(dataset: xr.Dataset) -> str:
    """Return a comparison as text: one row for each admissible pair.

    Arguments:
        dataset: The result of `compare_pairings`.

    Raises:
        ImportError: If tabulate is not installed.
    """
    return "\n\n".join([_tabulated(dataset, "simple"), *_notes(dataset)])


def markdown(dataset: xr.Dataset, picture: str | None = None) -> str:
    """Return a comparison as a Markdown page.

    Arguments:
        dataset: The result of `compare_pairings`.
        picture: The path of a picture to show, relative to the page.

    Raises:
        ImportError: If tabulate is not installed.
    """
    parts = ["# Guides and priors compared", " ".join(_summary(dataset))]
    parts += [f"![ELBO by guide and prior]({picture})"] if picture else []
    parts += [_pretty(_tabulated(dataset, "github", escape=_markdown_text))]
    parts += ["## How to read it", *HOW_TO_READ]
    for title, items in _lists(dataset):
        lines = [f"- **{_markdown_text(head)}**: {_markdown_text(text)}" for head, text in items]
        parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def page(dataset: xr.Dataset, picture: bytes | None = None) -> str:
    """Return a comparison as one self-contained HTML page.

    Arguments:
        dataset: The result of `compare_pairings`.
        picture: A PNG picture to embed.

    Raises:
        ImportError: If tabulate is not installed.
    """
    parts = ["<h1>Guides and priors compared</h1>", paragraph(" ".join(_summary(dataset)))]
    if picture is not None:
        parts.append(image(picture, "ELBO by guide and prior"))
    parts.append(f'<div class="wide">{_pretty(_tabulated(dataset, "html"))}</div>')
    parts += ["<h2>How to read it</h2>", *map(paragraph, HOW_TO_READ)]
    for title, items in _lists(dataset):
        lines = [f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in items]
        parts += [f"<h2>{html.escape(title)}</h2>", f"<dl>{''.join(lines)}</dl>"]
    return whole("Guides and priors compared", parts)


# ---------------------------------------------------------------------- the table

_COLUMNS: dict[str, Callable[[xr.Dataset], str]] = {
    "guide": lambda c: str(c["guide"].item()),
    "prior": lambda c: str(c["prior"].item()),
    "KL route": lambda c: _route(c),
    "mean-field": lambda c: _mean_field(c),
    "ELBO": lambda c: _with_error(c, "elbo_per_datum", 2),
    "KL analytic": lambda c: _number(float(c["kl_analytic"])),
    "KL sampled": lambda c: _with_error(c, "kl_sampled") + _interval(c),
    "SNR Trace": lambda c: _number(float(c["gradient_snr"].sel(elbo="Trace_ELBO")), 2),
    "SNR MF": lambda c: _number(float(c["gradient_snr"].sel(elbo="TraceMeanField_ELBO")), 2),
    "findings": lambda c: _findings(c),
}


def _tabulated(
    dataset: xr.Dataset, style: str, escape: Callable[[str], str] = lambda text: text
) -> str:
    require_tabulate()
    from tabulate import tabulate

    rows = [[escape(column(c)) for column in _COLUMNS.values()] for c in _admissible(dataset)]
    numbers = len(_COLUMNS) - TEXT_COLUMNS - 1
    align = ["left"] * TEXT_COLUMNS + ["right"] * numbers + ["left"]
    return tabulate(rows, list(_COLUMNS), style, disable_numparse=True, colalign=align)


def _admissible(dataset: xr.Dataset) -> Iterator[xr.Dataset]:
    for guide in dataset["guide"].values:
        for prior in dataset["prior"].values:
            cell = dataset.sel(guide=guide, prior=prior)
            if int(cell["admissible"]):
                yield cell


def _route(cell: xr.Dataset) -> str:
    route, source = str(cell["kl_route"].item()), str(cell["kl_source"].item())
    package, _, rest = source.partition(", ")
    if not route or package in ("", "none"):
        return route or "-"
    whose = "ours" if package == "pyro_vae" else package
    shared = rest.replace("in place of ", "").replace("'s", " too")
    return f"{route} ({whose}, {shared})" if rest else f"{route} ({whose})"


def _mean_field(cell: xr.Dataset) -> str:
    route = str(cell["mean_field_route"].item())
    return MEAN_FIELD.get(route, route) or "-"


def _findings(cell: xr.Dataset) -> str:
    failure = str(cell["failure"].item())
    return f"failed: {failure}" if failure else str(cell["findings"].item())


def _with_error(cell: xr.Dataset, name: str, digits: int = 3) -> str:
    value, error = float(cell[name]), float(cell[f"{name}_std_error"])
    text = _number(value, digits)
    return text if math.isnan(error) else f"{text} +- {_number(error, digits)}"


def _interval(cell: xr.Dataset) -> str:
    ends = [float(cell[name]) for name in ("kl_lower", "kl_upper")]
    return "" if any(map(math.isnan, ends)) else f" in [{', '.join(map(_number, ends))}]"


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


# ---------------------------------------------------------------------- around the table


def _summary(dataset: xr.Dataset) -> list[str]:
    attrs, admissible = dataset.attrs, int(dataset["admissible"].sum())
    return [
        f"{dataset.sizes['guide']} guides and {dataset.sizes['prior']} priors make "
        f"{dataset['admissible'].size} pairs, of which {admissible} are admissible.",
        f"Trained on {attrs['trained_on']} with the likelihood {attrs['likelihood']}; "
        f"compared on {attrs['evaluated_on']}.",
    ]


def _notes(dataset: xr.Dataset) -> list[str]:
    """What stands below the table in a terminal."""
    refused = int((dataset["admissible"] == 0).sum())
    lines = [
        "ELBO and KL in nats per held-out datum, +- standard error over draws. SNR: signal to "
        "noise of the\nguide's gradient under Trace_ELBO and under TraceMeanField_ELBO (MF).",
        *(["in [a, b]: bounds that hold always on the KL that is sampled."] * _bounded(dataset)),
        *[f"{code}: {text}." for code, text in _codes(dataset)],
    ]
    if refused:
        lines.append(f"{refused} pairs are not admissible; the pages give the reasons.")
    return ["\n".join(lines)]


def _bounded(dataset: xr.Dataset) -> bool:
    return bool(dataset["kl_lower"].notnull().any())


def _lists(dataset: xr.Dataset) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The sections of a page that are lists, those with items only."""
    sections = {
        "Failed pairs": _texts(dataset, "failure"),
        "Findings": _codes(dataset),
        "Pairs that are not admissible": _texts(dataset, "reason"),
        "Settings": [*_json(dataset, "settings"), *_json(dataset, "versions")],
    }
    for title, items in sections.items():
        if items:
            yield title, items


def _texts(dataset: xr.Dataset, name: str) -> list[tuple[str, str]]:
    """The pairs for which a text is not empty, each with its text."""
    texts = dataset[name].to_pandas()
    return [
        (f"{guide} x {prior}", str(text))
        for guide, row in texts.iterrows()
        for prior, text in row.items()
        if text
    ]


def _codes(dataset: xr.Dataset) -> list[tuple[str, str]]:
    """The findings that occur, and what they mean."""
    found = {
        code.strip() for text in dataset["findings"].values.flat for code in str(text).split(";")
    }
    return [(code, text) for code, text in _json(dataset, "findings") if code in found]


def _json(dataset: xr.Dataset, name: str) -> list[tuple[str, str]]:
    return [(key, str(value)) for key, value in json.loads(dataset.attrs[name]).items()]


def _pretty(text: str) -> str:
    return text.replace(" +- ", " ± ")


def _markdown_text(text: str) -> str:
    for mark in ("\\", "|", "*", "_", "<"):
        text = text.replace(mark, f"\\{mark}")
    return text
