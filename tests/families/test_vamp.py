"""VampPrior: the aggregate posterior where it should be one, one encoder in two places."""

import copy
import math

import numpy as np
import pyro
import pytest
import torch
from builders import binary, copies, svi, train, unmoved
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO
from scipy import stats
from torch import nn

from pyro_vae import VAE, fit, networks
from pyro_vae import families as fam
from pyro_vae.diagnostics import aggregate_posterior
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, TraceSTL_ELBO
from pyro_vae.supports import space_of

PIXELS, LATENTS, WIDTH = 6, 2, 8
X = torch.linspace(0.1, 0.9, 4 * PIXELS).reshape(4, PIXELS)


def encoder_of(guide=None, *, pixels=PIXELS, between=()):
    guide = fam.Normal(LATENTS, context=WIDTH) if guide is None else guide
    return nn.Sequential(nn.Linear(pixels, WIDTH), *between, nn.Tanh(), guide)


def vae_of(prior=None, encoder=None, *, shared=True, name=None, **options):
    encoder = encoder_of() if encoder is None else encoder
    if prior is None:
        mine = encoder if shared else copy.deepcopy(encoder)
        prior = fam.VampPrior(mine, components=3, input_shape=PIXELS, **options)
    net = networks.MLP(prior.features, WIDTH, activation=nn.Tanh)
    decoder = nn.Sequential(net, fam.Bernoulli(PIXELS, context=WIDTH))
    return VAE(prior=prior, encoder=encoder, decoder=decoder, name=name)


def shake(module, size=0.5):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


# ---------------------------------------------------------------------- the density


def by_hand(encoder, u, z, weights=None):
    """log sum_k w_k q(z | u_k) of a Normal guide, all in NumPy and scipy."""
    with torch.no_grad():
        out = encoder[-1].head(encoder[:-1](u)).double().numpy()
    loc, scale = out[:, :LATENTS], np.exp(out[:, LATENTS:])
    each = stats.norm(loc, scale).logpdf(z.double().numpy()[:, None]).sum(-1)
    weights = np.full(len(u), 1 / len(u)) if weights is None else weights
    return np.log(weights) + each


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_at_the_data_it_is_the_aggregate_posterior(dtype, accuracy):
    encoder, x = shake(encoder_of()).to(dtype), torch.rand(40, PIXELS, dtype=dtype)
    prior = fam.VampPrior(encoder, inputs=x)
    z = 2 * torch.randn(300, LATENTS, dtype=dtype)
    with torch.no_grad():
        found = prior().log_prob(z)
        each = encoder(x).log_prob(z.unsqueeze(1))
    truth = torch.logsumexp(each, 1) - math.log(40)
    assert bool(((found - truth).abs() <= accuracy * truth.abs().clamp(min=1)).all())
    hand = np.logaddexp.reduce(by_hand(encoder, x, z), axis=1)
    np.testing.assert_allclose(found.numpy(), hand, rtol=100 * accuracy)


def wrong_densities(encoder, u, z):
    """Published mistakes, by name, each as a log density at z."""
    with torch.no_grad():
        q = encoder(u).base_dist
    loc, scale, at = q.loc, q.scale, z.unsqueeze(1)
    normal, log_k = torch.distributions.Normal, math.log(len(u))
    by_dimension = normal(loc, scale).log_prob(at).logsumexp(1) - log_k
    log_var = scale.square().log()
    divided = -0.5 * (math.log(2 * math.pi) + (log_var + (at - loc).square()) / log_var.exp())
    return {
        "mixture in each dimension": by_dimension.sum(-1),
        "variance in the place of scale": normal(loc, scale**2).log_prob(at).sum(-1).logsumexp(1)
        - log_k,
        "root of the scale": normal(loc, scale.sqrt()).log_prob(at).sum(-1).logsumexp(1) - log_k,
        "log variance divided by variance": divided.sum(-1).logsumexp(1) - log_k,
        "no weights": normal(loc, scale).log_prob(at).sum(-1).logsumexp(1),
    }


def test_published_mistakes_would_be_caught():
    encoder, x = shake(encoder_of()), torch.rand(40, PIXELS)
    z = torch.randn(20, LATENTS)
    hand = np.logaddexp.reduce(by_hand(encoder, x, z), axis=1)
    for what, wrong in wrong_densities(encoder, x, z).items():
        assert np.abs(wrong.numpy() - hand).max() > 0.01, what


def test_weights_are_uniform_or_learned():
    encoder, x, z = shake(encoder_of()), torch.rand(5, PIXELS), torch.randn(9, LATENTS)
    plain = fam.VampPrior(encoder, inputs=x)
    weighted = fam.VampPrior(encoder, inputs=x, learnable=("inputs", "logits"))
    assert torch.equal(plain().log_prob(z), weighted().log_prob(z))
    assert "logits" not in dict(plain.named_parameters())
    shake(weighted, 0.0).logits.data.copy_(torch.tensor([2.0, 0.0, -1.0, 0.5, 0.0]))
    weights = np.exp(weighted.logits.detach().double().numpy())
    hand = np.logaddexp.reduce(by_hand(encoder, x, z, weights / weights.sum()), axis=1)
    np.testing.assert_allclose(weighted().log_prob(z).detach().numpy(), hand, rtol=1e-5)


