"""Analytic against sampled KL, and Pyro's ELBOs against each other, on any model and guide."""

from pyro_vae.comparison.compare import compare
from pyro_vae.comparison.tables import FINDINGS

__all__ = ["FINDINGS", "compare"]
