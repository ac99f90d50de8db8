"""A VAE of our families on the one model whose truth is known: model, guide, ELBO and training."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracle import LinearGaussian, example, factor_analysis, ppca
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from scipy import stats
from torch import nn

from pyro_vae import VAE
from pyro_vae import families as fam

pytestmark = pytest.mark.usefixtures("float64")


# ---------------------------------------------------------------------- the oracle itself


def test_oracle_marginal_is_that_of_scipy():
    model = example()
    x = model.sample(20)
    truth = stats.multivariate_normal(model.bias.numpy(), model.marginal_covariance.numpy())
    np.testing.assert_allclose(model.log_marginal(x).numpy(), truth.logpdf(x.numpy()), rtol=1e-12)


def test_oracle_posterior_is_the_conditional_of_the_joint():
    model = example()
    x, w = model.sample(20), model.weight
    inverse = torch.linalg.inv(model.marginal_covariance)
    torch.testing.assert_close(model.mean(x), (x - model.bias) @ inverse @ w)
    torch.testing.assert_close(model.covariance, torch.eye(2) - w.T @ inverse @ w)


def test_oracle_elbo_is_the_expectation_it_stands_for():
    model, count = example(), 100_000
    x, mean, covariance = model.sample(1), torch.tensor([[0.3, -0.2]]), 0.4 * torch.eye(2)
    q = torch.distributions.MultivariateNormal(mean[0], covariance)
    z = q.sample((count,))
    log_x = torch.distributions.Normal(z @ model.weight.T + model.bias, model.variance.sqrt())
    log_z = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    terms = log_x.log_prob(x).sum(-1) + log_z - q.log_prob(z)
    error = 5 * terms.std() / math.sqrt(count)
    assert abs(terms.mean() - model.elbo(x, mean, covariance)) < error


def test_oracle_maximum_likelihoods_are_maxima():
    x = example(8, seed=8).sample(500)
    for fitted, free in ((ppca(x, 2), False), (factor_analysis(x, 2), True)):
        parameters = [t.clone().requires_grad_() for t in fitted]
        variance = parameters[2] if free else parameters[2].mean().expand(8)
        LinearGaussian(parameters[0], parameters[1], variance).log_marginal(x).mean().backward()
        assert all(p.grad.abs().max() < 1e-6 for p in parameters)
    assert factor_analysis(x, 2).log_marginal(x).sum() > ppca(x, 2).log_marginal(x).sum()


# ---------------------------------------------------------------------- guides of known bound


def exact(model):
    return model.gain, -model.gain @ model.bias, model.covariance


def mean_field_optimum(model):
    return model.gain, -model.gain @ model.bias, (1 / model.precision.diagonal()).diag()


def shifted(model):
    weight, bias, covariance = mean_field_optimum(model)
    return weight, bias + 0.5, 2.25 * covariance


def too_narrow(model):
    weight, bias, covariance = mean_field_optimum(model)
    return weight, bias, 0.25 * covariance


def the_prior(model):
    return torch.zeros_like(model.gain), torch.zeros(model.latents), torch.eye(model.latents)


GUIDES = [exact, mean_field_optimum, shifted, too_narrow, the_prior]
guides = pytest.mark.parametrize("guide", GUIDES, ids=lambda g: g.__name__)


def placed(family, weight, bias):
    """The family with a linear head of known weights."""
    with torch.no_grad():
        family.head.weight.copy_(weight)
        family.head.bias.copy_(bias)
    return family


def linear_vae(model, weight, bias, covariance, prior=None, **options):
    pixels, latents = model.weight.shape
    if torch.equal(covariance, covariance.diagonal().diag()):
        q = fam.Normal(latents, context=pixels, scale=covariance.diagonal().sqrt())
    else:
        root = torch.linalg.cholesky(covariance)
        q = fam.FullNormal(latents, context=pixels, scale_tril=root)
    p = fam.Normal(pixels, latents, learnable=("scale",), scale=model.variance.sqrt())
    return VAE(
        prior=fam.Normal(latents) if prior is None else prior,
        encoder=placed(q, weight, bias),
        decoder=placed(p, model.weight, model.bias),
        **options,
    )


def estimate(vae, x, elbo, repeats=40):
    losses = torch.tensor([elbo.loss(vae.model, vae.guide, x) for _ in range(repeats)])
    return -losses.mean().item(), losses.std().item() / math.sqrt(repeats)


def assert_is_the_bound(found, std_error, truth):
    # five standard errors: one honest run in two million fails
    assert abs(found - truth) < 5 * std_error + 1e-9 * (1 + abs(truth))


@guides
def test_marginal_is_bound_plus_divergence(guide):
    model = example()
    x = model.sample(50)
    weight, bias, covariance = guide(model)
    mean = x @ weight.T + bias
    total = model.elbo(x, mean, covariance) + model.kl_to_posterior(x, mean, covariance)
    torch.testing.assert_close(total, model.log_marginal(x), rtol=1e-10, atol=1e-10)
    gap = model.kl_to_posterior(x, mean, covariance)
    assert gap.abs().max() < 1e-12 if guide is exact else gap.min() > 1e-3


@guides
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_elbo_of_a_vae_is_the_closed_form(guide, elbo):
    model = example()
    x = model.sample(50)
    weight, bias, covariance = guide(model)
    vae = linear_vae(model, weight, bias, covariance)
    found = estimate(vae, x, elbo(num_particles=20, vectorize_particles=True))
    truth = model.elbo(x, x @ weight.T + bias, covariance).sum().item()
    assert_is_the_bound(*found, truth)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_elbo_with_a_full_prior_is_the_closed_form(elbo):
    model = example()
    x = model.sample(50)
    vae = linear_vae(model, *exact(model), prior=fam.FullNormal(2))
    found = estimate(vae, x, elbo(num_particles=20, vectorize_particles=True))
    assert_is_the_bound(*found, model.log_marginal(x).sum().item())


def test_elbo_of_plain_functions_is_the_closed_form():
    model = example()
    x = model.sample(50)
    _, _, covariance = shifted(model)
    spread, noise = covariance.diagonal().sqrt(), model.variance.sqrt()
    vae = VAE(
        prior=lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1),
        encoder=lambda x: dist.Normal(model.mean(x) + 0.5, spread).to_event(1),
        decoder=lambda z: dist.Normal(z @ model.weight.T + model.bias, noise).to_event(1),
    )
    found = estimate(vae, x, TraceMeanField_ELBO(num_particles=20, vectorize_particles=True))
    assert_is_the_bound(*found, model.elbo(x, model.mean(x) + 0.5, covariance).sum().item())


def test_the_exact_posterior_has_no_noise_and_gives_the_marginal():
    model = example()
    x = model.sample(50)
    found, std_error = estimate(linear_vae(model, *exact(model)), x, Trace_ELBO(), repeats=5)
    assert std_error < 1e-10
    assert found == pytest.approx(model.log_marginal(x).sum().item(), rel=1e-10)


def test_minibatches_estimate_the_whole():
    model = example()
    x = model.sample(60)
    weight, bias, covariance = shifted(model)
    vae = linear_vae(model, weight, bias, covariance, data_size=60)
    elbo = Trace_ELBO(num_particles=20, vectorize_particles=True)
    found = [estimate(vae, batch, elbo, repeats=20) for batch in x.split(15)]
    truth = model.elbo(x, x @ weight.T + bias, covariance).sum().item()
    std_error = math.sqrt(sum(error**2 for _, error in found)) / len(found)
    assert_is_the_bound(sum(value for value, _ in found) / len(found), std_error, truth)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda v: v.guide.encoder.z.head.bias.data.add_(0.05),
        lambda v: v.guide.encoder.z.scale.mul_(1.1),
        lambda v: v.model.decoder.head.weight.data.mul_(1.05),
        lambda v: v.model.prior.z.scale.mul_(0.5),
    ],
    ids=["guide mean", "guide spread", "decoder", "prior"],
)
def test_a_small_fault_is_caught(wrong):
    """What the tests above rest on: they can fail."""
    model = example()
    x = model.sample(50)
    weight, bias, covariance = mean_field_optimum(model)
    vae = linear_vae(model, weight, bias, covariance)
    with torch.no_grad():
        wrong(vae)
    found = estimate(vae, x, Trace_ELBO(num_particles=20, vectorize_particles=True), repeats=100)
    truth = model.elbo(x, x @ weight.T + bias, covariance).sum().item()
    with pytest.raises(AssertionError):
        assert_is_the_bound(*found, truth)


# ---------------------------------------------------------------------- training to the optimum

STEPS = 800
FIRST, LAST = 0.1, 0.001  # the learning rate
DECAY = (LAST / FIRST) ** (1 / STEPS)


def many_particles(elbo):
    return elbo(num_particles=4, vectorize_particles=True, max_plate_nesting=1)


class Isotropic(nn.Module):
    """A decoder of the user's own: one scale for all pixels."""

    def __init__(self, pixels, latents):
        super().__init__()
        self.linear = nn.Linear(latents, pixels)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, z):
        return dist.Normal(self.linear(z), self.log_scale.exp()).to_event(1)


