"""VampPrior: the aggregate posterior where it should be one, pseudo-inputs, and what is wrong."""

import math

import numpy as np
import pyro
import pytest
import torch
from builders import binary, copies, train, unmoved
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO
from scipy import stats
from torch import nn
from vamp_builders import LATENTS, PIXELS, WIDTH, encoder_of, shake, vae_of

from pyro_vae import VAE, kl
from pyro_vae import families as fam
from pyro_vae.diagnostics import aggregate_posterior
from pyro_vae.supports import space_of

X = torch.linspace(0.1, 0.9, 4 * PIXELS).reshape(4, PIXELS)


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


def on_a_grid(q, p):
    """KL of densities on the line or half-line, by the trapezoid rule; shape (batch,)."""
    t = torch.linspace(-60.0, 60.0, 200_001)
    # the half-line by the logarithm, far below and above which there is nothing
    z, slope = (t, torch.ones_like(t)) if space_of(p.support).lower < 0 else (t.exp(), t.exp())
    near = z < 1e4
    z, t, slope = z[near][:, None, None], t[near], slope[near].unsqueeze(1)
    log_q, log_p = q.log_prob(z), p.log_prob(z)
    return torch.trapezoid(log_q.exp() * (log_q - log_p) * slope, t, dim=0)


def over_all_values(q, p):
    """KL of two groups of three classes, over all nine values; shape (batch,)."""
    classes = torch.eye(3)
    z = torch.stack([torch.stack([a, b]) for a in classes for b in classes]).unsqueeze(1)
    log_q, log_p = q.log_prob(z), p.log_prob(z)
    return (log_q.exp() * (log_q - log_p)).sum(0)


EXACT = {
    "line": (lambda: fam.Normal(1, context=WIDTH), "quadrature", on_a_grid),
    "half-line": (lambda: fam.Gamma(1, context=WIDTH), "quadrature", on_a_grid),
    "classes": (GUIDES["one_hot_categorical"], "closed", over_all_values),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", EXACT)
def test_the_kl_is_exact_where_it_can_be_had(case):
    make, kind, oracle = EXACT[case]
    encoder, x = shake(encoder_of(make()), 0.3), torch.rand(4, PIXELS)
    prior = fam.VampPrior(encoder, inputs=torch.randn(5, PIXELS))
    q, p = encoder(x), prior()
    assert kl.route(q, p).kind == kind
    found, truth = kl.divergence(q, p), oracle(q, p)
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-9)
    parameters = list(prior.parameters())
    # of the encoder in both its places, and of pseudo-inputs
    for a, b in zip(
        torch.autograd.grad(found.sum(), parameters, retain_graph=True),
        torch.autograd.grad(truth.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


def test_the_kl_of_several_normals_is_sampled_between_its_bounds():
    encoder, x = shake(encoder_of()), torch.rand(6, PIXELS)
    prior = fam.VampPrior(encoder, 4, input_shape=PIXELS)
    with torch.no_grad():
        q, p = encoder(x), prior()
        route, (low, high) = kl.route(q, p), kl.bounds(q, p)
        found = kl.estimate(q, p, num_samples=2000)
    assert route.kind == "sampled"
    assert "kl.bounds(q, p)" in route.reason
    # 12 comparisons, each wrong with probability 3e-7
    assert bool((found.mean + 5 * found.std_error >= low).all())
    assert bool((found.mean - 5 * found.std_error <= high).all())


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
