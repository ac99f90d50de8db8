"""The engine: log weights of any model and guide, datum by datum, in bounded memory.

    log w_sn = log p(x_n, z_sn) - log q(z_sn | x_n),   z_sn ~ q(. | x_n),   s = 1 ... S

Data are cut into *blocks* of a fixed size and draws into blocks as well; the random state before
the guide is run on a block is made of the seed and the two numbers of the block, nothing else.
So the same seed gives the same draws, however many (draw, datum) pairs the model is then scored
on at a time (`batch_size`); log densities then differ by the rounding of float32 kernels alone.
On another device, or with another `block_size`, draws are others, and results agree within their
Monte Carlo errors only: what a program draws depends on the shapes and devices it draws in.

Nothing of the caller's changes, not even between two blocks: see `pyro_vae.infer.guard`. Modules
are run as after `eval()`, since with dropout or batch statistics on, weights would be those of
another model in each draw, and what one datum gets would depend on its neighbours.
"""

from __future__ import annotations

__all__ = ["BLOCK_SIZE", "Stream", "log_weights"]

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae import kl
from pyro_vae.diagnostics.block import LogWeights
from pyro_vae.diagnostics.particles import (
    Batch,
    Laws,
    Program,
    Ran,
    Repeated,
    SiteShape,
    Values,
    choose,
)
from pyro_vae.diagnostics.replaying import Replaying
from pyro_vae.diagnostics.rounding import shares_at_edge
from pyro_vae.infer.batches import Data
from pyro_vae.infer.following import follow
from pyro_vae.infer.guard import evaluating, seed_everything, untouched
from pyro_vae.infer.rows import data_plate
from pyro_vae.infer.sites import latent_sites, refuse_random_rows

BLOCK_SIZE = 64
"""How many data the guide is run on at once."""

DRAWS = 1000
"""For how many draws, at most, the guide is run at once."""

_LATENT_NUMBERS = 2**24  # of one run of the guide, at most
_REPEATED_ROWS = 4096  # of one run of a guide that wants its data repeated
# of one run of the model, at most: observed numbers, and rows (the caches of a CPU are small)
_NUMBERS = {"cpu": (2**20, 2**12)}
_NUMBERS_ELSEWHERE = (2**26, 2**18)
_LARGEST_KEPT = 31 * 2**20  # bytes


