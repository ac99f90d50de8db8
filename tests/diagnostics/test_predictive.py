"""Checks of a model against data: what each of the two sees, and what it is blind to.

A z-score beyond 5 happens to a right program once in two million times; the seeds are fixed.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import EXACT, F64, MEAN_FIELD, NARROW, ORACLE, PRIOR, data, model
from test_engine import digest, plain_guide, untidy

from pyro_vae.diagnostics import (
    STATISTICS,
    prior_predictive_check,
    reconstruction_check,
    statistic,
)

QUIET = {"progress": False}


class Scaled:
    """The oracle with little noise, for data whose latent values are `scale` times as wide."""

    noise = 0.2

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            mean = z @ ORACLE.weight.T + ORACLE.bias
            pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=x)

    def guide(self, x):
        weight = ORACLE.weight / self.noise**2
        precision = torch.eye(2, dtype=F64) + ORACLE.weight.T @ weight
        mean = (x - ORACLE.bias) @ weight @ torch.linalg.inv(precision)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(mean, precision_matrix=precision))

    def data(self, count, scale, seed=2):
        generator = torch.Generator().manual_seed(seed)
        z = scale * torch.randn(count, 2, generator=generator, dtype=F64)
        noise = self.noise * torch.randn(count, 5, generator=generator, dtype=F64)
        return z @ ORACLE.weight.T + ORACLE.bias + noise


def energy(x):
    return (x - ORACLE.bias).square().mean(-1)


# --------------------------------------------------------------------------- what they see
def test_a_right_model_passes_both():
    case = Scaled()
    x = case.data(200, 1.0)
    prior = prior_predictive_check(case.model, case.guide, x, **QUIET)
    # the largest of 12 z-scores is beyond 5 once in 10^5 times
    assert float(abs(prior.prior_predictive_z).max()) < 5
    assert float(abs(prior.prior_predictive_shift).max()) < 0.4
    rec = reconstruction_check(case.model, case.guide, x, **QUIET)
    assert float(abs(rec.reconstruction_z).max()) < 5
    # a statistic that never varies is compared with nothing
    sparse = prior.sel(statistic="sparsity")
    assert sparse.prior_predictive_z.isnull().all()
    np.testing.assert_allclose(sparse.prior_predictive_p, 0.5)


def test_a_wrong_prior_is_seen_by_the_one_and_not_by_the_other():
    case = Scaled()
    x = case.data(200, 2.0)
    statistics = {"energy": energy}
    options = {"statistics": statistics, **QUIET}
    place = {"observed_site": "x", "statistic": "energy", "over": "mean"}
    prior = prior_predictive_check(case.model, case.guide, x, **options).sel(place)
    assert prior.prior_predictive_z > 10
    assert prior.prior_predictive_p < 0.01
    assert prior.prior_predictive_shift > 1
    rec = reconstruction_check(case.model, case.guide, x, **options).sel(place)
    assert abs(rec.reconstruction_z) < 3
    assert 0.01 < rec.reconstruction_p < 0.99
    # and so by the statistics that come with it
    usual = prior_predictive_check(case.model, case.guide, x, **QUIET)
    assert float(abs(usual.prior_predictive_z).max()) > 5


def test_a_bad_guide_is_seen_by_the_other_alone():
    x = data(200)
    good = prior_predictive_check(model, EXACT, x, **QUIET)
    bad = prior_predictive_check(model, NARROW, x, **QUIET)
    assert good.prior_predictive_z.equals(bad.prior_predictive_z), "no guide was asked"
    # reconstructions by z ~ p(z) are not those of x, but each is data of the model
    far = Scaled()
    rec = reconstruction_check(far.model, PRIOR, far.data(200, 2.0), **QUIET)
    assert float(abs(rec.reconstruction_z).max()) > 5


def test_z_is_the_closed_form():
    # of a mean over N data the sd is known: z ~ (T - E T) / sd T
    x = data(100)
    options = {"statistics": {"first": lambda x: x[:, 0]}, "num_samples": 4000, **QUIET}
    found = prior_predictive_check(model, EXACT, x, **options).squeeze()
    variance = float(ORACLE.marginal_covariance[0, 0])
    truth = float(x[:, 0].mean() - ORACLE.bias[0]) / (variance / 100) ** 0.5
    mean = found.sel(over="mean")
    assert abs(mean.prior_predictive_z - truth) < 5 * mean.prior_predictive_z_std_error
    p = dist.Normal(0.0, 1.0).cdf(torch.tensor(-truth)).item()
    assert abs(mean.prior_predictive_p - p) < 5 * mean.prior_predictive_p_std_error
    spread = found.sel(over="sd").prior_predictive_replicated_mean
    assert abs(float(spread) - variance**0.5) < 0.02 * variance**0.5
    np.testing.assert_allclose(
        found.prior_predictive_observed, [x[:, 0].mean(), x[:, 0].std(correction=0)]
    )


def test_errors_of_z_are_those_of_repetition():
    x = data(50)
    options = {"statistics": {"energy": energy}, "num_samples": 60, **QUIET}
    runs = [prior_predictive_check(model, EXACT, x, seed=s, **options) for s in range(40)]
    spread = np.std([r.prior_predictive_z for r in runs], axis=0, ddof=1)
    stated = np.mean([r.prior_predictive_z_std_error for r in runs], axis=0)
    # a relative error of 1 / sqrt(2 * 39) each
    assert np.all(abs(spread / stated - 1) < 5 / np.sqrt(2 * 39))


def test_blocks_are_put_together():
    x = data(70)
    whole = prior_predictive_check(model, EXACT, x, block_size=70, **QUIET)
    parts = prior_predictive_check(model, EXACT, x, block_size=32, **QUIET)
    np.testing.assert_allclose(whole.prior_predictive_observed, parts.prior_predictive_observed)
    away = whole.prior_predictive_replicated_mean - parts.prior_predictive_replicated_mean
    error = whole.prior_predictive_replicated_sd * np.sqrt(2 / 200)
    assert float((abs(away) - 5 * error).max()) <= 1e-12


# ------------------------------------------------------------------------- statistics and data
def test_the_statistics_that_come_with_it():
    x = torch.tensor([[[0.0, 2.0], [0.0, -2.0]], [[1.0, 1.0], [1.0, 1.0]]])
    expected = {
        "mean": [0.0, 1.0],
        "sd": [2**0.5, 0.0],
        "minimum": [-2.0, 1.0],
        "maximum": [2.0, 1.0],
        "sparsity": [0.5, 0.0],
        "roughness": [4.0, 0.0],
    }
    assert set(expected) == set(STATISTICS)
    for name, values in expected.items():
        np.testing.assert_allclose(STATISTICS[name](x), values, atol=1e-12)
        assert STATISTICS[name](torch.ones(3)).shape == (3,)


def test_a_statistic_of_ones_own(monkeypatch):
    monkeypatch.setattr(STATISTICS, "_items", dict(STATISTICS))

    @statistic
    def first_pixel(x):
        """The first element."""
        return x.flatten(1)[:, 0]

    found = prior_predictive_check(model, EXACT, data(5), num_samples=5, **QUIET)
    assert "first_pixel" in found.statistic
    some = ["first_pixel", "sd"]
    found = prior_predictive_check(model, EXACT, data(5), statistics=some, num_samples=5, **QUIET)
    assert found.statistic.values.tolist() == some
    with pytest.raises(KeyError, match="Did you mean 'minimum'"):
        prior_predictive_check(model, EXACT, data(5), statistics=["minimun"], **QUIET)


@pytest.mark.parametrize("wrong", [lambda x: x.mean(), lambda x: x, lambda x: 3.0])
def test_a_statistic_of_another_shape_is_refused(wrong):
    with pytest.raises(ValueError, match=r"'odd' must return one number for each datum"):
        prior_predictive_check(model, EXACT, data(5), statistics={"odd": wrong}, **QUIET)


def test_several_sites_and_inner_plates():
    def two_site_model(x, y):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[:, None])
            with pyro.plate("pixels", 3, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def two_site_guide(x, y):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(1, keepdim=True), 1.0))

    x, y = torch.randn(40, 3), torch.randn(40)
    found = prior_predictive_check(two_site_model, two_site_guide, x, y, **QUIET)
    assert sorted(found.observed_site.values) == ["x", "y"]
    seen = found.prior_predictive_observed.sel(statistic="sd", over="mean")
    np.testing.assert_allclose(seen.sel(observed_site="x"), x.std(1, correction=0).mean())
    assert float(seen.sel(observed_site="y")) == 0


def test_masked_entries_are_the_same_on_both_sides():
    keep = torch.rand(50, 4) < 0.5

    def masked_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            inner = dist.Normal(z[..., None].expand(*z.shape, 4), 1.0)
            pyro.sample("x", inner.mask(keep).to_event(1), obs=x)

    def masked_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    x = torch.where(keep, torch.randn(50, 4), torch.tensor(100.0))
    found = prior_predictive_check(masked_model, masked_guide, x, num_samples=50, **QUIET)
    top = found.sel(statistic="maximum", over="mean").squeeze()
    assert abs(top.prior_predictive_observed - top.prior_predictive_replicated_mean) < 1
    assert float(top.prior_predictive_replicated_mean) > 50

    @pyro.poutine.mask(mask=keep[:, 0])
    def site_masked_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    found = prior_predictive_check(
        site_masked_model, lambda x: masked_guide(x[:, None]), x[:, 0], num_samples=50, **QUIET
    )
    top = found.sel(statistic="mean", over="mean").squeeze()
    assert abs(top.prior_predictive_observed - top.prior_predictive_replicated_mean) < 1


def test_one_replicate_has_no_spread():
    found = prior_predictive_check(model, MEAN_FIELD, data(5), num_samples=1, **QUIET)
    assert found.prior_predictive_z.isnull().all()
    (finding,) = prior_predictive_check.step.judge(found)
    assert "no statistic" in finding.text


# ------------------------------------------------------------------------------------- manners
def test_nothing_of_the_callers_changes():
    module, optimizer, x = untidy(stored=True)
    before = digest(module, optimizer)
    for check in (prior_predictive_check, reconstruction_check):
        check(module, plain_guide, x, num_samples=5, block_size=8, **QUIET)
        assert digest(module, optimizer) == before


def test_verdicts():
    case = Scaled()
    for scale, level in ((1.0, "good"), (2.0, "care")):
        found = prior_predictive_check(case.model, case.guide, case.data(200, scale), **QUIET)
        (finding,) = prior_predictive_check.step.judge(found)
        assert finding.level == level
    assert "richer prior" in finding.advice
    found = reconstruction_check(case.model, PRIOR, case.data(200, 2.0), **QUIET)
    (finding,) = reconstruction_check.step.judge(found)
    assert "says nothing of the prior" in finding.advice
