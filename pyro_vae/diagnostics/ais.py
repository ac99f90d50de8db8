"""Log p(x) by annealed importance sampling, and the sandwich around it on simulated data."""

from __future__ import annotations

__all__ = ["ais", "bdmc"]

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from pyro_vae.diagnostics.annealing import Annealer, Ladder, Run
from pyro_vae.diagnostics.moves import Coordinates, moves_of, stated
from pyro_vae.diagnostics.posterior import Block, Posterior, few_rows, mean_over_data
from pyro_vae.diagnostics.shelf import Finding, register, step
from pyro_vae.diagnostics.simulated import simulate
from pyro_vae.diagnostics.weights import BLOCK_SIZE

FEW_CHAINS, STUCK, WIDE = 0.25, 0.3, 0.1
"""Relative ESS of chains and share of moves accepted below which, and nats of a sandwich above
which more temperatures are advised."""


def _told(table: xr.Dataset, name: str) -> str:
    attrs = table.attrs
    return f"{attrs[f'{name}_mean']:.3f} +- {attrs[f'{name}_mean_std_error']:.3f}"


def _judge(table: xr.Dataset) -> list[Finding]:
    chains = table.attrs["num_chains"]
    ess = float(table.ais_relative_ess.median())
    lowest = float(table.ais_lowest_acceptance.median())
    numbers = (
        f"log p(x) is {_told(table, 'ais_log_px')} nats a datum by annealed importance sampling "
        f"(at half of the data the {chains} chains are worth {chains * ess:.1f} or fewer)"
    )
    advice = "ais(..., num_steps=200); bdmc says how far from log p(x) such chains are."
    if ess < FEW_CHAINS or lowest < STUCK:
        return [Finding("care", f"{numbers}, with a long way to go: take it for a bound.", advice)]
    return [Finding("good", f"{numbers}.")]


def _judge_sandwich(table: xr.Dataset) -> list[Finding]:
    gap, error = table.attrs["bdmc_gap_mean"], table.attrs["bdmc_gap_mean_std_error"]
    numbers = (
        f"on simulated data log p(x) lies between {_told(table, 'bdmc_lower')} and "
        f"{_told(table, 'bdmc_upper')} nats, {_told(table, 'bdmc_gap')} apart"
    )
    if not gap > -5 * error:
        advice = (
            "do guide and model see the same arguments? Is the model a program of chance alone?"
        )
        return [Finding("bad", f"the sandwich is upside down: {numbers}.", advice)]
    if gap - 2 * error > WIDE:
        advice = f"bdmc(..., num_steps={4 * table.attrs['num_steps']}), and ais with as many."
        return [Finding("care", f"{numbers}.", advice)]
    return [Finding("good", f"{numbers}.")]


