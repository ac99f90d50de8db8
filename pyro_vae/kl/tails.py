"""How fast a density falls towards an end of its support, and how fast -log p grows there.

At each end of a support let X be the size of x (an infinite end) or one over the distance to the
end (a finite one), so that X goes to infinity either way. Tails and growths stand on one ladder:

    level   tail of q: P(X > t) ~      growth of -log p
      0     (log t)^-rate              (log X)^rate, beyond log X itself
      1     t^-rate                    X^rate
      2     exp(-factor t^rate)        exp(factor X^rate)
      3     exp(-factor e^(rate t))    exp(factor e^(rate X))

and E_q[-log p] is finite at that end iff the growth stands strictly below the tail: by level,
then by rate, then by factor. So a t^-df tail carries X^2 iff df > 2, and exp(-t / b) carries
exp(X / c) iff b < c. A density that is finite and positive at a finite end has the tail 1 / t and
the growth log X. Level 0 is counted in y = log X, where the density of x has its Jacobian: of
most distributions -log p(y) grows like y, of a LogNormal like y^2, and like log y (level -1) if p
itself has a tail of level 0.

A map of x changes X alone. Where X becomes e^X (exp and logistic maps) everything goes down by
one level, by the inverse map up by one; scaling and powers change rates and factors.
"""

from __future__ import annotations

