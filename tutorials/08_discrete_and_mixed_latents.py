# %% [markdown]
# # 8. How are discrete latents trained, alone and beside continuous ones?
#
# A draw of a class cannot be moved a little, so that no gradient goes through it. There are four
# ways round:
#
# * **enumerated**: sum over all classes. Exact, at the price of as many evaluations;
# * **score function**: weigh grad log q(z|x) by the bound. Unbiased and noisy;
# * **straight-through**: pretend that a draw is its mean. Quiet, and biased;
# * **relaxed**: draw from a density on the simplex. Unbiased, but for another model.
#
# How biased, how noisy? With ten classes the truth can be had by summing.

# %%
import os

import pyro
import torch
from pyro.infer import TraceEnum_ELBO
from torch import nn
from torch.nn.functional import one_hot

from pyro_vae import VAE, HierarchicalVAE, datasets, networks
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, enumerated, given, summed

SMOKE = "SMOKE" in os.environ  # a quick run, for the tests
CLASSES, WIDTH = 10, 64
pyro.enable_validation(False)  # for speed: the programs below are known to be right
torch.manual_seed(0)
digits = datasets.load("digits")
x = digits.train


def train(loss, parameters, steps, lr=3e-3):
    """Plain torch: `loss` is of one random batch."""
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(x[torch.randint(len(x), (100,))]).backward()
        optimizer.step()
        schedule.step()


# %% [markdown]
# ## One class a digit
#
# The first VAE has one latent, a class; it is a mixture of ten independent Bernoullis whose
# classes a network guesses. `enumerated` tells Pyro's `TraceEnum_ELBO` to sum over it: two calls
# give the same number, for nothing is drawn. The other ways have the same networks and another
# family as guide; a relaxed guide needs a relaxed prior, so that it has a bound of its own.

# %%
enumerating, drawn = TraceEnum_ELBO(max_plate_nesting=1), TraceExactKL_ELBO()


def one_class(family, prior=fam.OneHotCategorical, like=None, **options):
    """A VAE of one class; with the networks of another if it is given."""
    torch.manual_seed(1)
    guide = family(1, context=WIDTH, categories=CLASSES, **options)
    vae = VAE(
        prior=prior(1, categories=CLASSES, **options),
        encoder=nn.Sequential(networks.MLP(64, WIDTH), guide),
        decoder=nn.Sequential(networks.MLP((1, CLASSES), WIDTH), fam.Bernoulli(64, context=WIDTH)),
    )
    if like is not None:
        vae.model.decoder.load_state_dict(like.model.decoder.state_dict())
        vae.guide.encoder.z[0].load_state_dict(like.guide.encoder.z[0].state_dict())
        guide.head.load_state_dict(like.guide.encoder.z[1].head.state_dict())
    return vae


hard, straight = fam.OneHotCategorical, fam.StraightThroughOneHotCategorical
soft = fam.RelaxedOneHotCategorical, fam.RelaxedOneHotCategorical
ways = {
    "enumerated": lambda like=None: one_class(hard, like=like),
    "score function": lambda like=None: one_class(hard, like=like),
    "straight-through": lambda like=None: one_class(straight, like=like),
    "relaxed": lambda like=None: one_class(*soft, like=like, temperature=0.5),
}


def objective(name, vae):
    """The loss of a batch, in nats for each digit."""
    elbo, guide = (
        (enumerating, enumerated(vae.guide)) if name == "enumerated" else (drawn, vae.guide)
    )
    return lambda batch: elbo.differentiable_loss(vae.model, guide, batch) / len(batch)


def with_error(values):
    return f"{values.mean():.3f} +- {values.std() / len(values) ** 0.5:.3f}"


trained = {name: make() for name, make in ways.items()}
for name, vae in trained.items():
    train(objective(name, vae), vae.parameters(), steps=100 if SMOKE else 1000)

# %% [markdown]
# Each was trained by its own gradients. What came of it is told by one and the same bound, that
# of the discrete model, summed exactly, on digits that none has seen.

# %%
print(f"{'trained':18}{'ELBO of a new digit':>22}")
for name, vae in trained.items():
    exact = objective("enumerated", ways["enumerated"](like=vae))
    bounds = [-exact(batch).detach() for batch in digits.test.split(10)]
    print(f"{name:18}{with_error(torch.stack(bounds)):>22}")

# %% [markdown]
# ## Four gradients of the same encoder
#
# Now all gradients at one and the same place: the networks that the sum has trained, but for an
# encoder half as sure as it should be. Of each way we take many gradients of the encoder's
# weights. *Share* is what their mean has of the exact gradient, along it: 1 if it is unbiased.
# *Noise* is the standard deviation of one gradient, in lengths of the exact one.

# %%
place = trained["enumerated"]
with torch.no_grad():
    for parameter in place.guide.encoder.z[1].head.parameters():
        parameter.mul_(0.5)


def gradients(name, count):
    """`count` bounds, and gradients of the encoder's weights, one a row."""
    vae = ways[name](like=place)
    loss, weights = objective(name, vae), list(vae.guide.encoder.z[0].parameters())
    bounds, rows = [], []
    for _ in range(count):
        value = loss(x[:200])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)]))
        bounds.append(-value.detach())
    return torch.stack(bounds), torch.stack(rows).double()


