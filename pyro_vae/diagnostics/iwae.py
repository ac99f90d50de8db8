"""log p(x) of each datum by importance sampling, with its error, and when not to believe it."""

from __future__ import annotations

__all__ = ["iwae"]

import functools
import math
import warnings
from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_vae.diagnostics.block import LogWeights
from pyro_vae.diagnostics.elbo import Z_LIMIT, mean_and_error, over_data
from pyro_vae.diagnostics.pareto_k import FEW, threshold
from pyro_vae.diagnostics.shelf import (
    Columns,
    DiagnosticWarning,
    Finding,
    from_weights,
    register,
    step,
)
from pyro_vae.pareto import MIN_DRAWS

GAP = 0.1
"""From how many nats between log p(x) and the ELBO on a guide is told to be somewhat off, as in
Validated variational inference via practical posterior error bounds (J. Huggins, M. Kasprzak,
T. Campbell, T. Broderick, 2020), of a divergence that is no smaller."""

REPLICATES = 100
"""Of the bootstrap."""

_CHUNK = 2**22


def _summary(table: xr.Dataset) -> xr.Dataset:
    limit = threshold(table.attrs["num_samples"])
    reliable = table.iwae_khat.values <= limit
    share = 1 - float(reliable.mean())
    mean, error = over_data(table.iwae.values, table.iwae_std_error.values)
    smoothed = float(table.psis_log_px.mean())
    gap, noise = over_data(table.iwae_gap.values, table.iwae_gap_std_error.values)
    table = table.drop_vars("iwae_khat").assign_attrs(
        iwae_mean=mean,
        iwae_mean_std_error=error,
        iwae_gap_mean=gap,
        iwae_gap_mean_std_error=noise,
        psis_log_px_mean=smoothed,
        iwae_unreliable_share=share,
        iwae_warning="",
    )
    if share > FEW:
        table.attrs["iwae_warning"] = (
            f"k-hat is above {limit:.2f} for {100 * share:.1f} % of data: there the weights have "
            "a heavy tail, importance sampling may miss most of log p(x), and the bootstrap does "
            "not see what no draw has seen"
            if table.attrs["num_samples"] >= MIN_DRAWS
            else f"{table.attrs['num_samples']} draws are too few for k-hat, so that nothing says "
            "whether the number can be trusted"
        )
        warnings.warn(table.attrs["iwae_warning"] + ".", DiagnosticWarning, stacklevel=2)
    return table


def _judge(table: xr.Dataset) -> list[Finding]:
    attrs, draws = table.attrs, table.attrs["num_samples"]
    gap, error = attrs["iwae_gap_mean"], attrs["iwae_gap_mean_std_error"]
    numbers = (
        f"log p(x) is {attrs['iwae_mean']:.3f} +- {attrs['iwae_mean_std_error']:.3f} nats a datum "
        f"by importance sampling with {draws} particles"
    )
    above = f"{gap:.3f} +- {error:.3f} above the ELBO"
    if attrs["iwae_warning"]:
        advice = "more particles show whether it still rises; annealed importance sampling."
        text = f"{numbers}, {above}, but {attrs['iwae_warning']}."
        return [Finding("care", text, advice)]
    if gap > GAP and gap > Z_LIMIT * error:
        text = f"{numbers}, {above}: so far is q(z|x) from p(z|x), as KL(q || p(z|x))."
        advice = "a richer guide, or more training of the encoder with the decoder held fixed."
        return [Finding("care", text, advice)]
    return [Finding("good", f"{numbers}, {above}.")]


