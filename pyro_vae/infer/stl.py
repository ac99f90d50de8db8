"""`TraceSTL_ELBO`: the sampled ELBO without the part of its gradient that is only noise.

    d/dphi E_q[log p(x, z) - log q(z)]
        = E[ d/dz (log p(x, z) - log q(z)) dz/dphi ] - E[ d/dphi log q(z) ],

whose last expectation is 0 and is left out. At q = p(z|x) what is left vanishes for every draw, so
that the gradient's noise goes to zero as the guide becomes right; far from there an exact KL is
often the quieter one.
"""

from __future__ import annotations

__all__ = ["TraceSTL_ELBO"]

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyro_vae.infer.bound import Bound, Draw
from pyro_vae.infer.cut import path
from pyro_vae.infer.terms import Term, guide_term, pair_term

WHY = "a path-only gradient needs log q(z) at a draw"


class TraceSTL_ELBO(Bound):
    """ELBO(x) = E_q[log p(x, z) - log q(z)], its gradient through the draws alone.

    Values, and gradients of what the model owns, are those of Pyro's `Trace_ELBO` at the same
    seed. In the guide only the densities of its sites lose the direct gradient of their
    parameters: parameters that model and guide share (the encoder in a VampPrior) keep their part
    in the model, and draws of parents keep theirs in log q(z | parents). Sites that are not
    reparameterised take the score-function gradient, and those whose support moves with their
    parameters (a Uniform of learned ends) the whole one.

    A guide made of transforms is asked for log q at a draw it did not remember, so its
    transforms need an inverse.

    Arguments:
        num_particles: The number of draws to average over.
        **options: `beta`, `free_bits`, `free_bits_per`, `check_every`, as `infer.Bound` has
            them, and those of `pyro.infer.Trace_ELBO`.

    Raises:
        ValueError: When called, if a KL is infinite or undefined or a density is not finite, or
            if the guide does not draw a latent site of the model.

    References:
        Sticking the landing: simple, lower-variance gradient estimators for variational inference
        (G. Roeder, Y. Wu, D. Duvenaud, 2017)

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # with its exact posterior at a = 1/2
        ...     a = pyro.param("a", torch.tensor(0.5))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(a * x, 0.5**0.5))
        >>> pyro.clear_param_store()
        >>> loss = TraceSTL_ELBO().loss_and_grads(model, guide, torch.linspace(-1, 1, 5))
        >>> abs(pyro.param("a").grad.item()) < 1e-5
        True
        >>> pyro.clear_param_store()
    """

    cuts = True

    def _pair(self, name: str, q: Any, p: Any, biased: str | None) -> Term:
        return pair_term(name, q, p, sample=WHY)

    def _own(self, name: str, q: Any) -> Term:
        return guide_term(name, q, strict=False)

    def _surrogate(self, draw: Draw, terms: Mapping[str, Term], bound: Tensor) -> Tensor:
        assert draw.cut is not None
        total = super()._surrogate(draw, terms, bound)
        scores = [
            term.log_q.sum()
            for name, term in terms.items()
            if term.log_q is not None and name not in draw.cut.whole
        ]
        return total + sum(scores) + path(total, draw.cut)
