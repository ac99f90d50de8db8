"""Sampled KLs where they go wrong: ends of supports, infinite KLs, what is refused."""

import math
import warnings

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from scipy.stats import norm

from pyro_vae import kl
from pyro_vae.kl.draws import draws
from pyro_vae.kl.estimators import estimators
from tests.benchmarks import tail_detection

LIMIT = norm.isf(1e-6 / 2 / 20)


def small(value):
    return torch.tensor(value)


# in single precision, with up to 60 % of the mass beyond the last number before an end
ENDS = {
    "Beta(.1, .1)": (td.Beta(small(0.1), small(0.1)), td.Uniform(0.0, 1.0)),
    "Beta(.1, .1) || Beta": (td.Beta(small(0.1), small(0.1)), td.Beta(1.0, 1.0)),
    "Beta(.01, .01)": (td.Beta(small(0.01), small(0.01)), td.Beta(2.0, 1.0)),
    "Gamma(.01)": (td.Gamma(small(0.01), 1.0), td.Gamma(1.0, 1.0)),
    "InverseGamma(.01)": (td.InverseGamma(small(0.01), small(1.0)), td.HalfCauchy(1.0)),
    "Chi2(.02)": (td.Chi2(small(0.02)), td.Gamma(1.0, 1.0)),
    "Kumaraswamy(.05, .05)": (
        td.Kumaraswamy(small(0.05), small(0.05)),
        td.Kumaraswamy(small(1.0), small(1.0)),
    ),
    "Kumaraswamy(1, .1)": (
        td.Kumaraswamy(small(1.0), small(0.1)),
        td.Beta(small(0.5), small(0.5)),
    ),
    "Weibull(.02)": (td.Weibull(small(1.0), small(0.02)), td.HalfCauchy(1.0)),
    "RelaxedBernoulli(.02)": (
        td.RelaxedBernoulli(small(0.02), logits=small(1.0)),
        td.Beta(small(0.5), small(0.5)),
    ),
    "LogitNormal of scale 100": (
        td.TransformedDistribution(td.Normal(0.0, small(100.0)), td.transforms.SigmoidTransform()),
        td.Beta(small(0.5), small(0.5)),
    ),
    "independent Betas": (
        td.Independent(td.Beta(small([0.1, 1.0]), 0.1), 1),
        td.Independent(td.Beta(torch.ones(2), 1.0), 1),
    ),
}


@pytest.mark.parametrize("estimator", ["log_ratio", "path"])
@pytest.mark.parametrize("name", ENDS)
def test_ends_of_supports_bias_nothing(name, estimator):
    q, p = ENDS[name]
    exact = kl.divergence(q, p)
    found = kl.estimate(q, p, 20_000, estimator=estimator)
    assert exact > 0.5
    assert (found.mean - exact).abs() < LIMIT * found.std_error
    assert found.std_error < 0.1 * exact
    assert found.edge == 0


def test_the_gradient_at_an_end_is_right():
    a = torch.full((200,), 0.1, requires_grad=True)
    p = td.Beta(torch.tensor(1.0), torch.tensor(1.0))
    (exact,) = torch.autograd.grad(kl.divergence(td.Beta(a, a), p).sum(), a)
    (found,) = torch.autograd.grad(kl.estimate(td.Beta(a, a), p, 2000).mean.sum(), a)
    error = found.std() / 200**0.5
    assert (found.mean() - exact[0]).abs() < LIMIT * error
    assert error < 0.05 * exact[0].abs()


def test_draws_of_torchs_own_would_be_off():
    """Must catch: the bias that is avoided is one that nobody could miss."""
    q, p = ENDS["Beta(.1, .1)"]
    x = q.sample((20_000,))
    held = (x > 0) & (x < 1)
    naive = q.log_prob(x[held])
    error = naive.std() / 20_000**0.5
    assert (naive.mean() - kl.divergence(q, p)).abs() > 10 * error
    assert kl.at_edge(q, x).double().mean() > 0.05
    assert kl.at_edge(q, x[held & (x < 0.99) & (x > 1e-30)]).sum() == 0


