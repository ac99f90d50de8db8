"""A VAE and Pyro's global parameter store: names, copies, saving and loading, frozen parts.

The traps of plain Pyro that must not catch our users: networks that no one announced are not
trained, two networks of one name train only the first, loaded weights are not used, and
frozen weights are thawed; all in silence.
"""

import copy
import warnings

import pyro
import pytest
import torch
from builders import binary, copies, small_vae, svi, train, unmoved
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import nn

from pyro_vae import VAE
from pyro_vae import families as fam
from pyro_vae.param_store import announce


def step(vae, x, elbo=Trace_ELBO):
    return svi(vae, elbo()).step(x)


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def reloaded(path):
    """As in a new process: an empty store into which a file is loaded."""
    pyro.clear_param_store()
    pyro.get_param_store().load(path)


@pytest.fixture
def weights(tmp_path):
    """A file of weights, saved under the name `digits`, and the VAE they belong to."""
    vae = small_vae(name="digits")
    step(vae, binary())
    path = tmp_path / "weights.pt"
    pyro.get_param_store().save(path)
    return path, copy.deepcopy(vae)


# ---------------------------------------------------------------------- names


def test_every_parameter_stands_in_the_store_itself():
    vae = small_vae(fam.Normal(2, learnable=True), name="digits")
    step(vae, binary())
    store = pyro.get_param_store()
    assert {id(store[name]) for name in store} == {id(p) for p in vae.parameters()}
    assert all(name.startswith("digits.") for name in store)
    assert "digits.prior$$$z.raw_loc" in store
    assert "digits.encoder$$$z.0.0.weight" in store
    assert "digits.decoder$$$0.0.weight" in store


def test_names_are_unique_unless_given():
    names = [small_vae().name, small_vae().name, small_vae(name="digits").name]
    assert len(set(names)) == 3
    assert names[2] == "digits"


def test_two_vaes_both_train():
    vaes, x = [small_vae(), small_vae()], binary()
    for _ in range(2):
        for vae in vaes:
            before = copies(vae)
            step(vae, x)
            assert not unmoved(vae, before)


@pytest.mark.parametrize("same_shapes", [True, False])
def test_two_vaes_of_one_name_are_an_error(same_shapes):
    one, other = small_vae(name="digits"), small_vae(pixels=6 if same_shapes else 5, name="digits")
    step(one, binary())
    before = copies(other)
    with pytest.raises(ValueError, match=r"another parameter under the name 'digits\..*own name="):
        step(other, binary(pixels=6 if same_shapes else 5))
    assert unmoved(other, before) == list(before)
    pyro.clear_param_store()
    step(other, binary(pixels=6 if same_shapes else 5))
    assert not unmoved(other, before)


def test_the_first_of_one_name_goes_on_after_the_refusal():
    one, other = small_vae(name="digits"), small_vae(name="digits")
    step(one, binary())
    with pytest.raises(ValueError, match="digits"):
        step(other, binary())
    before = copies(one)
    step(one, binary())
    assert not unmoved(one, before)


# ---------------------------------------------------------------------- copies


@pytest.mark.parametrize("name", [None, "digits"])
@pytest.mark.parametrize("trained", [False, True])
def test_a_deep_copy_trains_apart(name, trained):
    vae, x = small_vae(name=name), binary()
    if trained:
        step(vae, x)
    twin = copy.deepcopy(vae)
    assert equal(vae, twin)
    assert twin.name != vae.name
    assert twin.model.name == twin.guide.name
    before, twin_before = copies(vae), copies(twin)
    step(twin, x)
    assert unmoved(vae, before) == list(before)
    assert not unmoved(twin, twin_before)
    step(vae, x)
    assert not unmoved(vae, before)
    assert twin.model.pairing is twin.guide.pairing


def test_a_copy_of_a_half_has_a_name_of_its_own():
    vae = small_vae(name="digits")
    assert copy.deepcopy(vae.model).name not in ("digits", copy.deepcopy(vae.guide).name)


def test_names_of_copies_differ_from_those_of_later_vaes():
    vae = small_vae()
    names = [copy.deepcopy(vae).name, small_vae().name, copy.deepcopy(vae).name, vae.name]
    assert len(set(names)) == 4


# ---------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("training", [step, lambda vae, x: train(vae, Trace_ELBO(), x, steps=1)])
def test_a_reloaded_state_dict_trains_on(training):
    vae, x = small_vae(), binary()
    step(vae, x)
    fresh = small_vae()
    fresh.load_state_dict(vae.state_dict())
    assert equal(vae, fresh)
    before = copies(fresh)
    training(fresh, x)
    assert not unmoved(fresh, before)


