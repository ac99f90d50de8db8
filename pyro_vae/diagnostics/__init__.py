"""What can be known of a guide and its model, datum by datum, with the error of every number."""

from pyro_vae.diagnostics.block import LogWeights
from pyro_vae.diagnostics.diagnose import diagnose
from pyro_vae.diagnostics.elbo import elbo
from pyro_vae.diagnostics.iwae import iwae
from pyro_vae.diagnostics.pareto_k import pareto_k, threshold
from pyro_vae.diagnostics.shelf import (
    DIAGNOSTICS,
    DiagnosticWarning,
    Finding,
    NotApplicable,
    Step,
    from_weights,
    register,
    step,
    summarised,
)
from pyro_vae.diagnostics.weights import Stream, log_weights

__all__ = [
    "DIAGNOSTICS",
    "DiagnosticWarning",
    "Finding",
    "LogWeights",
    "NotApplicable",
    "Step",
    "Stream",
    "diagnose",
    "elbo",
    "from_weights",
    "iwae",
    "log_weights",
    "pareto_k",
    "register",
    "step",
    "summarised",
    "threshold",
]
