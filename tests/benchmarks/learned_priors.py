"""What a learned prior is worth: held-out log p(x) of digits, beside that of N(0, I).

    python -m tests.benchmarks.learned_priors OUT

For each seed all priors have the same encoder and decoder to start with, the same batches, and
early stopping on the same held-out digits; log p(x) of the test digits is by importance sampling.
Differences to N(0, I) are taken seed by seed, and their standard error is over seeds.

Finished runs are kept in the folder OUT: the same command, started again, goes on, and several
may run at once, `--seeds 0 1` and `--seeds 2 3 4`.
"""

import argparse
import dataclasses
import json
import math
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyro
import torch
from tabulate import tabulate
from torch import nn
from tqdm.auto import tqdm

from pyro_vae import VAE, datasets, diagnostics, fit, networks
from pyro_vae import families as fam
from pyro_vae.infer import NotCapturable
from pyro_vae.pairings.store import code_digest, digest

PLAIN = "N(0, I)"
# family and options of each prior
PRIORS = {
    PLAIN: ("Normal", {}),
    "Normal, learned": ("Normal", {"learnable": True}),
    "mixture of Normals": ("Mixture", {"learnable": True}),
    "VampPrior": ("VampPrior", {}),
    "RealNVP": ("RealNVP", {"learnable": True}),
    "MAF": ("MAF", {"learnable": True}),
    "NSF": ("NSF", {"learnable": True}),
}
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Plan:
    """How every prior is trained and judged."""

    latent: int = 8
    hidden: int = 128
    components: int = 50
    epochs: int = 400
    patience: int = 40
    batch_size: int = 100
    learning_rate: float = 2e-3
    particles: int = 5000
    data: int = 0
    """How many of the training digits are used; 0 for all."""


def missing(priors):
    """Those whose family cannot be made here."""
    return [name for name in priors if getattr(fam, PRIORS[name][0]).available()]


def vae_of(prior, plan, x, seed):
    """Encoder and decoder are made first, so that they start alike beside every prior."""
    torch.manual_seed(seed)
    latent, hidden, size = plan.latent, plan.hidden, x.shape[1]
    encoder = nn.Sequential(networks.MLP(size, hidden), fam.Normal(latent, context=hidden))
    decoder = nn.Sequential(networks.MLP(latent, hidden), fam.Bernoulli(size, context=hidden))
    family, options = PRIORS[prior]
    if family == "VampPrior":
        rows = x[torch.randperm(len(x))[: plan.components]]
        p = fam.VampPrior(encoder, inputs=rows, **options)
    elif family == "Mixture":
        p = getattr(fam, family)(latent, components=plan.components, **options)
    else:
        p = getattr(fam, family)(latent, **options)
    return VAE(prior=p, encoder=encoder, decoder=decoder)


def trained(prior, plan, data, seed):
    """A fitted VAE, and the history of the fit."""
    x = data.train[: plan.data or None]

    def fitted(capture):
        vae = vae_of(prior, plan, x, seed)
        history = fit(
            vae,
            x,
            validation=data.validation,
            optimizer=lambda p: torch.optim.Adam(p, lr=plan.learning_rate),
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            patience=plan.patience,
            capture=capture,
            compile=False,
            progress=False,
            seed=seed,
        )
        return vae, history

    try:
        return fitted(True)
    except NotCapturable:
        return fitted(False)


def measured(prior, plan, data, seed):
    """One run: held-out log p(x), ELBO and mean KL, in nats a digit."""
    start = time.perf_counter()
    vae, history = trained(prior, plan, data, seed)
    seconds, x = time.perf_counter() - start, data.test
    with warnings.catch_warnings():
        # the share of digits whose weights have a heavy tail is part of the result
        warnings.simplefilter("ignore", diagnostics.DiagnosticWarning)
        found = diagnostics.iwae(
            vae.model, vae.guide, x, num_samples=plan.particles, seed=seed, progress=False
        )
    return {
        "prior": prior,
        "seed": seed,
        "log_px": float(found.iwae.mean()),
        "std_error": found.attrs["iwae_mean_std_error"],
        "gap": found.attrs["iwae_gap_mean"],
        "unreliable": found.attrs["iwae_unreliable_share"],
        "epochs": history.attrs["best_epoch"] + 1,
        "parameters": sum(p.numel() for p in vae.model.prior.parameters() if p.requires_grad)
        - sum(p.numel() for p in _shared(vae)),
        "seconds": seconds,
    }