@register
@step(order=65, judge=_judge, shows=("ais_log_px",), optional=True)
def ais(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 64,
    num_chains: int = 16,
    num_steps: int = 50,
    leapfrog: int = 5,
    max_data: int | None = None,
    seed: int = 0,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = BLOCK_SIZE,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    """Log p(x) by datum, by annealed importance sampling from the guide: a lower bound.

        f_t = q(z | x)^(1 - t/T) p(x, z)^(t/T),
        log w_k = 1/T sum_{t<T} [log p(x, z_kt) - log q(z_kt | x)],   E w = p(x),
        log p(x) >= E log 1/K sum_k w_k >= E log w_1 >= ELBO

    Chains start at draws of the guide and move by Hamiltonian Monte Carlo in the coordinates of
    `biject_to` (with its log Jacobian), where a site lives on the line, on an interval or on a
    simplex; spheres, circles and discrete sites move by independence Metropolis with proposals
    from the guide (attrs `moves`). Step sizes are learnt by datum and temperature in a pilot run
    and frozen, without which the bound does not hold. A start at the guide rather than the
    prior needs some twenty times fewer temperatures. With num_steps=1 it is IWAE with K draws.

    Arguments:
        model: A Pyro model with a plate over data, called as `model(*args, **kwargs)`.
        guide: Its guide.
        *args: Positional arguments of both, the data first.
        num_samples: The number of draws of the guide by whose standard deviation moves are scaled,
            coordinate by coordinate.
        num_chains: K, the number of chains for each datum.
        num_steps: T, the number of temperatures. The cost is that of 2 T leapfrog K gradients of
            model and guide for each datum.
        leapfrog: The number of leapfrog steps of each move.
        max_data: How many data to take, by lot; None for all.
        seed: Of all draws.
        plate: The name of the data plate; by default it is found.
        batch_size: On how many (chain, datum) pairs the programs are run at once; draws do not
            depend on it.
        block_size: On how many data the guide is run at once; draws depend on it.
        progress: Whether to show a bar for what takes over 2 s.
        **kwargs: Keyword arguments of both.

    Returns:
        By datum, in nats: `ais_log_px` and its standard error by the delta method (too small where
        `ais_relative_ess` = 1 / (K sum w^2) is near 1 / K), `ais_chain_bound`, the mean of log w
        over chains, and its standard error; `ais_acceptance`, the share of moves accepted, and
        `ais_lowest_acceptance`, that at its worst temperature. Attrs: `ais_log_px_mean` with its
        standard error over data, and the choices that were made.

    Raises:
        ValueError: As `diagnostics.Stream` does; if the guide draws a site the model has not; if a
            draw lies outside the support that was stated for it; if a number is not positive.

    References:
        Annealed importance sampling (R. M. Neal, 2001);
        On the quantitative analysis of decoder-based generative models (Y. Wu, Y. Burda,
        R. Salakhutdinov, R. Grosse, 2017)

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.4))  # the posterior has 0.71
        >>> x = torch.linspace(-1, 1, 50)
        >>> found = ais(model, guide, x, num_steps=20)
        >>> truth = dist.Normal(0.0, 2**0.5).log_prob(x).mean().item()
        >>> abs(found.ais_log_px_mean - truth) < 0.05
        True
    """
    ladder = Ladder(num_chains, num_steps, leapfrog)
    ladder.check()
    args, kwargs, rows = few_rows(args, kwargs, max_data, seed)
    posterior = Posterior(
        model,
        guide,
        *args,
        what="annealing",
        num_samples=num_samples,
        seed=seed,
        plate=plate,
        batch_size=batch_size,
        block_size=block_size,
        progress=progress,
        **kwargs,
    )
    parts, moves = [], {}
    for block, bar in posterior.blocks(ladder.pilot_steps + num_steps):
        with posterior.aside():
            annealer, moves = _annealer(posterior, block, ladder)
            sizes = annealer.pilot(bar.update)
            parts.append(_forward_columns(annealer.forward(sizes, bar.update), "ais"))
    table = _table(parts, rows).assign_attrs(_attrs(posterior, ladder, moves))
    mean, error = mean_over_data(table.ais_log_px.values)
    return table.assign_attrs(ais_log_px_mean=mean, ais_log_px_mean_std_error=error)


@register
@step(order=66, judge=_judge_sandwich, optional=True)
def bdmc(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 64,
    num_chains: int = 16,
    num_steps: int = 50,
    leapfrog: int = 5,
    max_data: int | None = None,
    observed: Mapping[str, int | str] | None = None,
    seed: int = 0,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = BLOCK_SIZE,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    """A sandwich around log p(x) on data simulated from the model: how far AIS is to be believed.

        lower = log 1/K sum_k w_k,   upper = -log 1/K sum_k 1/w'_k,
        E lower <= log p(x) <= E upper

    with w of `ais`, and w' of the same chains run backwards from an exact draw of the posterior,
    which is known where x is simulated: x, z ~ p(x, z). The difference bounds, in the mean, what
    `ais` with the same ladder misses on data like those of the model, and so the KL divergence
    of its chains from the posterior. Bounds hold in the mean, not datum by datum; the errors are
    over data.

    Arguments:
        model: A Pyro model with a plate over data, called as `model(*args, **kwargs)`.
        guide: Its guide.
        *args: Positional arguments of both; as many data are simulated as are passed.
        num_samples: As in `ais`.
        num_chains: As in `ais`.
        num_steps: As in `ais`.
        leapfrog: As in `ais`.
        max_data: How many data to simulate at most; None for as many as are passed.
        observed: By observed site, the position or name of the argument that holds its value;
            by default it is recognised by being equal.
        seed: As in `ais`.
        plate: As in `ais`.
        batch_size: As in `ais`.
        block_size: As in `ais`.
        progress: As in `ais`.
        **kwargs: Keyword arguments of both.

    Returns:
        With dim `simulated`, a datum each, in nats: `bdmc_lower`, `bdmc_upper`, `bdmc_gap`, and
        the shares of moves accepted in both directions. Attrs: the means of the three with their
        standard errors over data.

    Raises:
        ValueError: As `ais` does; if no argument is found that holds the data; if the model's
            draws lie outside the support of the guide, where the upper bound is infinite.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (R. Grosse,
        Z. Ghahramani, R. P. Adams, 2015)

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5))
        >>> found = bdmc(model, guide, torch.zeros(50), num_steps=20)
        >>> -0.05 < found.bdmc_gap_mean < 0.1
        True
    """
    ladder = Ladder(num_chains, num_steps, leapfrog)
    ladder.check()
    args, kwargs, _ = few_rows(args, kwargs, max_data, seed)
    options = {
        "num_samples": num_samples,
        "seed": seed,
        "plate": plate,
        "batch_size": batch_size,
        "block_size": block_size,
        "progress": progress,
    }
    real = Posterior(model, guide, *args, what="simulating", **options, **kwargs)
    simulated = simulate(real, observed)
    posterior = Posterior(
        model,
        guide,
        *simulated.args,
        what="annealing both ways",
        **options,
        **simulated.kwargs,
    )
    parts, moves = [], {}
    for block, bar in posterior.blocks(ladder.pilot_steps + 2 * num_steps):
        with posterior.aside():
            annealer, moves = _annealer(posterior, block, ladder)
            sizes = annealer.pilot(bar.update)
            lower = annealer.forward(sizes, bar.update)
            upper = annealer.backward(simulated.draws[block.number], sizes, bar.update)
            parts.append(_sandwich(lower, upper))
    table = _table(parts, None, "simulated").assign_attrs(_attrs(posterior, ladder, moves))
    for name in ("bdmc_lower", "bdmc_upper", "bdmc_gap"):
        mean, error = mean_over_data(table[name].values)
        table = table.assign_attrs({f"{name}_mean": mean, f"{name}_mean_std_error": error})
    return table


def _annealer(
    posterior: Posterior, block: Block, ladder: Ladder
) -> tuple[Annealer, dict[str, str]]:
    sites = list(block.batch.sites)
    nodes = _nodes(posterior.stream.guide, block)
    silent = [n for n in sites if not stated(nodes[n]["fn"])]
    if silent:
        # a flow need not state its support; it should be the prior's
        prior = _nodes(posterior.stream.model, block)
        nodes |= {n: prior[n] for n in silent}
    coordinates = Coordinates.of(posterior, block.batch, nodes)
    return Annealer(posterior, block, coordinates, ladder), moves_of(nodes, sites)


def _nodes(program: Callable[..., Any], block: Block) -> dict[str, Any]:
    data = block.batch.data
    return dict(poutine.trace(program).get_trace(*data.args, **data.kwargs).nodes)


def _log_mean(log_weight: Tensor) -> Tensor:
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def _spread(values: Tensor) -> Tensor:
    """The standard error of a mean over chains."""
    if len(values) < 2:
        return torch.full_like(values[0], math.nan)
    return values.std(0) / math.sqrt(len(values))


def _forward_columns(run: Run, name: str) -> dict[str, Tensor]:
    log_weight = run.log_weight
    relative = (log_weight - _log_mean(log_weight)).exp()
    return {
        f"{name}_log_px": _log_mean(log_weight),
        f"{name}_log_px_std_error": _spread(relative),
        f"{name}_chain_bound": log_weight.mean(0),
        f"{name}_chain_bound_std_error": _spread(log_weight),
        f"{name}_relative_ess": 1 / relative.square().mean(0),
        f"{name}_acceptance": run.acceptance,
        f"{name}_lowest_acceptance": run.lowest,
    }


def _sandwich(lower: Run, upper: Run) -> dict[str, Tensor]:
    below, above = _log_mean(lower.log_weight), -_log_mean(-upper.log_weight)
    return {
        "bdmc_lower": below,
        "bdmc_upper": above,
        "bdmc_gap": above - below,
        "bdmc_forward_acceptance": lower.acceptance,
        "bdmc_backward_acceptance": upper.acceptance,
    }


def _table(
    parts: list[dict[str, Tensor]], rows: np.ndarray | None, dim: str = "data"
) -> xr.Dataset:
    columns = {n: torch.cat([p[n] for p in parts]).cpu().numpy() for n in parts[0]}
    size = len(next(iter(columns.values())))
    return xr.Dataset(
        {n: (dim, column) for n, column in columns.items()},
        coords={dim: np.arange(size) if rows is None else rows},
    )


def _attrs(posterior: Posterior, ladder: Ladder, moves: dict[str, str]) -> dict[str, Any]:
    return {
        **posterior.attrs,
        "num_samples": posterior.stream.num_samples,
        **ladder._asdict(),
        "temperatures": "even, from the guide to the posterior",
        "moves": [f"{site}: {move}" for site, move in moves.items()],
        "step_sizes": "learnt by datum and temperature in a pilot run, then frozen",
    }
