"""The pairs that the engine promises, one by one: their route, value, and derivatives.

Run as a script it prints the table.
"""

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from torch.distributions import transforms

from pyro_vae import kl
from pyro_vae.distributions import LogitNormal, Sticks

D = torch.float64


def t(*values):
    return torch.tensor(values if len(values) > 1 else values[0], dtype=D)


def elements(d):
    return td.Independent(d, 1)


def mvn(x):
    tril = torch.tensor([[1.0, 0.0], [0.4, 0.7]], dtype=D) * x
    return td.MultivariateNormal(torch.stack([x, -x]), scale_tril=tril)


def low_rank(x):
    return td.LowRankMultivariateNormal(torch.stack([x, x]), x * t(0.5, 1.0)[:, None], t(1.0, 2.0))


def mvt(x):
    return dist.MultivariateStudentT(4 + x, torch.stack([x, 0 * x]), torch.eye(2, dtype=D))


def mixed(x):
    return td.MixtureSameFamily(
        td.Categorical(logits=torch.stack([x, 0 * x])), td.Bernoulli(logits=torch.stack([x, -x]))
    )


def gaussians(x):
    weights = td.Categorical(logits=torch.stack([x, 0 * x]))
    return td.MixtureSameFamily(weights, elements(td.Normal(torch.eye(2, dtype=D) * x, 1.0)))


def pushed(base, *maps):
    return td.TransformedDistribution(base, list(maps))


def dirichlet(x):
    return td.Dirichlet(torch.stack([x, 2 * x, 1 + x]))


def sticks(x):
    return pushed(elements(td.Kumaraswamy(torch.stack([x, 1 + x]), t(1.5, 2.0))), Sticks())


def relaxed(x):
    return td.RelaxedOneHotCategorical(t(0.5), logits=torch.stack([x, 0 * x, -x]))


def poisson(x):
    return td.Poisson(1 + x)


def binomial(x):
    return td.Binomial(t(4.0), logits=x)


def pascal(x):
    return td.NegativeBinomial(1 + x, logits=0 * x)


def normals(x):
    return elements(td.Normal(torch.stack([x, -x]), t(0.5, 2.0)))


EXP, SHARED = transforms.ExpTransform(), transforms.TanhTransform()

