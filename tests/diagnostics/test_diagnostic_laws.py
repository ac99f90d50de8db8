"""What every registered diagnostic must do: a new one is held to it without being named here."""

import inspect
import json
import warnings

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from linear import MEAN_FIELD, NARROW, WIDE, data, model

from pyro_vae import diagnose, diagnostics
from pyro_vae.diagnostics import (
    DIAGNOSTICS,
    DiagnosticWarning,
    Finding,
    NotApplicable,
    from_weights,
    register,
    step,
)

NAMES = list(DIAGNOSTICS)
USUAL = [name for name in NAMES if not DIAGNOSTICS[name].step.optional]
OPTIONS = {"num_samples": 50, "progress": False}
QUICK = {
    "ais": {"num_chains": 4, "num_steps": 3, "leapfrog": 2},
    "bdmc": {"num_chains": 4, "num_steps": 3, "leapfrog": 2},
    "gaps": {"refine_steps": 10},
    "nuts_check": {"max_data": 2, "num_draws": 10, "warmup": 10, "num_chains": 2},
}
"""Laws are not about how good the numbers of expensive ones are."""
each_diagnostic = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def no_diagnostic_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticWarning)
        yield


@pytest.fixture
def shelf(monkeypatch):
    """The registry, as it was once the test is over."""
    monkeypatch.setattr(DIAGNOSTICS, "_items", dict(DIAGNOSTICS))


def run(name, **options):
    options = OPTIONS | QUICK.get(name, {}) | options
    return DIAGNOSTICS[name](model, MEAN_FIELD, data(9), **options)


# ------------------------------------------------------------------------------- of each of them
@each_diagnostic
def test_it_is_documented(name):
    text = inspect.getdoc(DIAGNOSTICS[name])
    for section in ("Arguments:", "Returns:", "References:", "Example:"):
        assert section in text, f"{name} has no {section}"
    assert text.partition("\n")[0].endswith(".")
    assert DIAGNOSTICS.summary(name)
    signature = inspect.signature(DIAGNOSTICS[name])
    assert list(signature.parameters)[:2] == ["model", "guide"]
    assert {"num_samples", "seed"} <= set(signature.parameters)
    assert getattr(diagnostics, name) is DIAGNOSTICS[name], "it is exported by its name"


@each_diagnostic
def test_it_has_a_step_and_shows_what_it_returns(name):
    found = run(name)
    place = DIAGNOSTICS[name].step
    assert set(place.shows) <= set(found.data_vars)
    for finding in place.judge(found):
        assert finding.level in ("good", "care", "bad")
        assert finding.level == "good" or finding.advice


@each_diagnostic
def test_it_survives_netcdf(name, tmp_path):
    found = run(name)
    found.to_netcdf(tmp_path / "found.nc")
    with xr.open_dataset(tmp_path / "found.nc") as read:
        xr.testing.assert_identical(found.drop_attrs(deep=False), read.drop_attrs(deep=False))
        # NetCDF knows no list of one
        kept = {k: np.atleast_1d(v).tolist() for k, v in read.attrs.items()}
        assert kept == {k: np.atleast_1d(v).tolist() for k, v in found.attrs.items()}
    assert found.attrs["units"] == "nats"
    assert found.attrs["num_samples"] == OPTIONS["num_samples"]
    assert all(dim in found.coords for dim in found.dims)


@each_diagnostic
def test_it_depends_on_the_seed_alone(name):
    torch.manual_seed(1)
    first = run(name)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = run(name, batch_size=7)
    assert torch.equal(torch.random.get_rng_state(), state)
    xr.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-9)
    with pytest.raises(AssertionError):
        xr.testing.assert_allclose(first, run(name, seed=3), rtol=1e-9, atol=1e-9)


@each_diagnostic
def test_it_creates_no_parameter(name):
    before = set(pyro.get_param_store().keys())
    run(name)
    assert set(pyro.get_param_store().keys()) == before


# ----------------------------------------------------------------------------------- of diagnose
def test_diagnose_takes_them_all_from_the_same_draws():
    found = diagnose(model, MEAN_FIELD, data(9), show=False, **OPTIONS)
    for name in USUAL:
        for variable, values in run(name).data_vars.items():
            xr.testing.assert_allclose(found[variable], values)
    told = json.loads(found.attrs["findings"])
    assert list(told) == sorted(USUAL, key=lambda n: DIAGNOSTICS[n].step.order)


def test_diagnose_survives_netcdf(tmp_path):
    found = diagnose(model, MEAN_FIELD, data(9), show=False, **OPTIONS)
    found.to_netcdf(tmp_path / "found.nc")
    with xr.open_dataset(tmp_path / "found.nc") as read:
        assert read.attrs["verdict"] == found.attrs["verdict"]
        assert json.loads(read.attrs["findings"]) == json.loads(found.attrs["findings"])


