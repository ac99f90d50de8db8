"""The shelf: priors, guides and likelihoods, all of one kind.

A family is a module whose `forward(context)` returns a Pyro distribution. New families are
added with `@register` and are found by tests, the comparison and the catalogue.
"""

from pyro_vae.families.circle import CircularUniform, VonMises, WrappedNormal
from pyro_vae.families.count import (
    NegativeBinomial,
    Poisson,
    WithOffset,
    ZeroInflatedNegativeBinomial,
)
from pyro_vae.families.discrete import (
    Bernoulli,
    Categorical,
    OneHotCategorical,
    StraightThroughBernoulli,
    StraightThroughOneHotCategorical,
)
from pyro_vae.families.family import Family, Role, State, fitting, fitting_data, register, registry
from pyro_vae.families.flow import MAF, NCSF, NSF, RealNVP
from pyro_vae.families.flow_carried import Flow, Pushed
from pyro_vae.families.grey import DiscretizedLogistic, DiscretizedLogisticMixture
from pyro_vae.families.hyperbolic import HyperbolicNormal
from pyro_vae.families.interval import (
    Beta,
    ContinuousBernoulli,
    Kumaraswamy,
    LogitNormal,
    TruncatedNormal,
    Uniform,
)
from pyro_vae.families.mixture import Mixture
from pyro_vae.families.multivariate import FullNormal, LowRankNormal, MultivariateStudentT
from pyro_vae.families.ordinal import Ordinal
from pyro_vae.families.parameters import Parameter
from pyro_vae.families.pixels import PerPixel
from pyro_vae.families.positive import (
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    InverseGamma,
    LogNormal,
    Weibull,
)
from pyro_vae.families.product import Product
from pyro_vae.families.projected import ProjectedNormal
from pyro_vae.families.real import Cauchy, Gumbel, Laplace, Logistic, Normal, StudentT
from pyro_vae.families.relaxed import RelaxedBernoulli, RelaxedOneHotCategorical
from pyro_vae.families.simplex import (
    GEM,
    Dirichlet,
    LogisticNormal,
    StickBreaking,
)
from pyro_vae.families.sphere import PowerSpherical, SphericalUniform, VonMisesFisher
from pyro_vae.families.transported import Transported
from pyro_vae.families.vamp import VampPrior

__all__ = [
    "GEM",
    "MAF",
    "NCSF",
    "NSF",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Cauchy",
    "CircularUniform",
    "ContinuousBernoulli",
    "Dirichlet",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Exponential",
    "Family",
    "Flow",
    "FullNormal",
    "Gamma",
    "Gumbel",
    "HalfCauchy",
    "HalfNormal",
    "HyperbolicNormal",
    "InverseGamma",
    "Kumaraswamy",
    "Laplace",
    "LogNormal",
    "Logistic",
    "LogisticNormal",
    "LogitNormal",
    "LowRankNormal",
    "Mixture",
    "MultivariateStudentT",
    "NegativeBinomial",
    "Normal",
    "OneHotCategorical",
    "Ordinal",
    "Parameter",
    "PerPixel",
    "Poisson",
    "PowerSpherical",
    "Product",
    "ProjectedNormal",
    "Pushed",
    "RealNVP",
    "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
    "Role",
    "SphericalUniform",
    "State",
    "StickBreaking",
    "StraightThroughBernoulli",
    "StraightThroughOneHotCategorical",
    "StudentT",
    "Transported",
    "TruncatedNormal",
    "Uniform",
    "VampPrior",
    "VonMises",
    "VonMisesFisher",
    "Weibull",
    "WithOffset",
    "WrappedNormal",
    "ZeroInflatedNegativeBinomial",
    "fitting",
    "fitting_data",
    "register",
    "registry",
]
