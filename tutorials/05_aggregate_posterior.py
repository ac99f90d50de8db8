# %% [markdown]
# # 5. Does a Gaussian encoder make q(z) Gaussian?
#
# No. Each q(z|x) is Gaussian; but what the decoder is trained on, and what the prior has to
# match, is their mixture over all data, the *aggregate posterior*
#
#     q(z) = 1/N sum_n q(z|x_n),
#
# and a mixture of many Gaussians can have nearly any shape. Nor does the prior have to be
# Gaussian. Both are shown on handwritten digits, with two latents so that one can look at them.

# %%
import os

import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae import VAE, datasets, diagnostics, fit, networks, plots
from pyro_vae import families as fam

SMOKE = "SMOKE" in os.environ  # a quick run, for the tests
LATENT, HIDDEN, EPOCHS = 2, 128, 20 if SMOKE else 100

digits = datasets.load("digits")


def train(prior):
    vae = VAE(
        prior=prior,
        encoder=nn.Sequential(
            networks.MLP(64, HIDDEN),
            fam.Transported(fam.FullNormal(LATENT, context=HIDDEN), to=prior),
        ),
        decoder=nn.Sequential(networks.MLP(LATENT, HIDDEN), fam.Bernoulli(64, context=HIDDEN)),
    )
    adam = {"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=3e-3)}
    fit(vae, digits.train, epochs=EPOCHS, seed=1, capture=True, progress=False, **adam)
    return vae


torch.manual_seed(0)
vae = train(fam.Normal(LATENT))

# %% [markdown]
# ## The sandwich
#
# The KL of the ELBO, averaged over data, is a sum of two things that have little in common:
#
#     E KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)):
#
# what z says about x, which is wanted, and how far the prior is from the aggregate posterior,
# which is not. Neither is known exactly, but each lies between two bounds, with standard errors.

# %%
HEAD = f"{'':24}{'E KL':>8}{'I(x; z)':>26}{'KL(q(z) || p)':>26}"


def sandwich(name, model, guide, x=digits.train):
    found = diagnostics.aggregate_posterior(model, guide, x, progress=False)
    parts = [f"{name:24}{float(found.kl_mean):8.2f}"]
    for variable in ("mutual_information", "kl_aggregate"):
        low, high = found[variable].values
        error = float(found[f"{variable}_std_error"].max())
        parts.append(f"{f'{low:.2f} to {high:.2f} (+- {error:.2f})':>26}")
    print("".join(parts))
    return found


print(HEAD)
found = sandwich("Normal prior", vae.model, vae.guide)

# %% [markdown]
# KL(q(z) || p) is not 0: q(z) is not the standard Normal. Perhaps it is another Gaussian? Put the
# one with the mean and the covariance of q(z) in the place of the prior, and leave all else as it
# is:

# %%
with torch.no_grad():
    z = vae.guide(digits.train)["z"]
gaussian = dist.MultivariateNormal(z.mean(0), z.T.cov())
moved = VAE(lambda: gaussian, vae.guide.encoder.z, vae.model.decoder)
best = sandwich("best Gaussian", moved.model, moved.guide)
low, error = float(best.kl_aggregate[0]), float(best.kl_aggregate_std_error[0])
print(f"\nq(z) is at least {low:.2f} +- {error:.2f} nats away from every Gaussian")

# %% [markdown]
# (Of all Gaussians, the one with the moments of q(z) is nearest to it in this sense.) Every
# q(z|x) is Gaussian, and q(z) is not. One sees why in the picture: digits of a kind lie together,
# and between them is little.

# %%
figures = {"sandwich": plots.PICTURES["aggregate_posterior"](found)}
figures["manifold"] = plots.manifold(vae.model, vae.guide, digits.test, digits.image_shape)


def scatter(vae, labels=digits.train_labels):
    figure, (axes,) = plots.canvas(width=5, height=4.6)
    with torch.no_grad():
        z = vae.guide(digits.train)["z"]
    for digit in range(10):
        axes.scatter(*z[labels == digit].T, s=6, label=str(digit))
    axes.legend(fontsize=7, ncols=2)
    return figure


figures["draws of q(z)"] = scatter(vae)

# %% [markdown]
# ## Nor must the prior be Gaussian
#
# The same Gaussian encoder, with other priors. On the unit square it is carried there by a
# sigmoid.

# %%
priors = {
    "Laplace prior": fam.Laplace(LATENT),
    "Student-t prior": fam.StudentT(LATENT),
    "Beta(2, 1) prior": fam.Beta(LATENT, concentration1=2.0, concentration0=1.0),
}
print(f"\n{HEAD}")
for name, prior in priors.items():
    other = train(prior)
    sandwich(name, other.model, other.guide)
    figures[name] = plots.manifold(other.model, other.guide, digits.test, digits.image_shape)

# %% [markdown]
# Each of them trains, and what is left between q(z) and the prior is small beside what z says
# about x. What a Gaussian *prior* buys is a KL in closed form, and nothing more (tutorial 3).

# %%
print("\npictures:", ", ".join(figures))