def by_svi(vae, x, elbo):
    decaying = pyro.optim.ClippedAdam({"lr": FIRST, "lrd": DECAY})
    engine = SVI(vae.model, vae.guide, decaying, elbo)
    for _ in range(STEPS):
        engine.step(x)


def by_torch(vae, x, elbo):
    loss = elbo(vae.model, vae.guide)
    optimizer = torch.optim.Adam(loss.parameters(), lr=FIRST)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
        schedule.step()


def assert_optimal(fitted, vae, x, best):
    shortfall = (best.log_marginal(x) - fitted.log_marginal(x)).mean().item()
    assert 0 <= shortfall < 1e-3
    # and the guide has become the posterior
    with torch.no_grad():
        q = vae.guide.encoder.z(x)
    full = isinstance(q, dist.MultivariateNormal)
    covariance = q.covariance_matrix[0] if full else q.variance[0].diag()
    assert fitted.kl_to_posterior(x, q.mean, covariance).mean() < 5e-3


def test_trained_by_svi_it_reaches_probabilistic_pca():
    truth = example(isotropic=True)
    # apart, so that the two directions are soon told from each other
    x = truth._replace(weight=truth.weight * torch.tensor([1.5, 0.75])).sample(400)
    decoder = Isotropic(5, 2)
    vae = VAE(fam.Normal(2), fam.Normal(2, context=5, learnable=("scale",)), decoder)
    # at the optimum of this model the posterior is a mean field, once the decoder has turned to it
    by_svi(vae, x, many_particles(TraceMeanField_ELBO))
    variance = (2 * decoder.log_scale.detach()).exp().expand(5)
    linear = decoder.linear
    fitted = LinearGaussian(linear.weight.detach(), linear.bias.detach(), variance)
    assert_optimal(fitted, vae, x, ppca(x, 2))


def test_trained_by_torch_it_reaches_factor_analysis():
    x = example(8, seed=8).sample(400)
    decoder = fam.Normal(8, context=2, learnable=("scale",))
    guide = fam.FullNormal(2, context=8, learnable=("scale_tril",))
    vae = VAE(fam.FullNormal(2), guide, decoder)
    by_torch(vae, x, many_particles(TraceMeanField_ELBO))
    head, scale = decoder.head, decoder.values(torch.zeros(1, 2))["scale"].detach()
    fitted = LinearGaussian(head.weight.detach(), head.bias.detach(), scale.square())
    assert_optimal(fitted, vae, x, factor_analysis(x, 2))
