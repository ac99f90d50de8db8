"""Estimators of KL(q || p) from draws of q: what is averaged, with f(x) = log q(x) - log p(x).

* `log_ratio`: f(x).
* `path`: f(x), its gradient through the draws alone (*sticking the landing*). The part left out,
  the gradient of log q with respect to its own parameters, has mean zero, and what is left is
  zero at q = p in every single draw.
* `entropy`: -H(q) - log p(x), H exact. Less noise where log p is flat where q lives; unlike f it
  does not become noiseless as q approaches p.
* `non_negative`: r - 1 - log r with r = p(x) / q(x), never negative. E_q r = 1 only in theory:
  where q is narrower than p the draws that make it so never come, and neither does the standard
  error know of them.

Where q has no reparameterisation (masses, mixtures, a Von Mises), the gradient of each is that of
the score function, with the mean of the other draws as baseline.

Sources: Sticking the landing: simple, lower-variance gradient estimators for variational
inference (G. Roeder, Y. Wu, D. Duvenaud, 2017); Approximating KL divergence (J. Schulman, 2020).
"""

from __future__ import annotations

__all__ = ["EstimateWarning", "Estimator", "Scored", "estimators", "moving"]

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_vae.kl.draws import NoEstimate
from pyro_vae.kl.ends import space
from pyro_vae.kl.entropies import closed_entropy
from pyro_vae.kl.finiteness import finiteness
from pyro_vae.kl.plan import describe, sum_last
from pyro_vae.kl.recipes import reparameterised
from pyro_vae.registry import Registry


class EstimateWarning(UserWarning):
    """A sampled KL that is not to be believed as its standard error says."""


@dataclass(frozen=True)
class Scored:
    """Draws of q and what both densities say of them.

    Arguments:
        q: The guide, without wrappers, of the batch shape of the pair.
        p: The prior, without wrappers.
        at: The draws, of shape (S, *batch, *event), in x or in a coordinate of it.
        density: From draws to log q of them, of shape (S, *batch).
        log_p: Log p of the draws in the same coordinate, -inf where p has no mass.
        slope: log |dx / dy|, if the draws are y, of shape (S, *batch); 0 if they are x.
        edge: Whether a draw lies at an end of the support, of shape (S, *batch).
    """

    q: Any
    p: Any
    at: Tensor
    density: Callable[[Tensor], Tensor]
    log_p: Tensor
    slope: Tensor
    edge: Tensor

    @cached_property
    def log_q(self) -> Tensor:
        """Log q of the draws, its gradient with respect to draws and parameters."""
        return self.density(self.at)

    @cached_property
    def log_q_of_draws(self) -> Tensor:
        """Log q of the draws, its gradient with respect to the draws alone."""
        if not self.at.requires_grad:
            return self.log_q.detach()
        with torch.enable_grad():
            still = self.at.detach().requires_grad_()
            value = self.density(still)
            # a uniform density does not depend on the draws
            (slope,) = torch.autograd.grad(value.sum() + 0 * still.sum(), still)
        moved = slope * (self.at - still.detach())
        return value.detach() + sum_last(moved, moved.dim() - value.dim())


class Estimator:
    """What is averaged over draws of q."""

    def check(self, q: Any, p: Any) -> None:
        """Refuse or warn of a pair without wrappers, as it was given, before drawing."""

    def values(self, drawn: Scored) -> Tensor:
        """Return one value for each draw, of shape (S, *batch)."""
        raise NotImplementedError


estimators: Registry[type[Estimator]] = Registry("estimator")
"""The estimators by name; a further one is a subclass with `@estimators.register`."""


@estimators.register
class LogRatio(Estimator):
    """The log ratio log q - log p."""

    def values(self, drawn: Scored) -> Tensor:
        """Return log q - log p."""
        return drawn.log_q - drawn.log_p


