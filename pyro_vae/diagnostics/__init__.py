"""What can be known of a guide and its model, datum by datum, with the error of every number."""

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
    "from_weights",
    "log_weights",
    "pareto_k",
    "register",
    "step",
    "summarised",
    "threshold",
]
