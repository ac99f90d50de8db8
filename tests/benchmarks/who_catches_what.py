"""Which diagnostic catches which guide, where the truth is known in closed form.

python -m tests.benchmarks.who_catches_what
python -m tests.benchmarks.who_catches_what --num-data 200 --num-samples 200 --only calibration

The model is linear and Gaussian (`tests/oracle.py`), so its exact posterior is a guide that must
pass, and every other guide is wrong by a known amount. Every registered diagnostic that has a
verdict is asked: "ok", "care" or "BAD", the worst of its findings.
"""

import argparse
import warnings
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from tabulate import tabulate

from pyro_vae.diagnostics import DIAGNOSTICS
from pyro_vae.diagnostics.shelf import NotApplicable
from tests.oracle import LinearGaussian, example

WORDS = {"good": "ok", "care": "care", "bad": "BAD"}


class Case(NamedTuple):
    """A guide q(z|x) = N(gain (x - b) + shift, covariance) of a model.

    The gain is that of the posterior, or 0 if the guide does not look; `roll` moves data by rows.
    """

    oracle: LinearGaussian
    covariance: torch.Tensor
    shift: torch.Tensor
    looks: bool = True
    roll: int = 0

    def model(self, x):
        oracle = self.oracle
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(oracle.latents), 1.0).to_event(1))
            loc = z @ oracle.weight.T + oracle.bias
            pyro.sample("x", dist.Normal(loc, oracle.variance.sqrt()).to_event(1), obs=x)

    def guide(self, x):
        mean = self.oracle.mean(x.roll(self.roll, 0)) * self.looks + self.shift
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(mean, self.covariance))


def cases(pixels=6, latents=3):
    """The guides by name."""
    oracle = example(pixels, latents)
    dead = oracle._replace(weight=oracle.weight * torch.tensor([1.0, 1.0, 0.0]))
    posterior, none = oracle.covariance, torch.zeros(latents, dtype=torch.float64)
    half = 0.5 * posterior.diagonal().sqrt()
    eye = torch.eye(latents, dtype=torch.float64)
    best = (1 / oracle.precision.diagonal()).diag()
    return {
        "the exact posterior": Case(oracle, posterior, none),
        "best factorised Normal": Case(oracle, best, none),
        "sd x 0.5": Case(oracle, posterior / 4, none),
        "sd x 1.5": Case(oracle, posterior * 2.25, none),
        "mean + 0.5 sd": Case(oracle, posterior, half),
        "data shuffled": Case(oracle, posterior, none, roll=1),
        "q = prior": Case(oracle, eye, none, looks=False),
        "a dead latent, exact": Case(dead, dead.covariance, none),
    }


def verdicts(case, num_data=500, num_samples=500, seed=0, only=None):
    """The worst level of each diagnostic's findings, by name; None where it does not apply."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x = case.oracle.sample(num_data)
    found = {}
    for name, diagnostic in judged(only).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a verdict says it again
            try:
                table = diagnostic(
                    case.model, case.guide, x, num_samples=num_samples, seed=seed, progress=False
                )
            except NotApplicable:
                found[name] = None
                continue
        levels = [f.level for f in diagnostic.step.judge(table)]
        found[name] = max(levels, key=list(WORDS).index, default="good")
    return found


def judged(only=None):
    """The diagnostics that come to a verdict, in the order in which `diagnose` runs them."""
    known = {n: d for n, d in DIAGNOSTICS.items() if hasattr(d, "step")}
    names = sorted(only or known, key=lambda n: known[n].step.order)
    return {n: known[n] for n in names}


def caught_table(num_data=500, num_samples=500, only=None):
    """All guides and diagnostics, as Markdown."""
    rows = []
    for name, case in cases().items():
        found = verdicts(case, num_data, num_samples, only=only)
        rows.append([name, *("-" if v is None else WORDS[v] for v in found.values())])
    return tabulate(rows, ["guide", *judged(only)], "github")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-data", type=int, default=500)
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--only", nargs="*", choices=list(judged()))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(caught_table(given.num_data, given.num_samples, given.only))  # noqa: T201


if __name__ == "__main__":
    main()