@estimators.register
class Path(Estimator):
    """The log ratio, its gradient through the draws alone: zero in every draw at q = p."""

    def check(self, q: Any, p: Any) -> None:
        """Refuse a guide that is not reparameterised, or whose support moves."""
        if moving(q):
            raise ValueError(
                f"estimator='path' has a biased gradient for {describe(q)}: what it leaves out "
                "has mean zero only if the support stands still, and an end of this one is a "
                "parameter that takes a gradient. Take estimator='log_ratio'."
            )
        if not reparameterised(q):
            raise NoEstimate(
                f"estimator='path' differentiates through the draws, and {describe(q)} is not "
                "reparameterised. Take estimator='log_ratio', whose gradient is then that of the "
                "score function."
            )

    def values(self, drawn: Scored) -> Tensor:
        """Return log q - log p."""
        return drawn.log_q_of_draws - drawn.log_p


@estimators.register
class Entropy(Estimator):
    """The sampled cross-entropy less the exact entropy of q."""

    def check(self, q: Any, p: Any) -> None:
        """Refuse a guide whose entropy nobody knows."""
        if closed_entropy(q) is None:
            raise NoEstimate(
                f"estimator='entropy' needs the entropy of {describe(q)}, which has no closed "
                "form that is known here. Take estimator='log_ratio' or estimator='path'."
            )

    def values(self, drawn: Scored) -> Tensor:
        """Return -H(q) - log p."""
        entropy = closed_entropy(drawn.q)
        assert entropy is not None
        # the entropy is that of x
        return -entropy - (drawn.log_p - drawn.slope)


@estimators.register
class NonNegative(Estimator):
    """r - 1 - log r, r = p / q: never negative, and blind to what q does not reach."""

    def check(self, q: Any, p: Any) -> None:
        """Warn in any case; refuse if p is known to have mass where q has none."""
        missed = _missed(q, p)
        if bool(torch.as_tensor(missed).any()):
            raise ValueError(
                f"estimator='non_negative' is biased for KL({describe(q)} || {describe(p)}): it "
                "counts on E_q[p / q] = 1, and p has mass where q has none. Take "
                "estimator='log_ratio'."
            )
        warnings.warn(
            "the standard error of estimator='non_negative' lies where q is narrower than p: the "
            "draws that carry E_q[p / q] = 1 never come, and intervals from it were seen to miss "
            "in 82 % of runs. Take estimator='log_ratio' unless q covers p.",
            EstimateWarning,
            stacklevel=3,
        )

    def values(self, drawn: Scored) -> Tensor:
        """Return f + exp(-f) - 1, f = log q - log p."""
        ratio = drawn.log_q - drawn.log_p
        return ratio + torch.expm1(-ratio)


# ---------------------------------------------------------------------------------- supports
def moving(q: Any) -> bool:
    """Say whether an end of the support of q is a parameter that takes a gradient.

    Then the mean of the score function is not zero: its density at the end is missing.

    Arguments:
        q: A distribution without wrappers.

    Returns:
        True if so.

    Example:
        >>> import torch.distributions as td
        >>> high = torch.ones((), requires_grad=True)
        >>> moving(td.Uniform(0.0, high)), moving(td.Normal(0.0, high))
        (True, False)
    """
    if not torch.is_grad_enabled():
        return False
    where, stated = space(q), q.support
    ends = ((where.lower, "lower_bound"), (where.upper, "upper_bound"))
    return any(_moves(end, getattr(stated, name, None)) for end, name in ends)


def _moves(end: Any, stated: Any) -> bool:
    if not isinstance(end, Tensor) or not end.requires_grad:
        return False
    if not isinstance(stated, Tensor) and stated is not None:
        # exp of whatever is shifted stays positive
        end = end[end != stated]
    return bool(end.isfinite().any())


def _missed(q: Any, p: Any) -> bool | Tensor:
    """Where p is known to have mass outside the support of q."""
    if q.support.is_discrete:
        # of masses, one that q gives to nothing makes the KL the other way round infinite
        return ~torch.as_tensor(finiteness(p, q).finite)
    inner, outer = space(p), space(q)
    if inner.kind != "real" or outer.kind != "real":
        return False
    low, high = inner.lower < outer.lower, inner.upper > outer.upper
    return torch.as_tensor(low) | torch.as_tensor(high)
