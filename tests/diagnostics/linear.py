"""The linear-Gaussian oracle as Pyro programs, with guides good and bad, and what is true."""

import math

import pyro
import pyro.distributions as dist
import torch
from oracle import example

F64 = torch.float64
ORACLE = example()


def data(count, seed=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ORACLE.sample(count)


def model(x):
    with pyro.plate("data", len(x)):
        loc = torch.zeros(ORACLE.latents, dtype=F64)
        z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
        mean = z @ ORACLE.weight.T + ORACLE.bias
        pyro.sample("x", dist.Normal(mean, ORACLE.variance.sqrt()).to_event(1), obs=x)


class Gaussian:
    """A guide N(mean(x), covariance); the covariance is the same for every datum."""

    def __init__(self, mean, covariance):
        self.mean, self.covariance = mean, covariance

    def __call__(self, x):
        off = self.covariance - self.covariance.diagonal().diag()
        with pyro.plate("data", len(x)):
            if bool((off == 0).all()):
                scale = self.covariance.diagonal().sqrt()
                pyro.sample("z", dist.Normal(self.mean(x), scale).to_event(1))
            else:
                pyro.sample("z", dist.MultivariateNormal(self.mean(x), self.covariance))

    # ------------------------------------------------------------------------- closed forms
    def elbo(self, x):
        return ORACLE.elbo(x, self.mean(x), self.covariance)

    def kl_to_prior(self, x):
        return ORACLE.kl_to_prior(self.mean(x), self.covariance)

    def gap(self, x):
        return ORACLE.kl_to_posterior(x, self.mean(x), self.covariance)

    def k(self):
        """The tail index of the weights where means are equal: max(0, 1 - 1 / lambda_max)."""
        root = torch.linalg.inv(torch.linalg.cholesky(self.covariance))
        largest = torch.linalg.eigvalsh(root @ ORACLE.covariance @ root.T).max().item()
        return 1 - 1 / largest if largest > 1 else -2 / ORACLE.latents

    def relative_ess(self):
        """1 / E_q[(p / q)^2] where means are equal; 0 if that is infinite."""
        both = 2 * ORACLE.precision - torch.linalg.inv(self.covariance)
        if torch.linalg.eigvalsh(both).min() <= 0:
            return 0.0
        logs = [torch.linalg.slogdet(a).logabsdet.item() for a in (ORACLE.precision, both)]
        narrow = -torch.linalg.slogdet(self.covariance).logabsdet.item()
        return math.exp(-(logs[0] - narrow / 2 - logs[1] / 2))


OPTIMUM = (1 / ORACLE.precision.diagonal()).diag()
EXACT = Gaussian(ORACLE.mean, ORACLE.covariance)
MEAN_FIELD = Gaussian(ORACLE.mean, OPTIMUM)
NARROW = Gaussian(ORACLE.mean, OPTIMUM / 4)
WIDE = Gaussian(ORACLE.mean, OPTIMUM * 2.25)
BIASED = Gaussian(lambda x: ORACLE.mean(x) + OPTIMUM.diagonal().sqrt() / 2, ORACLE.covariance)
SHUFFLED = Gaussian(lambda x: ORACLE.mean(x.flip(0)), ORACLE.covariance)
PRIOR = Gaussian(lambda x: torch.zeros(len(x), ORACLE.latents, dtype=F64), torch.eye(2, dtype=F64))

GUIDES = {
    "exact": EXACT,
    "mean-field": MEAN_FIELD,
    "narrow": NARROW,
    "wide": WIDE,
    "biased": BIASED,
    "prior": PRIOR,
}
