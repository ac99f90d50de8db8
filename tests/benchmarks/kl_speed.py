"""What an exact KL costs beside a sampled one, and how exact that is in the same time.

    python -m tests.benchmarks.kl_speed [--repeats 20]

128 data with 20 latents each, value and gradient with respect to all parameters of both sides, on
one thread. All ways are measured in turn, again and again, so that whatever else the machine does
meets all of them; medians are compared. Errors are those of the mean over data of the KL of a
datum: the sampled KL's is its standard error, from the spread of the log ratio; the exact KL's (in
float64) is measured, against the quadrature with 4,096 nodes, or where there is no line against
mpmath on the first data.
"""

import argparse
import math
import statistics
import sys
import time

import mpmath as mp
import pyro.distributions as dist
import torch
from tabulate import tabulate
from tqdm import tqdm

from pyro_vae import kl
from pyro_vae.kl.line_pairs import Pair
from pyro_vae.kl.lines import line_of
from pyro_vae.kl.quadrature import _sum

DATA, LATENTS = 128, 20
DRAWS = (1, 10, 100, 1000)


def _normal(loc, scale):
    return dist.Normal(loc, scale).to_event(1)


def _full(loc, scale):
    return dist.MultivariateNormal(loc, scale_tril=torch.diag_embed(scale))


def _student(loc, scale):
    return dist.StudentT(torch.tensor(5.0), loc, scale).to_event(1)


def _laplace(loc, scale):
    return dist.Laplace(loc, scale).to_event(1)


def _vector_student(loc, scale):
    return dist.MultivariateStudentT(torch.tensor(5.0), loc, torch.diag_embed(scale))


def _kumaraswamy(loc, scale):
    return dist.Kumaraswamy(1 + loc.exp(), 1 + scale).to_event(1)


def _beta(loc, scale):
    return dist.Beta(1 + loc.exp(), 1 + scale).to_event(1)


# name -> guide, prior
PAIRS = {
    "Normal, Normal (closed)": (_normal, _normal),
    "Normal, Laplace (closed)": (_normal, _laplace),
    "full Normal, multivariate Student-t (closed, one integral)": (_full, _vector_student),
    "Normal, Student-t (quadrature)": (_normal, _student),
    "Laplace, Student-t (quadrature, kinks)": (_laplace, _student),
    "Kumaraswamy, Beta (quadrature)": (_kumaraswamy, _beta),
}


def _leaves():
    g = torch.Generator().manual_seed(0)
    guide = [
        torch.randn(DATA, LATENTS, generator=g),
        torch.rand(DATA, LATENTS, generator=g) + 0.3,
    ]
    prior = [torch.zeros(LATENTS), torch.ones(LATENTS)]
    return [t.requires_grad_() for t in guide], [t.requires_grad_() for t in prior]


def sampled(q, p, draws):
    """The mean of the log ratio over draws, for each datum."""
    x = q.rsample((draws,))
    return (q.log_prob(x) - p.log_prob(x)).mean(0)


def _timed(guide, prior, compute):
    left, right = _leaves()
    begin = time.perf_counter()
    value = compute(guide(*left), prior(*right)).sum()
    torch.autograd.grad(value, left + right)
    return time.perf_counter() - begin


def _spread(guide, prior):
    """The standard deviation of the mean over data of the log ratios of one draw."""
    left, right = _leaves()
    with torch.no_grad():
        q, p = guide(*left), prior(*right)
        x = q.sample((1000,))
        return (q.log_prob(x) - p.log_prob(x)).mean(-1).std().item()


def error(guide, prior):
    """The mean over data of the measured error of the exact value, in float64."""
    left, right = ([t.detach().double() for t in side] for side in _leaves())
    q, p = guide(*left), prior(*right)
    value = kl.divergence(q, p)
    exact = by_mpmath(q, p) if isinstance(p, dist.MultivariateStudentT) else by_nodes(q, p)
    return (value[: len(exact)] - exact).abs().mean().item()


