"""The unnormalised posterior p(x, z) of each datum, and its guide, as functions of z.

What a `Stream` does once for draws of the guide, a chain or an optimiser does again and again for
values of its own: score them, with gradients. Values of a block of B data are K at a time, as the
guide gives them, and each call is cut into pieces of at most `batch_size` (draw, datum) pairs, so
that memory is bounded and numbers do not depend on where it is cut.
"""

from __future__ import annotations

__all__ = ["Block", "Posterior", "Scored", "few_rows", "mean_over_data", "seed_of"]

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.diagnostics.particles import Batch, Layout, Program
from pyro_vae.diagnostics.weights import Stream
from pyro_vae.infer.batches import Data

Values: TypeAlias = dict[str, Tensor]


class Block(NamedTuple):
    """Some data, of a fixed number.

    Arguments:
        number: That of the block.
        start: The number of its first datum.
        batch: The data.
    """

    number: int
    start: int
    batch: Batch

    @property
    def size(self) -> int:
        """B, the number of data."""
        return self.batch.data.size


class Scored(NamedTuple):
    """A log density at K values for each of B data.

    Arguments:
        value: Summed over the sites, of shape (K, B), in float64.
        by_site: By site, of shape (K, B).
        gradient: By site of numbers, d value / d z, of the shape of the values; empty unless
            asked for.
    """

    value: Tensor
    by_site: dict[str, Tensor]
    gradient: Values


