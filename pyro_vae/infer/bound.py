"""What all ELBOs of this room share: weights, free bits, terms by datum, and flags read once.

The objective of one draw is

    sum_o log p(x_o | z) - beta sum_s sum_j max(KL_sj, lambda),

with the maximum over the mean of the group's KL (a site, or one dimension of it) over the data
and draws at hand. beta = 1 and lambda = 0 is the ELBO. What `loss` and `SVI` report is minus
this objective, whatever beta and lambda are; the ELBO of the same draws is in `terms`.

References:
    beta-VAE: learning basic visual concepts with a constrained variational framework
    (I. Higgins et al., 2017); Improved variational inference with inverse autoregressive flow
    (D. P. Kingma et al., 2016), for free bits.
"""

from __future__ import annotations

__all__ = ["Bound", "Draw", "Objective", "checked_beta"]

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import is_validation_enabled
from pyro.util import check_if_enumerated, warn_if_nan
from torch import Tensor

from pyro_vae.infer.ancestry import Program
from pyro_vae.infer.cut import Cut, no_inverse
from pyro_vae.infer.flags import Flags
from pyro_vae.infer.free_bits import FreeBits, split
from pyro_vae.infer.rows import find_plate, rows, subsampling
from pyro_vae.infer.score import samples, score_function
from pyro_vae.infer.terms import Check, SiteRoute, Term
from pyro_vae.infer.unexpanded import remembering


class Objective(NamedTuple):
    """A loss, a surrogate that has its gradient, and what has to hold; nothing is read yet."""

    loss: Tensor
    surrogate: Tensor
    checks: list[Check]


class Draw(NamedTuple):
    """One run of guide and model.

    Arguments:
        model: The model's trace, replayed against the guide's.
        guide: The guide's trace.
        terms: By latent site, what it takes off the ELBO.
        cut: The draws that were cut from their parameters; None if none had to be.
    """

    model: poutine.Trace
    guide: poutine.Trace
    terms: dict[str, Term]
    cut: Cut | None = None

    def observed(self) -> Iterator[tuple[str, Any]]:
        """The observed sites of the model."""
        return ((name, node) for name, node in samples(self.model) if node["is_observed"])

    def likelihood(self) -> Tensor:
        """Sum of the log densities of what is observed."""
        return torch.as_tensor(sum(node["log_prob"].sum() for _, node in self.observed()))


