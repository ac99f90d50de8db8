"""A diagnosis for people: a page with verdict, table, and a picture of every diagnostic."""

from __future__ import annotations

__all__ = ["diagnosis_page"]

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

import xarray as xr

from pyro_vae import plots
from pyro_vae.diagnostics import DIAGNOSTICS
from pyro_vae.diagnostics.diagnose import QUANTILES, quantiles
from pyro_vae.plots.canvas import number
from pyro_vae.report.html import image, paragraph, whole

LEVELS = {"good": "good", "care": "use with care", "bad": "bad"}
LONGEST = 200
"""Attributes of more letters are left to the NetCDF file."""


def diagnosis_page(
    found: xr.Dataset,
    images: Mapping[str, bytes] | None = None,
    about: Mapping[str, Any] | None = None,
) -> str:
    """Return a diagnosis as one self-contained HTML page.

    Arguments:
        found: The result of `diagnose`.
        images: Further pictures (PNG) by title: samples, reconstructions, ...
        about: What is known of the model, by name.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `found` is no diagnosis.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyro_vae.diagnostics import diagnose
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.7))
        >>> found = diagnose(model, guide, torch.zeros(20), steps=["pareto_k"], show=False)
        >>> diagnosis_page(found).count("data:image/png;base64,")
        1
    """
    figures = plots.pictures(found)
    findings = json.loads(found.attrs["findings"])
    verdict = found.attrs["verdict"].partition("\n")[0]
    parts = [
        "<h1>Diagnosis</h1>",
        *([paragraph(", ".join(f"{k} {v}" for k, v in about.items()) + ".")] if about else []),
        f'<p class="verdict">{html.escape(verdict)}</p>',
        _findings(finding for some in findings.values() for finding in some),
        *_table(found),
    ]
    for name, some in findings.items():
        parts.append(f'<h2 id="{html.escape(name)}">{html.escape(name)}</h2>')
        parts += [paragraph(DIAGNOSTICS.summary(name))] if name in DIAGNOSTICS else []
        parts.append(_findings(some))
        parts += [image(plots.png(figures[name]), name)] if name in figures else []
    skipped = json.loads(found.attrs["skipped"])
    if skipped:
        parts += ["<h2>Left out</h2>", _list(skipped)]
    for title, picture in (images or {}).items():
        parts += [f"<h2>{html.escape(title)}</h2>", image(picture, title)]
    settings = _list(dict(_settings(found)))
    parts.append(f"<details><summary>All settings and totals</summary>{settings}</details>")
    return whole("Diagnosis", parts)


def _findings(findings: Any) -> str:
    items = []
    for finding in findings:
        text = finding["text"][:1].upper() + finding["text"][1:]
        advice = finding["advice"]
        text = text.replace(" +- ", " \N{PLUS-MINUS SIGN} ")
        more = f' <span class="advice">Try: {html.escape(advice)}</span>' if advice else ""
        level = html.escape(finding["level"])
        mark = LEVELS.get(finding["level"], level)
        items.append(f'<li class="{level}"><b>{mark}</b>: {html.escape(text)}{more}</li>')
    return f'<ul class="findings">{"".join(items)}</ul>'


def _table(found: xr.Dataset) -> Iterator[str]:
    rows = quantiles(found)
    if not rows:
        return
    draws = found.attrs.get("num_samples", 0)
    yield "<h2>Over data</h2>"
    yield paragraph(f"{found.sizes['data']} data, {draws} draws each; numbers in nats.")
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in ("", *QUANTILES))
    lines = "".join(
        f"<tr><td>{html.escape(name)}</td>{_cells(values)}</tr>" for name, values in rows.items()
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    yield f'<div class="wide">{table}</div>'


def _cells(values: list[float]) -> str:
    return "".join(f"<td>{number(value, 3)}</td>" for value in values)


def _settings(found: xr.Dataset) -> Iterator[tuple[str, str]]:
    told = ("verdict", "verdict_level", "findings", "skipped")
    for name, value in found.attrs.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        if name not in told and len(text) <= LONGEST and text:
            yield str(name), text


def _list(items: Mapping[str, Any]) -> str:
    lines = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in items.items())
    return f"<dl>{''.join(lines)}</dl>"