def test_a_state_dict_loaded_into_a_training_vae_is_used():
    vae, other, x = small_vae(), small_vae(), binary()
    engine = svi(vae, Trace_ELBO())
    engine.step(x)
    vae.load_state_dict(other.state_dict())
    assert equal(vae, other)
    torch.manual_seed(1)
    loss = engine.evaluate_loss(x)
    torch.manual_seed(1)
    assert loss == Trace_ELBO().loss(other.model, other.guide, x)


def test_state_dict_is_safe_to_load(tmp_path):
    vae = small_vae(fam.StudentT(2, learnable=True))
    torch.save(vae.state_dict(), tmp_path / "vae.pt")
    fresh = small_vae(fam.StudentT(2, learnable=True))
    fresh.load_state_dict(torch.load(tmp_path / "vae.pt", weights_only=True))
    assert equal(vae, fresh)


def test_weights_loaded_into_the_store_are_taken_up_and_trained(weights):
    path, saved = weights
    reloaded(path)
    vae, x = small_vae(name="digits"), binary()
    assert not equal(vae, saved)
    torch.manual_seed(1)
    loss = step(vae, x)
    torch.manual_seed(1)
    assert loss == pytest.approx(step(saved, x))
    assert equal(vae, saved)  # both have taken the same first step from the same weights
    before = copies(vae)
    step(vae, x)
    assert not unmoved(vae, before)
    store = pyro.get_param_store()
    for name, p in vae.model.decoder.named_parameters():
        assert store[f"digits.decoder$$${name}"] is p


@pytest.mark.parametrize("use", ["loss", "module", "predict"])
def test_weights_loaded_into_the_store_are_taken_up_without_svi(weights, use):
    path, saved = weights
    reloaded(path)
    vae, x = small_vae(name="digits"), binary()
    if use == "loss":
        Trace_ELBO().loss(vae.model, vae.guide, x)
    elif use == "module":
        train(vae, Trace_ELBO(), x, steps=1, lr=0.0)
    else:
        vae.guide(x)
        vae.model(size=2)
    assert equal(vae, saved)


def test_weights_loaded_in_the_same_process_are_taken_back(tmp_path):
    vae, x = small_vae(name="digits"), binary()
    step(vae, x)
    saved = copies(vae)
    pyro.get_param_store().save(tmp_path / "weights.pt")
    step(vae, x)
    reloaded(tmp_path / "weights.pt")
    Trace_ELBO().loss(vae.model, vae.guide, x)
    assert unmoved(vae, saved) == list(saved)


def test_a_store_that_is_put_back_does_not_undo_later_training(weights):
    path, _ = weights
    reloaded(path)
    store, vae, x = pyro.get_param_store(), small_vae(name="digits"), binary()
    with store.scope(store.get_state()):
        step(vae, x)
    before = copies(vae)
    Trace_ELBO().loss(vae.model, vae.guide, x)  # in a store that holds the loaded values again
    assert unmoved(vae, before) == list(before)


def test_a_store_that_is_put_back_serves_the_next_vae(weights):
    path, saved = weights
    reloaded(path)
    store, x = pyro.get_param_store(), binary()
    for _ in range(2):
        vae = small_vae(name="digits")
        with store.scope(store.get_state()):
            Trace_ELBO().loss(vae.model, vae.guide, x)
        assert equal(vae, saved)


def test_weights_of_an_automatic_name_are_an_error_that_names_the_cure(tmp_path):
    vae, x = small_vae(), binary()
    step(vae, x)
    pyro.get_param_store().save(tmp_path / "weights.pt")
    reloaded(tmp_path / "weights.pt")
    before = copies(vae)
    with pytest.raises(ValueError, match=r"to load weights through the store.*with the name="):
        step(vae, x)
    assert unmoved(vae, before) == list(before)


def test_weights_of_other_shapes_are_an_error(weights):
    path, _ = weights
    reloaded(path)
    with pytest.raises(ValueError, match=r"with shape \(8, 6\), but .* \(8, 5\); the networks"):
        step(small_vae(pixels=5, name="digits"), binary(pixels=5))


def test_clearing_the_store_mid_way_loses_nothing():
    vae, x = small_vae(), binary()
    step(vae, x)
    before = copies(vae)
    pyro.clear_param_store()
    step(vae, x)
    assert not unmoved(vae, before)


# ---------------------------------------------------------------------- frozen parts


