"""Variational autoencoders in Pyro with any prior and any guide, and a check on every KL."""

from pyro_vae import families, networks
from pyro_vae.vae import VAE

__all__ = ["VAE", "families", "networks"]
__version__ = "0.1.0"