# name: q and p as functions of one number, and the route
PAIRS = {
    "MultivariateNormal || Normals": (mvn, normals, "closed"),
    "Normals || MultivariateNormal": (normals, mvn, "closed"),
    "LowRank || Normals": (low_rank, normals, "closed"),
    "Normals || LowRank": (normals, low_rank, "closed"),
    "LowRank || MultivariateNormal": (low_rank, mvn, "closed"),
    "StudentT || Normal": (lambda x: td.StudentT(4 + x), lambda x: td.Normal(x, 1.0), "closed"),
    "StudentT || StudentT": (
        lambda x: td.StudentT(4 + x),
        lambda x: td.StudentT(3.0, x),
        "closed",
    ),
    "Cauchy || Cauchy": (lambda x: td.Cauchy(x, 1.0), lambda x: td.Cauchy(0.0, 1 + x), "closed"),
    "Cauchy || StudentT": (
        lambda x: td.Cauchy(x, 1.0),
        lambda x: td.StudentT(3 + x),
        "quadrature",
    ),
    "Laplace || Laplace": (lambda x: td.Laplace(x, 1.0), lambda x: td.Laplace(0.0, x), "closed"),
    "Laplace || Logistic": (
        lambda x: td.Laplace(x, 1.0),
        lambda x: dist.Logistic(0.0, x),
        "quadrature",
    ),
    "Logistic || Laplace": (
        lambda x: dist.Logistic(x, t(1.0)),
        lambda x: td.Laplace(0.0, x),
        "closed",
    ),
    "Logistic || Logistic": (
        lambda x: dist.Logistic(x, t(1.0)),
        lambda x: dist.Logistic(0 * x, x),
        "quadrature",
    ),
    "Gumbel || Laplace": (lambda x: td.Gumbel(x, 1.0), lambda x: td.Laplace(0.0, x), "closed"),
    "Gumbel || Logistic": (
        lambda x: td.Gumbel(x, 1.0),
        lambda x: dist.Logistic(0 * x, x),
        "quadrature",
    ),
    "Laplace || Gumbel": (lambda x: td.Laplace(x, 0.3), lambda x: td.Gumbel(0.0, 1 + x), "closed"),
    "Logistic || Gumbel": (
        lambda x: dist.Logistic(x, t(0.3)),
        lambda x: td.Gumbel(0.0, 1 + x),
        "closed",
    ),
    "Weibull || Gamma": (
        lambda x: td.Weibull(x, 1.0 + x),
        lambda x: td.Gamma(x, 1.0),
        "closed",
    ),
    "Gamma || Weibull": (lambda x: td.Gamma(x, 1.0), lambda x: td.Weibull(1.0, 1 + x), "closed"),
    "LogNormal || Gamma": (lambda x: td.LogNormal(x, 1.0), lambda x: td.Gamma(x, 1.0), "closed"),
    "Gamma || LogNormal": (lambda x: td.Gamma(x, 1.0), lambda x: td.LogNormal(x, 1.0), "closed"),
    "InverseGamma || Gamma": (
        lambda x: td.InverseGamma(2 + x, t(1.0)),
        lambda x: td.Gamma(x, 1.0),
        "closed",
    ),
    "Gamma || InverseGamma": (
        lambda x: td.Gamma(2 + x, 1.0),
        lambda x: td.InverseGamma(x, t(1.0)),
        "closed",
    ),
    "Kumaraswamy || Beta": (
        lambda x: td.Kumaraswamy(x, 1 + x),
        lambda x: td.Beta(x, 2.0),
        "quadrature",
    ),
    "Beta || Kumaraswamy": (
        lambda x: td.Beta(x, 2.0),
        lambda x: td.Kumaraswamy(x, 1 + x),
        "quadrature",
    ),
    "Beta || LogitNormal": (lambda x: td.Beta(x, 2.0), lambda x: LogitNormal(x, t(1.0)), "closed"),
    "LogitNormal || Beta": (
        lambda x: LogitNormal(x, t(1.0)),
        lambda x: td.Beta(x, 2.0),
        "quadrature",
    ),
    "MultivariateNormal || MultivariateStudentT": (mvn, mvt, "closed"),
    "MultivariateNormal || Laplaces": (
        mvn,
        lambda x: elements(td.Laplace(torch.stack([x, x]), 1.0)),
        "closed",
    ),
    "MultivariateNormal || Logistics": (
        mvn,
        lambda x: elements(dist.Logistic(torch.stack([x, x]), t(1.0))),
        "quadrature",
    ),
    "Concrete of equal temperature": (relaxed, lambda x: relaxed(0.3 * x), "closed"),
    "Kumaraswamy sticks || Dirichlet": (sticks, dirichlet, "quadrature"),
    "Kumaraswamy sticks || Beta sticks (GEM)": (
        sticks,
        lambda x: pushed(elements(td.Beta(t(1.0, 1.0), torch.stack([x, x]))), Sticks()),
        "quadrature",
    ),
    "HalfNormal || HalfNormal": (
        lambda x: td.HalfNormal(x),
        lambda x: td.HalfNormal(1 + x),
        "closed",
    ),
    "HalfCauchy || HalfCauchy": (
        lambda x: td.HalfCauchy(x),
        lambda x: td.HalfCauchy(1 + x),
        "closed",
    ),
    "HalfNormal || HalfCauchy": (
        lambda x: td.HalfNormal(x),
        lambda x: td.HalfCauchy(1 + x),
        "quadrature",
    ),
    "Folded || HalfNormal": (
        lambda x: dist.FoldedDistribution(td.Normal(x, 1.0)),
        lambda x: td.HalfNormal(x),
        "quadrature",
    ),
    "Beta || ContinuousBernoulli": (
        lambda x: td.Beta(x, 2.0),
        lambda x: td.ContinuousBernoulli(logits=x),
        "closed",
    ),
    "ContinuousBernoulli || Beta": (
        lambda x: td.ContinuousBernoulli(logits=x),
        lambda x: td.Beta(x, 2.0),
        "quadrature",
    ),
    "ContinuousBernoulli || Uniform": (
        lambda x: td.ContinuousBernoulli(logits=x),
        lambda x: td.Uniform(-x, 1 + x),
        "closed",
    ),
    "Uniform || Beta": (lambda x: td.Uniform(0.1 * x, 0.9), lambda x: td.Beta(x, 2.0), "closed"),
    "VonMises || VonMises": (
        lambda x: td.VonMises(x, t(1.0)),
        lambda x: td.VonMises(0 * x, 1 + x),
        "closed",
    ),
    "Dirichlet || Dirichlet": (dirichlet, lambda x: dirichlet(1 + x), "closed"),
    "Dirichlet || LogisticNormal": (
        dirichlet,
        lambda x: td.LogisticNormal(torch.stack([x, -x]), t(1.0, 0.5)),
        "closed",
    ),
    "LogisticNormal || Dirichlet": (
        lambda x: td.LogisticNormal(torch.stack([x, -x]), t(1.0, 0.5)),
        dirichlet,
        "quadrature",
    ),
    "Categorical || Categorical": (
        lambda x: td.Categorical(logits=torch.stack([x, -x, 0 * x])),
        lambda x: td.Categorical(logits=torch.stack([0 * x, x, 0 * x])),
        "closed",
    ),
    "Binomial || Categorical": (
        lambda x: td.Binomial(2, logits=x),
        lambda x: td.Categorical(logits=torch.stack([0 * x, x, 0 * x])),
        "closed",
    ),
    **{
        f"{a.__name__} || {b.__name__}": (a, lambda x, b=b: b(0.5 * x), "closed")
        for a in (poisson, binomial, pascal)
        for b in (poisson, pascal)
    },
    "binomial || binomial": (binomial, lambda x: binomial(-x), "closed"),
    "a shared transform": (
        lambda x: pushed(td.Normal(x, 1.0), SHARED),
        lambda x: pushed(td.Cauchy(0.0, x), SHARED),
        "quadrature",
    ),
    "affine transforms": (
        lambda x: pushed(td.Laplace(0.0, 1.0), transforms.AffineTransform(x, -x)),
        lambda x: td.Laplace(0.0, x),
        "closed",
    ),
    "mixtures of discrete components": (mixed, lambda x: mixed(-x), "closed"),
    "Gaussian mixtures": (gaussians, lambda x: gaussians(-x), "sampled"),
}
EXACT = [name for name, (_, _, kind) in PAIRS.items() if kind != "sampled"]


