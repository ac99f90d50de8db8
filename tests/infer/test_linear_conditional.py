"""A linear-Gaussian p(x | z, y), whose p(x | y) and p(z | x, y) are known, under every ELBO.

    z | y ~ N(G y, S),   x | z, y ~ N(W z + B y + b, Psi),   S and Psi diagonal

With G = 0 and S = I the prior looks at nothing, and only encoder and decoder see y.
"""

import numpy as np
import pytest
import torch
from oracle import example
from paired import mean_is
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae import VAE
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, TraceSTL_ELBO

pytestmark = pytest.mark.usefixtures("float64")
priors = pytest.mark.parametrize("prior", ["p(z)", "p(z|y)"])
P, D, C = 5, 2, 3


def randn(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


MODEL, OF_Y = example(P, D), randn(P, C, seed=1)
X, Y = 2 * randn(30, P, seed=2), randn(30, C, seed=3)


def prior_of(prior):
    """G and S."""
    if prior == "p(z)":
        return torch.zeros(D, C, dtype=torch.float64), torch.ones(D, dtype=torch.float64)
    return randn(D, C, seed=4), torch.tensor([0.3, 1.7], dtype=torch.float64)


def truth(prior, x=X, y=Y):
    """log p(x|y); and p(z|x,y), as a linear map of (x, y), a bias and a covariance."""
    slope, spread = prior_of(prior)
    w, noise = MODEL.weight, MODEL.variance
    covariance = torch.linalg.inv((1 / spread).diag() + (w.T / noise) @ w)
    gain = covariance @ (w.T / noise)
    of_y = covariance @ (slope / spread[:, None]) - gain @ OF_Y
    marginal = MultivariateNormal(
        y @ (w @ slope + OF_Y).T + MODEL.bias, (w * spread) @ w.T + noise.diag()
    )
    return marginal.log_prob(x), torch.cat([gain, of_y], 1), -gain @ MODEL.bias, covariance


def placed(family, weight, bias):
    with torch.no_grad():
        family.head.weight.copy_(weight)
        family.head.bias.copy_(bias)
    return family


def vae_of(prior, wrong=0.0):
    """The model, and a guide that is its posterior if nothing is wrong."""
    slope, spread = prior_of(prior)
    _, weight, bias, covariance = truth(prior)
    root = torch.linalg.cholesky(covariance) * (1 + wrong)
    conditional = placed(fam.Normal(D, C, scale=spread.sqrt()), slope, torch.zeros(D))
    decoder = fam.Normal(P, D + C, scale=MODEL.variance.sqrt())
    return VAE(
        prior=fam.Normal(D) if prior == "p(z)" else conditional,
        encoder=placed(fam.FullNormal(D, P + C, scale_tril=root), weight, bias + wrong),
        decoder=placed(decoder, torch.cat([MODEL.weight, OF_Y], 1), MODEL.bias),
    )


def bound(prior, wrong):
    log_p, _, _, covariance = truth(prior)
    zero = torch.zeros(D, dtype=torch.float64)
    q = MultivariateNormal(zero + wrong, covariance * (1 + wrong) ** 2)
    return log_p - kl_divergence(q, MultivariateNormal(zero, covariance))


def loss(elbo, vae, y=Y):
    with torch.no_grad():
        return elbo.loss(vae.model, vae.guide, X, y=y)


@priors
def test_the_oracle_is_bayes_theorem(prior):
    log_p, weight, bias, covariance = truth(prior)
    slope, spread = prior_of(prior)
    z = randn(30, D, seed=9)
    log_z = torch.distributions.Normal(Y @ slope.T, spread.sqrt()).log_prob(z).sum(-1)
    mean = z @ MODEL.weight.T + Y @ OF_Y.T + MODEL.bias
    log_x = torch.distributions.Normal(mean, MODEL.variance.sqrt()).log_prob(X).sum(-1)
    posterior = MultivariateNormal(torch.cat([X, Y], 1) @ weight.T + bias, covariance)
    torch.testing.assert_close(log_z + log_x - posterior.log_prob(z), log_p)


@priors
def test_at_the_posterior_every_call_is_the_marginal(prior):
    vae, log_p = vae_of(prior), truth(prior)[0]
    elbos = [TraceIWAE_ELBO(4, gradient) for gradient in ("standard", "stl", "dreg")]
    for elbo in (Trace_ELBO(), TraceSTL_ELBO(), *elbos):
        assert loss(elbo, vae) == pytest.approx(-log_p.sum().item(), rel=1e-10)
    by_datum = TraceIWAE_ELBO(4).terms(vae.model, vae.guide, X, y=Y)["elbo"]
    torch.testing.assert_close(by_datum, log_p)
    # it can fail: another y is another marginal
    assert loss(Trace_ELBO(), vae, y=Y.roll(1, 0)) > -log_p.sum().item() + 1


@priors
@pytest.mark.parametrize("wrong", [0.0, 0.3])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceExactKL_ELBO])
def test_every_elbo_is_the_closed_form(elbo, wrong, prior):
    vae = vae_of(prior, wrong)
    elbo = elbo(10, vectorize_particles=True, max_plate_nesting=1)
    found = np.array([[-loss(elbo, vae)] for _ in range(40)])
    assert mean_is(found, bound(prior, wrong).sum().item(), scale=100)


@priors
def test_the_exact_kl_looks_at_the_condition(prior):
    vae = vae_of(prior, 0.3)
    elbo = TraceExactKL_ELBO(strict=True)
    found = elbo.terms(vae.model, vae.guide, X, y=Y)["kl"]
    slope, spread = prior_of(prior)
    _, weight, bias, covariance = truth(prior)
    q = MultivariateNormal(torch.cat([X, Y], 1) @ weight.T + bias + 0.3, covariance * 1.3**2)
    torch.testing.assert_close(
        found, kl_divergence(q, MultivariateNormal(Y @ slope.T, spread.diag()))
    )


@priors
def test_particles_lie_between_the_bound_and_the_marginal(prior):
    vae = vae_of(prior, 0.3)
    elbo = TraceIWAE_ELBO(8, vectorize_particles=True, max_plate_nesting=1)
    found = np.array([-loss(elbo, vae) for _ in range(60)])
    error = found.std(ddof=1) / len(found) ** 0.5
    assert bound(prior, 0.3).sum() < found.mean() - 5 * error
    assert found.mean() < truth(prior)[0].sum() + 5 * error
