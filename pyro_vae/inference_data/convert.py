"""From model, guide and data to ArviZ's groups: xarray first, ArviZ's own container last."""

from __future__ import annotations

__all__ = ["to_arviz", "to_datasets", "wrap"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xarray as xr

from pyro_vae.diagnostics import DIAGNOSTICS, Stream, summarised
from pyro_vae.diagnostics.shelf import FromWeights
from pyro_vae.inference_data.groups import Filled, collect, prior_sbc
from pyro_vae.inference_data.installed import container
from pyro_vae.inference_data.provenance import digest, in_common, provenance, storable
from pyro_vae.inference_data.size import check_size
from pyro_vae.inference_data.stored import Stored, chosen
from pyro_vae.inference_data.variables import variables


def to_arviz(
    model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **options: Any
) -> Any:
    """Draws z ~ q(z | x_n), log weights log p(x_n, z) - log q(z | x_n) and replicates, for ArviZ.

    Groups, all with the dims, coords and attrs that `to_datasets` makes (shapes with a data plate,
    one latent and one observed site of one event dimension):

    * `posterior` (chain, draw, data, latent): from the guide; `prior` likewise, from the model;
    * `prior_predictive` (chain, draw, data, feature): data sets drawn from the model, as large as
      the stored data and under the same covariates; `posterior_predictive` (only if asked for):
      reconstructions, z ~ q(z | x_n). Draw s of a replicate is made of draw s of `prior`, or of
      `posterior`;
    * `sample_stats` (chain, draw, data), in nats: `log_lik`, `log_prior`, `log_q`, `log_weight`,
      and `kl_sampled` = log q - log p, the KL of one draw;
    * `vi_stats` (data), of *all* data, streamed: k-hat, ELBO and what else the registered
      diagnostics make of the log weights;
    * `prior_sbc` (chain, draw, latent), if a calibration is given: PIT values in [0, 1];
    * `observed_data` (data, feature), NaN where masked; `constant_data`: the index of every
      stored datum, covariates and masks.

    What ArviZ's functions say of them. `plot_dist` (0.x: `plot_posterior`), `plot_pair`,
    `plot_trace`, `plot_trace_dist` and `summary(kind="stats")` describe the guide; name a few
    data, `coords={"data": [7]}`. `plot_ppc(found, group="prior", observed=True)` of 0.x, and
    `plot_ppc_dist(found, group="prior_predictive", visuals={"observed_dist": True})` of 1.x hold
    the model against data. `plot_ecdf_pit(found)` draws `prior_sbc`; in 0.x
    `plot_ecdf(found.prior_sbc.z.values.flatten(), cdf=scipy.stats.uniform.cdf, difference=True,
    confidence_bands=True)` (without `flatten`, it would sort the group itself). `as_elpd` feeds
    `compare` and `plot_khat`.

    There is one chain: draws of a guide are independent, so that r_hat, ESS and `diagnose` are
    alike for a good and for a bad guide. There is no group `log_likelihood`, so that `loo` and
    `waic` are refused: over data with local latents they estimate no out-of-sample score, and
    prefer guides that are too narrow.

    Arguments:
        model: A Pyro model with a plate over data, called as `model(*args, **kwargs)`.
        guide: Its guide.
        *args: Positional arguments of both, the data first.
        **options: Those of `to_datasets`, and keyword arguments of both programs.

    Returns:
        `arviz.InferenceData` if arviz 0.x is installed, `xarray.DataTree` if arviz 1.x is, with
        the same content. Both have `.to_netcdf(path)`, and either reads the other's file by
        `arviz.from_netcdf(path)`. Nothing of the caller's changes: parameters, random states,
        training modes.

    Raises:
        ValueError: As `to_datasets`.

    References:
        ArviZ a unified library for exploratory analysis of Bayesian models in Python (R. Kumar,
        C. Carroll, A. Hartikainen, O. Martin, 2019)

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))
        >>> found = to_arviz(model, guide, torch.zeros(300, 2), num_samples=100)
        >>> dict(found.posterior.z.sizes)
        {'chain': 1, 'draw': 100, 'data': 256, 'latent': 2}
        >>> found.vi_stats.khat.shape
        (300,)
    """
    return wrap(to_datasets(model, guide, *args, **options))


def to_datasets(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    store_data: int | Sequence[int] = 256,
    store_draws: int = 200,
    prior_predictive: bool = True,
    posterior_predictive: bool = False,
    calibration: xr.Dataset | None = None,
    vi_stats: xr.Dataset | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    max_bytes: int = 2**30,
    seed: int = 0,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = 64,
    progress: bool = True,
    **kwargs: Any,
) -> dict[str, xr.Dataset]:
    """The groups of `to_arviz` as Datasets, without ArviZ.

    Arguments:
        model: A Pyro model with a plate over data.
        guide: Its guide.
        *args: Positional arguments of both. Tensors as long as the first one are data.
        num_samples: Draws for each datum behind `vi_stats`.
        store_data: For how many data to store draws, a random choice where there are more, or
            their indices. The coordinate `data` and `constant_data.index` say which they are.
        store_draws: How many draws to store, at most num_samples; they are others than those
            behind `vi_stats`.
        prior_predictive: Whether to draw data from the model.
        posterior_predictive: Whether to draw reconstructions.
        calibration: A Dataset with PIT values of simulated data, as the diagnostic
            `calibration` gives: variables in [0, 1] by site, with dims (replicate, ...). Others
            are left out.
        vi_stats: The table of `diagnose` for the same data, if there is one already; by default
            the registered diagnostics that are reductions of log weights are run.
        dims: Names of the dimensions of an event by site, `{"x": ["height", "width"]}`.
        coords: Values along dimensions, `{"feature": names}`.
        max_bytes: What the stored arrays may take together.
        seed: Of all draws; the random state of the caller plays no part.
        plate: The name of the data plate, by default the outermost plate common to the observed
            sites.
        batch_size: As in `diagnostics.Stream`; results do not depend on it.
        block_size: As in `diagnostics.Stream`: `len(x)` for a guide that holds parameters for
            each datum.
        progress: Whether to show a bar for what takes long.
        **kwargs: Keyword arguments of both programs.

    Returns:
        Datasets by group. Every dimension has a coordinate; integers where a site is discrete
        (and nothing of it is missing); log densities in float64, draws as the programs draw them;
        attrs of NetCDF's types.

    Raises:
        ValueError: If more than `max_bytes` would be stored (with what to do), if a site bears the
            name of a dimension, or if an argument does not fit.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> groups = to_datasets(model, guide, torch.zeros(9), store_data=[2, 5])
        >>> sorted(groups)[:3], groups["prior_predictive"].x.dims
        (['constant_data', 'observed_data', 'posterior'], ('chain', 'draw', 'data'))
    """
    if store_draws < 1:
        raise ValueError(f"store_draws must be positive, not {store_draws}.")
    options = {"plate": plate, "batch_size": batch_size, "block_size": block_size}
    options |= {"seed": seed, "progress": progress}
    reductions = _reductions()
    exact_kl = any(d.exact_kl for d in reductions)
    streamed = {**options, "num_samples": num_samples, "exact_kl": exact_kl}
    stream = Stream(model, guide, *args, **streamed, **kwargs)
    rows = chosen(store_data, stream.size, seed)
    stored = Stored(stream, rows, min(store_draws, num_samples), options)
    nodes, parameters = stored.first()
    sites = variables(nodes, stream.frame.name, dims or {})
    predictive = {
        "prior_predictive": prior_predictive,
        "posterior_predictive": posterior_predictive,
    }
    asked = {group for group, wanted in predictive.items() if wanted}
    check_size(sites.values(), len(rows), stored.stream.num_samples, asked, max_bytes)

    filled = Filled(rows, stored.stream.num_samples, coords or {})
    collect(filled, stored, sites, asked)
    groups = filled.datasets()
    groups["vi_stats"] = _vi_stats(vi_stats, stream, reductions)
    if calibration is not None:
        groups["prior_sbc"] = prior_sbc(calibration)
    shared = {
        **stream.attrs,
        "store_draws": stored.stream.num_samples,
        **provenance(model, guide),
        "model_digest": digest((model, guide), parameters),
    }
    return {
        name: group.assign_attrs(storable({**shared, **group.attrs}))
        for name, group in groups.items()
    }


def wrap(datasets: Mapping[str, xr.Dataset]) -> Any:
    """Put groups into the container of the ArviZ that is installed.

    Arguments:
        datasets: Datasets by group, as of `to_datasets`.

    Returns:
        `arviz.InferenceData` (arviz 0.x) or `xarray.DataTree` (arviz 1.x). Its own attrs are
        those that all groups share.

    Example:
        >>> groups = {"posterior": xr.Dataset({"z": (("chain", "draw"), [[0.1, 0.2]])})}
        >>> wrap(groups).posterior.z.shape
        (1, 2)
    """
    return container(datasets, in_common(d.attrs for d in datasets.values()))


def _reductions() -> list[FromWeights]:
    """The diagnostics that `diagnose` runs and that need log weights alone."""
    return [d for d in DIAGNOSTICS.values() if isinstance(d, FromWeights) and hasattr(d, "step")]


def _vi_stats(
    given: xr.Dataset | None, stream: Stream, reductions: Sequence[FromWeights]
) -> xr.Dataset:
    table = given
    if table is None:
        tables = summarised(reductions, stream)
        table = xr.merge(tables, compat="equals", join="exact", combine_attrs="drop_conflicts")
    elif table.sizes.get("data") != stream.size:
        raise ValueError(
            f"vi_stats has {table.sizes.get('data', 'no')} data, but model and guide are given "
            f"{stream.size}; give the table that diagnose made of the same data."
        )
    draws = {"num_samples": table.attrs.get("num_samples", stream.num_samples)}
    return table.assign({n: v.assign_attrs({**draws, **v.attrs}) for n, v in table.items()})
