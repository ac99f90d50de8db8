"""Posterior collapse: which latents say nothing, and whether decoder or encoder is to blame."""

from __future__ import annotations

__all__ = ["collapse"]

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor

from pyro_vae.diagnostics.active_units import ACTIVE, Activity, activity
from pyro_vae.diagnostics.particles import Batch
from pyro_vae.diagnostics.passes import Pass, seed_of
from pyro_vae.diagnostics.replicates import taken
from pyro_vae.diagnostics.shelf import Finding, NotApplicable, register, step
from pyro_vae.diagnostics.weights import BLOCK_SIZE, Stream
from pyro_vae.infer.batches import Data

NOTHING = 0.01
"""In nats: a KL, or a change of a log density, below which there is none to speak of."""

PRIOR_DRAWS = 16
"""For how many draws of the prior the model is run at once."""

_PRODUCTS = ("real", "integer", "circle")


class _Means(NamedTuple):
    """Means over data and their standard errors."""

    mean: np.ndarray
    std_error: np.ndarray


def _judge(table: xr.Dataset) -> list[Finding]:
    attrs, latents = table.attrs, table.sizes["latent"]
    gain, error = float(table.decoder_gain_all), float(table.decoder_gain_all_std_error)
    spread, looks = float(table.decoder_sd), float(table.guide_gain)
    numbers = (
        f"z of another datum costs {gain:.2f} +- {error:.2f} nats of log p(x|z), which varies by "
        f"{spread:.2f} nats over the prior"
    )
    if attrs["decoder_ignores_z"]:
        text = f"the decoder ignores z: log p(x|z) varies by {spread:.2g} nats over the prior."
        advice = "a decoder that can do less without z, beta below 1 at first, or free_bits."
        return [Finding("bad", text, advice, closes=True)]
    if attrs["guide_ignores_x"]:
        text = f"the guide ignores x ({looks:.2g} nats), though the decoder looks at z: {numbers}."
        advice = "train the encoder more than the decoder at first, or start with beta below 1."
        return [Finding("bad", text, advice, closes=True)]
    if gain < max(NOTHING, 3 * error):
        text = f"the guide looks at x, but what it draws does not serve the decoder: {numbers}."
        return [Finding("bad", text, "check that guide and model are given the same data.")]
    if attrs["collapsed_latents"]:
        names = ", ".join(table.latent.values[table.collapsed.values == 1][:8])
        text = f"{attrs['collapsed_latents']} of {latents} latents are collapsed ({names})"
        advice = (
            "fewer latents, free_bits, or beta below 1 at first; or leave it, it costs nothing."
        )
        return [Finding("care", f"{text}; {numbers}.", advice)]
    return [Finding("good", f"no latent is collapsed; {numbers}.")]


