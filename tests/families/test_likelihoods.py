"""Laws of every likelihood: what it sums to, what it refuses, what it makes of what is missing."""

import math

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import WIDTH, small_vae
from pyro.infer import Trace_ELBO
from scipy import stats
from test_laws import shake, total_mass

from pyro_vae import distributions
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, capture
from pyro_vae.supports import data_support, space_of

PIXELS, ROWS = 6, 10
LIKELIHOODS = {name: cls for name, cls in fam.registry.items() if "likelihood" in cls.roles}
likelihoods = pytest.mark.parametrize("name", LIKELIHOODS)
MASK = torch.rand(ROWS, PIXELS, generator=torch.Generator().manual_seed(1)) > 0.3


def vae_of(name, **options):
    return small_vae(likelihood=LIKELIHOODS[name].example(PIXELS, context=WIDTH), **options)


def drawn(vae, count=ROWS):
    with torch.no_grad():
        return vae.model(size=count).float()


# ---------------------------------------------------------------------- masses and densities


# bounded: of what a density has beside 1, float32 has no numbers to speak of
START = {name: dict(cls.example_options) for name, cls in LIKELIHOODS.items()}
START["beta"] = {"concentration1": 3.0, "concentration0": 3.0}


@likelihoods
@pytest.mark.parametrize("size", [0.0, 0.5])
def test_mass_is_one_in_single_precision(name, size):
    family = shake(LIKELIHOODS[name](1, learnable=True, **START[name]), size)

    class Single:
        """The density in float32; nodes and sum are not, for the rule is not on trial."""

        support, event_shape = family.support, family.event_shape

        def log_prob(self, x):
            with torch.no_grad():
                log_prob = family().log_prob(x.float())
            assert log_prob.dtype == torch.float32
            return log_prob.double()

    torch.set_default_dtype(torch.float64)
    try:
        mass = total_mass(Single(), family.support)
    finally:
        torch.set_default_dtype(torch.float32)
    assert mass.item() == pytest.approx(1.0, abs=5e-6)


MASSES = {
    "poisson": (distributions.Poisson, [{"rate": r} for r in (1e-3, 7.0, 1e4, 1e6)]),
    "negative_binomial": (
        distributions.NegativeBinomial,
        [
            {"rate": r, "total_count": c}
            for r, c in ((1e-3, 1e-3), (30.0, 0.1), (30.0, 49.9), (30.0, 50.1), (1e4, 1e6))
        ],
    ),
    "zero_inflated_negative_binomial": (
        distributions.ZeroInflatedNegativeBinomial,
        [
            {"rate": r, "total_count": c, "gate_logits": g}
            for r, c, g in ((1e-3, 1e-3, -50.0), (30.0, 0.1, 0.3), (1e4, 1e6, 2.0))
        ],
    ),
    "discretized_logistic": (
        distributions.DiscretizedLogistic,
        [
            {"loc": m, "scale": s}
            for m, s in ((0.5, 0.1), (0.5, 1e-6), (50.0, 1e-6), (-50.0, 1e6), (1.0, 0.003))
        ],
    ),
    "ordinal": (
        distributions.OrderedLogistic,
        [
            {"predictor": m, "cutpoints": c}
            for m, c in ((0.0, [-1.0, 1.0]), (60.0, [-1.0, 0.0, 1.0]), (-60.0, [0.0, 1e-4]))
        ],
    ),
}


@pytest.mark.parametrize(
    ("cls", "parameters"),
    [
        pytest.param(cls, p, id=f"{name}-{'-'.join(map(str, p.values()))}")
        for name, (cls, members) in MASSES.items()
        for p in members
    ],
)
def test_masses_of_extreme_members_sum_to_one_in_single_precision(cls, parameters):
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in parameters.items()}
    d = cls(**leaves)
    space = space_of(d.support)
    top = min(space.upper, (d.mean + 40 * d.variance.sqrt()).item() + 1000)
    x = torch.arange(0, int(top) + 1)
    # far counts have no float32 of their own beyond 2^24
    assert len(x) < 2**22
    log_mass = d.log_prob(x.float())
    assert bool(log_mass.isfinite().all())
    assert log_mass.double().exp().sum().item() == pytest.approx(1.0, abs=2e-6)
    gradients = torch.autograd.grad(log_mass.sum(), list(leaves.values()))
    assert all(bool(g.isfinite().all()) for g in gradients)


def by_mpmath(k, m, t):
    """log[s(b) - s(a)] of level k of 256, to fifty digits."""
    with mpmath.workdps(50):
        m, t = mpmath.mpf(m), mpmath.mpf(t)
        s = [1 / (1 + mpmath.exp(-(mpmath.mpf(k + h) / 255 - m) / t)) for h in (-0.5, 0.5)]
        low, high = 0 if k == 0 else s[0], 1 if k == 255 else s[1]
        return float(mpmath.log(high - low))


