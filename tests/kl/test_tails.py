"""Supports and tails of transformed classes and mixtures, and which measures can meet."""

import math

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from torch.distributions import transforms

from pyro_vae import kl
from pyro_vae.kl.ends import space
from pyro_vae.kl.finiteness import finiteness

EXP, SIGMOID = transforms.ExpTransform(), transforms.SigmoidTransform()
TANH, SOFTPLUS = transforms.TanhTransform(), transforms.SoftplusTransform()
T = torch.tensor


def mapped(base, *maps):
    return td.TransformedDistribution(base, list(maps), validate_args=False)


def affine(loc, scale):
    return transforms.AffineTransform(loc, scale)


def mixture(cls, *parameters, weights=(1.0, 1.0)):
    return td.MixtureSameFamily(td.Categorical(T(weights)), cls(*(T(v) for v in parameters)))


NORMAL, GUMBEL = td.Normal(0.0, 1.0), td.Gumbel(0.0, 1.0)

CASES = {
    # supports, which torch takes for those of the last map
    "a Pareto by another name": (mapped(td.Exponential(3.0), EXP), td.Pareto(1.0, 2.0), True),
    "it ends before a Pareto": (mapped(td.Exponential(3.0), EXP), td.Pareto(2.0, 2.0), False),
    "it begins after 0": (mapped(td.Exponential(3.0), EXP), td.Gamma(1.0, 1.0), True),
    "a prior that begins after the guide": (
        td.Pareto(T([0.5, 1.0]), 2.0),
        mapped(td.Exponential(1.0), EXP),
        [False, True],
    ),
    "shifted inwards": (mapped(td.Gamma(1.0, 1.0), affine(1.0, 2.0)), td.Gamma(1.0, 1.0), True),
    "shifted outwards": (mapped(td.Gamma(1.0, 1.0), affine(-1.0, 2.0)), td.Gamma(1.0, 1.0), False),
    "shifted by tensors": (
        mapped(td.Gamma(1.0, 1.0), affine(T([1.0, -1.0, 5.0]), T([2.0, 2.0, -1.0]))),
        td.Gamma(1.0, 1.0),
        [True, False, False],
    ),
    "exp of an interval": (mapped(td.Uniform(0.0, 1.0), EXP), td.Uniform(1.0, 3.0), True),
    "exp of an interval, too far": (
        mapped(td.Uniform(0.0, 1.0), EXP),
        td.Uniform(1.5, 3.0),
        False,
    ),
    "tanh": (mapped(NORMAL, TANH), td.Uniform(-1.0, 1.0), True),
    "tanh against a part": (mapped(NORMAL, TANH), td.Uniform(0.0, 1.0), False),
    # tails, by what is known of the distribution under its usual name
    "log-Cauchy, log-normal": (mapped(td.Cauchy(0.0, 1.0), EXP), td.LogNormal(0.0, 1.0), False),
    "log-Cauchy, half-Cauchy": (mapped(td.Cauchy(0.0, 1.0), EXP), td.HalfCauchy(1.0), False),
    "log-t of 1.5, half-Cauchy": (mapped(td.StudentT(1.5), EXP), td.HalfCauchy(1.0), True),
    "log-t, log-Cauchy": (mapped(td.StudentT(0.5), EXP), mapped(td.Cauchy(0.0, 1.0), EXP), True),
    "log-Laplace, Exponential": (
        mapped(td.Laplace(T([0.0, 0.0]), T([0.5, 1.0])), EXP),
        td.Exponential(1.0),
        [True, False],
    ),
    "log-normal, Gumbel turned round": (
        td.LogNormal(0.0, 1.0),
        mapped(GUMBEL, affine(0.0, -1.0)),
        False,
    ),
    "Gamma, Gumbel turned round": (
        td.Gamma(2.0, T([0.5, 1.0, 2.0])),
        mapped(GUMBEL, affine(0.0, -1.0)),
        [False, False, True],
    ),
    "Weibull, Gumbel turned round": (
        td.Weibull(T([1.0, 1.0, 1.0, 0.5]), T([0.5, 1.0, 1.5, 1.0])),
        mapped(GUMBEL, affine(0.0, -1.0)),
        [False, False, True, True],
    ),
    "HalfNormal, Gumbel turned round": (
        td.HalfNormal(3.0),
        mapped(GUMBEL, affine(0.0, -1.0)),
        True,
    ),
    "Laplace, Gumbel scaled by a tensor": (
        td.Laplace(0.0, 1.5),
        mapped(GUMBEL, affine(0.0, T([1.0, 2.0, -1.0, -2.0]))),
        [False, True, False, True],
    ),
    "Gumbel, Gumbel turned round": (
        td.Gumbel(0.0, T([0.5, 2.0])),
        mapped(GUMBEL, affine(0.0, -1.0)),
        [True, False],
    ),
    "Gumbel turned round, Gumbel": (
        mapped(td.Gumbel(0.0, T([0.5, 2.0])), affine(0.0, T(-1.0))),
        GUMBEL,
        [True, False],
    ),
    "logistic-Cauchy, Beta": (mapped(td.Cauchy(0.0, 1.0), SIGMOID), td.Beta(2.0, 1.0), False),
    "logistic-t of 2, Beta": (mapped(td.StudentT(2.0), SIGMOID), td.Beta(2.0, 1.0), True),
    "log of a Gamma": (mapped(td.Gamma(2.0, 1.0), EXP.inv), NORMAL, True),
    "log of a Gamma, Gumbel": (
        mapped(td.Gamma(T([0.5, 1.5]), 1.0), EXP.inv),
        GUMBEL,
        [False, True],
    ),
    "softplus of a Cauchy, Exponential": (
        mapped(td.Cauchy(0.0, 1.0), SOFTPLUS),
        td.Exponential(1.0),
        False,
    ),
    "softplus of a t, HalfNormal": (mapped(td.StudentT(3.0), SOFTPLUS), td.HalfNormal(1.0), True),
    "tanh of a Laplace": (
        mapped(td.Laplace(0.0, T([1.0, 3.0])), TANH, affine(1.0, 1.0)),
        td.InverseGamma(1.0, 1.0),
        # P(1 + tanh x < d) goes like d^(1 / 2b), and 1 / d has to have a mean
        [False, False],
    ),
    "tanh of a narrow Laplace": (
        mapped(td.Laplace(0.0, 0.4), TANH, affine(1.0, 1.0)),
        td.InverseGamma(1.0, 1.0),
        True,
    ),
    "an interval that reaches 0": (
        td.Uniform(T([0.0, 0.5]), 1.0),
        td.InverseGamma(2.0, 1.0),
        [0, 1],
    ),
    # mixtures: of the guide every component, of the prior one
    "Cauchys": (mixture(td.Cauchy, [0.0, 1.0], [1.0, 1.0]), NORMAL, False),
    "two t, one too heavy": (mixture(td.StudentT, [1.5, 3.0]), NORMAL, False),
    "two t, the heavy without weight": (
        mixture(td.StudentT, [1.5, 3.0], weights=(0.0, 1.0)),
        NORMAL,
        True,
    ),
    "batches of mixtures": (
        mixture(td.StudentT, [[1.5, 3.0], [2.5, 3.0]], weights=[[1.0, 1.0], [1.0, 1.0]]),
        NORMAL,
        [False, True],
    ),
    "Cauchy, a mixture of Normals": (
        td.Cauchy(0.0, 1.0),
        mixture(td.Normal, [0.0, 1.0], [1.0, 1.0]),
        False,
    ),
    "Laplace, Gumbels of which one carries": (
        td.Laplace(0.0, T([0.5, 1.5, 2.5])),
        mixture(td.Gumbel, [0.0, 0.0], [1.0, 2.0]),
        [True, True, False],
    ),
    "Laplaces, Gumbels": (
        mixture(td.Laplace, [0.0, 1.0], [0.5, 1.5]),
        mixture(td.Gumbel, [0.0, 0.0], [1.0, 2.0]),
        True,
    ),
    "Laplaces, Gumbels without the wide one": (
        mixture(td.Laplace, [0.0, 1.0], [0.5, 1.5]),
        mixture(td.Gumbel, [0.0, 0.0], [1.0, 2.0], weights=(1.0, 0.0)),
        False,
    ),
    "Gammas, InverseGamma": (
        mixture(td.Gamma, [0.5, 2.0], [1.0, 1.0]),
        td.InverseGamma(1.0, 1.0),
        False,
    ),
    "exp of mixed Laplaces": (
        mapped(mixture(td.Laplace, [0.0, 1.0], [0.5, 1.5]), EXP),
        td.Exponential(1.0),
        False,
    ),
    "vectors of t": (
        td.MixtureSameFamily(
            td.Categorical(torch.ones(2)),
            td.Independent(td.StudentT(T([[3.0, 3.0], [3.0, 1.5]])), 1),
        ),
        td.MultivariateNormal(torch.zeros(2), torch.eye(2)),
        False,
    ),
    "exp of vectors": (
        mapped(td.Independent(td.Laplace(torch.zeros(2, 2), T([[0.5, 0.5], [0.5, 1.5]])), 1), EXP),
        mapped(td.MultivariateNormal(torch.zeros(2), torch.eye(2)), EXP),
        True,
    ),
    "exp of vectors, too heavy": (
        mapped(dist.MultivariateStudentT(T([1.5, 3.0]), torch.zeros(2), torch.eye(2)), EXP),
        mapped(td.MultivariateNormal(torch.zeros(2), torch.eye(2)), EXP, affine(0.0, 1.0)),
        [False, True],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_tails_and_supports(name):
    q, p, finite = CASES[name]
    verdict = finiteness(q, p)
    assert verdict.defined
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    expected = torch.as_tensor(finite).bool().expand(shape)
    assert torch.equal(torch.as_tensor(verdict.finite).expand(shape), expected)
    assert bool(verdict.explain()) == (not expected.all())


def lines(*shape):
    """Distributions on the line, in three settings where the tail has a parameter."""
    a, b, c = (T(v).reshape(shape) for v in ([0.5, 1.5, 3.0], [0.5, 1.0, 2.0], [0.4, 1.0, 2.5]))
    return {
        "Normal": NORMAL,
        "StudentT": td.StudentT(a),
        "Laplace": td.Laplace(0.0, b),
        "Gumbel": td.Gumbel(0.0, c),
        "turned Gumbel": mapped(td.Gumbel(0.0, c), affine(0.0, -1.0)),
        "log Gamma": mapped(td.Gamma(b, 1.0), EXP.inv),
        "logit Beta": mapped(td.Beta(b, 2.0), SIGMOID.inv),
    }


MAPS = {
    "exp": [EXP],
    "sigmoid": [SIGMOID],
    "softplus": [SOFTPLUS],
    "turned": [affine(1.0, -2.0)],
    "scaled by a tensor": [affine(0.5, T(-1.5))],
    "exp, reciprocal": [affine(0.0, -1.0), EXP],
    "exp shifted": [EXP, affine(-3.0, 2.0)],
    "logistic onto [-1, 3]": [SIGMOID, affine(-1.0, T(4.0))],
    "tanh": [TANH],
}


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("b", lines(3, 1))
@pytest.mark.parametrize("a", lines(3, 1))
def test_a_map_of_both_sides_changes_nothing(a, b, maps):
    """The KL is the same, so what is decided of one pair is decided of the other."""
    q, p = lines(3, 1)[a], lines(3)[b]
    pushed = [mapped(d, *MAPS[maps]) for d in (q, p)]
    verdicts = [finiteness(q, p), finiteness(*pushed)]
    assert all(verdict.decided for verdict in verdicts)
    one, other = (torch.as_tensor(v.finite).expand(3, 3) for v in verdicts)
    assert torch.equal(one, other)


def test_an_unknown_map_is_not_decided():
    cube = mapped(td.Gamma(2.0, 1.0), transforms.PowerTransform(T(3.0)))
    assert space(cube).kind == "unknown"
    for pair in (
        (cube, td.Gamma(1.0, 1.0)),
        (td.Gamma(1.0, 1.0), cube),
        (cube, td.Pareto(1.0, 1.0)),
    ):
        verdict = finiteness(*pair)
        assert verdict.finite is True
        assert not verdict.decided
        assert "could not be compared" in verdict.explain()


MEASURES = {
    "mixed Bernoullis, Normal": (mixture(td.Bernoulli, [0.2, 0.7]), NORMAL, "different measures"),
    "Normal, mixed Bernoullis": (NORMAL, mixture(td.Bernoulli, [0.2, 0.7]), "different measures"),
    "mixed Poissons, mixed Normals": (
        mixture(td.Poisson, [0.2, 0.7]),
        mixture(td.Normal, [0.0, 1.0], [1.0, 1.0]),
        "different measures",
    ),
    "Normal, Delta": (NORMAL, dist.Delta(T(0.0)), "a single point"),
    "Normals, Delta": (
        td.Independent(td.Normal(torch.zeros(2), 1.0), 1),
        dist.Delta(torch.zeros(2), event_dim=1),
        "a single point",
    ),
    "Bernoulli, Delta": (td.Bernoulli(0.5), dist.Delta(T(0.0)), "a single point"),
}


@pytest.mark.parametrize("name", MEASURES)
def test_different_measures_are_undefined(name):
    q, p, words = MEASURES[name]
    told = kl.route(q, p)
    assert told.kind == "undefined"
    assert words in told.reason
    with pytest.raises(ValueError, match=words):
        kl.divergence(q, p)


def test_two_points_meet_only_in_one_place():
    q, p = dist.Delta(T([0.0, 1.0])), dist.Delta(T([0.0, 0.0]))
    assert kl.route(q, p).finite.tolist() == [True, False]
    assert kl.divergence(q, p).tolist() == [0.0, math.inf]
    vectors = dist.Delta(torch.eye(2), event_dim=1), dist.Delta(T([1.0, 0.0]), event_dim=1)
    assert kl.route(*vectors).finite.tolist() == [True, False]


@pytest.mark.parametrize("name", ["log-Laplace, Exponential", "two t, one too heavy"])
def test_what_tails_decide_is_the_route(name):
    q, p, _ = CASES[name]
    told = kl.route(q, p)
    assert "and -log p of Exponential grows linearly" in told.reason or "component" in told.reason
    assert not told.finite.all()
    value, error = kl.divergence(q, p, with_error=True)
    assert torch.equal(value == math.inf, ~told.finite)
    assert (error[~told.finite] == 0).all()
