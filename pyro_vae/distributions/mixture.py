"""Mixtures of one family, joint over the dimensions of an event."""

from __future__ import annotations

__all__ = ["MixtureSameFamily"]

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.constraints import Constraint

_BOUNDS = ("lower_bound", "upper_bound")


class MixtureSameFamily(dist.MixtureSameFamily):
    r"""A mixture of K distributions of one class, in the last batch dimension of a component.

    log p(x) = log sum_k w_k f_k(x),  f_k the density of the whole event.

    The density, attributes and draws are those of torch's class. But weights of 0 are kept (torch
    makes them 1e-7), components without weight or density give no NaN in value, gradient, mean or
    variance, and the support is one that other code can read. Where each component has an
    interval of its own the support is the shortest that holds them all.

    Arguments:
        mixture_distribution: The weights, a `Categorical` over the K components whose batch shape
            broadcasts to `batch_shape`.
        component_distribution: The components, of batch shape `batch_shape + (K,)`.

    Raises:
        ValueError: If the weights are no Categorical, or shapes do not match.

    Example:
        >>> weights = dist.Categorical(probs=torch.tensor([0.5, 0.5, 0.0]))
        >>> loc = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [9.0, 9.0]])
        >>> d = MixtureSameFamily(weights, dist.Normal(loc, 0.1).to_event(1))
        >>> d.event_shape, d.mean.tolist()
        (torch.Size([2]), [0.0, 0.0])
        >>> d.log_prob(torch.tensor([-1.0, 1.0])).item() < -100  # both signs are those of one draw
        True
    """

    def __init__(
        self,
        mixture_distribution: Any,
        component_distribution: Any,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(mixture_distribution, component_distribution, validate_args=validate_args)
        log_weights = _log_weights(self._mixture_distribution)
        weights = dist.Categorical(logits=log_weights, validate_args=validate_args)
        self._mixture_distribution: Any = weights.expand(self.batch_shape)

    @constraints.dependent_property
    def support(self) -> Any:
        """Where any component has mass, of the batch and event shape of the mixture."""
        return _less_components(self.component_distribution.support, -1 - self._event_ndims)

    seen: Tensor | None = None

    def of_entries(self, seen: Tensor) -> MixtureSameFamily:
        """Return the law of some entries alone: log sum_k w_k prod_(i in seen) f_ki(x_i).

        It is scored at whole events, of which the others do not matter, and draws whole ones.

        Arguments:
            seen: True at the entries, boolean, of the dimensions of a batch and an event,
                broadcast to them. The attribute `seen` keeps it.

        Raises:
            ValueError: If the entries of a component are not independent.

        Example:
            >>> parts = dist.Normal(torch.tensor([[-1.0, 2.0], [1.0, 5.0]]), 1.0).to_event(1)
            >>> d = MixtureSameFamily(dist.Categorical(probs=torch.ones(2)), parts)
            >>> first = d.of_entries(torch.tensor([True, False]))
            >>> first.log_prob(torch.tensor([[0.0, 7.0], [0.0, -7.0]])).diff().item()
            0.0
        """
        base: Any = self.component_distribution
        while isinstance(base, dist.Independent):
            base = base.base_dist
        if base.event_shape:
            raise ValueError(
                f"a {type(base).__name__} does not factorise over entries, so a mixture of them "
                "has no law of some entries that can be read off it."
            )
        each = base.mask(seen.unsqueeze(-1 - self._event_ndims)).to_event(self._event_ndims)
        new = MixtureSameFamily(self.mixture_distribution, each, validate_args=False)
        new.seen = seen
        return new

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixtureSameFamily:
        """Return the same mixture over a larger batch shape."""
        new: Any = self._get_checked_instance(MixtureSameFamily, _instance)
        shape, count = torch.Size(batch_shape), self._num_component
        new._component_distribution = self._component_distribution.expand((*shape, count))
        new._mixture_distribution = self._mixture_distribution.expand(shape)
        new._num_component, new._event_ndims = count, self._event_ndims
        new.seen = self.seen
        torch.distributions.Distribution.__init__(
            new, shape, self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, of shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        joint = self.mixture_distribution.logits + self._log_parts(self._pad(value))
        never = (joint == -torch.inf).all(-1)
        # a logsumexp of nothing but -inf has no gradient
        some = torch.where(never.unsqueeze(-1), 0.0, joint).logsumexp(-1)
        return torch.where(never, -torch.inf, some)

    @property
    def mean(self) -> Tensor:
        """E x, of shape `batch_shape + event_shape`."""
        return self._averaged(self.component_distribution.mean)

    @property
    def variance(self) -> Tensor:
        """Var x of each element, of shape `batch_shape + event_shape`."""
        each: Any = self.component_distribution
        spread = (each.mean - self._pad(self.mean)).square()
        return self._averaged(each.variance + spread)

    def _averaged(self, values: Tensor) -> Tensor:
        """The mean over components with weight: others may be infinite."""
        weights = self.mixture_distribution.probs
        weights = weights.reshape(weights.shape + (1,) * self._event_ndims)
        kept = torch.where(weights > 0, values, 0.0)
        return (weights * kept).sum(-1 - self._event_ndims)

    def _log_parts(self, x: Tensor) -> Tensor:
        """The log densities of the components, which are not asked for values they refuse."""
        each: Any = self.component_distribution
        support, element = each.support, _element(each.support)
        low, high = (getattr(element, name, None) for name in _BOUNDS)
        if not isinstance(low, Tensor) and not isinstance(high, Tensor):
            return each.log_prob(x)
        return torch.where(support.check(x), each.log_prob(x.clamp(low, high)), -torch.inf)


def _log_weights(weights: Any) -> Tensor:
    """The logarithms of the weights, -inf where a probability of 0 was given."""
    if vars(weights).get("_param") is not vars(weights).get("probs"):
        return weights.logits
    probs = weights.probs
    return torch.where(probs > 0, torch.where(probs > 0, probs, 1.0).log(), -torch.inf)


def _element(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _less_components(support: Any, dim: int) -> Constraint:
    """The support without the dimension of the components."""
    if isinstance(support, constraints.independent):
        inner: Any = _less_components(support.base_constraint, dim)
        return constraints.independent(inner, support.reinterpreted_batch_ndims)
    bounds = {name: getattr(support, name) for name in _BOUNDS if hasattr(support, name)}
    if not any(isinstance(b, Tensor) and b.dim() >= -dim for b in bounds.values()):
        return support
    hull = {"lower_bound": torch.amin, "upper_bound": torch.amax}
    return type(support)(*(hull[name](torch.as_tensor(b), dim) for name, b in bounds.items()))
