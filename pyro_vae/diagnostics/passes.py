"""Passes over data for diagnostics that run programs themselves, with a stream's guarantees."""

from __future__ import annotations

__all__ = ["Pass", "samples", "seed_of"]

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.diagnostics.coordinates import Coordinates, coordinates_of, data_first
from pyro_vae.diagnostics.marginals import marginals
from pyro_vae.diagnostics.particles import Batch, Node
from pyro_vae.diagnostics.weights import Stream
from pyro_vae.infer.sites import latent_sites


class Pass:
    """The blocks of a stream, its latent sites, and what they are measured by.

    Arguments:
        stream: The data, the programs, and how they are run.
        desc: What the bar of progress says.

    Attributes:
        names: The latent sites of the model.
        auxiliary: The latent sites of the guide alone.
        coordinates: By latent site of the model.
    """

    def __init__(self, stream: Stream, desc: str) -> None:
        self.stream, self.desc = stream, desc
        self.dim: int = stream.frame.dim if stream.frame.dim is not None else -1
        self.shapes = stream.first.sites
        with self.aside():
            guide, model = self.traces(stream.first, 0)
        self.names = latent_sites(model, guide)
        self.auxiliary = [n for n in self.shapes if n not in self.names]
        self.coordinates: dict[str, Coordinates] = {
            n: coordinates_of(n, model[n]["fn"], self.shapes[n], self.dim) for n in self.names
        }

    @property
    def labels(self) -> list[str]:
        """The coordinates of all sites, by name."""
        return [label for c in self.coordinates.values() for label in c.labels]

    @property
    def sites(self) -> list[str]:
        """The site of each coordinate."""
        return [c.name for c in self.coordinates.values() for _ in c.labels]

    def aside(self) -> AbstractContextManager[None]:
        """Where nothing that happens stays (`infer.guard`)."""
        return self.stream.aside()

    def blocks(self, *, rounds: int = 1) -> Iterator[tuple[int, int, Batch]]:
        """Number, first datum and batch of each block, all of them `rounds` times over.

        The caller runs programs inside `aside()`, which must be left before the next block.
        """
        stream = self.stream
        bar = tqdm(
            total=stream.num_blocks * rounds,
            desc=self.desc,
            unit="block",
            disable=not stream.progress,
            delay=2,
        )
        with bar:
            for _ in range(rounds):
                for number in range(stream.num_blocks):
                    start = number * stream.block
                    yield number, start, stream.rows(start, start + stream.block)
                    bar.update()

    def traces(self, batch: Batch, number: int) -> tuple[dict[str, Node], dict[str, Node]]:
        """The sites of one plain run of the guide, and of the model on its draws."""
        pyro.set_rng_seed(seed_of(self.stream.seed, 1, number))
        guide, model = self.stream.traces(batch.data)
        return samples(guide), samples(model)

    def draws(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """The `num_samples` draws of the guide by site, (draws, *shape of one draw)."""
        parts = [ran.values for _, ran in self.stream.draws(batch, number)]
        return {n: torch.cat([p[n] for p in parts]) for n in parts[0]}

    def flat(self, name: str, value: Tensor) -> Tensor:
        """The coordinates of draws of a site: (draws, data, coordinates)."""
        return self.coordinates[name].flat(data_first(value, self.shapes[name], self.dim))

    def all_flat(self, values: Mapping[str, Tensor]) -> Tensor:
        """The coordinates of draws of all sites, side by side."""
        return torch.cat([self.flat(n, values[n]) for n in self.names], -1)

    def data_first(self, value: Tensor, name: str) -> Tensor:
        """One draw of a site with data as its first dimension: (data, ...)."""
        return data_first(value[None], self.shapes[name], self.dim)[0]

    def data_back(self, value: Tensor, name: str) -> Tensor:
        """Draws (draws, data, ...) in the shape that the program gave them."""
        return value.movedim(1, 1 + len(self.shapes[name].batch) + self.dim)

    def spread(self, value: Tensor, name: str, size: int) -> Tensor:
        """Draws without data, (draws, ...), at each of `size` data, in the program's shape."""
        at = 1 + len(self.shapes[name].batch) + self.dim
        return value.unsqueeze(at).expand(*value.shape[:at], size, *value.shape[at:])

    def marginal(self, node: Node, name: str) -> Any | None:
        """The marginals of a site where they are known and nothing is masked."""
        return None if node["mask"] is not None else marginals(node["fn"], self.coordinates[name])

    def log_marginals(self, node: Node, name: str, value: Tensor) -> Tensor:
        """Marginal log densities of draws (draws, *shape of one draw): (draws, data, latent)."""
        found = self.marginal(node, name)
        assert found is not None
        each = data_first(found.log_prob(value), self.shapes[name], self.dim)
        return each.reshape(*each.shape[:2], -1)

    def log_likelihood(self, batch: Batch, values: Mapping[str, Tensor]) -> Tensor:
        """The log density of what is observed, at given latent values: (draws, data)."""
        count = len(next(iter(values.values())))
        step = max(1, self.stream.batch_size // batch.data.size)
        found: list[Tensor] = []
        for low in range(0, count, step):
            some = {n: v[low : low + step] for n, v in values.items() if n in self.names}
            ran = self.stream.choice.model.run(
                self.stream.model, batch, min(step, count - low), some
            )
            found.append(torch.stack([ran.log_density[n] for n in ran.observed]).sum(0))
        return torch.cat(found)


def seed_of(*where: int) -> int:
    """A seed made of numbers."""
    return int(np.random.SeedSequence(where).generate_state(1)[0])


def samples(trace: poutine.Trace) -> dict[str, Node]:
    """The random sites of a trace."""
    nodes: dict[str, Node] = dict(trace.nodes)
    return {
        n: node
        for n, node in nodes.items()
        if node["type"] == "sample" and not poutine.util.site_is_subsample(node)
    }
