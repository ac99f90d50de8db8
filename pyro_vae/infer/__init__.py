"""ELBO classes, for `SVI`, `ELBOModule` and torch optimizers alike."""

from pyro_vae.infer.exact_kl import TraceExactKL_ELBO
from pyro_vae.infer.terms import SiteRoute

__all__ = ["SiteRoute", "TraceExactKL_ELBO"]
