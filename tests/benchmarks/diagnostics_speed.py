"""How fast log weights are drawn and looked at, beside the bare cost of networks and densities.

    python tests/benchmarks/diagnostics_speed.py digits [--images 10000]
    python tests/benchmarks/diagnostics_speed.py psis [--images 10000]
    python tests/benchmarks/diagnostics_speed.py iwae --root PATH [--images 200] [--pythae PATH]

`bare` is what any evaluation needs, in plain torch: the encoder once for each image, S draws,
the decoder on each, and the three log densities, as many rows at a time as is fastest of a few
sizes. `digits` takes k-hat, the ELBO with both KLs and IWAE with their errors of S = 1000
draws for each image; `iwae` the log p(x) of static MNIST with 5000 particles, beside Pythae's
`get_nll` (imported from a checkout, or from what is installed). All in one process, turn about:
a row is the median over rounds of times, and of ratios within a round. Networks are not trained:
time does not depend on it.
"""

import argparse
import importlib
import math
import resource
import statistics
import sys
import time
import warnings

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn

from pyro_vae import VAE, datasets, diagnostics, networks
from pyro_vae import families as fam
from pyro_vae.diagnostics import DiagnosticWarning, Stream, summarised
from pyro_vae.pareto import psis

ROWS = (512, 1024, 2048, 4096)
WORKS = {
    "k-hat, ELBO, IWAE": "k-hat, ELBO and IWAE of 10,000 digits, 1000 draws each",
    "IWAE-5000 and its error": "log p(x) of MNIST, 5000 draws each, with its error",
    "pyro_vae.pareto.psis": "smoothing of 10,000 columns of 1000 log weights",
}
LOG_2PI = math.log(2 * math.pi)


def small_vae(pixels, hidden, latents):
    return VAE(
        prior=fam.Normal(latents),
        encoder=nn.Sequential(networks.MLP(pixels, hidden), fam.Normal(latents, context=hidden)),
        decoder=nn.Sequential(
            networks.MLP(latents, hidden), fam.Bernoulli(pixels, context=hidden)
        ),
    )


