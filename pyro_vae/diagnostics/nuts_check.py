"""A spot check of a guide against Markov chains, on a few data."""

from __future__ import annotations

__all__ = ["nuts_check"]

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_value
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from pyro.poutine.messenger import Messenger
from scipy.stats import ks_2samp
from torch import Tensor

from pyro_vae.diagnostics.moves import HMC, moves_of
from pyro_vae.diagnostics.posterior import Block, Posterior, Values, few_rows, seed_of
from pyro_vae.diagnostics.shelf import Finding, NotApplicable, register, step

R_HAT = 1.05
"""Above it chains have not mixed, and nothing is to be compared with them."""

SHIFT = 0.25
"""How far a mean, in sd, or a ratio of sds may be off."""

_GUIDE, _CHAIN = 31, 32


def _judge(table: xr.Dataset) -> list[Finding]:
    believed = table.isel(data=np.flatnonzero(table.nuts_believed.values))
    count = table.sizes["data"]
    findings = []
    if believed.sizes["data"] < count:
        text = (
            f"the chains of {count - believed.sizes['data']} of {count} data did not mix or "
            "diverged, and say nothing."
        )
        findings.append(Finding("care", text, "nuts_check(..., warmup=1000)."))
    if not believed.sizes["data"]:
        return findings
    shift, error = _worst(believed.mean_shift, believed.mean_shift_std_error, 0.0)
    ratio, ratio_error = _worst(believed.sd_ratio, believed.sd_ratio_std_error, 1.0)
    numbers = (
        f"against NUTS on {believed.sizes['data']} data the guide's means are off by "
        f"{shift:+.2f} +- {error:.2f} sd at worst, and its sds are {ratio:.2f} +- "
        f"{ratio_error:.2f} of the posterior's"
    )
    if abs(shift) - 3 * error > SHIFT or abs(ratio - 1) - 3 * ratio_error > SHIFT:
        advice = (
            "a richer guide (fam.FullNormal, a flow); gaps tells whether the encoder is at fault."
        )
        return [*findings, Finding("care", f"{numbers}.", advice)]
    return [*findings, Finding("good", f"{numbers}.")]


def _worst(values: xr.DataArray, errors: xr.DataArray, target: float) -> tuple[float, float]:
    away = np.abs(values.values - target)
    at = np.unravel_index(np.nanargmax(away), away.shape)
    return float(values.values[at]), float(errors.values[at])


