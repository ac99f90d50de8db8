"""Rows of the statistics table: what each guide knows about itself.

Formulas hold for every admissible parameter; where an expectation diverges it is +inf. Sources:
Continuous univariate distributions, volumes 1 and 2 (N. L. Johnson, S. Kotz, N. Balakrishnan,
1994 and 1995) for moments and entropies; the expectations of |x - a| are integrals by parts.
"""

from __future__ import annotations

__all__: list[str] = []

import math

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.nn.functional import softplus

from pyro_vae.kl.closed_forms.continuous_bernoulli import log_partition
from pyro_vae.kl.special import EULER, digamma, exp1, log_beta, trigamma
from pyro_vae.kl.statistics import Statistics, row

_HALF_LOG_2PI_E = 0.5 * math.log(2 * math.pi * math.e)


# ---------------------------------------------------------------------------- the real line
@row(td.Normal)
class _Normal(Statistics):
    """Normal(loc, scale)."""

    def entropy(self) -> Tensor:
        return _HALF_LOG_2PI_E + self.q.scale.log()

    def mean(self) -> Tensor:
        return self.q.loc

    def abs_deviation(self, a: Tensor) -> Tensor:
        delta, s = self.q.loc - a, self.q.scale
        d = delta / s
        peak = math.sqrt(2 / math.pi) * s * (-0.5 * d**2).exp()
        return peak + delta * torch.erf(d / math.sqrt(2))

    def exp_decay(self, a: Tensor, c: Tensor) -> Tensor:
        return ((a - self.q.loc) / c + 0.5 * (self.q.scale / c) ** 2).exp()


@row(td.Laplace)
class _Laplace(Statistics):
    """Laplace(loc, scale)."""

    def entropy(self) -> Tensor:
        return 1 + math.log(2) + self.q.scale.log()

    def mean(self) -> Tensor:
        return self.q.loc

    def variance(self) -> Tensor:
        return 2 * self.q.scale**2

    def exp_decay(self, a: Tensor, c: Tensor) -> Tensor:
        ratio = self.q.scale / c
        return self.where(ratio < 1, ((a - self.q.loc) / c).exp() / (1 - ratio**2))


@row(dist.Logistic)
class _Logistic(Statistics):
    """Logistic(loc, scale)."""

    def entropy(self) -> Tensor:
        return 2 + self.q.scale.log()

    def mean(self) -> Tensor:
        return self.q.loc

    def variance(self) -> Tensor:
        return (math.pi * self.q.scale) ** 2 / 3

    def abs_deviation(self, a: Tensor) -> Tensor:
        d = (self.q.loc - a) / self.q.scale
        return self.q.scale * (softplus(d) + softplus(-d))

    def exp_decay(self, a: Tensor, c: Tensor) -> Tensor:
        ratio = self.q.scale / c
        return self.where(ratio < 1, ((a - self.q.loc) / c).exp() / torch.sinc(ratio))


@row(td.Gumbel)
class _Gumbel(Statistics):
    """Gumbel(loc, scale)."""

    def entropy(self) -> Tensor:
        return self.q.scale.log() + EULER + 1

    def mean(self) -> Tensor:
        return self.q.loc + EULER * self.q.scale

    def variance(self) -> Tensor:
        return (math.pi * self.q.scale) ** 2 / 6

    def abs_deviation(self, a: Tensor) -> Tensor:
        d = (self.q.loc - a) / self.q.scale
        # beyond d = 6 the integral E_1 is below 1e-178, and before -37 it is -EULER - d
        middle = EULER + d + 2 * exp1(d.clamp(min=-37, max=6).exp())
        return self.q.scale * torch.where(d < -37, -EULER - d, middle)


@row(td.StudentT)
class _StudentT(Statistics):
    """StudentT(df, loc, scale)."""

    def entropy(self) -> Tensor:
        nu, half = self.q.df, (self.q.df + 1) / 2
        spread = half * (digamma(half) - digamma(nu / 2))
        return (
            self.q.scale.log() + spread + nu.log() / 2 + log_beta(nu / 2, torch.full_like(nu, 0.5))
        )

    def mean(self) -> Tensor:
        return self.where(self.q.df > 1, self.q.loc)

    def variance(self) -> Tensor:
        nu = self.q.df
        return self.where(nu > 2, self.q.scale**2 * nu / (nu - 2))


# ------------------------------------------------------------------------ the positive half-line
@row(td.Gamma, td.Chi2)
class _Gamma(Statistics):
    """Gamma(concentration, rate)."""

    @property
    def shape(self) -> Tensor:
        return self.q.concentration

    def entropy(self) -> Tensor:
        a = self.shape
        return a - self.q.rate.log() + torch.lgamma(a) + (1 - a) * digamma(a)

    def mean(self) -> Tensor:
        return self.shape / self.q.rate

    def variance(self) -> Tensor:
        return self.shape / self.q.rate**2

    def exp_decay(self, a: Tensor, c: Tensor) -> Tensor:
        return (a / c - self.shape * (1 / (self.q.rate * c)).log1p()).exp()

    def log(self) -> Tensor:
        return digamma(self.shape) - self.q.rate.log()

    def log_variance(self) -> Tensor:
        return trigamma(self.shape)

    def power(self, k: Tensor, unit: Tensor) -> Tensor:
        a = self.shape
        value = torch.lgamma(a + k) - torch.lgamma(a) - k * (self.q.rate * unit).log()
        return self.where(a + k > 0, value.exp())


