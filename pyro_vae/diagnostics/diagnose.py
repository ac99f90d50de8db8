"""`diagnose`: all diagnostics that fit, in an order in which each may believe the one before."""

from __future__ import annotations

__all__ = ["QUANTILES", "diagnose", "quantiles"]

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from pyro_vae.diagnostics.shelf import (
    DIAGNOSTICS,
    DiagnosticWarning,
    Finding,
    FromWeights,
    NotApplicable,
    Step,
    summarised,
)
from pyro_vae.diagnostics.weights import BLOCK_SIZE, Stream
from pyro_vae.registry import nearest

QUANTILES = ("mean", "5 %", "50 %", "95 %")
LEVELS = ("good", "care", "bad")
_MARKS = {"good": "good", "care": "care", "bad": "BAD "}
_OVERALL = {
    "good": "Nothing speaks against this guide",
    "care": "Use this guide with care",
    "bad": "Do not rely on this guide",
}


def diagnose(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    seed: int = 0,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = BLOCK_SIZE,
    steps: Sequence[str] | None = None,
    gate: bool = True,
    show: bool = True,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    """Say what can be known of a guide q(z|x), datum by datum, and what to do about it.

    k-hat of p(x, z) / q(z|x) is looked at first, for where it is high no number that rests on
    importance weights can be believed; then the ELBO with both its KLs, then log p(x) by
    importance sampling, then every other diagnostic registered with `diagnostics.step`, in its
    order. Where a finding closes the gate, later steps that rest on it are left out (`skipped`).
    All that are made of log weights share the same draws.

    No single datum is judged: k-hat from 1000 draws changes sides of its threshold too often.
    Nothing of the caller's changes; modules are run as after `eval()`.

    Arguments:
        model: A Pyro model with a plate over data, called as `model(*args, **kwargs)`.
        guide: Its guide.
        *args: Positional arguments of both, the data first.
        num_samples: S, the number of draws for each datum.
        seed: Of all draws.
        plate: The name of the data plate; by default it is found.
        batch_size: On how many (draw, datum) pairs the model is run at once.
        block_size: On how many data the guide is run at once.
        steps: The names of the diagnostics to run; by default all that have a step, but for the
            expensive ones.
        gate: Whether to leave out what an earlier finding makes meaningless.
        show: Whether to print the table and the verdict.
        progress: Whether to show bars for what takes over 2 s.
        **kwargs: Keyword arguments of both.

    Returns:
        The `vi_stats` of the data: the variables of all diagnostics, in nats, most of them by
        `data`. Attrs: `verdict` (plain language), `verdict_level` ("good", "care" or "bad"),
        `findings` and `skipped` (JSON), and the attrs of each diagnostic.

    Raises:
        KeyError: If a step is not registered.
        ValueError: As `diagnostics.Stream` does.

    References:
        Validated variational inference via practical posterior error bounds (J. Huggins,
        M. Kasprzak, T. Campbell, T. Broderick, 2020), for the gated order.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> x = 2**0.5 * torch.randn(200, generator=torch.Generator().manual_seed(0))
        >>> found = diagnose(model, guide, x, show=False)
        >>> found.attrs["verdict_level"], found.khat.shape
        ('good', (200,))
    """
    plan = _plan(steps)
    options = {
        "num_samples": num_samples,
        "seed": seed,
        "plate": plate,
        "batch_size": batch_size,
        "block_size": block_size,
        "progress": progress,
    }
    findings: dict[str, list[Finding]] = {}
    skipped: dict[str, str] = {}
    tables: list[xr.Dataset] = []
    closed = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticWarning)  # the verdict says it
        weighed = _weighed(plan, model, guide, args, kwargs, options)
        for name, diagnostic, step in plan:
            if gate and closed and step.gated:
                skipped[name] = f"left out after what {closed} found"
                continue
            try:
                table = weighed.get(name)
                if table is None:
                    table = diagnostic(model, guide, *args, **options, **kwargs)
            except NotApplicable as why:
                skipped[name] = str(why)
                continue
            tables.append(table)
            findings[name] = list(step.judge(table))
            if not closed and any(f.closes for f in findings[name]):
                closed = name
    result = _together(tables, findings, skipped)
    if show:
        for line in _lines(result):
            print(line)  # noqa: T201
    return result


