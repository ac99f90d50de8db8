"""Blocks of different distributions side by side in one event.

z = (z_1, ..., z_B) with independent z_b has log p(z) = sum_b log p_b(z_b). Blocks are joined
along the last dimension where their shapes agree in all others, e.g. (2, 4, 1) and (2, 4, 3) to
(2, 4, 4); else each is flattened first, and z is a vector.
"""

from __future__ import annotations

__all__ = ["Blocks", "Blockwise", "Product"]

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions import Transform, biject_to, transform_to
from torch.distributions.constraints import Constraint

Shape = tuple[int, ...]


class _Layout:
    """Where blocks lie in an event.

    Arguments:
        shapes: The shapes of one draw of each block.
        flat: Whether they are flattened although their shapes agree.
    """

    def __init__(self, shapes: Sequence[Shape], flat: bool = False) -> None:
        self.shapes = tuple(tuple(shape) for shape in shapes)
        outer = {shape[:-1] for shape in self.shapes}
        self.flat = flat or len(outer) > 1 or any(not shape for shape in self.shapes)
        self.outer: Shape = () if self.flat else outer.pop()
        self.lengths = tuple(math.prod(s) if self.flat else s[-1] for s in self.shapes)

    @property
    def event(self) -> Shape:
        """The shape of one draw."""
        return (*self.outer, sum(self.lengths))

    def split(self, value: Tensor) -> list[Tensor]:
        """Take events apart into draws of the blocks."""
        pieces = value.split(self.lengths, -1)
        if not self.flat:
            return list(pieces)
        return [t.reshape(t.shape[:-1] + s) for t, s in zip(pieces, self.shapes, strict=True)]

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        """Put draws of the blocks, of shape `(*batch, *shape)`, side by side."""
        if self.flat:
            pieces = [
                t.reshape(t.shape[: t.dim() - len(s)] + (n,))
                for t, s, n in zip(pieces, self.shapes, self.lengths, strict=True)
            ]
        return torch.cat(list(pieces), -1)


class Blocks(Constraint):
    """Constraints on blocks that lie side by side.

    Arguments:
        blocks: The constraint of each, on one draw of it.
        shapes: The shape of one draw of each.

    Example:
        >>> halves = Blocks([constraints.real_vector, constraints.simplex], [(1,), (2,)])
        >>> halves.check(torch.tensor([[-3.0, 0.5, 0.5], [0.0, 1.0, 1.0]]))
        tensor([ True, False])
    """

    space_kind = "product"

    def __init__(self, blocks: Sequence[Constraint], shapes: Sequence[Shape]) -> None:
        self.layout = _Layout(shapes)
        self.blocks = tuple(
            _of_events(block, len(shape)) for block, shape in zip(blocks, shapes, strict=True)
        )

    @property
    def lengths(self) -> Shape:
        """How long each block is along the last dimension of an event."""
        return self.layout.lengths

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of one draw of each block."""
        return self.layout.shapes

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """The number of dimensions of an event."""
        return len(self.layout.event)

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        """Whether a block is."""
        return any(block.is_discrete for block in self.blocks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Blocks):
            return False
        return other.shapes == self.shapes and other.blocks == self.blocks

    def __hash__(self) -> int:
        return hash((Blocks, self.shapes))

    def __repr__(self) -> str:
        return f"Blocks({', '.join(map(repr, self.blocks))})"

    def check(self, value: Tensor) -> Tensor:
        """Say of each event whether all of its blocks lie where they should."""
        pieces = zip(self.blocks, self.layout.split(value), strict=True)
        checks = [block.check(piece) for block, piece in pieces]
        return torch.stack(torch.broadcast_tensors(*checks)).all(0)


def _of_events(constraint: Constraint, dims: int) -> Constraint:
    """The constraint on events of `dims` dimensions."""
    missing = dims - constraint.event_dim
    return constraints.independent(constraint, missing) if missing else constraint


class Blockwise(Transform):
    """Maps of blocks that lie side by side, each of its own.

    Arguments:
        maps: The map of each block.
        codomain: Where they lead.
        cache_size: 1 to remember the last pair of argument and value.

    Example:
        >>> to = Blocks([constraints.positive, constraints.simplex], [(1,), (3,)])
        >>> biject_to(to)(torch.zeros(3))
        tensor([1.0000, 0.3333, 0.3333, 0.3333])
    """

    codomain: Blocks  # type: ignore[assignment]

    def __init__(self, maps: Sequence[Transform], codomain: Blocks, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.maps, self.codomain = tuple(maps), codomain
        shapes = zip(self.maps, codomain.shapes, strict=True)
        inverse: list[Shape] = [tuple(t.inverse_shape(Size(s))) for t, s in shapes]
        self.inner = _Layout(inverse, codomain.layout.flat)
        self.domain = constraints.independent(constraints.real, len(self.inner.event))
        self.bijective = all(t.bijective for t in self.maps)  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Blockwise):
            return False
        return other.codomain == self.codomain and other.maps == self.maps

    def __hash__(self) -> int:
        return hash((Blockwise, self.codomain))

    def with_cache(self, cache_size: int = 1) -> Blockwise:
        """Return the same map with another cache."""
        return Blockwise(self.maps, self.codomain, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        pieces: Any = zip(self.maps, self.inner.split(x), strict=True)
        return self.codomain.layout.join([t(piece) for t, piece in pieces])

    def _inverse(self, y: Tensor) -> Tensor:
        pieces: Any = zip(self.maps, self.codomain.layout.split(y), strict=True)
        return self.inner.join([t.inv(piece) for t, piece in pieces])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det|, the sum of those of the blocks, over all dimensions of an event."""
        total: Any = 0.0
        pieces = (self.maps, self.inner.split(x), self.codomain.layout.split(y))
        for t, a, b, shape in zip(*pieces, self.codomain.shapes, strict=True):
            found = t.log_abs_det_jacobian(a, b)
            left = found.dim() - (b.dim() - len(shape))
            total = total + (found.sum(tuple(range(-left, 0))) if left else found)
        return total

    def forward_shape(self, shape: Any) -> Any:
        """Return the shape of values, given that of arguments."""
        return Size([*shape[: len(shape) - len(self.inner.event)], *self.codomain.layout.event])

    def inverse_shape(self, shape: Any) -> Any:
        """Return the shape of arguments, given that of values."""
        return Size([*shape[: len(shape) - self.codomain.event_dim], *self.inner.event])


