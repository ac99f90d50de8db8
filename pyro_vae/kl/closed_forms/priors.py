"""Columns of the statistics table: -E_q log p of each prior, from statistics of q.

Each is -log p(x) with its functions of x replaced by their expectations; (x - a)^2 becomes
Var x + (E x - a)^2, for the two moments apart keep more digits than E x^2.
"""

from __future__ import annotations

__all__: list[str] = []

import math

import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae.distributions import LogitNormal
from pyro_vae.kl.closed_forms.continuous_bernoulli import log_partition
from pyro_vae.kl.special import log_beta
from pyro_vae.kl.statistics import Statistics, column

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@column(td.Normal, needs=("mean", "variance"))
def _normal(p: td.Normal, q: Statistics) -> Tensor:
    """(1/2) log(2 pi s^2) + [Var x + (E x - a)^2] / 2 s^2."""
    return _gaussian(p, q.mean(), q.variance())


@column(td.Laplace, needs=("abs_deviation",))
def _laplace(p: td.Laplace, q: Statistics) -> Tensor:
    """Cross-entropy log 2b + E|x - a| / b."""
    return math.log(2) + p.scale.log() + q.abs_deviation(p.loc) / p.scale


@column(td.Gumbel, needs=("mean", "exp_decay"))
def _gumbel(p: td.Gumbel, q: Statistics) -> Tensor:
    """Cross-entropy log c + (E x - a) / c + exp(a / c) E exp(-x / c)."""
    growth = q.exp_decay(p.loc, p.scale)
    return p.scale.log() + (q.mean() - p.loc) / p.scale + growth


@column(td.Beta, needs=("log", "logit"))
def _beta(p: td.Beta, q: Statistics) -> Tensor:
    """Log B(a, b) - (a - 1) E log x - (b - 1) E log(1 - x)."""
    a, b = p.concentration1, p.concentration0
    return log_beta(a, b) - (a - 1) * q.log() - (b - 1) * (q.log() - q.logit())


@column(td.Gamma, needs=("log", "mean"))
def _gamma(p: td.Gamma, q: Statistics) -> Tensor:
    """Cross-entropy log Gamma(c) - c log e - (c - 1) E log x + e E x."""
    c, rate = p.concentration, p.rate
    return torch.lgamma(c) - c * rate.log() - (c - 1) * q.log() + rate * q.mean()


column(td.Chi2, needs=("log", "mean"))(_gamma)


@column(td.Exponential, needs=("mean",))
def _exponential(p: td.Exponential, q: Statistics) -> Tensor:
    """-log e + e E x."""
    return p.rate * q.mean() - p.rate.log()


@column(td.InverseGamma, needs=("log", "power"))
def _inverse_gamma(p: td.InverseGamma, q: Statistics) -> Tensor:
    """Cross-entropy log Gamma(c) - c log e + (c + 1) E log x + e E 1/x."""
    c, rate = p.concentration, p.rate
    inverse = q.power(-torch.ones_like(rate), rate)
    return torch.lgamma(c) - c * rate.log() + (c + 1) * q.log() + inverse


@column(td.LogNormal, needs=("log", "log_variance"))
def _log_normal(p: td.LogNormal, q: Statistics) -> Tensor:
    """E log x + (1/2) log(2 pi s^2) + [Var log x + (E log x - m)^2] / 2 s^2."""
    return q.log() + _gaussian(p, q.log(), q.log_variance())


@column(td.Weibull, needs=("log", "power"))
def _weibull(p: td.Weibull, q: Statistics) -> Tensor:
    """-log k + k log l - (k - 1) E log x + E x^k / l^k."""
    k = p.concentration
    return k * p.scale.log() - k.log() - (k - 1) * q.log() + q.power(k, p.scale)


@column(td.HalfNormal, needs=("mean", "variance"))
def _half_normal(p: td.HalfNormal, q: Statistics) -> Tensor:
    """(1/2) log(pi s^2 / 2) + E x^2 / 2 s^2."""
    square = q.variance() + q.mean() ** 2
    return 0.5 * math.log(math.pi / 2) + p.scale.log() + square / (2 * p.scale**2)


@column(td.Pareto, needs=("log",))
def _pareto(p: td.Pareto, q: Statistics) -> Tensor:
    """-log a - a log m + (a + 1) E log x, for q on [m, inf)."""
    return (p.alpha + 1) * q.log() - p.alpha.log() - p.alpha * p.scale.log()


@column(LogitNormal, needs=("log", "logit", "logit_variance"))
def _logit_normal(p: LogitNormal, q: Statistics) -> Tensor:
    """E log x(1 - x) + (1/2) log(2 pi s^2) + [Var logit x + (E logit x - m)^2] / 2 s^2."""
    jacobian = 2 * q.log() - q.logit()
    return jacobian + _gaussian(p, q.logit(), q.logit_variance())


@column(td.ContinuousBernoulli, needs=("mean",))
def _continuous_bernoulli(p: td.ContinuousBernoulli, q: Statistics) -> Tensor:
    """A(logits) - logits E x, A the logarithm of the partition function."""
    return log_partition(p.logits) - p.logits * q.mean()


@column(td.Uniform, needs=())
def _uniform(p: td.Uniform, q: Statistics) -> Tensor:
    """log(high - low), for q on a part of [low, high]."""
    return (p.high - p.low).log()


def _gaussian(p: td.Normal | td.LogNormal | LogitNormal, mean: Tensor, variance: Tensor) -> Tensor:
    """-E log N(y; loc, scale) for a variable y of this mean and variance."""
    square = variance + (mean - p.loc) ** 2
    return _HALF_LOG_2PI + p.scale.log() + square / (2 * p.scale**2)
