"""Small VAEs and data for tests."""

import functools

import pyro
import torch
from torch import nn

from pyro_vae import VAE, networks
from pyro_vae import families as fam
from pyro_vae.families import registry
from pyro_vae.supports import lies_within

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


EVENT = (3, 4)


def names(role):
    """The families of the shelf that play a role."""
    return [name for name, cls in registry.items() if role in cls.roles]


def shaped(name, **options):
    """A member whose draws have shape EVENT, whatever its features count."""
    member = registry[name].example(EVENT, **options)
    return member if member.event_shape == EVENT else registry[name].example(EVENT[0], **options)


def prior_of(name):
    """A prior that is trained too, where it has something to train."""
    return shaped(name, learnable=trains(registry[name]))


def guide_of(name):
    return shaped(name, context=WIDTH)


@functools.cache
def support_of(name):
    return shaped(name).support


def fits(guide, prior):
    return bool(lies_within(support_of(guide), support_of(prior)))


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
