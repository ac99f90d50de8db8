"""Every estimator with every kind of draws, value and gradient, against exact KLs over the shelf.

Each specimen of the shelf as guide meets its own family as prior. Independent repeats of the
estimate give a t statistic for the value and for the derivative with respect to each element of
each parameter, judged at 1e-6 for all statistics of this file together (Bonferroni).
"""

import warnings

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from scipy.stats import t as student

from pyro_vae import kl
from pyro_vae.kl.audit import pairs
from pyro_vae.kl.draws import draws as kinds
from pyro_vae.kl.estimators import Estimator, estimators, moving
from pyro_vae.kl.specimens import SETTINGS

REPEATS, DRAWS = 24, 512
FAILURE = 1e-6
# an upper bound on the number of statistics: specimens x estimators x kinds x elements
STATISTICS = 200 * 4 * 3 * 60
LIMIT = student.isf(FAILURE / STATISTICS / 2, REPEATS - 1)

OWN = [
    pair
    for pair in pairs()
    if pair.q is pair.p
    and pair.q.differentiable
    # there the draws that matter, by their value or by their slope, are too rare ever to come
    and "large logits" not in pair.name
    and not pair.q.name.startswith("wide ")
    and kl.route(*pair.built()[:2]).kind in ("closed", "quadrature")
]
UNBIASED = ["log_ratio", "path", "entropy"]


def repeated(specimen, shift=0):
    """A specimen with repeats in front of its settings, and parameters of that shape."""
    leaves = {}
    for name, values in specimen.parameters.items():
        values = torch.as_tensor(values).roll(shift, 0)
        values = values.expand(REPEATS, *values.shape)
        if values.is_floating_point():
            values = values.float().double().clone().requires_grad_()
        leaves[name] = values
    made = specimen.make(**leaves)
    return made.expand((REPEATS, SETTINGS)), [t for t in leaves.values() if t.requires_grad]


def gradient(value, leaves):
    """The derivative with respect to each parameter, 0 where there is none."""
    found = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True)
    zeros = [torch.zeros_like(leaf) for leaf in leaves]
    return [z if g is None else g for g, z in zip(found, zeros, strict=True)]


def scores(found, exact):
    """t statistics of the mean over repeats, 0 where both agree to rounding."""
    error = found.std(0) / REPEATS**0.5 + 1e-9 * (1 + exact.abs())
    return (found.mean(0) - exact).abs() / error


def worst(pair, estimator, draws):
    """The largest t statistic of value and gradient in settings of finite KL and light tails."""
    q, p, leaves = pair.built()
    exact = kl.divergence(q, p)
    finite = exact.isfinite()
    (wide_q, left), (wide_p, right) = repeated(pair.q), repeated(pair.p, shift=1)
    sampled = kl.estimate(wide_q, wide_p, DRAWS, estimator=estimator, draws=draws)
    light = finite & (sampled.pareto_k.nanquantile(0.9, 0) < 0.5)
    found = [scores(sampled.mean.detach(), exact.detach())[light]]
    if left and light.any():
        there = gradient(exact[finite].sum(), leaves)
        here = gradient(sampled.mean[:, finite].sum(), left + right)
        for a, b in zip(here, there, strict=True):
            found.append(scores(a, b)[light].flatten())
    return torch.cat(found).max().item() if light.any() else None


@pytest.mark.filterwarnings("ignore::pyro_vae.kl.EstimateWarning")
@pytest.mark.parametrize("pair", OWN, ids=lambda pair: pair.q.name)
def test_estimates_are_unbiased_with_their_gradients(pair):
    judged = []
    # refused, and tested to be, where it would be biased
    refused = {"path"} if moving(pair.built()[0]) else set()
    for estimator in [name for name in UNBIASED if name not in refused]:
        for draws in kinds:
            try:
                judged.append(worst(pair, estimator, draws))
            except kl.NoEstimate:
                assert (estimator, draws) != ("log_ratio", "random"), "which is there for all"
    assert max((score for score in judged if score is not None), default=0.0) < LIMIT, judged


def test_the_law_looks_at_most_of_the_shelf():
    names = {pair.q.name for pair in OWN}
    assert {"Normal", "Beta", "Poisson", "MultivariateNormal", "LKJCholesky", "VonMises"} <= names
    assert len(names) < 200
    assert LIMIT < 20


WIDE = [
    (td.Normal(0.25, 1.5), td.Normal(0.0, 1.0)),
    (td.Laplace(0.5, 1.5), td.Normal(0.0, 1.0)),
    (td.Gamma(1.5, 0.75), td.Gamma(2.5, 1.5)),
    (td.Beta(1.0, 1.25), td.Beta(2.0, 2.5)),
    (td.Poisson(2.5), td.Poisson(2.0)),
]


@pytest.mark.filterwarnings("ignore::pyro_vae.kl.EstimateWarning")
@pytest.mark.parametrize(("q", "p"), WIDE, ids=lambda d: repr(d))
@pytest.mark.parametrize("draws", list(kinds))
def test_the_non_negative_estimator_is_unbiased_where_q_covers_p(q, p, draws):
    moved = torch.full((REPEATS,), 1.0, dtype=torch.float64, requires_grad=True)

    def scaled(d):
        """The first parameter multiplied, so that there is a gradient to judge."""
        name, *rest = d.arg_constraints if not isinstance(d, td.Poisson) else ["rate"]
        if isinstance(d, td.Beta):
            name, rest = "concentration1", ["concentration0"]
        first = getattr(d, name).double() * moved
        return type(d)(first, *(getattr(d, n).double().expand(REPEATS) for n in rest))

    wide = scaled(q)
    try:
        sampled = kl.estimate(wide, p, 2000, estimator="non_negative", draws=draws)
    except kl.NoEstimate:
        assert isinstance(q, td.Gamma | td.Beta | td.Poisson)
        assert draws != "random"
        return
    exact = kl.divergence(wide, p)
    [slope], [there] = (gradient(v.sum(), [moved]) for v in (sampled.mean, exact))
    assert scores(sampled.mean.detach(), exact[0].detach()) < LIMIT
    assert scores(slope, there[0]) < LIMIT


