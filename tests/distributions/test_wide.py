"""Numbers on the line and half-line, drawn and scored in float64: against scipy and torch."""

import itertools
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from scipy import integrate, stats
from torch import tensor

from pyro_vae import distributions as own
from pyro_vae import kl
from pyro_vae.distributions.wide import log1p_square, log_gamma_draw

# class: (parameters, scipy's distribution of them)
ORACLES = {
    own.Gamma: (
        {"concentration": [0.3, 1.0, 7.0, 60.0], "rate": [0.5, 1.0, 2.0, 3.0]},
        lambda concentration, rate: stats.gamma(concentration, scale=1 / rate),
    ),
    own.InverseGamma: (
        {"concentration": [0.7, 3.0, 7.0, 50.0], "rate": [0.5, 1.0, 2.0, 3.0]},
        lambda concentration, rate: stats.invgamma(concentration, scale=rate),
    ),
    own.Weibull: (
        {"scale": [0.5, 1.0, 2.0, 3.0], "concentration": [0.7, 1.0, 3.0, 30.0]},
        lambda scale, concentration: stats.weibull_min(concentration, scale=scale),
    ),
    own.LogNormal: (
        {"loc": [0.5, -1.0, 2.0], "scale": [0.5, 2.0, 0.1]},
        lambda loc, scale: stats.lognorm(scale, scale=np.exp(loc)),
    ),
    own.Exponential: ({"rate": [0.5, 1.0, 20.0]}, lambda rate: stats.expon(scale=1 / rate)),
    own.HalfNormal: ({"scale": [0.5, 1.0, 20.0]}, lambda scale: stats.halfnorm(scale=scale)),
    own.HalfCauchy: ({"scale": [0.5, 1.0, 20.0]}, lambda scale: stats.halfcauchy(scale=scale)),
    own.StudentT: (
        {"df": [0.5, 3.0, 40.0], "loc": [0.5, -1.0, 2.0], "scale": [0.5, 1.0, 2.0]},
        stats.t,
    ),
    own.Cauchy: ({"loc": [0.5, -1.0, 2.0], "scale": [0.5, 1.0, 2.0]}, stats.cauchy),
    own.Logistic: ({"loc": [0.5, -1.0, 2.0], "scale": [0.5, 1.0, 2.0]}, stats.logistic),
    own.Gumbel: ({"loc": [0.5, -1.0, 2.0], "scale": [0.5, 1.0, 2.0]}, stats.gumbel_r),
}
CASES = [
    pytest.param(cls, parameters, truth, id=cls.__name__)
    for cls, (parameters, truth) in ORACLES.items()
]
cases = pytest.mark.parametrize(("cls", "parameters", "truth"), CASES)


def wide(parameters):
    return {name: tensor(v, dtype=torch.float64) for name, v in parameters.items()}


def arrays(parameters):
    return {name: np.array(v) for name, v in parameters.items()}


@cases
def test_density_is_that_of_scipy(cls, parameters, truth):
    d, oracle = cls(**wide(parameters)), truth(**arrays(parameters))
    x = d.sample((200,))
    expected = oracle.logpdf(x.numpy())
    error = np.abs(d.log_prob(x).numpy() - expected) / np.maximum(1, np.abs(expected))
    assert error.max() < 1e-10


@cases
def test_draws_have_the_law_of_scipy(cls, parameters, truth):
    d, oracle = cls(**wide(parameters)), truth(**arrays(parameters))
    u = oracle.cdf(d.sample((5000,)).numpy())
    worst = min(stats.kstest(column, "uniform").pvalue for column in u.T)
    # 36 columns in all: a sound sampler fails once in 3,000 seeds
    assert worst > 1e-5


def expectation(oracle):
    """E of x / (1 + |x|) by quadrature over the quantiles, in halves for the heavy ends."""

    def at(u):
        x = float(oracle.ppf(u))
        return x / (1 + abs(x)) if math.isfinite(x) else math.copysign(1.0, x)

    return sum(
        integrate.quad(at, a, b, epsabs=1e-11, limit=200)[0] for a, b in ((0, 0.5), (0.5, 1))
    )


def single(parameters, column):
    return {name: values[column] for name, values in parameters.items()}


