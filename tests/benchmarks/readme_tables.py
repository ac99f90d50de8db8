"""The tables of the README that are computed.

python -m tests.benchmarks.readme_tables                # the shelf, and how many KLs
python -m tests.benchmarks.readme_tables --speed        # and how fast they are (minutes)
python -m tests.benchmarks.readme_tables --spheres      # and how fast draws on the sphere are
python -m tests.benchmarks.readme_tables --diagnostics  # and which of them catches what (a minute)
python -m tests.benchmarks.readme_tables --diagnostics-speed [ROOT [PYTHAE]]   # how fast they are
python -m tests.benchmarks.readme_tables --learned-priors OUT   # and what `learned_priors` found
python -m tests.benchmarks.readme_tables --matrix OUT   # and what `compare --out OUT` found
"""

import argparse
import json
import re
import sys
from pathlib import Path

import torch
import xarray as xr
from tabulate import tabulate
from tqdm.auto import tqdm

from pyro_vae import families as fam
from pyro_vae.kl.audit import pairs, told, torch_form
from pyro_vae.pairings import catalogue, kinds
from pyro_vae.supports import space_of

README = Path(__file__).parents[2] / "README.md"

ELSEWHERE = {
    "transported": "wherever the prior lives",
    "vamp_prior": "wherever the guide lives",
    "mixture": "wherever its components live",
    "product": "where its blocks live, side by side",
}

# rows of the table, and the spaces of specimens in each
ROWS = {
    "real line": ("real line",),
    "positive half-line": ("positive half-line",),
    "unit interval, intervals": ("unit interval", "interval"),
    "circle, sphere": ("circle", "sphere"),
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
AGAIN = (
    "masks",
    "points",
    "probabilities",
    "wide scales on the line",
    "wide scales on the half-line",
    "wide Paretos",
    "wide concentrations",
    "one temperature",
)

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


def shelf_table():
    """The families by space and roles, as Markdown."""
    groups = {}
    for name, cls in fam.registry.items():
        space = space_of(cls.example().support).name
        place = ELSEWHERE.get(name, space)
        roles = ", ".join(r for r in ("prior", "guide", "likelihood") if r in cls.roles)
        groups.setdefault((place, roles), []).append(f"`{cls.__name__}`")
    rows = [[", ".join(sorted(names)), *group] for group, names in groups.items()]
    return tabulate(rows, ["family", "space", "roles"], "github")


def routes_table():
    """How many pairs the shelf makes, by space and route, as Markdown."""
    return tabulate(catalogue.counts(kinds()), catalogue.HEADS, "github")


ROUTES = {"closed": "c", "quadrature": "q", "sampled": "s", "infinite": "i"}


def matrix_tables(found):
    """A comparison of all pairs, as Markdown: one table for each space of priors."""
    trained, failed = int(found["admissible"].sum()), int((found["failure"] != "").sum())
    settings = json.loads(found.attrs["settings"])
    minutes = float(found["seconds"].sum()) / 60
    parts = [
        f"{trained} pairs, {failed} failed; {settings['epochs']} epochs a pair, {minutes:.0f} "
        f"minutes in all. ELBO in nats per held-out digit, and the route of the KL: "
        "(c) closed form, (q) quadrature, (s) sampled, (i) infinite, and then there is no ELBO."
    ]
    for space in dict.fromkeys(found["prior_space"].values.tolist()):
        block = found.isel(prior=found["prior_space"].values == space)
        block = block.isel(guide=(block["admissible"] == 1).any("prior").values)
        heads = ["guide", *block["prior"].values]
        rows = [
            [name, *(_cell(block.sel(guide=name, prior=p)) for p in heads[1:])]
            for name in block["guide"].values
        ]
        title = f"priors: {space} ({len(heads) - 1} with {len(rows)} guides)"
        parts += [
            f"<details><summary>{title}</summary>",
            tabulate(rows, heads, "github"),
            "</details>",
        ]
    return "\n\n".join(parts)


def _found(folder):
    return xr.load_dataset(Path(folder) / "comparison.nc", engine="h5netcdf")


def _cell(cell):
    if not int(cell["admissible"]):
        return "-"
    if str(cell["failure"].item()):
        return "failed"
    value, kind = float(cell["elbo_per_datum"]), str(cell["kl_route"].item())
    # a pair may become infinite as its parameters are trained
    return f"{value:.1f} ({ROUTES[kind]})" if abs(value) < float("inf") else "(i)"


def written(text, name, table):
    """The README with the table between its markers."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    assert len(marked.findall(text)) == 1, f"the README has no place for {name}"
    return marked.sub(lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text)


def main():
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", action="store_true", help="measure speeds as well")
    parser.add_argument(
        "--spheres",
        nargs="*",
        metavar="PATH",
        help="measure draws on the sphere, beside the packages found there",
    )
    parser.add_argument("--diagnostics", action="store_true", help="run every diagnostic")
    parser.add_argument(
        "--diagnostics-speed",
        nargs="*",
        metavar="PATH",
        help="measure them: where static MNIST lies, and a checkout of Pythae (minutes)",
    )
    parser.add_argument("--matrix", metavar="OUT", help="the folder of a comparison")
    parser.add_argument("--learned-priors", metavar="OUT", help="the folder of finished runs")
    given = parser.parse_args()
    text = written(README.read_text(), "kl-counts", counts_table())
    text = written(text, "shelf", shelf_table())
    text = written(text, "routes", routes_table())
    if given.matrix:
        text = written(text, "matrix", matrix_tables(_found(given.matrix)))
    if given.learned_priors:
        from tests.benchmarks import learned_priors

        table = learned_priors.prior_table(learned_priors.stored(given.learned_priors))
        text = written(text, "learned-priors", table)
    if given.speed:
        from tests.benchmarks import elbo_speed, noise_gain
        from tests.benchmarks.kl_speed import speed_table

        text = written(text, "kl-speed", speed_table())
        text = written(text, "elbo-speed", elbo_speed.speed_table())
        text = written(text, "noise-gain", noise_gain.gain_table())
    if given.spheres is not None:
        from tests.benchmarks import spheres_speed

        sys.path[:0] = given.spheres
        torch.set_num_threads(1)
        times = spheres_speed.measured(*spheres_speed.known_packages())
        tqdm.write(spheres_speed.speed_table(times))
        text = written(text, "spheres-speed", spheres_speed.short_table(times))
    if given.diagnostics:
        from tests.benchmarks.who_catches_what import caught_table

        text = written(text, "who-catches-what", caught_table())
    if given.diagnostics_speed is not None:
        from tests.benchmarks import diagnostics_speed

        text = written(
            text, "diagnostics-speed", diagnostics_speed.speed_table(*given.diagnostics_speed)
        )
    README.write_text(text)


if __name__ == "__main__":
    main()
