"""Small encoders, and VAEs whose VampPrior has the same one."""

import copy

import torch
from torch import nn

from pyro_vae import VAE, networks
from pyro_vae import families as fam

PIXELS, LATENTS, WIDTH = 6, 2, 8


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
