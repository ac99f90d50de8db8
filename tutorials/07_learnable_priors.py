# %% [markdown]
# # 7. What does a learnable prior buy?
#
# A VAE is trained on draws of the guide, and asked for draws of the prior. Where the prior has
# mass and the *aggregate posterior* q(z) = 1/N sum_n q(z|x_n) has none, the decoder was never
# taught anything: a *hole* of the prior, and a sample from it looks like nothing (tutorial 5
# measured how far q(z) is from the prior). One can push q(z) towards the prior; or let the prior
# learn where q(z) is. Three priors that can:
#
# * a **mixture** of K Normals, p(z) = sum_k w_k N(z; m_k, s_k);
# * a **VampPrior**, p(z) = sum_k w_k q(z | u_k), the guide's own mixture at learned inputs u_k;
# * a **flow**, p(z) = N(f(z); 0, I) |det df/dz|, here a neural spline flow.
#
# None has a KL in closed form beside a Gaussian guide, and none needs one.

# %%
import os
import warnings

import torch
from torch import nn

from pyro_vae import VAE, datasets, diagnostics, fit, networks, plots
from pyro_vae import families as fam

SMOKE = "SMOKE" in os.environ  # a quick run, for the tests
LATENT, HIDDEN, COMPONENTS, EPOCHS = 2, 128, 30, 10 if SMOKE else 150
IWAE_SAMPLES = 300 if SMOKE else 3000

digits = datasets.load("digits")


def train(make_prior):
    torch.manual_seed(0)
    encoder = nn.Sequential(networks.MLP(64, HIDDEN), fam.FullNormal(LATENT, context=HIDDEN))
    vae = VAE(
        prior=make_prior(encoder),
        encoder=encoder,
        decoder=nn.Sequential(networks.MLP(LATENT, HIDDEN), fam.Bernoulli(64, context=HIDDEN)),
    )
    adam = {"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=3e-3)}
    fit(vae, digits.train, epochs=EPOCHS, seed=1, capture=True, progress=False, **adam)
    return vae


# %% [markdown]
# The VampPrior holds the encoder that the guide has: one module, trained by both. Its
# pseudo-inputs start at data.

# %%
PRIORS = {
    "N(0, I)": lambda encoder: fam.Normal(LATENT),
    "mixture": lambda encoder: fam.Mixture(LATENT, components=COMPONENTS, learnable=True),
    "VampPrior": lambda encoder: fam.VampPrior(encoder, inputs=digits.train[:COMPONENTS]),
    "spline flow": lambda encoder: fam.NSF(LATENT, learnable=True),
}
vaes = {name: train(make) for name, make in PRIORS.items()}

# %% [markdown]
# ## Holes, and what they cost
#
# KL(q(z) || p(z)) says how much of q(z) the prior misses; the share of prior draws where q(z) is
# less than a tenth of p(z) says how much of the prior is hole. The number that counts is
# log p(x) of digits that were held out; the last column is the share of digits for which its
# importance weights have a heavy tail.


# %%
def log_aggregate(vae, z, x=digits.train):
    """log q(z), the mixture of the guide over all data."""
    log_q = vae.guide.encoder.z(x).log_prob(z.unsqueeze(1))
    return log_q.logsumexp(1) - torch.tensor(float(len(x))).log()


@torch.no_grad()
def holes(vae, draws=2000):
    p = vae.model.prior.z()
    z = p.sample((draws,))
    share = (log_aggregate(vae, z) < p.log_prob(z) - torch.tensor(10.0).log()).float().mean()
    return float(share), float((share * (1 - share) / draws).sqrt())


def held_out(vae):
    """log p(x) of a held-out digit with its standard error, and where it is not to be trusted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", diagnostics.DiagnosticWarning)  # the table says it
        found = diagnostics.iwae(
            vae.model, vae.guide, digits.test, num_samples=IWAE_SAMPLES, progress=False
        )
    error = float(found.iwae.std()) / len(digits.test) ** 0.5
    return float(found.iwae.mean()), error, found.attrs["iwae_unreliable_share"]


print(
    f"{'prior':12}{'KL(q(z) || p(z))':>20}{'holes, %':>15}{'held-out log p(x)':>20}"
    f"{'k-hat high':>12}"
)
for name, vae in vaes.items():
    far = diagnostics.aggregate_posterior(vae.model, vae.guide, digits.train, progress=False)
    low, high = far.kl_aggregate.values
    share, error = holes(vae)
    mean, spread, heavy = held_out(vae)
    print(
        f"{name:12}{f'{low:.2f} to {high:.2f}':>20}"
        f"{f'{100 * share:.1f} +- {100 * error:.1f}':>15}{f'{mean:.2f} +- {spread:.2f}':>20}"
        f"{heavy:>12.0%}"
    )

# %% [markdown]
# ## Before and after, in pictures
#
# The prior as a surface, the aggregate posterior as points, and digits drawn from the prior.

# %%
figures = {}


@torch.no_grad()
def surface(axes, vae, name, steps=120):
    z = vae.guide(digits.train)["z"]
    low, high = z.amin(0) - 1, z.amax(0) + 1
    across, up = (
        torch.linspace(float(a), float(b), steps) for a, b in zip(low, high, strict=True)
    )
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"), -1)
    axes.contourf(across, up, vae.model.prior.z().log_prob(grid).exp(), 12, cmap="Blues")
    axes.scatter(*z.T, s=2, c=digits.train_labels, cmap="tab10")
    axes.set_title(name)


figure, all_axes = plots.canvas(columns=2, rows=2, width=4.2, height=3.6)
for axes, (name, vae) in zip(all_axes, vaes.items(), strict=True):
    surface(axes, vae, name)
    figures[f"samples, {name}"] = plots.samples(
        vae.model, vae.guide, digits.test, digits.image_shape, count=40
    )
figures["prior and q(z)"] = figure

# %% [markdown]
# ## What it does not buy
#
# A learned prior makes KL(q(z) || p(z)) small, and with it the part of the KL that says nothing
# about x. It does not make a narrow guide wide (tutorial 4), and it can overfit: with one
# component for each datum and u_n = x_n a VampPrior *is* the aggregate posterior, and has learned
# the data by heart. That log p(x) above is of held-out digits is what keeps the table honest.

# %%
print("\npictures:", ", ".join(figures))
