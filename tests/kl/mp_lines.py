"""KL on the line in 30 digits: mpmath, with densities written from the textbooks, in x.

A point is the triple (x, distance to the lower end of the guide's support, distance to its upper
end), each computed by itself, so that nothing is lost at an end; exponents have no bounds here.
"""

import sys

import mpmath as mp
import numpy as np
import pyro.distributions as dist
import torch.distributions as td

from pyro_vae.distributions import LogitNormal

DIGITS = 30


def _normal(x, d):
    return -((x - d["loc"]) ** 2) / (2 * d["scale"] ** 2) - mp.log(d["scale"] * mp.sqrt(2 * mp.pi))


def _folded(x, d):
    near, far = sorted(_normal(x, {**d, "loc": sign * d["loc"]}) for sign in (1, -1))[::-1]
    return near + mp.log1p(mp.exp(far - near))


def _student(x, d):
    v, z = d["df"], (x - d["loc"]) / d["scale"]
    constant = mp.loggamma((v + 1) / 2) - mp.loggamma(v / 2) - mp.log(v * mp.pi) / 2
    return constant - mp.log(d["scale"]) - (v + 1) / 2 * mp.log1p(z * z / v)


def _laplace(x, d):
    return -abs(x - d["loc"]) / d["scale"] - mp.log(2 * d["scale"])


def _asymmetric(x, d):
    left, right = d["scale"] * d["asymmetry"], d["scale"] / d["asymmetry"]
    z = x - d["loc"]
    return (z / left if z < 0 else -z / right) - mp.log(left + right)


def _soft_laplace(x, d):
    z = abs(x - d["loc"]) / d["scale"]
    return mp.log(2 / mp.pi / d["scale"]) - z - _softplus(-2 * z)


def _logistic(x, d):
    z, a = -(x - d["loc"]) / d["scale"], d.get("asymmetry", 1)
    return mp.log(a / d["scale"]) + z - (a + 1) * _softplus(z)


def _softplus(z):
    if abs(z) > 1000:  # the exponential of an exponential is beyond mpmath too
        return max(z, mp.mpf(0))
    return z + mp.log1p(mp.exp(-z)) if z > 0 else mp.log1p(mp.exp(z))


def _gumbel(x, d):
    z = (x - d["loc"]) / d["scale"]
    return -z - (mp.exp(-z) if z < 1000 else 0) - mp.log(d["scale"])


def _gamma(x, d):
    a, b = d["concentration"], d["rate"]
    return a * mp.log(b) - mp.loggamma(a) + (a - 1) * mp.log(x) - b * x


def _inverse_gamma(x, d):
    a, b = d["concentration"], d["rate"]
    return a * mp.log(b) - mp.loggamma(a) - (a + 1) * mp.log(x) - b / x


def _weibull(x, d):
    k, r = d["concentration"], x / d["scale"]
    return mp.log(k / d["scale"]) + (k - 1) * mp.log(r) - r**k


def _fisher(x, d):
    a, b = d["df1"] / 2, d["df2"] / 2
    r = x * a / b
    return a * mp.log(a / b) - _log_beta(a, b) + (a - 1) * mp.log(x) - (a + b) * mp.log1p(r)


def _log_beta(a, b):
    return mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)


def _kumaraswamy(x, rest, d):
    a, b = d["concentration1"], d["concentration0"]
    # 1 - x^a from 1 - x
    inner = -mp.expm1(a * (mp.log1p(-rest) if rest < 0.5 else mp.log(x)))
    return mp.log(a * b) + (a - 1) * mp.log(x) + (b - 1) * mp.log(inner)


def _continuous_bernoulli(x, rest, d):
    eta = d["logits"]
    return eta * x - (mp.log(mp.expm1(eta) / eta) if eta else 0)


def _beta(x, rest, d):
    a, b = d["concentration1"], d["concentration0"]
    return (a - 1) * mp.log(x) + (b - 1) * mp.log(rest) - _log_beta(a, b)


def _logit_normal(x, rest, d):
    return _normal(mp.log(x) - mp.log(rest), d) - mp.log(x) - mp.log(rest)


def _relaxed(x, rest, d):
    t = d["temperature"]
    line = {"loc": d["logits"] / t, "scale": 1 / t}
    return _logistic(mp.log(x) - mp.log(rest), line) - mp.log(x) - mp.log(rest)


# the log density at x, the distances to the ends of [0, inf) or [0, 1] being x and rest
_AT = {
    td.Normal: lambda x, r, d: _normal(x, d),
    td.StudentT: lambda x, r, d: _student(x, d),
    td.Cauchy: lambda x, r, d: _student(x, {**d, "df": mp.mpf(1)}),
    td.Laplace: lambda x, r, d: _laplace(x, d),
    dist.AsymmetricLaplace: lambda x, r, d: _asymmetric(x, d),
    dist.SoftLaplace: lambda x, r, d: _soft_laplace(x, d),
    dist.Logistic: lambda x, r, d: _logistic(x, d),
    dist.SkewLogistic: lambda x, r, d: _logistic(x, d),
    td.Gumbel: lambda x, r, d: _gumbel(x, d),
    td.LogNormal: lambda x, r, d: _normal(mp.log(x), d) - mp.log(x),
    td.Gamma: lambda x, r, d: _gamma(x, d),
    td.Chi2: lambda x, r, d: _gamma(x, {"concentration": d["df"] / 2, "rate": mp.mpf(0.5)}),
    td.Exponential: lambda x, r, d: mp.log(d["rate"]) - d["rate"] * x,
    td.InverseGamma: lambda x, r, d: _inverse_gamma(x, d),
    td.Weibull: lambda x, r, d: _weibull(x, d),
    td.HalfNormal: lambda x, r, d: mp.log(2) + _normal(x, {**d, "loc": 0}),
    td.HalfCauchy: lambda x, r, d: mp.log(2) + _student(x, {**d, "loc": 0, "df": mp.mpf(1)}),
    dist.FoldedDistribution: lambda x, r, d: _folded(x, d),
    td.Pareto: lambda x, r, d: mp.log(d["alpha"] / x) - d["alpha"] * mp.log(x / d["scale"]),
    td.FisherSnedecor: lambda x, r, d: _fisher(x, d),
    LogitNormal: _logit_normal,
    td.Beta: _beta,
    td.Kumaraswamy: _kumaraswamy,
    td.ContinuousBernoulli: _continuous_bernoulli,
    td.RelaxedBernoulli: _relaxed,
    td.Uniform: lambda x, r, d: -mp.log(d["high"] - d["low"]),
}
_LINE = (
    td.Normal,
    td.StudentT,
    td.Cauchy,
    td.Laplace,
    dist.AsymmetricLaplace,
    dist.SoftLaplace,
    dist.Logistic,
    dist.SkewLogistic,
    td.Gumbel,
)
_UNIT = (LogitNormal, td.Beta, td.Kumaraswamy, td.ContinuousBernoulli, td.RelaxedBernoulli)