class Posterior:
    """p(x, z) and q(z | x) of a model and its guide, block by block.

    Arguments:
        model: A Pyro model with a plate over data.
        guide: Its guide.
        *args: Positional arguments of both.
        what: What the progress bar says.
        **options: Those of `Stream`, and keyword arguments of both.

    Raises:
        ValueError: As `Stream` does; and if the guide draws a site that the model has not, for
            its density has no counterpart in p(x, z).
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Any,
        what: str,
        **options: Any,
    ) -> None:
        self.stream, self.what = Stream(model, guide, *args, **options), what
        self.size, self.seed = self.stream.size, self.stream.seed
        with self.aside():
            block = next(self._blocks())
            self._require_model_sites(block.batch)

    def _require_model_sites(self, batch: Batch) -> None:
        pyro.set_rng_seed(seed_of(self.seed))
        drawn = self.draw(batch, 1)
        known = self._run(self.stream.choice.model, self.stream.model, batch, drawn)
        extra = sorted(set(drawn) - set(known))
        if extra:
            raise ValueError(
                f"the guide draws {extra[0]!r}, which is no site of the model, so that q(z | x) "
                "is the density of more than the model's latent variables. Draw the model's "
                "sites from their own distributions (a TransformedDistribution, say)."
            )

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Where nothing that happens stays, and values outside a support are no error."""
        with self.stream.aside(), pyro.validation_enabled(False):
            yield

    def blocks(self, steps: int = 1) -> Iterator[tuple[Block, tqdm[Any]]]:
        """Go through the data under a progress bar, which each block moves by `steps`.

        Arguments:
            steps: The number of updates per block.
        """
        with tqdm(
            total=steps * self.stream.num_blocks,
            desc=self.what,
            disable=not self.stream.progress,
            delay=2,
        ) as bar:
            for block in self._blocks():
                yield block, bar

    def _blocks(self) -> Iterator[Block]:
        stream = self.stream
        for number in range(stream.num_blocks):
            start = number * stream.block
            yield Block(number, start, stream.rows(start, start + stream.block))

    @property
    def attrs(self) -> dict[str, Any]:
        """What to tell of the draws beside a result, in NetCDF's types."""
        return {n: v for n, v in self.stream.attrs.items() if n != "num_samples"}

    # ----------------------------------------------------------------------------- programs
    def draw(self, batch: Batch, count: int, given: Values | None = None) -> Values:
        """Run the guide, from the global random state.

        Arguments:
            batch: The data.
            count: K.
            given: The values of sites that are not to be drawn anew.

        Returns:
            By site, values of shape (K, *shape of one draw).
        """
        return self.stream.choice.guide.run(self.stream.guide, batch, count, given).values

    def log_joint(self, batch: Batch, values: Values, *, gradient: bool = False) -> Scored:
        """Log p(x, z) at values of z."""
        return self._scored(self.stream.choice.model, self.stream.model, batch, values, gradient)

    def log_q(self, batch: Batch, values: Values, *, gradient: bool = False) -> Scored:
        """Log q(z | x) at values of z."""
        return self._scored(self.stream.choice.guide, self.stream.guide, batch, values, gradient)

    def _scored(
        self, layout: Layout, program: Program, batch: Batch, values: Values, gradient: bool
    ) -> Scored:
        by_site: dict[str, Tensor] = {}
        along = {n: torch.zeros_like(v) for n, v in values.items() if v.is_floating_point()}
        along = along if gradient else {}
        count = len(next(iter(values.values())))
        for part, some, where in self._pieces(batch, values, count):
            leaves = {n: some[n].detach().requires_grad_() for n in along}
            with torch.set_grad_enabled(gradient):
                found = self._run(layout, program, part, {**some, **leaves})
                total = torch.stack(list(found.values())).sum()
            for name, value in found.items():
                whole = by_site.setdefault(name, value.new_empty(count, batch.data.size))
                whole[where] = value.detach()
            if total.requires_grad and leaves:
                parts = torch.autograd.grad(
                    total, list(leaves.values()), allow_unused=True, materialize_grads=True
                )
                for name, value in zip(leaves, parts, strict=True):
                    at = self._narrow(batch, name, along[name][where[0]], where[1])
                    at.copy_(value)
        return Scored(torch.stack(list(by_site.values())).sum(0), by_site, along)

    def _run(
        self, layout: Layout, program: Program, batch: Batch, values: Mapping[str, Tensor]
    ) -> Values:
        """Log densities by site; their random draws, if any, are those of no chain."""
        count = len(next(iter(values.values())))
        return layout.run(program, batch, count, values).log_density

    def _pieces(
        self, batch: Batch, values: Values, count: int
    ) -> Iterator[tuple[Batch, Values, tuple[slice, slice]]]:
        """Cut (draw, datum) pairs into pieces."""
        size, most = batch.data.size, self.stream.batch_size
        # data that no argument holds cannot be cut
        width = min(size, most) if self.stream.data.size else size
        step = max(1, most // width)
        for left in range(0, size, width):
            columns = slice(left, min(left + width, size))
            part = batch
            if width < size:
                part = self.stream.batch_of(batch.data.rows(left, left + width))
            for low in range(0, count, step):
                draws = slice(low, min(low + step, count))
                yield (
                    part,
                    {n: self._narrow(batch, n, v[draws], columns) for n, v in values.items()},
                    (draws, columns),
                )

    def _narrow(self, batch: Batch, name: str, value: Tensor, columns: slice) -> Tensor:
        dim = self.data_dim(batch, name)
        return value.narrow(dim, columns.start, columns.stop - columns.start)

    def data_dim(self, batch: Batch, name: str) -> int:
        """The (negative) dimension of a site's values that counts data."""
        return (batch.frame.dim or -1) - len(batch.sites[name].event)

    def to_values(self, batch: Batch, name: str, by_datum: Tensor) -> Tensor:
        """Give a tensor of shape (K, B) or (B,) the dimensions of a site's values.

        Arguments:
            batch: The data.
            name: The site.
            by_datum: With data last.
        """
        after = -self.data_dim(batch, name) - 1
        shape = batch.sites[name]
        before = len(shape.batch) + len(shape.event) - after - 1
        leading = by_datum.shape[:-1]
        return by_datum.reshape(*leading, *[1] * before, by_datum.shape[-1], *[1] * after)

    def to_data(self, batch: Batch, name: str, value: Tensor) -> Tensor:
        """Sum a tensor of the shape of a site's batch, (K, *batch), to (K, B), in float64."""
        dim = batch.frame.dim or -1
        summed = [d for d in range(-value.dim() + 1, 0) if d != dim]
        return value.sum(summed, dtype=torch.float64) if summed else value.double()


# ---------------------------------------------------------------------------------- small tools
def seed_of(*where: int) -> int:
    """A seed made of a few numbers, and of nothing else."""
    return int(np.random.SeedSequence(where).generate_state(1)[0])


def few_rows(
    args: tuple[Any, ...], kwargs: dict[str, Any], most: int | None, seed: int
) -> tuple[tuple[Any, ...], dict[str, Any], np.ndarray | None]:
    """Take some data by lot, the same for the same seed.

    Arguments:
        args: Positional arguments of the programs.
        kwargs: Keyword arguments.
        most: How many data; None for all.
        seed: Of the lot.

    Returns:
        The arguments with as many rows, and the numbers of these, None if all were taken.

    Raises:
        ValueError: If `most` is not positive.
    """
    if most is not None and most < 1:
        raise ValueError(f"max_data must be positive, not {most}; None takes all data.")
    data = Data.of(args, kwargs)
    if most is None or data.size <= most:
        return args, kwargs, None
    chosen = np.sort(np.random.default_rng(seed).permutation(data.size)[:most])

    def taken(a: Any) -> Any:
        return a[torch.as_tensor(chosen, device=a.device)]

    return (
        tuple(taken(a) if i in data.names else a for i, a in enumerate(args)),
        {n: taken(a) if n in data.names else a for n, a in kwargs.items()},
        chosen,
    )


def mean_over_data(values: np.ndarray) -> tuple[float, float]:
    """The mean over data, and its standard error over data.

    The data are independent, and so are their Monte Carlo errors: both are in it.

    Arguments:
        values: One for each datum.
    """
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)
