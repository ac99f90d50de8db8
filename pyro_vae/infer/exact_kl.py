"""`TraceExactKL_ELBO`: every KL exact that can be, and a record of those that cannot.

    ELBO(x) = E_q[ sum_o c_o log p(x_o | z) ] - sum_s T_s,
    T_s = E[ KL(q(z_s | a) || p(z_s | b)) ],  weighed by scale and mask of the site.

The gradient goes through the draws where the guide is reparameterised. Where it is not, with C
the sum of all that the ELBO holds at the draw, site s adds

    E[ (C + T_s) grad log q(z_s) ],   T_s added back where it is exact,

since an exact T_s is the same whatever z_s was drawn, so that its product with the score has
expectation 0; nor does the gradient of T_s need a score term, as it is no estimate.
Observations are the model's, and a site that only the guide draws takes its log q off, as in
`Trace_ELBO`, whose expectation this ELBO shares. Its gradient has the same expectation too, but
in two cases in which `Trace_ELBO` leaves a part out: the log q of an auxiliary site in the score
of one that is not reparameterised, and the KL of a straight-through guide.
"""

from __future__ import annotations

__all__ = ["TraceExactKL_ELBO"]

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero
from pyro.infer import Trace_ELBO
from pyro.infer.util import MultiFrameTensor, get_plate_stacks
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_vae.infer.ancestry import Ancestry, Program
from pyro_vae.infer.terms import Check, SiteRoute, Term, guide_term, pair_term


class _Objective(NamedTuple):
    """A loss, a surrogate that has its gradient, and what has to hold; nothing is read yet."""

    loss: Tensor
    surrogate: Tensor
    checks: list[Check]

    def settled(self) -> float:
        """Read loss and flags at once, and raise if one does not hold."""
        flags = [check.flag.to(self.loss) for check in self.checks]
        value, *holds = torch.stack([self.loss, *flags]).tolist()
        for check, flag in zip(self.checks, holds, strict=True):
            if not flag:
                raise check.error()
        warn_if_nan(value, "loss")
        return value