def by_nodes(q, p, nodes=4096):
    """The KL of each datum, by the rule with so many nodes for each latent."""
    batch = torch.Size([DATA, LATENTS])
    lines = (line_of(d.base_dist).mapped(lambda t, n: t.expand(batch)) for d in (q, p))
    pair = Pair(*lines, None)
    parts = [_sum(pair.mapped(lambda t, n, i=i: t[i]), nodes).value for i in range(DATA)]
    return torch.stack(parts).sum(-1)


def by_mpmath(q, p, data=3):
    """KL of a diagonal Normal and a Student-t of unit scale at 0: one integral, in 30 digits."""
    found = []
    with mp.workdps(30):
        df, d = mp.mpf(p.df.item()), LATENTS
        for loc, tril in zip(q.loc[:data], q.scale_tril[:data], strict=True):
            places, scales = (
                list(map(mp.mpf, loc.tolist())),
                list(map(mp.mpf, tril.diag().tolist())),
            )

            def laplace(t, places=places, scales=scales):
                spread = [1 + 2 * t * s * s / df for s in scales]
                drop = sum(m * m / w for m, w in zip(places, spread, strict=True)) * t / df
                return mp.exp(-drop) / mp.sqrt(mp.fprod(spread))

            # E log(1 + Q / df), as log(1 + x) = int (1 - exp(-t x)) exp(-t) / t dt
            ends = [0, 1e-3, 1e-2, 0.1, 0.5, 1, 2, 4, 8, 16, 32, 80]
            mean = mp.quad(lambda t: (1 - laplace(t)) * mp.exp(-t) / t, ends)
            entropy = mp.fsum(mp.log(s) for s in scales) + d * (mp.log(2 * mp.pi) + 1) / 2
            constant = mp.loggamma((df + d) / 2) - mp.loggamma(df / 2) - d * mp.log(df * mp.pi) / 2
            found.append(float((df + d) / 2 * mean - constant - entropy))
    return torch.tensor(found, dtype=torch.float64)


def measured(guide, prior, repeats):
    """Median seconds: exact, and sampled by number of draws."""
    ways = {0: kl.divergence}
    for draws in DRAWS:
        ways[draws] = lambda q, p, n=draws: sampled(q, p, n)
    times = {draws: [] for draws in ways}
    for turn in range(repeats + 2):
        for draws, compute in ways.items():
            taken = _timed(guide, prior, compute)
            if turn > 1:  # two turns to warm up
                times[draws].append(taken)
    return {draws: statistics.median(t) for draws, t in times.items()}


def speed_table(repeats=20, progress=True):
    """Times, ratios and errors, as Markdown."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        for name, (guide, prior) in tqdm(PAIRS.items(), disable=not progress, file=sys.stderr):
            time_of = measured(guide, prior, repeats)
            exact, spread = time_of[0], _spread(guide, prior)
            # draws for which there is time while the exact value is computed
            draws = max(1.0, (exact - time_of[1]) / (time_of[1000] - time_of[1]) * 999 + 1)
            rows.append(
                [
                    name,
                    f"{1000 * exact:.1f} ms",
                    *(f"{time_of[n] / exact:.2g}" for n in DRAWS),
                    f"{error(guide, prior):.0e}",
                    f"{spread / math.sqrt(draws):.0e}",
                ]
            )
    finally:
        torch.set_num_threads(threads)
    heads = ["guide, prior", "exact", *(f"{n} draws / exact" for n in DRAWS)]
    heads += ["error, exact", "error, sampled in that time"]
    return tabulate(rows, heads, "github", disable_numparse=True)


def main():
    """Print the table, and write it to the README."""
    from tests.benchmarks.readme_tables import README, written

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dry", action="store_true", help="print only")
    given = parser.parse_args()
    table = speed_table(given.repeats)
    tqdm.write(table)
    if not given.dry:
        README.write_text(written(README.read_text(), "kl-speed", table))


if __name__ == "__main__":
    main()
