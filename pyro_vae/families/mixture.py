"""Mixtures of any family: the densest shelf there is, for a prior that is learned."""

from __future__ import annotations

__all__ = ["Mixture"]

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyro_vae.distributions import MixtureSameFamily
from pyro_vae.families.family import Family, Role, register
from pyro_vae.families.parameters import Parameter
from pyro_vae.families.real import Normal

SPREAD = 0.2
"""How far components start from the standard member, at most, in unconstrained coordinates."""

_WEIGHTS = Parameter(
    constraints.simplex,
    1.0,
    shape=lambda family: (family.components,),
    pattern=lambda shape: torch.full(shape, 1 / shape[-1]),
)


@register
class Mixture(Family):
    """A mixture of K members of a family: log p(z) = log sum_k w_k f(z; theta_k).

    A component has the density of the whole event, and a draw comes from one of them: features
    are dependent even where those of a component are not. (A mixture of each feature on its own
    is another law, and a wrong one where clusters are meant.)

    `components` is K, `family` the class of the components, of any space. Parameters are those of
    the family with K in front, `(K, *shape)`, and `weights` of shape `(K,)`; what is given is
    broadcast, so that `loc=torch.randn(K, 8)` starts or places the components. A structural
    parameter that is one number for all features (the ends of an interval, the df of
    `MultivariateStudentT`) is one for all components. Options of the family (`categories=`,
    `rank=`) are passed on.

    The standard member has equal weights, and components about the standard member of the family,
    set apart by fixed numbers of at most 0.2 in unconstrained coordinates: components that were
    alike would have the same gradient, and stay so.

    A prior, and a likelihood (a mixture density network); no guide, since the choice of a
    component is not reparameterised.

    Arguments:
        features: As for the family.
        context: As for every family.
        family: The class of the components.
        learnable: As for every family; `weights` are trained as well.
        predict: As for every family.
        **parameters: `components`, options of the family, and values of parameters.

    Raises:
        TypeError: If `family` is not a family that is described by its parameters, or a name is
            unknown.
        ValueError: If there is no component, if all components are alike for want of parameters,
            if a trained weight starts at 0, or for the reasons of every family.

    References:
        Mixture density networks (C. M. Bishop, 1994)

    Example:
        >>> prior = Mixture(2, components=2, loc=[[-3.0, -3.0], [3.0, 3.0]])
        >>> prior().log_prob(torch.tensor([[3.0, 3.0], [3.0, -3.0]])).exp()[1] < 1e-6
        tensor(True)
        >>> Mixture(8, components=10, learnable=True).learned
        ('weights', 'loc', 'scale')
    """

    roles: ClassVar[frozenset[Role]] = frozenset({"prior", "likelihood"})
    spec = {"weights": _WEIGHTS, **Normal.spec}
    options = ("components",)
    example_options = {"components": 3}

    components: int

    def __init__(
        self,
        features: int | Sequence[int],
        context: int = 0,
        *,
        family: type[Family] = Normal,
        learnable: bool | Iterable[str] = False,
        predict: Iterable[str] = (),
        **parameters: Any,
    ) -> None:
        _check_family(family)
        passed = {name: parameters.pop(name) for name in family.options if name in parameters}
        # not a submodule: what it holds are standard values, no parameters of this module
        self._component = (family(features, **passed),)
        self.spec = {"weights": _WEIGHTS, **self._component[0].spec}
        if parameters.get("components") == 0:
            raise ValueError("Mixture: components must be at least 1, not 0.")
        super().__init__(features, context, learnable=learnable, predict=predict, **parameters)
        self._check_ends()

    @property
    def component(self) -> Family:
        """The standard member of the family of the components."""
        return self._component[0]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one draw, that of a component."""
        return self.component.event_shape

    def scaling(self) -> tuple[nn.Module, ...]:
        """Return what the family of the components asks for."""
        return self.component.scaling()

    def distribution(self, weights: Tensor, **parameters: Tensor) -> TorchDistribution:
        """Return the mixture of the family's distributions, of batch shape `(*batch, K)`."""
        each = self.component.distribution(
            **{name: self._beside(name, value) for name, value in parameters.items()}
        )
        batch = torch.broadcast_shapes(each.batch_shape, weights.shape)
        choice: Any = dist.Categorical(probs=weights)
        return MixtureSameFamily(choice, each.expand(batch) if each.batch_shape != batch else each)

    def _beside(self, name: str, value: Tensor) -> Tensor:
        """A value that all components share, predicted for each datum, beside their dimension."""
        return value.unsqueeze(-1) if self._is_shared(name) and value.dim() else value

    def _is_shared(self, name: str) -> bool:
        return self.spec[name].structural and self.component._shape(name) == ()

    def _shape(self, name: str) -> tuple[int, ...]:
        if name == "weights":
            return (self.components,)
        shape = self.component._shape(name)
        return shape if self._is_shared(name) else (self.components, *shape)

    def _standard(self, name: str) -> Tensor:
        if name == "weights":
            return super()._standard(name)
        value, parameter = self.component._standard(name), self.spec[name]
        if parameter.structural:
            return value.expand(self._shape(name)).clone()
        raw = parameter.unconstrained(value)
        turn = list(self.spec).index(name)
        apart = parameter.transform(raw + SPREAD * _grid(self.components, raw, turn))
        assert isinstance(apart, Tensor)
        return apart

    def _checked_start(self, name: str, value: Tensor) -> Tensor:
        if name == "weights" and not bool((value > 0).all()):
            raise ValueError(
                "Mixture: trained weights must start above 0; a component without weight has no "
                "gradient, so leave it out."
            )
        return super()._checked_start(name, value)

    def _check_ends(self) -> None:
        """The family's own check of constants that all components share."""
        ends = getattr(self.component, "ends", {})
        moving = [name for name in (*self.learned, *self.predicted) if name in ends]
        if moving:
            raise ValueError(
                f"Mixture: {moving[0]!r} is an end of the support, which is never trained or "
                "predicted; give it as a constant."
            )
        values: dict[str, Any] = {
            name: value for name, value in self.named_buffers() if name in ends
        }
        if values:
            type(self.component)(self.features, **values)

    def extra_repr(self) -> str:
        """Return what `repr` shows: also the family of the components and its options."""
        each, mine = self.component, f"components={self.components}"
        names = [f"family={type(each).__name__}"]
        names += [f"{option}={getattr(each, option)}" for option in each.options]
        return super().extra_repr().replace(mine, ", ".join([mine, *names]), 1)

    def _shown(self, value: Tensor) -> str:
        """The range of a parameter, for components differ."""
        low, high = value.min().item(), value.max().item()
        return f"{low:g}" if low == high else f"{low:.3g} to {high:.3g}"


