"""Simulation-based calibration: whether the guide is the posterior of what the model generates."""

from __future__ import annotations

__all__ = ["calibration", "pit_by_site", "randomised_pit"]

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from scipy import stats
from torch import Tensor

from pyro_vae.diagnostics.particles import OneByOne, by_datum
from pyro_vae.diagnostics.passes import Pass, samples, seed_of
from pyro_vae.diagnostics.replicates import Replicates, simulate
from pyro_vae.diagnostics.shelf import Finding, NotApplicable, register, step
from pyro_vae.diagnostics.weights import BLOCK_SIZE, LogWeights, Stream

SMALL = 0.05
"""By how much a coverage or a mean PIT value may be off before a guide is called bad."""

LITTLE = 0.1
"""The contraction below which a guide is hardly narrower than the prior."""

_ROUNDING = {torch.float32: 4e-6, torch.float64: 1e-13}


def randomised_pit(
    truth: Tensor, draws: Tensor, uniform: Tensor, tolerance: float = 0.0
) -> Tensor:
    """PIT value u = (#{s: f_s < f*} + U (1 + #{s: f_s = f*})) / (S + 1) of f* among draws.

    The rank of f* among S draws, ties broken at random, and spread over its bin. If f* and the
    draws come from the same distribution, u is exactly uniform, whatever S is, and for masses
    as well as for densities.

    Arguments:
        truth: f*, of shape (...).
        draws: f_s, of shape (S, ...).
        uniform: U, uniform on (0, 1), of shape (...).
        tolerance: Numbers that differ by less, relative to 1 + |f*|, are equal.

    Returns:
        u, of shape (...).

    Example:
        >>> draws = torch.arange(9.0)
        >>> randomised_pit(torch.tensor(3.5), draws, torch.tensor(0.5))  # 4 of 9 lie below
        tensor(0.4500)
    """
    near = tolerance * (1 + truth.abs())
    below = (draws < truth - near).sum(0)
    # infinite numbers are equal, too, though their difference is not 0
    equal = ((draws - truth).abs() <= near).logical_or(draws == truth).sum(0)
    return (below + uniform * (1 + equal)) / (len(draws) + 1)


class _Block(NamedTuple):
    """The PIT values of a block of replicates, and moments of the guide: (replicates, ...)."""

    pit: Tensor
    log_likelihood: Tensor
    hpd: Tensor
    variance: Tensor
    truth: Tensor


def _judge(table: xr.Dataset) -> list[Finding]:
    attrs = table.attrs
    error = attrs["calibration_failure_probability"]
    worst = str(table.quantity.values[int(np.nanargmin(table.pit_p_value.values))])
    at = table.sel(quantity=worst)
    numbers = (
        f"of {table.sizes['replicate']} replicates; least uniform: {worst}, "
        f"p = {attrs['calibration_p_value']:.2g} for all, mean PIT {float(at.pit_mean):.2f}, "
        f"coverage {100 * float(at.coverage_50):.0f} % at 50 %, "
        f"{100 * float(at.coverage_90):.0f} % at 90 %"
    )
    shift = np.nanmax(np.abs(table.pit_mean.values - 0.5))
    gap = np.nanmax(np.abs(table.coverage_90.values - 0.9))
    gap = max(gap, np.nanmax(np.abs(table.coverage_50.values - 0.5)))
    if attrs["calibration_rejected"]:
        level = "bad" if max(shift, gap) > SMALL else "care"
        size = "" if level == "bad" else ", though by little"
        text = f"the guide is not the posterior of data that the model generates{size}: {numbers}."
        advice = (
            "coverage below nominal: a richer guide or infer.TraceIWAE_ELBO; mean PIT away from "
            "0.5: more training of the encoder; a log likelihood whose rank is high: the guide "
            "does not use the data."
        )
        return [Finding(level, text, advice)]
    found = [
        Finding(
            "good",
            f"calibrated on data that the model generates: {numbers} (a guide that is exact "
            f"fails this test with probability {error:g}).",
        )
    ]
    # NaN from single draws is not little
    contraction = table.contraction.values
    if (contraction < LITTLE).all():
        found.append(
            Finding(
                "care",
                f"but the guide is hardly narrower than the prior (contraction at most "
                f"{contraction.max():.2f}), and the prior itself passes ranks of z.",
                "look at mutual information and at the collapse report.",
            )
        )
    return found