class TraceExactKL_ELBO(Trace_ELBO):
    """ELBO(x) = E_q[log p(x|z)] - KL(q(z|x) || p(z)), with the KL of each latent site exact.

    A site's KL comes from `kl.divergence`: a closed form, or a quadrature within 1e-7. It is
    sampled, as log q(z) - log p(z) at the draw, where nobody knows a way to it, and where an
    exact one would be biased because a parent of the site in the model descends from it in the
    guide; `routes` tells which and why. Value and gradient have the expectations of Pyro's
    `Trace_ELBO`, over any order of sites, scales, masks, plates and guides that are not
    reparameterised (those take the score-function gradient in the likelihood, not in the KL).

    Use it like any ELBO of Pyro: in `SVI`, or as `TraceExactKL_ELBO()(model, guide)` with torch
    optimizers, with particles by loop or vectorised.

    Arguments:
        num_particles: The number of draws to average over.
        strict: Raise `kl.NoExactKL` rather than sample anything but the likelihood.
        **options: Those of `pyro.infer.Trace_ELBO` (`vectorize_particles`, `max_plate_nesting`,
            `retain_graph`, ...).

    Raises:
        ValueError: When called, before any gradient is computed, if a KL is infinite, undefined
            or NaN, or if the guide does not draw a latent site of the model. The message names
            the site and the families.

    References:
        Auto-Encoding Variational Bayes (D. P. Kingma, M. Welling, 2014)

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Laplace(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.7))
        >>> elbo = TraceExactKL_ELBO()
        >>> loss = elbo.loss(model, guide, torch.zeros(5))  # in nats, summed over the data
        >>> elbo.routes["z"].kind
        'closed'
    """

    def __init__(self, num_particles: int = 1, *, strict: bool = False, **options: Any) -> None:
        super().__init__(num_particles=num_particles, **options)
        self.strict = strict
        self._ancestry, self._routes = Ancestry(), {}

    @property
    def routes(self) -> dict[str, SiteRoute]:
        """By latent site, how its KL was had in the last call, and why so."""
        return dict(self._routes)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return an estimate of -ELBO.

        Arguments:
            model: A Pyro model.
            guide: Its guide.
            *args: Positional arguments of both.
            **kwargs: Keyword arguments of both.

        Returns:
            The loss in nats, summed over the data.
        """
        return self._objective(model, guide, args, kwargs).settled()

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return an estimate of -ELBO whose gradient is an unbiased one of -ELBO.

        Arguments:
            model: A Pyro model.
            guide: Its guide.
            *args: Positional arguments of both.
            **kwargs: Keyword arguments of both.

        Returns:
            The loss in nats, a 0-dim tensor.
        """
        objective = self._objective(model, guide, args, kwargs)
        objective.settled()
        return objective.loss + (objective.surrogate - objective.surrogate.detach())

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Add an unbiased gradient of -ELBO to that of each parameter.

        Arguments:
            model: A Pyro model.
            guide: Its guide.
            *args: Positional arguments of both.
            **kwargs: Keyword arguments of both.

        Returns:
            The loss in nats, summed over the data.
        """
        objective = self._objective(model, guide, args, kwargs)
        value = objective.settled()
        if objective.surrogate.requires_grad:
            objective.surrogate.backward(retain_graph=self.retain_graph)
        return value

    def _objective(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Objective:
        wrapped = self._vectorized_num_particles if self.vectorize_particles else _unchanged
        losses, surrogates, checks = [], [], []
        for replayed, drawn in self._get_traces(model, guide, args, kwargs):
            biased = self._ancestry.biased(model, guide, args, kwargs, (replayed, drawn), wrapped)
            terms = _terms(replayed, drawn, biased=biased, strict=self.strict)
            self._routes = {name: term.route for name, term in terms.items()}
            elbo = _elbo(replayed, terms)
            losses.append(-elbo.detach())
            surrogates.append(-elbo - _score_function(replayed, drawn, terms))
            checks += [check for term in terms.values() for check in term.checks]
        return _Objective(
            torch.stack(losses).sum() / self.num_particles,
            torch.stack(surrogates).sum() / self.num_particles,
            checks,
        )


def _unchanged(program: Program) -> Program:
    return program


def _terms(
    model: poutine.Trace,
    guide: poutine.Trace,
    *,
    biased: Mapping[str, str],
    strict: bool,
) -> dict[str, Term]:
    """What each site that the guide knows takes off the ELBO, those of the model first."""
    latent = {name: node for name, node in _samples(model) if not node["is_observed"]}
    drawn = dict(_samples(guide))
    for name in latent:
        if name not in drawn or drawn[name]["is_observed"]:
            raise ValueError(
                f"the model's latent site {name!r} is not drawn by the guide, so the ELBO has "
                "no term for it; sample it in the guide."
            )
    terms = {
        name: pair_term(name, drawn[name], p, biased=biased.get(name), strict=strict)
        for name, p in latent.items()
    }
    own = {name: q for name, q in drawn.items() if name not in latent}
    return terms | {name: guide_term(name, q, strict=strict) for name, q in own.items()}


def _elbo(model: poutine.Trace, terms: Mapping[str, Term]) -> Tensor:
    observed = [node["log_prob"].sum() for _, node in _samples(model) if node["is_observed"]]
    taken = [(term.exact + term.sampled).sum() for term in terms.values()]
    return torch.as_tensor(sum(observed) - sum(taken))


def _score_function(
    model: poutine.Trace, guide: poutine.Trace, terms: Mapping[str, Term]
) -> Tensor | float:
    """Sum over non-reparameterised sites of [what depends on the draw] log q(draw)."""
    drawn = dict(_samples(guide))
    scores = {name: drawn[name]["score_parts"].score_function for name in terms}
    scores = {name: score for name, score in scores.items() if not is_identically_zero(score)}
    if not scores:
        return 0.0
    stacks = get_plate_stacks(guide) | get_plate_stacks(model)
    total = MultiFrameTensor()
    for name, node in _samples(model):
        if node["is_observed"]:
            total.add((stacks[name], node["log_prob"].detach()))
    for name, term in terms.items():
        total.add((stacks[name], -(term.exact + term.sampled).detach()))
    surrogate: Tensor | float = 0.0
    for name, score in scores.items():
        depends = total.sum_to(drawn[name]["cond_indep_stack"]) + terms[name].exact.detach()
        surrogate = surrogate + (depends * score).sum()
    return surrogate


def _samples(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """The sample sites; deterministic ones have no density."""
    nodes: dict[str, Any] = dict(trace.nodes)
    for name, node in nodes.items():
        if node["type"] == "sample" and not node["infer"].get("_deterministic"):
            yield name, node
