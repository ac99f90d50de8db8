"""KL routes of mixtures: one number by quadrature, few values by enumeration, else an interval."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from scipy import stats

from pyro_vae import distributions as own
from pyro_vae import families as fam
from pyro_vae import kl
from pyro_vae.kl.bounds import _components
from pyro_vae.kl.finiteness import finiteness

pytestmark = pytest.mark.usefixtures("float64")


def mixture(component, weights=(0.3, 0.7)):
    return own.MixtureSameFamily(dist.Categorical(probs=torch.tensor(weights)), component)


def vectors(cls, *parameters, weights=(0.3, 0.7)):
    """Components of two independent elements each."""
    return mixture(cls(*(torch.tensor(v) for v in parameters)).to_event(1), weights)


# -------------------------------------------------------------------------------------- a number
ONE = {
    "normal": (fam.Normal, {"loc": 0.4, "scale": 0.8}, stats.norm(0.4, 0.8)),
    "full_normal": (fam.FullNormal, {"loc": 0.4, "scale_tril": 0.8}, stats.norm(0.4, 0.8)),
    "low_rank": (
        fam.LowRankNormal,
        {"rank": 1, "loc": 0.4, "cov_factor": 0.6, "cov_diag": 0.28},
        stats.norm(0.4, 0.8),
    ),
    "student_t": (fam.StudentT, {"df": 4.0, "loc": 0.4, "scale": 0.8}, stats.t(4, 0.4, 0.8)),
    "multivariate_t": (
        fam.MultivariateStudentT,
        {"df": 4.0, "loc": 0.4, "scale_tril": 0.8},
        stats.t(4, 0.4, 0.8),
    ),
}


NUMBERS = torch.linspace(-12, 12, 100_001).sinh()


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize(("of_prior", "features"), [("normal", (1, 1)), ("full_normal", 1)])
def test_a_mixture_of_one_number_is_one_integral(name, of_prior, features):
    family, options, law = ONE[name]
    q, prior = family(features, **options)(), ONE[of_prior][0]
    scale = {"scale": 0.6} if of_prior == "normal" else {"scale_tril": 0.6}
    loc = torch.tensor([-2.0, 1.5]).reshape(2, *[1] * (len(prior(features).values()["loc"].shape)))
    p = fam.Mixture(features, components=2, family=prior, weights=[0.3, 0.7], loc=loc, **scale)()
    told = kl.route(q, p)
    assert told.kind == "quadrature"
    assert told.error.shape == ()

    log_q = torch.as_tensor(law.logpdf(NUMBERS.numpy()))
    parts = torch.as_tensor(stats.norm([-2.0, 1.5], 0.6).logpdf(NUMBERS[:, None].numpy()))
    log_p = (parts + torch.tensor([0.3, 0.7]).log()).logsumexp(-1)
    truth = torch.trapezoid(log_q.exp() * (log_q - log_p), NUMBERS).item()
    assert kl.divergence(q, p).item() == pytest.approx(truth, rel=1e-7)


def test_batches_and_gradients_are_those_of_numbers():
    loc = torch.linspace(-1, 1, 5).requires_grad_()
    centres = torch.tensor([-2.0, 1.5]).requires_grad_()
    weights = dist.Categorical(logits=torch.tensor([0.0, 1.0]))
    number = kl.divergence(
        dist.Normal(loc, 0.5), own.MixtureSameFamily(weights, dist.Normal(centres, 0.6))
    )
    vector = kl.divergence(
        dist.Normal(loc.unsqueeze(-1), 0.5).to_event(1),
        own.MixtureSameFamily(weights, dist.Normal(centres.unsqueeze(-1), 0.6).to_event(1)),
    )
    torch.testing.assert_close(vector, number)
    slopes = [torch.autograd.grad(v.square().sum(), (loc, centres)) for v in (vector, number)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("family", ["beta", "logit_normal", "gamma", "log_normal", "kumaraswamy"])
def test_numbers_of_other_spaces(family):
    """Mixtures on the half-line and the interval, against draws within five standard errors."""
    cls = fam.registry[family]
    torch.manual_seed(1)
    q, p = cls(1, context=4)(torch.randn(6, 4)), fam.Mixture(1, components=3, family=cls)()
    assert kl.route(q, p).kind == "quadrature"
    exact, drawn = kl.divergence(q, p), kl.estimate(q, p, 4000)
    assert bool(((exact - drawn.mean).abs() < 5 * drawn.std_error + 1e-9).all())


def test_a_mixture_of_two_numbers_is_no_single_integral():
    p = fam.Mixture(2, components=2, loc=[[-2.0], [2.0]])()
    assert kl.route(fam.Normal(2)(), p).kind == "sampled"
    product = kl.divergence(
        dist.Normal(torch.zeros(2), 1.0).to_event(1),
        dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2, 2)),
            dist.Normal(torch.tensor([-2.0, 2.0]).expand(2, 2), 1.0),
        ).to_event(1),
    )
    drawn = kl.estimate(fam.Normal(2)(), p, 4000)
    # the sum over features of mixtures, one for each, is another number
    assert (drawn.mean - product).abs() > 5 * drawn.std_error


# ------------------------------------------------------------------------------------ few values
def by_hand(q, p, values):
    log_q, log_p = q.log_prob(values), p.log_prob(values)
    return (log_q.exp() * (log_q - log_p)).sum(0)


def test_one_hot_mixtures_are_enumerated():
    torch.manual_seed(0)
    q = fam.OneHotCategorical(3, 4, categories=4)(torch.randn(5, 4))
    p = fam.Mixture(
        3,
        components=3,
        family=fam.OneHotCategorical,
        categories=4,
        logits=torch.randn(3, 3, 4),
        weights=[0.2, 0.5, 0.3],
    )()
    told = kl.route(q, p)
    assert told.kind == "closed"
    rows = torch.tensor(list(itertools.product(range(4), repeat=3)))
    values = torch.eye(4)[rows].unsqueeze(1)
    torch.testing.assert_close(kl.divergence(q, p), by_hand(q, p, values))
    # joint over the groups: the marginals of the mixture are not enough
    marginals = (p.mixture_distribution.probs[:, None, None] * p.component_distribution.mean).sum(
        0
    )
    product = own.OneHotCategorical(probs=marginals).to_event(1)
    assert bool((kl.divergence(q, p) - kl.divergence(q, product)).abs().max() > 1e-2)


def test_bits_are_enumerated_both_ways():
    torch.manual_seed(0)
    q = fam.Bernoulli(4, logits=torch.randn(4))()
    p = fam.Mixture(4, components=3, family=fam.Bernoulli, logits=torch.randn(3, 4))()
    values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    for a, b in ((q, p), (p, q), (p, p)):
        assert kl.route(a, b).kind == "closed"
        torch.testing.assert_close(kl.divergence(a, b), by_hand(a, b, values))


def test_bits_of_probability_zero():
    def bits(*probs):
        return dist.Bernoulli(torch.tensor(probs)).to_event(1)

    both = mixture(dist.Bernoulli(torch.tensor([[0.0, 0.0], [1.0, 1.0]])).to_event(1), (0.5, 0.5))
    assert kl.divergence(bits(1.0, 1.0), both).item() == pytest.approx(math.log(2))
    assert kl.route(bits(0.5, 0.5), both).kind == "infinite"
    half = mixture(dist.Bernoulli(torch.tensor([[0.5, 0.5], [1.0, 1.0]])).to_event(1), (1.0, 0.0))
    assert kl.divergence(bits(0.5, 0.5), half).item() == pytest.approx(0.0)


def test_too_many_values_are_sampled_and_told():
    p = fam.Mixture(11, components=2, family=fam.Bernoulli)()
    told = kl.route(fam.Bernoulli(11)(), p)
    assert told.kind == "sampled"
    assert "2048 values, of which at most 1024 are enumerated" in told.reason
    huge = kl.route(fam.Bernoulli(5000)(), fam.Mixture(5000, components=2, family=fam.Bernoulli)())
    assert "about 10^1505 values" in huge.reason


# ------------------------------------------------------------------------------------ finiteness
NORMALS = (torch.zeros(2, 2), torch.ones(2, 2))
CASES = {
    "Student-t without variance, Normals": (
        dist.StudentT(torch.tensor([1.5, 5.0])).to_event(1),
        vectors(dist.Normal, [[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [2.0, 2.0]]),
        False,
        True,
    ),
    "Student-t with variance, Normals": (
        dist.StudentT(torch.tensor([2.5, 5.0])).to_event(1),
        vectors(dist.Normal, [[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [2.0, 2.0]]),
        True,
        True,
    ),
    "Cauchys, Student-ts": (
        dist.Cauchy(torch.zeros(2), 1.0).to_event(1),
        vectors(dist.StudentT, [[3.0, 3.0], [9.0, 9.0]]),
        True,
        True,
    ),
    "of the guide one component is enough": (
        vectors(dist.StudentT, [[1.5, 3.0], [3.0, 3.0]]),
        vectors(dist.Normal, [[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [2.0, 2.0]]),
        False,
        True,
    ),
    "of the guide, but not without weight": (
        vectors(dist.StudentT, [[1.5, 3.0], [3.0, 3.0]], weights=(0.0, 1.0)),
        vectors(dist.Normal, [[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [2.0, 2.0]]),
        True,
        True,
    ),
    "a correlated guide": (
        dist.MultivariateStudentT(torch.tensor(1.5), torch.zeros(2), torch.eye(2)),
        mixture(dist.MultivariateNormal(torch.zeros(2, 2), torch.eye(2))),
        False,
        True,
    ),
    "no component carries the first axis": (
        dist.Laplace(torch.zeros(2), torch.tensor([1.5, 0.5])).to_event(1),
        vectors(dist.Gumbel, [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.2, 2.0]]),
        False,
        False,
    ),
    "one component carries both axes": (
        dist.Laplace(torch.zeros(2), torch.tensor([1.5, 0.5])).to_event(1),
        vectors(dist.Gumbel, [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [2.0, 2.0]]),
        True,
        False,
    ),
    "it carries them, but has no weight": (
        dist.Laplace(torch.zeros(2), torch.tensor([1.5, 0.5])).to_event(1),
        vectors(
            dist.Gumbel, [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [2.0, 2.0]], weights=(1.0, 0.0)
        ),
        False,
        False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_tail_is_that_of_the_heaviest_component(name):
    q, p, finite, decided = CASES[name]
    verdict = finiteness(q, p)
    assert bool(torch.as_tensor(verdict.finite).all()) is finite
    assert verdict.decided is decided
    assert (kl.route(q, p).kind == "infinite") is not finite


def test_a_support_is_the_union_of_those_with_weight():
    low, high = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    q = dist.Uniform(torch.tensor([0.5]), 1.5).to_event(1)
    assert kl.route(q, mixture(dist.Uniform(low, high).to_event(1))).kind != "infinite"
    alone = mixture(dist.Uniform(low, high).to_event(1), (1.0, 0.0))
    assert kl.route(q, alone).kind == "infinite"


# ---------------------------------------------------------------------------------- the interval
GAUSSIAN = {
    "normal": (fam.Normal, fam.Normal),
    "full": (fam.FullNormal, fam.FullNormal),
    "normal, low rank": (fam.Normal, fam.LowRankNormal),
}


@pytest.mark.parametrize("name", GAUSSIAN)
@pytest.mark.parametrize("features", [2, (2, 3)])
def test_gaussian_mixtures_have_an_interval(name, features):
    of_q, of_p = GAUSSIAN[name]
    torch.manual_seed(2)
    q = of_q(features, 4)(3 * torch.randn(6, 4))
    n = math.prod((features,) if isinstance(features, int) else features)
    loc = 2 * torch.randn(3, n)
    loc = loc.reshape(3, *of_p(features, **of_p.example_options).values()["loc"].shape)
    p = fam.Mixture(features, components=3, family=of_p, loc=loc, **of_p.example_options)()
    told = kl.route(q, p)
    assert told.kind == "sampled"
    lower, upper = kl.bounds(q, p)
    drawn = kl.estimate(q, p, 4000)
    assert lower.shape == (6,)
    assert bool((lower <= upper).all())
    assert bool(((lower - drawn.mean) < 5 * drawn.std_error).all())
    assert bool(((drawn.mean - upper) < 5 * drawn.std_error).all())


def test_the_interval_of_independent_normals_is_that_of_their_covariances():
    q = fam.Normal(3, 4)(torch.randn(5, 4))
    p = fam.Mixture(3, components=2, loc=torch.randn(2, 3), weights=[0.4, 0.6])()
    full = mixture(
        dist.MultivariateNormal(p.component_distribution.mean, torch.eye(3)), (0.4, 0.6)
    )
    scale = p.component_distribution.base_dist.scale
    full.component_distribution.__init__(
        p.component_distribution.mean, scale_tril=torch.diag_embed(scale)
    )
    for a, b in zip(kl.bounds(q, p), kl.bounds(q, full), strict=True):
        torch.testing.assert_close(a, b)
    assert isinstance(_components(q, torch.Size([5]), False)[1], td.Independent)


def test_components_without_weight_do_not_widen_the_interval():
    one = mixture(dist.Normal(torch.tensor([[0.0, 0], [9, 9]]), 1.0).to_event(1), (1.0, 0.0))
    other = mixture(dist.Normal(torch.tensor([[1.0, 1], [5, 5]]), 1.0).to_event(1), (1.0, 0.0))
    lower, upper = kl.bounds(one, other)
    assert upper.item() == pytest.approx(1.0)
    assert 0 <= lower <= upper


def test_the_route_of_a_gaussian_mixture_names_the_interval_in_words():
    told = kl.route(fam.Normal(2)(), fam.Mixture(2, components=3)())
    assert told.kind == "sampled"
    assert "kl.bounds(q, p) gives an interval" in told.reason
    assert told.error is None
    with pytest.raises(kl.NoExactKL, match=r"kl\.bounds"):
        kl.divergence(fam.Normal(2)(), fam.Mixture(2, components=3)())