def _place(cls, d, y):
    """x, the distance of x to 1, and log dx/dy, at the coordinate y of a class."""
    if cls in _LINE:
        return y, 1 - y, mp.mpf(0)
    if cls in _UNIT or cls is td.Uniform:
        x, rest = 1 / (1 + mp.exp(-y)), 1 / (1 + mp.exp(y))
        slope = mp.log(x) + mp.log(rest)
        if cls is td.Uniform:
            width = d["high"] - d["low"]
            x = d["low"] + width * x
            return x, 1 - x, slope + mp.log(width)
        return x, rest, slope
    x = mp.exp(y)
    if cls is td.Pareto:
        return x + d["scale"], 1 - x - d["scale"], y
    return x, 1 - x, y


def divergence(q, p, parameters_q, parameters_p, marks, panel=0.5, order=20):
    """KL(q || p) for classes q and p, and the mass of q that was seen (which should be 1).

    Composite Gauss-Legendre on panels that are geometric about each of `marks`, pairs of a place
    in the coordinate of q and a length, as far out as q (log q - log p) is not negligible; those
    of length 0 are kinks.
    """
    with mp.workdps(DIGITS):
        terms = _terms(q, p, parameters_q, parameters_p)
        centre, scale = (mp.mpf(v) for v in marks[0])
        low, high = (_end(terms, centre, scale, sign) for sign in (-1, 1))
        edges = {low, high}
        for c, s in marks:
            c, s = mp.mpf(c), mp.mpf(s)
            edges.add(min(max(c, low), high))
            if s:
                for sign, end in ((-1, low), (1, high)):
                    reach = (end - c) * sign
                    u = panel
                    while reach > 0 and s * mp.sinh(u) < reach:
                        edges.add(c + sign * s * mp.sinh(u))
                        u += panel
        edges = sorted(e for e in edges if low <= e <= high)
        x, w = (list(map(mp.mpf, v)) for v in np.polynomial.legendre.leggauss(order))
        value, mass = mp.mpf(0), mp.mpf(0)
        for left, right in zip(edges, edges[1:], strict=False):
            half, middle = (right - left) / 2, (right + left) / 2
            for xi, wi in zip(x, w, strict=True):
                log_q, ratio = terms(middle + half * xi)
                if log_q > -400 or abs(ratio) > 1e6:
                    density = wi * half * mp.exp(log_q)
                    mass += density
                    value += density * ratio
        return float(value), float(mass)


def beyond_float64(q, p, parameters_q, parameters_p, centre, scale):
    """Whether KL(q || p) exceeds the largest float64, by a lower bound of the integral.

    Around the highest point of q log(q / p), found from the frame (centre, scale) of q, the
    integrand is at least 1 / e of it over some length, and its negative part is at most 1 / e.
    """
    with mp.workdps(DIGITS):
        terms = _terms(q, p, parameters_q, parameters_p)

        def height(y):
            log_q, ratio = terms(y)
            return log_q + mp.log(ratio) if ratio > 0 else -mp.inf

        centre, scale = mp.mpf(centre), mp.mpf(scale)
        scan = [centre + scale * mp.sinh(mp.mpf(u) / 2) for u in range(-28, 29)]
        heights = [height(y) for y in scan]
        best = heights.index(max(heights[1:-1]))
        low, high = scan[best - 1], scan[best + 1]
        for _ in range(80):
            third = (high - low) / 3
            if height(low + third) < height(high - third):
                low += third
            else:
                high -= third
        top, length = height(low), scale
        while min(height(low - length), height(low + length)) < top - 1:
            length /= 2
        return bool(top - 1 + mp.log(2 * length) > mp.log(sys.float_info.max))


def _terms(q, p, parameters_q, parameters_p):
    """Log q dx/dy and log(q / p) as functions of the coordinate y of q."""
    dq, dp = ({k: mp.mpf(v) for k, v in d.items()} for d in (parameters_q, parameters_p))

    def terms(y):
        x, rest, slope = _place(q, dq, y)
        log_q = _AT[q](x, rest, dq)
        return log_q + slope, log_q - _AT[p](x, rest, dp)

    return terms


def _end(terms, centre, scale, sign):
    """The place beyond which the integrand is below 1e-18."""
    u = mp.mpf(0.5)
    while True:
        y = centre + sign * scale * mp.sinh(u)
        log_q, ratio = terms(y)
        if log_q + mp.log(1 + abs(ratio)) + mp.log(scale * mp.cosh(u)) < -42:
            return y
        u *= mp.mpf(1.2)
