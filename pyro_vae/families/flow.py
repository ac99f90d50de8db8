"""Normalizing flows: NSF, MAF and RealNVP on the line, NCSF on the torus.

A flow is a base density carried by an invertible network: z = loc + scale * T(u), u ~ N(0, I), on
the line, and a rotation of T(u), u uniform, on the torus. With a context both T and the location
and scale follow it (an amortized guide, which holds the amortized Normal and starts as one);
`learnable=True` trains them as constants (a prior). A flow starts as the standard member, N(0, I)
or the uniform distribution: the last layer of its networks is zero.

An autoregressive flow has a fast direction, of one pass, and a slow one, of as many passes as
there are features. A guide is drawn from and scored at its own draws, a prior is scored at draws
of others, so `inverse` makes draws fast where there is a context and densities where there is
none. In the other direction a step (three layers of 64 and 64 units, 128 data, one core) takes 7
(NSF) to 10 (MAF) times as long at 8 features, and 40 to 80 times at 32. Path-only gradients
(`TraceSTL_ELBO`, DReG) and some diagnostics score a guide at given points, the slow direction of
an inverse flow: there `passes=2` takes an eighth of the time at 32 features, and RealNVP less.

The networks are zuko's, which is needed to build a flow and not to import this module.
"""

from __future__ import annotations

__all__ = ["MAF", "NCSF", "NSF", "RealNVP"]

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import AffineTransform
from torch.nn import Module

from pyro_vae import distributions as own
from pyro_vae.distributions.circular import Rotation, circle
from pyro_vae.families.family import Family, register
from pyro_vae.families.flow_carried import Flow
from pyro_vae.families.flow_networks import (
    NETWORKS,
    Halves,
    Periodic,
    checked_settings,
    freeze,
    options,
    silence,
    split,
    zuko_package,
)
from pyro_vae.families.parameters import Parameter
from pyro_vae.registry import nearest


