"""Diagnostics that run programs themselves leave nothing behind, and do not hang on batches."""

import hashlib
import inspect

import numpy as np
import pyro
import pytest
import torch
import xarray as xr

from pyro_vae import VAE, diagnostics
from pyro_vae import families as fam
from tests.benchmarks.who_catches_what import cases, verdicts

OWN = {
    "calibration": {"replicates": 90, "num_samples": 20},
    "aggregate_posterior": {},
    "active_units": {"num_samples": 20},
    "collapse": {"num_samples": 20},
}


def found(name, model, guide, *args, **options):
    diagnostic = getattr(diagnostics, name)
    return diagnostic(model, guide, *args, progress=False, **OWN[name], **options)


def digest(*parts):
    return hashlib.sha256(repr([p.tolist() for p in parts]).encode()).hexdigest()


@pytest.fixture
def trained():
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5)
    )
    vae = VAE(
        prior=fam.Normal(2),
        encoder=torch.nn.Sequential(net, fam.Normal(2, context=6)),
        decoder=torch.nn.Sequential(torch.nn.Linear(2, 6), fam.Bernoulli(4, context=6)),
    )
    x = torch.bernoulli(0.5 * torch.ones(80, 4))
    optimizer = torch.optim.Adam([*vae.model.parameters(), *vae.guide.parameters()])
    loss = pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    loss.backward()
    optimizer.step()
    return vae, optimizer, x


@pytest.mark.parametrize("name", OWN)
def test_nothing_of_the_callers_changes(trained, name):
    vae, optimizer, x = trained
    modules = (vae.model, vae.guide)

    def state():
        tensors = [t for m in modules for t in m.state_dict().values()]
        tensors += [p.grad for m in modules for p in m.parameters()]
        held = [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
        store = [p.detach() for _, p in pyro.get_param_store().items()]
        modes = torch.tensor([m.training for half in modules for m in half.modules()])
        random = np.random.get_state()[1]
        return digest(*tensors, *held, *store, modes, torch.get_rng_state(), random)

    before = state()
    table = found(name, vae.model, vae.guide, x)
    assert state() == before
    torch.rand(3)
    assert found(name, vae.model, vae.guide, x).identical(table), "the caller's randomness counts"


@pytest.mark.parametrize("name", OWN)
def test_results_do_not_depend_on_the_batch_size(name):
    case = cases()["best factorised Normal"]
    x = case.oracle.sample(80)
    tables = [found(name, case.model, case.guide, x, batch_size=b) for b in (None, 1, 17, 4096)]
    for table in tables[1:]:
        xr.testing.assert_allclose(table, tables[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OWN)
def test_results_survive_a_file(name, tmp_path):
    case = cases()["the exact posterior"]
    table = found(name, case.model, case.guide, case.oracle.sample(70))
    table.to_netcdf(tmp_path / "found.nc", engine="h5netcdf")
    again = xr.load_dataset(tmp_path / "found.nc", engine="h5netcdf")
    xr.testing.assert_identical(again.drop_attrs(), table.drop_attrs())
    assert again.attrs.keys() == table.attrs.keys()


def test_results_lie_beside_each_other():
    case = cases()["the exact posterior"]
    x = case.oracle.sample(70)
    tables = [found(name, case.model, case.guide, x) for name in OWN]
    merged = xr.merge(tables, join="outer", compat="equals", combine_attrs="drop")
    assert merged.latent.values.tolist() == ["z[0]", "z[1]", "z[2]"]


@pytest.mark.parametrize("name", OWN)
def test_a_diagnostic_takes_what_diagnose_passes(name):
    parameters = inspect.signature(getattr(diagnostics, name)).parameters
    passed = {"num_samples", "seed", "plate", "batch_size", "block_size", "progress"}
    assert passed <= parameters.keys()


def test_every_wrong_guide_is_caught_and_the_exact_one_passes():
    caught = {name: verdicts(case, 200, 100, only=list(OWN)) for name, case in cases().items()}
    assert set(caught["the exact posterior"].values()) == {"good"}
    for name in ("sd x 0.5", "sd x 1.5", "mean + 0.5 sd", "data shuffled", "q = prior"):
        assert caught[name]["calibration"] == "bad", name
    assert caught["q = prior"]["aggregate_posterior"] == "bad"
    assert caught["data shuffled"]["collapse"] == "bad"
    dead = caught["a dead latent, exact"]
    assert dead["calibration"] == "good"
    assert (dead["active_units"], dead["collapse"]) == ("care", "care")
