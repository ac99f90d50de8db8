"""The lines of torch's, Pyro's and this package's distributions, by the shape of their support.

Densities are with respect to y, the Jacobian included: y = x on the line, log x on the half-line,
logit x on the unit interval.
"""

from __future__ import annotations

__all__: list[str] = []

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from pyro_vae.distributions import LogitNormal
from pyro_vae.kl.charts import Affine, Chart, Exp, Sigmoid
from pyro_vae.kl.closed_forms.continuous_bernoulli import log_partition
from pyro_vae.kl.lines import Frame, Line, line
from pyro_vae.kl.special import log_beta

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# log sigmoid, and whatever is made of it, is singular at i pi
_NEAR = 3.0


class _Located(Line):
    """A density of z = (y - loc) / scale, divided by scale."""

    loc: Tensor
    scale: Tensor

    def log_density(self, y: Tensor) -> Tensor:
        return self.standard((y - self.loc) * self.scale.reciprocal()) - self.scale.log()

    def standard(self, z: Tensor) -> Tensor:
        """The log density for loc = 0 and scale = 1."""
        raise NotImplementedError

    def frame(self) -> Frame:
        return Frame(self.loc, self.scale)


# ---------------------------------------------------------------------------- the real line
@line(td.Normal)
class _Normal(_Located):
    """Density exp(-z^2 / 2) / sqrt(2 pi)."""

    def standard(self, z: Tensor) -> Tensor:
        return -0.5 * z.square() - _HALF_LOG_2PI


@line(td.LogNormal)
class _LogNormal(_Normal):
    """A Normal in log x."""

    chart = (Exp(),)


@line(LogitNormal)
class _LogitNormal(_Normal):
    """A Normal in logit x."""

    chart = (Sigmoid(),)


@line(td.StudentT)
class _StudentT(_Located):
    """Density (1 + z^2 / df)^(-(df + 1) / 2) / (sqrt(df) B(df / 2, 1 / 2))."""

    df: Tensor
    heavy = True

    def log_density(self, y: Tensor) -> Tensor:
        z = (y - self.loc) * self._unit.reciprocal()
        return self._peak - (self.df + 1) / 2 * torch.log1p(z.square())

    def log_tail(self, log_y: Tensor) -> Tensor:
        return self._peak - (self.df + 1) * (log_y - self._unit.log())

    @property
    def _unit(self) -> Tensor:
        return self.scale * self.df.sqrt()

    @property
    def _peak(self) -> Tensor:
        half = self.df / 2
        constant = torch.lgamma(half + 0.5) - torch.lgamma(half) - 0.5 * math.log(math.pi)
        return constant - self._unit.log()

    def frame(self) -> Frame:
        return Frame(self.loc, self.scale * self.df.sqrt().clamp(max=1.0))

    def singularities(self) -> list[Frame]:
        return [Frame(self.loc, self._unit)]


@line(td.Cauchy)
class _Cauchy(_Located):
    """Density 1 / (pi (1 + z^2))."""

    heavy = True

    def standard(self, z: Tensor) -> Tensor:
        return -math.log(math.pi) - torch.log1p(z.square())

    def log_tail(self, log_y: Tensor) -> Tensor:
        return self.scale.log() - math.log(math.pi) - 2 * log_y

    def singularities(self) -> list[Frame]:
        return [self.frame()]


@line(td.Laplace)
class _Laplace(_Located):
    """Density exp(-|z|) / 2."""

    def standard(self, z: Tensor) -> Tensor:
        return -z.abs() - math.log(2)

    def kinks(self) -> list[Tensor]:
        return [self.loc]


