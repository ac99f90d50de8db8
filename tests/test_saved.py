"""Saved models: what is read is what was written, and what is not right is said in one message."""

import json
import os
import pickle

import pytest
import torch
from torch import nn

from pyro_vae import VAE, saved
from pyro_vae import families as fam

RECIPE = saved.Recipe("normal", "student_t", "bernoulli", (2, 3), latent=2, hidden=4)
X = torch.tensor([[[1.0, 0, 1], [0, 1, 1]]])


@pytest.fixture
def folder(tmp_path):
    return saved.save(tmp_path / "model", saved.build(RECIPE), RECIPE)


def change(folder, **values):
    path = folder / "model.json"
    described = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in described.items() if v is not None}))


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        saved.Recipe("transported", "beta", "normal", (6,), latent=3, hidden=4, data="x.npy"),
        saved.Recipe("product", "learnable_product", "bernoulli", (6,), latent=3, hidden=4),
        saved.Recipe("transported", "von_mises_fisher", "bernoulli", (6,), latent=3, hidden=4),
        saved.Recipe("gamma", "learnable_vamp_prior", "bernoulli", (6,), hidden=4, components=3),
        saved.Recipe("gamma", "learnable_gamma", "poisson", (6,), hidden=4, image_shape=(2, 3)),
        saved.Recipe(
            "one_hot_categorical", "one_hot_categorical", "bernoulli", (6,), categories=3
        ),
        saved.Recipe("dirichlet", "dirichlet", "bernoulli", (6,), latent=1, categories=4),
        saved.Recipe(
            "normal", "normal", "categorical", (6,), likelihood_options={"categories": 5}
        ),
    ],
    ids=lambda r: f"{r.guide}-{r.prior}-{r.likelihood}",
)
def test_what_is_read_is_what_was_written(recipe, tmp_path):
    vae = saved.build(recipe)
    state = torch.get_rng_state()
    found, described = saved.load(saved.save(tmp_path, vae, recipe))
    assert torch.equal(torch.get_rng_state(), state), "reading costs no random numbers"
    assert described == recipe
    assert not found.training
    assert found.state_dict().keys() == vae.state_dict().keys()
    for name, value in vae.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)


def test_it_computes_the_same(folder):
    first, second = saved.load(folder)[0], saved.load(folder)[0]
    draws = []
    for vae in (first, second):
        torch.manual_seed(1)
        draws.append(vae.guide(X)["z"])
    assert torch.equal(*draws)


def test_double_precision_stays(tmp_path):
    vae = saved.build(RECIPE).double()
    found, _ = saved.load(saved.save(tmp_path, vae, RECIPE))
    assert {p.dtype for p in found.parameters()} == {torch.float64}


def test_a_vae_of_another_recipe_is_refused(tmp_path):
    other = VAE(fam.Normal(2), nn.Sequential(nn.Flatten(), fam.Normal(2, 6)), fam.Bernoulli(6, 2))
    with pytest.raises(saved.SavedModelError, match=r"not one of its recipe: \S+ has "):
        saved.save(tmp_path / "m", other, RECIPE)
    assert not (tmp_path / "m").exists()


# ------------------------------------------------------------------------------------- refusals
def test_a_folder_that_is_none_is_told_how_to_make_one(tmp_path):
    with pytest.raises(saved.SavedModelError, match=r"no such folder\); make one by `python -m"):
        saved.load(tmp_path / "none")
    with pytest.raises(saved.SavedModelError, match=r"it has no model\.json"):
        saved.load(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2}, r"is of version 2 of the format, and this package reads version 1"),
        ({"format": "other"}, "describes no model of pyro_vae"),
        ({"guide": None}, r"damaged: 'guide' is missing"),
        ({"latent": "2"}, r"damaged: 'latent' is '2'"),
        ({"latent": True}, r"damaged: 'latent' is True"),
        ({"event_shape": [2, -3]}, r"damaged: 'event_shape' is \[2, -3\]"),
        ({"weights": {}}, r"'weights' has no 'sha256'"),
        ({"guide": "nornal"}, r"no guide is named 'nornal'\. Did you mean 'normal'.* Import the"),
        ({"likelihood": "dirichlet"}, r"no likelihood is named 'dirichlet'"),
        ({"prior": "beta"}, r"cannot be made here: .*cannot stand beside"),
        ({"likelihood_options": {"colour": 1}}, r"cannot be made here: .*colour"),
        ({"hidden": 5}, r"does not fit model\.json: \S+ has shape"),
        ({"hidden": 0}, r"hidden must be a whole number, at least 1, not 0"),
    ],
    ids=str,
)
def test_a_description_that_is_not_right_is_refused(folder, values, message):
    change(folder, **values)
    with pytest.raises(saved.SavedModelError, match=message):
        saved.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_damaged_description_is_refused(folder, text):
    (folder / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(saved.SavedModelError, match=r"model\.json"):
        saved.load(folder)


def test_missing_or_damaged_weights_are_refused(folder):
    whole = (folder / "weights.pt").read_bytes()
    (folder / "weights.pt").write_bytes(whole[:-1])
    with pytest.raises(saved.SavedModelError, match=r"weights\.pt is damaged, or not the one"):
        saved.load(folder)
    (folder / "weights.pt").unlink()
    with pytest.raises(saved.SavedModelError, match=r"has no weights\.pt; copy the whole folder"):
        saved.load(folder)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(Evil(), 2), b"", b"nothing", pickle.dumps({"a": 1}, 2), pickle.dumps([], 2)],
    ids=["code", "empty", "text", "no tensors", "no mapping"],
)
def test_nothing_in_a_file_of_weights_is_run(folder, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "weights.pt").write_bytes(content)
    change(folder, weights={"sha256": saved._digest(folder / "weights.pt")})
    with pytest.raises(saved.SavedModelError, match=r"weights\.pt"):
        saved.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_file_is_written_whole_or_not_at_all(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken(state, path):
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="the disk is full"):
        saved.save(folder, saved.build(RECIPE), RECIPE)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_prior_of_the_encoder_shares_it_again_when_read(tmp_path):
    recipe = saved.Recipe("normal", "vamp_prior", "bernoulli", (2, 3), components=5, hidden=4)
    data = torch.bernoulli(torch.full((20, 2, 3), 0.5))
    vae = saved.build(recipe, data)
    assert all(bool((row == data).flatten(1).all(1).any()) for row in vae.model.prior.z.inputs)
    found, _ = saved.load(saved.save(tmp_path, vae, recipe))
    assert found.model.prior.z.encoder is found.guide.encoder.z
    assert len(list(found.parameters())) == len(list(vae.parameters()))
    z = torch.randn(9, 8)
    assert torch.equal(found.model.prior.z().log_prob(z), vae.model.prior.z().log_prob(z))


def test_a_model_saved_before_there_were_components_is_read(folder):
    change(folder, components=None)
    assert saved.load(folder)[1] == RECIPE
