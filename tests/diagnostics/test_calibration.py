"""Ranks are uniform for exact guides, and follow the exact law of every wrong one."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_vae import distributions as own
from pyro_vae.diagnostics import calibration, pit_by_site
from pyro_vae.diagnostics.calibration import randomised_pit
from pyro_vae.diagnostics.shelf import NotApplicable
from tests.benchmarks.who_catches_what import cases

DRAWS, REPLICATES = 199, 1000
FAILURE = 1e-6  # of each test that a right number fails


def calibrated(model, guide, *args, **options):
    options = {"num_samples": DRAWS, "replicates": REPLICATES, "progress": False} | options
    return calibration(model, guide, *args, **options)


@pytest.fixture(scope="module")
def tables():
    x = cases()["the exact posterior"].oracle.sample(100)
    return {name: calibrated(case.model, case.guide, x) for name, case in cases().items()}


def mixed(p, draws=DRAWS):
    """The distribution function of u = (r + U) / (S + 1), r ~ Binomial(S, p), p many values."""

    def cdf(u):
        at = np.asarray(u)[:, None] * (draws + 1)
        whole = np.minimum(np.floor(at), draws)
        binomial = stats.binom(draws, p[None])
        below = binomial.cdf(whole - 1) + (at - whole) * binomial.pmf(whole)
        return below.mean(1)

    return cdf


# quantiles of the middle of equal slices: a mean over them is an integral
SLICES = (np.arange(300) + 0.5) / 300
NORMALS = stats.norm.ppf(SLICES)


@pytest.mark.parametrize(
    ("name", "scale", "shift"),
    [
        ("the exact posterior", 1.0, 0.0),
        ("sd x 0.5", 0.5, 0.0),
        ("sd x 1.5", 1.5, 0.0),
        ("mean + 0.5 sd", 1.0, 0.5),
        ("a dead latent, exact", 1.0, 0.0),
    ],
)
def test_ranks_of_z_follow_their_exact_law(tables, name, scale, shift):
    cdf = mixed(stats.norm.cdf((NORMALS - shift) / scale))
    for u in tables[name].pit.values.T:
        assert stats.kstest(cdf(u), "uniform").pvalue > FAILURE


def test_ranks_of_a_factorised_guide_follow_their_exact_law(tables):
    case = cases()["best factorised Normal"]
    ratio = case.covariance.diagonal() / case.oracle.covariance.diagonal()
    for u, scale in zip(
        tables["best factorised Normal"].pit.values.T, ratio.sqrt().numpy(), strict=True
    ):
        cdf = mixed(stats.norm.cdf(NORMALS / scale))
        assert stats.kstest(cdf(u), "uniform").pvalue > FAILURE


@pytest.mark.parametrize(
    ("name", "factor"), [("the exact posterior", 1.0), ("sd x 0.5", 0.25), ("sd x 1.5", 2.25)]
)
def test_coverage_of_densest_regions_is_that_of_chi_squared(tables, name, factor):
    chi = stats.chi2(3)
    cdf = mixed(chi.cdf(chi.ppf(SLICES) / factor))
    u = tables[name].pit_hpd.values
    assert stats.kstest(cdf(u), "uniform").pvalue > FAILURE
    for level in (50, 90):
        covered = round(float(tables[name][f"coverage_{level}"].sel(quantity="hpd")) * len(u))
        expected = float(cdf([level / 100])[0])
        assert stats.binomtest(covered, len(u), expected).pvalue > FAILURE


@pytest.mark.parametrize("name", cases())
def test_contraction_is_that_of_the_guide(tables, name):
    table = tables[name]
    away = table.contraction.values - (1 - cases()[name].covariance.diagonal().numpy())
    assert (np.abs(away) <= 5 * table.contraction_std_error.values).all()


@pytest.mark.parametrize("name", ["the exact posterior", "a dead latent, exact"])
def test_exact_guides_pass(tables, name):
    assert not tables[name].calibration_rejected
    (finding,) = calibration.step.judge(tables[name])
    assert finding.level == "good"


@pytest.mark.parametrize("name", ["sd x 0.5", "sd x 1.5", "mean + 0.5 sd", "data shuffled"])
def test_wrong_guides_are_caught_by_ranks_of_z(tables, name):
    table = tables[name]
    assert float(table.pit_p_value.sel(quantity=table.latent.values).max()) < FAILURE
    assert calibration.step.judge(table)[0].level == "bad"


def test_the_prior_passes_ranks_of_z_and_fails_that_of_the_likelihood(tables):
    p = tables["q = prior"].pit_p_value
    assert float(p.sel(quantity=["z[0]", "z[1]", "z[2]", "hpd"]).min()) > FAILURE
    assert float(p.sel(quantity="log_likelihood")) < FAILURE
    assert calibration.step.judge(tables["q = prior"])[0].level == "bad"


def test_a_guide_as_wide_as_the_prior_is_told_even_where_it_is_exact():
    case = cases()["q = prior"]
    deaf = case._replace(oracle=case.oracle._replace(weight=0 * case.oracle.weight))
    table = calibrated(deaf.model, deaf.guide, case.oracle.sample(10))
    assert [f.level for f in calibration.step.judge(table)] == ["good", "care"]


def test_an_exact_guide_is_rejected_as_often_as_stated():
    case = cases()["the exact posterior"]
    x = case.oracle.sample(10)
    rejected = sum(
        calibrated(
            case.model,
            case.guide,
            x,
            num_samples=19,
            replicates=100,
            seed=seed,
            failure_probability=0.2,
        ).calibration_rejected
        for seed in range(15)
    )
    # Bonferroni: at most 0.2 of them, and not far below
    assert stats.binom(15, 0.2).sf(rejected - 1) > FAILURE


# ------------------------------------------------------------------------- every kind of latent
def sphere(width):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", own.SphericalUniform(3, (), x))
            pyro.sample("x", own.VonMisesFisher(z, x.new_tensor(5.0)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", own.VonMisesFisher(x, x.new_tensor(5.0 * width)))

    start = torch.nn.functional.normalize(torch.ones(70, 3, dtype=torch.float64), dim=-1)
    return model, guide, start


def angle(width):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", own.CircularUniform((), x))
            pyro.sample("x", own.VonMises(z, x.new_tensor(5.0)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", own.VonMises(x, x.new_tensor(5.0 * width)))

    return model, guide, torch.zeros(70, dtype=torch.float64)


def classes(width):
    prior, places = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([-1.0, 0.0, 2.0])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(prior))
            pyro.sample("x", dist.Normal(places[z], 1.0), obs=x)

    def guide(x):
        logits = prior.log() - 0.5 * (x[:, None] - places).square()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=logits * width))

    return model, guide, torch.zeros(70)


def bits(width):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.4 * torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Normal(2 * z, 1.0).to_event(1), obs=x)

    def guide(x):
        logits = math.log(0.4 / 0.6) + 2 * x - 2
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logits * width).to_event(1))

    return model, guide, torch.zeros(70, 2)


KINDS = {"sphere": sphere, "angle": angle, "classes": classes, "bits": bits}


@pytest.mark.parametrize("kind", KINDS)
def test_exact_guides_of_every_kind_pass_and_wrong_ones_are_caught(kind):
    assert (
        calibrated(*KINDS[kind](1.0), replicates=500, num_samples=99).calibration_p_value > FAILURE
    )
    assert (
        calibrated(*KINDS[kind](0.3), replicates=500, num_samples=99).calibration_p_value < FAILURE
    )


def test_several_sites_and_arguments():
    def model(x, *, counts):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("counts", dist.Poisson(rate), obs=counts)

    def guide(x, *, counts, scale=1.0):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(2.0 + counts, 2.0 * scale))
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    def wrong(x, *, counts):
        guide(x, counts=counts, scale=1.5)

    x, counts = torch.zeros(70, 2), torch.zeros(70)
    table = calibrated(model, guide, x, counts=counts)
    assert table.calibration_p_value > FAILURE
    assert {n: a.shape for n, a in pit_by_site(table).items()} == {
        "rate": (REPLICATES, 1),
        "z": (REPLICATES, 2),
        "log_likelihood": (REPLICATES,),
        "hpd": (REPLICATES,),
    }
    table = calibrated(model, wrong, x, counts=counts)
    caught = table.pit_p_value < FAILURE
    assert bool(caught.sel(quantity="rate"))
    assert not caught.sel(quantity=["z[0]", "z[1]"]).any()


def test_a_single_draw_has_ranks_but_no_variance():
    case = cases()["the exact posterior"]
    table = calibrated(case.model, case.guide, case.oracle.sample(10), num_samples=1)
    assert table.calibration_p_value > FAILURE
    assert table.contraction.isnull().all()
    assert [f.level for f in calibration.step.judge(table)] == ["good"]


def test_ties_are_broken_at_random():
    draws, uniform = torch.zeros(9, 4000), torch.rand(4000)
    u = randomised_pit(torch.zeros(4000), draws, uniform)
    assert stats.kstest(u.numpy(), "uniform").pvalue > FAILURE
    infinite = torch.full((9, 1), -torch.inf)
    assert randomised_pit(infinite[0], infinite, torch.tensor([0.25]), 1e-6).item() == 0.25


# ------------------------------------------------------------------------------------ refusals
def test_numbers_out_of_range_are_refused():
    case, x = cases()["the exact posterior"], torch.zeros(4, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="replicates must be at least 2, not 1"):
        calibrated(case.model, case.guide, x, replicates=1)
    with pytest.raises(ValueError, match="between 0 and 1, but is 1.5"):
        calibrated(case.model, case.guide, x, failure_probability=1.5)


def test_a_guide_that_holds_parameters_by_datum_is_refused():
    case, x = cases()["the exact posterior"], torch.zeros(4, 6, dtype=torch.float64)

    def guide(x):
        loc = pyro.param("loc", torch.arange(12.0, dtype=torch.float64).reshape(4, 3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    with pytest.raises(NotApplicable, match="cannot be run on 3 data in the place of 4"):
        calibrated(case.model, guide, x)

    auto = pyro.infer.autoguide.AutoNormal(case.model)
    auto(x)
    with pytest.raises(NotApplicable, match="cannot be run on 3 data in the place of 4"):
        calibrated(case.model, auto, x)

    def indexed(x):
        loc = pyro.param("loc", torch.arange(12.0, dtype=torch.float64).reshape(4, 3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc[: len(x)], 1.0).to_event(1))

    with pytest.raises(NotApplicable, match="another one for each of several equal data"):
        calibrated(case.model, indexed, x)