def test_diagnose_prints_one_table_and_the_verdict(capsys):
    found = diagnose(model, WIDE, data(40), progress=False)
    told = capsys.readouterr().out
    assert found.attrs["verdict"] in told
    assert "40 data, 1000 draws each" in told
    for name in ("khat", "relative_ess", "elbo", "kl_analytic", "kl_sampled", "iwae"):
        assert f"\n{name} " in told
    assert max(len(line) for line in told.partition("\n\n")[0].splitlines()) < 80


def test_diagnose_runs_the_steps_that_are_named():
    found = diagnose(model, MEAN_FIELD, data(9), steps=["elbo"], show=False, **OPTIONS)
    assert "elbo" in found
    assert "khat" not in found
    with pytest.raises(KeyError, match="Did you mean 'elbo'"):
        diagnose(model, MEAN_FIELD, data(9), steps=["elbow"], show=False, **OPTIONS)


@pytest.mark.usefixtures("shelf")
def test_the_gate_closes_after_a_bad_finding():
    calls = []

    @register
    @step(order=1000, judge=lambda table: [Finding("good", "all is well.")], gated=True)
    def gated_one(model, guide, *args, num_samples, seed, **options):
        """Needs weights that can be trusted."""
        calls.append((num_samples, seed))
        return xr.Dataset({"gated": ("data", np.zeros(len(args[0])))})

    x, options = data(60), {"show": False, "progress": False}
    open_ = diagnose(model, MEAN_FIELD, x, **options)
    assert "gated" in open_
    closed = diagnose(model, NARROW, x, **options)
    assert "gated" not in closed
    assert json.loads(closed.attrs["skipped"])["gated_one"] == "left out after what pareto_k found"
    assert len(calls) == 1
    assert "gated" in diagnose(model, NARROW, x, gate=False, **options)


@pytest.mark.usefixtures("shelf")
def test_what_does_not_apply_is_told():
    @register
    @step(order=1000, judge=lambda table: [])
    def for_others(model, guide, *args, **options):
        """Never applies."""
        raise NotApplicable("the guide is discrete.")

    found = diagnose(model, MEAN_FIELD, data(5), show=False, **OPTIONS)
    assert json.loads(found.attrs["skipped"])["for_others"] == "the guide is discrete."


@pytest.mark.usefixtures("shelf")
def test_a_reduction_of_ones_own_joins_the_pass():
    def judge(table):
        share = float((table.largest_weight > 0.5).mean())
        return [Finding("good", f"one weight rules for {100 * share:.0f} % of data.")]

    @register
    @step(order=5, judge=judge, shows=("largest_weight",))
    @from_weights()
    def largest_weight(weights):
        """The largest normalised weight of each datum."""
        return {"largest_weight": weights.log_weight.softmax(0).max(0).values}

    found = diagnose(model, MEAN_FIELD, data(5), show=False, **OPTIONS)
    assert "one weight rules for 0 % of data" in found.attrs["verdict"].lower()
    alone = largest_weight(model, MEAN_FIELD, data(5), **OPTIONS)
    xr.testing.assert_allclose(found.largest_weight, alone.largest_weight)


def test_few_draws_are_no_failure():
    found = diagnose(model, MEAN_FIELD, data(5), num_samples=1, show=False, progress=False)
    assert found.elbo_std_error.isnull().all()
    assert found.khat.isnull().all()
    assert "1 draws are too few for k-hat" in found.attrs["verdict"]


def test_columns_of_all_blocks_are_joined():
    @from_weights()
    def several(weights):
        """By datum, by site and datum, and by neither."""
        number = torch.arange(weights.start, weights.start + weights.size)
        return {
            "number": number,
            "both": (("data", "half"), torch.stack([number, number / 2], 1)),
            "turned": (("half", "data"), torch.stack([number, number / 2])),
            "half": (("half",), ["no", "yes"]),
        }

    found = several(model, MEAN_FIELD, data(9), block_size=4, **OPTIONS)
    assert found.number.values.tolist() == found.data.values.tolist() == list(range(9))
    assert found.both.sel(half="yes").values.tolist() == [i / 2 for i in range(9)]
    xr.testing.assert_equal(found.both, found.turned.T)


def test_what_is_not_by_datum_must_be_the_same_in_every_block():
    @from_weights()
    def first(weights):
        """The number of the first datum."""
        return {"first": ((), weights.start)}

    with pytest.raises(ValueError, match="'first' is not by datum, but differs between blocks"):
        first(model, MEAN_FIELD, data(9), block_size=4, **OPTIONS)