def test_replicates_are_drawn_from_the_mixture():
    """Pseudo-inputs far apart: each has its share of draws, near its own q(z | u_k)."""
    encoder = fam.Normal(LATENTS, context=2, scale=0.1)
    with torch.no_grad():
        encoder.head.weight.copy_(torch.eye(2))
        encoder.head.bias.zero_()
    corners = 10 * torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    prior = fam.VampPrior(encoder, inputs=corners)
    decoder = nn.Sequential(nn.Linear(2, WIDTH), fam.Normal(2, context=WIDTH))
    vae = VAE(prior=prior, encoder=encoder, decoder=decoder)
    z = poutine.trace(vae.model).get_trace(size=4000).nodes["z"]["value"]
    label = torch.cdist(z, corners).argmin(1)
    assert stats.chisquare(label.bincount(minlength=4).numpy()).pvalue > 1e-6
    around = ((z - corners[label]) / 0.1).flatten().detach().numpy()
    assert stats.kstest(around, "norm").pvalue > 1e-6


def test_prior_of_the_data_leaves_no_misfit_to_the_aggregate_posterior():
    encoder, x = shake(encoder_of()), torch.rand(60, PIXELS).round()
    at_data = vae_of(fam.VampPrior(encoder, inputs=x, learnable=False), encoder)
    found = aggregate_posterior(at_data.model, at_data.guide, x, progress=False)
    low, high = found.kl_aggregate.values
    # the mixture with a draw's own datum is this prior; the other bound leaves that datum out
    assert high == pytest.approx(0.0, abs=1e-5)
    assert low == pytest.approx(-float(np.diff(found.mutual_information.values)[0]), abs=1e-5)
    plain = vae_of(fam.Normal(LATENTS), encoder)
    assert float(aggregate_posterior(plain.model, plain.guide, x).kl_aggregate[0]) > 0.05


GUIDES = {
    "von_mises_fisher": lambda: fam.VonMisesFisher(3, context=WIDTH),
    "gamma": lambda: fam.Gamma(3, context=WIDTH),
    "dirichlet": lambda: fam.Dirichlet(3, context=WIDTH),
    "student_t": lambda: fam.StudentT((2, 2), context=WIDTH),
    "full_normal": lambda: fam.FullNormal(3, context=WIDTH),
    "one_hot_categorical": lambda: fam.OneHotCategorical(2, context=WIDTH, categories=3),
}


@pytest.mark.parametrize("name", GUIDES)
def test_it_lives_where_its_encoder_does(name):
    guide = GUIDES[name]()
    encoder, x = encoder_of(guide), torch.rand(7, PIXELS)
    prior = fam.VampPrior(encoder, inputs=x)
    assert space_of(prior.support) == space_of(guide.support)
    z = encoder(x).sample((5,))
    each = torch.stack([encoder(row.expand(1, -1)).log_prob(z) for row in x], -1)
    truth = each.logsumexp(-1) - math.log(7)
    torch.testing.assert_close(prior().log_prob(z), truth, rtol=1e-4, atol=1e-4)
    vae = vae_of(prior, encoder)
    before = copies(vae)
    train(vae, Trace_ELBO(), binary(), steps=3)
    assert not unmoved(vae, before)


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


# ---------------------------------------------------------------------- pseudo-inputs


def test_an_encoder_that_looks_at_y_has_pseudo_inputs_of_both():
    encoder = encoder_of(pixels=PIXELS + 2)
    with pytest.raises(ValueError, match=r"cannot read pseudo-inputs of shape \(50, 6\).*D \+ C"):
        fam.VampPrior(encoder, input_shape=PIXELS)
    prior = fam.VampPrior(encoder, 4, input_shape=PIXELS + 2)
    decoder = nn.Sequential(nn.Linear(LATENTS + 2, WIDTH), fam.Bernoulli(PIXELS, context=WIDTH))
    vae, x = VAE(prior=prior, encoder=encoder, decoder=decoder), binary()
    before = copies(vae)
    train(vae, Trace_ELBO(), x, y=torch.eye(2).repeat(5, 1))
    assert not unmoved(vae, before)


def test_images_are_pseudo_inputs_too():
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten())
    encoder = nn.Sequential(net, fam.Normal(LATENTS, context=18))
    prior = fam.VampPrior(encoder, 5, input_shape=(1, 4, 4))
    assert prior.inputs.shape == (5, 1, 4, 4)
    assert prior().sample((3,)).shape == (3, LATENTS)


