"""KL divergences: exact where possible, refused or infinite where not, and always told which."""

from pyro_vae.kl import axial as axial
from pyro_vae.kl import closed_forms as closed_forms
from pyro_vae.kl import correlated as correlated
from pyro_vae.kl import given as given
from pyro_vae.kl import line_composites as line_composites
from pyro_vae.kl import line_families as line_families
from pyro_vae.kl import line_folded as line_folded
from pyro_vae.kl import line_truncated as line_truncated
from pyro_vae.kl import products as products
from pyro_vae.kl import reductions as reductions
from pyro_vae.kl.audit import audit
from pyro_vae.kl.bounds import Bounds, bounds
from pyro_vae.kl.divergence import NoExactKL, divergence
from pyro_vae.kl.draws import NoEstimate
from pyro_vae.kl.edges import at_edge
from pyro_vae.kl.estimate import Estimate, estimate
from pyro_vae.kl.estimators import EstimateWarning
from pyro_vae.kl.route import Route, route
from pyro_vae.kl.table import register, same_class

__all__ = [
    "Bounds",
    "Estimate",
    "EstimateWarning",
    "NoEstimate",
    "NoExactKL",
    "Route",
    "at_edge",
    "audit",
    "bounds",
    "divergence",
    "estimate",
    "register",
    "route",
    "same_class",
]
