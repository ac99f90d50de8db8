"""Variational autoencoders in Pyro with any prior and any guide, and a check on every KL."""

from pyro_vae import datasets, diagnostics, families, infer, kl, networks, plots, saved
from pyro_vae.comparison import compare
from pyro_vae.diagnostics import diagnose
from pyro_vae.hierarchical import HierarchicalVAE
from pyro_vae.imputation import impute
from pyro_vae.inference_data import to_arviz
from pyro_vae.pairings import compare_pairings
from pyro_vae.training import fit
from pyro_vae.vae import VAE

__all__ = [
    "VAE",
    "HierarchicalVAE",
    "compare",
    "compare_pairings",
    "datasets",
    "diagnose",
    "diagnostics",
    "families",
    "fit",
    "impute",
    "infer",
    "kl",
    "networks",
    "plots",
    "saved",
    "to_arviz",
]
__version__ = "0.1.0"