class Stream:
    """Log weights of a model and its guide on data, block by block; iterate over it.

    Arguments:
        model: A Pyro model with a plate over data, called as `model(*args, **kwargs)`.
        guide: Its guide.
        *args: Positional arguments of both. Tensors as long as the first one are data, cut
            along their first dimension. Without a tensor, all data are one block.
        num_samples: S, the number of draws for each datum, neither more nor fewer.
        seed: Of the draws. The random state of the caller plays no part.
        plate: The name of the data plate; by default the outermost plate common to the observed
            sites. Inner plates are summed.
        batch_size: On how many (draw, datum) pairs the model is run at once; by default as many
            as go well with the caches (draws do not depend on it).
        block_size: On how many data the guide is run at once (draws depend on it). A guide that
            holds parameters for each datum needs all of them: `block_size=len(x)`.
        keep_draws: Whether to keep the draws.
        exact_kl: Whether to compute KL(q || p) where it is exact.
        capture: Whether runs of the model may be replayed where many are alike; no number depends
            on it, only what the model does besides (printing, counting) is not done in replays.
        progress: Whether to show a bar, on stderr, for what takes over 2 s.
        **kwargs: Keyword arguments of both.

    Attributes:
        size: N, the number of data.
        block: The number of data in a block, the last of which may have fewer.
        first: The first block, and the shapes of its latent sites.
        suitable_rows: On how many (draw, datum) pairs the model goes well at once.
        runs: How the model is run; `runs.reason` says why nothing is replayed.

    Raises:
        ValueError: If there is no data plate, if a latent site is missing from the guide or lies
            outside the data plate, if a plate draws its subsample at random, or if a number is
            not positive.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> x = torch.linspace(-1, 1, 100)
        >>> stream = Stream(model, guide, x, num_samples=10)
        >>> [tuple(block.log_weight.shape) for block in stream], stream.size
        ([(10, 64), (10, 36)], 100)
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        *args: Any,
        num_samples: int = 1000,
        seed: int = 0,
        plate: str | None = None,
        batch_size: int | None = None,
        block_size: int = BLOCK_SIZE,
        keep_draws: bool = False,
        exact_kl: bool = False,
        capture: bool = True,
        progress: bool = True,
        **kwargs: Any,
    ) -> None:
        positive = {"num_samples": num_samples, "block_size": block_size, "batch_size": batch_size}
        for name, number in positive.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be positive, not {number}.")
        if seed < 0:
            raise ValueError(f"seed must not be negative, but is {seed}.")
        self.model, self.guide, self.num_samples, self.seed = model, guide, num_samples, seed
        self.keep_draws, self.exact_kl, self.progress = keep_draws, exact_kl, progress
        self.data, self.block_size = Data.of(args, kwargs), block_size
        self._store: Any = None
        # once a block of this size was freed, glibc keeps smaller ones instead of handing each
        # back to the system, which would cost a page fault for every 4 KiB of every temporary
        torch.empty(_LARGEST_KEPT, dtype=torch.uint8)
        with self.aside():
            self._rehearse(plate)
            self.runs = Replaying(self.choice.model, self.model, allowed=capture)
            self.batch_size = batch_size or self.suitable_rows
        if self.choice.reasons and "one by one" in (
            self.choice.guide.name,
            self.choice.model.name,
        ):
            warnings.warn(
                "draws are run one by one, which is slow, since the program cannot be run for "
                f"many at once: {'; '.join(self.choice.reasons)}.",
                stacklevel=2,
            )

    def __iter__(self) -> Iterator[LogWeights]:
        with tqdm(
            total=self.size, desc="log weights", unit="datum", disable=not self.progress, delay=2
        ) as bar:
            for number in range(self.num_blocks):
                with self.aside():
                    block = self._weigh(number)
                yield block
                bar.update(block.size)

    @property
    def attrs(self) -> dict[str, Any]:
        """What to tell of the draws beside a result, in NetCDF's types."""
        return {
            "units": "nats",
            "num_samples": self.num_samples,
            "seed": self.seed,
            "block_size": self.block,
            "plate": self.frame.name,
            "guide_layout": self.choice.guide.name,
            "model_layout": self.choice.model.name,
            "layout_reasons": list(self.choice.reasons),
            "torch_version": str(torch.__version__),
            "pyro_version": str(pyro.__version__),
        }

    # -------------------------------------------------------------------------- preparations
    @contextmanager
    def aside(self) -> Iterator[None]:
        """Where nothing that happens stays; parameters once created are the same each time."""
        store = pyro.get_param_store()
        with ExitStack() as stack:
            stack.enter_context(untouched(self.model, self.guide))
            stack.enter_context(evaluating())
            stack.enter_context(torch.no_grad())
            if self._store is not None:
                stack.enter_context(store.scope(self._store))
            yield

    def _rehearse(self, plate: str | None) -> None:
        """Look at the first block: the data plate, the sites, and how to run many draws."""
        first = self.data.rows(0, self.block_size) if self.data.size else self.data
        guide, model = self._first_traces(first)
        latent_sites(model.nodes, guide.nodes)
        refuse_random_rows(guide.nodes, self.guide, first.args, first.kwargs)
        self.frame = data_plate(model.nodes, plate)
        if first.size and first.size != self.frame.size:
            raise ValueError(
                f"the data plate {self.frame.name!r} has {self.frame.size} rows, but the first "
                f"tensor among the arguments {first.size}; pass the data first, a datum a row."
            )
        first = first._replace(size=self.frame.size)
        self.size = self.data.size or self.frame.size
        self.block = min(self.block_size, self.size) if self.data.size else self.size
        nodes = [n for n in _nodes(guide, model) if n["type"] == "sample"]
        plates = [f for n in nodes for f in n["cond_indep_stack"]]
        nesting = max(-f.dim for f in plates if f.dim is not None)
        sites = {n: SiteShape(s["fn"].batch_shape, s["fn"].event_shape) for n, s in _latent(guide)}
        self.first = Batch(first, self.frame, nesting, sites)
        self.suitable_rows = _suitable_rows([n for n in nodes if n["is_observed"]], first.size)
        kinds = {n["value"].dtype for n in nodes if n["value"].is_floating_point()}
        self._eps = max((torch.finfo(k).eps for k in kinds), default=torch.finfo().eps)
        self._free = self._free_sites(first, guide, model) if self.exact_kl else []
        self.choice = choose(self.model, self.guide, self.first)
        self._store = pyro.get_param_store().get_state()

    def _first_traces(self, first: Data) -> tuple[poutine.Trace, poutine.Trace]:
        seed_everything(_seed(self.seed))
        try:
            return self.traces(first)
        except Exception as error:
            if first.size < self.data.size:
                error.add_note(
                    f"(The programs were run on the first {first.size} of {self.data.size} data. "
                    f"If they hold something for each datum, pass block_size={self.data.size}.)"
                )
            raise

    def traces(self, data: Data) -> tuple[poutine.Trace, poutine.Trace]:
        """One plain run of the guide on these data, and of the model on its draws."""
        guide = poutine.trace(self.guide).get_trace(*data.args, **data.kwargs)
        replayed = poutine.trace(poutine.replay(self.model, trace=guide))
        return guide, replayed.get_trace(*data.args, **data.kwargs)

    def _free_sites(self, data: Data, guide: poutine.Trace, model: poutine.Trace) -> list[str]:
        """The sites whose q and p look at no other latent site, and whose KL is exact."""
        names = latent_sites(model.nodes, guide.nodes)
        parents: dict[str, Any] = dict.fromkeys(names)
        if len(_latent(guide)) > 1:
            for program in (self.model, self.guide):
                found = follow(program, guide, data.args, data.kwargs)
                parents = {n: parents[n] or found[n] for n in names}
        nodes: tuple[dict[str, Any], ...] = (dict(guide.nodes), dict(model.nodes))
        kinds = {n: kl.route(nodes[0][n]["fn"], nodes[1][n]["fn"]).kind for n in names}
        exact = ("closed", "quadrature", "infinite")
        return [n for n in names if kinds[n] in exact and not parents[n]]

    # ---------------------------------------------------------------------------- one block
    def _weigh(self, number: int) -> LogWeights:
        start = number * self.block
        batch, dim = self.rows(start, start + self.block), self.frame.dim
        assert dim is not None
        with pyro.validation_enabled(False):  # it looked on at the rehearsal
            parts: dict[str, dict[str, Tensor]] = {"likelihood": {}, "prior": {}, "q": {}}
            draws: list[dict[str, Tensor]] = []
            laws: tuple[Laws, Laws] = {}, {}
            edge: dict[str, Tensor] = {}
            for first, ran in self.draws(batch, number):
                edge = edge or shares_at_edge(ran.laws, ran.values, batch.sites, dim)
                _put(parts["q"], ran.log_density, first, self.num_samples)
                laws = ran.laws, self._score(parts, batch, ran.values, first) or laws[1]
                if self.keep_draws:
                    draws.append(ran.values)
            exact = self._exact(batch, number, *laws)
        return LogWeights(
            start,
            torch.stack(list(parts["likelihood"].values())).sum(0),
            parts["prior"],
            parts["q"],
            {n: torch.cat([d[n] for d in draws]) for n in draws[0]} if draws else {},
            exact,
            self._eps,
            edge,
        )

    @property
    def num_blocks(self) -> int:
        """Into how many blocks the data are cut."""
        return math.ceil(self.size / self.block)

    def rows(self, start: int, stop: int) -> Batch:
        """The data from `start` to `stop`; all of them, if no argument holds a datum a row."""
        data = self.data.rows(start, stop) if self.data.size else self.first.data
        return self.batch_of(data)

    def batch_of(self, data: Data) -> Batch:
        """The batch of these data; sites are as those of the first but for their number."""
        first, dim = self.first, self.frame.dim
        assert dim is not None
        sites = {
            name: SiteShape((*s.batch[:dim], data.size, *(s.batch[dim:][1:])), s.event)
            for name, s in first.sites.items()
        }
        return Batch(data, first.frame, first.nesting, sites)

    def draws(self, batch: Batch, number: int) -> Iterator[tuple[int, Ran]]:
        """Run the guide on blocks of draws, whose sizes depend on the program alone."""
        latent = sum(math.prod(s.batch + s.event) for s in self.first.sites.values())
        most = max(1, min(DRAWS, _LATENT_NUMBERS // max(latent, 1)))
        if isinstance(self.choice.guide, Repeated):
            most = max(1, min(most, _REPEATED_ROWS // self.block))
        for i, first in enumerate(range(0, self.num_samples, most)):
            count = min(most, self.num_samples - first)
            seed_everything(_seed(self.seed, number, i))
            yield first, self.choice.guide.run(self.guide, batch, count, None)

    def _score(
        self, parts: dict[str, dict[str, Tensor]], batch: Batch, drawn: Values, first: int
    ) -> Laws:
        """Run the model on the draws, as many at a time as `batch_size` allows.

        The first run of a block is always the program's own. Returns its distributions there.
        """
        count = len(next(iter(drawn.values())))
        width = min(batch.data.size, self.batch_size)
        step = max(1, self.batch_size // width)
        laws: Laws = {}
        for left in range(0, batch.data.size, width):
            part, values = self._narrowed(batch, drawn, left, width)
            for low in range(0, count, step):
                some = {n: v[low : low + step] for n, v in values.items()}
                some_count = min(step, count - low)
                ran = self.runs.run(part, some_count, some, itself=not (first or left or low))
                for name, value in ran.log_density.items():
                    kind = parts["likelihood" if name in ran.observed else "prior"]
                    if name not in kind:
                        kind[name] = value.new_empty(self.num_samples, batch.data.size)
                    at = first + low
                    kind[name][at : at + len(value), left : left + value.shape[1]] = value
                laws = ran.laws or laws
        return laws

    def _narrowed(
        self, batch: Batch, drawn: Values, left: int, width: int
    ) -> tuple[Batch, Values]:
        if width == batch.data.size:
            return batch, drawn
        part = self.batch_of(batch.data.rows(left, left + width))
        dim = self.frame.dim
        assert dim is not None
        return part, {
            n: v.narrow(dim - len(batch.sites[n].event), left, part.data.size)
            for n, v in drawn.items()
        }

    def _exact(self, batch: Batch, number: int, q: Laws, p: Laws) -> dict[str, Tensor]:
        """KL(q || p) by datum, at the sites where one run tells it.

        Arguments:
            batch: The data.
            number: That of the block.
            q: The distributions of a run of the guide.
            p: Those of a run of the model.
        """
        dim, size = self.frame.dim, batch.data.size
        told = {n: (q.get(n), p.get(n)) for n in self._free}
        if all(_is_plain(law, batch.sites[n]) for n, laws in told.items() for law in laws):
            return {n: _kl(*laws, (), dim, size) for n, laws in told.items()}
        seed_everything(_seed(self.seed, number))
        nodes = [dict[str, Any](t.nodes) for t in self.traces(batch.data)]
        found = {}
        for name in self._free:
            guide, model = (of[name] for of in nodes)
            masks = [node["mask"] for node in (guide, model) if node["mask"] is not None]
            found[name] = _kl(guide["fn"], model["fn"], masks, dim, size)
        return found


def log_weights(
    model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **options: Any
) -> LogWeights:
    """The log weights of all data at once, for few of them: shape (draws, data).

    log w_sn = log p(x_n, z_sn) - log q(z_sn | x_n), z_sn ~ q(. | x_n). They take 8 bytes for each
    draw, datum and part: iterate over a `Stream` where that is too much.

    Arguments:
        model: A Pyro model with a plate over data.
        guide: Its guide.
        *args: Positional arguments of both.
        **options: Those of `Stream`, and keyword arguments of both.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> found = log_weights(model, guide, torch.zeros(3), num_samples=10)
        >>> found.log_weight.std(0).max().item() < 1e-5  # the guide is the posterior
        True
    """
    blocks = list(Stream(model, guide, *args, **options))

    def joined(parts: list[Mapping[str, Tensor]], dim: int) -> dict[str, Tensor]:
        return {n: torch.cat([p[n] for p in parts], dim) for n in parts[0]}

    return LogWeights(
        0,
        torch.cat([b.log_likelihood for b in blocks], -1),
        joined([b.log_prior for b in blocks], -1),
        joined([b.log_q for b in blocks], -1),
        joined([b.draws for b in blocks], 1),
        joined([b.kl for b in blocks], 0),
        blocks[0].eps,
        joined([b.edge for b in blocks], 0),
    )


def _seed(*where: int) -> int:
    return int(np.random.SeedSequence(where).generate_state(1)[0])


def _nodes(*traces: poutine.Trace) -> list[Any]:
    return [node for trace in traces for node in trace.nodes.values()]


def _suitable_rows(observed: list[Any], size: int) -> int:
    """On how many (draw, datum) pairs to run the model at once, by what it observes of each."""
    shapes = [n["fn"].batch_shape + n["fn"].event_shape for n in observed]
    numbers = sum(math.prod(shape) / size for shape in shapes)
    device = observed[0]["value"].device.type
    most_numbers, most_rows = _NUMBERS.get(device, _NUMBERS_ELSEWHERE)
    return max(1, min(most_rows, int(most_numbers / max(numbers, 1))))


def _latent(trace: poutine.Trace) -> list[tuple[str, Any]]:
    nodes: dict[str, Any] = dict(trace.nodes)
    return [
        (name, node)
        for name, node in nodes.items()
        if node["type"] == "sample"
        and not node["is_observed"]
        and not poutine.util.site_is_subsample(node)
    ]


def _put(parts: dict[str, Tensor], found: Mapping[str, Tensor], first: int, count: int) -> None:
    for name, value in found.items():
        if name not in parts:
            parts[name] = value.new_empty(count, value.shape[1])
        parts[name][first : first + len(value)] = value


def _is_plain(law: Any, site: SiteShape) -> bool:
    """Whether a distribution is that of a run without particles."""
    return law is not None and law.batch_shape == site.batch


def _kl(q: Any, p: Any, masks: Sequence[Any], dim: int | None, size: int) -> Tensor:
    """KL(q || p) by datum, masked as both sides are; NaN where a quadrature failed."""
    value, _ = kl.divergence(q, p, with_error=True)
    for mask in masks:
        value = torch.as_tensor(scale_and_mask(value, mask=mask))
    value = value.double().expand(q.batch_shape)
    inner = [d for d in range(-value.dim(), 0) if d != dim]
    return value.sum(inner) if inner else value.expand(size)
