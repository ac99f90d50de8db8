"""`TraceIWAE_ELBO`: the importance-weighted bound, datum by datum.

    L_K(x) = E[ log 1/K sum_k w_k ] <= log p(x),   w_k = p(x, z_k) / q(z_k),  z_1 ... z_K ~ q(z|x).

A plate of N data of which B are at hand multiplies log densities by N / B. Inside the logarithm
of a mean that weight would temper the importance weights, and the bound would be none: here it
stands outside, as N / B sum_b L_K(x_b).

With wbar_k = w_k / sum_j w_j, the gradients of the guide's parameters are

* `standard`: sum_k wbar_k d log w_k, draws and densities alike, whose signal-to-noise ratio
  falls as K grows;
* `stl`: sum_k wbar_k (d log w_k / dz_k) dz_k/dphi: less noise, but biased for K > 1;
* `dreg`: sum_k wbar_k^2 (d log w_k / dz_k) dz_k/dphi: unbiased, and its ratio does not fall; with
  beta, whose weights hold q(z_k)^-beta, wbar_k (1 - beta (1 - wbar_k)) stands for wbar_k^2.

Those of the model's parameters are sum_k wbar_k d log p(x, z_k) in all three. A draw that is not
reparameterised takes the score function, with the bound of the other draws taken off (VIMCO).

References:
    Importance weighted autoencoders (Y. Burda, R. Grosse, R. Salakhutdinov, 2016);
    Tighter variational bounds are not necessarily better (T. Rainforth et al., 2018);
    Doubly reparameterized gradient estimators for Monte Carlo objectives (G. Tucker, D. Lawson,
    S. Gu, C. J. Maddison, 2019);
    Variational inference for Monte Carlo objectives (A. Mnih, D. J. Rezende, 2016)
"""

from __future__ import annotations

__all__ = ["TraceIWAE_ELBO"]

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import is_identically_zero
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pyro_vae.infer.bound import Bound, Draw, Objective
from pyro_vae.infer.cut import Cut, path
from pyro_vae.infer.rows import PARTICLES, find_plate, rows, subsampling
from pyro_vae.infer.score import samples
from pyro_vae.infer.terms import Term, guide_term, pair_term

GRADIENTS = ("standard", "stl", "dreg")
WHY = "importance weights need log q(z) at a draw"


