"""VampPrior: one encoder in two places, trained once, in both its modes."""

import copy

import pyro
import pytest
import torch
from builders import binary, copies, svi, train, unmoved
from pyro.infer import Trace_ELBO
from torch import nn
from vamp_builders import LATENTS, PIXELS, WIDTH, encoder_of, shake, vae_of

from pyro_vae import VAE, fit
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, TraceSTL_ELBO

# ---------------------------------------------------------------------- one encoder, two places

ELBOS = {
    "trace": Trace_ELBO,
    "exact": TraceExactKL_ELBO,
    "stl": TraceSTL_ELBO,
    "iwae": lambda: TraceIWAE_ELBO(3),
    "iwae_dreg": lambda: TraceIWAE_ELBO(3, "dreg"),
}


def loss_of(vae, elbo, x, seed=1):
    torch.manual_seed(seed)
    return elbo.differentiable_loss(vae.model, vae.guide, x)


def gradients(module, loss):
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters)
    return dict(zip(names, found, strict=True))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("elbo", ELBOS)
def test_a_shared_encoder_has_the_gradients_of_both_its_places(elbo):
    """The sum of those of two encoders of equal weights, of which each is in one place."""
    torch.manual_seed(0)
    encoder, x = shake(encoder_of()), binary()
    one = vae_of(encoder=encoder)
    two = vae_of(encoder=encoder, shared=False)
    two.load_state_dict(one.state_dict())
    loss, apart_loss = (loss_of(vae, ELBOS[elbo](), x) for vae in (one, two))
    assert loss.item() == pytest.approx(apart_loss.item(), rel=1e-12)
    found, apart = gradients(one, loss), gradients(two, apart_loss)
    for name, gradient in found.items():
        expected = apart[name]
        if "encoder" in name:
            expected = expected + apart[name.replace("model.prior.z.encoder", "guide.encoder.z")]
            assert not torch.allclose(expected, apart[name])
        torch.testing.assert_close(gradient, expected)
    inputs = found["model.prior.z.raw_inputs"]
    assert bool((inputs != 0).all())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("elbo", ["trace", "exact", "iwae"])
def test_gradients_are_those_of_finite_differences(elbo):
    vae, x = shake(vae_of(learnable=("inputs", "logits")), 0.3), binary()
    found, step = gradients(vae, loss_of(vae, ELBOS[elbo](), x)), 1e-6
    for name, p in vae.named_parameters():
        flat, gradient = p.data.view(-1), found[name].flatten()
        for i in range(0, len(flat), 7):
            ends = []
            for sign in (step, -step):
                flat[i] += sign
                ends.append(loss_of(vae, ELBOS[elbo](), x).item())
                flat[i] -= sign
            slope = (ends[0] - ends[1]) / (2 * step)
            assert gradient[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-7), name


def test_svi_trains_what_is_shared_once():
    torch.manual_seed(0)
    vae, x = vae_of(name="once"), binary()
    twin = copy.deepcopy(vae)
    torch.manual_seed(1)
    pyro.infer.SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 0.1}), Trace_ELBO()).step(x)
    loss = loss_of(twin, Trace_ELBO(), x)
    expected = {
        name: p - 0.1 * g
        for (name, p), g in zip(
            twin.named_parameters(), gradients(twin, loss).values(), strict=True
        )
    }
    for name, p in vae.named_parameters():
        torch.testing.assert_close(p, expected[name])
    store = pyro.get_param_store()
    assert len(store) == len(list(vae.parameters()))
    assert all(
        store[f"once.encoder$$$z.{n}"] is p for n, p in vae.guide.encoder.z.named_parameters()
    )


