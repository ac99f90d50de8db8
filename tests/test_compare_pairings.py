"""Every guide against every prior: what is admissible, seeded, resumed, refused and reported."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import nn

from pyro_vae import families as fam
from pyro_vae.pairings import (
    GUIDES,
    PRIORS,
    CellWarning,
    OfEncoder,
    Pairings,
    Settings,
    compare_pairings,
    grid,
    kinds,
    members,
    shelf,
    store,
)
from pyro_vae.pairings.cell import ELBOS, VARIABLES, _reduced, build
from pyro_vae.pairings.members import first_sentence
from pyro_vae.pairings.settings import seeded
from pyro_vae.training import held_out_elbo

TINY = {"latent": 2, "hidden": 8, "epochs": 1, "batch_size": 20, "num_particles": 4}
GUIDE_NAMES, PRIOR_NAMES = ["normal", "beta"], ["laplace", "beta", "dirichlet"]
ADMISSIBLE = [("normal", "laplace"), ("beta", "laplace"), ("beta", "beta")]


def data(rows=30, features=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.bernoulli(torch.full((rows, features), 0.4), generator=generator)


def run(guides=GUIDE_NAMES, priors=PRIOR_NAMES, x=None, **options):
    options = {**TINY, "progress": False, **options}
    return compare_pairings(guides, priors, data() if x is None else x, **options)


def same(a, b):
    """Whether two results are equal bit for bit, but for the time they took."""
    return a.drop_vars("seconds").identical(b.drop_vars("seconds"))


class Measured:
    """Counts the cells that are trained, and interrupts after `stop_after` of them."""

    def __init__(self, measure):
        self.measure, self.count, self.stop_after = measure, 0, math.inf

    def __call__(self, *args):
        if self.count == self.stop_after:
            raise KeyboardInterrupt
        self.count += 1
        return self.measure(*args)


@pytest.fixture
def measured(monkeypatch):
    counting = Measured(grid.measure)
    monkeypatch.setattr(grid, "measure", counting)
    return counting


# ---------------------------------------------------------------------- the result


def test_a_cell_is_admissible_if_the_guide_lives_where_the_prior_does():
    table = run()
    cells = [(g, p) for g in GUIDE_NAMES for p in PRIOR_NAMES]
    assert [c for c in cells if int(table.sel(guide=c[0], prior=c[1]).admissible)] == ADMISSIBLE
    assert ((table.reason == "") == (table.admissible == 1)).all()
    assert (table.failure == "").all()
    assert np.isfinite(table.elbo_per_datum.values[table.admissible.values == 1]).all()
    assert np.isnan(table.elbo_per_datum.values[table.admissible.values == 0]).all()
    assert table.gradient_snr.dims == ("guide", "prior", "elbo")
    assert table.elbo.values.tolist() == ["Trace_ELBO", "TraceMeanField_ELBO"]
    assert table.prior_space.values.tolist() == ["real line", "unit interval", "simplex"]


def test_a_reason_names_both_families_in_one_sentence():
    reason = str(run(["normal", "beta"], ["beta"]).reason.sel(guide="normal", prior="beta").item())
    assert reason.startswith("a Normal guide (on the real line) cannot stand beside a Beta prior")
    assert ". " not in reason
    assert not reason.endswith(".")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("site 'z': no 0.5 here. Use more.", "no 0.5 here"),
        ("one\n  line.", "one line"),
        ("no full stop", "no full stop"),
    ],
)
def test_first_sentence(text, first):
    assert first_sentence(ValueError(text)) == first


def test_analytic_and_sampled_kl_agree_where_there_is_an_analytic_one():
    table = run(["laplace", "normal"], ["normal", "laplace"], num_particles=200)
    z = (table.kl_analytic - table.kl_sampled) / table.kl_sampled_std_error
    assert (table.kl_route == "closed").all()
    # four paired scores with 199 degrees of freedom: P(any |t| > 6) < 4e-8
    assert (abs(z) < 6).all()
    assert (table.kl_sampled_std_error > 0).all()


def test_the_elbo_of_an_untrained_cell_is_that_of_its_vae():
    """Against `held_out_elbo`, which knows nothing of ELBO classes."""
    x, held_out = data(), data(50, seed=2)
    settings = {**TINY, "num_particles": 200, "learning_rate": 1e-30}
    cell = run(["normal"], ["laplace"], x, validation=held_out, **settings).squeeze()
    whole = Settings(**settings)
    with seeded(whole.cell_seed("normal", "laplace"), "cpu"):
        guides, priors = members(["normal"], "guide"), members(["laplace"], "prior")
        vae = build(guides["normal"], priors["laplace"], fam.Bernoulli, (5,), whole)
    elbos = torch.tensor([held_out_elbo(vae, held_out)[0] for _ in range(200)])
    error = math.hypot(float(cell.elbo_per_datum_std_error), float(elbos.std()) / 200**0.5)
    # a score with about 400 degrees of freedom: P(|t| > 6) < 1e-8
    assert abs(float(cell.elbo_per_datum) - float(elbos.mean())) < 6 * error


def test_the_signal_to_noise_ratio_is_over_all_parameters_of_the_guide_and_no_other():
    norm, std = [[3.0, 4.0, 99.0], [6.0, 8.0, 99.0]], [[6.0, 8.0, 1.0], [0.0, 0.0, 1.0]]
    site = {
        "kl_route": "sampled",
        "kl_source": "none",
        "mean_field_route": "fallback",
        "findings": "silent_fallback; heavy_tail",
        "kl_analytic_total": math.nan,
        "kl_lower_total": math.nan,
        "kl_upper_total": math.nan,
        "kl_sampled_total": 40.0,
        "kl_sampled_total_std_error": 2.0,
    }
    result = xr.Dataset(
        {name: (("site",), [value]) for name, value in site.items()}
        | {
            "kl_pareto_k": (("site", "data"), [[0.1, math.nan, 0.5, 0.3]]),
            "loss": ("elbo", [100.0, 90.0]),
            "loss_std_error": ("elbo", [1.0, 1.0]),
            "loss_std": ("elbo", [5.0, 6.0]),
            "gradient_norm": (("elbo", "parameter"), norm),
            "gradient_std": (("elbo", "parameter"), std),
            "gradients_agree": (("elbo", "parameter"), [[math.nan] * 3, [1.0, 0.0, math.nan]]),
        },
        {"site": ["z"], "elbo": ["a", "b"], "parameter": ["guide.u", "guide.v", "model.w"]},
    )
    values = _reduced(result, data=10)
    assert values["gradient_snr"] == [0.5, math.inf]
    assert values["elbo_per_datum"] == -10.0
    assert values["elbo_per_datum_std_error"] == 0.1
    assert (values["kl_sampled"], values["kl_sampled_std_error"]) == (4.0, 0.2)
    assert values["pareto_k"] == 0.3
    assert values["findings"] == "silent_fallback; heavy_tail; gradients_differ"
    assert set(values) | {"seconds"} == set(VARIABLES)
    assert "posterior_collapse" in _reduced(result, data=1000)["findings"]
    without = result.assign(kl_pareto_k=result.kl_pareto_k * math.nan)
    assert math.isnan(_reduced(without, data=10)["pareto_k"])


def test_training_makes_the_elbo_better():
    options = {"learning_rate": 0.03, "num_particles": 20}
    before, after = (
        run(["normal"], ["normal"], torch.ones(100, 5), epochs=n, **options) for n in (1, 20)
    )
    gain = float((after.elbo_per_datum - before.elbo_per_datum).item())
    error = math.hypot(*(float(t.elbo_per_datum_std_error.item()) for t in (before, after)))
    assert gain > 5 * error


def test_settings_and_versions_are_told_and_the_result_survives_netcdf(tmp_path):
    table = run(validation=data(7))
    assert table.attrs["objective"].startswith("Trace_ELBO")
    assert table.attrs["evaluated_on"] == "7 held-out data"
    assert '"latent": 2' in table.attrs["settings"]
    table.to_netcdf(tmp_path / "table.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "table.nc", engine="h5netcdf") as stored:
        assert stored.load().identical(table)


def test_without_held_out_data_the_training_data_are_named():
    assert run(["normal"], ["normal"]).attrs["evaluated_on"] == "30 data it was trained on"


def test_progress_is_shown_by_pair(capsys):
    run(["normal"], ["laplace"], progress=True)
    assert "normal x laplace" in capsys.readouterr().err


# ---------------------------------------------------------------------- seeds and global state


def test_a_cell_does_not_depend_on_the_others_nor_on_the_order():
    alone = run(["beta"], ["laplace"])
    among = run(["normal", "beta"], ["beta", "laplace"])
    assert same(alone.drop_attrs(), among.sel(guide=["beta"], prior=["laplace"]).drop_attrs())


def test_seeds_differ_by_cell_and_by_seed():
    seeds = {Settings(seed=s).cell_seed(g, p) for s in (0, 1) for g in "ab" for p in "ab"}
    assert len(seeds) == 8
    one, two = run(["normal"], ["normal"]), run(["normal"], ["normal"], seed=1)
    assert float(one.elbo_per_datum.item()) != float(two.elbo_per_datum.item())


def test_random_states_and_the_parameter_store_are_left_as_they_were():
    mine = pyro.param("mine", torch.ones(2))
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    run(["normal"], ["beta", "normal"])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert list(pyro.get_param_store()) == ["mine"]
    assert pyro.param("mine") is mine


# ---------------------------------------------------------------------- stopped and resumed


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_a_stopped_run_goes_on_and_equals_an_unbroken_one(tmp_path, measured, finished):
    whole = run()
    before = measured.count
    measured.stop_after = before + finished
    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path)
    assert len(list((tmp_path / "cells").iterdir())) == finished
    measured.stop_after = math.inf
    resumed = run(folder=tmp_path)
    assert measured.count == before + len(ADMISSIBLE), "a finished cell was trained again"
    assert same(resumed, whole)
    assert same(run(folder=tmp_path), whole)
    assert measured.count == before + len(ADMISSIBLE)


def test_a_larger_grid_reuses_the_cells_of_a_smaller_one(tmp_path, measured):
    run(["normal"], ["laplace"], folder=tmp_path)
    run(folder=tmp_path)
    assert measured.count == len(ADMISSIBLE)


def test_cells_found_are_counted_by_whose_they_are(tmp_path):
    def found(**options):
        return Pairings(GUIDE_NAMES, PRIOR_NAMES, data(), settings=Settings(**TINY, **options))

    assert found().found(None) == (0, 0)
    run(["normal"], ["laplace"], folder=tmp_path)
    assert found().found(tmp_path) == (1, 0)
    assert found(seed=1).found(tmp_path) == (0, 1)


def test_code_that_computes_is_part_of_a_cell_and_code_that_shows_is_not(tmp_path, monkeypatch):
    for name in ("pairings", "kl", "cli"):
        (tmp_path / name).mkdir()
    here = tmp_path / "pairings" / "store.py"
    monkeypatch.setattr(store, "__file__", str(here))
    for path in (here, tmp_path / "kl" / "table.py", tmp_path / "cli" / "compare.py"):
        path.write_text("old")
    before = store.code_digest.__wrapped__()
    (tmp_path / "cli" / "compare.py").write_text("new")
    assert store.code_digest.__wrapped__() == before
    (tmp_path / "kl" / "table.py").write_text("new")
    assert store.code_digest.__wrapped__() != before


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"epochs": 2},
        {"hidden": 9},
        {"latent": 3},
        {"categories": 3},
        {"batch_size": 10},
        {"learning_rate": 1e-3},
        {"num_particles": 5},
        {"likelihood": "normal"},
        {"x": data(seed=3)},
        {"validation": data(seed=3)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_cell_of_other_settings_or_data_is_never_reused(tmp_path, measured, change):
    run(["normal"], ["laplace"], folder=tmp_path)
    run(["normal"], ["laplace"], folder=tmp_path, **change)
    assert measured.count == 2


def test_a_factory_that_changed_under_its_name_is_not_reused(tmp_path, measured):
    def scaled(scale):
        return {"mine": lambda features, context: lambda: _normal(features, scale)}

    first = run(["normal"], scaled(1.0), folder=tmp_path)
    assert same(run(["normal"], scaled(1.0), folder=tmp_path), first)
    assert measured.count == 1
    run(["normal"], scaled(1.01), folder=tmp_path)
    assert measured.count == 2


def _normal(features, scale=1.0):
    return dist.Normal(torch.zeros(features), scale).to_event(1)


def _rewrite(change):
    def damage(path):
        with xr.open_dataset(path, engine="h5netcdf") as stored:
            changed = change(stored.load())
        changed.to_netcdf(path, engine="h5netcdf")

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_text("not a cell"),
        _rewrite(lambda cell: cell.assign_attrs(digest="another")),
        _rewrite(lambda cell: cell.drop_vars("kl_sampled")),
        _rewrite(lambda cell: cell.assign(kl_sampled=((), "many"))),
        _rewrite(lambda cell: cell.isel(elbo=[0])),
    ],
    ids=["empty", "cut_short", "text", "other_digest", "lacks_one", "wrong_type", "too_few"],
)
def test_a_damaged_cell_is_named_and_computed_again(tmp_path, damage):
    whole = run(["normal"], ["laplace"], folder=tmp_path)
    (path,) = (tmp_path / "cells").iterdir()
    damage(path)
    with pytest.warns(CellWarning, match="is damaged") as caught:
        again = run(["normal"], ["laplace"], folder=tmp_path)
    assert str(path) in str(caught[0].message)
    assert same(again, whole)
    assert same(run(["normal"], ["laplace"], folder=tmp_path), whole)


def test_a_cell_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def interrupted(self, path, **kwargs):
        path.write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(xr.Dataset, "to_netcdf", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(["normal"], ["laplace"], folder=tmp_path)
    assert list((tmp_path / "cells").iterdir()) == []


# ---------------------------------------------------------------------- failures


def test_a_failing_cell_is_told_keeps_the_others_and_is_tried_again(tmp_path, monkeypatch):
    inner, calls = grid.measure, []

    def failing(vae, *args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of luck. Try later.")
        return inner(vae, *args)

    monkeypatch.setattr(grid, "measure", failing)
    table = run(folder=tmp_path)
    failed = table.sel(guide="beta", prior="laplace")
    assert failed.failure.item() == "RuntimeError: out of luck"
    assert np.isnan(failed.elbo_per_datum.item())
    assert int((table.failure != "").sum()) == 1
    assert same(run(folder=tmp_path), run())
    assert len(calls) == len(ADMISSIBLE) + 1 + len(ADMISSIBLE)


def test_a_guide_that_cannot_run_fails_in_its_own_cell():
    class Broken(fam.Normal):
        def forward(self, context=None):
            if context is not None and len(context) > 1:
                raise RuntimeError("broken")
            return super().forward(context)

    table = run({"broken": lambda f, c: Broken(f, c), "normal": "normal"}, ["normal"])
    assert table.failure.values.tolist() == [["RuntimeError: broken"], [""]]


def test_a_diverging_training_is_a_failure_and_not_a_number():
    table = run(["normal"], ["normal"], learning_rate=1e30, epochs=3)
    assert "Error" in table.failure.item()
    assert np.isnan(table.elbo_per_datum.item())


def test_an_elbo_that_is_no_number_is_a_failure(monkeypatch):
    from pyro_vae.pairings import cell

    inner = cell.compare
    nan = xr.DataArray([math.nan, math.nan], dims="elbo")
    monkeypatch.setattr(cell, "compare", lambda *a, **k: inner(*a, **k).assign(loss=nan))
    assert "the ELBO after training is nan" in run(["normal"], ["normal"]).failure.item()


def test_an_infinite_kl_is_minus_infinity_whatever_the_draws_say(monkeypatch):
    from pyro_vae.pairings import cell

    monkeypatch.setattr(cell, "fit", None)  # it would be an error to train it
    heavy = {"cauchy_like": lambda f, c: fam.StudentT(f, c, df=1.0)}
    table = run(heavy, ["normal"]).squeeze()
    assert table.failure.item() == ""
    assert table.kl_route.item() == "infinite"
    assert table.elbo_per_datum.item() == -math.inf
    assert table.kl_analytic.item() == math.inf
    assert np.isfinite(table.kl_sampled.item())
    assert "infinite_kl" in table.findings.item()


# ---------------------------------------------------------------------- members


def test_the_default_lists_are_on_the_shelf_and_span_several_spaces():
    assert len(GUIDES) >= 5
    assert len(PRIORS) >= 6
    assert set(GUIDES) <= set(shelf("guide"))
    assert set(PRIORS) <= set(shelf("prior"))
    pairings = Pairings(GUIDES, PRIORS, data())
    spaces = {pair.spaces[1] for pair in pairings.pairs.values()}
    assert {"real line", "positive half-line", "unit interval", "simplex"} <= spaces
    for prior in PRIORS:
        assert any(key[1] == prior for key in pairings.admissible), f"no guide fits {prior}"


def test_what_members_say_of_a_pair_is_what_building_the_vae_says():
    """Admissibility against the VAE's own verdict, over the whole shelf."""
    settings = Settings(latent=3, hidden=4)
    guides, priors = members(shelf("guide"), "guide"), members(shelf("prior"), "prior")
    pairings = Pairings(shelf("guide"), shelf("prior"), data(), settings=settings)
    for (guide, prior), pair in pairings.pairs.items():
        try:
            build(guides[guide], priors[prior], fam.Bernoulli, (5,), settings)
        except ValueError:
            assert pair.refusal, f"{guide} x {prior}"
        else:
            assert not pair.refusal, f"{guide} x {prior}"
    assert int((kinds().kind != "").sum()) == len(pairings.admissible)


