"""The groups, filled block by block."""

from __future__ import annotations

__all__ = ["Filled", "collect", "prior_sbc"]

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_vae.diagnostics import pit_by_site
from pyro_vae.inference_data.stored import Block, Stored
from pyro_vae.inference_data.variables import (
    RESERVED,
    Variable,
    counted,
    observed_entries,
    to_numpy,
)

SAMPLE = ("chain", "draw")

ATTRS: dict[str, dict[str, Any]] = {
    "posterior": {
        "sampled_from": "guide",
        "draws": "independent draws from the guide, not from the posterior: r_hat, ess and "
        "diagnose say nothing of it; see vi_stats",
    },
    "prior": {"sampled_from": "model"},
    "prior_predictive": {
        "sampled_from": "model",
        "predictive": "generation: z ~ p(z), x ~ p(x | z)",
    },
    "posterior_predictive": {
        "sampled_from": "guide",
        "predictive": "reconstruction: z ~ q(z | x_n), x ~ p(x | z); it uses x_n twice",
    },
    "sample_stats": {
        "sampled_from": "guide",
        "log_lik": "log p(x_n | z) of one datum: not for loo or waic",
    },
    "observed_data": {},
    "constant_data": {},
}


class Filled:
    """Arrays of the stored data, filled from blocks, and made into Datasets at the end.

    Arguments:
        rows: The numbers of the stored data.
        draws: How many draws are stored.
        coords: Values along dimensions.
    """

    def __init__(self, rows: np.ndarray, draws: int, coords: Mapping[str, Sequence[Any]]) -> None:
        self.rows, self.draws, self.coords = rows, draws, coords
        self.arrays: dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]] = {}
        self.kinds: dict[str, Any] = {}
        # NaN is no integer, and ArviZ wants data and replicates of one type
        self.missing: set[str] = set()

    def put(
        self,
        group: str,
        name: str,
        dims: tuple[str, ...],
        values: np.ndarray,
        at: slice,
        first: int | None = None,
    ) -> None:
        """Put values of a block where they belong.

        Arguments:
            group: The group.
            name: The variable.
            dims: Its dimensions, from `data` on.
            values: Of shape (draws, data, ...), or (data, ...) if `first` is None.
            at: Where its data stand among the stored ones.
            first: The number of the first draw.
        """
        variables, lead = self.arrays.setdefault(group, {}), () if first is None else (self.draws,)
        if name not in variables:
            shape = (*lead, len(self.rows), *values.shape[len(lead) + 1 :])
            variables[name] = ((*SAMPLE[: 2 * len(lead)], *dims), np.empty(shape, values.dtype))
        array = variables[name][1]
        if first is None:
            array[at] = values
        else:
            array[first : first + len(values), at] = values

    def datasets(self) -> dict[str, xr.Dataset]:
        """The groups; every dimension has a coordinate.

        Raises:
            ValueError: If coords do not fit.
        """
        groups = {g: self._dataset(g, v) for g, v in self.arrays.items()}
        known = {d for group in groups.values() for d in group.dims}
        unknown = [d for d in self.coords if d not in known]
        if unknown:
            raise ValueError(
                f"coords= names {unknown[0]!r}, which is no dimension; the dimensions are "
                f"{', '.join(sorted(map(str, known)))}."
            )
        return groups

    def _dataset(
        self, group: str, variables: Mapping[str, tuple[tuple[str, ...], np.ndarray]]
    ) -> xr.Dataset:
        arrays: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        for name, (dims, values) in variables.items():
            if group not in ("sample_stats", "constant_data") and name not in self.missing:
                values = counted(values, self.kinds[name])
            arrays[name] = (dims, values[None] if "chain" in dims else values)
        sizes = {d: n for dims, a in arrays.values() for d, n in zip(dims, a.shape, strict=True)}
        attrs = dict(ATTRS[group])
        if "chain" in sizes:
            attrs["sample_dims"] = list(SAMPLE)
        return xr.Dataset(arrays, {d: self._coord(d, n) for d, n in sizes.items()}, attrs)

    def _coord(self, dim: str, size: int) -> np.ndarray:
        if dim == "data":
            return self.rows
        given = self.coords.get(dim)
        if given is None:
            return np.arange(size)
        if len(given) != size:
            raise ValueError(f"coords={{{dim!r}: ...}} has {len(given)} values for {size}.")
        return np.asarray(given)


def collect(
    filled: Filled, stored: Stored, sites: Mapping[str, Variable], predictive: Collection[str]
) -> None:
    """Run over the stored data and fill the groups.

    Arguments:
        filled: The groups.
        stored: The stored data.
        sites: The sites of the model.
        predictive: Which predictive groups to draw.
    """
    latent = [n for n, site in sites.items() if not site.observed]
    observed = [n for n in sites if n not in latent]
    for block in stored:
        filled.kinds |= {n: block.nodes[n]["fn"] for n in sites}
        draws = {n: block.weights.draws[n] for n in latent}
        for name, value in draws.items():
            _put_draws(filled, "posterior", sites[name], value, block, 0)
        _put_statistics(filled, block, latent)
        _put_data(filled, stored, block, sites)
        for first, values in stored.replicates(block, observed, None):
            for name in latent:
                _put_draws(filled, "prior", sites[name], values[name], block, first)
            if "prior_predictive" in predictive:
                _put_replicates(filled, "prior_predictive", sites, values, block, first)
        if "posterior_predictive" in predictive:
            for first, values in stored.replicates(block, observed, draws):
                _put_replicates(filled, "posterior_predictive", sites, values, block, first)