def _shared(vae):
    theirs = {id(p) for p in vae.guide.parameters()}
    return [p for p in vae.model.prior.parameters() if p.requires_grad and id(p) in theirs]


def run(out, priors=tuple(PRIORS), seeds=SEEDS, plan=None, *, progress=True):
    """Run what is not finished yet, and return the results; one file each in the folder."""
    plan, out, results = plan or Plan(), Path(out), []
    out.mkdir(parents=True, exist_ok=True)
    data = datasets.load("digits")
    versions = {"torch": str(torch.__version__), "pyro": pyro.__version__}
    context = digest({**dataclasses.asdict(plan), **versions, "code": code_digest()})
    # by seed first, so that what is there when it is stopped can be compared
    cells = [(prior, seed) for seed in seeds for prior in priors]
    for prior, seed in tqdm(cells, disable=not progress, unit="run"):
        label = "".join(c for c in prior if c.isalnum())
        path = out / f"{label}-{seed}-{context[:16]}.json"
        if not path.exists():
            found = {**measured(prior, plan, data, seed), "context": context}
            partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
            partial.write_text(json.dumps(found, indent=2) + "\n")
            os.replace(partial, path)
        results.append(json.loads(path.read_text()))
    return results


def stored(out):
    """All results of a folder, which must be of one plan and one version of the code."""
    results = [json.loads(path.read_text()) for path in sorted(Path(out).glob("*.json"))]
    if len({r["context"] for r in results}) != 1:
        raise ValueError(f"{out} holds runs of no plan, or of several; give each a folder.")
    return sorted(results, key=lambda r: (list(PRIORS).index(r["prior"]), r["seed"]))


def differences(results, prior):
    """log p(x) less that beside N(0, I), seed by seed."""
    by = {(r["prior"], r["seed"]): r["log_px"] for r in results}
    return np.array([v - by[PLAIN, s] for (p, s), v in by.items() if p == prior])


def mean_and_error(values):
    """The mean, and its standard error over seeds, as text."""
    if len(values) < 2:
        return f"{np.mean(values):.2f}"
    return f"{np.mean(values):.2f} +- {np.std(values, ddof=1) / math.sqrt(len(values)):.2f}"


def prior_table(results):
    """The table of the README."""
    rows = []
    for prior in dict.fromkeys(r["prior"] for r in results):
        mine = [r for r in results if r["prior"] == prior]
        gains = differences(results, prior)
        rows.append(
            [
                prior,
                mean_and_error([r["log_px"] for r in mine]),
                "-" if prior == PLAIN else mean_and_error(gains),
                "-" if prior == PLAIN else f"{int((gains > 0).sum())} of {len(gains)}",
                f"{np.mean([r['gap'] for r in mine]):.2f}",
                mine[0]["parameters"],
                f"{np.mean([r['epochs'] for r in mine]):.0f}",
            ]
        )
    heads = [
        *("prior", "log p(x)", f"less that of {PLAIN}", "seeds won", "log p(x) - ELBO"),
        *("parameters of its own", "epochs"),
    ]
    worst = max(r["std_error"] for r in results)
    share = np.mean([r["unreliable"] for r in results])
    note = (
        f"Nats a digit; +- over seeds. The standard error of importance sampling is at most "
        f"{worst:.3f}; k-hat is high for {100 * share:.1f} % of digits."
    )
    table = tabulate(rows, heads, tablefmt="github", disable_numparse=True)
    return f"{table}\n\n{note}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="the folder of finished runs")
    parser.add_argument("--priors", nargs="+", choices=list(PRIORS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    for field in dataclasses.fields(Plan):
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, type=field.type, default=field.default)
    given = parser.parse_args()
    plan = Plan(**{f.name: getattr(given, f.name) for f in dataclasses.fields(Plan)})
    priors = given.priors or list(PRIORS)
    if lacking := missing(priors):
        tqdm.write(f"cannot be made here, and left out: {', '.join(lacking)}")
    torch.set_num_threads(1)
    kept = [PLAIN, *(p for p in priors if p not in (PLAIN, *lacking))]
    tqdm.write(prior_table(run(given.out, kept, given.seeds, plan)))


if __name__ == "__main__":
    main()
