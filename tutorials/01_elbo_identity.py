# %% [markdown]
# # 1. Why is log p(x) = E_q[log p(x)]?
#
# Every derivation of the ELBO starts by writing log p(x) as an expectation over q(z|x), and
# many readers stop there: why may one do that? Because **x is a constant under q(z|x)**. The
# expectation is over z, and log p(x) has no z in it. What helps is to write it in a form that
# does: by Bayes' rule, for *every* z,
#
#     log p(x) = log p(x, z) - log p(z|x).
#
# The right-hand side looks as if it depended on z. It does not, and that can be checked.

# %%
import os

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

SMOKE = "SMOKE" in os.environ  # a quick run, for the tests
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)

# %% [markdown]
# ## A model where everything is known
#
# z ~ N(0, I), x|z ~ N(Wz, s^2 I). The evidence is N(x; 0, WW' + s^2 I), and the posterior is
# Gaussian too: N(S W'x / s^2, S) with S = (I + W'W / s^2)^-1.

# %%
LATENT, FEATURES, NOISE = 2, 5, 0.7
W = torch.randn(FEATURES, LATENT)
x = torch.randn(FEATURES)

evidence = dist.MultivariateNormal(torch.zeros(FEATURES), W @ W.T + NOISE**2 * torch.eye(FEATURES))
S = torch.linalg.inv(torch.eye(LATENT) + W.T @ W / NOISE**2)
posterior = dist.MultivariateNormal(S @ W.T @ x / NOISE**2, S)
prior = dist.Normal(torch.zeros(LATENT), 1.0).to_event(1)


def log_joint(z):
    return prior.log_prob(z) + dist.Normal(z @ W.T, NOISE).to_event(1).log_prob(x)


log_px = evidence.log_prob(x)
print(f"log p(x) = {log_px:.10f}")
for z in (torch.zeros(LATENT), torch.ones(LATENT), 100 * torch.randn(LATENT)):
    value = log_joint(z) - posterior.log_prob(z)
    print(f"log p(x, z) - log p(z|x) at z = {z.numpy().round(1)}: {value:.10f}")

# %% [markdown]
# The same number at every z. So its expectation under *any* q(z|x) is that number. Adding and
# subtracting log q(z|x) inside the expectation gives the identity that carries the whole field:
#
#     log p(x) = E_q[log p(x, z) - log q(z|x)] + E_q[log q(z|x) - log p(z|x)]
#              =            ELBO               +      KL(q(z|x) || p(z|x))
#
# The KL to the posterior is not negative, so the ELBO is a lower bound; it is exact where q is
# the posterior. The *other* KL, KL(q(z|x) || p(z)), is inside the ELBO:
#
#     ELBO = E_q[log p(x|z)] - KL(q(z|x) || p(z)).
#
# ## The same by Pyro
#
# Pyro has two ways to write the ELBO. `Trace_ELBO` averages log p(x, z) - log q(z|x) over draws:
# the KL to the prior is sampled. `TraceMeanField_ELBO` takes KL(q || p) from a closed form, and
# samples the rest.

# %%


def model(x):
    with pyro.plate("data", 1):
        z = pyro.sample("z", prior.expand([1]))
        pyro.sample("x", dist.Normal(z @ W.T, NOISE).to_event(1), obs=x)


# %% [markdown]
# Draws are noisy, and with noise no identity holds to ten digits. But log densities of Gaussians
# are quadratic in z, and a mean over draws of a quadratic function is exact as soon as the draws
# have the mean and the covariance of q. The 2D points loc +- scale sqrt(D) e_d have both. So let
# us give Pyro a guide whose "draws" are these points.


# %%
class SigmaPoints(dist.Normal):
    """A Normal whose 2D particles have exactly its mean and covariance."""

    def rsample(self, sample_shape=()):
        size = self.loc.shape[-1]
        directions = size**0.5 * torch.cat([torch.eye(size), -torch.eye(size)])
        return self.loc + self.scale * directions[:, None, :]


def guide_of(loc, scale):
    def guide(x):
        with pyro.plate("data", 1):
            pyro.sample("z", SigmaPoints(loc, scale).expand([2 * LATENT, 1, LATENT]).to_event(1))

    return guide


guides = {
    "q = prior": (torch.zeros(LATENT), torch.ones(LATENT)),
    "right mean, too narrow": (posterior.loc, 0.3 * S.diagonal().sqrt()),
    "best mean-field": (posterior.loc, torch.linalg.inv(S).diagonal() ** -0.5),
    "far away": (posterior.loc + 3.0, torch.full((LATENT,), 0.5)),
}

print(f"\n{'guide':24}{'Trace_ELBO':>16}{'TraceMeanField':>16}{'KL(q||posterior)':>18}{'sum':>16}")
worst = 0.0
for name, (loc, scale) in guides.items():
    options = {"num_particles": 2 * LATENT, "vectorize_particles": True, "max_plate_nesting": 1}
    sampled, analytic = (
        -elbo(**options).loss(model, guide_of(loc, scale), x[None])
        for elbo in (Trace_ELBO, TraceMeanField_ELBO)
    )
    gap = kl_divergence(dist.MultivariateNormal(loc, scale_tril=torch.diag(scale)), posterior)
    print(f"{name:24}{sampled:16.10f}{analytic:16.10f}{gap:18.10f}{sampled + gap:16.10f}")
    worst = max(worst, abs(sampled + gap - log_px), abs(analytic + gap - log_px))
print(f"log p(x) = ELBO + KL(q(z|x) || p(z|x)) holds to {worst:.1e} by both ELBOs")
assert worst < 1e-10

# %% [markdown]
# ## With real draws
#
# With random draws both ELBOs have the same expectation, but not the same noise, and it is not
# always the analytic KL that is quieter. At the exact posterior every draw of `Trace_ELBO`
# gives log p(x) itself: its noise is zero. The analytic KL cannot do that, for it leaves
# the noise of log p(x|z) alone.

# %%


def posterior_guide(x):
    with pyro.plate("data", 1):
        pyro.sample("z", posterior.expand([1]))


def full_prior_model(x):  # the prior as a MultivariateNormal, for which Pyro has a closed form
    with pyro.plate("data", 1):
        p = dist.MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT))
        z = pyro.sample("z", p.expand([1]))
        pyro.sample("x", dist.Normal(z @ W.T, NOISE).to_event(1), obs=x)


draws = 20 if SMOKE else 2000
print(f"\nat the exact posterior, {draws} draws:")
for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
    losses = torch.tensor(
        [-elbo.loss(full_prior_model, posterior_guide, x[None]) for _ in range(draws)]
    )
    error = losses.std() / draws**0.5
    name = type(elbo).__name__
    print(f"{name:20} {losses.mean():.4f} +- {error:.4f} (one draw: {losses.std():.1e})")

# %% [markdown]
# `pyro_vae.compare` makes this comparison for any model and guide, value and gradient.
