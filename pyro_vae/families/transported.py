"""Any real-line family, carried onto the support of a prior.

A guide on the real line has mass where a Beta or Dirichlet prior has none. The bijection T
from the real line onto the prior's support mends this: z = T(y) has density
q(z) = q_Y(T^-1(z)) |dT^-1/dz|, which lies where the prior lives, whatever the prior is: on
intervals, simplices, spheres, circles, hyperbolic space and products of these.
"""

from __future__ import annotations

__all__ = ["Transported"]

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.constraints import Constraint
from torch.nn import Module

from pyro_vae.distributions import onto
from pyro_vae.families.family import Family, fitting, register
from pyro_vae.families.interval import Beta
from pyro_vae.families.real import Normal
from pyro_vae.supports import Space, space_of


@register
class Transported(Family):
    """A real-line family pushed onto the support of a prior: z = T(y), y ~ base.

    T is `distributions.onto(support)`. On the real line it is the identity and the base itself is
    returned, so its closed-form KLs stay within reach. Spheres and hyperbolic space are reached
    from (1, 0, ..., 0), along geodesics; a sphere misses the antipode of it, a circle the point
    pi. Densities are by surface area there.

    Arguments:
        family: A family on the real line, with or without context. Its features are those of
            the prior, but K - 1 for a simplex of K parts (the bijection is stick-breaking) and
            m - 1 for a sphere or hyperboloid in R^m (`Transported.base_shape` tells).
        to: A family (the prior), a Pyro distribution, or a constraint, whose support is meant.

    Raises:
        TypeError: If `family` is not a family, or `to` has no support.
        ValueError: If `family` does not live on the real line, if no bijection leads from the
            line to the support, or if the shapes do not match.

    Example:
        >>> import torch
        >>> prior = Beta(8, concentration1=2.0)
        >>> guide = Transported(Normal(8, context=16), to=prior)
        >>> z = guide(torch.zeros(5, 16)).sample()
        >>> z.shape, bool(((0 < z) & (z < 1)).all())
        (torch.Size([5, 8]), True)
    """

    def __init__(self, family: Family, to: Family | TorchDistribution | Constraint) -> None:
        Module.__init__(self)
        if not isinstance(family, Family):
            raise TypeError(
                "Transported carries a family such as fam.Normal(8, context=128), "
                f"not a {type(family).__name__}."
            )
        if space_of(family.support) != Space("real"):
            raise ValueError(
                f"{type(family).__name__} lives on the {space_of(family.support).name}; only a "
                "family on the real line can be carried elsewhere."
            )
        self.base, self.context = family, family.context
        self.transform = _transform(to, len(family.event_shape))
        self.features = tuple(self.transform.forward_shape(family.event_shape))
        self.learned, self.predicted = family.learned, family.predicted
        wanted = getattr(to, "event_shape", None)
        if wanted is not None and tuple(wanted) != self.features:
            raise ValueError(
                f"draws of {type(family).__name__}{family.features} carried to the support of "
                f"{type(to).__name__} have shape {self.features}, but the prior's have "
                f"{tuple(wanted)}; give the base family features="
                f"{tuple(self.transform.inverse_shape(tuple(wanted)))}."
            )

    @property
    def support(self) -> Constraint:
        """The support carried to, over the shape of one draw."""
        return self.base.support if _is_identity(self.transform) else self.transform.codomain

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """Return the law of T(y) for y ~ base(context)."""
        base = self.base(context)
        if _is_identity(self.transform):
            return base
        # the cache lets log_prob of a draw find the y it came from, exactly
        return dist.TransformedDistribution(base, [self.transform.with_cache(1)])

    @classmethod
    def example(
        cls, features: int | tuple[int, ...] = 3, context: int = 0, *, learnable: bool = False
    ) -> Transported:
        """Return a Normal carried onto the unit interval."""
        return cls(Normal(features, context, learnable=learnable), to=Beta(features))

    @classmethod
    def fits(cls, support: Constraint) -> bool:
        """Say whether a bijection leads from the real line onto `support`."""
        try:
            return not space_of(support).is_discrete and onto(support) is not None
        except NotImplementedError:
            return False

    @staticmethod
    def base_shape(to: Family | TorchDistribution) -> tuple[int, ...]:
        """Return the features that a family on the real line needs to be carried to a prior.

        Arguments:
            to: The prior, a family or a distribution.

        Raises:
            ValueError: If no bijection leads there.

        Example:
            >>> from pyro_vae import families as fam
            >>> Transported.base_shape(fam.VonMisesFisher((4, 3)))
            (4, 2)
        """
        shape = tuple(to.event_shape)
        return tuple(_transform(to, len(shape)).inverse_shape(torch.Size(shape)))

    def extra_repr(self) -> str:
        """Return the space carried to; the base is shown as a submodule."""
        return f"to={space_of(self.support).name}"


def _transform(to: Family | TorchDistribution | Constraint, event_dim: int) -> Transform:
    support: Any = to if isinstance(to, Constraint) else getattr(to, "support", None)
    if not isinstance(support, Constraint):
        raise TypeError(
            f"to= must be a family, a distribution or a constraint, not a {type(to).__name__}."
        )
    if not Transported.fits(support):
        raise ValueError(_no_way(support))
    if support.event_dim < event_dim:
        support = dist.constraints.independent(support, event_dim - support.event_dim)
    return onto(support)


def _no_way(support: Constraint) -> str:
    space = space_of(support)
    name = repr(support) if space.kind == "unknown" else f"the {space.name}"
    message = f"no bijection leads from the real line onto {name}; use a guide that lives there"
    if not space.is_discrete:
        return f"{message}."
    fit = ", ".join(f"fam.{name}" for name in fitting(support))
    return (
        f"{message} ({fit or 'none on the shelf'}), which is enumerated or straight-through, or "
        "relax the prior and the guide both (fam.RelaxedBernoulli, fam.RelaxedOneHotCategorical)."
    )


def _is_identity(transform: Transform) -> bool:
    return space_of(transform.codomain) == Space("real")
