"""Normalizing flows as full Pyro distributions: the bridge from zuko.

zuko writes a flow as a bijection f from data to noise and a base density, and builds both lazily
from a context. A full distribution follows from one torch `Transform` that leads the other way,
z = T(u) = f^-1(u): `TransformedDistribution` does the rest, so that plates, masks, `to_event`,
handlers and everything that sees through transforms (the KL of two distributions that are one
flow of simpler ones is the KL of those) work as for any other distribution.

Nothing here imports zuko: a bijection is whatever has `inv` and `log_abs_det_jacobian`, and
`call_and_ladj` where both come from one pass.
"""

from __future__ import annotations

__all__ = ["Coupling", "Flow", "FlowTransform", "from_zuko"]

import math
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Independent, Transform
from torch.distributions.constraints import Constraint
from torch.distributions.utils import _sum_rightmost

from pyro_vae.distributions.spline import OnePass


class _Pass(NamedTuple):
    """Noise, draw and log |dz/du| of one pass, and when they may be used again."""

    u: Tensor
    z: Tensor
    log_jacobian: Tensor
    versions: tuple[int | None, int | None]
    with_gradient: bool

    def serves(self) -> bool:
        """Whether both are what they were, and carry a gradient if one is recorded now."""
        fresh = self.versions == (_version(self.u), _version(self.z))
        return fresh and (self.with_gradient or not torch.is_grad_enabled())


class FlowTransform(Transform):
    """z = g(reshape(f^-1(reshape(u)))), with log |dz/du|, for a bijection f^-1 of vectors.

    The last pass is remembered, by the identity of its tensors: a draw's own density needs no
    inversion and a given point's no second pass. A pass made without recording gradients is made
    again once they are recorded (`log_prob(sample())` has the gradient of its parameters), and
    so is one whose tensors were written to since.

    Two of these are equal if they have one source, which looked at no context or at one and the
    same tensor. Then two distributions carried by them have the KL of their bases.

    Arguments:
        bijection: The map from noise to data, over tensors of shape `(*batch, *native)`.
        shape: The shape of one draw.
        noise_shape: The shape of one draw of the noise; `shape` by default.
        native: The shape over which `bijection` acts; flat, `(D,)`, by default.
        outer: A map g of single elements that comes last, such as a location and a scale.
        support: Where single elements of a draw lie.
        noise_support: Where single elements of the noise lie; `support` by default.
        source: The module that made the bijection, for comparison.
        context: What it looked at, with shape `(*batch, C)`; None if at nothing.

    Example:
        >>> from torch.distributions.transforms import AffineTransform
        >>> flow = FlowTransform(AffineTransform(0.0, 2.0), (2, 3))
        >>> z = flow(torch.ones(5, 2, 3))
        >>> z.shape, flow.log_abs_det_jacobian(torch.ones(5, 2, 3), z)[0]  # 6 log 2
        (torch.Size([5, 2, 3]), tensor(4.1589))
    """

    bijective = True

    def __init__(
        self,
        bijection: Any,
        shape: tuple[int, ...],
        *,
        noise_shape: tuple[int, ...] | None = None,
        native: tuple[int, ...] | None = None,
        outer: Any = None,
        support: Constraint = constraints.real,
        noise_support: Constraint | None = None,
        source: Any = None,
        context: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.bijection, self.outer, self.source, self.context = bijection, outer, source, context
        self.shape = tuple(shape)
        self.noise_shape = self.shape if noise_shape is None else tuple(noise_shape)
        self.native = (math.prod(self.shape),) if native is None else tuple(native)
        noise = support if noise_support is None else noise_support
        self.domain = constraints.independent(noise, len(self.noise_shape))
        self.codomain = constraints.independent(support, len(self.shape))
        self._last: _Pass | None = None

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, FlowTransform)
            and self.source is not None
            and self.source is other.source
            and self.context is other.context
        )

    def __hash__(self) -> int:
        return id(self) if self.source is None else hash((id(self.source), id(self.context)))

    def __getstate__(self) -> dict[str, Any]:
        # what was remembered hangs on a graph, which cannot be copied
        return {**super().__getstate__(), "_last": None}

    def with_cache(self, cache_size: int = 1) -> FlowTransform:
        """Return this map, which remembers its last pass anyway."""
        return self

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |dy/dx|, with the batch shape of `x`."""
        last = self._last
        if last is not None and last.u is x and last.z is y and last.serves():
            return last.log_jacobian
        return self._onwards(x)[1]

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of draws, given that of noise."""
        return torch.Size([*_lead(shape, self.noise_shape), *self.shape])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Return the shape of noise, given that of draws."""
        return torch.Size([*_lead(shape, self.shape), *self.noise_shape])

    def _call(self, x: Tensor) -> Tensor:
        last = self._last
        if last is not None and last.u is x and last.serves():
            return last.z
        z, log_jacobian = self._onwards(x)
        self._remember(x, z, log_jacobian)
        return z

    def _inverse(self, y: Tensor) -> Tensor:
        last = self._last
        if last is not None and last.z is y and last.serves():
            return last.u
        u, log_jacobian = self._back(y)
        self._remember(u, y, -log_jacobian)
        return u

    def _remember(self, u: Tensor, z: Tensor, log_jacobian: Tensor) -> None:
        versions = (_version(u), _version(z))
        self._last = _Pass(u, z, log_jacobian, versions, torch.is_grad_enabled())

    def _onwards(self, u: Tensor) -> tuple[Tensor, Tensor]:
        v = _reshaped(u, self.noise_shape, self.native)
        inner, log_jacobian = self._passed(self.bijection, v)
        z = _reshaped(inner, self.native, self.shape)
        if self.outer is None:
            return z, log_jacobian
        moved = self.outer(z)
        return moved, log_jacobian + self._outer(z, moved)

    def _back(self, z: Tensor) -> tuple[Tensor, Tensor]:
        inner = z if self.outer is None else self.outer.inv(z)
        v = _reshaped(inner, self.shape, self.native)
        u, log_jacobian = self._passed(self.bijection.inv, v)
        if self.outer is not None:
            log_jacobian = log_jacobian - self._outer(inner, z)
        return _reshaped(u, self.native, self.noise_shape), log_jacobian

    def _passed(self, bijection: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value and the log Jacobian, from one pass where the bijection can."""
        together = getattr(bijection, "call_and_ladj", None)
        if together is None:
            y = bijection(x)
            log_jacobian = bijection.log_abs_det_jacobian(x, y)
        else:
            y, log_jacobian = together(x)
        return y, _sum_rightmost(log_jacobian, len(self.native) - bijection.domain.event_dim)

    def _outer(self, x: Tensor, y: Tensor) -> Tensor:
        return _sum_rightmost(self.outer.log_abs_det_jacobian(x, y), len(self.shape))


