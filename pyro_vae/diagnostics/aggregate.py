"""The aggregate posterior against the prior: mutual information, and the rest of the KL."""

from __future__ import annotations

__all__ = ["aggregate_posterior"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.diagnostics.mixture import Jackknife, Mixture
from pyro_vae.diagnostics.particles import AGREEMENT, Batch, Node, by_datum
from pyro_vae.diagnostics.passes import Pass, seed_of
from pyro_vae.diagnostics.replicates import taken
from pyro_vae.diagnostics.shelf import Finding, NotApplicable, register, step
from pyro_vae.diagnostics.weights import BLOCK_SIZE, Stream
from pyro_vae.infer.batches import Data

CHUNK = 2**19
"""How many log densities are held at once."""

FEWEST = 3
NOTHING = 0.1
"""Nats of mutual information below which, beyond doubt, z says nothing about x."""


class _Block(NamedTuple):
    """A block of data and one draw of each."""

    start: int
    batch: Batch
    guide: dict[str, Node]
    model: dict[str, Node]


def _judge(table: xr.Dataset) -> list[Finding]:
    low, high = table.mutual_information.values
    error = table.mutual_information_std_error.values
    log_n = table.attrs["aggregate_log_num_data"]
    rate = float(table.kl_mean)
    numbers = (
        f"mutual information between {low:.2f} +- {error[0]:.2f} and {high:.2f} +- {error[1]:.2f} "
        f"nats (log N = {log_n:.2f}), of a mean KL(q(z|x) || p) of {rate:.2f}"
    )
    found: list[Finding] = []
    # its bounds meet at zero for a guide that does not look at x
    if high + 3 * error[1] < NOTHING:
        advice = "beta below 1 at first or free_bits, a weaker decoder, or a longer training."
        found.append(Finding("bad", f"z says nothing about x: {numbers}.", advice))
    elif high < 3 * error[1]:
        text = f"these data are too few to say whether z says anything about x: {numbers}."
        found.append(Finding("care", text, "more data."))
    elif table.attrs["mutual_information_saturated"]:
        text = f"z tells data apart as far as their number lets one see: {numbers}."
        advice = "the lower bound cannot exceed log N: take more data (max_data=)."
        found.append(Finding("care", text, advice))
    else:
        found.append(Finding("good", f"z says something about x: {numbers}."))
    return found + _prior_findings(table)


def _prior_findings(table: xr.Dataset) -> list[Finding]:
    """What the KL from aggregate posterior to prior says."""
    low = float(table.kl_aggregate.sel(bound="lower"))
    error = float(table.kl_aggregate_std_error.sel(bound="lower"))
    if math.isnan(low):
        text = f"no KL(q(z) || p(z)): {table.attrs['kl_aggregate_reason']}."
        return [Finding("care", text, "compare data that share what the prior looks at.")]
    text = f"KL(q(z) || p(z)) is at least {low:.2f} +- {error:.2f} nats"
    if low < max(0.1, 3 * error):
        return []
    advice = (
        "draws from the prior are not where data are encoded: a richer prior (fam.VampPrior, a "
        "mixture or a flow), or a longer training."
    )
    level = "bad" if low > 1 else "care"
    return [Finding(level, f"aggregate posterior and prior differ: {text}.", advice)]


@register
@step(order=50, judge=_judge)
def aggregate_posterior(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    seed: int = 0,
    max_data: int = 2000,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = BLOCK_SIZE,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    r"""E KL(q(z | x) || p) = I(x; z) + KL(q(z) || p): mutual information, and misfit of the prior.

    q(z) = E_x q(z | x) is the aggregate posterior of the distribution that the data come from.
    Where p factorises, KL(q(z) || p) = TC + sum_d KL(q(z_d) || p(z_d)), the total correlation
    KL(q(z) || prod_d q(z_d)) and the dimension-wise KLs. Each is held between two bounds, which
    hold in expectation over data: mixtures over all data are taken with a draw's own datum and
    without (`diagnostics.mixture`). The lower bound of I cannot exceed log N: if it is within a
    nat of it, `mutual_information_saturated`
    is 1 (attrs), and I may be anything above. If the guide is not the posterior,
    I is that of x and z ~ q(z | x), not the model's.

    Arguments:
        model: A Pyro model with a plate over data.
        guide: Its guide.
        *args: Positional arguments of both, independent data.
        num_samples: Not used: one draw of each datum is compared with all data.
        seed: Of the draws.
        max_data: Of more data than that, so many are taken at random; N^2 log densities of the
            guide are computed.
        plate: As in `Stream`.
        batch_size: As in `Stream`; results do not depend on it.
        block_size: As in `Stream`.
        progress: As in `Stream`.
        **kwargs: Keyword arguments of both programs.

    Returns:
        In nats, by `bound` ("lower", "upper"): `mutual_information`, `kl_aggregate`,
        `total_correlation`, and by latent coordinate `kl_dimension`; `kl_mean`, the mean of
        log q(z | x) - log p(z); each with a jackknife `..._std_error`. NaN, with the reason in
        attrs, where the marginals of guide or prior are not known in closed form, or the prior is
        another one for each datum.

    Raises:
        NotApplicable: If there are fewer than 3 data.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound
        (M. D. Hoffman, M. J. Johnson, 2016);
        On variational bounds of mutual information (B. Poole, S. Ozair, A. van den Oord,
        A. A. Alemi, G. Tucker, 2019);
        Isolating sources of disentanglement in variational autoencoders (R. T. Q. Chen, X. Li,
        R. Grosse, D. Duvenaud, 2018)

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> x = 2**0.5 * torch.randn(500, generator=torch.Generator().manual_seed(0))
        >>> found = aggregate_posterior(model, guide, x)
        >>> low, high = found.mutual_information.values
        >>> bool(low < 0.45 and high > 0.25)  # log(2) / 2 = 0.35
        True
    """
    if max_data < FEWEST:
        raise ValueError(f"max_data must be at least {FEWEST}, not {max_data}.")
    data = Data.of(args, kwargs)
    if data.size > max_data:
        generator = torch.Generator().manual_seed(seed_of(seed, 5))
        data = taken(data, torch.randperm(data.size, generator=generator)[:max_data].sort().values)
    stream = Stream(
        model,
        guide,
        *data.args,
        num_samples=1,
        seed=seed,
        plate=plate,
        batch_size=batch_size,
        block_size=block_size,
        progress=progress,
        **data.kwargs,
    )
    if stream.size < FEWEST:
        raise NotApplicable(
            f"{stream.size} data are too few for an aggregate posterior; pass at least {FEWEST}."
        )
    # a guide may hand out its parameters themselves
    with torch.no_grad():
        table = _Aggregate(Pass(stream, "guide")).table()
    # beside other diagnostics, it is theirs that is meant
    return table.assign_attrs(num_samples=num_samples)


class _Aggregate:
    """One draw of each datum, and its log density under the guide at every other datum."""

    def __init__(self, walk: Pass) -> None:
        self.walk, self.size = walk, walk.stream.size
        self.blocks = [self._block(*block) for block in walk.blocks()]
        first = self.blocks[0]
        self.by_node = self._free(first)
        self.by_latent = {n: self.walk.marginal(first.guide[n], n) is not None for n in walk.names}
        self.prior_is_one = self._prior_is_one(first)
        self.prior_by_latent = {
            n: self.prior_is_one and self._prior_marginal(first, n) is not None for n in walk.names
        }

    # ---------------------------------------------------------------------------- first pass
    def _block(self, number: int, start: int, batch: Batch) -> _Block:
        with self.walk.aside():
            guide, model = self.walk.traces(batch, number)
        return _Block(start, batch, guide, model)

    def _total(self, which: str, names: list[str]) -> Tensor:
        """Log densities of own draws by datum, summed over sites: (N,)."""
        frame = self.walk.stream.frame
        return torch.cat(
            [
                torch.stack(
                    [by_datum(getattr(b, which)[n], frame, b.batch.data.size) for n in names]
                ).sum(0)
                for b in self.blocks
            ]
        ).cpu()

    def _draws(self) -> dict[str, Tensor]:
        """All draws by site, data first."""
        walk = self.walk
        return {
            n: torch.cat([self.walk.data_first(b.guide[n]["value"], n) for b in self.blocks])
            for n in walk.shapes
        }

    # --------------------------------------------------------------------------- second pass
    def _joint(self, draws: dict[str, Tensor], block: _Block) -> Tensor:
        """Log q(z_i | x_j) of some draws at a block of data: (draws, block)."""
        size, stream = block.batch.data.size, self.walk.stream
        spread = {n: self.walk.spread(v, n, size) for n, v in draws.items()}
        if self.by_node:
            parts = [self._by_node(block.guide[n], n, spread[n], size) for n in spread]
        else:
            count = len(next(iter(draws.values())))
            with self.walk.aside():
                ran = stream.choice.guide.run(stream.guide, block.batch, count, spread)
            parts = list(ran.log_density.values())
        return torch.stack(parts).sum(0)

    def _by_node(self, node: Node, name: str, value: Tensor, size: int) -> Tensor:
        nesting = self.walk.stream.first.nesting
        shape = self.walk.shapes[name]
        ones = (1,) * (nesting - len(shape.batch))
        value = value.reshape(len(value), *ones, *value.shape[1:])
        moved = {**node, "value": value}
        return by_datum(moved, self.walk.stream.frame, size, particles=-nesting - 1)

    # -------------------------------------------------------------------- what may be assumed
    def _free(self, block: _Block) -> bool:
        """Whether log q of each site depends on the data alone, not on other latent sites."""
        if len(self.walk.shapes) == 1:
            return True
        rolled = self._rolled(block)
        size, stream = block.batch.data.size, self.walk.stream
        with self.walk.aside():
            ran = stream.choice.guide.run(stream.guide, block.batch, 1, rolled).log_density
        return all(
            torch.allclose(
                self._by_node(block.guide[n], n, rolled[n], size), ran[n], AGREEMENT, AGREEMENT
            )
            for n in rolled
        )

    def _rolled(self, block: _Block) -> dict[str, Tensor]:
        """Draws given to the next datum."""
        return {
            n: block.guide[n]["value"].roll(1, self.walk.dim - len(s.event))[None]
            for n, s in self.walk.shapes.items()
        }

    def _prior_is_one(self, block: _Block) -> bool:
        """Whether the prior is the same for all data."""
        names, stream = self.walk.names, self.walk.stream
        rolled = {n: v for n, v in self._rolled(block).items() if n in names}
        size = block.batch.data.size
        with self.walk.aside():
            ran = stream.choice.model.run(stream.model, block.batch, 1, rolled).log_density
        return all(
            torch.allclose(
                by_datum(block.model[n], stream.frame, size).roll(1),
                ran[n][0],
                AGREEMENT,
                AGREEMENT,
            )
            for n in names
        )

    def _prior_marginal(self, block: _Block, name: str) -> Any | None:
        """The prior, if its marginals are the same at all data, whatever other sites are."""
        node = block.model[name]
        if self.walk.marginal(node, name) is None:
            return None
        size = block.batch.data.size
        value = self.walk.data_first(node["value"], name)
        each = self.walk.log_marginals(node, name, self.walk.spread(value, name, size))
        same = torch.allclose(each, each[:, :1].expand_as(each), AGREEMENT, AGREEMENT)
        return node if same else None

    # ------------------------------------------------------------------------------- results
    def table(self) -> xr.Dataset:
        """All bounds with their standard errors."""
        joint, each = self._mixtures()
        own = Jackknife.of(self._total("guide", list(self.walk.shapes)))
        prior = Jackknife.of(self._total("model", self.walk.names))
        found = {
            "mutual_information": (own - joint.inside, own - joint.outside),
            "kl_aggregate": (joint.outside - prior, joint.inside - prior),
            "total_correlation": (
                joint.outside - each.inside.sum(),
                joint.inside - each.outside.sum(),
            ),
            "kl_dimension": self._by_dimension(each),
        }
        if not self.prior_is_one:
            found["kl_aggregate"] = (_unknown(), _unknown())
        rate = own - prior
        variables: dict[str, Any] = {
            "kl_mean": ((), float(rate.mean)),
            "kl_mean_std_error": ((), float(rate.std_error)),
        }
        for name, bounds in found.items():
            dims = ("bound", "latent") if name == "kl_dimension" else ("bound",)
            variables[name] = (dims, torch.stack([b.mean for b in bounds]).numpy())
            errors = torch.stack([b.std_error for b in bounds]).numpy()
            variables[f"{name}_std_error"] = (dims, errors)
        low, log_n = float(found["mutual_information"][0].mean), math.log(self.size)
        attrs = {
            **self.walk.stream.attrs,
            "aggregate_num_data": self.size,
            "aggregate_log_num_data": log_n,
            "mutual_information_saturated": int(low > log_n - 1),
            **self._reasons(),
        }
        coords = {
            "bound": ["lower", "upper"],
            "latent": self.walk.labels,
            "latent_site": ("latent", self.walk.sites),
        }
        return xr.Dataset(variables, coords=coords, attrs=attrs)

    def _mixtures(self) -> tuple[Mixture, Mixture]:
        """The mixtures over all data, of whole draws, and by coordinate."""
        count, latents = self.size, len(self.walk.labels)
        joint, each = Mixture(count), Mixture(count, (latents,))
        draws = self._draws()
        rows = max(1, CHUNK // (count * (latents + 1)))
        bar = tqdm(
            total=count,
            desc="aggregate posterior",
            unit="datum",
            disable=not self.walk.stream.progress,
            delay=2,
        )
        with bar, torch.no_grad(), pyro.validation_enabled(False):
            for start in range(0, count, rows):
                some = {n: v[start : start + rows] for n, v in draws.items()}
                joint.add(start, torch.cat([self._joint(some, b) for b in self.blocks], 1))
                each.add(start, torch.cat([self._marginals(some, b) for b in self.blocks], 1))
                bar.update(len(some[self.walk.names[0]]))
        return joint, each

    def _marginals(self, draws: dict[str, Tensor], block: _Block) -> Tensor:
        """Log q(z_id | x_j): (draws, block, latent); NaN where marginals are not known."""
        size, parts = block.batch.data.size, []
        for name, coordinates in self.walk.coordinates.items():
            if self.by_latent[name]:
                value = self.walk.spread(draws[name], name, size)
                parts.append(self.walk.log_marginals(block.guide[name], name, value))
            else:
                count, width = len(draws[name]), len(coordinates.labels)
                parts.append(
                    draws[name].new_full((count, size, width), torch.nan, dtype=torch.float64)
                )
        return torch.cat(parts, -1)

    def _by_dimension(self, each: Mixture) -> tuple[Jackknife, Jackknife]:
        parts: list[Tensor] = []
        for name, coordinates in self.walk.coordinates.items():
            if not self.prior_by_latent[name]:
                shape = (self.size, len(coordinates.labels))
                parts.append(torch.full(shape, torch.nan, dtype=torch.float64))
                continue
            found = [
                self.walk.log_marginals(b.model[name], name, b.model[name]["value"][None])[0]
                for b in self.blocks
            ]
            parts.append(torch.cat(found).double().cpu())
        prior = Jackknife.of(torch.cat(parts, -1))
        return each.outside - prior, each.inside - prior

    def _reasons(self) -> dict[str, str]:
        guide = [n for n, known in self.by_latent.items() if not known]
        prior = [n for n, known in self.prior_by_latent.items() if not known]
        aggregate = "" if self.prior_is_one else "the prior is another one for each datum"
        how = "not known in closed form"
        total = f"marginals of the guide at {guide[0]!r} are {how}" if guide else ""
        same = (
            f"the prior of {prior[0]!r} has marginals {how}, or not the same ones for all data"
            if prior
            else ""
        )
        return {
            "kl_aggregate_reason": aggregate,
            "total_correlation_reason": total,
            "kl_dimension_reason": total or same,
        }


def _unknown() -> Jackknife:
    nothing = torch.tensor(np.nan, dtype=torch.float64)
    return Jackknife(nothing, nothing[None])