@register
@step(order=30, judge=_judge, shows=("iwae", "psis_log_px", "iwae_gap"))
@from_weights(summary=_summary)
def iwae(weights: LogWeights) -> Columns:
    """Log p(x) by importance sampling: log 1/S sum_s w_s, w = p(x, z) / q(z|x), by datum.

    In expectation it is L_S(x) <= log p(x), a bound that rises with the number of particles; the
    curve shows how far it has come. S is the number asked for, exactly. The error is that of a
    bootstrap over draws: where k-hat is high it is too small, as is the bound, and a
    `DiagnosticWarning` says for what share of the data that holds.

    Arguments:
        weights: A block of log weights. (As a diagnostic it is called with model, guide, their
            arguments, and the options of `diagnostics.Stream`.)

    Returns:
        By datum, in nats: `iwae` = L_S with `iwae_std_error`; `psis_log_px`, the same of
        Pareto-smoothed weights (no bound, but less variable); `iwae_gap` = L_S - L_1 with its
        error, which for large S is KL(q(z|x) || p(z|x)); and by number of
        `particles` K = 1, 10, 100, ... S: `iwae_curve` = L_K, a mean over S // K disjoint groups
        of draws, with `iwae_curve_std_error` (between groups; of the bootstrap where there is
        but one). Attrs: `iwae_mean` with its Monte Carlo error, `iwae_unreliable_share`.

    References:
        Importance weighted autoencoders (Y. Burda, R. Grosse, R. Salakhutdinov, 2016);
        Pareto smoothed importance sampling (A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry,
        2024)

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 1.0))  # wide: bounded weights
        >>> found = iwae(model, guide, torch.zeros(3), num_samples=5000)
        >>> log_p = dist.Normal(0.0, 2**0.5).log_prob(torch.zeros(3)).numpy()
        >>> bool((abs(found.iwae - log_p) < 5 * found.iwae_std_error).all())
        True
        >>> found.particles.values.tolist()
        [1, 10, 100, 1000, 5000]
    """
    log_weight = weights.log_weight
    value = _log_mean(log_weight)
    means = _resampled(log_weight)
    single = torch.nan if weights.num_samples == 1 else 0.0  # one draw shows no error
    error, gap_error = means[0].std(0) + single, (means[0] - means[1]).std(0) + single
    counts = [10**i for i in range(math.ceil(math.log10(weights.num_samples)))]
    counts = [*counts, weights.num_samples]
    curve = [_group_means(log_weight, k) for k in counts[:-1]]
    curve = [
        (mean, torch.where(noise.isnan(), error, noise))
        for mean, noise in [*curve, (value, error)]
    ]
    found = weights.psis
    return {
        "iwae": value,
        "iwae_std_error": error,
        "psis_log_px": found.log_mean,
        "iwae_gap": value - log_weight.mean(0),
        "iwae_gap_std_error": gap_error,
        "iwae_khat": found.k,
        "iwae_curve": (("particles", "data"), torch.stack([mean for mean, _ in curve])),
        "iwae_curve_std_error": (("particles", "data"), torch.stack([e for _, e in curve])),
        "particles": (("particles",), torch.tensor(counts)),
    }


def _log_mean(log_weight: Tensor) -> Tensor:
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def _group_means(log_weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """L_K, the mean over disjoint groups of K draws, and its standard error."""
    if size == 1:
        return mean_and_error(log_weight)
    groups = len(log_weight) // size
    grouped = log_weight[: groups * size].unflatten(0, (groups, size))
    return mean_and_error(grouped.logsumexp(1) - math.log(size))


def _resampled(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """The log mean and the mean log of resampled weights, less the largest, by replicate."""
    shifted = log_weight - log_weight.amax(0)
    both = torch.cat([shifted.exp(), shifted], -1)
    means = torch.cat([counts.to(both) @ both for counts in _resamples(len(both))]) / len(both)
    mean, mean_log = means.chunk(2, -1)
    return mean.log(), mean_log


def _resamples(draws: int) -> Iterator[Tensor] | tuple[Tensor, ...]:
    """How often each draw occurs in each resample, (replicates, draws), some rows at a time."""
    return _kept_resamples(draws) if draws * REPLICATES <= _CHUNK else _made_resamples(draws)


@functools.lru_cache(maxsize=2)
def _kept_resamples(draws: int) -> tuple[Tensor, ...]:
    return tuple(_made_resamples(draws))


def _made_resamples(draws: int) -> Iterator[Tensor]:
    # their own generator: the same resamples in every block, and none of the caller's numbers
    generator = np.random.default_rng(draws)
    rows = max(1, _CHUNK // draws)
    for first in range(0, REPLICATES, rows):
        made = [
            np.bincount(generator.integers(draws, size=draws), minlength=draws)
            for _ in range(min(rows, REPLICATES - first))
        ]
        yield torch.from_numpy(np.stack(made)).double()