@row(td.Exponential)
class _Exponential(_Gamma):
    """Exponential(rate), the Gamma of concentration 1."""

    @property
    def shape(self) -> Tensor:
        return torch.ones_like(self.q.rate)

    def abs_deviation(self, a: Tensor) -> Tensor:
        rate, above = self.q.rate, a.clamp(min=0)
        # E|x - a| = E x - a + 2 E (a - x)^+
        return 1 / rate - a + 2 * (above + torch.expm1(-rate * above) / rate)


@row(td.InverseGamma)
class _InverseGamma(Statistics):
    """InverseGamma(concentration, rate), the distribution of 1 / Gamma."""

    def entropy(self) -> Tensor:
        a = self.q.concentration
        return a + self.q.rate.log() + torch.lgamma(a) - (1 + a) * digamma(a)

    def mean(self) -> Tensor:
        a = self.q.concentration
        return self.where(a > 1, self.q.rate / (a - 1))

    def variance(self) -> Tensor:
        a = self.q.concentration
        return self.where(a > 2, (self.q.rate / (a - 1)) ** 2 / (a - 2))

    def log(self) -> Tensor:
        return self.q.rate.log() - digamma(self.q.concentration)

    def log_variance(self) -> Tensor:
        return trigamma(self.q.concentration)

    def power(self, k: Tensor, unit: Tensor) -> Tensor:
        a = self.q.concentration
        value = torch.lgamma(a - k) - torch.lgamma(a) + k * (self.q.rate / unit).log()
        return self.where(a > k, value.exp())


@row(td.LogNormal)
class _LogNormal(Statistics):
    """LogNormal(loc, scale), the distribution of exp(Normal)."""

    def entropy(self) -> Tensor:
        return self.q.loc + _HALF_LOG_2PI_E + self.q.scale.log()

    def mean(self) -> Tensor:
        return (self.q.loc + self.q.scale**2 / 2).exp()

    def variance(self) -> Tensor:
        return torch.expm1(self.q.scale**2) * self.mean() ** 2

    def log(self) -> Tensor:
        return self.q.loc

    def power(self, k: Tensor, unit: Tensor) -> Tensor:
        return (k * (self.q.loc - unit.log()) + (k * self.q.scale) ** 2 / 2).exp()


@row(td.Weibull)
class _Weibull(Statistics):
    """Weibull(scale, concentration)."""

    def entropy(self) -> Tensor:
        k = self.q.concentration
        return EULER * (1 - 1 / k) + self.q.scale.log() - k.log() + 1

    def mean(self) -> Tensor:
        one = torch.ones_like(self.q.scale)
        return self.power(one, one)

    def variance(self) -> Tensor:
        # the difference of logarithms keeps the digits that a difference of moments loses
        k = self.q.concentration
        growth = torch.lgamma(1 + 2 / k) - 2 * torch.lgamma(1 + 1 / k)
        return self.mean() ** 2 * torch.expm1(growth)

    def log(self) -> Tensor:
        return self.q.scale.log() - EULER / self.q.concentration

    def log_variance(self) -> Tensor:
        return math.pi**2 / 6 / self.q.concentration**2

    def power(self, k: Tensor, unit: Tensor) -> Tensor:
        r = k / self.q.concentration
        return self.where(r > -1, (k * (self.q.scale / unit).log() + torch.lgamma(1 + r)).exp())


@row(td.HalfNormal)
class _HalfNormal(Statistics):
    """HalfNormal(scale)."""

    def entropy(self) -> Tensor:
        return _HALF_LOG_2PI_E - math.log(2) + self.q.scale.log()

    def mean(self) -> Tensor:
        return math.sqrt(2 / math.pi) * self.q.scale

    def variance(self) -> Tensor:
        return (1 - 2 / math.pi) * self.q.scale**2

    def exp_decay(self, a: Tensor, c: Tensor) -> Tensor:
        return (a / c).exp() * torch.special.erfcx(self.q.scale / c / math.sqrt(2))

    def log(self) -> Tensor:
        return self.q.scale.log() - (EULER + math.log(2)) / 2

    def log_variance(self) -> Tensor:
        return torch.full_like(self.q.scale, math.pi**2 / 8)

    def power(self, k: Tensor, unit: Tensor) -> Tensor:
        half = (1 + k) / 2
        value = k * ((self.q.scale / unit).log() + math.log(2) / 2) + torch.lgamma(half)
        return self.where(half > 0, value.exp() / math.sqrt(math.pi))


