"""From draws and calls to one labelled table, and what it says of each site."""

from __future__ import annotations

__all__ = ["FINDINGS", "P_LIMIT", "Z_LIMIT", "by_elbo", "by_site"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from pyro_vae.comparison.batches import Merged
from pyro_vae.comparison.calls import Calls, disagreement
from pyro_vae.comparison.draws import Site
from pyro_vae.comparison.mean_field import ANALYTIC, FALLBACK, REFUSED, distribution_name
from pyro_vae.pareto import tail_index

Z_LIMIT = 5.0
P_LIMIT = 1e-6
K_LIMIT = 0.7

FINDINGS = {
    "wrong_closed_form": f"closed form and sampled KL differ by more than {Z_LIMIT:g} standard "
    "errors",
    "not_mean_field": "a parent of the site in the model descends from it in the guide (or cannot "
    "be seen not to), so the analytic KL of TraceMeanField_ELBO is biased",
    "scale_mismatch": "guide and model scale the site differently; TraceMeanField_ELBO reads the "
    "guide's scale only",
    "mask_mismatch": "guide and model mask the site differently; TraceMeanField_ELBO reads the "
    "guide's mask only",
    "score_term_missing": "the guide is not reparameterised: TraceMeanField_ELBO refuses it, or, "
    "with validation off, drops the score term of its gradient",
    "silent_fallback": "TraceMeanField_ELBO samples this KL without saying so",
    "infinite_kl": "KL(q || p) is infinite, although every draw may give a finite number",
    "undefined_kl": "KL(q || p) is undefined",
    "rounded_draws": "some draws lie where the numbers of their precision end, which biases the "
    "sampled KL: its difference from the exact one is not held against either",
    "heavy_tail": f"log q - log p has a tail index over {K_LIMIT:g}: do not trust its mean",
}


def by_site(sites: Sequence[Merged], biased: set[str]) -> xr.Dataset:
    """Return the part of the table that speaks of latent sites.

    Arguments:
        sites: The latent sites.
        biased: Those at which an analytic KL would be biased.
    """
    size = max((s.sampled.shape[1] for s in sites if s.site.in_plate), default=0)
    rows = [_rows(site, size) for site in sites]
    columns = [_totals(site, site.name in biased) for site in sites]
    table = {name: (("site", "data"), np.stack([r[name] for r in rows])) for name in rows[0]}
    totals = {name: (("site",), np.array([c[name] for c in columns])) for name in columns[0]}
    if not size:
        table = {}
    return xr.Dataset(
        {**table, **totals},
        coords={"site": [s.name for s in sites]} | ({"data": np.arange(size)} if size else {}),
    )


def by_elbo(calls: Mapping[str, Calls], parameters: Sequence[str]) -> xr.Dataset:
    """Return the part of the table that speaks of ELBOs; the first one is the reference.

    Arguments:
        calls: The calls of each ELBO by name.
        parameters: The names of the parameters.
    """
    reference = next(iter(calls.values()))
    one = {
        "loss": lambda c: float(np.mean(c.losses)),
        "loss_std": lambda c: float(np.std(c.losses, ddof=1)),
        "loss_std_error": lambda c: float(np.std(c.losses, ddof=1) / len(c.losses) ** 0.5),
        "seconds": lambda c: float("nan") if c.failure else float(np.median(c.seconds)),
        "failure": lambda c: c.failure,
        "warnings": lambda c: "; ".join(c.warnings),
    }
    table: dict[str, Any] = {
        name: (("elbo",), np.array([f(c) for c in calls.values()])) for name, f in one.items()
    }
    gradients = np.array(
        [[_gradient(c, name) for name in parameters] for c in calls.values()]
    ).reshape(len(calls), len(parameters), 3)
    for i, name in enumerate(("gradient_norm", "gradient_std", "gradient_snr")):
        table[name] = (("elbo", "parameter"), gradients[..., i])
    p_values = np.array(
        [[_p_value(reference, c, name) for name in parameters] for c in calls.values()]
    ).reshape(len(calls), len(parameters))
    table["gradients_p_value"] = (("elbo", "parameter"), p_values)
    agree = np.where(np.isnan(p_values), np.nan, p_values > P_LIMIT)
    table["gradients_agree"] = (("elbo", "parameter"), agree)
    return xr.Dataset(table, coords={"elbo": list(calls), "parameter": list(parameters)})


def _gradient(calls: Calls, name: str) -> tuple[float, float, float]:
    return (np.nan, np.nan, np.nan) if calls.failure else calls.gradient(name)


def _p_value(reference: Calls, calls: Calls, name: str) -> float:
    if reference.failure or calls.failure:
        return float("nan")
    return disagreement(reference, calls, name)


def _rows(site: Merged, size: int) -> dict[str, np.ndarray]:
    """The columns by datum; NaN throughout for a site outside the data plate."""
    if not site.site.in_plate:
        return dict.fromkeys(_ROWS, np.full(size, np.nan))
    return {name: column(site) for name, column in _ROWS.items()}


def _mean(values: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    return np.full(like.shape[1:], np.nan) if values is None else values.mean(0)


def _std_error(values: np.ndarray) -> np.ndarray:
    return values.std(0, ddof=1) / len(values) ** 0.5


def _z(exact: np.ndarray | None, sampled: np.ndarray, rounding: np.ndarray) -> np.ndarray:
    """(exact - sampled) / standard error, draw by draw; the error is no less than rounding."""
    if exact is None:
        return np.full(sampled.shape[1:], np.nan)
    with np.errstate(invalid="ignore"):
        difference = exact - sampled
        error = np.hypot(_std_error(difference), 4 * rounding)
        mean = difference.mean(0)
        unequal = np.where(mean == 0, 0.0, np.sign(mean) * np.inf)  # without any noise
        z = np.where(error > 0, mean / np.where(error > 0, error, 1.0), unequal)
        return np.where(np.isfinite(mean), z, np.nan)  # an infinite KL has no score


def _summed(values: np.ndarray | None) -> np.ndarray | None:
    return None if values is None else values.sum(1, keepdims=True)


def _tail(sampled: np.ndarray) -> np.ndarray:
    return tail_index(torch.from_numpy(sampled)).numpy()


_ROWS: dict[str, Callable[[Merged], np.ndarray]] = {
    "kl_analytic": lambda s: _mean(s.analytic, s.sampled),
    "kl_lower": lambda s: _mean(s.lower, s.sampled),
    "kl_upper": lambda s: _mean(s.upper, s.sampled),
    "kl_sampled": lambda s: s.sampled.mean(0),
    "kl_sampled_std_error": lambda s: _std_error(s.sampled),
    "kl_z_score": lambda s: _z(s.analytic, s.sampled, s.rounding),
    "kl_pareto_k": lambda s: _tail(s.sampled),
}


def _totals(site: Merged, biased: bool) -> dict[str, Any]:
    """The columns by site: totals over data, routes, reasons and findings."""
    record = site.site
    sampled, rounding = site.sampled.sum(1, keepdims=True), site.rounding.sum(keepdims=True)
    exact, form = (
        None if a is None else a.sum(1, keepdims=True) for a in (site.analytic, site.torch_form)
    )
    route = record.route
    column = {
        "kl_analytic_total": float(_mean(exact, sampled)[0]),
        "kl_lower_total": float(_mean(_summed(site.lower), sampled)[0]),
        "kl_upper_total": float(_mean(_summed(site.upper), sampled)[0]),
        "kl_mean_field_total": float(_mean(form, sampled)[0]),
        "kl_sampled_total": float(sampled.mean()),
        "kl_sampled_total_std_error": float(_std_error(sampled)[0]),
        "kl_sampled_total_pareto_k": float(_tail(sampled)[0]),
        "kl_z_score_total": float(_z(exact, sampled, rounding)[0]),
        "kl_mean_field_z_score_total": float(_z(form, sampled, rounding)[0]),
        "trace_term": float(site.trace_term.mean()),
        "mean_field_term": np.nan
        if site.mean_field_term is None
        else float(site.mean_field_term.mean()),
        "guide_scale": record.scales[0],
        "model_scale": record.scales[1],
        "kl_route": "auxiliary" if route is None else route.kind,
        "kl_source": "none" if route is None else route.source,
        "kl_reason": "a site of the guide alone" if route is None else route.reason,
        "mean_field_route": record.mean_field.route,
        "mean_field_reason": _mean_field_reason(record),
        "guide_distribution": distribution_name(record.q),
        "prior_distribution": "" if record.p is None else distribution_name(record.p),
    }
    return column | {"findings": "; ".join(_findings(site, column, biased))}


def _mean_field_reason(record: Site) -> str:
    given = record.route is not None and record.route.source.endswith("given to torch")
    analytic = record.mean_field.route == ANALYTIC
    by = ", which pyro_vae gave to it" if given and analytic else ""
    return record.mean_field.reason + by


def _findings(site: Merged, column: Mapping[str, Any], biased: bool) -> list[str]:
    record, route = site.site, site.site.route
    heavy = column["kl_sampled_total_pareto_k"] > K_LIMIT
    z = [column["kl_z_score_total"], column["kl_mean_field_z_score_total"]]
    infinite = route is not None and not bool(route.finite.all())
    trusted = not (heavy or biased or site.at_edge)
    holds = {
        "wrong_closed_form": trusted and any(abs(v) > Z_LIMIT for v in z),
        "not_mean_field": biased,
        "scale_mismatch": record.scales[0] != record.scales[1],
        "mask_mismatch": record.masks_differ,
        "score_term_missing": record.mean_field.route == REFUSED,
        "silent_fallback": record.mean_field.route == FALLBACK,
        "infinite_kl": infinite or np.isposinf(column["kl_mean_field_total"]),
        "undefined_kl": route is not None and route.kind == "undefined",
        "rounded_draws": site.at_edge,
        "heavy_tail": heavy,
    }
    return [name for name in FINDINGS if holds[name]]
