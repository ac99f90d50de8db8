"""A VAE on the sphere, trained on digits: its analytic and its sampled KL are one."""

import math

import pytest
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_vae import VAE, compare, datasets, fit, networks
from pyro_vae import families as fam

X = datasets.load("digits").train[:600]


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("prior", [fam.SphericalUniform(5), fam.VonMisesFisher(5, learnable=True)])
def test_both_elbos_train_a_von_mises_fisher_guide_and_agree(elbo, prior):
    vae = VAE(
        prior=prior,
        encoder=nn.Sequential(networks.MLP(64, 32), fam.VonMisesFisher(5, context=32)),
        decoder=nn.Sequential(networks.MLP(5, 32), fam.Bernoulli(64, context=32)),
    )
    history = fit(vae, X, objective=elbo(), epochs=12, batch_size=50, seed=1, progress=False)
    assert history["elbo"].values[-1] > history["elbo"].values[0] + 1
    site = compare(vae.model, vae.guide, X, num_particles=100).isel(site=0)
    assert site.kl_route == "closed"
    assert site.mean_field_route == "analytic"
    assert site.kl_analytic_total > 0.1 * len(X)  # the guide has learned to look
    for name in ("kl_z_score_total", "kl_mean_field_z_score_total"):
        assert math.isfinite(site[name])
        assert abs(site[name]) < 4
