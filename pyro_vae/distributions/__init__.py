"""Densities that torch and Pyro lack, as full Pyro distributions."""

from pyro_vae.distributions.logit_normal import LogitNormal
from pyro_vae.distributions.sticks import Sticks

__all__ = ["LogitNormal", "Sticks"]