def test_what_cannot_be_avoided_is_told():
    one = torch.tensor(1.0)
    q = dist.AffineBeta(0.1 * one, 0.1 * one, 0 * one, 2 * one)
    p = dist.AffineBeta(one, one, 0 * one, 2 * one)
    with pytest.warns(kl.EstimateWarning, match="lie at an end of its support") as told:
        found = kl.estimate(q, p, 20_000)
    assert told[0].filename == __file__
    # a share of (2^-53)^0.1 / 2
    assert 0.01 < found.edge < 0.03
    assert len(found) == 3


@pytest.mark.parametrize(
    ("d", "x", "there"),
    [
        (td.Gamma(0.1, 1.0), [1e-38, 0.0, 1.0, math.inf], [True, True, False, True]),
        (td.Beta(0.1, 0.1), [1e-38, 1 - 6e-8, 0.999, 0.5], [True, True, False, False]),
        (td.Uniform(2.0, 3.0), [2.0, 2.5, 3.0, 2.001], [True, False, True, False]),
        (td.Normal(0.0, 1.0), [0.0, -40.0, 1e30, math.nan], [False, False, False, True]),
        (td.Poisson(1.0), [0.0, 1.0, 2.0, 3.0], [False] * 4),
        (td.Pareto(2.0, 1.0), [2.0, 2.1, 3.0, 4.0], [True, False, False, False]),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, td.Distribution) else "",
)
def test_edges_are_where_numbers_end(d, x, there):
    assert kl.at_edge(d, torch.tensor(x)).tolist() == there


def test_one_part_at_an_edge_puts_the_event_there():
    d = td.Dirichlet(torch.full((3,), 0.1))
    x = torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.3, 0.7], [1.0, 0.0, 0.0]])
    assert kl.at_edge(d, x).tolist() == [False, True, True]
    factorised = td.Independent(td.Gamma(torch.full((4, 2), 0.1), 1.0), 1)
    assert kl.at_edge(factorised, torch.ones(7, 4, 2)).shape == (7, 4)


# ------------------------------------------------------------------------------- infinite KLs
INFINITE = {
    "by a tail": (td.StudentT(1.5), td.Normal(0.0, 1.0)),
    "by no moment": (td.Cauchy(0.0, 1.0), td.Normal(0.0, 1.0)),
    "by a support": (td.Normal(0.0, 1.0), td.Gamma(1.0, 1.0)),
    "by a class": (td.Categorical(torch.ones(3)), td.Categorical(torch.tensor([0.5, 0.5, 0.0]))),
    "in one element": (
        td.Independent(td.StudentT(torch.tensor([5.0, 1.5])), 1),
        td.Independent(td.Normal(torch.zeros(2), 1.0), 1),
    ),
    "by an end": (td.Uniform(0.0, 2.0), td.Uniform(0.0, 1.0)),
}


@pytest.mark.filterwarnings("ignore::pyro_vae.kl.EstimateWarning")
@pytest.mark.parametrize("draw", list(draws))
@pytest.mark.parametrize("estimator", list(estimators))
@pytest.mark.parametrize("name", INFINITE)
def test_an_infinite_kl_is_never_a_number(name, estimator, draw):
    q, p = INFINITE[name]
    try:
        mean, error, _ = kl.estimate(q, p, 64, estimator=estimator, draws=draw)
    except (kl.NoEstimate, ValueError):
        return  # no estimator, no number
    assert mean == torch.inf
    assert error.isnan()


def test_infinite_elements_have_no_gradient_and_spoil_no_other():
    df = torch.tensor([1.5, 5.0], requires_grad=True)
    for estimator in ("log_ratio", "path"):
        found = kl.estimate(td.StudentT(df), td.Normal(0.0, 1.0), estimator=estimator)
        assert found.mean[0] == torch.inf
        (slope,) = torch.autograd.grad(found.mean.sum(), df)
        assert slope[0] == 0
        assert slope[1] < 0
    scale = torch.ones(2, requires_grad=True)
    outside = kl.estimate(td.Normal(0.0, scale), td.Gamma(1.0, 1.0))
    (slope,) = torch.autograd.grad(outside.mean.sum(), scale)
    assert slope.tolist() == [0, 0]


