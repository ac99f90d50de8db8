"""Pictures of results, drawn on figures of their own: no window, no global state of pyplot.

`heatmap` draws a comparison of pairings. `PICTURES` holds one picture for each diagnostic, a
function of that diagnostic's Dataset alone, and `pictures` draws those of a diagnosis. The others
draw images: `samples`, `reconstructions`, `traversals` and `manifold`, of any model and guide.
"""

from pyro_vae.plots.canvas import canvas, png, require_matplotlib
from pyro_vae.plots.heatmap import FALLBACK, REFUSED, heatmap
from pyro_vae.plots.images import NoSuchPicture, manifold, reconstructions, samples, traversals
from pyro_vae.plots.posterior import (
    active_units,
    aggregate_posterior,
    calibration,
    collapse,
)
from pyro_vae.plots.predictive import prior_predictive_check, reconstruction_check
from pyro_vae.plots.shelf import PICTURES, pictures, register
from pyro_vae.plots.truth import ais, bdmc, gaps, nuts_check
from pyro_vae.plots.weights import elbo, iwae, pareto_k

__all__ = [
    "FALLBACK",
    "PICTURES",
    "REFUSED",
    "NoSuchPicture",
    "active_units",
    "aggregate_posterior",
    "ais",
    "bdmc",
    "calibration",
    "canvas",
    "collapse",
    "elbo",
    "gaps",
    "heatmap",
    "iwae",
    "manifold",
    "nuts_check",
    "pareto_k",
    "pictures",
    "png",
    "prior_predictive_check",
    "reconstruction_check",
    "reconstructions",
    "register",
    "require_matplotlib",
    "samples",
    "traversals",
]
