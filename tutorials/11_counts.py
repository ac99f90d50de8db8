# %% [markdown]
# # 11. Which likelihood for counts?
#
# Molecules in cells, words in texts, accidents in streets: counts are whole numbers, and their
# spread grows with their mean. Three likelihoods of one mean m, each holding the one before:
#
#     Poisson                         Var x = m
#     NegativeBinomial                Var x = m + m^2 / r
#     ZeroInflatedNegativeBinomial    and zeros put in, with probability g
#
# Which of them a data set needs is no matter of taste: log p(x) of held-out data says. No set of
# counts comes with the package's dependencies under a licence of its own, so the data are
# simulated, which lets us know what is true.

# %%
import os
import warnings

import torch
from torch import nn

from pyro_vae import VAE, diagnostics, fit, networks
from pyro_vae import families as fam
from pyro_vae.distributions import NegativeBinomial
from pyro_vae.infer import TraceExactKL_ELBO

SMOKE = "SMOKE" in os.environ  # a quick run, for the tests
GENES, LATENT, WIDTH = 30, 2, 64
TRAIN, TEST, EPOCHS, DRAWS = (600, 200, 20, 100) if SMOKE else (2000, 500, 80, 1000)


# %% [markdown]
# ## Cells of four kinds
#
# Each kind has its own mean count of each gene. Counts spread as negative binomials of r = 2, and
# of some cells ten times as many molecules were read as of others: the library size e_n, which is
# known, and multiplies all means. In the second data set a fifth of all counts is lost, and a zero
# stands in its place.


# %%
def simulated(lost, count, seed):
    torch.manual_seed(3)
    means = torch.exp(0.5 + torch.randn(4, GENES))
    torch.manual_seed(seed)
    log_size = 0.7 * torch.randn(count, 1)
    rate = log_size.exp() * means[torch.randint(4, (count,))]
    x = NegativeBinomial(rate, total_count=2.0).sample()
    return x * (torch.rand_like(x) >= lost), log_size


def data(lost):
    return simulated(lost, TRAIN, seed=1), simulated(lost, TEST, seed=2)


# %% [markdown]
# ## The VAE
#
# The library size is no matter for z to find out. Its logarithm is the *offset* of generalised
# linear models: passed as `y`, it multiplies the mean past the network (`fam.WithOffset`). The
# encoder sees it as well, beside log(1 + x). r is learned, one for each gene, and so is g.


# %%
LIKELIHOODS = {
    "Poisson": lambda: fam.Poisson(GENES, context=WIDTH),
    "NegativeBinomial": lambda: fam.NegativeBinomial(
        GENES, context=WIDTH, learnable=("total_count",)
    ),
    "zero-inflated NB": lambda: fam.ZeroInflatedNegativeBinomial(
        GENES, context=WIDTH, learnable=("total_count", "gate_logits"), gate_logits=-3.0
    ),
}


def vae_of(likelihood, offset=True):
    torch.manual_seed(4)
    seen = GENES + offset
    net = networks.MLP(LATENT, WIDTH)
    decoder = fam.WithOffset(net, likelihood) if offset else nn.Sequential(net, likelihood)
    return VAE(
        prior=fam.Normal(LATENT),
        encoder=nn.Sequential(
            networks.Log1p(GENES), networks.MLP(seen, WIDTH), fam.Normal(LATENT, context=WIDTH)
        ),
        decoder=decoder,
    )


def train(vae, x, y):
    adam = torch.optim.Adam(vae.parameters(), lr=5e-3)
    options = {"epochs": EPOCHS, "batch_size": 100, "seed": 0, "capture": True, "progress": False}
    fit(vae, x, y=y, objective=TraceExactKL_ELBO(), optimizer=adam, **options)
    return vae


def held_out(vae, x, y):
    """log p(x) of each datum by importance sampling, and for what share k-hat warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", diagnostics.DiagnosticWarning)  # it is printed instead
        found = diagnostics.iwae(vae.model, vae.guide, x, y=y, num_samples=DRAWS, progress=False)
    return torch.as_tensor(found.iwae.values), found.attrs["iwae_unreliable_share"]


def told(values):
    return f"{values.mean():9.3f} +- {values.std() / len(values) ** 0.5:.3f}"


# %% [markdown]
# ## Held-out log p(x), in nats a cell
#
# The same cells are scored by all, so what counts is the difference by cell: its standard error is
# far smaller than that of either. For the share of cells of which k-hat is high, log p(x) is more
# likely too low than too high; it is alike for the two that are compared closely.

# %%
fits = {}
for name, lost in {"nothing lost": 0.0, "a fifth lost": 0.2}.items():
    (x, y), (x_test, y_test) = data(lost)
    print(
        f"{name}: {(x == 0).float().mean():.0%} zeros, mean {x.mean():.2f}, variance {x.var():.1f}"
    )
    scores = {}
    for likelihood, make in LIKELIHOODS.items():
        vae = fits[name, likelihood] = train(vae_of(make()), x, y)
        scores[likelihood], share = held_out(vae, x_test, y_test)
        print(f"  {likelihood:18}{told(scores[likelihood])}   k-hat high for {share:.0%}")
    poisson, plain, inflated = scores.values()
    print(f"  overdispersion is worth  {told(plain - poisson)}")
    print(f"  zero inflation is worth  {told(inflated - plain)}")

# %% [markdown]
# Overdispersion is worth many nats, whatever the data. Zero inflation is worth some where zeros
# were put in, and next to nothing where they were not: that there are many zeros does not say that
# there are too many. What was learned of g says the same.

# %%
for name in ("nothing lost", "a fifth lost"):
    family = fits[name, "zero-inflated NB"].model.decoder.family
    values = family.values(torch.zeros(WIDTH))
    g, r = values["gate_logits"].sigmoid(), values["total_count"]
    print(f"{name}: learned g {g.median():.3f} (median over genes), r {r.median():.2f}")


# %% [markdown]
# ## What the offset is for
#
# Without it z has to say how many molecules were read of a cell, and has the less to say of what
# kind it is. How much of the library size is in z: R^2 of log e_n on the mean of q(z|x_n).


# %%
def share_of_size(vae, x, y, given):
    with torch.no_grad():
        seen = torch.cat([x, y], -1) if given else x
        z = vae.guide.encoder.z(seen).mean
    design = torch.cat([torch.ones(len(z), 1), z, z**2], -1)
    residual = y - design @ torch.linalg.lstsq(design, y).solution
    return 1 - residual.var() / y.var()


(x, y), (x_test, y_test) = data(lost=0.0)
without = train(vae_of(LIKELIHOODS["NegativeBinomial"](), offset=False), x, None)
scores = {}
for given, vae in ((True, fits["nothing lost", "NegativeBinomial"]), (False, without)):
    scores[given], _ = held_out(vae, x_test, y_test if given else None)
    size = share_of_size(vae, x_test, y_test, given)
    text = "with" if given else "without"
    print(f"{text:8} offset: R^2 of the library size {size:.2f}, log p(x) {told(scores[given])}")
print(f"the offset is worth {told(scores[True] - scores[False]).strip()} nats a cell")
