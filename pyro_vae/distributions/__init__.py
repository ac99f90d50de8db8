"""Densities that torch and Pyro lack or get wrong, as full Pyro distributions."""

from pyro_vae.distributions.beta import Beta, Dirichlet
from pyro_vae.distributions.circular import CircularUniform
from pyro_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.distributions.counts import (
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from pyro_vae.distributions.discretized import DiscretizedLogistic, OrderedLogistic
from pyro_vae.distributions.flow import Coupling, Flow, FlowTransform, from_zuko
from pyro_vae.distributions.hyperbolic import HyperbolicNormal
from pyro_vae.distributions.kumaraswamy import Kumaraswamy
from pyro_vae.distributions.logistic_normal import LogisticNormal
from pyro_vae.distributions.logit_normal import LogitNormal
from pyro_vae.distributions.mixture import MixtureSameFamily
from pyro_vae.distributions.multivariate import LowRankMultivariateNormal, MultivariateStudentT
from pyro_vae.distributions.onto import Onto, onto
from pyro_vae.distributions.positive import (
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    InverseGamma,
    LogNormal,
    Weibull,
)
from pyro_vae.distributions.power_spherical import PowerSpherical
from pyro_vae.distributions.product import Product
from pyro_vae.distributions.projected_normal import ProjectedNormal
from pyro_vae.distributions.real import Cauchy, Gumbel, Logistic, StudentT
from pyro_vae.distributions.relaxed import RelaxedBernoulli, RelaxedOneHotCategorical
from pyro_vae.distributions.spherical_map import SphericalMap
from pyro_vae.distributions.spherical_uniform import SphericalUniform
from pyro_vae.distributions.spline import CircularSpline, Spline
from pyro_vae.distributions.stick_breaking import GEM, StickBreaking
from pyro_vae.distributions.sticks import Sticks
from pyro_vae.distributions.straight_through import (
    OneHotCategorical,
    StraightThroughBernoulli,
    StraightThroughOneHotCategorical,
)
from pyro_vae.distributions.truncated_normal import TruncatedNormal
from pyro_vae.distributions.uniform import Uniform
from pyro_vae.distributions.von_mises import VonMises
from pyro_vae.distributions.von_mises_fisher import VonMisesFisher
from pyro_vae.distributions.wrapped_normal import WrappedNormal

__all__ = [
    "Beta",
    "Cauchy",
    "CircularSpline",
    "CircularUniform",
    "ContinuousBernoulli",
    "Coupling",
    "Dirichlet",
    "DiscretizedLogistic",
    "Exponential",
    "Flow",
    "FlowTransform",
    "GEM",
    "Gamma",
    "Gumbel",
    "HalfCauchy",
    "HalfNormal",
    "HyperbolicNormal",
    "InverseGamma",
    "Kumaraswamy",
    "LogNormal",
    "Logistic",
    "LogisticNormal",
    "LogitNormal",
    "LowRankMultivariateNormal",
    "MixtureSameFamily",
    "MultivariateStudentT",
    "NegativeBinomial",
    "OneHotCategorical",
    "Onto",
    "OrderedLogistic",
    "Poisson",
    "PowerSpherical",
    "Product",
    "ProjectedNormal",
    "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
    "SphericalMap",
    "SphericalUniform",
    "Spline",
    "StickBreaking",
    "Sticks",
    "StraightThroughBernoulli",
    "StraightThroughOneHotCategorical",
    "StudentT",
    "TruncatedNormal",
    "Uniform",
    "VonMises",
    "VonMisesFisher",
    "Weibull",
    "WrappedNormal",
    "ZeroInflatedNegativeBinomial",
    "from_zuko",
    "onto",
]