@row(td.HalfCauchy)
class _HalfCauchy(Statistics):
    """HalfCauchy(scale), whose powers of order one and more diverge."""

    def entropy(self) -> Tensor:
        return math.log(2 * math.pi) + self.q.scale.log()

    def log(self) -> Tensor:
        return self.q.scale.log()

    def log_variance(self) -> Tensor:
        return torch.full_like(self.q.scale, math.pi**2 / 4)

    def power(self, k: Tensor, unit: Tensor) -> Tensor:
        value = (k * (self.q.scale / unit).log()).exp() / torch.cos(math.pi / 2 * k)
        return self.where(k.abs() < 1, value)


@row(td.Pareto)
class _Pareto(Statistics):
    """Pareto(scale, alpha), the distribution of scale * exp(Exponential(alpha))."""

    def entropy(self) -> Tensor:
        return self.q.scale.log() - self.q.alpha.log() + 1 / self.q.alpha + 1

    def mean(self) -> Tensor:
        one = torch.ones_like(self.q.scale)
        return self.power(one, one)

    def variance(self) -> Tensor:
        alpha = self.q.alpha
        value = self.q.scale**2 * alpha / ((alpha - 1) ** 2 * (alpha - 2))
        return self.where(alpha > 2, value)

    def log(self) -> Tensor:
        return self.q.scale.log() + 1 / self.q.alpha

    def log_variance(self) -> Tensor:
        return self.q.alpha**-2

    def power(self, k: Tensor, unit: Tensor) -> Tensor:
        alpha = self.q.alpha
        value = (k * (self.q.scale / unit).log()).exp() * alpha / (alpha - k)
        return self.where(alpha > k, value)


# ----------------------------------------------------------------------------- the unit interval
@row(td.Beta)
class _Beta(Statistics):
    """Beta(concentration1, concentration0)."""

    def entropy(self) -> Tensor:
        a, b = self.q.concentration1, self.q.concentration0
        log_rest = digamma(b) - digamma(a + b)
        return log_beta(a, b) - (a - 1) * self.log() - (b - 1) * log_rest

    def mean(self) -> Tensor:
        return self.q.concentration1 / (self.q.concentration1 + self.q.concentration0)

    def variance(self) -> Tensor:
        total = self.q.concentration1 + self.q.concentration0
        return self.q.concentration1 * self.q.concentration0 / (total**2 * (total + 1))

    def log(self) -> Tensor:
        a, b = self.q.concentration1, self.q.concentration0
        return digamma(a) - digamma(a + b)

    def log_variance(self) -> Tensor:
        a, b = self.q.concentration1, self.q.concentration0
        return trigamma(a) - trigamma(a + b)

    def power(self, k: Tensor, unit: Tensor) -> Tensor:
        a, b = self.q.concentration1, self.q.concentration0
        value = log_beta(a + k, b) - log_beta(a, b) - k * unit.log()
        return self.where(a + k > 0, value.exp())

    def logit(self) -> Tensor:
        return digamma(self.q.concentration1) - digamma(self.q.concentration0)

    def logit_variance(self) -> Tensor:
        return trigamma(self.q.concentration1) + trigamma(self.q.concentration0)


@row(td.Kumaraswamy)
class _Kumaraswamy(Statistics):
    """Kumaraswamy(concentration1 = a, concentration0 = b): x^a is Beta(1, b)."""

    def entropy(self) -> Tensor:
        a, b = self.q.concentration1, self.q.concentration0
        return 1 - 1 / b + (1 - 1 / a) * (digamma(b + 1) + EULER) - a.log() - b.log()

    def mean(self) -> Tensor:
        one = torch.ones_like(self.q.concentration1)
        return self.power(one, one)

    def variance(self) -> Tensor:
        one = torch.ones_like(self.q.concentration1)
        return self.power(2 * one, one) - self.mean() ** 2

    def log(self) -> Tensor:
        return -(digamma(self.q.concentration0 + 1) + EULER) / self.q.concentration1

    def log_variance(self) -> Tensor:
        tail = trigamma(self.q.concentration0 + 1)
        return (math.pi**2 / 6 - tail) / self.q.concentration1**2

    def power(self, k: Tensor, unit: Tensor) -> Tensor:
        r = 1 + k / self.q.concentration1
        b = self.q.concentration0
        return self.where(r > 0, b * (log_beta(r, b) - k * unit.log()).exp())


@row(td.ContinuousBernoulli)
class _ContinuousBernoulli(Statistics):
    """ContinuousBernoulli: log q(x) = logits x - A(logits), so E x = A' and Var x = A''."""

    def entropy(self) -> Tensor:
        eta = self.q.logits
        return log_partition(eta) - eta * self.mean()

    def mean(self) -> Tensor:
        return log_partition(self.q.logits, derivative=1)

    def variance(self) -> Tensor:
        return log_partition(self.q.logits, derivative=2)
