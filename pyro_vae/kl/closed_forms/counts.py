"""Counts on 0, 1, 2, ...: Poisson, negative binomial (Pólya) and binomial guides.

The term log x! is in every one of these densities, so it cancels: a guide states
A = E log(q(x) x!), a prior B = E log(p(x) x!), and KL = A - B. What is left are means and

    E log[Gamma(x + b) / Gamma(b)] = m psi(b)
        + integral over t > 0 of e^(-bt) [G(t) - 1 + m t] / (t (1 - e^-t)),

with m = E x and G(t) = E e^(-xt), both elementary. The integral (Gauss's for log Gamma) is taken
by the trapezoidal rule in log t, 230 nodes, which is exact to rounding since the integrand is
analytic for |arg t| < pi / 2: no sum over counts is truncated, however large they are. What the
range of t leaves out is below 1e-14 of the value for means up to 1e5 and b above 1e-3.
"""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from pyro.distributions import BetaBinomial, GammaPoisson, ZeroInflatedPoisson
from torch import Tensor

from pyro_vae.kl.closed_forms.discrete import Chances, bernoulli, chances
from pyro_vae.kl.remainders import (
    exp_remainder,
    log1p_excess,
    mass_excess,
    rate_excess,
)
from pyro_vae.kl.special import digamma
from pyro_vae.kl.table import register


class Guide(NamedTuple):
    """What a guide on counts states.

    Arguments:
        known: A = E log(q(x) x!), in nats.
        mean: m = E x.
        transform: The function from t to log G(t) and to log G(t) + m t, of second order in t.
    """

    known: Tensor
    mean: Tensor
    transform: Callable[[Tensor], tuple[Tensor, Tensor]]


class Polya(NamedTuple):
    """A negative binomial: log(p(x) x!) = log[Gamma(x + r) / Gamma(r)] + r log_zero + x log_one.

    Arguments:
        count: r.
        more: The chances of one more (`one`) and of no more (`zero`).
    """

    count: Tensor
    more: Chances


_LEFT, _RIGHT, _STEP = -46.0, 11.5, 0.25