@cases
def test_pathwise_gradients_are_those_of_the_expectation(cls, parameters, truth):
    draws, step = 100_000, 1e-4
    columns = range(len(next(iter(parameters.values()))))
    for column, name in itertools.product(columns, parameters):
        at = single(parameters, column)
        leaves = wide(at)
        leaves[name] = leaves[name].expand(draws).clone().requires_grad_()
        x = cls(**leaves).rsample(() if cls(**leaves).batch_shape else (draws,))
        (x / (1 + x.abs())).sum().backward()
        gradient = leaves[name].grad
        up, down = (expectation(truth(**{**at, name: at[name] + s})) for s in (step, -step))
        error = gradient.mean().item() - (up - down) / (2 * step)
        # 66 checks: a right gradient fails once in 200 seeds
        assert abs(error) < 4 * gradient.std().item() / math.sqrt(draws) + 1e-7, (column, name)
        assert gradient.std() > 0 or name == "loc"


# ------------------------------------------------------------------------------------ extremes
RANGES = {
    "loc": (-1e6, 0.0, 1e6),
    "scale": (1e-6, 1.0, 1e6),
    "concentration": (1e-3, 1.0, 1e6),
    "rate": (1e-3, 1.0, 1e6),
    "df": (1e-3, 1.0, 1e6),
}


def ailments(cls, dtype=torch.float32, draws=2000):
    """What goes wrong somewhere in the ranges: a sound class has none."""
    names = [n for n in RANGES if n in cls.arg_constraints]
    grid = torch.cartesian_prod(*(tensor(RANGES[n], dtype=dtype) for n in names))
    grid = grid.reshape(-1, len(names))
    leaves = {n: grid[:, i].clone().requires_grad_() for i, n in enumerate(names)}
    d = cls(**leaves, validate_args=False)
    found = set()
    for name, x in (("rsample", d.rsample((draws,))), ("sample", d.sample((draws,)))):
        if not bool((x.isfinite() & d.support.check(x)).all()):
            found.add(f"{name} leaves the support")
        if d.support is dist.constraints.positive and bool((x <= 0).any()):
            found.add(f"{name} is 0")
    x = d.rsample((draws,))
    held = d.log_prob(x.detach())
    if not bool(held.isfinite().all()):
        found.add("density")
    for name, value in (("path", x), ("held", held), ("along", d.log_prob(x))):
        gradients = torch.autograd.grad(
            value.sum(), list(leaves.values()), retain_graph=True, allow_unused=True
        )
        if not all(g is None or bool(g.isfinite().all()) for g in gradients):
            found.add(f"gradient {name}")
    return found


