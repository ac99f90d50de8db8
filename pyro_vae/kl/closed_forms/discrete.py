"""Discrete pairs, sum_x q(x) log(q(x) / p(x)).

Masses sum to one on both sides, so the sum is also that of p - q + q log(q / p), whose terms are
non-negative and of second order near q = p. Written in logits wherever logits are what the
distribution was made of, so that no probability has to round to 0 or 1. A value of x that q never
takes adds its p alone; where p alone never takes it the KL is infinite, which
`pyro_vae.kl.finiteness` sees.
"""

from __future__ import annotations

__all__ = ["bernoulli", "chances"]

from typing import Any, NamedTuple

import torch
import torch.distributions as td
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.kl.remainders import mass_excess, rate_excess
from pyro_vae.kl.table import register

AnyOneHot = td.OneHotCategorical | td.OneHotCategoricalStraightThrough


class Chances(NamedTuple):
    """Probabilities and their logarithms, of 1 and of 0.

    Arguments:
        one: The probability of 1.
        log_one: Its logarithm, 0 where the probability is 0.
        zero: The probability of 0.
        log_zero: Its logarithm, likewise.
    """

    one: Tensor
    log_one: Tensor
    zero: Tensor
    log_zero: Tensor


def chances(d: Any) -> Chances:
    """Probabilities of 1 and 0, from logits if `d` was made of logits.

    Arguments:
        d: A distribution with `probs` and `logits`.

    Returns:
        The probabilities and their logarithms.

    Example:
        >>> chances(td.Bernoulli(torch.tensor(0.25))).zero.item()
        0.75
    """
    if "logits" in vars(d):
        log_1, log_0 = logsigmoid(d.logits), logsigmoid(-d.logits)
        return Chances(log_1.exp(), log_1, log_0.exp(), log_0)
    return Chances(d.probs, _log(d.probs), 1 - d.probs, _log(1 - d.probs))


def bernoulli(q: Chances, p: Chances) -> Tensor:
    """Sum over x in {0, 1} of p(x) - q(x) + q(x) log(q(x) / p(x)).

    Arguments:
        q: The probabilities of q.
        p: The probabilities of p.

    Returns:
        The KL between the Bernoullis.

    Example:
        >>> q, p = (chances(td.Bernoulli(torch.tensor(v))) for v in (0.0, 0.5))
        >>> round(bernoulli(q, p).item(), 4)  # log 2
        0.6931
    """
    one = mass_excess(q.one, p.one, p.log_one - q.log_one)
    zero = mass_excess(q.zero, p.zero, p.log_zero - q.log_zero)
    return one + zero


@register(td.Bernoulli, td.Bernoulli)
def _bernoulli(q: td.Bernoulli, p: td.Bernoulli) -> Tensor:
    """Sum over x in {0, 1} of p(x) - q(x) + q(x) log(q(x) / p(x))."""
    return bernoulli(chances(q), chances(p))


@register(td.Categorical, td.Categorical)
def _categorical(q: td.Categorical, p: td.Categorical) -> Tensor:
    """Sum over the categories of p(x) - q(x) + q(x) log(q(x) / p(x))."""
    (mass, log_q), (prior, log_p) = _many(q), _many(p)
    # a category that q lacks adds its prior mass; one that p lacks makes the KL infinite
    common = min(mass.shape[-1], prior.shape[-1])
    mass, log_q, met, log_p = (t[..., :common] for t in (mass, log_q, prior, log_p))
    return mass_excess(mass, met, log_p - log_q).sum(-1) + prior[..., common:].sum(-1)


@register(td.OneHotCategorical, td.OneHotCategorical)
@register(td.OneHotCategorical, td.OneHotCategoricalStraightThrough)
@register(td.OneHotCategoricalStraightThrough, td.OneHotCategorical)
@register(td.OneHotCategoricalStraightThrough, td.OneHotCategoricalStraightThrough)
def _one_hot(q: AnyOneHot, p: AnyOneHot) -> Tensor:
    """The KL of the categories."""
    return _categorical(q._categorical, p._categorical)


@register(td.Multinomial, td.Multinomial)
def _multinomial(q: td.Multinomial, p: td.Multinomial) -> Tensor:
    """N times the KL of the categories, n being the count of both sides."""
    return q.total_count * _categorical(q._categorical, p._categorical)


@register(td.Geometric, td.Geometric)
def _geometric(q: td.Geometric, p: td.Geometric) -> Tensor:
    """The KL of the Bernoullis of single trials, divided by q1: that many are made on average."""
    return bernoulli(chances(q), chances(p)) / chances(q).one


@register(td.Poisson, td.Poisson)
def _poisson(q: td.Poisson, p: td.Poisson) -> Tensor:
    """With rates l and m: m - l + l log(l / m), where 0 log 0 = 0."""
    return rate_excess(q.rate, p.rate)


def _many(d: td.Categorical) -> tuple[Tensor, Tensor]:
    """Probabilities and their logarithms, normalised anew in this precision."""
    if "logits" in vars(d):
        log = d.logits.log_softmax(-1)
        return log.exp(), log
    probs = d.probs / d.probs.sum(-1, keepdim=True)
    return probs, _log(probs)


def _log(x: Tensor) -> Tensor:
    """The logarithm, and 0 (with zero gradient) at 0, where no mass is left to meet it."""
    return torch.where(x > 0, x, torch.ones_like(x)).log()