def _plan(steps: Sequence[str] | None) -> list[tuple[str, Callable[..., xr.Dataset], Step]]:
    """The diagnostics to run, in their order."""
    known: dict[str, Step] = {
        name: item.step for name, item in DIAGNOSTICS.items() if hasattr(item, "step")
    }
    for name in steps or ():
        if name not in known:
            raise KeyError(f"no step of diagnose is named {name!r}. {nearest(name, known)}")
    usual = [name for name, step in known.items() if not step.optional]
    chosen = sorted(steps or usual, key=lambda name: known[name].order)
    return [(name, DIAGNOSTICS[name], known[name]) for name in chosen]


def _weighed(
    plan: Sequence[tuple[str, Any, Step]],
    model: Any,
    guide: Any,
    args: Any,
    kwargs: Any,
    options: dict[str, Any],
) -> dict[str, xr.Dataset]:
    """The tables of all diagnostics that are made of log weights, from one pass."""
    shared = {name: item for name, item, _ in plan if isinstance(item, FromWeights)}
    if not shared:
        return {}
    exact = any(item.exact_kl for item in shared.values())
    stream = Stream(model, guide, *args, exact_kl=exact, **options, **kwargs)
    return dict(zip(shared, summarised(list(shared.values()), stream), strict=True))


def _together(
    tables: Sequence[xr.Dataset],
    findings: dict[str, list[Finding]],
    skipped: dict[str, str],
) -> xr.Dataset:
    merged = xr.merge(_padded(tables), join="exact", compat="equals", combine_attrs="drop")
    for table in tables:
        merged.attrs.update(table.attrs)
    everything = [f for found in findings.values() for f in found]
    level = max((f.level for f in everything), key=LEVELS.index, default="good")
    told = {name: [f._asdict() for f in found] for name, found in findings.items()}
    return merged.assign_attrs(
        verdict="\n".join(_verdict(level, everything)),
        verdict_level=level,
        findings=json.dumps(_plain(told)),
        skipped=json.dumps(skipped),
    )


def _padded(tables: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Tables over all data and sites, of which some diagnostics take some: the others have NaN."""
    for dim in ("data", "site"):
        rows = [t.indexes[dim] for t in tables if dim in t.indexes]
        everyone = max(rows, key=len) if rows else None
        tables = [
            t.reindex({dim: everyone})
            if everyone is not None and dim in t.indexes and t.indexes[dim].isin(everyone).all()
            else t
            for t in tables
        ]
    return list(tables)


def _plain(told: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [{**f, "closes": int(f["closes"])} for f in found] for name, found in told.items()
    }


def _verdict(level: str, findings: Sequence[Finding]) -> Iterator[str]:
    yield f"{_OVERALL[level]}."
    for finding in findings:
        text = finding.text[0].upper() + finding.text[1:]
        advice = f" Try: {finding.advice}" if finding.advice else ""
        yield f"[{_MARKS[finding.level]}] {text}{advice}"


# ------------------------------------------------------------------------------------ the table
def quantiles(found: xr.Dataset) -> dict[str, list[float]]:
    """The table of a diagnosis: by variable, its mean and its quantiles over data.

    Arguments:
        found: The result of `diagnose`, or of reading its NetCDF file.

    Returns:
        By variable, numbers as named by `QUANTILES`; the mean is NaN where values are infinite.
    """
    run = [DIAGNOSTICS[n] for n in json.loads(found.attrs["findings"]) if n in DIAGNOSTICS]
    names = [n for diagnostic in run for n in diagnostic.step.shows if n in found]  # type: ignore[attr-defined]
    return {name: _summary(found[name].values) for name in names}


def _lines(result: xr.Dataset) -> Iterator[str]:
    """The table that is printed: quantiles over data, and the verdict below it."""
    rows = quantiles(result)
    if rows:
        size, draws = result.sizes["data"], result.attrs.get("num_samples", 0)
        yield f"{size} data, {draws} draws each; quantiles over data"
        yield f"{'':<18}" + "".join(f"{head:>10}" for head in QUANTILES)
        for name, values in rows.items():
            yield f"{name:<18}" + "".join(f"{_number(v):>10}" for v in values)
        yield ""
    yield from result.attrs["verdict"].splitlines()
    for name, why in json.loads(result.attrs["skipped"]).items():
        yield f"[ -- ] {name}: {why}"


def _summary(values: np.ndarray) -> list[float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return [np.nan] * 4
    # infinite k-hats are ordinary values, between which nothing can be interpolated
    quantiles = np.quantile(known, [0.05, 0.5, 0.95], method="inverted_cdf")
    mean = known.mean() if np.isfinite(known).all() else np.nan
    return [float(mean), *map(float, quantiles)]


def _number(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.3f}"
