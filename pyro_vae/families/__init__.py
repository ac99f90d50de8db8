"""The shelf: priors, guides and likelihoods, all of one kind.

A family is a module whose `forward(context)` returns a Pyro distribution. New families are
added with `@register` and are found by tests, the comparison and the catalogue.
"""

from pyro_vae.families.count import Poisson
from pyro_vae.families.discrete import Bernoulli, Categorical, OneHotCategorical
from pyro_vae.families.family import Family, Role, fitting, fitting_data, register, registry
from pyro_vae.families.interval import Beta, ContinuousBernoulli, LogitNormal
from pyro_vae.families.parameters import Parameter
from pyro_vae.families.positive import Gamma
from pyro_vae.families.real import FullNormal, Laplace, Normal, StudentT
from pyro_vae.families.simplex import Dirichlet
from pyro_vae.families.transported import Transported

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "Dirichlet",
    "Family",
    "FullNormal",
    "Gamma",
    "Laplace",
    "LogitNormal",
    "Normal",
    "OneHotCategorical",
    "Parameter",
    "Poisson",
    "Role",
    "StudentT",
    "Transported",
    "fitting",
    "fitting_data",
    "register",
    "registry",
]
