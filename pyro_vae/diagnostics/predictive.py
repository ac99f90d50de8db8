"""Does the model make data like those it is shown: from its prior, and from its reconstructions.

Two questions that are easily taken for one another. Data made from z ~ p(z) test the whole model.
Data made from z ~ q(z | x_n) test only whether the decoder can paint x_n once it has been told
what is on it: a prior that is wrong is never asked.
"""

from __future__ import annotations

__all__ = ["prior_predictive_check", "reconstruction_check"]

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from pyro import poutine
from pyro.distributions.torch_distribution import MaskedDistribution
from scipy.stats import norm
from torch import Tensor

from pyro_vae.diagnostics.particles import Batch, SiteShape
from pyro_vae.diagnostics.posterior import Block, Posterior, Values, seed_of
from pyro_vae.diagnostics.shelf import Finding, register, step
from pyro_vae.diagnostics.statistics import Statistic, Statistics, chosen
from pyro_vae.diagnostics.weights import BLOCK_SIZE

OVER = ("mean", "sd")
"""How the numbers of single data are made one of all data."""

LIMIT = 3.0
"""|z| of a single statistic from which on a misfit is told; of the worst of many it is larger."""

_REAL, _MADE = 21, 22


# ------------------------------------------------------------------------------------ judging
def _judge_prior(table: xr.Dataset) -> list[Finding]:
    advice = (
        "a learned or richer prior, more latent dimensions, or another likelihood; look at draws "
        "of the model beside data."
    )
    return _judge(table, "prior_predictive", "data drawn from the model", advice)


def _judge_reconstruction(table: xr.Dataset) -> list[Finding]:
    advice = (
        "another likelihood or a larger decoder (this check says nothing of the prior: see "
        "prior_predictive_check)."
    )
    return _judge(table, "reconstruction", "reconstructions", advice)


def _judge(table: xr.Dataset, prefix: str, what: str, advice: str) -> list[Finding]:
    z = table[f"{prefix}_z"].stack(case=[...])
    known = z.dropna("case")
    if not known.size:
        text = f"no statistic of {what} varies, so none can be compared."
        return [Finding("care", text, "more replicates, or statistics of your own.")]
    worst = known.isel(case=int(abs(known).argmax("case")))
    site, name, over = (str(worst[c].item()) for c in ("observed_site", "statistic", "over"))
    case = {"observed_site": site, "statistic": name, "over": over}
    shift = float(table[f"{prefix}_shift"].sel(case))
    error = float(table[f"{prefix}_z_std_error"].sel(case))
    numbers = (
        f"the worst of them, the {over} over data of {name!r} at site "
        f"{site!r}, is {shift:+.2f} sd off (z = {float(worst):.1f} +- {error:.1f})"
    )
    # as improbable as one beyond the limit would be alone
    limit = float(norm.isf(norm.sf(LIMIT) / known.size))
    beyond = int((abs(known) > limit).sum())
    if not beyond:
        text = f"{what} look like the data in {known.size} statistics: {numbers}."
        return [Finding("good", text)]
    # a model that fits badly is no reason to distrust its guide
    text = f"{what} differ from the data in {beyond} of {known.size} statistics: {numbers}."
    return [Finding("care", text, advice)]