def _integral(integrand: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The integral over t > 0 of integrand(t) / (t (1 - e^-t)), the nodes in a last dimension."""
    t = torch.arange(_LEFT, _RIGHT, _STEP, dtype=like.dtype, device=like.device).exp()
    return _STEP * (integrand(t) / -torch.expm1(-t)).sum(-1)


def _rising(b: Tensor, mean: Tensor, transform: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
    """E log[Gamma(x + b) / Gamma(b)]."""

    def integrand(t: Tensor) -> Tensor:
        return (-b.unsqueeze(-1) * t).exp() * _gap(*transform(t))

    return mean * digamma(b) + _integral(integrand, b)


def _gap(log: Tensor, bend: Tensor) -> Tensor:
    """G - 1 + m t as (G - 1 - log G) + (log G + m t)."""
    return log**2 * exp_remainder(log) + bend


# ---------------------------------------------------------------------------------------- guides
def _poisson(q: td.Poisson) -> Guide:
    """A = l log l - l, log G = -l (1 - e^-t)."""
    rate = q.rate.unsqueeze(-1)

    def transform(t: Tensor) -> tuple[Tensor, Tensor]:
        return rate * torch.expm1(-t), rate * t**2 * exp_remainder(-t)

    return Guide(torch.xlogy(q.rate, q.rate) - q.rate, q.rate, transform)


def _negative_binomial(q: Any) -> Guide:
    """A from the integral, log G = -r log(1 + odds (1 - e^-t))."""
    r, more = _polya(q)
    odds = more.one / more.zero
    count, ratio, mean = r.unsqueeze(-1), odds.unsqueeze(-1), r * odds

    def transform(t: Tensor) -> tuple[Tensor, Tensor]:
        v = -ratio * torch.expm1(-t)
        bend = count * (ratio * t**2 * exp_remainder(-t) + log1p_excess(v))
        return -count * torch.log1p(v), bend

    known = _rising(r, mean, transform) + r * more.log_zero + mean * more.log_one
    return Guide(known, mean, transform)


def _binomial(q: td.Binomial) -> Guide:
    """A from the integral of the failures, log G = n log(1 - q1 (1 - e^-t))."""
    n, one = q.total_count, chances(q)
    failures = _rising(torch.ones_like(n), n * one.zero, _successes(n, one.zero))
    entropy = n * (one.one * one.log_one + one.zero * one.log_zero)
    return Guide(torch.lgamma(n + 1) - failures + entropy, n * one.one, _successes(n, one.one))


def _successes(n: Tensor, chance: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The transform of the number of successes in n trials."""
    n, chance = n.unsqueeze(-1), chance.unsqueeze(-1)

    def transform(t: Tensor) -> tuple[Tensor, Tensor]:
        v = chance * torch.expm1(-t)
        return n * torch.log1p(v), n * (chance * t**2 * exp_remainder(-t) - log1p_excess(v))

    return transform


# ---------------------------------------------------------------------------------------- priors
def _poisson_prior(p: td.Poisson, q: Guide) -> Tensor:
    """B = m log l - l."""
    return q.mean * p.rate.log() - p.rate


def _polya_prior(p: Any, q: Guide) -> Tensor:
    """B from the integral."""
    r, more = _polya(p)
    return _rising(r, q.mean, q.transform) + r * more.log_zero + q.mean * more.log_one


def _polya(d: Any) -> Polya:
    """Read as a negative binomial: Geometric has r = 1, GammaPoisson odds 1 / rate."""
    if isinstance(d, td.Geometric):
        stop = chances(d)
        more = Chances(stop.zero, stop.log_zero, stop.one, stop.log_one)
        return Polya(torch.ones_like(stop.one), more)
    if isinstance(d, GammaPoisson):
        rate, total = d.rate, torch.log1p(d.rate)
        return Polya(
            d.concentration, Chances(1 / (1 + rate), -total, rate / (1 + rate), rate.log() - total)
        )
    return Polya(d.total_count, chances(d))


_POLYA = (td.NegativeBinomial, td.Geometric, GammaPoisson)
_GUIDES = {
    td.Poisson: _poisson,
    td.Binomial: _binomial,
    **dict.fromkeys(_POLYA, _negative_binomial),
}
_PRIORS = {td.Poisson: _poisson_prior, **dict.fromkeys(_POLYA, _polya_prior)}


def _pair(guide: Callable[..., Guide], prior: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def form(q: Any, p: Any) -> Tensor:
        """E log(q(x) x!) - E log(p(x) x!)."""
        known = guide(q)
        return known.known - prior(p, known)

    return form


for _q, _guide in _GUIDES.items():
    for _p, _prior in _PRIORS.items():
        if _q is not _p and not (_q in _POLYA and _p in _POLYA):
            register(_q, _p)(_pair(_guide, _prior))


# --------------------------------------------------------------------------------- same families
def _damped(a: Tensor, d: Tensor) -> Tensor:
    """e^-a (e^-d - 1 + d), where a + d >= 0."""
    near = d.abs() < 1
    small, far = torch.where(near, d, 0.0), torch.where(near, 1.0, d)
    value = (-a).exp() * small**2 * exp_remainder(-small)
    return torch.where(near, value, (-(a + far)).exp() - (-a).exp() * (1 - far))


@register(td.Binomial, td.Binomial)
def _two_binomials(q: td.Binomial, p: td.Binomial) -> Tensor:
    """N KL(Bernoulli) + E log C(n, x) / C(m, x) - (m - n) log p(0), for counts n <= m.

    With y = n - x and b = m - n + 1 the second term is log n! / m! plus
    E log Gamma(y + b) / Gamma(y + 1); all but the first vanish for n = m.
    """
    n, m = q.total_count, p.total_count
    here, there = chances(q), chances(p)
    failures, one, b = _successes(n, here.zero), torch.ones_like(n), m - n + 1

    def integrand(t: Tensor) -> Tensor:
        weights = (-b.unsqueeze(-1) * t).exp() - (-t).exp()
        return weights * _gap(*failures(t))

    fixed = torch.lgamma(n + 1) - torch.lgamma(m + 1) + torch.lgamma(b)
    fixed = fixed + n * here.zero * (digamma(b) - digamma(one)) - (m - n) * there.log_zero
    return n * bernoulli(here, there) + fixed + _integral(integrand, b)


def _two_polyas(q: Any, p: Any) -> Tensor:
    """R(r, d) - E R(x + r, d) + d log(q0 / p0) + (r / q0) KL(Bernoulli), in remainders.

    With d the difference of the counts, R(a, d) = log Gamma(a + d) - log Gamma(a) - d psi(a) and
    q0, p0 the chances of no more. The first two terms are the integral over t of
    (1 - G(t)) e^(-rt) (e^(-dt) - 1 + dt) / (t (1 - e^-t)).
    """
    (r, here), (other, there) = _polya(q), _polya(p)
    d = other - r
    odds = (here.one / here.zero).unsqueeze(-1)
    count, step = r.unsqueeze(-1), d.unsqueeze(-1)

    def integrand(t: Tensor) -> Tensor:
        taken = -torch.expm1(-count * torch.log1p(-odds * torch.expm1(-t)))
        return taken * _damped(count * t, step * t)

    trials = r / here.zero * bernoulli(here, there)
    return _integral(integrand, r) + d * (here.log_zero - there.log_zero) + trials


for _q in _POLYA:
    for _p in _POLYA:
        if (_q, _p) != (td.Geometric, td.Geometric):
            register(_q, _p)(_two_polyas)


@register(ZeroInflatedPoisson, ZeroInflatedPoisson)
def _zero_inflated(q: Any, p: Any) -> Tensor:
    """The KL of "is it 0", and the chance that it is not times that of the truncated Poissons.

    With s = 1 - e^-l and d = l_p - l_q the latter is, times s, of second order in d:
    R(l) - R(s) - e^-l (e^-d - 1 + d), where R(x) = x_p - x + x log(x / x_p).
    """
    (gate, rate), (prior_gate, prior_rate) = _gated(q), _gated(p)
    s, prior_s = (-torch.expm1(-t) for t in (rate, prior_rate))
    truncated = rate_excess(rate, prior_rate) - rate_excess(s, prior_s)
    truncated = truncated - _damped(rate, prior_rate - rate)
    one, prior_one = (1 - gate) * s, (1 - prior_gate) * prior_s
    zero, prior_zero = 1 - one, 1 - prior_one
    return rate_excess(one, prior_one) + rate_excess(zero, prior_zero) + (1 - gate) * truncated


def _gated(d: Any) -> tuple[Tensor, Tensor]:
    gate = d.gate if "gate" in vars(d) else d.gate_logits.sigmoid()
    return gate, d.base_dist.rate


@register(BetaBinomial, BetaBinomial)
def _beta_binomial(q: BetaBinomial, p: BetaBinomial) -> Tensor:
    """Sum over x of p(x) - q(x) + q(x) log(q(x) / p(x)), by enumeration."""
    n = q.total_count
    x = torch.arange(int(n.max()) + 1, dtype=n.dtype, device=n.device)
    x = x.reshape((-1,) + (1,) * n.dim())
    possible = x <= torch.minimum(n, p.total_count)
    x = torch.where(possible, x, 0.0)
    log_q, log_p = q.log_prob(x), p.log_prob(x)
    mass, prior = (torch.where(possible, t.exp(), 0.0) for t in (log_q, log_p))
    # with a larger count p has mass beyond that of q
    beyond = torch.where(n == p.total_count, 0.0, 1 - prior.sum(0))
    return mass_excess(mass, prior, log_p - log_q).sum(0) + beyond