@pytest.mark.parametrize(("loc", "scale"), [(0.5, 0.1), (-0.3, 0.02), (0.9, 3.0)])
def test_far_grey_levels_keep_their_digits(loc, scale):
    levels = [0, 1, 17, 128, 254, 255]
    parameters = torch.tensor([loc, scale], dtype=torch.float64)
    d = distributions.DiscretizedLogistic(*parameters)
    found = d.log_prob(torch.tensor(levels).double()).numpy()
    truth = [by_mpmath(k, loc, scale) for k in levels]
    np.testing.assert_allclose(found, truth, rtol=1e-13)


@pytest.mark.usefixtures("float64")
def test_ordered_classes_are_those_of_pyro():
    predictor, cutpoints = torch.tensor([0.3, -2.0]), torch.tensor([-1.0, 0.5, 2.0])
    ours = distributions.OrderedLogistic(predictor, cutpoints)
    theirs = dist.OrderedLogistic(predictor, cutpoints.expand(2, 3))
    x = torch.arange(4.0)[:, None].expand(4, 2)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x.long()))
    torch.testing.assert_close(ours.probs, theirs.probs)


@pytest.mark.parametrize(
    ("cls", "parameters"),
    [
        (distributions.Poisson, {"rate": 3.0}),
        (distributions.NegativeBinomial, {"rate": 3.0, "total_count": 1.5}),
        (
            distributions.ZeroInflatedNegativeBinomial,
            {"rate": 3.0, "total_count": 1.5, "gate_logits": -1.0},
        ),
        (distributions.DiscretizedLogistic, {"loc": 0.9, "scale": 0.1}),
        (distributions.OrderedLogistic, {"predictor": 0.7, "cutpoints": [-1.0, 0.5, 2.0]}),
    ],
)
def test_draws_and_moments_are_those_of_the_mass(cls, parameters):
    d = cls(**{k: torch.tensor(v) for k, v in parameters.items()})
    k = torch.arange(400.0 if space_of(d.support).upper > 400 else space_of(d.support).upper + 1)
    p = d.log_prob(k).double().exp().numpy()
    mean = (k.numpy() * p).sum()
    assert d.mean.item() == pytest.approx(mean, rel=1e-5)
    assert d.variance.item() == pytest.approx(((k.numpy() - mean) ** 2 * p).sum(), rel=1e-5)
    count = 20_000
    x = d.sample((count,)).long().numpy()
    # of few draws a class the statistic is no chi square: the rare ones are put together
    common = p * count > 20
    seen = np.bincount(x, minlength=len(k))
    seen = np.append(seen[: len(k)][common], count - seen[: len(k)][common].sum())
    expected = np.append(p[common], 1 - p[common].sum()) * count
    if expected[-1] < 1:
        seen, expected = seen[:-1], expected[:-1] * seen[:-1].sum() / expected[:-1].sum()
    # one honest run in a million fails
    assert stats.chisquare(seen, expected).pvalue > 1e-6


# ---------------------------------------------------------------------- what is refused

LINE = "real line"

# a value that no member of the family can take, and one likelihood that can
ILLEGAL = {
    "bernoulli": (0.3, "ContinuousBernoulli"),
    "beta": (0.0, "ContinuousBernoulli"),
    "categorical": (0.5, "Normal"),
    "continuous_bernoulli": (1.5, "Normal"),
    "discretized_logistic": (256.0, "Poisson"),
    "discretized_logistic_mixture": (-1.0, "Normal"),
    "negative_binomial": (-1.0, "Normal"),
    "ordinal": (4.0, "Poisson"),
    "poisson": (0.5, "Normal"),
    "zero_inflated_negative_binomial": (1.5, "Normal"),
}


def test_every_likelihood_of_less_than_the_line_has_an_illegal_value():
    bounded = {n for n, c in LIKELIHOODS.items() if space_of(c.example(1).support).name != LINE}
    assert bounded <= set(ILLEGAL)


@likelihoods
def test_data_outside_the_support_are_refused_with_the_cure(name):
    if name not in ILLEGAL:
        value, cure = math.inf, r"1 infinite entries in 1 of 10 data \(first in row 3\).*mask="
    else:
        value, other = ILLEGAL[name]
        cure = rf"outside the support.*such as {value:g}.*row 3.*Likelihoods that fit: .*{other}"
    vae = vae_of(name)
    x = drawn(vae)
    x[3, 2] = value
    for validation in (True, False):
        with pyro.validation_enabled(validation), pytest.raises(ValueError, match=cure):
            vae.model(x)