class Bound(Trace_ELBO):
    """log p(x|z) - beta max(KL, lambda), estimated: what the ELBOs of this room have in common.

    Arguments:
        num_particles: The number of draws.
        beta: The weight of the KLs: a number that is not negative, or a 0-dim tensor that the
            caller updates (an ELBO counts no steps).
        free_bits: lambda in nats, one for all latent sites or a mapping from sites.
        free_bits_per: What lambda is a bound of: "site" or each "dimension" of a site.
        check_every: In how many calls of `differentiable_loss` the flags that tell an infinite
            KL are read once. Each reading waits for the device; an error then comes late.
        **options: Those of `pyro.infer.Trace_ELBO`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> Bound(beta=-1.0)
        Traceback (most recent call last):
        ...
        ValueError: beta must be a number that is not negative, not -1.0.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        beta: float | Tensor = 1.0,
        free_bits: float | Mapping[str, float] = 0.0,
        free_bits_per: str = "site",
        check_every: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(num_particles=num_particles, **options)
        self.beta = checked_beta(beta)
        self.free_bits = FreeBits(free_bits, free_bits_per)
        self._flags = Flags(check_every)
        self._routes: dict[str, SiteRoute] = {}

    @property
    def routes(self) -> dict[str, SiteRoute]:
        """By latent site, how its KL was had in the last call, and why so."""
        return dict(self._routes)

    # -------------------------------------------------------------------- as Pyro calls it

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return minus an estimate of the objective.

        Arguments:
            model: A Pyro model.
            guide: Its guide.
            *args: Positional arguments of both.
            **kwargs: Keyword arguments of both.

        Returns:
            The loss in nats, summed over the data.
        """
        return self._value(self._objective(model, guide, args, kwargs))

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return minus an estimate of the objective, with an estimate of its gradient.

        Arguments:
            model: A Pyro model.
            guide: Its guide.
            *args: Positional arguments of both.
            **kwargs: Keyword arguments of both.

        Returns:
            The loss in nats, a 0-dim tensor.
        """
        objective = self._objective(model, guide, args, kwargs)
        self._flags.note(objective.checks)
        return objective.loss + (objective.surrogate - objective.surrogate.detach())

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Add an estimate of the objective's gradient, negated, to that of each parameter.

        Arguments:
            model: A Pyro model.
            guide: Its guide.
            *args: Positional arguments of both.
            **kwargs: Keyword arguments of both.

        Returns:
            The loss in nats, summed over the data.
        """
        objective = self._objective(model, guide, args, kwargs)
        value = self._value(objective)
        if objective.surrogate.requires_grad:
            objective.surrogate.backward(retain_graph=self.retain_graph)
        return value

    def terms(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return what each datum and site adds to the bound, in nats, averaged over particles.

        The data plate is the outermost one that the observed sites share; inner plates are
        summed, and the weight of its subsample is left out, so that a number is that datum's.

        Arguments:
            model: A Pyro model.
            guide: Its guide.
            *args: Positional arguments of both.
            **kwargs: Keyword arguments of both.

        Returns:
            Tensors of shape (data,): `elbo` (beta = 1, no free bits), `objective`,
            `log_likelihood`, `kl`, and the last two by site, as `kl.z`. A site outside the data
            plate has a 0-dim tensor of its own, and is in none of the sums.
        """
        found = self._terms(self._drawn(model, guide, args, kwargs))
        return {name: value.detach() for name, value in found.items()}

    # -------------------------------------------------------------------- what classes define

    def _pair(self, name: str, q: Any, p: Any, biased: str | None) -> Term:
        """Return the term of a site that guide and model share."""
        raise NotImplementedError

    def _own(self, name: str, q: Any) -> Term:
        """Return the term of a site that only the guide draws."""
        raise NotImplementedError

    def _surrogate(self, draw: Draw, terms: Mapping[str, Term], bound: Tensor) -> Tensor:
        """Return a tensor whose gradient is that of the expected bound; its value is free."""
        return bound + score_function(draw.model, draw.guide, terms)

    def _biased(
        self,
        traces: tuple[poutine.Trace, poutine.Trace],
        call: tuple[Program, Program, tuple[Any, ...], dict[str, Any]],
    ) -> Mapping[str, str]:
        """Return the sites where an exact KL would be biased, and why."""
        return {}

    cuts: bool = False
    """Whether draws are cut from their parameters."""

    # -------------------------------------------------------------------- inside

    def _get_trace(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[poutine.Trace, poutine.Trace, Cut | None]:
        cut = Cut() if self.cuts else None
        with cut or nullcontext(), no_inverse(type(self).__name__, cut):
            replayed, drawn = get_importance_trace(
                "flat", self.max_plate_nesting, model, guide, args, kwargs
            )
        if is_validation_enabled():
            check_if_enumerated(drawn)
        return replayed, drawn, cut

    def _vectorized_num_particles(self, fn: Program) -> Program:
        return super()._vectorized_num_particles(remembering(fn))

    def _drawn(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Draw]:
        draws = []
        for replayed, drawn, cut in self._get_traces(model, guide, args, kwargs):
            biased = self._biased((replayed, drawn), (model, guide, args, kwargs))
            draws.append(Draw(replayed, drawn, self._all_terms(replayed, drawn, biased), cut))
        self._routes = {name: term.route for name, term in draws[-1].terms.items()}
        return draws

    def _all_terms(
        self, model: poutine.Trace, guide: poutine.Trace, biased: Mapping[str, str]
    ) -> dict[str, Term]:
        """What each site that the guide knows takes off the bound, those of the model first."""
        latent = {name: node for name, node in samples(model) if not node["is_observed"]}
        drawn = dict(samples(guide))
        for name in latent:
            if name not in drawn or drawn[name]["is_observed"]:
                raise ValueError(
                    f"the model's latent site {name!r} is not drawn by the guide, so the ELBO "
                    "has no term for it; sample it in the guide."
                )
        terms = {}
        for name, p in latent.items():
            q, event_dim = drawn[name], 0
            if self.free_bits.splits(name):
                q, p, event_dim = split(name, q, p)
            term = self._pair(name, q, p, biased.get(name))
            terms[name] = term._replace(event_dim=event_dim)
        own = {name: q for name, q in drawn.items() if name not in latent}
        return terms | {name: self._own(name, q) for name, q in own.items()}

    def _objective(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Objective:
        draws = self._drawn(model, guide, args, kwargs)
        return self._combined(draws, self._weighed(draws))

    def _combined(self, draws: Sequence[Draw], weighed: Sequence[dict[str, Term]]) -> Objective:
        """Return the objective of the draws, given their terms after beta and free bits."""
        losses, surrogates = [], []
        for draw, terms in zip(draws, weighed, strict=True):
            taken = [(term.exact + term.sampled).sum() for term in terms.values()]
            bound = torch.as_tensor(draw.likelihood() - sum(taken))
            losses.append(-bound.detach())
            surrogates.append(-self._surrogate(draw, terms, bound))
        return Objective(
            torch.stack(losses).sum() / self.num_particles,
            torch.stack(surrogates).sum() / self.num_particles,
            [check for draw in draws for term in draw.terms.values() for check in term.checks],
        )

    def _plain(self, draws: Sequence[Draw]) -> list[dict[str, Term]]:
        return [{name: t.summed() for name, t in draw.terms.items()} for draw in draws]

    def _weighed(self, draws: Sequence[Draw]) -> list[dict[str, Term]]:
        freed = self.free_bits([draw.terms for draw in draws])
        return [{name: t.times(self.beta) for name, t in terms.items()} for terms in freed]

    def _value(self, objective: Objective) -> float:
        value = self._flags.settle(objective.loss, objective.checks)
        warn_if_nan(objective.loss.new_tensor(value), "loss")
        return value

    # -------------------------------------------------------------------- by datum

    def _terms(self, draws: list[Draw]) -> dict[str, Tensor]:
        frame = find_plate(draws[0].model.nodes)
        by_datum = _ByDatum(frame, self.num_particles)
        likelihood = by_datum.sites(
            {name: (node, node["log_prob"]) for name, node in draw.observed()} for draw in draws
        )
        kls, freed = (
            by_datum.sites(
                {name: (draw.guide.nodes[name], t.exact + t.sampled) for name, t in terms.items()}
                for draw, terms in zip(draws, all_terms, strict=True)
            )
            for all_terms in (self._plain(draws), self._weighed(draws))
        )
        found = {f"log_likelihood.{name}": value for name, value in likelihood.items()}
        found |= {f"kl.{name}": value for name, value in kls.items()}
        total = {
            "log_likelihood": by_datum.sum(likelihood),
            "kl": by_datum.sum(kls),
            "weighed": by_datum.sum(freed),
        }
        elbo = total["log_likelihood"] - total["kl"]
        objective = total["log_likelihood"] - total.pop("weighed")
        return {"elbo": elbo, "objective": objective, **total, **found}


class _ByDatum:
    """Sums over sites by datum, means over draws."""

    def __init__(self, frame: Any, num_particles: int) -> None:
        self.frame, self.num_particles = frame, num_particles
        self.weight = subsampling(frame)

    def sites(self, draws: Any) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for draw in draws:
            for name, (node, value) in draw.items():
                row = rows(value, node, self.frame) / self.num_particles
                sums[name] = sums[name] + row if name in sums else row
        return {name: value / self._share(value) for name, value in sums.items()}

    def _share(self, value: Tensor) -> float:
        return self.weight if value.dim() else 1.0

    def sum(self, sites: Mapping[str, Tensor]) -> Tensor:
        """Sum over the sites in the data plate; over all if there is none."""
        inside = [v for v in sites.values() if self.frame is None or v.dim()]
        if inside:
            return torch.stack(inside).sum(0)
        return torch.zeros(() if self.frame is None else self.frame.size)


def checked_beta(beta: float | Tensor) -> float | Tensor:
    """Return beta, or raise ValueError if it is none.

    Arguments:
        beta: A number that is not negative, or a 0-dim tensor.
    """
    if isinstance(beta, Tensor):
        if beta.dim():
            raise ValueError(
                f"beta must be one number, not a tensor of shape {tuple(beta.shape)}."
            )
        return beta
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta < float("inf"):
        raise ValueError(f"beta must be a number that is not negative, not {beta!r}.")
    return beta
