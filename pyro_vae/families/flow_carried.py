"""Flows that are brought along, and guides that are carried by the flow of a prior."""

from __future__ import annotations

__all__ = ["Flow", "Pushed"]

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.nn import Module

from pyro_vae import distributions as own
from pyro_vae.families.family import Family
from pyro_vae.families.flow_networks import NETWORKS, masked, missing
from pyro_vae.supports import lies_within, space_of


class Flow(Family):
    """Any flow of zuko as a family: log p(z) = log base(f(z)) + log |det df/dz|, z = f^-1(u).

    The flow keeps the parameters and the start that it has.

    Arguments:
        flow: A lazy flow, such as `zuko.flows.NSF(8, context=16)`.
        context: The size C of its context, 0 if it looks at nothing.
        features: The shape that one draw is to have; `(D,)` as the flow has it by default.
        support: Where single elements of a draw lie, if zuko does not say so truly
            (`pyro_vae.distributions.circular.circle` for a flow on the torus).

    Raises:
        TypeError: If `flow` is not a module that returns a flow.
        ValueError: If draws cannot be given that shape, or the flow wants another context.

    References:
        Variational Inference with Normalizing Flows (D. J. Rezende, S. Mohamed, 2015)

    Example:
        >>> from pyro_vae import families as fam
        >>> from pyro_vae.families.flow_networks import zuko_package
        >>> zuko = zuko_package()  # import zuko, without what that does to torch's validation
        >>> guide = fam.Flow(zuko.flows.NSF(4, context=16), context=16, features=(2, 2))
        >>> guide(torch.zeros(5, 16)).rsample().shape
        torch.Size([5, 2, 2])
    """

    def __init__(
        self,
        flow: Module,
        context: int = 0,
        *,
        features: int | Sequence[int] | None = None,
        support: Constraint | None = None,
    ) -> None:
        Module.__init__(self)
        if not isinstance(flow, Module):
            raise TypeError(
                "Flow wraps a lazy flow such as zuko.flows.NSF(8), which is a module, not a "
                f"{type(flow).__name__}."
            )
        self.context, self.flow = context, flow
        self.learned, self.predicted = (), ((NETWORKS,) if context else ())
        made = self._tried(support)
        self.features: tuple[int, ...] = tuple(made.event_shape)
        if features is not None:
            self.features = self._checked_features(features)
        carry = self._from(made.transforms[0].context, self.features, support).transforms[0]
        self._where: Any = carry.codomain
        self._given = support

    def _tried(self, support: Constraint | None) -> own.Flow:
        """What the flow makes of one empty context, for its shape and support."""
        like = next(iter(self.flow.parameters()), torch.zeros(()))
        context = like.new_zeros(1, self.context) if self.context else None
        try:
            with torch.no_grad():
                made = self._from(context, None, support)
                # networks are first run, and refuse a context, when they are given a point
                (carry,) = made.transforms
                carry.bijection.inv(like.new_zeros((*made.batch_shape, *carry.native)))
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"Flow: {type(self.flow).__name__} does not work with context={self.context} "
                f"({error}); give Flow the context that the flow was built with."
            ) from error
        return made

    def _from(
        self, context: Tensor | None, shape: tuple[int, ...] | None, support: Constraint | None
    ) -> own.Flow:
        made = self.flow() if context is None else self.flow(context)
        return own.from_zuko(made, shape=shape, support=support, source=self, context=context)

    @property
    def support(self) -> Constraint:
        """Where draws lie."""
        return self._where

    @classmethod
    def available(cls) -> str:
        """Return what is missing to build a flow, "" if nothing is."""
        return missing()

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """Return p(. | context), the flow of zuko as a full Pyro distribution."""
        self._check_context(context)
        return self._from(context, self.features, self._given)

    def extra_repr(self) -> str:
        """Return the features and context; the flow's networks are counted, not listed."""
        features = self.features[0] if len(self.features) == 1 else self.features
        shown = [str(features)] + ([f"context={self.context}"] if self.context else [])
        return ", ".join([*shown, f"flow={type(self.flow).__name__}"])

    def __repr__(self) -> str:
        # zuko draws from torch's global generator when its layers are printed
        return f"{type(self).__name__}({self.extra_repr()})"

    def silent(self) -> dict[str, Tensor]:
        """Return the weights between features that may not see one another, which stay unused."""
        return masked(self)


class Pushed(Family):
    """A guide carried by the flow of a prior: z = T(u), u ~ family(context), p(z) = T(noise).

    The KL to the prior is that of the bases, exact if `family` and the noise have one:
    KL(q || p) = KL(family(context) || N(0, I)) for a prior on the line. What the flow learns it
    learns through the draws; its parameters are the prior's, and stay there.

    Arguments:
        family: A family of the noise: on the line for a flow on the line, on the circle for one
            on the torus, with the prior's features.
        through: The prior, a flow that looks at no context.

    Raises:
        TypeError: If `family` is not a family, or `through` not a flow.
        ValueError: If the prior looks at a context, or family and noise do not match.

    Example:
        >>> from pyro_vae import families as fam, kl
        >>> prior = fam.NSF(2, learnable=True)
        >>> guide = fam.Pushed(fam.Normal(2, context=8), through=prior)
        >>> q = guide(torch.zeros(5, 8))
        >>> kl.route(q, prior()).kind, kl.divergence(q, prior())[0].item()
        ('closed', 0.0)
    """

    def __init__(self, family: Family, through: Flow) -> None:
        Module.__init__(self)
        if not isinstance(family, Family):
            raise TypeError(
                "Pushed carries a family such as fam.Normal(8, context=128), not a "
                f"{type(family).__name__}."
            )
        if not isinstance(through, Flow):
            raise TypeError(
                f"Pushed carries a family through a flow, such as fam.NSF(8, learnable=True), "
                f"not through a {type(through).__name__}."
            )
        if through.context:
            raise ValueError(
                f"Pushed needs a flow that looks at no context, but this {type(through).__name__} "
                f"was built with context={through.context}."
            )
        noise = through().base_dist
        shapes = tuple(family.event_shape), tuple(noise.event_shape)
        if shapes[0] != shapes[1] or not lies_within(family.support, noise.support):
            raise ValueError(
                f"the flow {type(through).__name__} carries noise on the "
                f"{space_of(noise.support).name} with shape {shapes[1]}, but draws of "
                f"{type(family).__name__} lie on the {space_of(family.support).name} and have "
                f"shape {shapes[0]}."
            )
        self.base, self.context, self.features = family, family.context, through.features
        self.learned, self.predicted = family.learned, family.predicted
        # no child of this module, for its parameters are the prior's
        self._through = (through,)

    @property
    def support(self) -> Constraint:
        """Where draws lie, that of the prior."""
        return self._through[0].support

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """Return the law of T(u) for u ~ family(context)."""
        return own.Flow(self.base(context), self._through[0]().transforms)

    def extra_repr(self) -> str:
        """Return what the base is carried through; the base is shown as a submodule."""
        return f"through={type(self._through[0]).__name__}"
