"""What can be known of a guide and its model, datum by datum, with the error of every number."""

from pyro_vae.diagnostics.active_units import active_units
from pyro_vae.diagnostics.aggregate import aggregate_posterior
from pyro_vae.diagnostics.calibration import calibration, pit_by_site
from pyro_vae.diagnostics.collapse import collapse
from pyro_vae.diagnostics.pareto_k import pareto_k, threshold
from pyro_vae.diagnostics.shelf import (
    DIAGNOSTICS,
    Finding,
    Step,
    from_weights,
    register,
    step,
    summarised,
)
from pyro_vae.diagnostics.weights import LogWeights, Stream, log_weights

__all__ = [
    "DIAGNOSTICS",
    "Finding",
    "LogWeights",
    "Step",
    "Stream",
    "active_units",
    "aggregate_posterior",
    "calibration",
    "collapse",
    "from_weights",
    "log_weights",
    "pareto_k",
    "pit_by_site",
    "register",
    "step",
    "summarised",
    "threshold",
]
