"""How much less noisy a gradient is when particles lean on each other.

    gain = total variance of the gradient by random draws / by antithetic or quasi-random ones,

at equal numbers of particles and equal cost, for the guide's and the model's parameters apart:

    python -m tests.benchmarks.noise_gain

Variances are over calls of one captured ELBO at fixed parameters; a gain's relative standard
error, from batches of the calls, stands beside it.
"""

import argparse

import torch
from tabulate import tabulate
from torch import nn
from tqdm.auto import tqdm

from pyro_vae import VAE, datasets, fit, networks
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, TraceSTL_ELBO, capture

PARTICLES = (2, 8, 32)
ELBOS = {
    "TraceExactKL_ELBO": TraceExactKL_ELBO,
    "TraceSTL_ELBO": TraceSTL_ELBO,
    "TraceIWAE_ELBO, dreg": lambda k, **options: TraceIWAE_ELBO(k, "dreg", **options),
}
BATCHES = 8


def vae_of(x, family, latents=8, width=64):
    torch.manual_seed(0)
    vae = VAE(
        getattr(fam, family)(latents),
        nn.Sequential(networks.MLP(64, width), getattr(fam, family)(latents, context=width)),
        nn.Sequential(networks.MLP(latents, width), fam.Bernoulli(64, context=width)),
    )
    fit(vae, x, epochs=10, progress=False, seed=0)
    return vae


def gradients(captured, module, x, count):
    """The gradient of the module's parameters in `count` calls, one row each."""
    rows = []
    parameters = list(module.parameters())
    for seed in range(count):
        torch.manual_seed(seed)
        for p in parameters:
            p.grad = None
        captured(x)
        rows.append(torch.cat([p.grad.reshape(-1) for p in parameters]))
    return torch.stack(rows).double()


def gain(plain, leaning):
    """The ratio of total variances and its standard error, from batches of calls."""
    ratios = torch.stack(
        [
            a.var(0).sum() / b.var(0).sum()
            for a, b in zip(plain.chunk(BATCHES), leaning.chunk(BATCHES), strict=True)
        ]
    )
    error = ratios.std() / len(ratios) ** 0.5
    return f"{ratios.mean().item():.2g} +- {error.item():.1g}"


def row(vae, name, particles, x, count):
    options = {"vectorize_particles": True, "max_plate_nesting": 1}
    elbo = ELBOS[name](particles, **options)
    cells = []
    of = {
        kind: capture(elbo, vae.model, vae.guide, x, noise=kind)
        for kind in ("random", "antithetic", "quasi")
    }
    for module in (vae.guide, vae.model):
        plain = gradients(of["random"], module, x, count)
        for kind in ("antithetic", "quasi"):
            cells.append(gain(plain, gradients(of[kind], module, x, count)))
    return cells


def gain_table(count=200, families=("Normal", "Laplace"), particles=PARTICLES):
    """The table of the README."""
    x = datasets.load("digits").train
    rows = []
    for family in families:
        vae = vae_of(x, family)
        for name in ELBOS:
            for k in tqdm(particles, desc=f"{family}, {name}"):
                rows.append([family, name, k, *row(vae, name, k, x[:64], count)])
    headers = [
        *("guide and prior", "ELBO", "particles"),
        *("guide, antithetic", "guide, quasi", "decoder, antithetic", "decoder, quasi"),
    ]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="calls for each variance")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tqdm.write(gain_table(given.count))


if __name__ == "__main__":
    main()
