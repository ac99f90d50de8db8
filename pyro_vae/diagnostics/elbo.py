"""The ELBO of each datum, with its KL sampled and, where it is exact, analytic."""

from __future__ import annotations

__all__ = ["elbo"]

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_vae.diagnostics.block import LogWeights
from pyro_vae.diagnostics.shelf import Columns, Finding, from_weights, register, step
from pyro_vae.kl.edges import AT_EDGE

Z_LIMIT = 5.0
"""How many standard errors an analytic and a sampled KL may differ by."""

MOST_AT_EDGE = 0.5
"""From what share of draws where floats end on the bound is not to be trusted at all."""


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over draws, of shape (data,), and its standard error (NaN for a single draw)."""
    count = values.shape[0]
    mean = values.mean(0)
    return mean, ((values - mean).square().sum(0) / (count * (count - 1 or torch.nan))).sqrt()


def over_data(values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """The mean over data, and its Monte Carlo error from the independent errors by datum."""
    return float(values.mean()), float(np.sqrt(np.square(errors).sum()) / len(values))


def _summary(table: xr.Dataset) -> xr.Dataset:
    mean, error = over_data(table.elbo.values, table.elbo_std_error.values)
    exact, sampled, noise = (
        table[n].values for n in ("kl_analytic", "kl_sampled", "kl_sampled_std_error")
    )
    known = np.isfinite(exact)
    difference = float((exact - sampled)[known].sum())
    # float32 densities are rounded, however little they vary from draw to draw
    rounding = 1e-6 * float(np.abs(table.log_likelihood.values[known]).sum())
    scale = float(np.hypot(np.sqrt(np.square(noise[known]).sum()), rounding))
    edges = table.site_at_edge.fillna(0.0).mean("data").values
    known_sites = table.site_kl_analytic.notnull().any("data").values
    return table.assign_attrs(
        kl_analytic_sites=[str(n) for n in table.site.values[known_sites]],
        elbo_mean=mean,
        elbo_mean_std_error=error,
        kl_z_score=difference / scale if known.any() and scale > 0 else np.nan,
        kl_infinite_share=float(np.isposinf(exact).mean()),
        at_edge_share=float(edges.max()),
        at_edge_site=str(table.site.values[int(edges.argmax())]),
    )


def _judge(table: xr.Dataset) -> list[Finding]:
    attrs, kl = table.attrs, float(table.kl_sampled.mean())
    numbers = (
        f"the ELBO is {attrs['elbo_mean']:.3f} +- {attrs['elbo_mean_std_error']:.3f} nats a "
        f"datum, of which KL(q || p) takes {kl:.3f}"
    )
    findings = []
    if attrs["kl_infinite_share"] > 0:
        share = 100 * attrs["kl_infinite_share"]
        text = f"KL(q || p) is infinite for {share:.1f} % of data, although draws are finite."
        advice = "a guide whose tails are no heavier than the prior's, or a prior with heavier."
        findings.append(Finding("bad", text, advice))
    if abs(attrs["kl_z_score"]) > Z_LIMIT:
        text = (
            f"analytic and sampled KL differ by {attrs['kl_z_score']:.1f} standard errors: one "
            "of the densities or closed forms is wrong."
        )
        findings.append(Finding("bad", text, "compare(model, guide, x), which names the site."))
    if attrs["at_edge_share"] > AT_EDGE:
        findings.append(_rounded(attrs["at_edge_site"], attrs["at_edge_share"]))
    return findings or [Finding("good", f"{numbers}.")]


def _rounded(site: str, share: float) -> Finding:
    text = (
        f"{100 * share:.1f} % of draws of site {site!r} hold a number where floats end: densities "
        "there say less than there is mass, so that the ELBO and log p(x) may be too high."
    )
    advice = (
        "float64 (vae.double(), x.double()) shows what is left of them; a guide whose "
        "concentrations have a lower bound, as those of pyro_vae.families have, or one in other "
        "coordinates (LogitNormal in the place of Beta)."
    )
    return Finding("bad" if share > MOST_AT_EDGE else "care", text, advice)


@register
@step(order=20, judge=_judge, shows=("elbo", "kl_analytic", "kl_sampled"))
@from_weights(summary=_summary, exact_kl=True)
def elbo(weights: LogWeights) -> Columns:
    """ELBO(x) = E_q[log p(x, z) - log q(z|x)] by datum, with both its KLs.

    The sampled KL is the mean of log q - log p over draws, the analytic one the exact value of
    `kl.divergence`. Both have the same expectation, but not the same noise: near the exact
    posterior the sampled KL cancels the noise of the likelihood, elsewhere it often adds to it.

    Arguments:
        weights: A block of log weights. (As a diagnostic it is called with model, guide, their
            arguments, and the options of `diagnostics.Stream`.)

    Returns:
        By datum, in nats: `elbo` with `elbo_std_error` (KL sampled), `elbo_analytic` with its
        error (KL exact), `log_likelihood` = E_q log p(x|z) with its error, `kl_sampled` with its
        error and `kl_analytic`, NaN where a site has no exact KL or one that depends on the
        draws of other sites; and by site and datum `site_kl_sampled` with its error,
        `site_kl_analytic`, and `site_at_edge`, the share of draws of which a number lies where
        floats end (of the first 100; NaN where a mask or repeated data hide it). Attrs:
        `elbo_mean` with its Monte Carlo error, `kl_analytic_sites` (those with an exact KL),
        `kl_z_score` of the total difference between both KLs, and `at_edge_share`, the largest
        of a site, `at_edge_site`.

    References:
        Auto-encoding variational Bayes (D. P. Kingma, M. Welling, 2014);
        Sticking the landing (G. Roeder, Y. Wu, D. Duvenaud, 2017)

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> found = elbo(model, guide, torch.zeros(3))
        >>> log_p = dist.Normal(0.0, 2**0.5).log_prob(torch.zeros(3)).numpy()
        >>> bool((abs(found.elbo - log_p) < 1e-5).all())  # the guide is the posterior
        True
    """
    value, error = mean_and_error(weights.log_weight)
    fit, fit_error = mean_and_error(weights.log_likelihood)
    # in the order of the model, then those of the guide alone
    sites = list(dict.fromkeys([*weights.log_prior, *weights.log_q]))
    ratios = [weights.log_q[n] - weights.log_prior.get(n, 0.0) for n in sites]
    sampled, noise = zip(*(mean_and_error(r) for r in ratios), strict=True)
    total, total_error = mean_and_error(torch.stack(ratios).sum(0))
    unknown = torch.full_like(value, torch.nan)
    exact = torch.stack([weights.kl.get(n, unknown).to(value) for n in sites])
    by_site = ("site", "data")
    return {
        "elbo": value,
        "elbo_std_error": error,
        "elbo_analytic": fit - exact.sum(0),
        "elbo_analytic_std_error": fit_error + 0 * exact.sum(0),
        "log_likelihood": fit,
        "log_likelihood_std_error": fit_error,
        "kl_sampled": total,
        "kl_sampled_std_error": total_error,
        "kl_analytic": exact.sum(0),
        "site_kl_sampled": (by_site, torch.stack(sampled)),
        "site_kl_sampled_std_error": (by_site, torch.stack(noise)),
        "site_kl_analytic": (by_site, exact),
        "site_at_edge": (
            by_site,
            torch.stack([weights.edge.get(n, unknown).to(value) for n in sites]),
        ),
        "site": (("site",), sites),
    }
