"""The commands `train` and `diagnose`: one makes the folder, the other says what it is worth."""

import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import xarray as xr

from pyro_vae import cli, plots, saved
from pyro_vae.diagnostics import diagnose
from pyro_vae.inference_data import to_arviz

TINY = shlex.split("--latent 2 --hidden 8 --epochs 2 --batch-size 20")


@pytest.fixture
def x(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).integers(0, 2, (60, 2, 3)).astype(np.float32))
    return path


@pytest.fixture
def train(x, tmp_path):
    def run(*more, out="model"):
        return cli.main(["train", "--data", str(x), "--out", str(tmp_path / out), *TINY, *more])

    return run


@pytest.fixture
def diagnosed(tmp_path):
    def run(*more, model="model"):
        options = ["--model", str(tmp_path / model), "--num-samples", "50"]
        return cli.main(["diagnose", *options, *more])

    return run


class Page(HTMLParser):
    """Tags, and every address that the page would load something from."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.tags, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def one_line(capsys, text):
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert re.search(text, err), err


def test_train_makes_a_folder_that_diagnose_reads(train, diagnosed, tmp_path, capsys):
    assert train("--guide", "laplace", "--prior", "student_t") == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "model"
    assert sorted(p.name for p in folder.iterdir()) == ["history.nc", "model.json", "weights.pt"]
    assert re.search(r"ELBO of a held-out datum: -\d\.\d+ \+- \d\.\d+ nats after 2 epochs", out)
    assert f"diagnose --model {folder}" in out
    assert "2/2" in err, "no progress bar"
    with xr.open_dataset(folder / "history.nc", engine="h5netcdf") as history:
        assert history.attrs["captured"] == 1
    recipe = saved.load(folder)[1]
    assert (recipe.guide, recipe.prior, recipe.event_shape) == ("laplace", "student_t", (2, 3))

    assert diagnosed() == 0
    out, _ = capsys.readouterr()
    assert "6 data, 50 draws each" in out
    assert "this guide" in out, "no verdict"
    assert str(folder / "diagnosis.html") in out
    with xr.open_dataset(folder / "diagnosis.nc", engine="h5netcdf") as file:
        found = file.load()
    run = list(json.loads(found.attrs["findings"]))
    text = (folder / "diagnosis.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(a.startswith("data:image/png;base64,") for a in page.addresses)
    images = ["Samples", "Reconstructions", "Traversals of latents", "Manifold of latents"]
    assert page.tags.count("img") == len(run) + len(images)
    for title in [*run, *images, "guide laplace", "prior student_t"]:
        assert title in text


def test_the_numbers_are_those_of_diagnose(train, diagnosed, tmp_path, x):
    assert train("--quiet") == 0
    assert diagnosed("--quiet", "--steps", "elbo,pareto_k", "active_units", "--seed", "3") == 0
    vae = saved.load(tmp_path / "model")[0]
    held_out = torch.from_numpy(np.load(x))[9::10]
    steps = ["elbo", "pareto_k", "active_units"]
    same = diagnose(
        vae.model, vae.guide, held_out, num_samples=50, seed=3, steps=steps, show=False
    )
    with xr.open_dataset(tmp_path / "model" / "diagnosis.nc", engine="h5netcdf") as found:
        xr.testing.assert_allclose(found.load(), same)


def test_quiet_prints_nothing(train, diagnosed, capsys):
    assert train("--quiet") == 0
    assert diagnosed("--quiet", "--steps", "pareto_k") == 0
    assert capsys.readouterr() == ("", "")


def test_the_same_command_makes_the_same_model(train, tmp_path):
    state = torch.get_rng_state()
    train("--quiet", out="a")
    train("--quiet", out="b")
    assert torch.equal(torch.get_rng_state(), state)
    a, b = (saved.load(tmp_path / out)[0].state_dict() for out in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_step_that_cannot_be_captured_is_trained_as_it_is_and_told(train, tmp_path, capsys):
    assert train("--guide", "gamma", "--prior", "gamma") == 0
    err = capsys.readouterr().err
    with xr.open_dataset(tmp_path / "model" / "history.nc", engine="h5netcdf") as history:
        assert ("cannot be captured" in err) == (history.attrs["captured"] == 0)


# of 100 draws, some data have weights with a heavy tail
@pytest.mark.filterwarnings("ignore::pyro_vae.diagnostics.shelf.DiagnosticWarning")
def test_a_prior_of_the_encoder_is_trained_saved_diagnosed_and_exported(
    train, diagnosed, tmp_path, x
):
    assert train("--prior", "vamp_prior", "--components", "99") == 0
    vae, recipe = saved.load(tmp_path / "model")
    # no more pseudo-inputs than training data
    assert recipe.components == vae.model.prior.z.components == 54
    assert vae.model.prior.z.encoder is vae.guide.encoder.z
    assert diagnosed() == 0
    with xr.open_dataset(tmp_path / "model" / "diagnosis.nc", engine="h5netcdf") as found:
        assert json.loads(found.attrs["skipped"]) == {}
    held_out = torch.from_numpy(np.load(x))[9::10]
    data = to_arviz(vae.model, vae.guide, held_out, num_samples=100)
    for group in ("posterior", "prior"):
        assert np.isfinite(data[group]["z"].values).all()


def test_latents_that_cannot_be_drawn_one_by_one_leave_pictures_out(train, diagnosed, tmp_path):
    more = "--guide dirichlet --prior dirichlet --categories 3 --quiet"
    assert train(*more.split()) == 0
    assert diagnosed("--quiet", "--steps", "elbo", "--out", str(tmp_path / "other")) == 0
    page = (tmp_path / "other" / "diagnosis.html").read_text(encoding="utf-8")
    assert "Reconstructions" in page
    assert "Traversals" not in page
    assert not (tmp_path / "model" / "diagnosis.nc").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--guide nornal", r"no guide is named 'nornal'\. Did you mean 'normal'"),
        ("--prior beta", "cannot stand beside a Beta prior"),
        ("--likelihood nope", "no likelihood is named 'nope'"),
        ("--epochs 0", "epochs must be a whole number, at least 1"),
        ("--threads 0", "threads must be a whole number"),
        ("--data nowhere", "no data set is named 'nowhere'"),
        ("--guide cauchy", "infinite"),
        ("--patience 0", "patience must be at least 1"),
    ],
)
def test_train_refuses_in_one_line(train, options, text, capsys, tmp_path):
    assert train(*options.split()) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("pyro-vae: error:")
    assert re.search(text, err)
    assert not (tmp_path / "model" / "model.json").exists()


def test_diagnose_refuses_in_one_line(train, diagnosed, tmp_path, capsys):
    assert diagnosed(model="nothing") == 2
    one_line(capsys, "is no saved model")
    assert cli.main(["diagnose"]) == 2
    one_line(capsys, "--model")
    train("--quiet")
    cases = {
        ("--steps", "elba"): "no diagnostic is named 'elba'. Did you mean 'elbo'",
        ("--num-samples", "0"): "num-samples must be at least 1",
        ("--data", "digits"): r"shape \(64,\), but the model in .* shape \(2, 3\)",
        ("--data", str(tmp_path / "grey.npy")): "support|values",
    }
    np.save(tmp_path / "grey.npy", np.full((20, 2, 3), 0.5, dtype=np.float32))
    for options, text in cases.items():
        assert diagnosed(*options) == 2
        one_line(capsys, text)
    weights = tmp_path / "model" / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:-5])
    assert diagnosed() == 2
    one_line(capsys, "is damaged")


@pytest.mark.parametrize("command", ["train", "diagnose"])
def test_stopped_by_the_user_is_one_line(train, diagnosed, command, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    train("--quiet")
    module = getattr(cli, command)
    monkeypatch.setattr(module, {"train": "fit", "diagnose": "diagnose"}[command], stop)
    assert {"train": train, "diagnose": diagnosed}[command]("--quiet") == 130
    one_line(capsys, "stopped")


def test_without_matplotlib_diagnose_says_what_to_install(train, diagnosed, monkeypatch, capsys):
    train("--quiet")

    def missing():
        raise ImportError('pip install "pyro-vae[plots]"')

    monkeypatch.setattr(plots, "require_matplotlib", missing)
    assert diagnosed() == 2
    one_line(capsys, r"pyro-vae\[plots\]")