def test_what_is_undefined_has_no_estimate():
    with pytest.raises(ValueError, match="undefined"):
        kl.estimate(td.Poisson(1.0), td.Normal(0.0, 1.0))


@pytest.mark.parametrize(("key", "word"), [("estimator", "log_ratio"), ("draws", "random")])
def test_names_that_nobody_registered_are_answered_with_the_nearest(key, word):
    with pytest.raises(KeyError, match=f"Did you mean '{word}'"):
        kl.estimate(td.Normal(0.0, 1.0), td.Normal(0.0, 1.0), **{key: word[:-1]})


def test_a_guide_without_known_entropy_is_named():
    q = td.MixtureSameFamily(td.Categorical(torch.ones(2)), td.Normal(torch.zeros(2), 1.0))
    with pytest.raises(kl.NoEstimate, match="entropy of MixtureSameFamily"):
        kl.estimate(q, td.Normal(0.0, 1.0), estimator="entropy")


def test_a_subclass_with_another_density_inherits_no_entropy():
    """Must catch: the entropy of a parent is another distribution's."""

    class Shifted(td.Laplace):
        def log_prob(self, value):
            return td.Normal(self.loc, self.scale).log_prob(value)

    with pytest.raises(kl.NoEstimate, match="entropy of Shifted"):
        kl.estimate(Shifted(0.0, 1.0), td.Normal(0.0, 1.0), estimator="entropy")


def test_the_path_is_refused_where_it_would_be_biased():
    high = torch.tensor(1.0, requires_grad=True)
    with pytest.raises(ValueError, match="support stands still"):
        kl.estimate(td.Uniform(0.0, high), td.Normal(0.0, 1.0), estimator="path")
    with torch.no_grad():
        assert kl.estimate(td.Uniform(0.0, high), td.Normal(0.0, 1.0), estimator="path").mean > 0
    with pytest.raises(kl.NoEstimate, match="not reparameterised"):
        kl.estimate(td.Poisson(1.0), td.Poisson(2.0), estimator="path")


def test_correlations_are_drawn_from_their_density():
    """torch draws LKJ factors of three dimensions from another distribution than it scores."""
    q, p = (dist.LKJCholesky(3, torch.tensor(c)) for c in (0.75, 2.5))
    found = kl.estimate(q, p, 20_000)
    assert (found.mean - kl.divergence(q, p)).abs() < LIMIT * found.std_error


def test_a_guide_is_left_as_it_was():
    q = td.Bernoulli(logits=torch.tensor([0.5, 1.0], requires_grad=True))
    before = dict(vars(q))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kl.EstimateWarning)
        for estimator in ("log_ratio", "non_negative"):
            kl.estimate(q, td.Bernoulli(torch.tensor(0.3)), estimator=estimator)
    assert vars(q).keys() == before.keys()


# --------------------------------------------------------------------------------------- tails
def test_pareto_k_detects_infinite_tails_at_the_rates_stated():
    """At 1,000 draws; binomial bounds around the benchmark's rates, at 1e-6 each."""
    chosen = [c for c in tail_detection.cases() if c.k >= 1]
    clear = [c for c in chosen if 1.25 <= c.k <= 5][::4]
    k = tail_detection.measured(clear, 1000, 10, progress=False)
    runs = k.size
    assert len(clear) > 20
    # a sum of unequal Bernoullis varies less than one of equal ones
    assert (k > 0.7).sum() > 0.96 * runs - 5 * (runs * 0.04) ** 0.5
    assert (k > 1.0).sum() > 0.90 * runs - 5 * (runs * 0.09) ** 0.5


def test_pareto_k_seldom_gives_a_false_alarm():
    light = [c for c in tail_detection.cases() if c.k < 0.5][::25]
    k = tail_detection.measured(light, 1000, 10, progress=False)
    assert len(light) > 50
    assert (k > 1.0).mean() < 0.06
