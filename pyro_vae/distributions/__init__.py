"""Densities that torch and Pyro lack, as full Pyro distributions."""

from pyro_vae.distributions.logit_normal import LogitNormal

__all__ = ["LogitNormal"]
