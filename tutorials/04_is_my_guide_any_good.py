# %% [markdown]
# # 4. Is my guide any good?
#
# The ELBO does not say: it is log p(x) less KL(q(z|x) || p(z|x)), and neither is known. So one
# asks several questions, each of which sees what others do not. Here they are asked of guides
# that are wrong on purpose, in a model whose posterior is known: z ~ N(0, I), x|z ~ N(Wz + b, s^2
# I).

# %%
import json
import os

import pyro
import pyro.distributions as dist
import torch

from pyro_vae import diagnose, plots

SMOKE = "SMOKE" in os.environ  # a quick run, for the tests
LATENT, FEATURES, NOISE = 2, 6, 1.0
DATA, DRAWS = (200, 300) if SMOKE else (400, 1000)

torch.manual_seed(1)
W, b = torch.randn(FEATURES, LATENT), torch.randn(FEATURES)
S = torch.linalg.inv(torch.eye(LATENT) + W.T @ W / NOISE**2)  # the posterior's covariance
x = torch.randn(DATA, LATENT) @ W.T + b + NOISE * torch.randn(DATA, FEATURES)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W.T + b, NOISE).to_event(1), obs=x)


# %% [markdown]
# ## Five guides
#
# One is the posterior. One has half its standard deviations: the usual fault of variational
# inference. One is off by half a standard deviation, as an encoder that was not trained long
# enough may be. One has collapsed: it looks at nothing and returns the prior. The last is the
# posterior with twice its standard deviations.


# %%
def guide_of(shift=0.0, scale=1.0, collapsed=False):
    spread = torch.eye(LATENT) if collapsed else scale**2 * S

    def guide(x):
        mean = (x - b) @ W @ S / NOISE**2 + shift * S.diagonal().sqrt()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal((not collapsed) * mean, spread))

    return guide


guides = {
    "the posterior": guide_of(),
    "too narrow": guide_of(scale=0.5),
    "biased": guide_of(shift=0.5),
    "collapsed": guide_of(collapsed=True),
    "too wide": guide_of(scale=2.0),
}

# %% [markdown]
# ## One call
#
# `diagnose` takes any model and guide. It prints a table and a verdict in plain language, and
# returns all numbers as a Dataset, by datum. (`gate=False`: ask everything, even where an earlier
# answer makes it moot.)

# %%
STEPS = ["pareto_k", "iwae", "calibration", "aggregate_posterior", "collapse"]
options = {"num_samples": DRAWS, "steps": STEPS, "gate": False, "progress": False}
found = {"too narrow": diagnose(model, guides["too narrow"], x, **options)}

# %% [markdown]
# ## Who sees what

# %%
for name, guide in guides.items():
    if name not in found:
        found[name] = diagnose(model, guide, x, show=False, **options)

print(f"\n{'guide':16}" + "".join(f"{step:>21}" for step in STEPS))
for name in guides:
    findings = json.loads(found[name].attrs["findings"])
    worst = {
        step: max((f["level"] for f in findings[step]), key=["good", "care", "bad"].index)
        for step in STEPS
    }
    print(f"{name:16}" + "".join(f"{worst[step]:>21}" for step in STEPS))

# %% [markdown]
# - **k-hat** is the tail index of the weights p(x, z) / q(z|x). It sees a guide that is too
#   *narrow*, or that is nowhere near. It is blind to one that is too wide, and nearly so to one
#   that is *biased*: where q covers the posterior, weights are well-behaved.
# - **calibration** draws z and x from the model and asks where z lies among draws of q(z|x). It
#   sees too narrow, too wide and biased. But ranks of z pass where the guide returns the *prior*:
#   on average over data the prior is calibrated. (The rank of log p(x|z) is what gives it away.)
# - **mutual information** and the **collapse** report see that: z says nothing about x.

# %%
print(f"\n{'guide':16}{'median k-hat':>14}{'90 % regions hold':>19}{'I(x; z), nats':>18}")
for name in guides:
    d = found[name]
    hpd = d.sel(quantity="hpd")
    low, high = d.mutual_information.values
    print(
        f"{name:16}{float(d.khat.median()):14.2f}"
        f"{100 * float(hpd.coverage_90):13.0f} +- {100 * float(hpd.coverage_90_std_error):.0f} %"
        f"{low:10.2f} to {high:.2f}"
    )

# %% [markdown]
# ## Pictures
#
# Every diagnostic has one, drawn from its Dataset alone; `figure.savefig(path)` writes it. The
# command `python -m pyro_vae diagnose --model DIR` puts them on a page.

# %%
figures = plots.pictures(found["biased"])
print("\npictures:", ", ".join(figures))