@register
@step(order=67, judge=_judge, optional=True)
def nuts_check(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    max_data: int | None = 4,
    num_draws: int = 300,
    warmup: int = 200,
    num_chains: int = 2,
    num_samples: int = 1000,
    seed: int = 0,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    """Compare q(z | x) with draws of p(z | x) by NUTS, on a few data: mean, sd, whole marginals.

        shift = (mean q - mean p) / sd p,   sd ratio = sd q / sd p,
        KS    = max_z |F_q(z) - F_p(z)|,    for every number z of the latent sites

    Pyro's NUTS runs on the model of one datum at a time, in chains that start at draws of the
    guide; whatever scales the model (a minibatch of a larger data set, say) is left out. It takes
    seconds for each datum, and what it shows it shows of these data alone; but it knows nothing
    of the guide's family, and its chains say themselves whether they can be believed.

    Arguments:
        model: A Pyro model with a plate over data, called as `model(*args, **kwargs)`.
        guide: Its guide.
        *args: Positional arguments of both, the data first.
        max_data: How many data to take, by lot; None for all.
        num_draws: The number of draws of each chain that are kept.
        warmup: The number of steps of each chain in which it adapts, which are not kept.
        num_chains: The number of chains, run one after the other.
        num_samples: The number of draws of the guide to compare with.
        seed: Of all draws.
        plate: The name of the data plate; by default it is found.
        batch_size: On how many (draw, datum) pairs programs are run at once; draws do not depend
            on it.
        block_size: Not used: chains are those of one datum.
        progress: Whether to show a bar for what takes over 2 s.
        **kwargs: Keyword arguments of both.

    Returns:
        With dims (data, latent), the latent numbers named `site[index]`: `nuts_mean` with its
        `_std_error`, `nuts_sd`, `guide_mean`, `guide_sd`, `mean_shift` and `sd_ratio` with their
        `_std_error` (of the chains and the guide's draws), `ks_distance`, `nuts_ess`, and
        `nuts_r_hat`, split over chains; by datum, `nuts_divergences` and `nuts_believed`, 1 where
        all r-hats are below 1.05 and no trajectory diverged. `nuts_draws` has dims (chain, draw,
        data, latent).

    Raises:
        diagnostics.NotApplicable: If a latent site is discrete or lives on a sphere or circle, for
            which there is no NUTS.
        ValueError: As `diagnostics.Stream` does; if a number is not positive.

    References:
        The No-U-Turn sampler (M. D. Hoffman, A. Gelman, 2014);
        Rank-normalization, folding, and localization: an improved R-hat (A. Vehtari, A. Gelman,
        D. Simpson, B. Carpenter, P.-C. Buerkner, 2021)

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.35))  # the posterior has 0.71
        >>> found = nuts_check(model, guide, torch.zeros(1), num_draws=100, warmup=50)
        >>> 0.3 < found.sd_ratio.item() < 0.7
        True
    """
    _require_positive(num_draws=num_draws, warmup=warmup, num_chains=num_chains)
    args, kwargs, rows = few_rows(args, kwargs, max_data, seed)
    posterior = Posterior(
        model,
        guide,
        *args,
        what="NUTS",
        num_samples=num_samples,
        seed=seed,
        plate=plate,
        batch_size=batch_size,
        block_size=1,
        progress=progress,
        **kwargs,
    )
    if not posterior.stream.data.size:
        raise NotApplicable("NUTS runs on one datum at a time: pass the data as an argument.")
    found: list[_Compared] = []
    names: list[str] = []
    for block, bar in posterior.blocks(num_chains):
        with posterior.aside():
            _require_hmc(posterior, block)
            pyro.set_rng_seed(seed_of(posterior.seed, block.number, _GUIDE))
            drawn = posterior.draw(block.batch, num_samples)
            names = list(_names(posterior, drawn))
            chains, divergences = [], 0
            for chain in range(num_chains):
                draws, diverged = _chain(posterior, block, drawn, chain, num_draws, warmup)
                chains.append(_numbers(draws))
                divergences += diverged
                bar.update()
            found.append(_Compared(torch.stack(chains), _numbers(drawn), divergences))
    return _table(found, names, rows).assign_attrs(
        posterior.attrs, num_samples=num_samples, nuts_warmup=warmup, r_hat_limit=R_HAT
    )


class _Compared(NamedTuple):
    """Draws of one datum: (chain, draw, latent) of NUTS, (draw, latent) of the guide."""

    chains: Tensor
    guide: Tensor
    divergences: int


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be positive, not {number}.")


def _require_hmc(posterior: Posterior, block: Block) -> None:
    data = block.batch.data
    pyro.set_rng_seed(seed_of(posterior.seed, block.number))
    trace = poutine.trace(posterior.stream.model).get_trace(*data.args, **data.kwargs)
    nodes = dict[str, Any](trace.nodes)
    for name, move in moves_of(nodes, list(block.batch.sites)).items():
        if move != HMC:
            raise NotApplicable(
                f"NUTS moves along real numbers, and latent site {name!r} has none: its support "
                f"is {nodes[name]['fn'].support}. Annealed importance sampling (diagnostics.ais) "
                "moves there by independence Metropolis."
            )


class _Unscaled(Messenger):
    """Takes the scale of a minibatch off every site."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["scale"] = 1.0


def _chain(
    posterior: Posterior, block: Block, drawn: Values, number: int, draws: int, warmup: int
) -> tuple[Values, int]:
    """One chain, started at a draw of the guide, and how often it diverged."""
    data = block.batch.data
    start = {n: v[number % len(v)] for n, v in drawn.items()}
    model = _Unscaled()(posterior.stream.model)
    pyro.set_rng_seed(seed_of(posterior.seed, block.number, _CHAIN, number))
    with torch.enable_grad():
        kernel = NUTS(model, init_strategy=init_to_value(values=start))
        mcmc = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True)
        mcmc.run(*data.args, **data.kwargs)
    diverged = sum(len(d) for d in mcmc.diagnostics()["divergences"].values())
    samples = mcmc.get_samples()
    return {n: samples[n] for n in drawn}, diverged


def _numbers(values: Values) -> Tensor:
    """All latent numbers of one datum, (draws, latent)."""
    return torch.cat([v.detach().double().flatten(1) for v in values.values()], 1).cpu()


def _names(posterior: Posterior, values: Values) -> Iterator[str]:
    for name, value in values.items():
        # the dimension of the one datum says nothing
        shape = list(value.shape[1:])
        del shape[posterior.data_dim(posterior.stream.first, name)]
        for index in itertools.product(*map(range, shape)):
            yield f"{name}[{','.join(map(str, index))}]" if index else name


def _table(found: list[_Compared], names: list[str], rows: np.ndarray | None) -> xr.Dataset:
    columns = [_columns(c) for c in found]
    chains = torch.stack([c.chains for c in found], 2).numpy()
    table = xr.Dataset(
        {n: (("data", "latent"), np.stack([c[n] for c in columns])) for n in columns[0]},
        coords={
            "data": np.arange(len(found)) if rows is None else rows,
            "latent": names,
            "chain": np.arange(chains.shape[0]),
            "draw": np.arange(chains.shape[1]),
        },
    )
    divergences = np.array([c.divergences for c in found])
    mixed = (table.nuts_r_hat.values < R_HAT).all(1)
    return table.assign(
        nuts_draws=(("chain", "draw", "data", "latent"), chains),
        nuts_divergences=("data", divergences),
        nuts_believed=("data", (mixed & (divergences == 0)).astype(int)),
    )


def _columns(compared: _Compared) -> dict[str, np.ndarray]:
    chains, guide = compared.chains, compared.guide
    ess = effective_sample_size(chains, chain_dim=0, sample_dim=1)
    r_hat = split_gelman_rubin(chains, chain_dim=0, sample_dim=1)
    flat = chains.flatten(0, 1)
    mean, sd = flat.mean(0), flat.std(0)
    # the variance of an sd, by the fourth moment: normal tails are not assumed
    relative = _relative_error(flat, ess)
    draws = len(guide)
    guide_mean, guide_sd = guide.mean(0), guide.std(0)
    shift, ratio = (guide_mean - mean) / sd, guide_sd / sd
    found = {
        "nuts_mean": mean,
        "nuts_mean_std_error": sd / ess.sqrt(),
        "nuts_sd": sd,
        "nuts_sd_std_error": sd * relative,
        "guide_mean": guide_mean,
        "guide_sd": guide_sd,
        "mean_shift": shift,
        "mean_shift_std_error": (1 / ess + ratio**2 / draws + (shift * relative).square()).sqrt(),
        "sd_ratio": ratio,
        "sd_ratio_std_error": ratio
        * (relative.square() + _relative_error(guide, torch.tensor(draws)).square()).sqrt(),
        "nuts_ess": ess,
        "nuts_r_hat": r_hat,
    }
    distances = [
        float(ks_2samp(flat[:, i].numpy(), guide[:, i].numpy()).statistic)  # type: ignore[attr-defined]
        for i in range(flat.shape[1])
    ]
    return {n: v.numpy() for n, v in found.items()} | {"ks_distance": np.array(distances)}


def _relative_error(draws: Tensor, count: Tensor) -> Tensor:
    """The standard error of a standard deviation, relative to it."""
    away = (draws - draws.mean(0)).square()
    kurtosis = away.square().mean(0) / away.mean(0).square()
    return ((kurtosis - 1).clamp_min(0) / count).sqrt() / 2