@pytest.mark.parametrize("training", [step, lambda vae, x: train(vae, Trace_ELBO(), x)])
@pytest.mark.parametrize("part", ["decoder", "encoder", "one weight"])
def test_frozen_parameters_stay_frozen_without_a_warning(training, part):
    vae, x = small_vae(fam.Normal(2, learnable=True)), binary()
    frozen = {"decoder": vae.model.decoder, "encoder": vae.guide.encoder}.get(part)
    for p in [vae.model.decoder[0][0].weight] if frozen is None else frozen.parameters():
        p.requires_grad_(False)
    before = copies(vae)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training(vae, x)
    assert not caught
    expected = [n for n, p in vae.named_parameters() if not p.requires_grad]
    assert expected
    assert unmoved(vae, before) == expected
    store = pyro.get_param_store()
    assert all(store[name].requires_grad for name in store)


def test_parameters_frozen_between_steps_stay_frozen_and_thaw():
    vae, x = small_vae(), binary()
    engine = svi(vae, Trace_ELBO())
    engine.step(x)
    vae.model.decoder.requires_grad_(False)
    before = copies(vae)
    engine.step(x)
    assert unmoved(vae, before) == [n for n in before if n.startswith("model.decoder")]
    vae.model.decoder.requires_grad_(True)
    before = copies(vae)
    engine.step(x)
    assert not unmoved(vae, before)


class PyroNet(PyroModule):
    """A network in Pyro's own style."""

    def __init__(self, n_in):
        super().__init__()
        self.inner = PyroModule[nn.Linear](n_in, 8)

    def forward(self, v):
        return self.inner(v).tanh()


def pyro_style_vae():
    return VAE(
        fam.Normal(2),
        nn.Sequential(PyroNet(6), fam.Normal(2, context=8)),
        nn.Sequential(PyroNet(2), fam.Bernoulli(6, context=8)),
    )


@pytest.mark.parametrize("training", [step, lambda vae, x: train(vae, Trace_ELBO(), x)])
def test_networks_that_are_pyro_modules_train(training):
    vae = pyro_style_vae()
    before = copies(vae)
    training(vae, binary())
    assert not unmoved(vae, before)


@pytest.mark.parametrize("training", [step, lambda vae, x: train(vae, Trace_ELBO(), x)])
def test_frozen_pyro_modules_are_refused_rather_than_thawed(training):
    vae = pyro_style_vae()
    vae.guide.encoder.requires_grad_(False)
    before = copies(vae)
    words = r"encoder\$\$\$z.0.inner.weight' is frozen.*plain torch modules"
    with pytest.raises(ValueError, match=words):
        training(vae, binary())
    assert unmoved(vae, before) == list(before)
    assert not any(p.requires_grad for p in vae.guide.encoder.parameters())


def test_frozen_pyro_modules_with_local_parameters_stay_frozen():
    with pyro.settings.context(module_local_params=True):
        vae = pyro_style_vae()
        vae.guide.encoder.requires_grad_(False)
        before = copies(vae)
        train(vae, Trace_ELBO(), binary())
    assert unmoved(vae, before) == [n for n in before if n.startswith("guide")]


# ---------------------------------------------------------------------- announce alone


def collect(module, **kwargs):
    with pyro.poutine.trace(param_only=True) as capture:
        announce("net", module, **kwargs)
    return [site["name"] for site in capture.trace.nodes.values()]


def test_announcing_collects_what_is_trained():
    net = nn.Linear(2, 1)
    net.bias.requires_grad_(False)
    assert collect(net, fixed=False) == ["net$$$weight"]
    assert list(pyro.get_param_store()) == ["net$$$weight"]


def test_a_parameter_that_is_not_contiguous_is_refused():
    net = nn.Linear(2, 3)
    net.weight = nn.Parameter(torch.randn(2, 3).T)
    with pytest.raises(ValueError, match=r"'net\$\$\$weight' is not contiguous.*contiguous\(\)"):
        collect(net, fixed=True)


def test_what_another_program_put_there_is_no_weight_of_an_unnamed_module():
    net = nn.Linear(2, 1)
    pyro.param("net$$$weight", torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"build the VAE with the name="):
        announce("net", net, fixed=False)
    announce("net", net, fixed=True)
    assert net.weight.eq(0).all()


def test_mean_field_and_plain_elbo_share_the_parameters():
    vae, x = small_vae(), binary()
    step(vae, x, Trace_ELBO)
    before = copies(vae)
    step(vae, x, TraceMeanField_ELBO)
    assert not unmoved(vae, before)
    assert len(pyro.get_param_store()) == len(before)