_GOLDEN = (math.sqrt(5) - 1) / 2


def _check_family(family: Any) -> None:
    if not (isinstance(family, type) and issubclass(family, Family)):
        raise TypeError(
            f"Mixture: family must be a class such as fam.Normal, not {family!r}; features and "
            "parameters are given to the mixture."
        )
    if issubclass(family, Mixture):
        raise TypeError(
            "Mixture: a mixture of mixtures is a mixture; give it the total number of components."
        )
    # what a flow or a carried guide makes of its parameters is not `distribution` alone
    if family.distribution is Family.distribution or family.forward is not Family.forward:
        raise TypeError(
            f"Mixture: {family.__name__} is not described by the parameters of its spec alone, "
            "of which each component could have others."
        )
    free = [name for name, p in family.spec.items() if name not in getattr(family, "ends", {})]
    if not free:
        raise ValueError(
            f"Mixture: {family.__name__} has no parameter in which components could differ, so "
            f"the mixture is the {family.__name__} itself."
        )


def _grid(count: int, raw: Tensor, turn: int) -> Tensor:
    """Numbers in (-1, 1) of shape (count, *raw.shape), a Latin square: each differs along K.

    In every coordinate they are the midpoints of `count` equal intervals, in an order that
    follows from the fractional parts of n^2 / golden ratio, which repeat no pattern.
    """
    size = raw.numel()
    n = torch.arange(1, count * size + 1, dtype=torch.float64) + 1000 * turn
    order = (n.square() * _GOLDEN).remainder(1.0).reshape(count, size).argsort(0).argsort(0)
    grid = (2 * order + 1).to(raw.dtype) / count - 1
    return grid.reshape(count, *raw.shape)