def test_a_gradient_without_the_score_is_caught():
    """Must catch: the law is not so wide that it lets a missing term through."""
    rate = torch.full((REPEATS,), 2.0, dtype=torch.float64, requires_grad=True)
    q, p = td.Poisson(rate), td.Poisson(3.0)
    (exact,) = torch.autograd.grad(kl.divergence(q, p).sum(), rate)
    (right,) = torch.autograd.grad(kl.estimate(q, p, DRAWS).mean.sum(), rate)
    x = q.sample((DRAWS,))
    (wrong,) = torch.autograd.grad((q.log_prob(x) - p.log_prob(x)).mean(0).sum(), rate)
    assert scores(right, exact[0]) < LIMIT
    assert scores(wrong, exact[0]) > LIMIT


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: td.Normal(a, b),
        lambda a, b: td.Beta(b, b + 1),
        lambda a, b: td.Independent(td.Gamma(b, b), 1),
        lambda a, b: td.MultivariateNormal(a, scale_tril=torch.diag_embed(b)),
        lambda a, b: td.TransformedDistribution(
            td.Normal(a, b), [td.transforms.AffineTransform(a, b), td.transforms.ExpTransform()]
        ),
    ],
    ids=["Normal", "Beta", "independent Gammas", "MultivariateNormal", "transformed"],
)
def test_at_the_prior_the_path_gradient_has_no_variance(make):
    a, b = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.5, -1], [1.5, 2])
    )
    p = make(a.detach(), b.detach())
    gradients = {}
    for estimator in ("log_ratio", "path"):
        mean = kl.estimate(make(a, b), p, 50, estimator=estimator).mean.sum()
        assert mean.abs() < 1e-9
        found = torch.autograd.grad(mean, [a, b], allow_unused=True)
        gradients[estimator] = max(g.abs().max().item() for g in found if g is not None)
    assert gradients["path"] < 1e-9
    assert gradients["log_ratio"] > 1e-3


def test_the_prior_keeps_its_gradient_on_the_path():
    loc = torch.zeros((), dtype=torch.float64, requires_grad=True)
    q, p = td.Normal(1.0, 1.0), td.Normal(loc, 1.0)
    mean = kl.estimate(q, p, 4096, estimator="path", draws="quasi").mean
    (slope,) = torch.autograd.grad(mean, loc)
    assert slope == pytest.approx(-1.0, abs=0.02)


def test_masses_get_a_score_function_gradient_however_they_pretend():
    """A straight-through `rsample` would give the gradient of something else."""
    logits = torch.tensor([0.1, -0.4, 1.0], dtype=torch.float64).repeat(REPEATS, 1)
    logits.requires_grad_()
    q, p = td.OneHotCategoricalStraightThrough(logits=logits), td.OneHotCategorical(torch.ones(3))
    [exact] = gradient(kl.divergence(q, p).sum(), [logits])
    [sampled] = gradient(kl.estimate(q, p, DRAWS).mean.sum(), [logits])
    assert scores(sampled, exact[0]).max() < LIMIT
    assert exact.abs().max() > 0.05


def test_an_estimator_is_one_definition_and_one_registration(monkeypatch):
    before = dict(estimators._items)
    monkeypatch.setattr(estimators, "_items", before)

    @estimators.register
    class Twice(Estimator):
        """Two log ratios."""

        def values(self, drawn):
            return 2 * (drawn.log_q - drawn.log_p)

    q, p = dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0)
    found = kl.estimate(q, p, 4096, estimator="twice", draws="quasi")
    assert found.mean == pytest.approx(1.0, abs=0.05)


def test_the_non_negative_estimator_warns_of_itself_and_is_refused_where_biased():
    q, p = td.Normal(0.0, 0.2), td.Normal(0.0, 1.0)
    with pytest.warns(kl.EstimateWarning, match="82 %"):
        kl.estimate(q, p, estimator="non_negative")
    low = torch.tensor([0.0, 0.5])
    for narrow, wide in (
        (td.Uniform(low, 1.0), td.Uniform(0.0, 1.0)),
        (td.Gamma(1.0, 1.0), td.Normal(0.0, 1.0)),
        (td.Binomial(3, torch.tensor(0.5)), td.Poisson(1.0)),
        (td.Categorical(torch.tensor([0.5, 0.5, 0.0])), td.Categorical(torch.ones(3))),
    ):
        with pytest.raises(ValueError, match="p has mass where q has none"):
            kl.estimate(narrow, wide, estimator="non_negative")


def test_the_non_negative_estimator_lies_as_its_warning_says():
    """The reason for the warning, 5 standard errors being far from enough."""
    narrow = dist.Normal(torch.zeros(200, 5), 0.4).to_event(1)
    wide = dist.Normal(torch.zeros(5), 1.0).to_event(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kl.EstimateWarning)
        mean, error, _ = kl.estimate(narrow, wide, 200, estimator="non_negative")
    missed = (mean - kl.divergence(narrow, wide)).abs() > 2 * error
    assert missed.double().mean() > 0.3
    mean, error, _ = kl.estimate(narrow, wide, 200)
    honest = (mean - kl.divergence(narrow, wide)).abs() > 2 * error
    assert honest.double().mean() < 0.15
