"""What 1300 digits without a label add to 100 with one, over random choices of the 100.

    python -m tests.benchmarks.semi_supervised
    python -m tests.benchmarks.semi_supervised --seeds 20 --out semi_supervised.json

A semi-supervised VAE, y ~ Categorical, z ~ N(0, I), x ~ p(x|y,z), is trained on both. Where y is
unknown its bound is summed over the ten classes (`infer.summed`), the KL of z exact in each; where
it is known (`infer.given`) log q(y|x) is added. Its classifier q(y|x) is compared with a network
of the same size, trained by the same number of steps on the same 100 labels alone; and with that
network at the step at which it happens to do best on the test digits, an advantage that nobody
has.

With --out, what is done is kept after each seed, and is not done again.

Source: Semi-supervised learning with deep generative models (D. P. Kingma, D. J. Rezende,
S. Mohamed, M. Welling, 2014)
"""

import argparse
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyro
import torch
from tabulate import tabulate
from torch import nn
from torch.nn.functional import one_hot
from tqdm.auto import tqdm

from pyro_vae import HierarchicalVAE, datasets, networks
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, given, summed

CLASSES, PIXELS = 10, 64
WAYS = ("labels alone", "labels alone, at its best step", "semi-supervised")


class Settings(NamedTuple):
    """How long and how large."""

    steps: int = 520
    per_class: int = 10
    batch: int = 100
    latent: int = 4
    width: int = 64
    generative: int = 256
    lr: float = 3e-3
    asked: float = 10.0
    """The weight of log q(y|x)."""


class Digits(NamedTuple):
    """Some with labels, all others without, and those to be judged by."""

    known: torch.Tensor
    labels: torch.Tensor
    unknown: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor


def drawn(seed, per_class):
    """So many digits of each class with their labels."""
    digits = datasets.load("digits")
    x, labels = digits.train, digits.train_labels
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    known = torch.cat([order[labels[order] == k][:per_class] for k in range(CLASSES)])
    rest = torch.ones(len(x), dtype=torch.bool)
    rest[known] = False
    test = torch.cat([digits.validation, digits.test])
    test_labels = torch.cat([digits.validation_labels, digits.test_labels])
    return Digits(x[known], labels[known], x[rest], test, test_labels)


def classifier(settings):
    head = fam.OneHotCategorical(1, context=settings.width, categories=CLASSES)
    return nn.Sequential(networks.MLP(PIXELS, settings.width), head)


def vae_of(settings):
    def standard(y):
        return fam.Normal(settings.latent)().expand(y.shape[:-2])

    def net(features):
        return networks.MLP(features, settings.generative)

    return HierarchicalVAE(
        priors={"y": fam.OneHotCategorical(1, categories=CLASSES), "z": standard},
        encoders={
            "y": classifier(settings),
            "z": nn.Sequential(
                net(PIXELS + CLASSES), fam.Normal(settings.latent, settings.generative)
            ),
        },
        decoder=nn.Sequential(
            net(CLASSES + settings.latent), fam.Bernoulli(PIXELS, settings.generative)
        ),
        skip=True,
    )


def train(parameters, loss, settings, after=lambda: None):
    optimizer = torch.optim.Adam(parameters, lr=settings.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps
    )
    for _ in range(settings.steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
        after()


def accuracy(network, digits):
    with torch.no_grad():
        guessed = network(digits.test).base_dist.logits.squeeze(-2).argmax(-1)
    return (guessed == digits.test_labels).double().mean().item()


def run(seed, settings):
    """The accuracies of the three ways, for one choice of labels and start."""
    digits = drawn(seed, settings.per_class)
    y = one_hot(digits.labels, CLASSES).float().unsqueeze(-2)
    torch.manual_seed(seed)
    alone, vae = classifier(settings), vae_of(settings)
    vae.guide.encoder.y.load_state_dict(alone.state_dict())
    best = [0.0]
    train(
        alone.parameters(),
        lambda: -alone(digits.known).log_prob(y).mean(),
        settings,
        lambda: best.append(max(best[-1], accuracy(alone, digits))),
    )
    elbo, q_y = TraceExactKL_ELBO(strict=True), vae.guide.encoder.y
    every_class = summed(vae.model, vae.guide, "y")
    labelled = given(vae.model, vae.guide, y=y)

    def loss():
        batch = digits.unknown[torch.randint(len(digits.unknown), (settings.batch,))]
        return (
            elbo.differentiable_loss(*every_class, batch) / len(batch)
            + elbo.differentiable_loss(*labelled, digits.known) / len(y)
            - settings.asked * q_y(digits.known).log_prob(y).mean()
        )

    train(vae.parameters(), loss, settings)
    return [accuracy(alone, digits), best[-1], accuracy(q_y, digits)]


def all_runs(seeds, settings, out=None):
    """The accuracies by seed, those that are kept in `out` read from there."""
    kept = json.loads(out.read_text()) if out is not None and out.exists() else {}
    if kept.get("settings", settings._asdict()) != settings._asdict():
        raise SystemExit(f"{out} holds runs of other settings; give another file.")
    found = kept.get("accuracies", {})
    for seed in tqdm([s for s in range(seeds) if str(s) not in found], unit="seed"):
        found[str(seed)] = run(seed, settings)
        if out is not None:
            partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
            partial.write_text(json.dumps({"settings": settings._asdict(), "accuracies": found}))
            os.replace(partial, out)
    return np.array([found[str(seed)] for seed in range(seeds)])


def mean(values):
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * values.mean():.1f} +- {100 * error:.1f}"


def table(found):
    """Mean accuracies in percent with standard errors over seeds, and paired differences."""
    ours = found[:, -1]
    rows = [
        [way, *(f"{100 * v:.1f}" for v in column), mean(column), mean(ours - column)]
        for way, column in zip(WAYS, found.T, strict=True)
    ]
    rows[-1][-1] = ""
    seeds = [f"seed {seed}" for seed in range(len(found))]
    return tabulate(
        rows,
        ["% right", *seeds, "mean", "semi-supervised has more"],
        "github",
        disable_numparse=True,
    )


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=Settings().steps)
    parser.add_argument("--out", type=Path, help="keep what is done in this file, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with pyro.validation_enabled(False):
        found = all_runs(options.seeds, Settings(steps=options.steps), options.out)
    print(table(found))  # noqa: T201


if __name__ == "__main__":
    main()