def test_transported_stands_beside_every_continuous_prior():
    priors = ["normal", "gamma", "beta", "dirichlet"]
    own = {
        "own": lambda features, context: lambda: dist.Beta(torch.ones(features), 2.0).to_event(1)
    }
    table = run(["transported"], {**{p: p for p in priors}, **own}, latent=3)
    assert (table.admissible == 1).all()
    assert (table.failure == "").all()
    assert table.guide_space.values.tolist() == ["the prior's"]
    table = run(["transported", "one_hot_categorical"], ["one_hot_categorical"])
    assert "no bijection" in str(table.reason.sel(guide="transported").item())


def test_a_learnable_prior_has_its_parameters_trained():
    prior = members(["learnable_gamma"], "prior")["learnable_gamma"](2, 0, None)
    assert prior.learned == ("concentration", "rate")
    fixed, learned = (run(["gamma"], [p], epochs=3) for p in ("gamma", "learnable_gamma"))
    assert float(fixed.elbo_per_datum.item()) != float(learned.elbo_per_datum.item())
    with pytest.raises(ValueError, match="no guide is named 'learnable_gamma'"):
        members(["learnable_gamma"], "guide")


def test_categories_are_those_of_the_settings():
    made = members(["one_hot_categorical"], "prior", categories=6)["one_hot_categorical"]
    assert made(4, 0, None).event_shape == (4, 6)
    parts = members(["dirichlet"], "prior", categories=6)["dirichlet"]
    assert parts(4, 0, None).event_shape == (4, 6)
    table = run(["one_hot_categorical"], ["one_hot_categorical"], categories=3)
    assert table.mean_field_route.item() == "refused"
    assert table.failure.item() == ""
    assert np.isnan(table.gradient_snr.sel(elbo="TraceMeanField_ELBO").item())
    assert np.isfinite(table.gradient_snr.sel(elbo="Trace_ELBO").item())