class Coupling(OnePass):
    """y_kept = x_kept, y_moved = f(x_moved; x_kept): some elements moved, given the others.

    Either way it takes one pass, and makes no tensor whose shape is read off another, so that it
    can be captured.

    Arguments:
        made: From the elements that are kept to a map of the others, with `call_and_ladj`.
        kept: The indices of the elements that are kept.
        moved: The indices of the others.
        inverted: Whether this is the map from y to x.

    References:
        Density estimation using Real NVP (L. Dinh, J. Sohl-Dickstein, S. Bengio, 2017)
    """

    domain: Any = constraints.real_vector
    codomain: Any = constraints.real_vector
    bijective = True

    def __init__(self, made: Any, kept: Tensor, moved: Tensor, *, inverted: bool = False) -> None:
        super().__init__()
        self.made, self.kept, self.moved, self.inverted = made, kept, moved, inverted

    @property
    def inv(self) -> Coupling:  # type: ignore[override]
        """The map from y to x."""
        return Coupling(self.made, self.kept, self.moved, inverted=not self.inverted)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value at x, and log |dy/dx| with its batch shape."""
        kept = x[..., self.kept]
        move = self.made(kept)
        y, log_jacobian = (move.inv if self.inverted else move).call_and_ladj(x[..., self.moved])
        kept = kept.expand(*y.shape[:-1], kept.shape[-1])
        places = torch.cat([self.kept, self.moved]).argsort()
        return torch.cat([kept, y], -1)[..., places], log_jacobian


class Flow(dist.TransformedDistribution):
    """The distribution of z = T(u), u ~ base: log p(z) = log base(T^-1(z)) - log |dT/du|.

    Arguments:
        base_dist: The distribution of the noise, with the batch shape of the flow.
        transforms: A list that holds one `FlowTransform`.

    References:
        Variational Inference with Normalizing Flows (D. J. Rezende, S. Mohamed, 2015)

    Example:
        >>> from torch.distributions.transforms import AffineTransform
        >>> noise = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> flow = Flow(noise, [FlowTransform(AffineTransform(1.0, 2.0), (2,))])
        >>> flow.log_prob(torch.ones(2))  # -log(2 pi) - 2 log 2
        tensor(-3.2242)
    """


def from_zuko(
    distribution: Any,
    *,
    shape: tuple[int, ...] | None = None,
    support: Constraint | None = None,
    source: Any = None,
    context: Tensor | None = None,
) -> Flow:
    """Return a flow of zuko as a full Pyro distribution: log p(z) = log base(f(z)) + log |df/dz|.

    Unlike `pyro.contrib.zuko.ZukoToPyro` it can be drawn from with and without gradients, masked,
    reinterpreted by `to_event` and shaped anew; a draw's own density takes no second inversion.

    Arguments:
        distribution: What a flow of zuko returns: a `NormalizingFlow`, with a `transform` from
            data to noise and a `base`.
        shape: The shape that one draw is to have; that of the flow, `(D,)`, by default.
        support: Where single elements of a draw lie; by default what the transform's domain says.
        source: The module that made the distribution, so that two of its distributions are known
            to be carried by one map.
        context: What that module looked at, None if at nothing.

    Returns:
        A distribution with the batch shape of the flow and event shape `shape`.

    Raises:
        TypeError: If the distribution is not a flow.
        ValueError: If draws cannot be given that shape.

    Example:
        >>> from types import SimpleNamespace
        >>> to_noise, noise = dist.transforms.AffineTransform(0.0, 0.5), dist.Normal(0.0, 1.0)
        >>> made = SimpleNamespace(transform=to_noise, base=noise, event_shape=())  # as zuko's
        >>> from_zuko(made).log_prob(torch.tensor(0.0))  # log N(0; 0, 2^2)
        tensor(-1.6121)
    """
    transform, base = (getattr(distribution, n, None) for n in ("transform", "base"))
    if not isinstance(transform, Transform) or base is None:
        raise TypeError(
            f"a {type(distribution).__name__} is no normalizing flow: it must have a `transform` "
            "from data to noise and a `base`, as zuko.distributions.NormalizingFlow has. Other "
            "distributions of torch need no bridge."
        )
    native = tuple(distribution.event_shape)
    shape = native if shape is None else tuple(shape)
    if math.prod(shape) != math.prod(native):
        raise ValueError(
            f"a draw of this flow has shape {native}, which cannot be given the shape {shape}."
        )
    carried = FlowTransform(
        transform.inv,
        shape,
        noise_shape=tuple(base.event_shape),
        native=native,
        support=_elements(transform.domain if support is None else support),
        noise_support=_elements(base.support),
        source=source,
        context=context,
    )
    return Flow(_plain(base), [carried])


def _plain(base: Any) -> Any:
    """Noise as torch's own classes write it, for zuko's subclasses add nothing but a name."""
    if not isinstance(base, Independent):
        return base
    return dist.Independent(base.base_dist, base.reinterpreted_batch_ndims)


def _elements(constraint: Any) -> Constraint:
    """Where single elements lie, given where vectors do."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _reshaped(x: Tensor, shape: tuple[int, ...], to: tuple[int, ...]) -> Tensor:
    return x if shape == to else x.reshape(*_lead(x.shape, shape), *to)


def _lead(shape: torch.Size, event: tuple[int, ...]) -> torch.Size:
    return shape[: len(shape) - len(event)]


def _version(t: Tensor) -> int | None:
    """How often a tensor was written to; inference tensors, which cannot tell, are None."""
    return None if t.is_inference() else t._version