@torch.no_grad()
def bare(vae, x, draws, rows):
    """Log weights by hand, a block of 64 images at a time."""
    net, family = vae.model.decoder
    found = []
    for images in x.split(64):
        q = vae.guide.encoder.z(images).base_dist
        noise = torch.randn(draws, *q.loc.shape)
        z = q.loc + q.scale * noise
        log_q = (-0.5 * noise.square() - q.scale.log() - LOG_2PI / 2).sum(-1)
        log_p = (-0.5 * z.square() - LOG_2PI / 2).sum(-1)
        fits = []
        for some in z.split(max(1, rows // len(images))):
            logits = family.head(net(some))
            target = images.expand_as(logits)
            fits.append(
                -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
            )
        found.append((torch.cat(fits) + log_p - log_q).double())
    return torch.cat(found, 1)


def ours(vae, x, draws, kinds):
    """The diagnostics named, from one pass of draws."""
    stream = Stream(vae.model, vae.guide, x, num_samples=draws, exact_kl=True, progress=False)
    return summarised(kinds, stream)


def timed(work, clock):
    start = clock()
    result = work()
    return clock() - start, result


def turn_about(works, rounds, clock):
    """The times of each work in each round, after one round that does not count."""
    times = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            seconds, _ = timed(work, clock)
            if round_:
                times[name].append(seconds)
    return times


def told(times, images):
    base = next(iter(times))
    for name, seconds in times.items():
        each = 1e3 * statistics.median(seconds) / images
        beside = f"{ratio(times, name, base):>8.2f} x {base}"
        sys.stdout.write(f"{name:<28}{each:>10.3f} ms an image{beside}\n")
    sys.stdout.write(f"peak memory of the process: {peak():.2f} GiB\n")


def peak():
    """The most memory that the process has had so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def ratio(times, name, base):
    """How many times as long as the base one takes, the median over rounds."""
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def best_rows(vae, x, draws, clock):
    """How many rows at a time suit the bare decoder best on this machine."""
    few = x[:64]
    times = turn_about({r: lambda r=r: bare(vae, few, draws, r) for r in ROWS}, 2, clock)
    return min(ROWS, key=lambda r: min(times[r]))


def digits(args, clock):
    torch.manual_seed(0)
    vae = small_vae(64, 128, 8)
    x = datasets.load("digits").train
    count = args.images or 10_000
    x = x.repeat(-(-count // len(x)), 1)[:count]
    rows = best_rows(vae, x, 1000, clock)
    kinds = [diagnostics.pareto_k, diagnostics.elbo, diagnostics.iwae]
    works = {
        f"bare, {rows} rows": lambda: bare(vae, x, 1000, rows),
        "k-hat, ELBO, IWAE": lambda: ours(vae, x, 1000, kinds),
    }
    return turn_about(works, args.rounds, clock), count


def smoothing(args, clock):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz as az
    torch.manual_seed(0)
    count = args.images or 10_000
    log_weights = torch.randn(1000, count, dtype=torch.float64)
    array = log_weights.mT.contiguous().numpy()
    works = {
        f"arviz {az.__version__}": lambda: az.psislw(array),
        "pyro_vae.pareto.psis": lambda: psis(log_weights),
    }
    return turn_about(works, args.rounds, clock), count


def iwae(args, clock):
    torch.manual_seed(0)
    vae = small_vae(784, 400, 20)
    count = args.images or 200
    x = datasets.load("static_mnist", root=args.root).test[:count]
    rows = best_rows(vae, x, 1000, clock)
    works = {
        f"bare, {rows} rows": lambda: bare(vae, x, 5000, rows),
        "IWAE-5000 and its error": lambda: ours(vae, x, 5000, [diagnostics.iwae]),
    }
    if args.pythae is not None:
        works["Pythae get_nll"] = pythae(args.pythae, x)
    return turn_about(works, args.rounds, clock), count


def pythae(path, x):
    """Pythae's VAE with networks of the same sizes, at the batch size that suits it best."""
    sys.path.append(path)
    models = importlib.import_module("pythae.models")
    bases = importlib.import_module("pythae.models.nn")
    outputs = importlib.import_module("pythae.models.base.base_utils")

    class Encoder(bases.BaseEncoder):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(784, 400), nn.ReLU())
            self.mean, self.log_var = nn.Linear(400, 20), nn.Linear(400, 20)

        def forward(self, x):
            h = self.net(x.flatten(1))
            return outputs.ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))

    class Decoder(bases.BaseDecoder):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid()
            )

        def forward(self, z):
            return outputs.ModelOutput(reconstruction=self.net(z))

    config = models.VAEConfig(input_dim=(784,), latent_dim=20, reconstruction_loss="bce")
    model = models.VAE(config, Encoder(), Decoder()).eval()

    @torch.no_grad()
    def nll(images, batch_size):
        return model.get_nll(images, n_samples=5000, batch_size=batch_size)

    sizes = (100, 500, 1000)
    seconds = {s: timed(lambda s=s: nll(x[:4], s), time.perf_counter)[0] for s in sizes}
    best = min(sizes, key=seconds.__getitem__)
    return lambda: nll(x, best)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("digits", "psis", "iwae"))
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="of a machine that others use")
    parser.add_argument("--root", help="of static MNIST")
    parser.add_argument("--pythae", help="a checkout")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", DiagnosticWarning)
    clock = time.process_time if args.cpu_time else time.perf_counter
    told(*{"digits": digits, "psis": smoothing, "iwae": iwae}[args.what](args, clock))


def speed_table(root=None, pythae=None):
    """All of them as Markdown, with one thread; a row is missing where its data are."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DiagnosticWarning)
    rows = []
    for work, images, rounds in ((digits, 10_000, 3), (iwae, 100, 5), (smoothing, 10_000, 5)):
        if work is iwae and root is None:
            continue
        given = argparse.Namespace(images=images, rounds=rounds, root=root, pythae=pythae)
        times, _ = work(given, time.perf_counter)
        base, name, *others = times
        each = 1e3 * statistics.median(times[name]) / images
        beside = [f"{ratio(times, name, b):.2f} x {b.partition(',')[0]}" for b in (base, *others)]
        # that of what comes first: later ones share the process, with others in it
        memory = "" if rows else f"{peak():.2f} GiB"
        rows.append([WORKS[name], f"{each:.3f}", ", ".join(beside), memory])
    heads = ["what", "ms each", "time", "memory of the process"]
    return tabulate(rows, heads, "github", disable_numparse=True)


if __name__ == "__main__":
    main()
