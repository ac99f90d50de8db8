"""Every registered diagnostic has a picture, which draws from that diagnostic's Dataset alone."""

import inspect
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from pyro_vae import diagnose, plots
from pyro_vae.diagnostics import DIAGNOSTICS, DiagnosticWarning
from pyro_vae.plots.bands import ecdf_band, ecdf_difference, kolmogorov

sys.path.insert(0, str(Path(__file__).parent / "diagnostics"))
from linear import EXACT, MEAN_FIELD, NARROW, PRIOR, data, model

QUICK = {
    "ais": {"num_chains": 4, "num_steps": 3, "leapfrog": 2},
    "bdmc": {"num_chains": 4, "num_steps": 3, "leapfrog": 2},
    "calibration": {"replicates": 50},
    "gaps": {"refine_steps": 10},
    "nuts_check": {"max_data": 2, "num_draws": 10, "warmup": 10, "num_chains": 2},
}
each_diagnostic = pytest.mark.parametrize("name", list(DIAGNOSTICS))


@pytest.fixture(autouse=True)
def no_diagnostic_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticWarning)
        yield


def run(name, guide=MEAN_FIELD, count=12, **options):
    options = {"num_samples": 50, "progress": False} | QUICK.get(name, {}) | options
    return DIAGNOSTICS[name](model, guide, data(count), **options)


def words(figure):
    found = [t.get_text() for axes in figure.axes for t in axes.texts]
    found += [axes.get_title(loc="left") for axes in figure.axes]
    return "\n".join([*found, *(t.get_text() for t in figure.texts)])


def test_every_registered_diagnostic_has_a_picture_and_no_other():
    assert set(plots.PICTURES) == set(DIAGNOSTICS)
    for name, picture in plots.PICTURES.items():
        assert getattr(plots, name) is picture
        assert len(inspect.signature(picture).parameters) == 1
        assert "Arguments:" in inspect.getdoc(picture)


