"""What can be known of a guide and its model, datum by datum, with the error of every number."""

from pyro_vae.diagnostics.active_units import active_units
from pyro_vae.diagnostics.aggregate import aggregate_posterior
from pyro_vae.diagnostics.block import LogWeights
from pyro_vae.diagnostics.calibration import calibration, pit_by_site
from pyro_vae.diagnostics.collapse import collapse
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
    "active_units",
    "aggregate_posterior",
    "calibration",
    "collapse",
    "from_weights",
    "iwae",
    "log_weights",
    "pareto_k",
    "pit_by_site",
    "register",
    "step",
    "summarised",
    "threshold",
]
