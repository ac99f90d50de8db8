"""The data whose draws are stored: which they are, and what the programs say of them."""

from __future__ import annotations

__all__ = ["Block", "Stored", "chosen"]

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.diagnostics.particles import Batch, SiteShape
from pyro_vae.diagnostics.weights import LogWeights, Stream
from pyro_vae.infer.batches import Data

# a site as Pyro's traces hold it
Node: TypeAlias = Any

_NUMBERS = 2**22  # of one run of a model that draws replicates, at most


def chosen(store_data: int | Sequence[int], size: int, seed: int) -> np.ndarray:
    """The numbers of the data to store, ascending: those given, or so many at random.

    Arguments:
        store_data: How many, all if there are fewer, or which.
        size: The number of data.
        seed: Of the choice.

    Raises:
        ValueError: If there are none, or some are not data, or given twice.
    """
    if isinstance(store_data, int | np.integer):
        if store_data < 1:
            raise ValueError(f"store_data must be positive, not {store_data}.")
        if store_data >= size:
            return np.arange(size)
        # data may be sorted, by class or time, so the first ones would not stand for all
        generator = np.random.default_rng(seed)
        return np.sort(generator.choice(size, store_data, replace=False))
    rows = np.asarray(store_data)
    whole = rows.ndim == 1 and len(rows) > 0 and np.issubdtype(rows.dtype, np.integer)
    if not whole or rows.min() < 0 or rows.max() >= size or len(np.unique(rows)) < len(rows):
        raise ValueError(
            f"store_data must be a number of data or a list of different indices from 0 to "
            f"{size - 1}, not {store_data!r}."
        )
    return np.sort(rows)


@dataclass
class Block:
    """Some of the stored data.

    Arguments:
        at: Where they stand among the stored ones.
        inside: Where they stand in the block of the stream.
        weights: The draws and log weights of the block.
        data: The arguments of the programs for the block.
        nodes: The sites of the model, run once on the block.
        parameters: The parameters that model and guide named.
        number: Of the block.
    """

    at: slice
    inside: Tensor
    weights: LogWeights
    data: Data
    nodes: dict[str, Node]
    parameters: dict[str, Tensor]
    number: int


class Stored:
    """The stored data, block by block.

    Arguments:
        stream: The log weights of all data.
        rows: Which to store, ascending.
        store_draws: How many draws of each.
        options: Options of `Stream`.
    """

    def __init__(
        self, stream: Stream, rows: np.ndarray, store_draws: int, options: Mapping[str, Any]
    ) -> None:
        self.rows, self.model, self.guide = rows, stream.model, stream.guide
        data, self.columns = stream.data, rows
        # where all data are one block, programs may hold something for each of them
        if stream.attrs["block_size"] < stream.size:
            data, self.columns = data.take(rows.tolist()), np.arange(len(rows))
        self.stream = Stream(
            stream.model,
            stream.guide,
            *data.args,
            **{**options, "num_samples": store_draws, "keep_draws": True},
            **data.kwargs,
        )

    @property
    def data(self) -> Data:
        """The arguments of the programs, of all data that they are run on."""
        return self.stream.data

    def __iter__(self) -> Iterator[Block]:
        for number, weights in enumerate(self.stream):
            first, last = np.searchsorted(
                self.columns, [weights.start, weights.start + weights.size]
            )
            if first < last:
                inside = torch.as_tensor(self.columns[first:last] - weights.start)
                data = self.stream.rows(weights.start, weights.start + weights.size).data
                nodes, parameters = self.run(data)
                yield Block(slice(first, last), inside, weights, data, nodes, parameters, number)

    def first(self) -> tuple[dict[str, Node], dict[str, Tensor]]:
        """The sites of the model on the first block, and the parameters of both programs."""
        return self.run(self.stream.first.data)

    def run(self, data: Data) -> tuple[dict[str, Node], dict[str, Tensor]]:
        """Run guide and model once: the sites of the model, and the parameters of both."""
        with self.stream.aside():
            pyro.set_rng_seed(_seed(self.stream.seed))
            guide = poutine.trace(self.guide).get_trace(*data.args, **data.kwargs)
            replayed = poutine.trace(poutine.replay(self.model, trace=guide))
            model = replayed.get_trace(*data.args, **data.kwargs)
        nodes: dict[str, Node] = dict(model.nodes)
        both = {**dict[str, Node](guide.nodes), **nodes}
        parameters = {n: s["value"] for n, s in both.items() if s["type"] == "param"}
        return nodes, parameters

    def replicates(
        self, block: Block, observed: Collection[str], latent: Mapping[str, Tensor] | None
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Draw the data anew, by the model alone or from given latents, some draws at a time.

        Arguments:
            block: The data whose covariates and masks the replicates have.
            observed: The sites that hold data.
            latent: Draws of the latent sites; None to draw them from the prior.

        Yields:
            The number of the first draw, and the values of latent and observed sites, each of
            shape (draws, *shape of one draw).
        """
        nodes = {
            n: s
            for n, s in block.nodes.items()
            if s["type"] == "sample" and not site_is_subsample(s)
        }
        shapes = {n: SiteShape(s["fn"].batch_shape, s["fn"].event_shape) for n, s in nodes.items()}
        stream = self.stream
        batch = Batch(block.data, stream.frame, stream.first.nesting, shapes)
        numbers = sum(s["value"].numel() for s in nodes.values())
        step = max(1, min(stream.num_samples, _NUMBERS // max(numbers, 1)))
        redrawn = _Redrawn(observed)(self.model)
        for first in range(0, stream.num_samples, step):
            count = min(step, stream.num_samples - first)
            some = None
            if latent is not None:
                some = {n: v[first : first + count] for n, v in latent.items()}
            with stream.aside(), pyro.validation_enabled(False):
                where = (stream.seed, latent is not None, block.number, first, 1)
                pyro.set_rng_seed(_seed(*where))
                ran = stream.choice.model.run(redrawn, batch, count, some)
            yield first, ran.values


class _Redrawn(Messenger):
    """Draws the sites that hold data; as `poutine.uncondition`, but factors stay what they are."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = frozenset(names)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names and msg["is_observed"]:
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


def _seed(*where: int) -> int:
    return int(np.random.SeedSequence([int(n) for n in where]).generate_state(1)[0])
