"""ELBO classes, for `SVI`, `ELBOModule` and torch optimizers alike."""

from pyro_vae.infer.bound import Bound
from pyro_vae.infer.exact_kl import TraceExactKL_ELBO
from pyro_vae.infer.iwae import TraceIWAE_ELBO
from pyro_vae.infer.stl import TraceSTL_ELBO
from pyro_vae.infer.terms import SiteRoute

__all__ = ["Bound", "SiteRoute", "TraceExactKL_ELBO", "TraceIWAE_ELBO", "TraceSTL_ELBO"]
