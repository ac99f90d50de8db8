"""What is missing, given what was observed: E[x_mis | x_obs] and draws of x_mis, with errors.

    p(x_mis | x_obs) = integral of p(x_mis | z) p(z | x_obs)

A guide that is given x with gaps draws from q(z | x_obs), which is not p(z | x_obs): an amortised
encoder takes what the gaps were filled with for data. So draws are weighted by
p(x_obs, z) / q(z | x_obs), which is right whatever the guide, as long as its draws reach where the
posterior is; k-hat says whether they do.

Without weights it is two lines of Pyro, of a guide that is trusted:

    drawn = Predictive(vae.guide, num_samples=100, parallel=True)(x, mask=mask)
    x_mis = Predictive(vae.model, posterior_samples=drawn, parallel=True)(size=len(x))["x"]
"""

from __future__ import annotations

__all__ = ["impute"]

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.diagnostics import DiagnosticWarning, LogWeights, Stream, threshold
from pyro_vae.diagnostics.pareto_k import FEW
from pyro_vae.diagnostics.particles import Batch, SiteShape
from pyro_vae.diagnostics.posterior import seed_of
from pyro_vae.inference_data.variables import Variable, observed_entries, to_numpy, variables
from pyro_vae.pareto import MIN_DRAWS

_NUMBERS = 2**22  # of one run of the model, at most
_TRACED, _CHOSEN, _MADE = 31, 32, 33


