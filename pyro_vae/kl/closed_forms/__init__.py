"""The closed forms; importing a module registers what it holds."""

from pyro_vae.kl.closed_forms import circle as circle
from pyro_vae.kl.closed_forms import concentration as concentration
from pyro_vae.kl.closed_forms import concrete as concrete
from pyro_vae.kl.closed_forms import continuous_bernoulli as continuous_bernoulli
from pyro_vae.kl.closed_forms import counts as counts
from pyro_vae.kl.closed_forms import discrete as discrete
from pyro_vae.kl.closed_forms import frullani as frullani
from pyro_vae.kl.closed_forms import gaussian as gaussian
from pyro_vae.kl.closed_forms import guides as guides
from pyro_vae.kl.closed_forms import location_scale as location_scale
from pyro_vae.kl.closed_forms import matrices as matrices
from pyro_vae.kl.closed_forms import multivariate_student as multivariate_student
from pyro_vae.kl.closed_forms import priors as priors
from pyro_vae.kl.closed_forms import projected_normal as projected_normal
from pyro_vae.kl.closed_forms import pushforward as pushforward
from pyro_vae.kl.closed_forms import spheres as spheres
from pyro_vae.kl.closed_forms import truncated_normal as truncated_normal
from pyro_vae.kl.closed_forms import uniform as uniform
from pyro_vae.kl.closed_forms import von_mises as von_mises

__all__ = [
    "circle",
    "concentration",
    "concrete",
    "continuous_bernoulli",
    "counts",
    "discrete",
    "frullani",
    "gaussian",
    "guides",
    "location_scale",
    "matrices",
    "multivariate_student",
    "priors",
    "projected_normal",
    "pushforward",
    "spheres",
    "truncated_normal",
    "uniform",
    "von_mises",
]