# ------------------------------------------------------------------------------------- checks
@register
@step(order=70, judge=_judge_prior)
def prior_predictive_check(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 200,
    statistics: Statistics = None,
    seed: int = 0,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = BLOCK_SIZE,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    r"""Prior-predictive check: whether data, better held-out ones, are like the model's own.

        x~_r = data as many as there are, z_n ~ p(z), x~_rn ~ p(x | z_n),   r = 1 ... R
        T(x) = mean (or sd) over n of t(x_n)
        p = P(T(x~) >= T(x)),   z = (T(x) - mean_r T(x~_r)) / sd_r T(x~_r)

    This is the check of the model. Compare `reconstruction_check`, which draws z ~ q(z | x_n),
    and cannot see that a prior is wrong. It asks of the model alone: no guide, however bad,
    changes the outcome. The more data, the smaller a misfit that it finds, so the effect is told
    beside z: `shift`, in standard deviations of t between data.

    Arguments:
        model: A Pyro model with a plate over data, called as `model(*args, **kwargs)`.
        guide: Its guide (run once, to learn of its sites).
        *args: Positional arguments of both: data that the model was not fitted to, if possible.
        num_samples: R, the number of replicated data sets.
        statistics: By name, functions t from data of shape (M, *event) to (M,); or names of
            registered ones (`diagnostics.statistic`); None for all that are registered.
        seed: Of all draws.
        plate: The name of the data plate; by default it is found.
        batch_size: Not used: how many data are drawn at once depends on the program alone, since
            draws depend on it.
        block_size: On how many data programs are run at once; draws depend on it.
        progress: Whether to show a bar for what takes over 2 s.
        **kwargs: Keyword arguments of both. Entries that are masked are in both the data and the
            replicates what the program put there.

    Returns:
        With dims (observed_site, statistic, over), `over` being the mean and the sd over data:
        `prior_predictive_observed`; `prior_predictive_replicated`, with dim `predicted` too, and
        its `_replicated_mean` and `_replicated_sd`; `prior_predictive_p` (ties count half, never 0
        or 1) and `prior_predictive_z`, each with a Monte Carlo `_std_error`; and
        `prior_predictive_shift`. z is NaN where no replicate differs from another.

    Raises:
        ValueError: As `diagnostics.Stream` does; if a statistic returns anything but (M,).
        KeyError: If a statistic is not registered.

    References:
        Posterior predictive assessment of model fitness via realized discrepancies (A. Gelman,
        X.-L. Meng, H. Stern, 1996);
        Sampling and Bayes' inference in scientific modelling and robustness (G. E. P. Box, 1980)

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 0.1), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x, 0.1))
        >>> x = 2 * torch.randn(200, generator=torch.Generator().manual_seed(0))
        >>> found = prior_predictive_check(model, guide, x, statistics=["mean"])
        >>> z = found.prior_predictive_z.sel(observed_site="x", statistic="mean")
        >>> abs(z.sel(over="mean").item()) < 5, z.sel(over="sd").item() > 5  # the prior is narrow
        (True, True)
    """
    posterior = _posterior(
        model, guide, args, kwargs, num_samples, seed, plate, batch_size, block_size, progress
    )
    return _check(posterior, "prior_predictive", statistics, reconstruct=False).assign_attrs(
        prior_predictive_latents="z ~ p(z)"
    )


@register
@step(order=71, judge=_judge_reconstruction)
def reconstruction_check(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 200,
    statistics: Statistics = None,
    seed: int = 0,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = BLOCK_SIZE,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    """Reconstruction check: whether data are like their reconstructions; blind to the prior.

        x~_rn ~ p(x | z_rn),   z_rn ~ q(z | x_n),   r = 1 ... R

    and T, p and z as in `prior_predictive_check`. This is what a posterior-predictive check is for
    a model with latent variables of each datum. It sees a decoder or a likelihood that cannot
    make what is on a datum; a prior that puts its mass where no data are, it does not see, since z
    comes from the datum itself; and since every datum is used twice, p is nearer to 1/2 than it
    should be.

    Arguments:
        model: A Pyro model with a plate over data, called as `model(*args, **kwargs)`.
        guide: Its guide.
        *args: Positional arguments of both.
        num_samples: R, the number of reconstructions of each datum.
        statistics: As in `prior_predictive_check`.
        seed: Of all draws.
        plate: The name of the data plate; by default it is found.
        batch_size: As in `prior_predictive_check`.
        block_size: On how many data programs are run at once; draws depend on it.
        progress: Whether to show a bar for what takes over 2 s.
        **kwargs: Keyword arguments of both.

    Returns:
        What `prior_predictive_check` returns, named `reconstruction_*`.

    Raises:
        ValueError: As `prior_predictive_check` does.
        KeyError: As `prior_predictive_check` does.

    References:
        Posterior predictive assessment of model fitness via realized discrepancies (A. Gelman,
        X.-L. Meng, H. Stern, 1996)

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 0.1), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 1.01, 0.1))
        >>> x = 2 * torch.randn(200, generator=torch.Generator().manual_seed(0))
        >>> found = reconstruction_check(model, guide, x, statistics=["mean"])
        >>> bool((abs(found.reconstruction_shift) < 0.1).all())  # the prior is narrow, yet unseen
        True
    """
    posterior = _posterior(
        model, guide, args, kwargs, num_samples, seed, plate, batch_size, block_size, progress
    )
    return _check(posterior, "reconstruction", statistics, reconstruct=True).assign_attrs(
        reconstruction_latents="z ~ q(z | x)"
    )


def _posterior(
    model: Any,
    guide: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_samples: int,
    seed: int,
    plate: str | None,
    batch_size: int | None,
    block_size: int,
    progress: bool,
) -> Posterior:
    return Posterior(
        model,
        guide,
        *args,
        what="replicating",
        num_samples=num_samples,
        seed=seed,
        plate=plate,
        batch_size=batch_size,
        block_size=block_size,
        progress=progress,
        **kwargs,
    )


class _Tally:
    """Sums over data of a statistic and its square, about an origin near its mean."""

    def __init__(self, replicates: int) -> None:
        self.sums = np.zeros((2, replicates))
        self.origin: float | None = None
        self.count = 0

    def add(self, first: int, values: Tensor) -> None:
        """Add the statistic of a block, (replicates, data)."""
        found = values.cpu().numpy()
        if self.origin is None:
            self.origin = float(found.mean())
        found = found - self.origin
        last = first + len(found)
        self.sums[:, first:last] += np.stack([found.sum(1), np.square(found).sum(1)])
        self.count += found.shape[1] if last == self.sums.shape[1] else 0

    def result(self) -> np.ndarray:
        """Mean and sd over data, of shape (2, replicates)."""
        mean, square = self.sums / self.count
        assert self.origin is not None
        return np.stack([mean + self.origin, np.sqrt(np.maximum(square - mean**2, 0.0))])


def _check(
    posterior: Posterior, prefix: str, statistics: Statistics, *, reconstruct: bool
) -> xr.Dataset:
    functions = chosen(statistics)
    replicates = posterior.stream.num_samples
    observed: dict[tuple[str, str], _Tally] = {}
    replicated: dict[tuple[str, str], _Tally] = {}
    for block, bar in posterior.blocks(replicates):
        with posterior.aside():
            real = _observed(posterior, block)
            for site, shown in real.items():
                for name, t in functions.items():
                    tally = observed.setdefault((site, name), _Tally(1))
                    tally.add(0, _by_datum(t, name, shown.value[None], shown.dim))
            for first, made in _replicates(posterior, block, real, reconstruct):
                for site, shown in real.items():
                    value = shown.filled(made[site])
                    for name, t in functions.items():
                        tally = replicated.setdefault((site, name), _Tally(replicates))
                        tally.add(first, _by_datum(t, name, value, shown.dim))
                bar.update(len(next(iter(made.values()))))
    return _compared(prefix, list(functions), observed, replicated).assign_attrs(
        posterior.attrs, num_samples=replicates
    )


class _Shown(NamedTuple):
    """What a site observes; `dim` counts data, and masked entries are True in no mask."""

    value: Tensor
    dim: int
    shape: SiteShape
    masks: list[Tensor]

    def filled(self, made: Tensor) -> Tensor:
        """Replicates, with masked entries as in the data."""
        for mask in self.masks:
            made = torch.where(mask, made, self.value)
        return made


def _observed(posterior: Posterior, block: Block) -> dict[str, _Shown]:
    """The observed sites of a block: what is observed, and where it is masked."""
    data, frame = block.batch.data, block.batch.frame
    pyro.set_rng_seed(seed_of(posterior.seed, block.number, _REAL))
    trace = poutine.trace(posterior.stream.model).get_trace(*data.args, **data.kwargs)
    found = {}
    for name, node in dict[str, Any](trace.nodes).items():
        if node["type"] != "sample" or not node["is_observed"]:
            continue
        fn = node["fn"]
        shape = SiteShape(fn.batch_shape, fn.event_shape)
        value = node["value"].expand(*shape.batch, *shape.event)
        masks = list(_masks(fn, node["mask"]))
        found[name] = _Shown(value, (frame.dim or -1) - len(shape.event), shape, masks)
    return found


def _masks(fn: Any, mask: Any) -> Iterator[Tensor]:
    """All masks of a site, with the dimensions of its values."""
    if isinstance(mask, Tensor):
        yield mask.reshape(*mask.shape, *[1] * len(fn.event_shape))
    inner = fn
    while True:
        if isinstance(inner, MaskedDistribution):
            own = torch.as_tensor(inner._mask)
            if own.dim():
                yield own.reshape(*own.shape, *[1] * len(inner.event_shape))
        elif not isinstance(inner, dist.Independent):
            seen = getattr(inner, "seen", None)
            yield from () if seen is None else (seen,)
            return
        inner = inner.base_dist


def _replicates(
    posterior: Posterior, block: Block, real: Mapping[str, _Shown], reconstruct: bool
) -> Iterator[tuple[int, Values]]:
    """Draws of the observed sites, as many at once as depends on the program alone."""
    stream, batch = posterior.stream, block.batch
    sites = {**batch.sites, **{n: s.shape for n, s in real.items()}}
    model = poutine.uncondition(stream.model)
    most = max(1, stream.suitable_rows // block.size)
    whole = Batch(batch.data, batch.frame, batch.nesting, sites)
    for i, first in enumerate(range(0, stream.num_samples, most)):
        count = min(most, stream.num_samples - first)
        pyro.set_rng_seed(seed_of(posterior.seed, block.number, _MADE, i))
        latent = posterior.draw(batch, count) if reconstruct else None
        made = stream.choice.model.run(model, whole, count, latent).values
        yield first, {n: made[n] for n in real}


def _by_datum(t: Statistic, name: str, values: Tensor, dim: int) -> Tensor:
    """A statistic of values with leading draws, (draws, data)."""
    values = values.movedim(dim, 1)
    draws, size = values.shape[:2]
    found = t(values.flatten(0, 1))
    if not isinstance(found, Tensor) or found.shape != (draws * size,):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"statistic {name!r} must return one number for each datum, shape ({draws * size},), "
            f"given data of shape {tuple(values.flatten(0, 1).shape)}, but returned {shape}."
        )
    return found.double().reshape(draws, size)


def _compared(
    prefix: str,
    names: list[str],
    observed: Mapping[tuple[str, str], _Tally],
    replicated: Mapping[tuple[str, str], _Tally],
) -> xr.Dataset:
    sites = list(dict.fromkeys(site for site, _ in observed))
    real = np.array([[observed[s, n].result()[:, 0] for n in names] for s in sites])
    made = np.array([[replicated[s, n].result() for n in names] for s in sites])
    count = made.shape[-1]
    mean = made.mean(-1)
    spread = made.std(-1, ddof=1) if count > 1 else np.full_like(mean, np.nan)
    # rounding of sums is no variation
    spread[spread < 1e-9 * np.maximum(1e-300, np.abs(mean))] = 0.0
    above = (made > real[..., None]).sum(-1) + 0.5 * (made == real[..., None]).sum(-1)
    p = (above + 0.5) / (count + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (real - mean) / spread
        between = mean[..., 1:]  # the sd over data
        shift = np.where(between > 0, (real - mean) / between, np.nan)
    z[(spread == 0) & np.isclose(real, mean, rtol=1e-9)] = np.nan
    dims = ("observed_site", "statistic", "over")
    columns = {
        "observed": real,
        "replicated_mean": mean,
        "replicated_sd": spread,
        "p": p,
        "p_std_error": np.sqrt(p * (1 - p) / count),
        "z": z,
        "z_std_error": np.sqrt(1 / count + z**2 / (2 * max(count - 1, 1))),
        "shift": shift,
    }
    return xr.Dataset(
        {f"{prefix}_{n}": (dims, column) for n, column in columns.items()}
        | {f"{prefix}_replicated": ((*dims, "predicted"), made)},
        coords={
            "observed_site": sites,
            "statistic": names,
            "over": list(OVER),
            "predicted": np.arange(count),
        },
        attrs={"replicated_sets": count},
    )
