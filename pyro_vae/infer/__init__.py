"""ELBO classes, for `SVI`, `ELBOModule` and torch optimizers alike, and their capture."""

from pyro_vae.infer.bound import Bound
from pyro_vae.infer.capturing import CapturedELBO, GraphInfo, NotCapturable, capture
from pyro_vae.infer.exact_kl import TraceExactKL_ELBO
from pyro_vae.infer.iwae import TraceIWAE_ELBO
from pyro_vae.infer.programs import enumerated, given, summed
from pyro_vae.infer.stl import TraceSTL_ELBO
from pyro_vae.infer.terms import SiteRoute

__all__ = [
    "Bound",
    "CapturedELBO",
    "GraphInfo",
    "NotCapturable",
    "SiteRoute",
    "TraceExactKL_ELBO",
    "TraceIWAE_ELBO",
    "TraceSTL_ELBO",
    "capture",
    "enumerated",
    "given",
    "summed",
]