def test_svi_and_torch_take_the_same_steps():
    vae, x = vae_of(), binary()
    twin = copy.deepcopy(vae)
    stepper = svi(vae, Trace_ELBO())
    torch.manual_seed(1)
    losses = [stepper.step(x) for _ in range(3)]
    torch.manual_seed(1)
    assert train(twin, Trace_ELBO(), x) == pytest.approx(losses)
    for a, b in zip(vae.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("capture", [False, True])
def test_fit_trains_every_parameter_and_goes_back_to_the_best_together(capture):
    vae, x = vae_of(), binary(40)
    before = copies(vae)
    fit(vae, x, validation=x, patience=2, epochs=3, progress=False, capture=capture)
    assert not unmoved(vae, before)
    assert vae.model.prior.z.encoder is vae.guide.encoder.z


def test_loaded_weights_are_taken_up_by_the_model_alone_and_never_twice(tmp_path):
    store, x = pyro.get_param_store(), binary()
    trained = vae_of(name="kept")
    svi(trained, Trace_ELBO()).step(x)
    store.save(tmp_path / "weights.pt")
    store.clear()
    store.load(tmp_path / "weights.pt")
    fresh = vae_of(name="kept")
    with store.scope(store.get_state()):
        fresh.model(size=2)
        for a, b in zip(trained.model.parameters(), fresh.model.parameters(), strict=True):
            assert torch.equal(a, b)
        svi(fresh, Trace_ELBO()).step(x)
    before = copies(fresh)
    Trace_ELBO().loss(fresh.model, fresh.guide, x)  # in a store of loaded values again
    assert unmoved(fresh, before) == list(before)


def test_a_copy_shares_within_itself_and_trains_apart():
    vae, x = vae_of(), binary()
    twin = copy.deepcopy(vae)
    assert twin.model.prior.z.encoder is twin.guide.encoder.z
    assert twin.guide.encoder.z is not vae.guide.encoder.z
    before = copies(vae)
    for _ in range(2):
        svi(twin, Trace_ELBO()).step(x)
    assert unmoved(vae, before) == list(before)
    svi(vae, Trace_ELBO()).step(x)
    assert not unmoved(vae, before)


def test_a_state_dict_round_trip_keeps_what_is_shared():
    vae, fresh, x = shake(vae_of()), vae_of(), binary()
    fresh.load_state_dict(vae.state_dict())
    assert fresh.model.prior.z.encoder is fresh.guide.encoder.z
    assert loss_of(vae, Trace_ELBO(), x) == loss_of(fresh, Trace_ELBO(), x)


@pytest.mark.parametrize("way", ["svi", "torch", "fit"])
def test_a_frozen_encoder_stays_frozen_in_both_places(way):
    vae, x = vae_of(), binary()
    vae.guide.encoder.requires_grad_(False)
    before = copies(vae)
    if way == "svi":
        svi(vae, Trace_ELBO()).step(x)
    elif way == "torch":
        train(vae, Trace_ELBO(), x)
    else:
        fit(vae, x, epochs=2, progress=False)
    # a parameter that both hold goes by the model's name
    frozen = {n for n in before if "encoder" in n}
    assert set(unmoved(vae, before)) == frozen
    assert "model.prior.z.raw_inputs" not in frozen


def test_each_of_several_sites_can_have_its_own():
    encoders = {"a": encoder_of(), "b": encoder_of(fam.Gamma(3, context=WIDTH))}
    priors = {n: fam.VampPrior(e, 3, input_shape=PIXELS) for n, e in encoders.items()}
    decoder = nn.Sequential(nn.Linear(LATENTS + 3, WIDTH), fam.Bernoulli(PIXELS, context=WIDTH))
    vae, x = VAE(prior=priors, encoder=encoders, decoder=decoder), binary()
    before = copies(vae)
    svi(vae, Trace_ELBO()).step(x)
    assert not unmoved(vae, before)
    assert len(pyro.get_param_store()) == len(before)


def test_what_is_fixed_and_what_is_shared():
    shared = vae_of(learnable=False)
    assert all(p.requires_grad for p in shared.guide.parameters())
    assert shared.model.prior.z.raw_inputs.requires_grad is False
    own = fam.VampPrior(encoder_of(), 3, input_shape=PIXELS, learnable=False, shared=False)
    assert not [p for p in own.parameters() if p.requires_grad]
    apart = fam.VampPrior(encoder_of(), 3, input_shape=PIXELS, shared=False)
    assert all(p.requires_grad for p in apart.parameters())


# ---------------------------------------------------------------------- train and eval mode


def normalised(*layers):
    return shake(encoder_of(between=layers), 0.2)


def test_pseudo_inputs_move_no_running_statistics():
    encoder, x = normalised(nn.BatchNorm1d(WIDTH)), binary()
    vae = vae_of(encoder=encoder)
    plain = vae_of(fam.Normal(LATENTS), copy.deepcopy(encoder))
    for each in (vae, plain):
        each.train()
        each.model(size=5)
        for _ in range(3):
            loss_of(each, Trace_ELBO(), x)
    found, truth = vae.guide.encoder.z[1], plain.guide.encoder.z[1]
    assert int(found.num_batches_tracked) == 3
    assert torch.equal(found.running_mean, truth.running_mean)
    assert torch.equal(found.running_var, truth.running_var)


@pytest.mark.parametrize("layer", [lambda: nn.BatchNorm1d(WIDTH), lambda: nn.Dropout(0.5)])
def test_it_is_one_density_in_training_and_evaluation(layer):
    encoder = normalised(layer())
    encoder(torch.randn(50, PIXELS) + 3)
    prior, z = fam.VampPrior(encoder, 4, input_shape=PIXELS), torch.randn(9, LATENTS)
    encoder[0].eval()  # a layer that stays in eval mode on its own account
    training = prior().log_prob(z)
    assert [m.training for m in encoder] == [False, True, True, True]
    assert torch.equal(training, prior().log_prob(z))
    assert torch.equal(training, prior.eval()().log_prob(z))


@pytest.mark.usefixtures("float64")
def test_statistics_that_move_before_the_backward_pass_leave_gradients_right():
    """The second particle moves them, and torch's normalisation does not notice."""
    torch.manual_seed(0)
    vae, x = vae_of(encoder=normalised(nn.BatchNorm1d(WIDTH, momentum=0.5))), binary()
    elbo, start, step = Trace_ELBO(num_particles=2), copy.deepcopy(vae.state_dict()), 1e-6
    loss = loss_of(vae, elbo, x)
    inputs = vae.model.prior.z.raw_inputs
    (found,) = torch.autograd.grad(loss, inputs)
    for i in range(inputs.numel()):
        ends = []
        for sign in (step, -step):
            vae.load_state_dict(start)
            inputs.data.view(-1)[i] += sign
            ends.append(loss_of(vae, elbo, x).item())
        slope = (ends[0] - ends[1]) / (2 * step)
        assert found.flatten()[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_an_encoder_that_normalises_batches_by_themselves_is_refused():
    encoder = encoder_of(between=(nn.BatchNorm1d(WIDTH, track_running_stats=False),))
    with pytest.raises(ValueError, match="BatchNorm1d keeps no running statistics"):
        fam.VampPrior(encoder, input_shape=PIXELS)
