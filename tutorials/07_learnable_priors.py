# %% [markdown]
# # 7. What does a learnable prior buy?
#
# A VAE is trained on draws of the guide, and asked for draws of the prior. Where the prior has
# mass and the *aggregate posterior* q(z) = 1/N sum_n q(z|x_n) has none, the decoder was never
# taught anything: a *hole* of the prior, and a sample from it looks like nothing. And where q(z)
# has mass and the prior has little, every datum pays for it in its KL (tutorial 5). One can push
# q(z) towards the prior; or let the prior learn where q(z) is. Three priors that can:
#
# * a **mixture** of K Normals, p(z) = sum_k w_k N(z; m_k, s_k);
# * a **VampPrior**, p(z) = sum_k w_k q(z | u_k), the guide's own mixture at learned inputs u_k;
# * a **flow**, p(z) = N(f(z); 0, I) |det df/dz|, here a neural spline flow.
#
# None has a KL in closed form beside a Gaussian guide, and none needs one.

# %%
import math
import os
import warnings

import torch
from torch import nn

from pyro_vae import VAE, datasets, diagnostics, fit, networks, plots
from pyro_vae import families as fam

SMOKE = "SMOKE" in os.environ  # a quick run, for the tests
LATENT, HIDDEN, COMPONENTS, EPOCHS = 8, 128, 50, 10 if SMOKE else 150
IWAE_SAMPLES = 300 if SMOKE else 3000

digits = datasets.load("digits")


def train(make_prior, latent=LATENT):
    torch.manual_seed(0)
    encoder = nn.Sequential(networks.MLP(64, HIDDEN), fam.FullNormal(latent, context=HIDDEN))
    vae = VAE(
        prior=make_prior(latent, encoder),
        encoder=encoder,
        decoder=nn.Sequential(networks.MLP(latent, HIDDEN), fam.Bernoulli(64, context=HIDDEN)),
    )
    adam = {"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=3e-3)}
    fit(vae, digits.train, epochs=EPOCHS, seed=1, capture=True, progress=False, **adam)
    return vae


# %% [markdown]
# The VampPrior holds the encoder that the guide has: one module, trained by both. Its
# pseudo-inputs start at data.

# %%
PRIORS = {
    "N(0, I)": lambda n, encoder: fam.Normal(n),
    "mixture": lambda n, encoder: fam.Mixture(
        n, components=COMPONENTS, loc=torch.randn(COMPONENTS, n), learnable=True
    ),
    "VampPrior": lambda n, encoder: fam.VampPrior(encoder, inputs=digits.train[:COMPONENTS]),
    "spline flow": lambda n, encoder: fam.NSF(n, learnable=True),
}
vaes = {name: train(make) for name, make in PRIORS.items()}

# %% [markdown]
# ## Holes, and what they cost
#
# KL(q(z) || p(z)) says how much of q(z) the prior misses, between two bounds; the share of prior
# draws where q(z) is less than a tenth of p(z) says how much of the prior is hole. The number
# that counts is log p(x) of digits that were held out, here beside that of N(0, I), digit by
# digit. The last column is the share of digits whose importance weights have a heavy tail: there
# log p(x) is a lower bound that may be far below.


# %%
@torch.no_grad()
def holes(vae, draws=2000):
    p = vae.model.prior.z()
    z = p.sample((draws,))
    log_q = vae.guide.encoder.z(digits.train).log_prob(z.unsqueeze(1))  # of every datum
    aggregate = log_q.logsumexp(1) - math.log(len(digits.train))
    share = float((aggregate < p.log_prob(z) - math.log(10)).float().mean())
    return share, (share * (1 - share) / draws) ** 0.5


def held_out(vae):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", diagnostics.DiagnosticWarning)  # the table says it
        found = diagnostics.iwae(
            vae.model, vae.guide, digits.test, num_samples=IWAE_SAMPLES, progress=False
        )
    return found.iwae.values, found.attrs["iwae_unreliable_share"]


plain, _ = held_out(vaes["N(0, I)"])
print(f"log p(x) with N(0, I): {plain.mean():.2f} nats a digit\n")
print(
    f"{'prior':12}{'KL(q(z) || p(z))':>20}{'holes, %':>15}{'log p(x), gain':>20}{'k-hat high':>12}"
)
for name, vae in vaes.items():
    far = diagnostics.aggregate_posterior(vae.model, vae.guide, digits.train, progress=False)
    low, high = far.kl_aggregate.values
    share, error = holes(vae)
    log_px, heavy = held_out(vae)
    gain = log_px - plain
    print(
        f"{name:12}{f'{low:.2f} to {high:.2f}':>20}"
        f"{f'{100 * share:.1f} +- {100 * error:.1f}':>15}"
        f"{f'{gain.mean():+.2f} +- {gain.std() / len(gain) ** 0.5:.2f}':>20}{heavy:>12.0%}"
    )

# %% [markdown]
# A plain Gaussian leaves holes, and pays for what it misses; each of the learned priors has fewer
# and pays less. (The errors are over digits. Another seed of the training moves the gains by some
# tenths of a nat: `python -m tests.benchmarks.learned_priors` takes five.)
#
# ## Before and after, in pictures
#
# With two latents one can look: the prior as a surface, log p(z) from its top to 8 nats below,
# and draws of the aggregate posterior on it. And digits drawn from each prior, with eight.

# %%
figures = {}


@torch.no_grad()
def surface(axes, vae, name, steps=120):
    z = vae.guide(digits.train)["z"]
    ends = torch.stack([z.amin(0) - 1, z.amax(0) + 1], 1).tolist()
    across, up = (torch.linspace(*each, steps) for each in ends)
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"), -1)
    height = vae.model.prior.z().log_prob(grid)
    top = float(height.max())
    levels = torch.linspace(top - 8, top, 9)
    axes.contourf(across, up, height, levels, cmap="Greys", alpha=0.6, extend="max")
    axes.scatter(*z.T, s=2, c=digits.train_labels, cmap="tab10")
    axes.set_title(name)


flat = {name: train(make, 2) for name, make in PRIORS.items()}
figures["prior and q(z)"], all_axes = plots.canvas(columns=2, rows=2, width=4.2, height=3.6)
for axes, (name, vae) in zip(all_axes, flat.items(), strict=True):
    surface(axes, vae, name)
for name, vae in vaes.items():
    figures[f"samples, {name}"] = plots.samples(
        vae.model, vae.guide, digits.test, digits.image_shape, count=40
    )

# %% [markdown]
# Beside N(0, I) the guide keeps all digits in one round heap; beside a prior that follows, it can
# set kinds apart, and does.
#
# ## What it does not buy
#
# A learned prior makes KL(q(z) || p(z)) small, the part of the KL that says nothing about x. It
# does not make a narrow guide wide (tutorial 4), and it can overfit: with one component for each
# datum and u_n = x_n a VampPrior *is* the aggregate posterior, and has learned the data by heart.
# That log p(x) above is of held-out digits is what keeps the table honest.

# %%
print("\npictures:", ", ".join(figures))