class _Standard(Flow):
    """A flow with the uniform constructor, which begins as the standard member."""

    elements: ClassVar[Constraint] = constraints.real
    settings: ClassVar[Mapping[str, Any]] = {"transforms": 3, "hidden_features": (64, 64)}
    example_settings: ClassVar[Mapping[str, Any]] = {"transforms": 2, "hidden_features": 8}

    def __init__(
        self,
        features: int | Sequence[int],
        context: int = 0,
        *,
        learnable: bool | Iterable[str] = False,
        predict: Iterable[str] = (),
        **parameters: Any,
    ) -> None:
        zuko = zuko_package()
        name = type(self).__name__
        given = {n: parameters.pop(n, default) for n, default in self.settings.items()}
        self._set = checked_settings(name, given, bool(context))
        named, networks = split(learnable)
        Family.__init__(self, features, context, learnable=named, predict=predict, **parameters)
        self.trains_networks = networks or context > 0
        self.flow = self._networks(zuko, math.prod(self.features))
        silence(self.flow)
        if not self.trains_networks:
            freeze(self.flow)

    # ------------------------------------------------------------------ what a flow is

    @property
    def support(self) -> Constraint:
        """Where draws lie."""
        return constraints.independent(self.elements, len(self.features))

    @classmethod
    def where(cls) -> Constraint:
        """Return the support of the members; zuko is not asked."""
        return constraints.independent(cls.elements, 1)

    @classmethod
    def example(
        cls, features: int | tuple[int, ...] = 3, context: int = 0, *, learnable: bool = False
    ) -> Family:
        """Return a member with small networks."""
        return cls(features, context, learnable=learnable, **cls.example_settings)

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """Return p(. | context).

        Arguments:
            context: None for a family with `context=0`, otherwise with shape `(*batch, C)`.

        Returns:
            A `distributions.Flow` with batch shape `batch` (empty without context).

        Raises:
            ValueError: If a context is missing, unexpected, or of the wrong size.
        """
        return self._carried_by(self.values(context), self, context)

    def distribution(self, **parameters: Tensor) -> TorchDistribution:
        """Return the flow without context with these parameters, each of shape `features`."""
        return self._carried_by(parameters, None, None)

    def _carried_by(
        self, values: Mapping[str, Tensor], source: Any, context: Tensor | None
    ) -> own.Flow:
        direct = self.flow(context)
        bijection = direct if self._set.get("inverse") else direct.inv
        loc = values["loc"]
        lead = loc.shape[: loc.dim() - len(self.features)]
        shape = (*(lead if context is None else context.shape[:-1]), *self.features)
        carried = own.FlowTransform(
            bijection,
            self.features,
            outer=self._outer(**values),
            support=self.elements,
            source=source,
            context=context,
        )
        return own.Flow(self._noise(loc, shape).to_event(len(self.features)), [carried])

    def _noise(self, like: Tensor, shape: tuple[int, ...]) -> TorchDistribution:
        """The base density, over single elements."""
        return dist.Normal(like.new_zeros(shape), like.new_ones(shape))

    def _outer(self, loc: Tensor, scale: Tensor) -> Transform:
        """The map that comes last."""
        return AffineTransform(loc, scale)

    def _networks(self, zuko: Any, size: int) -> Module:
        """The lazy transform, from data to noise, of vectors of this size."""
        raise NotImplementedError(f"{type(self).__name__} must define _networks().")

    # ------------------------------------------------------------------ parameters and names

    def _predict(self, context: Tensor) -> dict[str, Tensor]:
        return super()._predict(context) if self.predicted else {}

    def _predicted(
        self, extra: Sequence[str], given: Mapping[str, Any], learned: Sequence[str]
    ) -> list[str]:
        if self.context and not extra and set(self.spec) <= {*given, *learned}:
            return []  # the networks look at the context all the same
        return super()._predicted(extra, given, learned)

    def _check_names(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.spec:
                raise TypeError(
                    f"{type(self).__name__} has no parameter {name!r}. "
                    f"{nearest(name, [*self.spec, *self.settings])}"
                )

    def extra_repr(self) -> str:
        """Return the features, the sizes of the networks, and the state of what there is."""
        features = self.features[0] if len(self.features) == 1 else self.features
        shown = [str(features)] + ([f"context={self.context}"] if self.context else [])
        shown += [f"{name}={value}" for name, value in self._set.items() if value is not None]
        networks = (NETWORKS,) if self.trains_networks else ()
        learned = self.learned + (() if self.context else networks)
        shown += [f"learnable={learned}"] if learned else []
        shown += [f"predicted={self.predicted + networks}"] if self.context else []
        return ", ".join(shown)


_ON_THE_LINE = {
    "loc": Parameter(constraints.real, 0.0),
    "scale": Parameter(constraints.positive, 1.0),
}
_AUTOREGRESSIVE = {**_Standard.settings, "passes": None, "inverse": None}
_SPLINES = {**_Standard.settings, "bins": 8, "passes": None, "inverse": None}


@register
class NSF(_Standard):
    """Neural spline flow: z = loc + scale * T(u), T autoregressive, monotone splines on [-5, 5].

    Outside the box a spline is the identity, so that the tails are those of a Normal.

    Arguments:
        features: The shape of one draw, of D elements in all.
        context: The size C of the context, which the splines, `loc` and `scale` follow.
        learnable: True to train networks, `loc` and `scale`; or some of "flow" (the networks),
            "loc", "scale".
        transforms: The number of layers, in alternating order of the features.
        hidden_features: Widths of the hidden layers of each network, a number or a tuple.
        bins: Pieces of each spline.
        passes: None for an autoregressive flow, in which each feature sees all before it, and
            whose slow direction takes D passes; 2 for a coupling of two halves, which has no
            slow direction; or between them.
        inverse: Whether draws take one pass and densities of given points `passes` (right for a
            guide), or the reverse (right for a prior). None: True with a context.
        **parameters: Values of `loc` and `scale` that stay fixed.

    References:
        Neural Spline Flows (C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, 2019)

    Example:
        >>> guide = NSF(2, context=8)
        >>> guide(torch.zeros(5, 8)).rsample().shape
        torch.Size([5, 2])
    """

    spec = _ON_THE_LINE
    settings = _SPLINES
    example_settings = {"transforms": 2, "hidden_features": 8, "bins": 4}

    def _networks(self, zuko: Any, size: int) -> Module:
        return _autoregressive(self, zuko, size, own.Spline, (0, 0, -1))


@register
class MAF(_Standard):
    """Masked autoregressive flow: z = loc + scale * T(u), T_i(u) = m_i(z_<i) + s_i(z_<i) u_i.

    With `inverse` it is the inverse autoregressive flow, m_i and s_i functions of u_<i, whose
    draws take one pass.

    Arguments:
        features: The shape of one draw, of D elements in all.
        context: The size C of the context, which m, s, `loc` and `scale` follow.
        learnable: True to train networks, `loc` and `scale`; or some of "flow" (the networks),
            "loc", "scale".
        transforms: The number of layers, in alternating order of the features.
        hidden_features: Widths of the hidden layers of each network, a number or a tuple.
        passes: None for an autoregressive flow, 2 for a coupling of two halves; see `NSF`.
        inverse: Whether draws take one pass (right for a guide), or densities of given points do
            (right for a prior). None: True with a context.
        **parameters: Values of `loc` and `scale` that stay fixed.

    References:
        Masked Autoregressive Flow for Density Estimation (G. Papamakarios, T. Pavlakou,
        I. Murray, 2017);
        Improved Variational Inference with Inverse Autoregressive Flow (D. P. Kingma,
        T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling, 2016)

    Example:
        >>> prior = MAF(2, learnable=True)
        >>> round(prior().log_prob(torch.zeros(2)).item(), 4)  # it starts as N(0, I)
        -1.8379
    """

    spec = _ON_THE_LINE
    settings = _AUTOREGRESSIVE

    def _networks(self, zuko: Any, size: int) -> Module:
        return zuko.flows.MAF(size, self.context, **options(self._set)).transform


@register
class RealNVP(_Standard):
    """Affine coupling flow: z = loc + scale * T(u), every second feature moved given the others.

    Draws and densities both take one pass. A single feature has no other to see, and T is then
    affine.

    Arguments:
        features: The shape of one draw, of D elements in all.
        context: The size C of the context, which T, `loc` and `scale` follow.
        learnable: True to train networks, `loc` and `scale`; or some of "flow" (the networks),
            "loc", "scale".
        transforms: The number of layers, in which even and odd features are moved by turns.
        hidden_features: Widths of the hidden layers of each network, a number or a tuple.
        **parameters: Values of `loc` and `scale` that stay fixed.

    References:
        Density estimation using Real NVP (L. Dinh, J. Sohl-Dickstein, S. Bengio, 2017)

    Example:
        >>> RealNVP(2, transforms=4, hidden_features=32)
        RealNVP(2, transforms=4, hidden_features=(32,))
    """

    spec = _ON_THE_LINE

    def _networks(self, zuko: Any, size: int) -> Module:
        made = zuko.flows.RealNVP(size, self.context, **options(self._set)).transform
        for i, layer in enumerate(made.transforms):
            if hasattr(layer, "mask"):
                made.transforms[i] = Halves(layer)
        return made


@register
class NCSF(_Standard):
    """Neural circular spline flow on the torus: z = loc + T(u) mod 2 pi, u uniform.

    Networks see an angle as its cosine and sine, so that no density jumps where the circle is
    cut; whatever reads z should do the same (`pyro_vae.families.circle`).

    Arguments:
        features: The shape of one draw, of D angles in all.
        context: The size C of the context, which the splines and the rotation `loc` follow.
        learnable: True to train networks and `loc`; or one of "flow" (the networks), "loc".
        transforms: The number of layers, in alternating order of the features.
        hidden_features: Widths of the hidden layers of each network, a number or a tuple.
        bins: Pieces of each spline.
        passes: None for an autoregressive flow, 2 for a coupling of two halves; see `NSF`.
        inverse: Whether draws take one pass (right for a guide), or densities of given points do
            (right for a prior). None: True with a context.
        **parameters: The value of `loc`, if it is to stay fixed.

    References:
        Normalizing Flows on Tori and Spheres (D. J. Rezende and others, 2020)

    Example:
        >>> NCSF(2)().log_prob(torch.zeros(2)).item()  # it starts uniform: -2 log(2 pi)
        -3.675...
    """

    spec = {"loc": Parameter(circle, 0.0)}
    elements = circle
    settings = _SPLINES
    example_settings = {"transforms": 2, "hidden_features": 8, "bins": 4}

    def _networks(self, zuko: Any, size: int) -> Module:
        made = _autoregressive(self, zuko, size, own.CircularSpline, (0, 0, 0))
        for layer in made.transforms:
            if hasattr(layer, "order"):
                before = layer.order[:, None] > layer.order
                seen = torch.ones(size, self.context, dtype=torch.bool)
                allowed = torch.cat([before, before, seen], 1)
                allowed = allowed.repeat_interleave(layer.total, 0)
                widths = self._set["hidden_features"]
                layer.hyper = Periodic(size, zuko.nn.MaskedMLP(allowed, widths, nn.SiLU))
        return made

    def _noise(self, like: Tensor, shape: tuple[int, ...]) -> TorchDistribution:
        return own.CircularUniform(shape, like)

    def _outer(self, loc: Tensor) -> Transform:
        return Rotation(loc)


def _autoregressive(
    family: _Standard, zuko: Any, size: int, spline: Any, more: tuple[int, int, int]
) -> Any:
    """Layers of splines, whose widths, heights and derivatives are so many more than `bins`."""
    settings = options(family._set)
    bins = settings.pop("bins")
    shapes = [(bins + extra,) for extra in more]
    made = zuko.flows.MAF(size, family.context, univariate=spline, shapes=shapes, **settings)
    return made.transform