@register
@step(order=54, judge=_judge)
def collapse(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    seed: int = 0,
    max_data: int = 500,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = BLOCK_SIZE,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    r"""Latents with Var_x E_q[z_d | x] < 0.01 and KL_d < 0.01, and who ignores whom.

    * The decoder ignores z if log p(x | z) does not vary with z ~ p: `decoder_sd` is the mean
      over data of its standard deviation.
    * The guide ignores x if log q(z | x) of another datum's x is the same: `guide_gain` is
      E[log q(z_n | x_n) - log q(z_n | x_m)], m another datum drawn at random.
    * `decoder_gain` is E[log p(x_n | z_n) - log p(x_n | z_n with coordinate d of z_m)], what
      the decoder gets out of a coordinate; `decoder_gain_all` is that of all z. It is NaN where
      a coordinate cannot be changed alone (simplex, sphere, one-hot): see `decoder_gain_site`.

    Arguments:
        model: A Pyro model with a plate over data.
        guide: Its guide.
        *args: Positional arguments of both.
        num_samples: The number of draws by datum, of guide and of prior, at least 2. Coordinates
            are exchanged in so many draws in all.
        seed: Of the draws.
        max_data: Of more data than that, so many are taken at random.
        plate: As in `Stream`.
        batch_size: As in `Stream`; results do not depend on it.
        block_size: As in `Stream`.
        progress: As in `Stream`.
        **kwargs: Keyword arguments of both programs.

    Returns:
        In nats: `decoder_sd`, `guide_gain`, `decoder_gain_all`; by `latent`: `decoder_gain`,
        `kl_latent` (mean KL of the marginals of guide and prior, NaN where they are not known in
        closed form), `collapse_activity`, `collapsed` (0 or 1); by `site`: `decoder_gain_site`;
        all with `..._std_error` over data; in attrs `decoder_ignores_z`, `guide_ignores_x`,
        `collapsed_latents`.

    Raises:
        NotApplicable: If there are fewer than 3 data or 2 draws.

    References:
        Importance weighted autoencoders (Y. Burda, R. Grosse, R. Salakhutdinov, 2016);
        Don't blame the ELBO! A linear VAE perspective on posterior collapse (J. Lucas,
        G. Tucker, R. Grosse, M. Norouzi, 2019)

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.7))
        >>> found = collapse(model, guide, torch.linspace(-2, 2, 100), num_samples=20)
        >>> found.decoder_ignores_z, found.guide_ignores_x
        (1, 0)
    """
    if num_samples < 2:
        raise NotApplicable(
            f"the collapse report needs num_samples of at least 2, not {num_samples}."
        )
    data = Data.of(args, kwargs)
    if data.size > max_data:
        generator = torch.Generator().manual_seed(seed_of(seed, 5))
        data = taken(data, torch.randperm(data.size, generator=generator)[:max_data].sort().values)
    stream = Stream(
        model,
        guide,
        *data.args,
        num_samples=num_samples,
        seed=seed,
        plate=plate,
        batch_size=batch_size,
        block_size=block_size,
        progress=progress,
        **data.kwargs,
    )
    if stream.size < 3:
        raise NotApplicable(
            f"{stream.size} data are too few for a collapse report; pass at least 3."
        )
    return _Report(Pass(stream, "collapse")).table()


class _Report:
    """What latents do, over the blocks of a pass."""

    def __init__(self, walk: Pass) -> None:
        self.walk, self.stream = walk, walk.stream
        exchanges = len(walk.labels) + len(walk.names) + 1
        self.few = max(1, self.stream.num_samples // exchanges)
        self.draws: list[dict[str, Tensor]] = []
        self.spreads: list[Tensor] = []
        self.kls: list[Tensor] = []

    def table(self) -> xr.Dataset:
        """The report."""
        walk = self.walk
        for number, _, batch in walk.blocks():
            with walk.aside(), pyro.validation_enabled(False):
                self._look(number, batch)
        found = activity(walk)
        results = {
            "decoder_sd": _means(torch.cat(self.spreads)),
            "kl_latent": _means(torch.cat(self.kls)),
            **self._exchanged(),
        }
        return self._dataset(found, results)

    # ------------------------------------------------------------------------------ one block
    def _look(self, number: int, batch: Batch) -> None:
        walk = self.walk
        guide, model = walk.traces(batch, number)
        draws = walk.draws(batch, number)
        self.draws.append({n: data_first_of(walk, n, draws[n])[: self.few] for n in walk.shapes})
        parts: list[Tensor] = []
        for name, coordinates in walk.coordinates.items():
            q, p = guide[name], model[name]
            # of a site that looks at other sites, marginals hold at one draw of them alone
            if walk.marginal(q, name) is None or walk.marginal(p, name) is None:
                shape = (batch.data.size, len(coordinates.labels))
                parts.append(torch.full(shape, torch.nan, dtype=torch.float64))
                continue
            value = draws[name] if len(walk.shapes) == 1 else q["value"][None]
            ratio = walk.log_marginals(q, name, value) - walk.log_marginals(p, name, value)
            parts.append(ratio.double().mean(0).cpu())
        self.kls.append(torch.cat(parts, -1))
        self.spreads.append(self._prior_spread(number, batch))

    def _prior_spread(self, number: int, batch: Batch) -> Tensor:
        """The standard deviation of log p(x | z) over z ~ p, by datum."""
        stream, total = self.stream, self.stream.num_samples
        found: list[Tensor] = []
        for i, low in enumerate(range(0, total, PRIOR_DRAWS)):
            pyro.set_rng_seed(seed_of(stream.seed, 6, number, i))
            count = min(PRIOR_DRAWS, total - low)
            ran = stream.choice.model.run(stream.model, batch, count, None)
            found.append(torch.stack([ran.log_density[n] for n in ran.observed]).sum(0))
        return torch.cat(found).std(0).cpu()

    # ------------------------------------------------------------------------------ exchanges
    def _exchanged(self) -> dict[str, _Means]:
        """What it costs that a datum has coordinates of another one."""
        walk = self.walk
        own = {n: torch.cat([d[n] for d in self.draws], 1) for n in walk.shapes}
        # neighbours in the order of the data may be alike, so partners are drawn: a random cycle
        generator = torch.Generator().manual_seed(seed_of(self.stream.seed, 7))
        cycle = torch.randperm(self.stream.size, generator=generator)
        partner = torch.empty_like(cycle)
        partner[cycle] = cycle.roll(1)
        other = {n: v[:, partner.to(v.device)] for n, v in own.items()}
        plain = self._scored(own)
        columns = {"decoder_gain_all": [plain - self._scored(other)]}
        columns["decoder_gain_site"] = [
            plain - self._scored({**own, n: other[n]}) for n in walk.names
        ]
        columns["decoder_gain"] = []
        for name, coordinates in walk.coordinates.items():
            alone = coordinates.kind in _PRODUCTS
            for k in range(len(coordinates.labels)):
                if not alone:
                    columns["decoder_gain"].append(torch.full_like(plain, torch.nan))
                    continue
                mixed = own[name].reshape(*own[name].shape[:2], -1).clone()
                mixed[..., k] = other[name].reshape(mixed.shape)[..., k]
                changed = {**own, name: mixed.reshape(own[name].shape)}
                columns["decoder_gain"].append(plain - self._scored(changed))
        columns["guide_gain"] = [self._guide(own)[partner] - self._guide(other)]
        found = {n: _means(torch.stack(c, -1)[cycle], shared=True) for n, c in columns.items()}
        for name in ("decoder_gain_all", "guide_gain"):
            found[name] = _Means(*(part[0] for part in found[name]))
        return found

    def _scored(self, values: dict[str, Tensor]) -> Tensor:
        """Mean log p(x | z) by datum."""
        return self._over_blocks(values, self.walk.log_likelihood)

    def _guide(self, values: dict[str, Tensor]) -> Tensor:
        """Mean log q(z | x) by datum."""
        stream = self.stream

        def score(batch: Batch, some: dict[str, Tensor]) -> Tensor:
            ran = stream.choice.guide.run(stream.guide, batch, self.few, some)
            return torch.stack(list(ran.log_density.values())).sum(0)

        return self._over_blocks(values, score)

    def _over_blocks(
        self, values: dict[str, Tensor], score: Callable[[Batch, dict[str, Tensor]], Tensor]
    ) -> Tensor:
        walk, found = self.walk, []
        size = self.stream.block
        for start in range(0, self.stream.size, size):
            batch = walk.stream.rows(start, start + size)
            some = {n: walk.data_back(v[:, start : start + size], n) for n, v in values.items()}
            with walk.aside(), pyro.validation_enabled(False):
                found.append(score(batch, some).mean(0).cpu())
        return torch.cat(found)

    # -------------------------------------------------------------------------------- results
    def _dataset(self, found: Activity, results: dict[str, _Means]) -> xr.Dataset:
        walk = self.walk
        kl, gain = results["kl_latent"].mean, results["guide_gain"]
        collapsed = (found.between.numpy() < ACTIVE) & ~(kl >= NOTHING)
        dims = {"decoder_gain_site": ("site",)}
        dims |= dict.fromkeys(("kl_latent", "decoder_gain"), ("latent",))
        variables: dict[str, Any] = {
            "collapse_activity": (("latent",), found.between.numpy()),
            "collapse_activity_std_error": (("latent",), found.std_error.numpy()),
            "collapsed": (("latent",), collapsed.astype(int)),
        }
        for name, means in results.items():
            variables[name] = (dims.get(name, ()), means.mean)
            variables[f"{name}_std_error"] = (dims.get(name, ()), means.std_error)
        return xr.Dataset(
            variables,
            coords={
                "latent": walk.labels,
                "latent_site": ("latent", walk.sites),
                "site": walk.names,
            },
            attrs={
                **self.stream.attrs,
                "collapse_num_data": self.stream.size,
                "decoder_ignores_z": int(results["decoder_sd"].mean < NOTHING),
                "guide_ignores_x": int(gain.mean < max(NOTHING, 3 * gain.std_error)),
                "collapsed_latents": int(collapsed.sum()),
            },
        )


def data_first_of(walk: Pass, name: str, draws: Tensor) -> Tensor:
    """Draws (draws, *shape of one draw) with data as second dimension."""
    return draws.movedim(1 + len(walk.shapes[name].batch) + walk.dim, 1)


def _means(values: Tensor, *, shared: bool = False) -> _Means:
    """Means over data, of numbers (data, ...); neighbours share a draw if `shared`."""
    count = len(values)
    away = (values - values.mean(0)).double()
    variance = away.square().sum(0) / (count - 1)
    if shared:
        variance = variance + 2 * (away * away.roll(1, 0)).sum(0) / (count - 1)
    error = (variance.clamp(min=0) / count).sqrt()
    return _Means(values.mean(0).numpy(), error.numpy())
