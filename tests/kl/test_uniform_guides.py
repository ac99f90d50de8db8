"""Uniform guides: against every prior by scipy's quadrature, also where a bound is exactly 0."""

import math

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from scipy import integrate

from pyro_vae import kl
from pyro_vae.distributions import LogitNormal

D = torch.float64


def t(value):
    return torch.tensor(value, dtype=D)


PRIORS = {
    "Normal": td.Normal(t(0.3), t(0.5)),
    "Laplace": td.Laplace(t(0.3), t(0.5)),
    "Laplace far below": td.Laplace(t(-3.0), t(0.5)),
    "Laplace far above": td.Laplace(t(4.0), t(0.5)),
    "Gumbel": td.Gumbel(t(0.3), t(0.5)),
    "Gumbel of tiny scale": td.Gumbel(t(-9.0), t(0.01)),
    "Gamma": td.Gamma(t(2.0), t(1.5)),
    "Gamma of 1": td.Gamma(t(1.0), t(1.5)),
    "Chi2": td.Chi2(t(3.0)),
    "Exponential": td.Exponential(t(1.5)),
    "Beta": td.Beta(t(2.0), t(3.0)),
    "Beta of 1": td.Beta(t(0.5), t(1.0)),
    "LogNormal": td.LogNormal(t(0.2), t(1.0)),
    "Weibull": td.Weibull(t(1.5), t(2.0)),
    "HalfNormal": td.HalfNormal(t(0.7)),
    "InverseGamma": td.InverseGamma(t(2.0), t(0.5)),
    "ContinuousBernoulli": dist.ContinuousBernoulli(t(0.3)),
    "LogitNormal": LogitNormal(t(0.5), t(1.0)),
}
BOUNDS = {
    "apart": (0.2, 0.9),
    "narrow": (0.5, 0.5 + 2.0**-20),
    "tiny": (2.0**-40, 2.0**-39),
    "from 0": (0.0, 0.75),
    "to 1": (0.25, 1.0),
    "from 0 to 1": (0.0, 1.0),
}


# where the density of the prior is 0 or infinite, and the derivative with it
DIVERGE = {(name, 0.0) for name in ("Gamma", "Chi2", "Beta", "Beta of 1", "LogNormal", "Weibull")}
DIVERGE |= {("LogitNormal", 0.0), ("LogitNormal", 1.0), ("Beta", 1.0)}


def exact(p, low, high):
    """The KL, and -log p at both ends, which is what its gradient is made of."""

    def cost(x):
        return -p.log_prob(t(x)).item()

    place = [p.loc.item()] if low < getattr(p, "loc", t(-1.0)).item() < high else None
    area, _ = integrate.quad(cost, low, high, epsabs=1e-14, epsrel=1e-12, limit=400, points=place)
    mean = area / (high - low)
    return mean - math.log(high - low), mean, cost


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("name", PRIORS)
def test_value_and_gradient(name, bounds):
    p, (low, high) = PRIORS[name], BOUNDS[bounds]
    ends = [t(v).requires_grad_() for v in (low, high)]
    q = td.Uniform(*ends)
    told = kl.route(q, p)
    if name == "InverseGamma" and low == 0:
        assert told.kind == "infinite"
        return
    # no statistic of log x log(1 - x) is elementary
    assert told.kind == ("quadrature" if name == "LogitNormal" else "closed")
    value = kl.divergence(q, p)
    slopes = torch.autograd.grad(value, ends)
    known, mean, cost = exact(p, low, high)
    assert value.item() == pytest.approx(known, rel=1e-9, abs=1e-9)
    width = high - low
    for at, sign, slope in zip((low, high), (1, -1), slopes, strict=True):
        if (name, at) in DIVERGE:
            assert slope.isfinite()
            continue
        there = sign * (1 + mean - cost(at)) / width
        assert slope.item() == pytest.approx(there, rel=1e-5, abs=1e-5 * (1 + 1 / width))


SIDES = {
    "density 0 at 0": (td.Gamma(t(2.0), t(1.0)), 0, -1),
    "density infinite at 0": (td.Beta(t(0.5), t(1.0)), 0, 1),
    "density 0 at 1": (td.Beta(t(2.0), t(3.0)), 1, 1),
    "log-normal at 0": (td.LogNormal(t(0.0), t(1.0)), 0, -1),
}


@pytest.mark.parametrize("name", SIDES)
def test_where_the_derivative_diverges_it_is_large_and_of_the_right_sign(name):
    p, end, sign = SIDES[name]
    ends = [t(v).requires_grad_() for v in (0.0, 1.0)]
    slopes = torch.autograd.grad(kl.divergence(td.Uniform(*ends), p), ends)
    assert all(slope.isfinite() for slope in slopes)
    assert sign * slopes[end] > 100


def test_float32_bounds_at_0_and_parameters_of_the_prior():
    low, high = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
    a = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
    for p in (td.Gamma(a, a), td.Beta(a, a), td.Weibull(a, a)):
        found = torch.autograd.grad(kl.divergence(td.Uniform(low, high), p).sum(), [low, high, a])
        assert all(g.isfinite().all() for g in found)
