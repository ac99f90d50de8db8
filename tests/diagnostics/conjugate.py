"""Models whose posterior and log p(x) are known, one for each space, with guides that are off."""

import math
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch

from pyro_vae.distributions import VonMisesFisher

F64 = torch.float64


def t(*values):
    return torch.tensor(values, dtype=F64)


class Conjugate(NamedTuple):
    """`prior()`, `likelihood(z)`, `posterior(x)`, and a guide q(x) of the posterior's family."""

    prior: Any
    likelihood: Any
    posterior: Any
    q: Any
    moves: str = "HMC"

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q(x))

    def posterior_guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))

    def log_marginal(self, x):
        """By Bayes' rule, at any z."""
        z = self.posterior(x).sample()
        prior = self.prior().log_prob(z) + self.likelihood(z).log_prob(x)
        return prior - self.posterior(x).log_prob(z)

    def data(self, count, seed=5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.likelihood(self.prior().expand([count]).sample()).sample()


def gamma(x):
    return dist.Gamma(2.0 + x, t(3.0))


def beta(x):
    return dist.Beta(1.5 + x, 2.5 + 6 - x)


def dirichlet(x):
    return dist.Dirichlet(t(1.0, 2.0, 1.5) + x)


MEANS, WEIGHTS = t(-1.0, 0.5, 2.0), t(0.2, 0.5, 0.3)


def categories(x):
    logits = WEIGHTS.log() + dist.Normal(MEANS, 1.0).log_prob(x[:, None])
    return dist.Categorical(logits=logits)


def tilted(x):
    return dist.Categorical(logits=0.3 * categories(x).logits + t(0.3, 0.0, -0.3))


POLE = t(1.0, 0.0, 0.0)


def direction(x):
    natural = 2 * POLE + 3 * x
    length = natural.norm(dim=-1)
    return VonMisesFisher(natural / length[..., None], length)


def off_direction(x):
    natural = 1.5 * POLE + 2 * x + t(0.0, 0.4, 0.0)
    length = natural.norm(dim=-1)
    return VonMisesFisher(natural / length[..., None], length)


CONJUGATES = {
    "line": Conjugate(
        lambda: dist.Normal(t(0.0)[0], 1.0),
        lambda z: dist.Normal(z, 0.8),
        lambda x: dist.Normal(x / 1.64, math.sqrt(0.64 / 1.64)),
        lambda x: dist.Normal(x / 1.64 + 0.2, 0.8),
    ),
    "half-line": Conjugate(
        lambda: dist.Gamma(t(2.0)[0], 2.0),
        lambda z: dist.Poisson(z),
        gamma,
        lambda x: dist.Gamma(1.4 + 0.7 * x, t(1.7)),
    ),
    "interval": Conjugate(
        lambda: dist.Beta(t(1.5)[0], 2.5),
        lambda z: dist.Binomial(6, z),
        beta,
        lambda x: dist.Beta(1.3 + 0.5 * x, 1.2 + 0.5 * (6 - x)),
    ),
    "simplex": Conjugate(
        lambda: dist.Dirichlet(t(1.0, 2.0, 1.5)),
        lambda z: dist.Multinomial(5, z),
        dirichlet,
        lambda x: dist.Dirichlet(t(0.9, 1.5, 1.5) + 0.5 * x),
    ),
    "categories": Conjugate(
        lambda: dist.Categorical(WEIGHTS),
        lambda z: dist.Normal(MEANS[z], 1.0),
        categories,
        tilted,
        "independence Metropolis",
    ),
    "sphere": Conjugate(
        lambda: VonMisesFisher(POLE, t(2.0)[0]),
        lambda z: VonMisesFisher(z, t(3.0)[0]),
        direction,
        off_direction,
        "independence Metropolis",
    ),
}