@line(dist.AsymmetricLaplace)
class _AsymmetricLaplace(Line):
    """Density exp(z / k) or exp(-k z) left and right of loc, divided by k + 1 / k."""

    loc: Tensor
    scale: Tensor
    asymmetry: Tensor

    def log_density(self, y: Tensor) -> Tensor:
        z, k = (y - self.loc) / self.scale, self.asymmetry
        return torch.where(z < 0, z / k, -k * z) - (self.scale * (k + 1 / k)).log()

    def frame(self) -> Frame:
        return Frame(self.loc, self.scale * torch.minimum(self.asymmetry, 1 / self.asymmetry))

    def kinks(self) -> list[Tensor]:
        return [self.loc]


@line(dist.SoftLaplace)
class _SoftLaplace(_Located):
    """Density 2 / (pi (exp(z) + exp(-z)))."""

    def standard(self, z: Tensor) -> Tensor:
        return math.log(2 / math.pi) - torch.logaddexp(z, -z)

    def singularities(self) -> list[Frame]:
        return [Frame(self.loc, 1.5 * self.scale)]


@line(dist.Logistic)
class _Logistic(_Located):
    """Density s(z) s(-z), s the logistic function."""

    def standard(self, z: Tensor) -> Tensor:
        return logsigmoid(z) + logsigmoid(-z)

    def frame(self) -> Frame:
        return Frame(self.loc, 2 * self.scale)

    def singularities(self) -> list[Frame]:
        return [Frame(self.loc, _NEAR * self.scale)]


@line(td.RelaxedBernoulli)
class _RelaxedBernoulli(_Logistic):
    """A Logistic(logits / temperature, 1 / temperature) in logit x."""

    chart = (Sigmoid(),)

    @classmethod
    def of(cls, d: Any) -> Line:
        temperature = d.temperature.double()
        return cls(loc=d.logits / temperature, scale=1 / temperature)


@line(dist.SkewLogistic)
class _SkewLogistic(_Located):
    """Density a s(z)^a s(-z)."""

    asymmetry: Tensor

    def standard(self, z: Tensor) -> Tensor:
        return self.asymmetry.log() + self.asymmetry * logsigmoid(z) + logsigmoid(-z)

    def frame(self) -> Frame:
        mode = torch.log1p(self.asymmetry) - math.log(2)
        return Frame(self.loc + self.scale * mode, 2 * self.scale)

    def singularities(self) -> list[Frame]:
        return [Frame(self.loc, _NEAR * self.scale)]


@line(td.Gumbel)
class _Gumbel(_Located):
    """Density exp(-z - exp(-z))."""

    def standard(self, z: Tensor) -> Tensor:
        return -z - (-z).exp()


# ---------------------------------------------------------------------------- the half-line
@line(td.Gamma)
class _Gamma(Line):
    """Density rate^a exp(a y - rate exp(y)) / Gamma(a)."""

    concentration: Tensor
    rate: Tensor
    chart = (Exp(),)

    def log_density(self, y: Tensor) -> Tensor:
        a, u = self.concentration, y + self.rate.log()
        return a * u - u.exp() - torch.lgamma(a)

    def frame(self) -> Frame:
        a = self.concentration + 0.5
        return Frame((a / self.rate).log(), a.rsqrt().clamp(max=1.0))


@line(td.Chi2)
class _Chi2(_Gamma):
    """A Gamma(df / 2, 1 / 2)."""

    @classmethod
    def of(cls, d: Any) -> Line:
        df = d.df.double()
        return cls(concentration=df / 2, rate=torch.full_like(df, 0.5))


@line(td.Exponential)
class _Exponential(_Gamma):
    """A Gamma(1, rate)."""

    @classmethod
    def of(cls, d: Any) -> Line:
        rate = d.rate.double()
        return cls(concentration=torch.ones_like(rate), rate=rate)


@line(td.InverseGamma)
class _InverseGamma(_Gamma):
    """A Gamma in 1 / x: density rate^a exp(-a y - rate exp(-y)) / Gamma(a)."""

    def log_density(self, y: Tensor) -> Tensor:
        return super().log_density(-y)

    def frame(self) -> Frame:
        centre, scale = super().frame()
        return Frame(-centre, scale)


