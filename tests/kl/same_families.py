"""Families of distributions with their textbook KL in mpmath, as an oracle of 60 digits.

The formulas are the usual ones, differences of terms that cancel where q = p; so many digits that
it does not matter. They share nothing with the remainders by which the package computes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp
import pyro.distributions as dist
import torch
import torch.distributions as td

from pyro_vae.distributions import LogitNormal

DIGITS = 60
F64 = torch.float64


@dataclass
class Case:
    """A family: how it is built, its KL, and how its parameters are drawn and moved.

    `kinds` has one letter for each parameter: "s" a scale in 1e-4 ... 1e4, "c" a concentration in
    1e-2 ... 1e4, "l" a location (moved in units of the scale that follows it), "x" a logit.
    """

    name: str
    build: Callable
    kl: Callable
    kinds: str
    nested: bool = False

    def draw(self, rng):
        """Parameters of q and of p, independent of each other."""
        return self._draw(rng), self._draw(rng)

    def _draw(self, rng):
        powers = {"s": (-4, 4), "c": (-2, 4)}
        return [
            10 ** rng.uniform(*powers[k])
            if k in powers
            else rng.gauss(0, 3) * 10 ** rng.uniform(-1, 1)
            if k == "l"
            else rng.uniform(-9, 9)
            for k in self.kinds
        ]

    def near(self, rng, kl):
        """Parameters of q, and of a p nearby, their KL being about `kl`."""
        q = self._draw(rng)
        direction = [rng.gauss(0, 1) for _ in q]
        with mp.workdps(DIGITS):
            trial = float(self.exact(q, self._moved(q, direction, 1e-4)))
        return q, self._moved(q, direction, 1e-4 * math.sqrt(kl / trial))

    def _moved(self, q, direction, size):
        units = []
        for i, k in enumerate(self.kinds):
            units.append({"l": q[min(i + 1, len(q) - 1)], "x": 1.0}.get(k, q[i]))
        return [v + size * d * u for v, d, u in zip(q, direction, units, strict=True)]

    def exact(self, q, p):
        return self.kl([mp.mpf(v) for v in q], [mp.mpf(v) for v in p])


def _normal(q, p):
    (m, s), (a, b) = q, p
    return mp.log(b / s) + (s**2 + (m - a) ** 2) / (2 * b**2) - mp.mpf(1) / 2


def _laplace(q, p):
    (m, s), (a, b) = q, p
    d = abs(m - a)
    return mp.log(b / s) + (d + s * mp.exp(-d / s)) / b - 1


def _gumbel(q, p):
    (m, s), (a, b) = q, p
    grown = mp.exp((a - m) / b + mp.loggamma(1 + s / b))
    return mp.log(b / s) + mp.euler * (s / b - 1) + grown - 1 + (m - a) / b


def _cauchy(q, p):
    (m, s), (a, b) = q, p
    return mp.log(((s + b) ** 2 + (m - a) ** 2) / (4 * s * b))


def _gamma(q, p):
    (a, s), (c, r) = q, p
    gammas = mp.loggamma(c) - mp.loggamma(a) + (a - c) * mp.digamma(a)
    return gammas + c * mp.log(s / r) + a * (r - s) / s


def _weibull(q, p):
    (s, k), (t, m) = q, p
    between = (k - m) * (mp.log(s) - mp.euler / k)
    grown = mp.exp(m * mp.log(s / t) + mp.loggamma(1 + m / k))
    return mp.log(k) - k * mp.log(s) - mp.log(m) + m * mp.log(t) + between + grown - 1


def _dirichlet(q, p):
    a, c = mp.fsum(q), mp.fsum(p)
    parts = [
        mp.loggamma(y) - mp.loggamma(x) + (x - y) * mp.digamma(x)
        for x, y in zip(q, p, strict=True)
    ]
    return mp.fsum(parts) - (mp.loggamma(c) - mp.loggamma(a) + (a - c) * mp.digamma(a))


def _pareto(q, p):
    (m, a), (n, c) = q, p
    return mp.log(a / c) + c * mp.log(m / n) + c / a - 1


def _uniform(q, p):
    return mp.log((p[1] - p[0]) / (q[1] - q[0]))


def _continuous_bernoulli(q, p):
    (x,), (y,) = q, p

    def partition(e):
        return mp.log(mp.expm1(e) / e)

    mean = 1 / (1 - mp.exp(-x)) - 1 / x
    return (x - y) * mean - partition(x) + partition(y)


def _masses(q, p):
    a, b = (mp.log(mp.fsum(mp.exp(v) for v in w)) for w in (q, p))
    return mp.fsum(mp.exp(x - a) * ((x - a) - (y - b)) for x, y in zip(q, p, strict=True))


def _bernoulli(q, p):
    return _masses([q[0], mp.mpf(0)], [p[0], mp.mpf(0)])


def _one(x):
    return 1 / (1 + mp.exp(-x))


def _poisson(q, p):
    return q[0] * mp.log(q[0] / p[0]) - q[0] + p[0]


def _matrices(n, kind):
    """Mean and covariance from flat parameters, in the arithmetic of what it is given."""

    def parts(v):
        if kind == "full":
            rows = [v[n * (i + 1) : n * (i + 2)] for i in range(n)]
            tril = [[r[j] if j <= i else 0 * r[0] for j in range(n)] for i, r in enumerate(rows)]
            return v[:n], tril, None
        return v[:n], [v[n + 2 * i : n + 2 * i + 2] for i in range(n)], v[3 * n :]

    return parts


def _gaussian(n, kind):
    parts = _matrices(n, kind)

    def covariance(v):
        mean, factor, diagonal = parts(v)
        w = mp.matrix(factor)
        s = w * w.T
        for i in range(n if diagonal else 0):
            s[i, i] += diagonal[i]
        return mp.matrix(mean), s

    def kl(q, p):
        (m, s), (a, t) = covariance(q), covariance(p)
        inverse = t**-1
        trace = mp.fsum((inverse * s)[i, i] for i in range(n))
        square = ((m - a).T * inverse * (m - a))[0]
        return (trace + square - n + mp.log(mp.det(t) / mp.det(s))) / 2

    return kl


def _full(n):
    parts = _matrices(n, "full")

    def build(*v):
        mean, tril, _ = parts(v)
        return td.MultivariateNormal(
            torch.stack(mean, -1),
            scale_tril=torch.stack([torch.stack(r, -1) for r in tril], -2),
            validate_args=False,
        )

    return build


def _low_rank(n):
    parts = _matrices(n, "low")

    def build(*v):
        mean, factor, diagonal = parts(v)
        return td.LowRankMultivariateNormal(
            torch.stack(mean, -1),
            torch.stack([torch.stack(r, -1) for r in factor], -2),
            torch.stack(diagonal, -1),
            validate_args=False,
        )

    return build


def _plain(cls, *names):
    def build(*v):
        return cls(**dict(zip(names, v, strict=True)), validate_args=False)

    return build


def _stacked(cls, name):
    def build(*v):
        return cls(**{name: torch.stack(torch.broadcast_tensors(*v), -1)}, validate_args=False)

    return build


def _on_zero(kl):
    return lambda q, p: kl([mp.mpf(0), *q], [mp.mpf(0), *p])


def _full_kinds(n):
    # off-diagonal entries move like locations; what is above the diagonal is not looked at
    return "l" * n + "".join("c" if i == j else "x" for i in range(n) for j in range(n))


CASES = [
    Case("Normal", _plain(td.Normal, "loc", "scale"), _normal, "ls"),
    Case("LogNormal", _plain(td.LogNormal, "loc", "scale"), _normal, "ls"),
    Case("LogitNormal", _plain(LogitNormal, "loc", "scale"), _normal, "ls"),
    Case("HalfNormal", _plain(td.HalfNormal, "scale"), _on_zero(_normal), "s"),
    Case("Laplace", _plain(td.Laplace, "loc", "scale"), _laplace, "ls"),
    Case("Gumbel", _plain(td.Gumbel, "loc", "scale"), _gumbel, "ls"),
    Case("Cauchy", _plain(td.Cauchy, "loc", "scale"), _cauchy, "ls"),
    Case("HalfCauchy", _plain(td.HalfCauchy, "scale"), _on_zero(_cauchy), "s"),
    Case("Gamma", _plain(td.Gamma, "concentration", "rate"), _gamma, "cs"),
    Case("InverseGamma", _plain(dist.InverseGamma, "concentration", "rate"), _gamma, "cs"),
    Case(
        "Chi2",
        _plain(td.Chi2, "df"),
        lambda q, p: _gamma([q[0] / 2, mp.mpf(1)], [p[0] / 2, mp.mpf(1)]),
        "c",
    ),
    Case(
        "Exponential",
        _plain(td.Exponential, "rate"),
        lambda q, p: _gamma([mp.mpf(1), *q], [mp.mpf(1), *p]),
        "s",
    ),
    Case("Weibull", _plain(td.Weibull, "scale", "concentration"), _weibull, "sc"),
    Case("Beta", _plain(td.Beta, "concentration1", "concentration0"), _dirichlet, "cc"),
    Case("Dirichlet", _stacked(td.Dirichlet, "concentration"), _dirichlet, "cccc"),
    Case("Pareto", _plain(td.Pareto, "scale", "alpha"), _pareto, "sc", nested=True),
    Case("Uniform", _plain(td.Uniform, "low", "high"), _uniform, "ls", nested=True),
    Case(
        "ContinuousBernoulli",
        _plain(td.ContinuousBernoulli, "logits"),
        _continuous_bernoulli,
        "x",
    ),
    Case("Bernoulli", _plain(td.Bernoulli, "logits"), _bernoulli, "x"),
    Case("Categorical", _stacked(td.Categorical, "logits"), _masses, "xxx"),
    Case("OneHotCategorical", _stacked(td.OneHotCategorical, "logits"), _masses, "xxx"),
    Case(
        "Multinomial",
        lambda *v: td.Multinomial(
            6, logits=torch.stack(torch.broadcast_tensors(*v), -1), validate_args=False
        ),
        lambda q, p: 6 * _masses(q, p),
        "xxx",
    ),
    Case("Poisson", _plain(td.Poisson, "rate"), _poisson, "s"),
    Case(
        "Geometric",
        _plain(td.Geometric, "logits"),
        lambda q, p: _bernoulli(q, p) / _one(q[0]),
        "x",
    ),
    Case(
        "Binomial",
        lambda x: td.Binomial(7, logits=x, validate_args=False),
        lambda q, p: 7 * _bernoulli(q, p),
        "x",
    ),
    Case(
        "NegativeBinomial",
        lambda x: td.NegativeBinomial(2.5, logits=x, validate_args=False),
        lambda q, p: mp.mpf(2.5) / _one(-q[0]) * _bernoulli(q, p),
        "x",
    ),
    Case("MultivariateNormal", _full(3), _gaussian(3, "full"), _full_kinds(3)),
    Case(
        "LowRankMultivariateNormal", _low_rank(4), _gaussian(4, "low"), "l" * 4 + "x" * 8 + "c" * 4
    ),
]