@each_diagnostic
def test_it_is_drawn_from_its_own_dataset_as_read_from_a_file(name, tmp_path):
    run(name).to_netcdf(tmp_path / "one.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "one.nc", engine="h5netcdf") as file:
        table = file.load()
    before = table.copy(deep=True)
    figure = plots.PICTURES[name](table)
    assert isinstance(figure, Figure)
    assert plots.png(figure).startswith(b"\x89PNG")
    assert all(axes.get_title(loc="left") or not axes.axison for axes in figure.axes)
    assert any(axes.has_data() for axes in figure.axes)
    assert table.identical(before)


@each_diagnostic
@pytest.mark.parametrize("guide", [EXACT, PRIOR], ids=["exact", "prior"])
def test_guides_at_the_ends_of_the_scale_are_drawn(name, guide):
    if name == "nuts_check" and guide is PRIOR:
        pytest.skip("chains know nothing of the guide")
    plots.png(plots.PICTURES[name](run(name, guide, count=5)))


def test_a_diagnosis_is_drawn_from_its_file(tmp_path):
    steps = ["pareto_k", "elbo", "gaps", "collapse"]
    options = {"steps": steps, "num_samples": 30, "show": False, "progress": False}
    diagnose(model, MEAN_FIELD, data(70), **options).to_netcdf(
        tmp_path / "d.nc", engine="h5netcdf"
    )
    with xr.open_dataset(tmp_path / "d.nc", engine="h5netcdf") as file:
        found = file.load()
    assert int(found.amortisation_gap.notnull().sum()) == 64, "gaps takes some of the data"
    assert list(plots.pictures(found)) == ["pareto_k", "elbo", "collapse", "gaps"]
    assert list(plots.pictures(found, ["elbo"])) == ["elbo"]
    with pytest.raises(ValueError, match="calibration was not run"):
        plots.pictures(found, ["calibration"])
    with pytest.raises(KeyError, match="no picture is named 'elb'. Did you mean 'elbo'"):
        plots.pictures(found, ["elb"])


def test_what_is_no_diagnosis_is_refused():
    with pytest.raises(ValueError, match="this Dataset is no diagnosis"):
        plots.pictures(xr.Dataset())


def test_a_diagnosis_without_numbers_by_datum_has_no_table(capsys):
    found = diagnose(model, MEAN_FIELD, data(9), steps=["active_units"], progress=False)
    assert json.loads(found.attrs["findings"])
    assert "quantiles" not in capsys.readouterr().out
    assert list(plots.pictures(found)) == ["active_units"]


def test_a_third_party_gives_its_diagnostic_a_picture(monkeypatch):
    monkeypatch.setattr(plots.PICTURES, "_items", dict(plots.PICTURES))

    @plots.register("mine")
    def draw(table):
        """Mine."""
        return plots.canvas()[0]

    told = {"findings": json.dumps({"mine": [], "unknown": []}), "verdict": ""}
    found = xr.Dataset(attrs=told)
    assert list(plots.pictures(found)) == ["mine"]


# ------------------------------------------------------------------------------ what they show
def test_k_hat_is_red_above_its_threshold_alone():
    table = run("pareto_k", NARROW, count=40, num_samples=1000)
    axes = plots.pareto_k(table).axes[0]
    limit = table.attrs["khat_threshold"]
    bars = [p for p in axes.patches if p.get_height() > 0]
    red = [p for p in bars if p.get_facecolor()[0] > 0.6]
    assert 0 < sum(p.get_height() for p in red) == int((table.khat > limit).sum())
    assert sum(p.get_height() for p in bars) == 40
    assert all(p.get_x() >= limit - 1e-9 for p in red)
    share = 100 * table.attrs["khat_share_above"]
    assert f"{share:.1f}" in axes.get_title(loc="left")


def test_k_hats_that_are_no_numbers_are_counted_in_words():
    table = run("pareto_k", count=6)
    table.khat[:4] = [-np.inf, np.inf, np.nan, 9.0]
    text = words(plots.pareto_k(table))
    assert "1 of constant weights" in text
    assert "2 above 2" in text
    assert "1 unknown" in text


def test_both_kls_lie_on_the_diagonal_or_the_reason_is_told():
    table = run("elbo")
    points = plots.elbo(table).axes[0].lines[0].get_xydata()
    assert np.allclose(points[:, 0], table.kl_analytic)
    assert np.allclose(points[:, 1], table.kl_sampled)
    assert "no analytic one is known" in words(
        plots.elbo(table.assign(kl_analytic=np.nan * table.elbo))
    )
    endless = table.assign(kl_analytic=np.inf + 0 * table.elbo)
    assert "the analytic one is infinite" in words(plots.elbo(endless))


def test_the_curve_of_bounds_says_when_not_to_be_trusted():
    table = run("iwae", NARROW, num_samples=1000)
    curve = plots.iwae(table).axes[0].lines[0].get_xydata()
    assert curve[:, 0].tolist() == [1, 10, 100, 1000]
    assert np.allclose(curve[:, 1], table.iwae_curve.mean("data"))
    assert "not to be trusted for" in words(plots.iwae(table))
    assert "trusted" not in words(plots.iwae(run("iwae", num_samples=1000)))


def test_a_curve_leaves_the_outer_band_iff_it_is_rejected():
    for guide in (EXACT, NARROW):
        table = run("calibration", guide, replicates=300)
        legend = plots.calibration(table).axes[0].get_legend()
        told = {t.get_text() for t in legend.get_texts()}
        tests = int(table.pit_p_value.notnull().sum())
        limit = table.attrs["calibration_failure_probability"] / tests
        for quantity, p in zip(table.quantity.values, table.pit_p_value.values, strict=True):
            assert (f"{quantity} (out)" in told) == (p < limit)


def test_many_latents_are_drawn_in_part():
    ticks = plots.collapse(wide(run("collapse"))).axes[1].get_yticklabels()
    assert len(ticks) == 12
    plots.png(plots.active_units(wide(run("active_units"))))


def wide(table):
    parts = [table.assign_coords(latent=[f"z[{2 * i}]", f"z[{2 * i + 1}]"]) for i in range(30)]
    return xr.concat(parts, "latent", data_vars="minimal")


def test_unknown_sandwiches_are_said_to_be_unknown():
    table = run("aggregate_posterior")
    table["kl_dimension"] = np.nan * table.kl_dimension
    table["total_correlation"] = np.nan * table.total_correlation
    table.attrs["kl_dimension_reason"] = "no marginals"
    text = words(plots.aggregate_posterior(table))
    assert "not known" in text
    assert "no marginals" in text


def test_statistics_that_never_vary_are_left_out_unless_data_differ():
    table = run("prior_predictive_check")
    titles = words(plots.prior_predictive_check(table))
    assert "sparsity" not in titles
    assert "mean of maximum" in titles
    table.prior_predictive_observed.loc[{"statistic": "sparsity", "over": "mean"}] = 0.5
    assert "mean of sparsity" in words(plots.prior_predictive_check(table))


# ---------------------------------------------------------------------------------------- bands
@pytest.mark.parametrize("count", [20, 1000])
def test_the_inner_band_holds_a_whole_curve_with_probability_95_percent(count):
    at, low, high = ecdf_band(count)
    trials = 2000
    u = np.random.default_rng(7).random((trials, count))
    curves = np.stack([ecdf_difference(row, at) for row in u])
    inside = ((curves >= low - 1e-12) & (curves <= high + 1e-12)).all(1).mean()
    # counts are whole, so the band may hold more; it may not hold less
    assert inside > 0.95 - 4 * (0.95 * 0.05 / trials) ** 0.5 - 0.01
    assert inside < 0.985


def test_the_outer_band_is_that_of_kolmogorov():
    u = np.random.default_rng(3).random((4000, 50))
    limit = kolmogorov(50, 0.1)
    steps = np.arange(1, 51) / 50
    ordered = np.sort(u, 1)
    distance = np.maximum(steps - ordered, ordered - steps + 1 / 50).max(1)
    share = (distance > limit).mean()
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 4000) ** 0.5