class TraceIWAE_ELBO(Bound):
    """L_K(x) = E[log 1/K sum_k p(x, z_k) / q(z_k)], a bound on log p(x) for each datum.

    It is the ELBO for K = 1, and comes nearer to log p(x) as K grows. Data are the plate that the
    observed sites share; latent sites must lie in it, unless nothing is subsampled and there is
    no such plate (then all is one datum).

    Arguments:
        num_particles: K.
        gradient: "standard", "stl" or "dreg"; the last two need a reparameterised guide.
        **options: `beta`, `free_bits`, `free_bits_per`, `check_every`, as `infer.Bound` has
            them, and those of `pyro.infer.Trace_ELBO`. With beta, w = p(x|z) (p(z) / q(z))^beta;
            free bits take max(lambda - KL, 0) off, with the KL of the same draws.

    Raises:
        ValueError: When called, if what is subsampled or lies outside the data plate leaves no
            bound, if a KL is infinite or undefined, or if the guide does not draw a latent site.
        NotImplementedError: When called, if "stl" or "dreg" meet a site that is not
            reparameterised, or sites that are scaled differently, or free bits the former.

    References:
        Importance weighted autoencoders (Y. Burda, R. Grosse, R. Salakhutdinov, 2016)

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> elbo = TraceIWAE_ELBO(10, gradient="dreg", vectorize_particles=True)
        >>> x = torch.linspace(-1, 1, 5)
        >>> log_p = dist.Normal(0.0, 2**0.5).log_prob(x).sum()
        >>> abs(elbo.loss(model, guide, x) + log_p.item()) < 1e-4  # the guide is the posterior
        True
    """

    def __init__(self, num_particles: int = 1, gradient: str = "standard", **options: Any) -> None:
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, not {gradient!r}.")
        super().__init__(num_particles=num_particles, **options)
        self.gradient, self.cuts = gradient, gradient != "standard"

    def _pair(self, name: str, q: Any, p: Any, biased: str | None) -> Term:
        return pair_term(name, _by_density(q), p, sample=WHY)

    def _own(self, name: str, q: Any) -> Term:
        return guide_term(name, _by_density(q), strict=False)

    def _combined(self, draws: Sequence[Draw], weighed: Sequence[dict[str, Term]]) -> Objective:
        scores = self._scores(draws)
        layout = _Layout.of(draws[0], self._particle_dim())
        plain = [{n: t.times(self.beta) for n, t in terms.items()} for terms in self._plain(draws)]
        log_w = layout.log_weights(draws, plain)
        bound = layout.scale * self._bound(log_w)
        shortfall = self._shortfall(plain, weighed)
        value = bound.sum() - shortfall
        share = log_w.detach().softmax(0)
        if self.cuts:
            log_q = layout.stacked(draws, _without_whole(draws, plain), lambda t: t.log_q)
            pull = share * (1 - self.beta * (1 - share)) if self.gradient == "dreg" else share
            direct = (share * (log_w + log_q)).sum() * layout.scale - shortfall
            through = (pull * log_w).sum() * layout.scale - shortfall
            surrogate = direct + _paths(through, draws)
        else:
            surrogate = value
            if scores:
                score = layout.scores(draws, scores)
                surrogate = value + layout.scale * (_vimco(log_w.detach()) * score).sum()
        checks = [check for draw in draws for term in draw.terms.values() for check in term.checks]
        return Objective(-value.detach(), -surrogate, checks)

    def _bound(self, log_w: Tensor) -> Tensor:
        return log_w.logsumexp(0) - math.log(self.num_particles)

    def _terms(self, draws: list[Draw]) -> dict[str, Tensor]:
        found, plain = super()._terms(draws), self._plain(draws)
        layout = _Layout.of(draws[0], self._particle_dim())
        tempered = [{n: t.times(self.beta) for n, t in terms.items()} for terms in plain]
        freed = found["log_likelihood"] - self.beta * found["kl"] - found["objective"]
        objective = self._bound(layout.log_weights(draws, tempered)) - freed
        return {
            **found,
            "elbo": self._bound(layout.log_weights(draws, plain)),
            "objective": objective,
        }

    def _particle_dim(self) -> int:
        vectorised = self.vectorize_particles and self.num_particles > 1
        return -int(self.max_plate_nesting) if vectorised else 0

    def _shortfall(
        self, plain: Sequence[dict[str, Term]], weighed: Sequence[dict[str, Term]]
    ) -> Tensor:
        """What free bits add to the KLs, a mean over particles."""
        pairs = zip(plain, weighed, strict=True)
        added = [
            (floored[n].exact + floored[n].sampled - terms[n].sampled).sum()
            for terms, floored in pairs
            for n in terms
        ]
        return torch.stack(added).sum() / self.num_particles

    def _scores(self, draws: Sequence[Draw]) -> list[str]:
        """The guide's sites that are not reparameterised."""
        found = [
            name
            for name, node in samples(draws[0].guide)
            if not is_identically_zero(node["score_parts"].score_function)
        ]
        refused = f"gradient={self.gradient!r}" if self.cuts else ""
        if found and (refused or any(self.free_bits[name] for name in draws[0].terms)):
            raise NotImplementedError(
                f"site {found[0]!r} is not reparameterised, which {refused or 'free_bits'} needs "
                'here; take gradient="standard" without free_bits.'
            )
        return found


def _by_density(q: Any) -> Any:
    """A guide's site whose log q keeps the direct gradient of its parameters.

    Inside a weight that gradient has no expectation of zero, unless there is one weight only.
    """
    parts = q["score_parts"]
    return {**q, "score_parts": parts._replace(entropy_term=parts.log_prob)}


def _without_whole(
    draws: Sequence[Draw], terms: Sequence[dict[str, Term]]
) -> list[dict[str, Term]]:
    """The terms with log q = 0 at sites that keep their whole gradient."""

    def freed(draw: Draw, name: str, term: Term) -> Term:
        whole = draw.cut is not None and name in draw.cut.whole
        return term._replace(log_q=torch.zeros_like(term.sampled)) if whole else term

    return [
        {name: freed(draw, name, term) for name, term in own.items()}
        for draw, own in zip(draws, terms, strict=True)
    ]


def _paths(total: Tensor, draws: Sequence[Draw]) -> Tensor:
    cut = Cut()
    for i, draw in enumerate(draws):
        assert draw.cut is not None
        cut.sites |= {f"{i} {name}": pair for name, pair in draw.cut.sites.items()}
    return path(total, cut)


