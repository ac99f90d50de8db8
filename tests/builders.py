"""Small VAEs and data for tests."""

import pyro
import torch
from torch import nn

from pyro_vae import VAE, networks
from pyro_vae import families as fam

WIDTH = 8


def net(features, *, width=WIDTH):
    # Tanh rather than ReLU: a unit that is dead on a small batch would hide nothing
    return networks.MLP(features, width, activation=nn.Tanh)


def small_vae(prior=None, guide=None, likelihood=None, *, latents=2, pixels=6, **options):
    """A VAE whose encoder and decoder have one hidden layer of `WIDTH` units."""
    prior = fam.Normal(latents) if prior is None else prior
    guide = fam.Normal(latents, context=WIDTH) if guide is None else guide
    likelihood = fam.Bernoulli(pixels, context=WIDTH) if likelihood is None else likelihood
    return VAE(
        prior=prior,
        encoder=nn.Sequential(*likelihood.scaling(), net(likelihood.event_shape), guide),
        decoder=nn.Sequential(net(prior.event_shape), likelihood),
        **options,
    )


def trains(cls):
    """Whether a family has anything to train: a uniform prior has nothing."""
    return "learnable" in cls.states()


def binary(count=10, pixels=6):
    return torch.bernoulli(torch.full((count, pixels), 0.4))


def copies(module):
    """The values of all parameters, by name, now."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def unmoved(module, before):
    """The names of the parameters that equal what they were `before`."""
    return [name for name, p in module.named_parameters() if torch.equal(p, before[name])]


def svi(vae, elbo, lr=0.01):
    return pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": lr}), elbo)


def train(vae, elbo, *args, steps=3, lr=0.01, **kwargs):
    """A few steps of torch's Adam on `ELBOModule`; returns the losses."""
    module = elbo(vae.model, vae.guide)
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = module(*args, **kwargs)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
