"""Lines made of other lines: seen through bijections, and mixed.

A density in an unconstrained coordinate does not know what x is made of y, so a transformed
distribution has its base's line and a longer chart. A mixture has as many frames as components;
where its components cross, its log density bends sharply, and the error estimate decides.
"""

from __future__ import annotations

__all__ = ["mixed"]

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import transforms

from pyro_vae.distributions import Onto
from pyro_vae.kl.charts import Affine, Chart, Exp, Inverse, Map, Sigmoid, Softplus
from pyro_vae.kl.lines import Frame, Line, line, line_of


@line(td.TransformedDistribution, dist.AffineBeta)
class _Transformed(Line):
    """The density of the base in the base's coordinate."""

    def __init__(self, base: Line, maps: Chart) -> None:
        self.base, self.maps = base, maps
        self.heavy, self.near_chart = base.heavy, base.near_chart and not maps

    @classmethod
    def of(cls, d: Any) -> Line | None:
        base, maps = line_of(d.base_dist), [_read(t) for t in d.transforms]
        known = [m for m in maps if m is not None]
        if base is None or d.event_shape or len(known) < len(maps):
            return None
        return cls(base, tuple(m for chart in known for m in chart))

    @property
    def chart(self) -> Chart:  # type: ignore[override]
        return self.base.chart + self.maps

    def log_density(self, y: Tensor) -> Tensor:
        return self.base.log_density(y)

    def log_tail(self, log_y: Tensor) -> Tensor:
        return self.base.log_tail(log_y)

    def frame(self) -> Frame:
        return self.base.frame()

    def frames(self) -> list[Frame]:
        return self.base.frames()

    def singularities(self) -> list[Frame]:
        return self.base.singularities()

    def kinks(self) -> list[Tensor]:
        return self.base.kinks()

    def mapped(self, change: Callable[[Tensor, int], Tensor]) -> Line:
        maps = tuple(m.mapped(lambda t: change(t, 0)) for m in self.maps)
        return type(self)(self.base.mapped(change), maps)


@line(td.MixtureSameFamily)
class _Mixture(Line):
    """Density sum_k w_k d_k(y), the components along the last dimension."""

    def __init__(self, log_weights: Tensor, component: Line) -> None:
        self.log_weights, self.component = log_weights, component
        self.heavy, self.chart = component.heavy, component.chart

    @classmethod
    def of(cls, d: Any) -> Line | None:
        return mixed(d.mixture_distribution, line_of(d.component_distribution))

    def log_density(self, y: Tensor) -> Tensor:
        each = self.component.log_density(y.unsqueeze(-1))
        return torch.logsumexp(each + self.log_weights, -1)

    def log_tail(self, log_y: Tensor) -> Tensor:
        return torch.logsumexp(self.component.log_tail(log_y.unsqueeze(-1)) + self.log_weights, -1)

    def frame(self) -> Frame:
        return self.frames()[0]

    def frames(self) -> list[Frame]:
        return self._each(self.component.frames())

    def singularities(self) -> list[Frame]:
        return self._each(self.component.singularities())

    def kinks(self) -> list[Tensor]:
        return [k for kink in self.component.kinks() for k in self._parts(kink)]

    def mapped(self, change: Callable[[Tensor, int], Tensor]) -> Line:
        component = self.component.mapped(lambda t, beyond: change(t, beyond + 1))
        return type(self)(change(self.log_weights, 1), component)

    def _each(self, frames: list[Frame]) -> list[Frame]:
        return [
            Frame(c, s)
            for frame in frames
            for c, s in zip(self._parts(frame.centre), self._parts(frame.scale), strict=True)
        ]

    def _parts(self, t: Tensor) -> tuple[Tensor, ...]:
        return t.expand(torch.broadcast_shapes(t.shape, self.log_weights.shape)).unbind(-1)


def mixed(weights: Any, component: Line | None) -> Line | None:
    """Return the line of a mixture.

    Arguments:
        weights: The categorical distribution of the components.
        component: The line of the components, which are the last dimension of its batch shape.

    Returns:
        The line; None if the components have none, or are mixtures themselves.

    Example:
        >>> component = line_of(td.Normal(torch.tensor([0.0, 5.0]), 1.0))
        >>> len(mixed(td.Categorical(torch.ones(2)), component).frames())
        2
    """
    if component is None or isinstance(component, _Mixture):
        return None
    if any(isinstance(m, (Affine, Inverse)) for m in component.chart):
        # components with coordinates of their own share no nodes
        return None
    return _Mixture(weights.logits.double(), component)


def _read(t: Any) -> Chart | None:
    """The maps that make up a transform, None if it is not known to be one of intervals."""
    if isinstance(t, transforms.ComposeTransform):
        parts = [_read(part) for part in t.parts]
        known = [part for part in parts if part is not None]
        return None if len(known) < len(parts) else tuple(m for part in known for m in part)
    if isinstance(t, transforms._InverseTransform):
        inner = _read(t.inv)
        return None if inner is None else tuple(Inverse(m) for m in reversed(inner))
    if isinstance(t, Onto):
        return _read(t.bijection)
    reader = _READERS.get(type(t))
    return None if reader is None or t.domain.event_dim else reader(t)


def _affine(loc: Any, scale: Any) -> Map:
    loc, scale = (torch.as_tensor(v).double() for v in (loc, scale))
    return Affine(*torch.broadcast_tensors(loc, scale))


_READERS: dict[type, Callable[[Any], Chart]] = {
    transforms.ExpTransform: lambda t: (Exp(),),
    transforms.SigmoidTransform: lambda t: (Sigmoid(),),
    transforms.SoftplusTransform: lambda t: (Softplus(),),
    transforms.AffineTransform: lambda t: (_affine(t.loc, t.scale),),
    # tanh y = 2 s(2 y) - 1
    transforms.TanhTransform: lambda t: (_affine(0.0, 2.0), Sigmoid(), _affine(-1.0, 2.0)),
    # x^k = exp(k log x)
    transforms.PowerTransform: lambda t: (Inverse(Exp()), _affine(0.0, t.exponent), Exp()),
}