def test_own_factories_stand_beside_names():
    class Guide(nn.Module):
        def __init__(self, features, context):
            super().__init__()
            self.loc = nn.Linear(context, features)

        def forward(self, h):
            return dist.Normal(self.loc(h), 0.5).to_event(1)

    guides = {"mine": Guide, "shelf": "normal"}
    table = run(guides, {"plain": lambda f, c: lambda: _normal(f), "beta": "beta"})
    assert table.admissible.values.tolist() == [[1, 0], [1, 0]]
    assert (table.failure == "").all()
    assert "a Normal guide (on the real line)" in str(table.reason.sel(prior="beta")[0].item())


def test_a_family_that_cannot_be_made_is_refused_with_its_reason():
    table = run(["normal", "von_mises_fisher"], ["normal", "von_mises_fisher"], latent=1)
    assert int(table.admissible.sum()) == 1
    reason = table.reason.sel(guide="von_mises_fisher", prior="normal")
    assert "at least 2 features" in str(reason.item())


@pytest.mark.parametrize(
    ("likelihood", "x"),
    [
        ("normal", torch.randn(20, 3)),
        ("poisson", torch.poisson(torch.full((20, 3), 2.0))),
        ("categorical", torch.arange(60).reshape(20, 3) % 7),
        ("continuous_bernoulli", torch.rand(20, 2, 4)),
    ],
    ids=["normal", "poisson", "categorical", "images"],
)
def test_likelihoods_other_than_bernoulli(likelihood, x):
    table = run(["normal"], ["normal"], x, likelihood=likelihood)
    assert table.failure.item() == ""
    assert np.isfinite(table.elbo_per_datum.item())


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"guides": ["nromal"]}, ValueError, "no guide is named 'nromal'. Did you mean 'normal'"),
        ({"priors": ["normal", "normal"]}, ValueError, "named twice"),
        ({"priors": ["transported"]}, ValueError, "no prior is named 'transported'"),
        ({"guides": []}, ValueError, "no guide was named"),
        ({"guides": "normal"}, TypeError, "not the text 'normal'"),
        ({"guides": {"mine": 3}}, TypeError, "must be the name of a family or a factory"),
        ({"guides": {"f": lambda f, c: lambda h: _normal(f)}}, TypeError, "must be a module"),
        ({"guides": ["poisson"]}, ValueError, "no guide is named 'poisson'"),
        ({"guides": ["dirichlet"], "priors": ["beta"]}, ValueError, "none of the 1 pairs"),
        ({"likelihood": "bernouli"}, ValueError, "Did you mean 'bernoulli'"),
        ({"x": torch.full((4, 5), 0.5)}, ValueError, "outside the support of the Bernoulli"),
        ({"x": torch.tensor([[0.0, math.nan]])}, ValueError, "1 NaN"),
        ({"validation": torch.full((4, 5), math.nan)}, ValueError, "validation has 20 NaN"),
        ({"x": np.ma.masked_less(np.ones((3, 5)), 2)}, ValueError, "masked"),
        ({"validation": torch.ones(4, 6)}, ValueError, "all but the first dimension"),
        ({"latent": 0}, ValueError, "latent must be a whole number, at least 1, not 0"),
        ({"epochs": 1.5}, ValueError, "epochs must be a whole number"),
        ({"num_particles": 2}, ValueError, "num_particles must be a whole number, at least 3"),
        ({"seed": -1}, ValueError, "seed must be a whole number, at least 0"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate must be a positive number"),
        ({"device": "tpu9"}, ValueError, "the device 'tpu9' cannot be used here"),
        ({"device": "meta"}, ValueError, "the device 'meta' cannot be used here"),
        ({"epohcs": 3}, TypeError, "epohcs"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_said_before_anything_is_trained(measured, options, error, text):
    with pytest.raises(error, match=text):
        run(**options)
    assert measured.count == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cell_trains_on_a_gpu_and_leaves_its_random_state():
    state = torch.cuda.get_rng_state()
    table = run(["normal"], ["laplace"], device="cuda")
    assert table.failure.item() == ""
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_every_elbo_has_a_value_in_every_variable_that_says_so():
    table = run(["normal"], ["normal"])
    for name, variable in VARIABLES.items():
        assert table[name].shape == (1, 1, *([len(ELBOS)] if variable.by_elbo else []))
        assert table[name].attrs["long_name"]


# ---------------------------------------------------------------------- a prior of the guide

SHARING = ["normal", "gamma", "von_mises_fisher", "one_hot_categorical"]


def test_a_vamp_prior_stands_beside_every_guide_and_shares_its_encoder():
    pairings = Pairings(shelf("guide"), ["vamp_prior"], data(), settings=Settings(**TINY))
    assert [q for (q, _), pair in pairings.pairs.items() if pair.refusal] == ["transported"]
    reason = pairings.pairs["transported", "vamp_prior"].refusal
    assert reason.startswith("a transported guide lives where its prior does")
    for guide, prior in pairings.admissible:
        vae = pairings._vae(guide, prior)
        p, x = vae.model.prior.z, data()
        assert p.encoder is vae.guide.encoder.z
        # pseudo-inputs start at rows of the training data, each another
        where = (p.inputs.unsqueeze(1) == x).all(-1)
        assert p.components == len(x)
        assert bool(where.any(1).all())
        assert p.event_shape == vae.guide.encoder.z[-1].event_shape


def test_vamp_priors_train_and_are_compared_on_every_space(tmp_path, measured):
    table = run(SHARING, ["vamp_prior", "normal"], folder=tmp_path, components=4, latent=3)
    assert (table.failure == "").all()
    mine = table.sel(prior="vamp_prior")
    assert (mine.admissible == 1).all()
    assert mine.prior_space.item() == "the guide's"
    assert mine.guide_space.values.tolist() == table.guide_space.values.tolist()
    assert np.isfinite(mine.elbo_per_datum).all()
    # what guide and prior share counts as the guide's
    assert np.isfinite(mine.gradient_snr.sel(elbo="Trace_ELBO")).all()
    count = measured.count
    assert same(
        run(SHARING, ["vamp_prior", "normal"], folder=tmp_path, components=4, latent=3), table
    )
    assert measured.count == count
    run(["normal"], ["vamp_prior"], folder=tmp_path, components=5, latent=3)
    assert measured.count == count + 1


def test_cells_beside_a_vamp_prior_keep_their_numbers():
    alone = run(["normal"], ["laplace"])
    beside = run(["normal"], ["vamp_prior", "laplace"])
    both = beside.sel(prior="laplace")
    assert alone.elbo_per_datum.item() == both.elbo_per_datum.item()


def test_a_learnable_vamp_prior_has_its_weights_trained_as_well():
    settings = Settings(**TINY)
    for name, learned in (
        ("vamp_prior", ("inputs",)),
        ("learnable_vamp_prior", ("inputs", "logits")),
    ):
        made = Pairings(["normal"], [name], data(), settings=settings)._vae("normal", name)
        assert made.model.prior.z.learned == learned


def test_a_prior_of_the_encoder_can_be_ones_own_and_no_guide_is_one():
    own = OfEncoder(lambda encoder, inputs: fam.VampPrior(encoder, inputs=inputs[:3]))
    table = run(["gamma"], {"few": own})
    assert table.failure.item() == ""
    with pytest.raises(TypeError, match="the guide 'few' is a OfEncoder"):
        run({"few": own}, ["normal"])


def test_the_routes_of_vamp_priors_are_told():
    found = kinds(["normal", "gamma", "transported"], ["vamp_prior"])
    assert found.kind.values[:, 0].tolist() == ["sampled", "sampled", ""]
    assert "kl.bounds" in str(found.reason.values[0, 0])
    assert found.prior_space.item() == "the guide's"
    assert found.guide_space.values.tolist()[:2] == ["real line", "positive half-line"]