@biject_to.register(Blocks)
def _onto(constraint: Blocks) -> Transform:
    return Blockwise([biject_to(block) for block in constraint.blocks], constraint)


@transform_to.register(Blocks)
def _into(constraint: Blocks) -> Transform:
    return Blockwise([transform_to(block) for block in constraint.blocks], constraint)


class Product(TorchDistribution):
    r"""Independent blocks side by side: log p(z) = sum_b log p_b(z_b), z = (z_1, ..., z_B).

    Arguments:
        blocks: Distributions of z_1, ..., z_B, whose batch shapes broadcast. Draws are joined
            along the last dimension where the event shapes agree in all others, else they are
            flattened first.

    Raises:
        ValueError: If there is no block, if batch shapes do not broadcast, or if a block is
            discrete (masses and densities do not mix in one draw).

    Example:
        >>> import pyro.distributions as dist
        >>> real = dist.Normal(torch.zeros(7, 2), 1.0).to_event(1)
        >>> d = Product([real, dist.Gamma(torch.ones(3), 1.0).to_event(1)])
        >>> d.batch_shape, d.event_shape, d.has_rsample
        (torch.Size([7]), torch.Size([5]), True)
        >>> d.log_prob(d.sample()).shape
        torch.Size([7])
    """

    arg_constraints: Any = {}

    def __init__(
        self, blocks: Sequence[TorchDistribution], validate_args: bool | None = None
    ) -> None:
        blocks = tuple(blocks)
        if not blocks:
            raise ValueError("a Product needs at least one block.")
        for block in blocks:
            if block.support.is_discrete:  # type: ignore[union-attr]
                raise ValueError(
                    f"a Product has a density, and {type(block).__name__} is discrete; draw it at "
                    "a site of its own."
                )
        try:
            batch = torch.broadcast_shapes(*(b.batch_shape for b in blocks))
        except RuntimeError:
            shapes = ", ".join(str(tuple(b.batch_shape)) for b in blocks)
            raise ValueError(
                f"the batch shapes of the blocks, {shapes}, do not broadcast."
            ) from None
        self.blocks = tuple(b if b.batch_shape == batch else b.expand(batch) for b in blocks)
        self.layout = _Layout([tuple(b.event_shape) for b in blocks])
        self._drawn: tuple[Tensor, list[Tensor]] | None = None
        super().__init__(batch, Size(self.layout.event), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether all blocks are reparameterised."""
        return all(block.has_rsample for block in self.blocks)

    @property
    def support(self) -> Any:
        """Where each block lives."""
        return Blocks([b.support for b in self.blocks], self.layout.shapes)  # type: ignore[misc]

    def expand(self, batch_shape: Any, _instance: Product | None = None) -> Any:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(Product, _instance)
        new.blocks = tuple(block.expand(Size(batch_shape)) for block in self.blocks)
        new.layout, new._drawn = self.layout, None
        super(Product, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, with shape `sample_shape + batch_shape + event_shape`."""
        return self._joined([block.rsample(Size(sample_shape)) for block in self.blocks])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws without gradient."""
        with torch.no_grad():
            return self._joined([block.sample(Size(sample_shape)) for block in self.blocks])

    def _joined(self, pieces: list[Tensor]) -> Tensor:
        z = self.layout.join(pieces)
        # a block may know more of its own draw than the draw says
        self._drawn = z, pieces
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        own = self._drawn is not None and self._drawn[0] is value
        pieces = self._drawn[1] if own and self._drawn else self.layout.split(value)
        terms = [block.log_prob(t) for block, t in zip(self.blocks, pieces, strict=True)]
        return functools.reduce(torch.add, terms)

    @property
    def mean(self) -> Tensor:
        """E z, of shape `batch_shape + event_shape`; NotImplementedError where not known."""
        return self._stated("mean", lambda block: block.mean)

    @property
    def variance(self) -> Tensor:
        """The variance of each element; NotImplementedError if a block states none."""
        return self._stated("variance", lambda block: block.variance)

    def _stated(self, what: str, of: Callable[[Any], Tensor]) -> Tensor:
        return self.layout.join([_known(what, of, block) for block in self.blocks])

    def entropy(self) -> Tensor:
        """The sum of the blocks' entropies in nats; NotImplementedError if one states none."""
        found = [_known("entropy", lambda b: b.entropy(), block) for block in self.blocks]
        return torch.stack(found).sum(0)

    def cuts(self) -> list[tuple[int, int]]:
        """Return where each block begins and ends along the last dimension of an event."""
        ends = [0, *itertools.accumulate(self.layout.lengths)]
        return list(itertools.pairwise(ends))

    def __repr__(self) -> str:
        return f"Product({', '.join(map(repr, self.blocks))})"


def _known(what: str, of: Callable[[Any], Tensor], block: Any) -> Tensor:
    try:
        return of(block)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"{_name(block)}, a block of a Product, states no {what}."
        ) from error


def _name(block: Any) -> str:
    while isinstance(block, torch.distributions.Independent):
        block = block.base_dist
    return type(block).__name__
