"""What can be known of a guide and its model, datum by datum, with the error of every number."""

from pyro_vae.diagnostics.active_units import active_units
from pyro_vae.diagnostics.aggregate import aggregate_posterior
from pyro_vae.diagnostics.ais import ais, bdmc
from pyro_vae.diagnostics.block import LogWeights
from pyro_vae.diagnostics.calibration import calibration, pit_by_site
from pyro_vae.diagnostics.collapse import collapse
from pyro_vae.diagnostics.diagnose import diagnose
from pyro_vae.diagnostics.elbo import elbo
from pyro_vae.diagnostics.gaps import gaps
from pyro_vae.diagnostics.iwae import iwae
from pyro_vae.diagnostics.nuts_check import nuts_check
from pyro_vae.diagnostics.pareto_k import pareto_k, threshold
from pyro_vae.diagnostics.predictive import prior_predictive_check, reconstruction_check
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
from pyro_vae.diagnostics.statistics import STATISTICS, statistic
from pyro_vae.diagnostics.weights import Stream, log_weights

__all__ = [
    "DIAGNOSTICS",
    "STATISTICS",
    "DiagnosticWarning",
    "Finding",
    "LogWeights",
    "NotApplicable",
    "Step",
    "Stream",
    "ais",
    "bdmc",
    "diagnose",
    "elbo",
    "active_units",
    "aggregate_posterior",
    "calibration",
    "collapse",
    "from_weights",
    "gaps",
    "iwae",
    "log_weights",
    "nuts_check",
    "pareto_k",
    "pit_by_site",
    "prior_predictive_check",
    "reconstruction_check",
    "register",
    "statistic",
    "step",
    "summarised",
    "threshold",
]