@line(td.Weibull)
class _Weibull(Line):
    """Density k exp(u - exp(u)), u = k (y - log scale)."""

    scale: Tensor
    concentration: Tensor
    chart = (Exp(),)

    def log_density(self, y: Tensor) -> Tensor:
        u = self.concentration * (y - self.scale.log())
        return self.concentration.log() + u - u.exp()

    def frame(self) -> Frame:
        return Frame(self.scale.log(), 1 / self.concentration)


@line(td.HalfNormal)
class _HalfNormal(Line):
    """Density sqrt(2 / pi) exp(u - exp(2 u) / 2), u = y - log scale."""

    scale: Tensor
    chart = (Exp(),)

    def log_density(self, y: Tensor) -> Tensor:
        u = y - self.scale.log()
        return math.log(2) - _HALF_LOG_2PI + u - 0.5 * (2 * u).exp()

    def frame(self) -> Frame:
        return Frame(self.scale.log(), torch.ones_like(self.scale))


@line(td.HalfCauchy)
class _HalfCauchy(Line):
    """Density (2 / pi) exp(u) / (1 + exp(2 u)), u = y - log scale."""

    scale: Tensor
    chart = (Exp(),)

    def log_density(self, y: Tensor) -> Tensor:
        u = y - self.scale.log()
        return math.log(2 / math.pi) + u - softplus(2 * u)

    def frame(self) -> Frame:
        return Frame(self.scale.log(), torch.full_like(self.scale, 1.5))

    def singularities(self) -> list[Frame]:
        return [self.frame()]


@line(td.Pareto)
class _Pareto(Line):
    """Density alpha s(u) s(-u)^alpha, u = y - log scale, x = scale + exp(y)."""

    scale: Tensor
    alpha: Tensor

    @property
    def chart(self) -> Chart:  # type: ignore[override]
        return (Exp(), Affine(self.scale, torch.ones_like(self.scale)))

    def log_density(self, y: Tensor) -> Tensor:
        u = y - self.scale.log()
        return self.alpha.log() + logsigmoid(u) + self.alpha * logsigmoid(-u)

    def frame(self) -> Frame:
        return Frame((self.scale / (0.5 + self.alpha)).log(), torch.ones_like(self.scale))

    def singularities(self) -> list[Frame]:
        return [Frame(self.scale.log(), torch.full_like(self.scale, _NEAR))]


# ---------------------------------------------------------------------------- the unit interval
@line(td.Beta)
class _Beta(Line):
    """Density s(y)^a s(-y)^b / B(a, b)."""

    near_chart = True
    concentration1: Tensor
    concentration0: Tensor
    chart = (Sigmoid(),)

    def log_density(self, y: Tensor) -> Tensor:
        a, b = self.concentration1, self.concentration0
        return a * logsigmoid(y) + b * logsigmoid(-y) - log_beta(a, b)

    def frame(self) -> Frame:
        a, b = self.concentration1 + 0.5, self.concentration0 + 0.5
        return Frame((a / b).log(), (1 / a + 1 / b).sqrt().clamp(max=2.0))

    def singularities(self) -> list[Frame]:
        return [_unit_frame(self.concentration1)]


@line(td.FisherSnedecor)
class _FisherSnedecor(_Beta):
    """A Beta(df1 / 2, df2 / 2) in the coordinate log(x df1 / df2)."""

    shift: Tensor
    chart = (Exp(),)

    @classmethod
    def of(cls, d: Any) -> Line:
        a, b = d.df1.double() / 2, d.df2.double() / 2
        return cls(concentration1=a, concentration0=b, shift=(a / b).log())

    def log_density(self, y: Tensor) -> Tensor:
        return super().log_density(y + self.shift)

    def frame(self) -> Frame:
        centre, scale = super().frame()
        return Frame(centre - self.shift, scale)

    def singularities(self) -> list[Frame]:
        return [Frame(-self.shift, torch.full_like(self.shift, _NEAR))]


