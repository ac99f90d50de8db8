# %% [markdown]
# # 3. The KL exactly, or by a sample: which is better?
#
# An ELBO needs KL(q(z|x) || p(z)). Its value can come from a **closed form**, from a
# **quadrature** (a deterministic rule, as good as exact, with an estimate of its error), or from
# **samples**: the mean of log q(z) - log p(z) over draws of q. All three have one expectation.
# What differs is the noise, and there are two noises: that of the loss, which is seen, and that
# of the gradient, which is what training feels.

# %%
import math
import os

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO

from pyro_vae import compare, kl
from pyro_vae.infer import TraceExactKL_ELBO

SMOKE = "SMOKE" in os.environ  # a quick run, for the tests
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
DRAWS = 50 if SMOKE else 500

# %% [markdown]
# ## One guide, five priors
#
# `kl.route` tells by which way a KL can be had before anything is computed, `kl.divergence`
# takes it, and `kl.estimate` samples, with a standard error.

# %%
ZERO, ONE = torch.zeros(2), torch.ones(2)
HUMPS = dist.Normal(torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]), 0.5)
CLUSTERS = dist.MultivariateNormal(
    torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.tensor([[0.5, 0.3], [0.3, 0.5]])
)
priors = {
    "Gaussian": dist.Normal(ZERO, 1.0).to_event(1),
    "Laplace": dist.Laplace(ZERO, 1.0).to_event(1),
    "Student-t": dist.StudentT(5.0, ZERO, 1.0).to_event(1),
    "two humps an axis": dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2, 2)), HUMPS
    ).to_event(1),
    "tilted clusters": dist.MixtureSameFamily(dist.Categorical(ONE), CLUSTERS),
}
q = dist.Normal(torch.tensor([0.5, -0.3]), torch.tensor([0.7, 0.4])).to_event(1)

print(f"{'prior':20}{'route':12}{'KL':>12}{'its error':>11}{'sampled':>20}")
for name, p in priors.items():
    route, sampled = kl.route(q, p), kl.estimate(q, p, num_samples=DRAWS)
    exact = "none", ""
    if route.kind != "sampled":
        value, error = kl.divergence(q, p, with_error=True)
        exact = f"{value:.8f}", f"{error:.0e}"
    print(
        f"{name:20}{route.kind:12}{exact[0]:>12}{exact[1]:>11}"
        f"{sampled.mean:12.3f} +- {sampled.std_error:.3f}"
    )

# %% [markdown]
# The first four are known to all digits shown. For the last nobody has a form, it does not fall
# apart into dimensions, and what is left is to sample it: the table says so.
#
# ## The noise of the loss, and that of the gradient
#
# Now a model, x|z ~ N(z, s^2 I), and two ELBOs: `Trace_ELBO` samples the KL, `TraceExactKL_ELBO`
# takes it exactly where it can, and records in `routes` what it did. `compare` calls both with
# the same draws.

# %%
x, NOISE = torch.tensor([[1.5, -0.5]]), 0.8


def program(prior):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior.expand([len(x)]))
            pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor([0.5, -0.3]))
        scale = pyro.param("scale", torch.tensor([0.7, 0.4]))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), scale).to_event(1))

    return model, guide


def spread(std):
    """A standard deviation estimated from DRAWS draws, with its standard error if Gaussian."""
    return f"{std:.3f} +- {std / math.sqrt(2 * DRAWS):.3f}"


elbo = TraceExactKL_ELBO()
print(f"\n{'noise of one draw':20}{'loss, sampled':>17}{'exact':>17}", end="")
print(f"{'gradient, sampled':>20}{'exact':>17}   route")
for name, p in priors.items():
    table = compare(*program(p), x, num_particles=DRAWS, elbos=(Trace_ELBO, elbo))
    loss = [spread(std) for std in table.loss_std.values]
    gradient = [spread(std) for std in (table.gradient_std**2).sum("parameter").values ** 0.5]
    print(
        f"{name:20}{loss[0]:>17}{loss[1]:>17}{gradient[0]:>20}{gradient[1]:>17}"
        f"   {elbo.routes['z'].kind}"
    )

# %% [markdown]
# Here the exact KL makes the *loss* hardly quieter or even noisier: what is random in a sampled
# KL partly cancels what is random in the likelihood. The *gradient* is what counts, and there
# the exact KL is the quieter one in each row where there is one. In the last row both columns
# are the same numbers, since there the exact ELBO samples too.
#
# ## When the sampled KL is the better one
#
# At the exact posterior, log p(x, z) - log q(z) = log p(x) whatever z is drawn: a fully sampled
# ELBO has no noise at all. An exact KL cannot do that, for nothing is left to cancel the noise
# of the likelihood. So let us walk towards the posterior, known here for the Gaussian prior.
#
# The gradient of the sampled ELBO still has noise there: it holds the score d/dphi log q(z),
# whose expectation is zero, but not its value. To drop it, detach the parameters inside log q,
# and let the gradient go through z alone: *sticking the landing* (Roeder, Wu and Duvenaud, 2017).

# %%
precision = 1 + 1 / NOISE**2
POSTERIOR = torch.stack([x[0] / NOISE**2 / precision, torch.full((2,), precision**-0.5)])
START = torch.tensor([[-1.0, 2.0], [0.9, 0.9]])


def normal(z, loc, scale):
    return dist.Normal(loc, scale, validate_args=False).log_prob(z).sum()


def losses(phi, fixed, noise):
    """One draw of -ELBO in three ways; `fixed` has the values of phi, and no gradient."""
    z = phi[0] + phi[1] * noise
    likelihood, prior = normal(x[0], z, NOISE), normal(z, ZERO, ONE)
    exact = (0.5 * (phi[1] ** 2 + phi[0] ** 2 - 1) - phi[1].log()).sum() - likelihood
    sampled = normal(z, *phi) - prior - likelihood
    stuck = normal(z, *fixed) - prior - likelihood
    return torch.stack([exact, sampled, stuck])


def of_draws(function, phi):
    noise = torch.randn(DRAWS, 2)
    return torch.func.vmap(lambda e: function(phi, phi.clone(), e))(noise)


print(f"\n{'of the way':>10}{'to go (nats)':>14}   {'loss noise: exact, sampled':34}", end="")
print("gradient noise: exact, sampled, sticking the landing")
for way in (0.0, 0.5, 0.9, 0.99, 1.0):
    phi = (1 - way) * START + way * POSTERIOR
    to_go = kl.divergence(dist.Normal(*phi), dist.Normal(*POSTERIOR)).sum()
    loss = of_draws(losses, phi).std(0)
    gradient = of_draws(torch.func.jacrev(losses), phi).var(0).sum((-2, -1)).sqrt()
    print(
        f"{way:>10.0%}{to_go:14.4f}   {'  '.join(map(spread, loss[:2])):34}"
        f"{'  '.join(map(spread, gradient))}"
    )

# %% [markdown]
# Far off, the exact KL has the quietest gradient. Half way, the sampled one with the landing stuck
# draws level, and near the posterior it falls silent, as the loss of the sampled KL does: there no
# exact KL can match it. Then again, a guide rarely holds the exact posterior, and where the gap
# stays wide, so does the noise.
#
# A rule of thumb: the exact KL for training, wherever `kl.route` knows a way; the sampled one,
# with the landing stuck, for flexible guides late in training; and `compare` when in doubt.
