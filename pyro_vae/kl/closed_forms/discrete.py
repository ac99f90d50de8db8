"""Discrete pairs, sum_x q(x) log(q(x) / p(x)).

Written in logits wherever logits are what the distribution was made of, so that no probability
has to round to 0 or 1. A value of x that q never takes adds nothing; where p alone never takes
it the KL is infinite, which `pyro_vae.kl.finiteness` sees.
"""

from __future__ import annotations

__all__: list[str] = []

import torch
import torch.distributions as td
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.kl.table import register

AnyOneHot = td.OneHotCategorical | td.OneHotCategoricalStraightThrough


@register(td.Bernoulli, td.Bernoulli)
def _bernoulli(q: td.Bernoulli, p: td.Bernoulli) -> Tensor:
    """Sum over x in {0, 1} of q(x) [log q(x) - log p(x)]."""
    (q1, log_q1, q0, log_q0), (_, log_p1, _, log_p0) = _two(q), _two(p)
    return q1 * (log_q1 - log_p1) + q0 * (log_q0 - log_p0)


@register(td.Categorical, td.Categorical)
def _categorical(q: td.Categorical, p: td.Categorical) -> Tensor:
    """Sum over the categories of q of q(x) [log q(x) - log p(x)]."""
    (mass, log_q), (_, log_p) = _many(q), _many(p)
    # categories beyond those of q have no mass; those beyond p's make it infinite
    common = min(log_q.shape[-1], log_p.shape[-1])
    return (mass * log_q).sum(-1) - (mass[..., :common] * log_p[..., :common]).sum(-1)


@register(td.OneHotCategorical, td.OneHotCategorical)
@register(td.OneHotCategorical, td.OneHotCategoricalStraightThrough)
@register(td.OneHotCategoricalStraightThrough, td.OneHotCategorical)
@register(td.OneHotCategoricalStraightThrough, td.OneHotCategoricalStraightThrough)
def _one_hot(q: AnyOneHot, p: AnyOneHot) -> Tensor:
    """The KL of the categories."""
    return _categorical(q._categorical, p._categorical)


@register(td.Binomial, td.Binomial)
def _binomial(q: td.Binomial, p: td.Binomial) -> Tensor:
    """E log C(n, x) / C(m, x) + n KL(Bernoulli) - (m - n) log p(0), by enumeration of x.

    The first term vanishes for equal counts n = m; there is no closed form of it otherwise.
    """
    n, m = q.total_count, p.total_count
    (q1, log_q1, q0, log_q0), (_, log_p1, _, log_p0) = _two(q), _two(p)
    trials = n * (q1 * (log_q1 - log_p1) + q0 * (log_q0 - log_p0)) - (m - n) * log_p0
    x = torch.arange(int(n.max()) + 1, dtype=n.dtype, device=n.device)
    x = x.reshape((-1,) + (1,) * n.dim())
    possible = x <= torch.minimum(n, m)
    x = torch.where(possible, x, torch.zeros_like(x))
    rest = torch.lgamma(n + 1) - torch.lgamma(m + 1)
    log_counts = rest + torch.lgamma(m - x + 1) - torch.lgamma(n - x + 1)
    mass = torch.where(possible, q.log_prob(x).exp(), 0.0)
    return (mass * log_counts).sum(0) + trials


@register(td.Geometric, td.Geometric)
def _geometric(q: td.Geometric, p: td.Geometric) -> Tensor:
    """(log q1 - log p1) + (q0 / q1) (log q0 - log p0), in logits."""
    a, b = q.logits, p.logits
    return logsigmoid(a) - logsigmoid(b) + (-a).exp() * (logsigmoid(-a) - logsigmoid(-b))


@register(td.Poisson, td.Poisson)
def _poisson(q: td.Poisson, p: td.Poisson) -> Tensor:
    """With rates l and m: l log(l / m) - l + m, where 0 log 0 = 0."""
    return torch.xlogy(q.rate, q.rate) - torch.xlogy(q.rate, p.rate) - q.rate + p.rate


def _two(d: td.Bernoulli | td.Binomial) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probability and its logarithm, of 1 and of 0."""
    if "logits" in vars(d):
        log_1, log_0 = logsigmoid(d.logits), logsigmoid(-d.logits)
        return log_1.exp(), log_1, log_0.exp(), log_0
    return d.probs, _log(d.probs), 1 - d.probs, _log(1 - d.probs)


def _many(d: td.Categorical) -> tuple[Tensor, Tensor]:
    """Probabilities and their logarithms."""
    if "logits" in vars(d):
        return d.logits.exp(), d.logits
    return d.probs, _log(d.probs)


def _log(x: Tensor) -> Tensor:
    """The logarithm, and 0 (with zero gradient) at 0, where no mass is left to meet it."""
    return torch.where(x > 0, x, torch.ones_like(x)).log()