truth = gradients("enumerated", 1)[1][0]
print(f"\n{'':18}{'its bound':>18}{'share of the gradient':>24}{'noise':>9}")
for name in ways:
    bounds, rows = gradients(name, 40 if SMOKE else 400)
    share, noise = rows @ truth / (truth @ truth), rows.var(0).sum().sqrt() / truth.norm()
    print(f"{name:18}{with_error(bounds):>18}{with_error(share):>24}{noise:9.3f}")

# %% [markdown]
# The score function has the right mean, and so much noise that a single gradient says little.
# Straight-through gradients are quiet and of the right bound, but not its gradients: the decoder
# is asked for its slope at the class drawn, and what it would say of the other classes is another
# matter: near the optimum, in the full run, they even point the wrong way. Relaxed gradients are
# of another bound, here far off, for this decoder has never seen anything between two classes. So
# in the first table the sum has learned the most, by nats. Where classes are few, sum.
#
# ## A class and a style
#
# Two latents, one of each kind, are two names in `prior` and `encoder`. Given x they are
# independent here, and each has its KL exactly.

# %%
mixed = VAE(
    prior={"kind": fam.OneHotCategorical(1, categories=CLASSES), "style": fam.Normal(4)},
    encoder={
        "kind": nn.Sequential(
            networks.MLP(64, WIDTH),
            fam.StraightThroughOneHotCategorical(1, context=WIDTH, categories=CLASSES),
        ),
        "style": nn.Sequential(networks.MLP(64, WIDTH), fam.Normal(4, context=WIDTH)),
    },
    decoder=nn.Sequential(networks.MLP(CLASSES + 4, WIDTH), fam.Bernoulli(64, context=WIDTH)),
)
elbo = TraceExactKL_ELBO(strict=True)
train(
    lambda batch: elbo.differentiable_loss(mixed.model, mixed.guide, batch) / len(batch),
    mixed.parameters(),
    steps=60 if SMOKE else 1500,
)
terms = elbo.terms(mixed.model, mixed.guide, x)
for site in ("kind", "style"):
    print(f"KL of {site:6}{terms[f'kl.{site}'].mean():7.3f} nats, {elbo.routes[site].kind}")

# %% [markdown]
# ## Labels for some: the semi-supervised digits
#
# In a `HierarchicalVAE` the style may depend on the class: p(y) p(z) p(x|y,z), guided by q(y|x)
# q(z|x,y). `skip` lets the decoder see both. Of 100 digits the class is known: there `given` puts
# it in the place of a draw, and log q(y|x) is asked for too. Of the others it is summed over,
#
#     ELBO(x) = sum_y q(y|x) [L(x, y) - log q(y|x)],
#
# here by `summed`, which any ELBO can take, and which leaves the KL of the style exact.

# %%
LATENT, DECODER, STEPS = 4, 64 if SMOKE else 256, 60 if SMOKE else 800
order = torch.randperm(len(x))
labels = digits.train_labels
known = torch.cat([order[labels[order] == k][:10] for k in range(CLASSES)])
x_known, y_known = x[known], one_hot(labels[known], CLASSES).float().unsqueeze(-2)


def classifier():
    head = fam.OneHotCategorical(1, context=WIDTH, categories=CLASSES)
    return nn.Sequential(networks.MLP(64, WIDTH), head)


def standard(y):
    return fam.Normal(LATENT)().expand(y.shape[:-2])


semi = HierarchicalVAE(
    priors={"y": fam.OneHotCategorical(1, categories=CLASSES), "z": standard},
    encoders={
        "y": classifier(),
        "z": nn.Sequential(
            networks.MLP(64 + CLASSES, DECODER), fam.Normal(LATENT, context=DECODER)
        ),
    },
    decoder=nn.Sequential(
        networks.MLP(CLASSES + LATENT, DECODER), fam.Bernoulli(64, context=DECODER)
    ),
    skip=True,
)
labelled = given(semi.model, semi.guide, y=y_known)
every_class = summed(semi.model, semi.guide, "y")
q_y = semi.guide.encoder.y


def semi_supervised(batch):
    unknown = drawn.differentiable_loss(*every_class, batch) / len(batch)
    joint = drawn.differentiable_loss(*labelled, x_known) / len(x_known)
    return unknown + joint - 10 * q_y(x_known).log_prob(y_known).mean()


def accuracy(network):
    with torch.no_grad():
        guessed = network(digits.test).base_dist.logits.squeeze(-2).argmax(-1)
    return (guessed == digits.test_labels).float().mean().item()


alone = classifier()
train(lambda _: -alone(x_known).log_prob(y_known).mean(), alone.parameters(), STEPS)
train(semi_supervised, semi.parameters(), STEPS)
for name, network in (("100 labels alone", alone), ("and 1300 without", q_y)):
    print(f"{name:18}{accuracy(network):7.1%} of {len(digits.test)} right")

# %% [markdown]
# Both networks are of one size and saw the same 100 labels. One run is no proof:
# `python -m tests.benchmarks.semi_supervised` repeats it with standard errors.
