"""The tables of the README that are computed.

python -m tests.benchmarks.readme_tables            # how many KLs
python -m tests.benchmarks.readme_tables --speed    # and how fast they are (minutes)
"""

import argparse
import re
from pathlib import Path

import torch
from tabulate import tabulate

from pyro_vae.kl.audit import pairs, told, torch_form

README = Path(__file__).parents[2] / "README.md"

# rows of the table, and the spaces of specimens in each
ROWS = {
    "real line": ("real line",),
    "positive half-line": ("positive half-line",),
    "unit interval, intervals": ("unit interval", "interval"),
    "circle, sphere": ("circle",),
    "discrete": (
        "{0, 1}",
        "counts",
        "integers",
        "one-hot vectors",
        "counts of classes",
    ),
    "simplex": ("simplex",),
    "vectors, matrices": (
        "real vectors",
        "positive vectors",
        "positive definite matrices",
        "correlation factors",
    ),
}
# groups that hold the same families again, or wrappers of them
AGAIN = ("masks", "points", "probabilities")

# Read from their sources (TFP c847a41, NumPyro 0b935d4, distrax f51bffc): pairs registered, in
# the order of ROWS; without wrappers (independent, masked, joint, transformed, point masses) and
# without NumPyro's ten-term series of Kumaraswamy || Beta, which is not exact.
# TFP: Normal, Laplace, Gumbel, Cauchy, Moyal, ExpGamma, ExpInverseGamma | Chi, Chi2, Gamma,
# HalfNormal, LogNormal, Pareto, Weibull, Chi2-Gamma, Gamma-Chi2, Weibull-Gamma | Beta,
# ContinuousBernoulli, LogitNormal, Uniform | VonMises, PowerSpherical-uniform,
# PowerSpherical-vMF, vMF-uniform | Bernoulli, Categorical, OneHotCategorical, OrderedLogistic,
# ProbitBernoulli, StoppingRatioLogistic | Dirichlet | MVN, GP-MVN, MVN-GP, MatrixNormal
# NumPyro: Normal | Gamma, Weibull-Gamma | Beta | | Categorical | Dirichlet | MVN,
# normals-circulant
# distrax: Normal, LogStddevNormal, Laplace, Gumbel | Gamma | Beta, Uniform | VonMises |
# Bernoulli, Categorical | Dirichlet, Beta-Dirichlet, Dirichlet-Beta | MVN
OTHERS = {
    "TFP": (7, 10, 4, 4, 6, 1, 4),
    "NumPyro": (1, 2, 1, 0, 1, 1, 2),
    "distrax": (4, 1, 2, 1, 2, 3, 1),
}


def counted():
    """Pairs by row: those with a closed form, by quadrature, and with a form of torch or Pyro."""
    found = {row: [0, 0, 0] for row in ROWS}
    for pair in pairs():
        again = pair.q.group in AGAIN or " of large logits" in pair.q.name
        if again or not pair.q.differentiable:
            continue
        row = next(row for row, spaces in ROWS.items() if pair.q.space in spaces)
        q, p, _ = pair.built()
        route = told(q, p)
        finite = bool(route.finite.any())
        found[row][0] += finite and route.kind == "closed"
        found[row][1] += finite and route.kind == "quadrature"
        found[row][2] += _served(q, p)
    return found


def _served(q, p):
    """Whether torch or Pyro have a finite value of their own."""
    form = torch_form(q, p)
    try:
        return form is not None and bool(torch.as_tensor(form(q, p)).isfinite().any())
    except (NotImplementedError, RuntimeError):  # refused, or shapes that it cannot take
        return False


def counts_table():
    """How many KLs, as Markdown."""
    rows = [
        [row, *found, *(counts[i] for counts in OTHERS.values())]
        for i, (row, found) in enumerate(counted().items())
    ]
    rows.append(["all", *(sum(row[i] for row in rows) for i in range(1, len(rows[0])))])
    heads = ["space of q", "closed", "quadrature", "torch and Pyro", *OTHERS]
    return tabulate(rows, heads, "github")


def written(text, name, table):
    """The README with the table between its markers."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    assert len(marked.findall(text)) == 1, f"the README has no place for {name}"
    return marked.sub(lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text)


def main():
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", action="store_true", help="measure speeds as well")
    given = parser.parse_args()
    text = written(README.read_text(), "kl-counts", counts_table())
    if given.speed:
        from tests.benchmarks.kl_speed import speed_table

        text = written(text, "kl-speed", speed_table())
    README.write_text(text)


if __name__ == "__main__":
    main()