def made(name, x):
    q, p, kind = PAIRS[name]
    with dist.validation_enabled(False):
        q, p = q(x), p(x)
    return q, p, kind


@pytest.mark.parametrize("name", PAIRS)
def test_the_route(name):
    q, p, kind = made(name, t(0.7))
    assert kl.route(q, p).kind == kind


def test_what_is_only_bounded_says_so():
    q, p, _ = made("Gaussian mixtures", t(0.7))
    assert "an interval that holds it" in kl.route(q, p).reason
    low, high = kl.bounds(q, p)
    mean, std_error, _ = kl.estimate(q, p, 4000)
    assert low - 5 * std_error < mean < high + 5 * std_error


@pytest.mark.parametrize("name", EXACT)
def test_it_is_differentiable_twice(name):
    def first(x):
        value = kl.divergence(*made(name, x)[:2])
        return value, torch.autograd.grad(value, x, create_graph=True)[0]

    x, step = t(0.7).requires_grad_(), 1e-4
    value, slope = first(x)
    (bend,) = torch.autograd.grad(slope, x)
    beside = [first(t(0.7 + s * step).requires_grad_()) for s in (1, -1)]
    (up, slope_up), (down, slope_down) = beside
    assert slope.item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-5, abs=1e-6)
    second = ((slope_up - slope_down) / (2 * step)).item()
    assert bend.item() == pytest.approx(second, rel=1e-4, abs=1e-5)
    assert value >= 0


COUNTED = ("Binomial || Categorical",)


@pytest.mark.parametrize("name", EXACT)
def test_it_is_an_array_program(name):
    """`vmap` over value and gradient, and `make_fx`, agree with the values one by one."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def both(x):
        return torch.func.grad_and_value(lambda y: kl.divergence(*made(name, y)[:2]))(x)

    def captured(x):
        value = kl.divergence(*made(name, x)[:2])
        return torch.autograd.grad(value, x)[0], value

    points = t(0.7, 0.9)
    each = [captured(x.clone().requires_grad_()) for x in points]
    singly = [torch.stack(v) for v in zip(*each, strict=True)]
    if name in COUNTED:
        # torch asks a Binomial for the largest of its counts: the number of terms is data
        leaf = t(0.8).requires_grad_()
        for transformed in (
            lambda: torch.func.vmap(both)(points),
            lambda: make_fx(captured)(leaf),
        ):
            with pytest.raises(RuntimeError, match=r"item|get value out of a tracing tensor"):
                transformed()
        return
    for ours, theirs in zip(torch.func.vmap(both)(points), singly, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    graph = make_fx(captured)(t(0.8).requires_grad_())
    for ours, theirs in zip(graph(points[0].clone().requires_grad_()), singly, strict=True):
        torch.testing.assert_close(ours, theirs[0], rtol=1e-6, atol=1e-8)


def table():
    for name in PAIRS:
        q, p, _ = made(name, t(0.7))
        told = kl.route(q, p)
        yield f"{name:45} {told.kind:11} {told.source}"


if __name__ == "__main__":
    print("\n".join(table()))  # noqa: T201
