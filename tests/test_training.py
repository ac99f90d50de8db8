"""`fit`: it trains what it should, tells how it went, and leaves the rest alone."""

import copy
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from builders import binary, copies, net, small_vae, unmoved
from pyro.infer import (
    JitTrace_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import VAE, fit
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO
from pyro_vae.training import held_out_elbo


def linear_vae(prior=None, guide=None, **options):
    return VAE(
        prior or fam.Normal(1),
        guide or fam.Normal(1, context=3),
        fam.Normal(3, context=1, scale=0.5),
        **options,
    )


@pytest.fixture
def x():
    z = torch.randn(150, 1)
    return z @ torch.tensor([[1.0, -2.0, 0.5]]) + 0.5 * torch.randn(150, 3)


def run(vae, x, **options):
    return fit(vae, x, **{"epochs": 3, "progress": False, "batch_size": 40, **options})


# JitTrace_ELBO rests on torch.jit, which torch means to retire
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "objective", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, RenyiELBO, JitTrace_ELBO]
)
def test_any_pyro_elbo_trains_every_parameter(x, objective):
    vae = linear_vae()
    before = [p.detach().clone() for p in vae.parameters()]
    history = run(
        vae,
        x[:120],
        objective=objective(),
        validation=x[120:],
        epochs=8,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.03),
    )
    assert all(bool((a != b).all()) for a, b in zip(before, vae.parameters(), strict=True))
    assert history.validation_elbo[-1] > history.validation_elbo[0]
    assert history.attrs["objective"] == objective.__name__


def test_the_history_is_per_datum_whatever_the_batch_size_and_scale(x):
    elbos = []
    for options in ({}, {"data_size": len(x)}):
        torch.manual_seed(0)
        history = run(
            linear_vae(**options), x, epochs=1, optimizer=lambda p: torch.optim.SGD(p, 0.0)
        )
        elbos.append(history.elbo.item())
    assert elbos[0] == pytest.approx(elbos[1], rel=1e-5)


def test_nothing_is_left_in_the_param_store(x):
    pyro.param("mine", torch.tensor(2.0))
    run(linear_vae(), x)
    assert list(pyro.get_param_store()) == ["mine"]


def test_weights_loaded_through_the_store_are_the_start_and_are_not_brought_back(x, tmp_path):
    first = linear_vae(name="linear")
    svi = pyro.infer.SVI(first.model, first.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(x)
    pyro.get_param_store().save(tmp_path / "weights.pt")
    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "weights.pt")
    vae = linear_vae(name="linear")
    run(vae, x, epochs=1, optimizer=lambda p: torch.optim.SGD(p, 1e-9))
    for a, b in zip(first.parameters(), vae.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    run(vae, x)
    trained = [p.detach().clone() for p in vae.parameters()]
    vae.model(x)
    assert all(torch.equal(a, b) for a, b in zip(trained, vae.parameters(), strict=True))


def test_frozen_parameters_stay_frozen(x):
    vae = linear_vae()
    vae.model.decoder.requires_grad_(False)
    before = [p.clone() for p in vae.model.decoder.parameters()]
    run(vae, x)
    assert all(
        torch.equal(a, b) for a, b in zip(before, vae.model.decoder.parameters(), strict=True)
    )


def test_a_seed_makes_it_reproducible_and_leaves_the_random_state(x):
    states, fits = [], []
    for _ in range(2):
        torch.manual_seed(5)
        vae = linear_vae()
        state = torch.get_rng_state()
        fits.append(run(vae, x, seed=11))
        states.append(torch.equal(state, torch.get_rng_state()))
        torch.randn(3)
    assert states == [True, True]
    xr.testing.assert_equal(fits[0].drop_vars("seconds"), fits[1].drop_vars("seconds"))


def test_patience_stops_and_goes_back_to_the_best(x):
    vae = linear_vae()
    history = run(
        vae,
        x[:100],
        validation=x[100:],
        patience=2,
        epochs=60,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.3),
    )
    assert history.attrs["stopped_early"] == 1
    assert len(history.epoch) == history.attrs["best_epoch"] + 3
    assert np.argmax(history.validation_elbo.values) == history.attrs["best_epoch"]
    best, error = held_out_elbo(vae, x[100:], num_particles=50)
    recorded = history.validation_elbo.max().item()
    assert abs(best - recorded) < 5 * history.validation_elbo_std_error.max().item()
    assert error > 0


def test_the_held_out_elbo_is_the_closed_form():
    """Guide and prior N(0, 1), decoder N(0, 0.5^2): ELBO = log N(x; 0, 0.5^2)."""
    vae = linear_vae(guide=lambda h: fam.Normal(1)(), prior=fam.Normal(1))
    with torch.no_grad():
        vae.model.decoder.head.weight.zero_()
        vae.model.decoder.head.bias.zero_()
    x = torch.randn(1000, 3)
    exact = torch.distributions.Normal(0.0, 0.5).log_prob(x).sum(-1)
    elbo, error = held_out_elbo(vae, x, batch_size=300)
    assert elbo == pytest.approx(exact.mean().item(), rel=1e-5)
    assert error == pytest.approx((exact.std() / 1000**0.5).item(), rel=1e-4)
    assert vae.training