@register
@step(order=40, judge=_judge)
def calibration(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    seed: int = 0,
    replicates: int = 1000,
    failure_probability: float = 1e-3,
    simulator: Callable[..., Any] | None = None,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = BLOCK_SIZE,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    r"""Ranks of z* ~ p(z) among z_s ~ q(z | x*), x* ~ p(x | z*): uniform if q = p(z | x).

    For each replicate r and each quantity f, the PIT value is

        u_rf = (#{s: f(z_s) < f(z*)} + U (1 + #{s: f(z_s) = f(z*)})) / (S + 1),   U ~ U(0, 1),

    exactly uniform for an exact guide. Quantities are the coordinates of z (angles from their
    circular mean, mu . z on spheres), log p(x* | z), and -log q(z | x*), whose PIT value is the
    smallest highest-density region that holds z* (`hpd`). Uniformity of each is tested by
    Kolmogorov and Smirnov, the smallest p-value multiplied by their number. Large data sets find
    every guide guilty, so effect sizes are given: the mean PIT value (0.5), and how many z* lie
    in central or highest-density regions of 50 and 90 %.

    The test is about data that the model generates, not about those at hand. It is blind to
    errors that cancel over data: q = p(z) passes all but the rank of log p(x | z). Beside it
    stands the posterior contraction, 1 - E Var_q(z | x) / Var_p(z), 0 for such a guide.

    Arguments:
        model: A Pyro model with a plate over data.
        guide: Its guide, amortised: it must look at what it is passed.
        *args: Positional arguments of both. Data are replaced by replicates (see
            `diagnostics.replicates`); labels and masks beside them stay.
        num_samples: S, the number of draws of the guide by replicate.
        seed: Of the draws and replicates.
        replicates: The number of replicates R.
        failure_probability: With which an exact guide is rejected.
        simulator: A program that draws the sites of the model, where the model cannot.
        plate: As in `Stream`.
        batch_size: As in `Stream`; results do not depend on it.
        block_size: As in `Stream`.
        progress: As in `Stream`.
        **kwargs: Keyword arguments of both programs.

    Returns:
        `pit` (replicate, latent), with the coordinate `latent_site`; `pit_direction`
        (replicate, direction), mu . z on spheres; `pit_log_likelihood` and `pit_hpd` (replicate).
        By `quantity`: `pit_p_value`, `pit_mean`, `coverage_50`, `coverage_90`, and
        `..._std_error`. `contraction` (latent) with its error. In attrs: `calibration_p_value` of
        all, `calibration_rejected`, `calibration_failure_probability`, and `generated`, how the
        model was made to generate.

    Raises:
        NotApplicable: If the model cannot be made to generate, or if the guide holds something
            for each datum instead of looking at it.
        ValueError: If a number is out of range.

    References:
        Validating Bayesian inference algorithms with simulation-based calibration (S. Talts,
        M. Betancourt, D. Simpson, A. Vehtari, A. Gelman, 2018);
        Yes, but did it work?: Evaluating variational inference (Y. Yao, A. Vehtari, D. Simpson,
        A. Gelman, 2018);
        Simulation-based calibration checking for Bayesian computation: the choice of test
        quantities shapes sensitivity (M. Modrak et al., 2023)

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.3))  # the posterior has 0.7
        >>> found = calibration(model, guide, torch.zeros(64), num_samples=100, replicates=300)
        >>> found.calibration_rejected, float(found.coverage_90.sel(quantity="z")) < 0.7
        (1, True)
    """
    _check(replicates, failure_probability)
    options: dict[str, Any] = {
        "num_samples": num_samples,
        "seed": seed,
        "plate": plate,
        "batch_size": batch_size,
        "block_size": block_size,
        "progress": progress,
    }
    walk = Pass(Stream(model, guide, *args, **options, **kwargs), "replicates")
    _refuse_guides_by_datum(walk)
    drawn = simulate(walk, replicates, simulator)
    options["keep_draws"] = True
    stream = Stream(model, guide, *drawn.data.args, **options, **drawn.data.kwargs)
    again = Pass(stream, "ranks")
    blocks = [_ranked(again, drawn, block, i) for i, block in enumerate(stream)]
    table = _dataset(again, _Block(*(torch.cat(part) for part in zip(*blocks, strict=True))))
    p_value = float(min(1.0, table.pit_p_value.count() * table.pit_p_value.min()))
    return table.assign_attrs(
        stream.attrs,
        calibration_p_value=p_value,
        calibration_rejected=int(p_value < failure_probability),
        calibration_failure_probability=failure_probability,
        generated=drawn.way,
        pit_hpd_reason=_no_hpd(again),
    )


def pit_by_site(table: xr.Dataset) -> dict[str, xr.DataArray]:
    """PIT values of a `calibration` by site, (replicate, latent) each, as ArviZ's `prior_sbc`.

    Arguments:
        table: What `calibration` returned.

    Returns:
        By site; and `log_likelihood` and `hpd`, of dims (replicate,).
    """
    found = {
        name: table.pit.sel(latent=table.latent_site == name).drop_vars("latent_site")
        for name in dict.fromkeys(table.latent_site.values.tolist())
    }
    return found | {"log_likelihood": table.pit_log_likelihood, "hpd": table.pit_hpd}


# -------------------------------------------------------------------------------------- checks
def _check(replicates: int, failure_probability: float) -> None:
    if replicates < 2:
        raise ValueError(f"replicates must be at least 2, not {replicates}.")
    if not 0 < failure_probability < 1:
        raise ValueError(
            f"failure_probability must lie between 0 and 1, but is {failure_probability}."
        )


def _refuse_guides_by_datum(walk: Pass) -> None:
    """Raise if the guide is another one for each datum, whatever is in the data."""
    batch = walk.stream.first
    if not batch.data.size or batch.data.size < 2:
        return
    first = batch.data._mapped(lambda a: a[:1].expand(len(a), *a.shape[1:]), batch.data.size)
    plain = OneByOne()
    with walk.aside():
        fewer = batch.data.rows(0, batch.data.size - 1)
        try:
            trace = poutine.trace(walk.stream.guide).get_trace(*fewer.args, **fewer.kwargs)
            for node in samples(trace).values():  # some guides run, on as many data as ever
                by_datum(node, walk.stream.frame, fewer.size)
        except Exception as error:  # whatever a program may raise for a shape it does not expect
            raise NotApplicable(
                f"the guide cannot be run on {fewer.size} data in the place of "
                f"{batch.data.size} ({type(error).__name__}), so it holds parameters by datum, "
                "and says nothing of data that the model generates. Calibration is for amortised "
                "guides; look at k-hat and the bounds instead."
            ) from error
        values = plain.run(walk.stream.guide, batch, 1, None).values
        same = {
            n: v.narrow(v.dim() - len(walk.shapes[n].event) + walk.dim, 0, 1).expand_as(v)
            for n, v in values.items()
        }
        found = plain.run(walk.stream.guide, replace(batch, data=first), 1, same).log_density
    log_q = torch.stack(list(found.values())).sum((0, 1))
    if not torch.allclose(log_q, log_q[:1].expand_as(log_q), rtol=1e-3, atol=1e-3, equal_nan=True):
        raise NotApplicable(
            "the guide is another one for each of several equal data, so it holds parameters by "
            "datum, and says nothing of data that the model generates. Calibration is for "
            "amortised guides; look at k-hat and the bounds instead."
        )


def _no_hpd(walk: Pass) -> str:
    if not walk.auxiliary:
        return ""
    return f"log q(z | x) is not known: the guide draws {walk.auxiliary[0]!r} besides"


# --------------------------------------------------------------------------------------- ranks
def _ranked(walk: Pass, drawn: Replicates, block: LogWeights, number: int) -> _Block:
    """The PIT values of a block of replicates."""
    truth = {
        n: v.narrow(v.dim() - len(walk.shapes[n].event) + walk.dim, block.start, block.size)
        for n, v in drawn.latents.items()
    }
    batch = walk.stream.rows(block.start, block.start + block.size)
    plain, stream = OneByOne(), walk.stream
    with walk.aside():
        scored = plain.run(stream.model, batch, 1, truth)
        log_q = None
        if not walk.auxiliary:
            log_q = torch.stack(
                list(plain.run(stream.guide, batch, 1, truth).log_density.values())
            )
    log_likelihood = torch.stack([scored.log_density[n] for n in scored.observed]).sum(0)[0]
    pits, variances, truths = [], [], []
    uniform = _uniform(stream.seed, number)
    for name, coordinates in walk.coordinates.items():
        true, draws = walk.flat(name, truth[name])[0], walk.flat(name, block.draws[name])
        f_true, f_draws = coordinates.ranked(true, draws)
        pits.append(randomised_pit(f_true, f_draws, uniform(f_true)))
        variances.append(_variance(coordinates.points(draws)).sum(-1))
        truths.append(true)
    near = _ROUNDING.get(truth[walk.names[0]].dtype, 4e-6)
    hpd = torch.full_like(log_likelihood, torch.nan)
    if log_q is not None:
        density = -torch.stack(list(block.log_q.values())).sum(0)
        hpd = randomised_pit(-log_q.sum(0)[0], density, uniform(hpd), near)
    likelihood = randomised_pit(log_likelihood, block.log_likelihood, uniform(hpd), near)
    joined = [torch.cat(part, -1).cpu() for part in (pits, variances, truths)]
    return _Block(joined[0], likelihood.cpu(), hpd.cpu(), joined[1], joined[2])


def _variance(points: Tensor) -> Tensor:
    """The unbiased variance over draws; NaN of a single draw."""
    count = len(points)
    return (points - points.mean(0)).square().sum(0) / (count - 1 or torch.nan)


def _uniform(first: int, number: int) -> Callable[[Tensor], Tensor]:
    """Draws for ties, whose seed is made of the number of the block."""
    generator = torch.Generator().manual_seed(seed_of(first, 4, number))

    def drawn(like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like.device)

    return drawn


# -------------------------------------------------------------------------------------- tables
def _dataset(walk: Pass, ranks: _Block) -> xr.Dataset:
    ranked = [label for c in walk.coordinates.values() for label in c.ranked_labels]
    quantities = [*ranked, "log_likelihood", "hpd"]
    pits = torch.cat([ranks.pit, ranks.log_likelihood[:, None], ranks.hpd[:, None]], -1).numpy()
    contraction, error = _contraction(walk, ranks)
    latents = [ranked.index(label) for label in walk.labels]
    means = [i for i, label in enumerate(ranked) if label not in walk.labels]
    columns = _columns(pits, quantities)
    return xr.Dataset(
        {
            "pit": (("replicate", "latent"), pits[:, latents]),
            "pit_direction": (("replicate", "direction"), pits[:, means]),
            "pit_log_likelihood": (("replicate",), pits[:, -2]),
            "pit_hpd": (("replicate",), pits[:, -1]),
            "contraction": (("latent",), contraction),
            "contraction_std_error": (("latent",), error),
            **{name: (("quantity",), column) for name, column in columns.items()},
        },
        coords={
            "replicate": np.arange(len(pits)),
            "latent": walk.labels,
            "latent_site": ("latent", walk.sites),
            "direction": np.array([ranked[i] for i in means], dtype=str),
            "quantity": quantities,
        },
    )


def _columns(pits: np.ndarray, quantities: list[str]) -> dict[str, np.ndarray]:
    """Tests and effect sizes by quantity."""
    count = len(pits)
    known = ~np.isnan(pits).any(0)
    p_value = np.full(len(quantities), np.nan)
    p_value[known] = [stats.kstest(u, "uniform").pvalue for u in pits[:, known].T]
    found = {
        "pit_p_value": p_value,
        "pit_mean": pits.mean(0),
        "pit_mean_std_error": pits.std(0, ddof=1) / count**0.5,
    }
    for level in (50, 90):
        # the density's regions start at the mode; intervals are central
        away = np.where(np.array(quantities) == "hpd", pits, 2 * np.abs(pits - 0.5))
        inside = np.where(np.isnan(pits), np.nan, away <= level / 100)
        share = inside.mean(0)
        found[f"coverage_{level}"] = share
        found[f"coverage_{level}_std_error"] = (share * (1 - share) / count) ** 0.5
    return found


def _contraction(walk: Pass, ranks: _Block) -> tuple[np.ndarray, np.ndarray]:
    """1 - E Var_q / Var_p by coordinate, and its standard error by the delta method."""
    count = len(ranks.truth)
    points: list[Tensor] = []
    for name, true in zip(walk.names, _split(walk, ranks.truth), strict=True):
        place = walk.coordinates[name].points(true)
        points.append((place - place.mean(0)).square().sum(-1) * count / (count - 1))
    away = torch.cat(points, -1)
    within, total = ranks.variance.mean(0), away.mean(0)
    influence = (ranks.variance - within) / total - within / total * (away - total) / total
    error = influence.std(0) / count**0.5
    return (1 - within / total).numpy(), error.numpy()


def _split(walk: Pass, flat: Tensor) -> tuple[Tensor, ...]:
    return flat.split([len(c.labels) for c in walk.coordinates.values()], -1)