def test_a_constraint_keeps_pseudo_inputs_among_the_data():
    encoder, x = encoder_of(), torch.rand(5, PIXELS).clamp(0.01, 0.99)
    prior = fam.VampPrior(encoder, inputs=x, constraint=constraints.unit_interval)
    torch.testing.assert_close(prior.inputs, x)
    vae = vae_of(prior, encoder)
    train(vae, Trace_ELBO(), binary(), steps=20, lr=1.0)
    assert bool(((prior.inputs >= 0) & (prior.inputs <= 1)).all())
    assert not torch.allclose(prior.inputs, x, atol=0.1)
    free = fam.VampPrior(encoder, input_shape=PIXELS, constraint=constraints.unit_interval)
    assert bool(((free.inputs > 0.2) & (free.inputs < 0.8)).all())
    assert free.inputs.std() > 0


def test_a_start_on_the_boundary_is_for_those_that_stay():
    encoder, x = encoder_of(), binary(5)
    with pytest.raises(ValueError, match=r"on the boundary.*clamp\(0.01, 0.99\)"):
        fam.VampPrior(encoder, inputs=x, constraint=constraints.unit_interval)
    fixed = fam.VampPrior(encoder, inputs=x, learnable=False, constraint=constraints.unit_interval)
    assert torch.equal(fixed.inputs, x)
    unconstrained = fam.VampPrior(encoder, inputs=x)
    assert torch.equal(unconstrained.inputs, x)


def test_whole_numbers_start_as_real_ones():
    prior = fam.VampPrior(encoder_of(), inputs=torch.ones(3, PIXELS, dtype=torch.uint8))
    assert prior.inputs.dtype == torch.float32
    assert len(list(prior.parameters())) == 1 + len(list(prior.encoder.parameters()))


def test_pseudo_inputs_are_of_the_type_of_the_encoder():
    encoder = encoder_of().double()
    for prior in (fam.VampPrior(encoder, inputs=X), fam.VampPrior(encoder, input_shape=PIXELS)):
        assert prior.inputs.dtype == torch.float64
        assert prior().sample().dtype == torch.float64


def test_building_costs_no_draws_where_inputs_are_given():
    encoder, x = encoder_of(), binary(4)
    state = torch.get_rng_state()
    fam.VampPrior(encoder, inputs=x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, ValueError, "needs input_shape=, the shape of a datum, or inputs="),
        ({"input_shape": 0}, ValueError, "input_shape must be a positive whole number, not 0"),
        ({"input_shape": ()}, ValueError, "input_shape must be a positive int or a tuple"),
        ({"input_shape": 6, "components": 0}, ValueError, "components must be a positive whole"),
        ({"inputs": X, "components": 5}, ValueError, "are 4 components, not components=5"),
        ({"inputs": X, "input_shape": 5}, ValueError, r"not of input_shape=\(5,\)"),
        ({"inputs": X[0]}, ValueError, r"must have shape \(K, \*input_shape\), not \(6,\)"),
        ({"inputs": X[:, :5]}, ValueError, r"cannot read pseudo-inputs of shape \(4, 5\)"),
        ({"inputs": X * math.nan}, ValueError, "inputs must be finite"),
        ({"inputs": X, "learnable": "loc"}, TypeError, "has no parameter 'loc'"),
        (
            {"inputs": X + 1, "constraint": constraints.unit_interval},
            ValueError,
            "inputs must satisfy Interval",
        ),
        (
            {"input_shape": 6, "constraint": constraints.nonnegative_integer},
            ValueError,
            "no bijection leads to",
        ),
    ],
)
def test_what_is_wrong_is_said(options, error, text):
    with pytest.raises(error, match=text):
        fam.VampPrior(encoder_of(), **options)


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


@pytest.mark.parametrize(
    ("encoder", "error", "text"),
    [
        (lambda x: x, TypeError, "the encoder must be a module"),
        (Returns(lambda x: x), TypeError, "the encoder returned a Parameter; it must"),
        (
            Returns(lambda x: pyro.distributions.Normal(x, 1.0)),
            ValueError,
            r"batch shape \(4, 6\).*mixture would be taken in each dimension.*to_event",
        ),
        (
            Returns(lambda x: pyro.distributions.Normal(torch.zeros(6), 1.0).to_event(1)),
            ValueError,
            r"batch shape \(\) and event shape \(6,\); the batch shape must be \(4,\)",
        ),
    ],
)
def test_an_encoder_that_cannot_serve_is_refused(encoder, error, text):
    with pytest.raises(error, match=text):
        fam.VampPrior(encoder, inputs=X)


def test_a_prior_from_elsewhere_does_not_fit():
    prior = fam.VampPrior(encoder_of(fam.Gamma(LATENTS, context=WIDTH)), input_shape=PIXELS)
    with pytest.raises(ValueError, match="cannot stand beside a VampPrior prior"):
        vae_of(prior, encoder_of())
