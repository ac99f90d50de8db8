"""k-hat by datum: whether log weights, and so all that is made of them, can be trusted."""

from __future__ import annotations

__all__ = ["pareto_k", "threshold"]

import math

import numpy as np
import xarray as xr

from pyro_vae.diagnostics.block import LogWeights
from pyro_vae.diagnostics.shelf import Columns, Finding, from_weights, register, step
from pyro_vae.pareto import Status

FEW, MANY = 0.05, 0.25
"""Shares of data above the threshold from which on the guide is to be used with care, or poor."""


def threshold(num_samples: int) -> float:
    """min(1 - 1 / log10 S, 0.7), above which k-hat from S draws says not to trust the weights.

    Arguments:
        num_samples: S.

    References:
        Pareto smoothed importance sampling (A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry,
        2024)

    Example:
        >>> round(threshold(1000), 3), threshold(10_000)
        (0.667, 0.7)
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 1 else -math.inf


def _summary(table: xr.Dataset) -> xr.Dataset:
    """The share of data above the threshold, with its standard error over data."""
    limit = threshold(table.attrs["num_samples"])
    known = table.khat_status.values != Status.TOO_FEW
    # NaN among the weights is as bad as a heavy tail
    above = ~(table.khat.values <= limit)
    share = float(above[known].mean()) if known.any() else np.nan
    error = (share * (1 - share) / max(int(known.sum()), 1)) ** 0.5
    return table.assign_attrs(
        khat_threshold=limit,
        khat_share_above=share,
        khat_share_above_std_error=error,
        khat_status_codes=[f"{s.value} {s.name.lower()}" for s in Status],
    )


def _judge(table: xr.Dataset) -> list[Finding]:
    attrs = table.attrs
    share, error, limit = (
        attrs[n] for n in ("khat_share_above", "khat_share_above_std_error", "khat_threshold")
    )
    median = float(table.khat.median())
    if np.isnan(share):
        text = f"{attrs['num_samples']} draws are too few for k-hat, so that it says nothing."
        return [Finding("care", text, "take num_samples=1000.", closes=True)]
    numbers = (
        f"k-hat is above {limit:.2f} for {100 * share:.1f} +- {100 * error:.1f} % of data "
        f"(median {median:.2f})"
    )
    if share <= FEW:
        return [Finding("good", f"importance weights can be trusted: {numbers}.")]
    advice = (
        "a richer guide (fam.FullNormal, a flow), a wider one, more training of the encoder, or "
        "infer.TraceIWAE_ELBO, whose guides cover the posterior."
    )
    if share <= MANY:
        return [Finding("care", f"some importance weights have heavy tails: {numbers}.", advice)]
    text = f"importance weights have heavy tails, the guide is too narrow somewhere: {numbers}."
    return [Finding("bad", text, advice, closes=True)]


@register
@step(order=10, judge=_judge, shows=("khat", "relative_ess"))
@from_weights(summary=_summary)
def pareto_k(weights: LogWeights) -> Columns:
    """k-hat by datum: the tail index of p(x, z) / q(z | x), z ~ q; and the relative ESS.

    The largest ceil(min(S / 5, 3 sqrt S)) weights are fitted by a generalised Pareto
    distribution; its shape k says which moments the weights have: those below 1 / k. Where
    k > 0.7, an importance-weighted number is not to be trusted, however many draws there are.
    k-hat from 1000 draws has a standard deviation of about 0.14, so a single datum is not judged:
    the share of data above the threshold is (attrs `khat_share_above`, with its standard error).
    k-hat sees tails that are too light; it is blind to a guide that is too wide, and nearly so to
    a biased one.

    Arguments:
        weights: A block of log weights. (As a diagnostic it is called with model, guide, their
            arguments, and the options of `diagnostics.Stream`.)

    Returns:
        By datum: `khat`, `khat_status` (codes of `pareto.Status`: constant weights, of an exact
        guide, have k = -inf and are perfect; NaN or inf among them give k = NaN), and
        `relative_ess` = 1 / (S sum w^2) of the smoothed normalised weights, in [0, 1].

    References:
        Yes, but did it work?: Evaluating variational inference (Y. Yao, A. Vehtari, D. Simpson,
        A. Gelman, 2018);
        Pareto smoothed importance sampling (A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry,
        2024)

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.1))  # the posterior has 0.7
        >>> pareto_k(model, guide, torch.zeros(100)).khat_share_above > 0.5
        True
    """
    found = weights.psis
    ess = 1 / (found.log_weights.exp().square().sum(0) * weights.num_samples)
    return {"khat": found.k, "khat_status": found.status, "relative_ess": ess}