def test_shares_at_the_ends_are_no_data_of_a_beta():
    x = torch.full((10, PIXELS), 0.4)
    assert vae_of("beta").model(x) is not None
    x[2, 1], x[5] = 1.0, 0.0
    words = r"Beta likelihood \(unit interval without its ends\) in 2 of 10 data: values such as 1"
    with pytest.raises(ValueError, match=words):
        vae_of("beta").model(x)
    assert "Beta" not in fam.fitting_data(x)
    mixture = fam.Mixture(3, family=fam.Beta, components=2)()
    assert data_support(mixture).check(torch.tensor([[0.5] * 3, [0.5, 0.0, 1.0]])).tolist() == [
        True,
        False,
    ]
    beta = fam.Beta(3)()
    assert not bool(data_support(beta.mask(torch.tensor(True))).check(torch.zeros(3)))


@likelihoods
def test_own_draws_fit_and_the_cure_says_so(name):
    x = drawn(vae_of(name))
    assert LIKELIHOODS[name].__name__ in fam.fitting_data(x)


def test_grey_levels_that_were_divided_are_recognised():
    x = torch.randint(256, (ROWS, PIXELS)) / 255
    for name in ("bernoulli", "discretized_logistic"):
        with pytest.raises(ValueError, match="255 x are grey levels, for fam.DiscretizedLogistic"):
            vae_of(name).model(x)
    with pytest.raises(ValueError, match=r"grey data binary\)"):
        vae_of("bernoulli").model(x * 0.9)


def test_classes_that_fit_are_as_many_as_the_data_have():
    x = torch.tensor([[0.0, 9.0], [17.0, 3.0]])
    assert {"Categorical", "Ordinal", "DiscretizedLogistic", "Poisson"} <= set(fam.fitting_data(x))
    # nobody means so many classes
    assert "Categorical" not in fam.fitting_data(1000 * x)
    assert "Categorical" not in fam.fitting_data(x + 0.5)


# ---------------------------------------------------------------------- what is missing


@likelihoods
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceExactKL_ELBO, TraceIWAE_ELBO])
def test_what_stands_under_the_mask_changes_nothing(name, elbo):
    options = {"num_particles": 4, "vectorize_particles": True}
    vae = vae_of(name)
    x = drawn(vae)
    found = []
    for junk in (0.0, math.nan, -math.inf, 1e30, -0.5):
        torch.manual_seed(4)
        vae.zero_grad()
        dirty = torch.where(MASK, x, torch.tensor(junk))
        loss = elbo(**options)(vae.model, vae.guide)(dirty, mask=MASK)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in vae.parameters())])
    assert all(bool(t.isfinite().all()) for t in found[0])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@likelihoods
def test_a_captured_step_is_that_of_the_program(name):
    vae, elbo = vae_of(name), TraceExactKL_ELBO()
    x = drawn(vae)
    captured = capture(elbo, vae.model, vae.guide, x, kwargs={"mask": MASK})
    found = []
    for loss in (captured, elbo.loss_and_grads):
        args = () if loss is captured else (vae.model, vae.guide)
        vae.zero_grad()
        torch.manual_seed(4)
        value = loss(*args, torch.where(MASK, x, math.nan), mask=MASK)
        found.append([torch.as_tensor(value), *(p.grad.clone() for p in vae.parameters())])
    torch.testing.assert_close(found[0], found[1], check_dtype=False)


@likelihoods
def test_a_datum_of_which_nothing_is_observed_says_nothing(name):
    vae = vae_of(name)
    x = torch.full((ROWS, PIXELS), math.nan)
    mask = torch.zeros(ROWS, PIXELS, dtype=torch.bool)
    trace = pyro.poutine.trace(vae.model).get_trace(x, mask=mask)
    trace.compute_log_prob()
    assert bool((trace.nodes["x"]["log_prob"] == 0).all())


# ---------------------------------------------------------------------- the scale of a Normal


def decoded(family, rows=5):
    with torch.no_grad():
        return family(torch.randn(rows, 4)).base_dist


def test_scale_given_is_one_constant():
    family = fam.Normal(3, context=4, scale=0.1)
    assert family.predicted == ("loc",)
    assert [n for n, _ in family.named_parameters()] == ["head.weight", "head.bias"]
    assert bool((decoded(family).scale == 0.1).all())