def test_data_may_be_an_array_a_dataset_or_a_loader(x):
    for data in (x.numpy(), TensorDataset(x), DataLoader(TensorDataset(x), batch_size=7)):
        assert np.isfinite(run(linear_vae(), data, epochs=1).elbo).all()


def test_the_history_survives_a_file(x, tmp_path):
    history = run(linear_vae(), x)
    history.to_netcdf(tmp_path / "history.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "history.nc", engine="h5netcdf") as read:
        xr.testing.assert_allclose(read, history)
        assert read.attrs["units"] == "nats per datum"


def test_the_progress_bar_goes_to_standard_error(x, capsys):
    run(linear_vae(), x, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/3" in err
    run(linear_vae(), x)
    assert capsys.readouterr().err == ""


def test_an_infinite_kl_is_refused_before_anything_moves(x):
    vae = linear_vae(guide=fam.StudentT(1, context=3, df=1.5))
    before = [p.detach().clone() for p in vae.parameters()]
    with pytest.raises(
        ValueError, match=r"'z': KL\(q \|\| p\) is infinite: .*df = 1.5.*allow_infinite"
    ):
        run(vae, x)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert np.isfinite(run(vae, x, allow_infinite=True).elbo).all()


def test_an_infinite_kl_cannot_be_trained_by_its_value(x):
    vae = linear_vae(guide=fam.StudentT(1, context=3, df=1.5))
    before = [p.detach().clone() for p in vae.parameters()]
    words = r"'z': KL.* is infinite: .*TraceExactKL_ELBO takes a KL by its value.*Trace_ELBO\(\)"
    with pytest.raises(ValueError, match=words):
        run(vae, x, objective=TraceExactKL_ELBO(), allow_infinite=True)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    # by draws it can, as it stands, and a finite one needs no leave
    assert np.isfinite(run(vae, x, objective=Trace_ELBO(), allow_infinite=True).elbo).all()
    tame = linear_vae(guide=fam.StudentT(1, context=3, df=5.0))
    for allow in (False, True):
        made = run(tame, x, objective=TraceExactKL_ELBO(), allow_infinite=allow)
        assert np.isfinite(made.elbo).all()


def test_a_loss_that_is_not_finite_stops_before_the_step(x):
    vae = linear_vae()
    run(vae, x, epochs=1)
    with torch.no_grad():
        vae.guide.encoder.z.head.weight.zero_()
        before = [p.detach().clone() for p in vae.parameters()]
    with pytest.raises(FloatingPointError, match="epoch 0; no parameter has moved"):
        run(vae, torch.full((10, 3), 1e25))
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


class RootOfNothing(nn.Module):
    """A likelihood whose value is finite, and whose gradient by z is inf times 0."""

    def forward(self, z):
        return dist.Normal((0 * z).abs().sqrt().expand(len(z), 3), 1.0).to_event(1)


@pytest.mark.parametrize("capture", [False, True])
def test_a_parameter_that_was_lost_in_a_step_before_is_named(x, capture):
    vae = VAE(fam.Normal(1), fam.Normal(1, context=3), RootOfNothing())
    words = r"'guide.encoder.z.head.weight' is no longer finite .epoch 0.: a step before this one"
    with pytest.raises(FloatingPointError, match=words):
        run(vae, x, batch_size=4, capture=capture)


def test_bad_input_is_refused(x):
    vae = linear_vae()
    for option in ("epochs", "batch_size", "patience"):
        with pytest.raises(ValueError, match=f"{option} must be at least 1"):
            run(vae, x, **{option: 0, "validation": x})
    with pytest.raises(ValueError, match="patience= needs validation="):
        run(vae, x, patience=2)
    with pytest.raises(ValueError, match="data .*NaN"):
        run(vae, torch.full((3, 3), math.nan))
    with pytest.raises(ValueError, match="holds none of this VAE's parameters"):
        run(vae, x, optimizer=torch.optim.Adam(nn.Linear(1, 1).parameters()))
    vae.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        run(vae, x)


def test_an_optimizer_of_the_users_own_is_used(x):
    vae = linear_vae()
    optimizer = torch.optim.SGD(vae.parameters(), lr=1e-4)
    assert run(vae, x, optimizer=optimizer).attrs["optimizer"] == "SGD"


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceExactKL_ELBO])
def test_captured_steps_are_the_same_fit(x, objective):
    """Also where the last batch is smaller, and where a network is noisy in training."""
    options = {"batch_size": 40, "seed": 3, "validation": x[:9]}
    vae = linear_vae(guide=nn.Sequential(nn.Dropout(0.1), fam.Normal(1, context=3)))
    other = copy.deepcopy(vae)
    plain = run(vae, x, objective=objective(), **options)
    replayed = run(other, x, objective=objective(), capture=True, **options)
    assert (plain.attrs["captured"], replayed.attrs["captured"]) == (0, 1)
    assert replayed.attrs["compiled"] == 0  # few steps
    for name in ("elbo", "validation_elbo"):
        np.testing.assert_allclose(plain[name], replayed[name], rtol=1e-5)
    for p, q in zip(vae.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_a_schedule_of_beta_is_heard_captured_or_not(x):
    seen = []

    def warm_up(epoch):
        seen.append(epoch)
        return 0.25 * epoch

    histories = [
        run(
            copy.deepcopy(vae),
            x,
            objective=TraceExactKL_ELBO(),
            epochs=4,
            beta=warm_up,
            capture=capture,
            seed=1,
        )
        for vae in [linear_vae()]
        for capture in (False, True)
    ]
    assert seen == [0, 1, 2, 3] * 2
    np.testing.assert_allclose(histories[0].elbo, histories[1].elbo, rtol=1e-5)


def test_options_of_capture_and_beta_are_checked(x):
    with pytest.raises(ValueError, match="set capture=True as well"):
        run(linear_vae(), x, compile=True)
    with pytest.raises(ValueError, match="Trace_ELBO does not"):
        run(linear_vae(), x, beta=lambda epoch: 1.0)
    with pytest.raises(ValueError, match="beta must be a number that is not negative"):
        run(linear_vae(), x, objective=TraceExactKL_ELBO(), beta=lambda epoch: -1.0)


def test_data_that_are_not_legal_stop_a_captured_fit_before_a_step(x):
    vae = linear_vae()
    before = copies(vae)
    bad = x.clone()
    bad[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        run(vae, bad, capture=True)
    assert unmoved(vae, before) == list(before)


# ---------------------------------------------------------------------- labels and gaps


GAPS = torch.rand(50, 6, generator=torch.Generator().manual_seed(3)) < 0.3


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize(
    "mask", [~GAPS, ~GAPS[:, 0], ~GAPS[:1]], ids=["entries", "rows", "pixels"]
)
def test_what_stands_in_gaps_trains_nothing(mask, capture):
    x, held_out = binary(50), binary(50)
    seen = mask[:, None] if mask.dim() == 1 else mask
    found = []
    for junk in (0.0, math.nan):
        torch.manual_seed(1)
        vae = small_vae()
        dirty, dirty_held_out = (torch.where(seen, t, torch.tensor(junk)) for t in (x, held_out))
        options = {"mask": mask, "validation": dirty_held_out, "validation_mask": mask}
        history = fit(
            vae, dirty, **options, epochs=2, batch_size=20, seed=0, progress=False, capture=capture
        )
        found.append([torch.as_tensor(history.validation_elbo.values), *vae.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    whole = fit(small_vae(), x, validation=held_out, epochs=2, seed=0, progress=False)
    # less is observed, so its log p is larger
    assert history.elbo[0] > whole.elbo[0] + 0.5


@pytest.mark.parametrize("capture", [False, True])
def test_every_datum_keeps_its_own_label(capture):
    """x is y and nothing else: only a decoder that is given the right y learns it."""
    y = torch.rand(200, 1)
    decoder = fam.Normal(3, context=3, scale=0.1)
    vae = VAE(fam.Normal(2), nn.Sequential(net(4), fam.Normal(2, context=8)), decoder)
    x = y.expand(200, 3).clone()
    options = {"validation": x[:50], "validation_y": y[:50], "epochs": 60, "batch_size": 50}
    history = fit(
        vae,
        x,
        y=y,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.05),
        seed=0,
        progress=False,
        capture=capture,
        **options,
    )
    truth = 3 * (-math.log(0.1) - 0.5 * math.log(2 * math.pi))
    assert history.validation_elbo[-1] > truth - 0.7
    held_out, _ = held_out_elbo(vae, x, y=y.flip(0))
    assert held_out < truth - 5


def test_labels_and_gaps_that_do_not_fit():
    x = binary(10)
    with pytest.raises(ValueError, match="y of data has 9 rows for 10 data"):
        fit(small_vae(), x, y=torch.zeros(9, 1), progress=False)
    with pytest.raises(ValueError, match=r"the mask of data has shape \(9,\)"):
        fit(small_vae(), x, mask=torch.ones(9, dtype=torch.bool), progress=False)
    with pytest.raises(TypeError, match="the mask of data is of dtype torch.float32"):
        fit(small_vae(), x, mask=torch.ones(10), progress=False)
    with pytest.raises(ValueError, match="validation_mask= belong to validation=, not given"):
        fit(small_vae(), x, validation_mask=torch.ones(10, dtype=torch.bool), progress=False)
    x[0, 0] = math.nan
    with pytest.raises(ValueError, match="data has 1 NaN"):
        fit(small_vae(), x, mask=torch.ones(10, dtype=torch.bool), progress=False)
