"""The closed forms; importing a module registers what it holds."""

from pyro_vae.kl.closed_forms import (
    continuous_bernoulli as continuous_bernoulli,
)
from pyro_vae.kl.closed_forms import discrete as discrete
from pyro_vae.kl.closed_forms import gaussian as gaussian
from pyro_vae.kl.closed_forms import guides as guides
from pyro_vae.kl.closed_forms import priors as priors
from pyro_vae.kl.closed_forms import pushforward as pushforward

__all__ = ["continuous_bernoulli", "discrete", "gaussian", "guides", "priors", "pushforward"]