def test_scale_learned_is_one_parameter_for_each_feature():
    family = fam.Normal(3, context=4, scale=0.5, learnable=("scale",))
    assert (family.predicted, family.learned) == (("loc",), ("scale",))
    assert family.raw_scale.shape == (3,)
    torch.testing.assert_close(decoded(family).scale, torch.full((5, 3), 0.5))
    x = 3 * torch.randn(2000, 3)
    optimizer = torch.optim.Adam(family.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-family(torch.zeros(len(x), 4)).log_prob(x).mean()).backward()
        optimizer.step()
    torch.testing.assert_close(family.values(torch.zeros(4))["scale"], x.std(0), rtol=0.02, atol=0)


def test_scale_predicted_differs_between_data():
    family = shake(fam.Normal(3, context=4))
    assert family.predicted == ("loc", "scale")
    assert len(decoded(family).scale.unique()) == 15


# ---------------------------------------------------------------------- ordered classes


def test_cutpoints_are_learned_in_order_and_stay_apart():
    family = fam.Ordinal(2, context=4, categories=5, learnable=("cutpoints",))
    assert (family.predicted, family.learned) == (("predictor",), ("cutpoints",))
    with torch.no_grad():
        family.raw_cutpoints.copy_(torch.tensor([[30.0, -90.0, -90.0, 5.0]] * 2))
    cutpoints = family.values(torch.zeros(4))["cutpoints"]
    assert bool((cutpoints.diff() > 5e-5).all())
    log_mass = family(torch.zeros(4)).base_dist.log_prob(torch.arange(5.0)[:, None].expand(5, 2))
    assert bool(log_mass.isfinite().all())


def test_cutpoints_reach_the_shares_of_the_data():
    shares = torch.tensor([0.5, 0.05, 0.15, 0.3])
    x = torch.multinomial(shares, 4000, replacement=True)[:, None].float()
    family = fam.Ordinal(1, categories=4, learnable=("cutpoints",))
    optimizer = torch.optim.Adam(family.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-family().log_prob(x).mean()).backward()
        optimizer.step()
    seen = torch.bincount(x[:, 0].long()) / len(x)
    torch.testing.assert_close(family().base_dist.probs[0], seen, rtol=0, atol=2e-3)


def test_cutpoints_given_have_to_increase():
    with pytest.raises(ValueError, match="cutpoints must satisfy"):
        fam.Ordinal(1, categories=3, cutpoints=[1.0, 0.0])
    with pytest.raises(ValueError, match="a trained cutpoints must start where"):
        fam.Ordinal(1, categories=3, cutpoints=[0.0, 1e-6], learnable=("cutpoints",))
    with pytest.raises(ValueError, match="categories must be at least 2"):
        fam.Ordinal(1, categories=1)


# ---------------------------------------------------------------------- grey levels


def test_levels_are_two_at_least():
    with pytest.raises(ValueError, match="levels must be at least 2, black and white, not 1"):
        fam.DiscretizedLogistic(3, levels=1)
    with pytest.raises(ValueError, match="levels must be at least 2"):
        distributions.DiscretizedLogistic(torch.zeros(3), torch.ones(3), levels=1)


def test_two_levels_are_a_bernoulli():
    d = fam.DiscretizedLogistic(1, levels=2, loc=0.8, scale=0.3)()
    logits = torch.tensor((0.8 - 0.5) / 0.3)
    for x in (0.0, 1.0):
        expected = dist.Bernoulli(logits=logits).log_prob(torch.tensor(x))
        torch.testing.assert_close(d.log_prob(torch.tensor([x])), expected)


def test_mixtures_are_shown_what_their_components_are():
    mixed = fam.Mixture(3, family=fam.DiscretizedLogistic, components=2, levels=17)
    assert [m.scale for m in mixed.scaling()] == [16]
    assert fam.Mixture(3, components=2).scaling() == ()


def test_every_pixel_chooses_its_own_component():
    """Black or white, each pixel by itself; a `Mixture` chooses for all of them at once."""
    ends, x = {"loc": [0.0, 1.0], "scale": 0.02, "logistics": 2}, torch.tensor([0.0, 255.0])
    each = fam.DiscretizedLogisticMixture(2, **ends)()
    assert each.log_prob(x).exp().item() == pytest.approx((0.5 * 0.5245) ** 2, rel=1e-2)
    at_once = fam.Mixture(
        2, family=fam.DiscretizedLogistic, components=2, loc=[[0.0], [1.0]], scale=0.02
    )()
    assert at_once.log_prob(x) < -40
    torch.testing.assert_close(
        at_once.log_prob(0 * x).exp().item(), 0.5 * 0.5245**2, rtol=1e-2, atol=0
    )
    with pytest.raises(ValueError, match="logistics must be at least 1"):
        fam.DiscretizedLogisticMixture(2, logistics=0)