def impute(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    num_draws: int = 100,
    weighted: bool = True,
    dims: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = 64,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    r"""Fill in missing entries: E[x_mis | x_obs] with its standard error, and draws of x_mis.

        E[x_mis | x_obs] = sum_s W_s E[x_mis | z_s],   z_s ~ q(z | x_obs),
        W_s proportional to p(x_obs, z_s) / q(z_s | x_obs), Pareto-smoothed, of sum 1.

    What is missing is what model and guide mask: of a `VAE`, `impute(vae.model, vae.guide, x,
    mask=mask)` with `mask` True where x was observed; what stands in its gaps does not matter.
    With `weighted=False` all W_s are 1 / S: the usual shortcut, which answers for the guide and
    not for the model.

    The error is that of the draws: sum_s W_s^2 (E[x_mis | z_s] - mean)^2, its root. It does not
    know of a mode that no draw has seen; where k-hat is high for more than a few data a
    `DiagnosticWarning` says so.

    Arguments:
        model: A Pyro model with a plate over data, called as `model(*args, **kwargs)`.
        guide: Its guide.
        *args: Positional arguments of both, the data first.
        num_samples: S, the draws of z for each datum.
        num_draws: How many imputations to draw: z again from the draws by their weights, then
            x_mis ~ p(x | z). Several, for what is done with imputed data has an error of its own.
        weighted: Whether to weight.
        dims: Names of the dimensions of an event by site, `{"x": ["height", "width"]}`.
        seed: Of all draws; the random state of the caller plays no part.
        plate: The name of the data plate, as in `diagnostics.Stream`.
        batch_size: As in `diagnostics.Stream`.
        block_size: As in `diagnostics.Stream`.
        progress: Whether to show a bar for what takes over 2 s.
        **kwargs: Keyword arguments of both, `mask=` among them.

    Returns:
        For every observed site with gaps, named `x` say: `x`, draws with dims (draw, data, ...);
        `x_mean` and `x_mean_std_error` with dims (data, ...); `x_missing`, 1 in the gaps.
        Elsewhere `x` and `x_mean` are the data and the error is 0. The mean is NaN where the
        likelihood has none (classes, Cauchys): use the draws. By datum: `khat` and `ess`, the
        number of unweighted draws that would do as well.

    Raises:
        ValueError: If nothing is masked, if a number is not positive, if weights of a datum are
            not finite, and as `diagnostics.Stream`.

    References:
        MIWAE: deep generative modelling and imputation of incomplete data sets (P.-A. Mattei,
        J. Frellsen, 2019); Pareto smoothed importance sampling (A. Vehtari, D. Simpson,
        A. Gelman, Y. Yao, J. Gabry, 2024)

    Example:
        >>> def model(x, mask):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         law = dist.Normal(z.unsqueeze(-1), torch.tensor([0.1, 0.1])).mask(mask)
        ...         pyro.sample("x", law.to_event(1), obs=torch.where(mask, x, 0.0))
        >>> def guide(x, mask):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x[:, 0], 0.2))
        >>> x, mask = torch.tensor([[1.0, torch.nan]]), torch.tensor([[True, False]])
        >>> found = impute(model, guide, x, mask, num_samples=2000)
        >>> bool(abs(found.x_mean[0, 1] - 1 / 1.01) < 4 * found.x_mean_std_error[0, 1])
        True
    """
    if num_draws < 1:
        raise ValueError(f"num_draws must be positive, not {num_draws}.")
    options = {"plate": plate, "batch_size": batch_size, "block_size": block_size}
    stream = Stream(
        model,
        guide,
        *args,
        **{**options, "num_samples": num_samples, "seed": seed, "progress": progress},
        keep_draws=True,
        **kwargs,
    )
    parts = [
        _imputed(stream, number, block, num_draws, weighted, dims or {})
        for number, block in enumerate(stream)
    ]
    table = xr.concat(_alike(parts), "data", join="exact", combine_attrs="override")
    table = table.assign_coords({dim: np.arange(size) for dim, size in table.sizes.items()})
    share = _unreliable(table, num_samples) if weighted else 0.0
    return table.assign_attrs(
        stream.attrs, num_draws=num_draws, weighted=int(weighted), unreliable_share=share
    )


def _unreliable(table: xr.Dataset, num_samples: int) -> float:
    """For what share of data k-hat is too high, or not known; a warning if it is not small."""
    limit = threshold(num_samples)
    share = 1 - float((table.khat <= limit).mean())
    if share > FEW:
        why = (
            f"k-hat is above {limit:.2f} for {100 * share:.1f} % of data: there the guide hardly "
            "reaches where p(z | x_obs) is, and the errors of what is imputed are too small. More "
            "draws, or a guide trained on data with gaps."
            if num_samples >= MIN_DRAWS
            else f"{num_samples} draws are too few for k-hat, so that nothing says whether the "
            "weights can be trusted."
        )
        warnings.warn(why, DiagnosticWarning, stacklevel=3)
    return share


@dataclass
class _Site:
    """An observed site of a block: its data, and which of them there are."""

    variable: Variable
    value: Tensor
    seen: Tensor
    shape: SiteShape

    def filled(self, made: Tensor) -> Tensor:
        """Values (draws, data, ...) with the data where they were observed."""
        return torch.where(self.seen, self.value.to(made.dtype), made)


def _imputed(
    stream: Stream,
    number: int,
    weights: LogWeights,
    num_draws: int,
    weighted: bool,
    dims: Mapping[str, Sequence[str]],
) -> xr.Dataset:
    """One block of data."""
    batch, w = (
        stream.rows(weights.start, weights.start + weights.size),
        _normalised(weights, weighted),
    )
    with stream.aside(), pyro.validation_enabled(False):
        sites = _sites(stream, batch, number, dims)
        batch = Batch(
            batch.data,
            batch.frame,
            batch.nesting,
            {**batch.sites, **{n: s.shape for n, s in sites.items()}},
        )
        pyro.set_rng_seed(seed_of(stream.seed, number, _MADE))
        means = _moments(stream, batch, sites, weights.draws, w)
        chosen = _chosen(w, num_draws, seed_of(stream.seed, number, _CHOSEN))
        latent = {
            n: _taken(v, (batch.frame.dim or -1) - len(batch.sites[n].event), chosen)
            for n, v in weights.draws.items()
        }
        made = list(_run(stream, batch, poutine.uncondition(stream.model), sites, latent))
    columns: dict[str, Any] = {
        "khat": ("data", to_numpy(weights.psis.k)),
        "ess": ("data", to_numpy(1 / w.square().sum(0))),
    }
    for name, site in sites.items():
        where = site.variable.dims
        mean, error = means[name]
        draws = torch.cat([site.variable.arranged(values[name]) for _, values in made])
        columns[name] = (("draw", *where), to_numpy(site.filled(draws)))
        columns[f"{name}_mean"] = (where, to_numpy(site.filled(mean)))
        columns[f"{name}_mean_std_error"] = (where, to_numpy(error.masked_fill(site.seen, 0.0)))
        columns[f"{name}_missing"] = (where, to_numpy(~site.seen))
    return xr.Dataset(columns)


def _alike(parts: list[xr.Dataset]) -> list[xr.Dataset]:
    """The sites with gaps in some block, in all blocks."""
    every = map(str, parts[0])
    names = [n.removesuffix("_missing") for n in every if n.endswith("_missing")]
    gaps = [n for n in names if any(bool(part[f"{n}_missing"].any()) for part in parts)]
    if not gaps:
        raise ValueError(
            "nothing is missing: no observed site is masked. Pass mask=, a boolean tensor that is "
            "True where x was observed (a plain Pyro model masks its likelihood: dist.mask(mask))."
        )
    whole = [
        column
        for n in names
        if n not in gaps
        for column in (n, f"{n}_mean", f"{n}_mean_std_error", f"{n}_missing")
    ]
    return [part.drop_vars(whole) for part in parts]


def _normalised(weights: LogWeights, weighted: bool) -> Tensor:
    """The weight of each draw for each datum, (S, B), of sum 1 over draws."""
    if not weighted:
        return torch.full_like(weights.log_weight, 1 / weights.num_samples)
    found = weights.psis.log_weights.exp()
    bad = found.isnan().any(0)
    if bool(bad.any()):
        first = weights.start + int(bad.nonzero()[0])
        raise ValueError(
            f"the log weights of {int(bad.sum())} data (the first is number {first}) are not "
            "finite, so that nothing can be weighted; look at diagnostics.log_weights."
        )
    return found


def _sites(
    stream: Stream, batch: Batch, number: int, dims: Mapping[str, Sequence[str]]
) -> dict[str, _Site]:
    """The observed sites."""
    pyro.set_rng_seed(seed_of(stream.seed, number, _TRACED))
    nodes: dict[str, Any] = dict(stream.traces(batch.data)[1].nodes)
    found: dict[str, _Site] = {}
    for name, variable in variables(nodes, stream.frame.name, dims).items():
        if not variable.observed:
            continue
        node = nodes[name]
        seen = observed_entries(node)
        seen = torch.ones_like(node["value"], dtype=torch.bool) if seen is None else seen
        value, seen = (variable.arranged(v[None])[0] for v in (node["value"], seen))
        shape = SiteShape(node["fn"].batch_shape, node["fn"].event_shape)
        found[name] = _Site(variable, value, seen, shape)
    return found


def _moments(
    stream: Stream,
    batch: Batch,
    sites: Mapping[str, _Site],
    latent: Mapping[str, Tensor],
    weights: Tensor,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The weighted mean of E[x | z] and its standard error, by site, in float64."""
    origin: dict[str, Tensor] = {}
    sums: dict[str, list[Tensor]] = {}
    squares = weights.square()
    for first, values in _run(stream, batch, _Means(sites)(stream.model), sites, latent):
        for name, site in sites.items():
            means = site.variable.arranged(values[name]).double()
            # about an origin, lest the squares cancel
            means = means - origin.setdefault(name, means[0])
            some = slice(first, first + len(means))
            w, w2 = (_beside(v[some], means) for v in (weights, squares))
            terms = [w * means, w2 * means, w2 * means.square()]
            found = [term.sum(0) for term in terms]
            known = sums.get(name)
            sums[name] = (
                found if known is None else [a + b for a, b in zip(known, found, strict=True)]
            )
    result = {}
    for name, (mean, cross, square) in sums.items():
        total = _beside(squares.sum(0), mean)
        variance = (square - 2 * mean * cross + mean.square() * total).clamp(min=0)
        # one draw shows no error
        error = variance.sqrt() if len(weights) > 1 else torch.full_like(mean, math.nan)
        result[name] = (origin[name] + mean, error)
    return result


def _beside(weights: Tensor, values: Tensor) -> Tensor:
    return weights.reshape(*weights.shape, *[1] * (values.dim() - weights.dim()))


def _run(
    stream: Stream,
    batch: Batch,
    program: Callable[..., Any],
    sites: Mapping[str, _Site],
    latent: Mapping[str, Tensor],
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """What a program gives its observed sites at latent values, some draws at a time."""
    count = len(next(iter(latent.values())))
    numbers = sum(math.prod(s.shape.batch + s.shape.event) for s in sites.values())
    step = max(1, min(count, _NUMBERS // max(numbers, 1)))
    for first in range(0, count, step):
        some = {n: v[first : first + step] for n, v in latent.items()}
        length = min(step, count - first)
        yield first, stream.choice.model.run(program, batch, length, some).values


def _chosen(weights: Tensor, count: int, seed: int) -> Tensor:
    """Numbers of draws by their weights, (count, B)."""
    generator = torch.Generator().manual_seed(seed)
    each = weights.detach().cpu().T
    return torch.multinomial(each, count, replacement=True, generator=generator).T


def _taken(value: Tensor, dim: int, chosen: Tensor) -> Tensor:
    """Of draws (S, ...) with data along `dim`, those that were chosen for each datum."""
    by_datum = value.movedim(dim, 1)
    chosen = chosen.to(value.device)
    return by_datum[chosen, torch.arange(chosen.shape[1], device=value.device)].movedim(1, dim)


class _Means(Messenger):
    """Gives the sites that hold data the means of their distributions."""

    def __init__(self, sites: Mapping[str, Any]) -> None:
        super().__init__()
        self.names = frozenset(sites)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.names or not msg["is_observed"]:
            return
        fn = msg["fn"]
        try:
            mean = fn.mean
        except NotImplementedError:  # a distribution need not have one
            mean = msg["value"].new_full(fn.batch_shape + fn.event_shape, math.nan)
        msg["fn"] = dist.Delta(mean, event_dim=len(fn.event_shape))
        msg["is_observed"], msg["value"], msg["done"] = False, None, False