__all__ = ["EDGE", "LOG", "Growth", "Tail", "carries", "growths_of", "tails_of"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions import TruncatedNormal
from pyro_vae.kl.table import canonical

Number = float | Tensor


class Growth(NamedTuple):
    """A step of the ladder, on which growths of -log p stand.

    Arguments:
        level: Which function of X, see the module.
        rate: Its exponent.
        factor: What multiplies the exponent, from level 2 on.
    """

    level: Number
    rate: Number = 1.0
    factor: Number = 0.0


class Tail(NamedTuple):
    """A step of the ladder, on which tails of q stand.

    Arguments:
        level: Which function of t, see the module.
        rate: Its exponent; infinite for a tail below every function of that level.
        factor: What multiplies the exponent, from level 2 on.
        parameter: The name of the parameter which decides, "" without one.
        value: Its value.
    """

    level: Number
    rate: Number = 1.0
    factor: Number = 0.0
    parameter: str = ""
    value: Tensor | None = None


def carries(tail: Tail, growth: Growth) -> bool | Tensor:
    """Say whether E_q of a growth is finite under a tail.

    Arguments:
        tail: How q falls.
        growth: How -log p grows, at the same end.

    Returns:
        A bool where classes decide, else a BoolTensor.

    Example:
        >>> import torch
        >>> carries(Tail(1, torch.tensor([1.5, 3.0])), Growth(1, 2.0))
        tensor([False,  True])
        >>> carries(Tail(2, 2.0, math.inf), Growth(1, 2.0))
        True
    """
    below = growth.factor < tail.factor
    for grown, falls in ((growth.rate, tail.rate), (growth.level, tail.level)):
        less, equal = grown < falls, grown == falls
        if less is True or (less is False and equal is False):
            below = less
        elif equal is not True:
            below = less | (equal & below)
    return below


def tails_of(d: Distribution) -> tuple[Tail, Tail] | None:
    """Return the left and right tail of a distribution.

    Arguments:
        d: A distribution.

    Returns:
        Both, None if exactly this class has no row in the table.

    Example:
        >>> tails_of(td.Pareto(1.0, 3.0))[1].rate
        tensor(3.)
    """
    row = _TAILS.get(canonical(type(d)))
    return None if row is None else row(d)


def growths_of(d: Distribution) -> tuple[Growth, Growth] | None:
    """Return the growths of -log p at the left and the right end.

    Arguments:
        d: The distribution p.

    Returns:
        Both, None if exactly this class has no row in the table.

    Example:
        >>> [growth.level for growth in growths_of(td.Gumbel(0.0, 1.0))]
        [2, 1]
    """
    row = _GROWTHS.get(canonical(type(d)))
    return None if row is None else row(d)


# ---------------------------------------------------------------------------------------- tables
EDGE = Tail(1, 1.0)
"""The tail of a density that is finite and positive at a finite end."""

LOG = Growth(0)
"""The growth of its -log p, and of every p that falls like a power of X."""

_GAUSS = Tail(2, 2.0, math.inf)
_X, _SQUARE = Growth(1, 1.0), Growth(1, 2.0)


def _power(d: Any, name: str, rate: Tensor | None = None) -> Tail:
    value = getattr(d, name)
    return Tail(1, value if rate is None else rate, 0.0, name, value)


def _exponential(d: Any, name: str, rate: Tensor) -> Tail:
    return Tail(2, 1.0, rate, name, getattr(d, name))


def _both(tail: Tail) -> tuple[Tail, Tail]:
    return tail, tail


def _logistic(d: Any) -> tuple[Tail, Tail]:
    return _both(_exponential(d, "scale", 1 / d.scale))


def _asymmetric(d: Any) -> tuple[Tail, Tail]:
    left, right = (_exponential(d, n, 1 / getattr(d, n)) for n in ("left_scale", "right_scale"))
    return left, right


def _skew(d: Any) -> tuple[Tail, Tail]:
    return _exponential(d, "scale", d.asymmetry / d.scale), _logistic(d)[1]


def _gumbel(d: Any) -> tuple[Tail, Tail]:
    return Tail(3, 1 / d.scale, (d.loc / d.scale).exp()), _logistic(d)[1]


def _gamma(d: Any) -> tuple[Tail, Tail]:
    return _power(d, "concentration"), Tail(2, 1.0, d.rate)


def _chi2(d: Any) -> tuple[Tail, Tail]:
    return _power(d, "df", d.df / 2), Tail(2, 1.0, 0.5)


def _weibull(d: Any) -> tuple[Tail, Tail]:
    falls = _power(d, "concentration")
    return falls, falls._replace(level=2, factor=d.scale**-d.concentration)


def _ratio(d: Any) -> tuple[Tail, Tail]:
    return _power(d, "df1", d.df1 / 2), _power(d, "df2", d.df2 / 2)


def _beta(d: Any) -> tuple[Tail, Tail]:
    return _power(d, "concentration1"), _power(d, "concentration0")


def _of_normal(d: Any) -> bool:
    return canonical(type(d.base_dist)) is td.Normal


# the left and the right tail of q; None where it is not known
_TAILS: dict[type, Callable[[Any], tuple[Tail, Tail] | None]] = {
    td.Normal: lambda q: _both(_GAUSS),
    td.MultivariateNormal: lambda q: _both(_GAUSS),
    td.LowRankMultivariateNormal: lambda q: _both(_GAUSS),
    td.StudentT: lambda q: _both(_power(q, "df")),
    dist.MultivariateStudentT: lambda q: _both(_power(q, "df")),
    td.Cauchy: lambda q: _both(Tail(1, 1.0)),
    td.Laplace: _logistic,
    dist.Logistic: _logistic,
    dist.SoftLaplace: _logistic,
    dist.AsymmetricLaplace: _asymmetric,
    dist.SkewLogistic: _skew,
    td.Gumbel: _gumbel,
    td.Gamma: _gamma,
    td.Chi2: _chi2,
    td.Exponential: lambda q: (EDGE, Tail(2, 1.0, q.rate)),
    td.Weibull: _weibull,
    td.HalfNormal: lambda q: (EDGE, _GAUSS),
    td.HalfCauchy: lambda q: (EDGE, Tail(1, 1.0)),
    dist.FoldedDistribution: lambda q: (EDGE, _GAUSS) if _of_normal(q) else None,
    td.FisherSnedecor: _ratio,
    td.Pareto: lambda q: (EDGE, _power(q, "alpha")),
    td.Beta: _beta,
    td.Kumaraswamy: _beta,
    td.ContinuousBernoulli: lambda q: _both(EDGE),
    td.Uniform: lambda q: _both(EDGE),
    TruncatedNormal: lambda q: _both(EDGE),
    td.VonMises: lambda q: _both(EDGE),
}

# the growth of -log p at the left and at the right end
_GROWTHS: dict[type, Callable[[Any], tuple[Growth, Growth] | None]] = {
    td.Normal: lambda p: (_SQUARE, _SQUARE),
    td.MultivariateNormal: lambda p: (_SQUARE, _SQUARE),
    td.LowRankMultivariateNormal: lambda p: (_SQUARE, _SQUARE),
    td.StudentT: lambda p: (LOG, LOG),
    dist.MultivariateStudentT: lambda p: (LOG, LOG),
    td.Cauchy: lambda p: (LOG, LOG),
    td.Laplace: lambda p: (_X, _X),
    dist.Logistic: lambda p: (_X, _X),
    dist.SoftLaplace: lambda p: (_X, _X),
    dist.AsymmetricLaplace: lambda p: (_X, _X),
    dist.SkewLogistic: lambda p: (_X, _X),
    td.Gumbel: lambda p: (Growth(2, 1.0, 1 / p.scale), _X),
    td.Gamma: lambda p: (LOG, _X),
    td.Chi2: lambda p: (LOG, _X),
    td.Exponential: lambda p: (LOG, _X),
    td.Weibull: lambda p: (LOG, Growth(1, p.concentration)),
    td.HalfNormal: lambda p: (LOG, _SQUARE),
    td.HalfCauchy: lambda p: (LOG, LOG),
    dist.FoldedDistribution: lambda p: (LOG, _SQUARE) if _of_normal(p) else None,
    td.FisherSnedecor: lambda p: (LOG, LOG),
    td.Pareto: lambda p: (LOG, LOG),
    td.Beta: lambda p: (LOG, LOG),
    td.Kumaraswamy: lambda p: (LOG, LOG),
    td.ContinuousBernoulli: lambda p: (LOG, LOG),
    td.Uniform: lambda p: (LOG, LOG),
    TruncatedNormal: lambda p: (LOG, LOG),
    td.VonMises: lambda p: (LOG, LOG),
}
