"""Sticks with a closed distribution function: Kumaraswamy sticks for guides, GEM for priors."""

from __future__ import annotations

__all__ = ["GEM", "StickBreaking"]

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

from pyro_vae.distributions.kumaraswamy import log_kumaraswamy
from pyro_vae.distributions.sticks import log_parts, log_sticks
from pyro_vae.distributions.unit import InUnit, log_shrunk
from pyro_vae.distributions.wide import exponential


class StickBreaking(InUnit, TorchDistribution):
    r"""A stick broken K - 1 times by v_k ~ Kumaraswamy(a_k, b_k).

    log p(x) = sum_k [log Kumaraswamy(v_k; a_k, b_k) - log(x_k + ... + x_K)],
    v_k = x_k / (x_k + ... + x_K),  a = concentration1, b = concentration0,  k = 1 ... K - 1.

    The sticks of a Dirichlet or a GEM are Betas, whose shape these have, with draws that are a
    formula. Draws are kept off the faces of the simplex.

    Arguments:
        concentration1: a, positive, of shape `(*batch_shape, K - 1)`.
        concentration0: b, positive.

    Raises:
        ValueError: If both are numbers, or, validation being on, one is not positive.

    References:
        Stick-breaking variational autoencoders (E. Nalisnick, P. Smyth, 2017)

    Example:
        >>> x = StickBreaking(torch.ones(4), torch.full((4,), 0.01)).sample()
        >>> x.shape, bool((x > 0).all())
        (torch.Size([5]), True)
    """

    arg_constraints: Any = {
        "concentration1": constraints.independent(constraints.positive, 1),
        "concentration0": constraints.independent(constraints.positive, 1),
    }
    support: Any = constraints.simplex
    has_rsample = True

    def __init__(
        self,
        concentration1: Tensor | float,
        concentration0: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        if not self.concentration1.dim():
            raise ValueError(
                "StickBreaking needs one concentration for each stick: a tensor of shape "
                "(..., K - 1) for K parts, not a number."
            )
        *batch, sticks = self.concentration1.shape
        super().__init__(torch.Size(batch), torch.Size([sticks + 1]), validate_args)

    @property
    def mean(self) -> Tensor:
        """E x, of shape `(*batch_shape, K)`."""
        a, b = self.concentration1.double(), self.concentration0.double()
        stick = (torch.lgamma(1 + 1 / a) + torch.lgamma(1 + b) - torch.lgamma(1 + 1 / a + b)).exp()
        return log_parts(stick.log(), torch.log1p(-stick)).exp().to(self.concentration1.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> StickBreaking:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(StickBreaking, _instance)
        batch_shape = torch.Size(batch_shape)
        for name in self.arg_constraints:
            own = getattr(self, name)
            setattr(new, name, own.expand(batch_shape + own.shape[-1:]))
        super(StickBreaking, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _draw(self, shape: torch.Size, concentration1: Tensor, concentration0: Tensor) -> Tensor:
        sticks = torch.Size([*shape[:-1], shape[-1] - 1])
        return log_parts(*log_kumaraswamy(concentration1, concentration0, sticks)).exp()

    def _log_density(
        self, value: Tensor, concentration1: Tensor, concentration0: Tensor
    ) -> Tensor:
        a, b = concentration1, concentration0
        log_stick, _, log_left = log_sticks(value)
        log_rest = (-torch.expm1(a * log_stick)).log()
        each = (a * b).log() + (a - 1) * log_stick + (b - 1) * log_rest
        return (each - log_left).sum(-1)


class GEM(InUnit, TorchDistribution):
    r"""The distribution of Griffiths, Engen and McCloskey: v_k ~ Beta(1, alpha), cut at K parts.

    log p(x) = (K - 1) log alpha + (alpha - 1) log x_K - sum_(k < K) log(x_k + ... + x_K),
    with alpha = concentration: the weights of a Dirichlet process, the last part being all
    that is left. Early parts are the larger ones; E x_k falls like (alpha / (1 + alpha))^k.

    Arguments:
        concentration: alpha, positive, of shape `batch_shape`.
        parts: K, at least 2.

    Raises:
        ValueError: If `parts` is less than 2, or, validation being on, alpha is not positive.

    References:
        A constructive definition of Dirichlet priors (J. Sethuraman, 1994)

    Example:
        >>> GEM(1.0, 4).mean
        tensor([0.5000, 0.2500, 0.1250, 0.1250])
    """

    arg_constraints: Any = {"concentration": constraints.positive}
    support: Any = constraints.simplex
    has_rsample = True

    def __init__(
        self, concentration: Tensor | float, parts: int, validate_args: bool | None = None
    ) -> None:
        if parts < 2:
            raise ValueError(f"GEM needs at least 2 parts, not {parts}: with one it is a point.")
        (self.concentration,) = broadcast_all(concentration)
        super().__init__(self.concentration.shape, torch.Size([parts]), validate_args)

    @property
    def parts(self) -> int:
        """K, the number of parts."""
        return self.event_shape[0]

    @property
    def mean(self) -> Tensor:
        """E x, of shape `(*batch_shape, K)`."""
        alpha = self.concentration.unsqueeze(-1).expand(*self.batch_shape, self.event_shape[0] - 1)
        return log_parts(-torch.log1p(alpha), -torch.log1p(1 / alpha)).exp()

    def expand(self, batch_shape: Any, _instance: Any = None) -> GEM:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(GEM, _instance)
        new.concentration = self.concentration.expand(batch_shape)
        shapes = torch.Size(batch_shape), self.event_shape
        super(GEM, new).__init__(*shapes, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _draw(self, shape: torch.Size, concentration: Tensor) -> Tensor:
        noise = exponential(torch.Size([*shape[:-1], shape[-1] - 1]), concentration)
        alpha = concentration.unsqueeze(-1)
        return log_parts(log_shrunk(noise.log() - alpha.log()), -noise / alpha).exp()

    def _log_density(self, value: Tensor, concentration: Tensor) -> Tensor:
        _, log_rest, log_left = log_sticks(value)
        sticks = self.event_shape[0] - 1
        power = (concentration - 1) * log_rest.sum(-1)
        return sticks * concentration.log() + power - log_left.sum(-1)