@pytest.mark.parametrize("cls", ORACLES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_parameters_do_no_harm(cls, dtype):
    assert not ailments(cls, dtype)


@pytest.mark.parametrize("cls", ORACLES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_densities_and_gradients_are_finite_wherever_another_draws(cls, dtype):
    limits = torch.finfo(dtype)
    least, edge = limits.tiny / limits.eps, math.sqrt(limits.max) / 2
    x = tensor([-edge, -1e4, -1.0, least, 1.0, 1e4, edge], dtype=dtype)
    x = x if cls.support is dist.constraints.real else x[x > 0]
    x.requires_grad_()
    leaves = [tensor(1.0, dtype=dtype, requires_grad=True) for _ in cls.arg_constraints]
    d = cls(**dict(zip(cls.arg_constraints, leaves, strict=True)), validate_args=False)
    log_prob = d.log_prob(x)
    assert bool(log_prob.isfinite().all())
    gradients = torch.autograd.grad(log_prob.sum(), [x, *leaves])
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize(
    "cls",
    [td.InverseGamma, td.Weibull, td.LogNormal, td.StudentT],
    ids=lambda cls: cls.__name__,
)
def test_extreme_parameters_do_harm_to_those_of_torch(cls):
    assert ailments(cls)


@pytest.mark.parametrize(
    ("cls", "noise"),
    [(own.HalfNormal, "randn"), (own.HalfCauchy, "rand"), (own.LogNormal, "randn")],
    ids=["HalfNormal", "HalfCauchy", "LogNormal"],
)
@pytest.mark.parametrize("value", [0.0, 1.0, 40.0], ids=str)
def test_the_worst_noise_stays_inside(monkeypatch, cls, noise, value):
    value = min(value, 1.0) if noise == "rand" else value
    monkeypatch.setattr(torch, noise, lambda shape, **kw: torch.full(shape, value, **kw))
    scale = tensor(2.0, requires_grad=True)
    d = cls(0.0, scale) if cls is own.LogNormal else cls(scale)
    x = d.rsample((3,))
    assert bool(((x > 0) & x.isfinite()).all())
    assert bool(torch.autograd.grad(d.log_prob(x).sum(), scale)[0].isfinite())


def test_torch_loses_the_density_of_a_large_shape_in_float32():
    x, shape = tensor(1e6), tensor(1e6)
    gamma = stats.gamma(1e6).logpdf(1e6)
    assert own.Gamma(shape, tensor(1.0)).log_prob(x).item() == pytest.approx(gamma, rel=1e-6)
    assert abs(dist.Gamma(shape, 1.0).log_prob(x).item() - gamma) > 0.1
    student = stats.t(1e6).logpdf(1.0)
    assert own.StudentT(shape, 0.0, 1.0).log_prob(tensor(1.0)).item() == pytest.approx(student)
    assert abs(dist.StudentT(shape, 0.0, 1.0).log_prob(tensor(1.0)).item() - student) > 0.05


@pytest.mark.parametrize("concentration", [1e-3, 0.5, 1.0, 2.0, 1e6])
def test_logarithms_of_gamma_draws(concentration):
    a = torch.full((), concentration, dtype=torch.float64, requires_grad=True)
    n = 20_000
    x = log_gamma_draw(a.expand(n), torch.Size([n]))
    mean, variance = torch.digamma(a).item(), torch.polygamma(1, a).item()
    assert abs(x.mean().item() - mean) < 4 * math.sqrt(variance / n)
    # the gradient of E log G is trigamma, itself the mean of gradients that vary little
    (gradient,) = torch.autograd.grad(x.mean(), a)
    assert gradient.item() == pytest.approx(variance, rel=0.05)


def test_log1p_square():
    z = tensor([0.0, 1e-200, 1.0, -3.0, 1e200], dtype=torch.float64, requires_grad=True)
    expected = [0.0, 0.0, math.log(2), math.log(10), 400 * math.log(10)]
    torch.testing.assert_close(log1p_square(z), tensor(expected, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(log1p_square(z).sum(), z)
    exact = tensor([0.0, 2e-200, 1.0, -0.6, 2e-200], dtype=torch.float64)
    torch.testing.assert_close(gradient, exact, rtol=1e-12, atol=0)


# ------------------------------------------------------------------------- manners and kinship
@cases
def test_manners(cls, parameters, truth):
    d = cls(**{name: tensor(v) for name, v in parameters.items()})
    n = len(next(iter(parameters.values())))
    x = d.rsample((5,))
    assert x.dtype == d.log_prob(x).dtype == torch.float32
    assert not x.requires_grad
    wider = d.expand((2, n))
    assert type(wider) is cls
    assert wider.rsample().shape == wider.log_prob(x[0]).shape == (2, n)
    assert wider.mask(False).log_prob(x[0]).eq(0).all()
    assert d.log_prob(x.double()).dtype == torch.float64
    with pytest.raises(ValueError, match="Expected parameter"):
        cls(**{name: tensor(-math.inf) for name in parameters}, validate_args=True)
    outside = torch.full((n,), math.nan)
    with pytest.raises(ValueError, match="within the support"):
        d.log_prob(outside)
    unchecked = cls(**{k: tensor(v) for k, v in parameters.items()}, validate_args=False)
    assert unchecked.log_prob(outside).eq(-math.inf).all()
    torch.manual_seed(3)
    first = d.sample((2,))
    torch.manual_seed(3)
    assert torch.equal(first, d.sample((2,)))


@cases
def test_density_outside_the_support_is_zero_without_a_gradient(cls, parameters, truth):
    if cls.support is dist.constraints.real:
        return
    leaves = {k: v.requires_grad_() for k, v in wide(parameters).items()}
    d = cls(**leaves, validate_args=False)
    log_prob = d.log_prob(tensor(-1.0, dtype=torch.float64))
    assert log_prob.eq(-math.inf).all()
    gradients = torch.autograd.grad(log_prob.sum(), list(leaves.values()))
    assert all(g.eq(0).all() for g in gradients)


ORIGINAL = {own.Logistic: dist.Logistic}


@cases
def test_kl_is_that_of_the_original(cls, parameters, truth):
    original = ORIGINAL.get(cls) or getattr(td, cls.__name__)
    given = wide(parameters)
    rolled = {name: v.roll(1) for name, v in given.items()}
    ours, theirs = cls(**given), original(**given)
    assert kl.route(ours, cls(**rolled))[0] == kl.route(theirs, original(**rolled))[0]
    for left, right in ((ours, original(**rolled)), (theirs, cls(**rolled))):
        expected, _ = kl.divergence(theirs, original(**rolled), with_error=True)
        value, _ = kl.divergence(left, right, with_error=True)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for name in ("mean", "variance"):
        if hasattr(original, name):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), equal_nan=True)


def test_a_subclass_inherits_no_kl():
    class Tilted(own.Gamma):
        """Of another density."""

    q = Tilted(tensor(2.0), tensor(1.0))
    assert kl.route(q, own.Gamma(tensor(2.0), tensor(1.0))).kind == "sampled"