@line(td.Kumaraswamy)
class _Kumaraswamy(Line):
    """Density a b x^a (1 - x) (1 - x^a)^(b - 1), x = s(y)."""

    near_chart = True
    concentration1: Tensor
    concentration0: Tensor
    chart = (Sigmoid(),)

    def log_density(self, y: Tensor) -> Tensor:
        a, b = self.concentration1, self.concentration0
        rest = _log_one_minus_power(y, a)
        return (a * b).log() + a * logsigmoid(y) + logsigmoid(-y) + (b - 1) * rest

    def frame(self) -> Frame:
        a, b = self.concentration1, self.concentration0
        # x^a is a Beta(1, b); a small a stretches its left tail, but not the edge at the right
        # that holds most of the mass unless b is large
        stretch = torch.where(a < 1, a ** ((b - 1) / (b + 1)).clamp(min=0.0), a)
        log_x = logsigmoid((1.5 / (b + 0.5)).log()) / stretch
        centre = log_x - (-torch.expm1(log_x)).log()
        width = (2 / 3 + 1 / (b + 0.5)).sqrt() / (stretch * -torch.expm1(log_x)) * b / (b + 1)
        return Frame(centre, torch.minimum(width, (4 + centre.square()).sqrt()))

    def singularities(self) -> list[Frame]:
        # x^a = 1 at log x = 2 pi i / a
        centre = (self.concentration1 / (2 * math.pi)).clamp(min=1.0).log()
        return [Frame(centre, torch.full_like(centre, 1.5))]


@line(td.ContinuousBernoulli)
class _ContinuousBernoulli(Line):
    """Density exp(logits x - A(logits)) x (1 - x), x = s(y)."""

    near_chart = True
    logits: Tensor
    chart = (Sigmoid(),)

    def log_density(self, y: Tensor) -> Tensor:
        # logits x - A(logits) without the cancellation at an end that holds all the mass
        up = self.logits > 0
        size = torch.where(up, self.logits, -self.logits)
        distance = size * torch.where(up, -y, y).sigmoid()
        return logsigmoid(y) + logsigmoid(-y) - distance - log_partition(-size)

    def frame(self) -> Frame:
        eta = self.logits
        return Frame(eta.sign() * torch.log1p(eta.abs() / 2), torch.full_like(eta, 1.5))

    def singularities(self) -> list[Frame]:
        return [_unit_frame(self.logits)]


@line(td.Uniform)
class _Uniform(Line):
    """Density s(y) s(-y), x = low + (high - low) s(y)."""

    near_chart = True
    low: Tensor
    high: Tensor

    @property
    def chart(self) -> Chart:  # type: ignore[override]
        return (Sigmoid(), Affine(self.low, self.high - self.low))

    def log_density(self, y: Tensor) -> Tensor:
        zero = 0 * self.low
        return logsigmoid(y + zero) + logsigmoid(-y)

    def frame(self) -> Frame:
        return Frame(torch.zeros_like(self.low), torch.full_like(self.low, 2.0))

    def singularities(self) -> list[Frame]:
        return [_unit_frame(self.low)]


# ---------------------------------------------------------------------------- parts
def _unit_frame(like: Tensor) -> Frame:
    """The singularity of the logistic function nearest to the axis."""
    return Frame(torch.zeros_like(like), torch.full_like(like, _NEAR))


def _log_one_minus_power(y: Tensor, a: Tensor) -> Tensor:
    """log(1 - x^a), x = s(y), also where x rounds to 1."""
    # x^a = exp(-t), t = a softplus(-y)
    far = y > 36
    log_t = a.log() + torch.where(far, -y, softplus(-torch.where(far, 0.0, y)).log())
    tiny = log_t < -36
    t = torch.where(tiny, 0.0, log_t).exp()
    return torch.where(tiny, log_t, (-torch.expm1(-t)).log())