def _vimco(log_w: Tensor) -> Tensor:
    """The bound less that of the other draws, whose mean logarithm stands for the one left out."""
    count = len(log_w)
    bound = log_w.logsumexp(0, keepdim=True) - math.log(count)
    if count == 1:
        return bound
    others = (log_w.sum(0, keepdim=True) - log_w) / (count - 1)
    left_out = torch.eye(count, dtype=torch.bool, device=log_w.device)
    shape = (count, count, *[1] * (log_w.dim() - 1))
    replaced = torch.where(left_out.reshape(shape), others.unsqueeze(1), log_w.unsqueeze(0))
    return bound - (replaced.logsumexp(1) - math.log(count))


class _Layout(NamedTuple):
    """How the terms of all sites become weights: particles by data, and what stands outside."""

    frame: CondIndepStackFrame | None
    scale: float | Tensor
    particle_dim: int

    @classmethod
    def of(cls, draw: Draw, particle_dim: int) -> _Layout:
        frame = find_plate(draw.model.nodes)
        sites = dict(samples(draw.guide)) | dict(samples(draw.model))
        for name, node in sites.items():
            _check_site(name, node, frame)
        scale, common = _common_scale(sites, frame)
        if draw.cut is not None and not common:
            raise NotImplementedError(
                "sites are scaled differently, so that path-only gradients would not be those of "
                'the objective; take gradient="standard", or scale guide and model alike.'
            )
        return cls(frame, scale, particle_dim)

    def log_weights(self, draws: Sequence[Draw], terms: Sequence[Mapping[str, Term]]) -> Tensor:
        parts = [[(node["log_prob"], node) for _, node in draw.observed()] for draw in draws]
        return self._together(parts) - self.stacked(draws, terms, lambda t: t.sampled)

    def stacked(
        self, draws: Sequence[Draw], terms: Sequence[Mapping[str, Term]], part: Any
    ) -> Tensor:
        parts = [
            [(part(t), draw.guide.nodes[name]) for name, t in own.items()]
            for draw, own in zip(draws, terms, strict=True)
        ]
        return self._together(parts)

    def scores(self, draws: Sequence[Draw], names: Sequence[str]) -> Tensor:
        parts = []
        for draw in draws:
            nodes: dict[str, Any] = dict(draw.guide.nodes)
            sites = [nodes[name] for name in names]
            parts.append([(node["score_parts"].score_function, node) for node in sites])
        return self._together(parts, weighed=False)

    def _together(self, draws: Any, *, weighed: bool = True) -> Tensor:
        """Sums over sites, with shape (particles, data), or (particles,) without a plate."""
        sums = []
        for sites in draws:
            summed = [
                rows(value, node, self.frame, keep=self.particle_dim) for value, node in sites
            ]
            sums.append(torch.as_tensor(sum(summed)))
        together = sums[0] if self.particle_dim else torch.stack(sums)
        return together / self.scale if weighed else together


def _check_site(name: str, node: Any, frame: CondIndepStackFrame | None) -> None:
    frames = [f for f in node["cond_indep_stack"] if f.name != PARTICLES]
    inner = [f for f in frames if frame is None or f.name != frame.name]
    thinned = [f for f in inner if subsampling(f) != 1]
    if thinned:
        raise ValueError(
            f"site {name!r} lies in the plate {thinned[0].name!r}, of which only a part is at "
            "hand: the exponential of such an estimate is biased, and there is no "
            "importance-weighted bound. Take infer.TraceExactKL_ELBO or Trace_ELBO."
        )
    if frame is not None and frame.name not in {f.name for f in frames}:
        raise ValueError(
            f"site {name!r} lies outside the data plate {frame.name!r}, so that the weights do "
            "not factorise over data. Take infer.TraceExactKL_ELBO or Trace_ELBO, or make it a "
            "parameter."
        )


def _common_scale(
    sites: Mapping[str, Any], frame: CondIndepStackFrame | None
) -> tuple[float | Tensor, bool]:
    """The scale that stands outside the bound, and whether it is that of all sites."""
    scales = [node["scale"] for node in sites.values()]
    first = scales[0]
    if any(isinstance(s, Tensor) and s.dim() for s in scales):
        raise NotImplementedError(
            "sites are scaled datum by datum, which TraceIWAE_ELBO does not do; weigh the bounds "
            'of the data yourself: elbo.terms(model, guide, *args)["elbo"].'
        )
    if all(s is first or _equal(s, first) for s in scales):
        return first, True
    warnings.warn(
        "sites are scaled differently, so that the weights are tempered and the importance-"
        "weighted objective is no bound on log p(x).",
        stacklevel=2,
    )
    return subsampling(frame), False


def _equal(a: Any, b: Any) -> bool:
    numbers = not any(isinstance(s, Tensor) for s in (a, b))
    return numbers and a == b