def _put_replicates(
    filled: Filled,
    group: str,
    sites: Mapping[str, Variable],
    values: Mapping[str, Tensor],
    block: Block,
    first: int,
) -> None:
    for name, site in sites.items():
        if site.observed:
            _put_draws(filled, group, site, values[name], block, first)


def _put_draws(
    filled: Filled, group: str, site: Variable, value: Tensor, block: Block, first: int
) -> None:
    arranged = site.arranged(value)
    some = arranged.index_select(1, block.inside.to(arranged.device))
    filled.put(group, site.name, site.dims, to_numpy(some), block.at, first)


def _put_statistics(filled: Filled, block: Block, latent: Sequence[str]) -> None:
    weights = block.weights
    log_prior = sum(weights.log_prior.values(), torch.zeros_like(weights.log_likelihood))
    log_q = sum(weights.log_q.values(), torch.zeros_like(weights.log_likelihood))
    statistics = {
        "log_lik": weights.log_likelihood,
        "log_prior": log_prior,
        "log_q": log_q,
        "log_weight": weights.log_weight,
        "kl_sampled": log_q - log_prior,
    }
    if len(latent) > 1:
        statistics |= {f"log_prior_{n}": weights.log_prior[n] for n in latent}
        statistics |= {f"log_q_{n}": weights.log_q[n] for n in latent}
    for name, value in statistics.items():
        some = value[:, block.inside.to(value.device)]
        filled.put("sample_stats", name, ("data",), to_numpy(some), block.at, 0)


def _put_data(filled: Filled, stored: Stored, block: Block, sites: Mapping[str, Variable]) -> None:
    """Data that were observed; and what else was given for each datum."""
    whole: list[tuple[Tensor, Tensor | None]] = []
    for name, site in sites.items():
        if not site.observed:
            continue
        node = block.nodes[name]
        seen, value = observed_entries(node), site.arranged(node["value"][None])[0]
        whole.append((node["value"], seen))
        value = value[block.inside.to(value.device)]
        if seen is not None:
            filled.missing.add(name)
            seen = site.arranged(seen[None])[0][block.inside.to(value.device)]
            value = value.to(torch.promote_types(value.dtype, torch.float32))
            value = value.masked_fill(~seen, torch.nan)
        filled.put("observed_data", name, site.dims, to_numpy(value), block.at)
    filled.put("constant_data", "index", ("data",), filled.rows[block.at], block.at)
    for name, value in _given(stored, block).items():
        if any(_same(value, *observed) for observed in whole):
            continue
        name = f"{name}_given" if name in (*RESERVED, *sites, "index") else name
        dims = ("data", *(f"{name}_dim_{i}" for i in range(value.dim() - 1)))
        some = value[block.inside.to(value.device)]
        filled.put("constant_data", name, dims, to_numpy(some), block.at)


def _same(value: Tensor, observed: Tensor, seen: Tensor | None) -> bool:
    """Whether an argument is what a site observed, and so in observed_data already."""
    if value.shape != observed.shape:
        return False
    equal = value == observed
    return bool((equal if seen is None else equal | ~seen).all())


def _given(stored: Stored, block: Block) -> dict[str, Tensor]:
    """The arguments that hold something for each datum, by the names the model gives them."""
    function = getattr(stored.model, "forward", stored.model)
    signature = inspect.signature(function)
    arguments = dict(signature.bind_partial(*block.data.args, **block.data.kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
        elif parameter.kind is parameter.VAR_POSITIONAL:
            arguments |= {f"{name}_{i}": v for i, v in enumerate(arguments.pop(name, ()))}
    size = block.data.size
    tensors = {n: v for n, v in arguments.items() if isinstance(v, Tensor) and v.dim()}
    return {n: v for n, v in tensors.items() if len(v) == size}


def prior_sbc(calibration: xr.Dataset) -> xr.Dataset:
    """PIT values of simulated data as ArviZ's group `prior_sbc`: one chain, a draw a replicate.

    Arguments:
        calibration: What the diagnostic `calibration` returned, or a Dataset with variables in
            [0, 1] with dims (replicate, ...).

    Raises:
        ValueError: If there is none, or a value lies outside [0, 1].
    """
    if {"pit", "latent_site"} <= set(calibration.variables):
        calibration = _by_site(calibration)
    names = [n for n, v in calibration.data_vars.items() if "replicate" in v.dims]
    if not names:
        raise ValueError(
            "calibration has no variable with a dimension 'replicate'; give the Dataset of the "
            "diagnostic `calibration`, with the PIT values of each site in [0, 1]."
        )
    for name in names:
        values = calibration[name].values
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"calibration has values of {name!r} outside [0, 1], such as "
                f"{values[~((values >= 0) & (values <= 1))][0]:g}, so they are no PIT values."
            )
    table = calibration[names].rename(replicate="draw")
    table = table.drop_vars("draw", errors="ignore").expand_dims("chain")
    table = table.transpose("chain", "draw", ...)
    coords = {d: np.arange(n) for d, n in table.sizes.items() if d not in table.coords}
    attrs = {"sample_dims": list(SAMPLE), "sampled_from": "guide on data from the model"}
    return table.assign_coords(coords).assign_attrs(attrs)


def _by_site(table: xr.Dataset) -> xr.Dataset:
    """The PIT values of the diagnostic, a variable for each site, without what is not known."""
    found = pit_by_site(table)
    sites = [name for name, values in found.items() if "latent" in values.dims]
    if len(sites) > 1:  # coordinates of different sites are different ones
        found |= {name: found[name].rename(latent=f"latent_{name}") for name in sites}
    known = {name: values for name, values in found.items() if values.notnull().all()}
    return xr.Dataset(known, attrs=table.attrs)
