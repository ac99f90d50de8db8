"""The quadrature under stress: random pairs of all classes, scales 1e-4 ... 1e4.

    python -m tests.benchmarks.quadrature_stress [--draws 30] [--mpmath 1200]

Every possible pair of classes is drawn that many times. A value is accepted at an estimated error
of 1e-7 max(1, KL); its true error is measured against the same rule with 4,096 nodes, and, where
the two disagree beyond 1e-9 and for a random sample of elements, against mpmath. Derivatives are
taken by the logarithm of a parameter (by loc / scale for a loc), and their error is in units of
max(1, KL, derivative), against the rule with 4,096 nodes.

Where the rule found no range, mpmath says whether the KL exceeds the largest float64 (1.8e308):
such elements have no value to be accepted, and are counted apart.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tabulate import tabulate
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent / "kl"))

from mp_lines import beyond_float64, divergence
from random_lines import RANGES, accepted, attempt, build, draw, parameter, possible

from pyro_vae.kl import line_pairs
from pyro_vae.kl.line_pairs import Pair, extent, frames_of
from pyro_vae.kl.lines import line_of
from pyro_vae.kl.quadrature import _sum


@dataclass
class Report:
    """What came of a run; counts are by decade of scale ratio."""

    total: Counter = field(default_factory=Counter)
    taken: Counter = field(default_factory=Counter)
    beyond: Counter = field(default_factory=Counter)
    errors: list = field(default_factory=list)
    gradients: list = field(default_factory=list)
    low: list = field(default_factory=list)
    oracle: list = field(default_factory=list)

    def share(self, decades=None):
        """The share accepted of the elements whose KL is a float64."""
        decades = list(self.total) if decades is None else decades
        return sum(self.taken[d] for d in decades) / sum(
            self.total[d] - self.beyond[d] for d in decades
        )

    def near(self):
        """The decades of ratios 1e-3 ... 1e3."""
        return [d for d in sorted(self.total) if abs(d) <= 3]


def class_of(d):
    return next(c for c in RANGES if type(d) is c)


def parameters(d, i):
    """The parameters of element i of a batch, as numbers."""
    return {n: parameter(d, n).expand(d.batch_shape)[i].item() for n in RANGES[class_of(d)]}


def pair_of(q, p, index):
    """The lines of chosen elements."""
    return Pair(*(line_of(d).mapped(lambda t, n: t[index]) for d in (q, p)), None)


def marks(q, p, i):
    """Where mpmath needs panels: frames, the frame of p, and kinks."""
    pair = pair_of(q, p, torch.tensor([i]))
    frames = [(f.centre.item(), f.scale.item()) for f in frames_of(pair)]
    low, high, ok = extent(pair)
    kinks = line_pairs.panels(pair, low, high)[1:-1] if bool(ok) else []
    if pair.q.chart == pair.p.chart == ():
        frame = pair.p.frame()
        frames.append((frame.centre.item(), frame.scale.item()))
    return frames + [(k.item(), 0.0) for k in kinks]


def oracle(q, p, i, panels=(0.5, 0.1)):
    """KL of element i by mpmath."""
    given = (class_of(q), class_of(p), parameters(q, i), parameters(p, i), marks(q, p, i))
    for panel in panels:
        value, mass = divergence(*given, panel=panel)
        if abs(mass - 1) < 1e-10:
            return value, mass
    raise ArithmeticError(f"mpmath saw a mass of {mass} of {given}")


def derivatives(q, p, of, keep):
    """The derivatives of values of chosen elements by their parameters, each in its unit."""
    leaves, units, sides = [], [], []
    for d in (q, p):
        values = {n: parameter(d, n).detach()[keep].requires_grad_() for n in RANGES[class_of(d)]}
        leaves += values.values()
        units += [values["scale"] if n == "loc" else v.detach().abs() for n, v in values.items()]
        sides.append(build(class_of(d), **values))
    value = of(*sides)
    found = torch.autograd.grad(value.sum(), leaves, allow_unused=True, materialize_grads=True)
    return torch.stack([g * u.detach() for g, u in zip(found, units, strict=True)])


def gradient_errors(q, p, keep):
    """The largest error of the derivatives of each element."""
    fine = []

    def reference(a, b):
        fine.append(_sum(pair_of(a, b, torch.arange(len(keep))), 4096).value)
        return fine[0]

    ours = derivatives(q, p, lambda a, b: attempt(a, b).value, keep)
    exact = derivatives(q, p, reference, keep)
    size = torch.maximum(exact.abs(), fine[0].detach().abs().clamp(min=1))
    return ((ours - exact).abs() / size).amax(0)


def run(draws, exact, seed=0, pairs=None, progress=True):
    """Stress pairs (all), a random number of about `exact` elements also against mpmath."""
    generator = torch.Generator().manual_seed(seed)
    told = Report()
    pairs = possible() if pairs is None else pairs
    for a, b in tqdm(pairs, disable=not progress, file=sys.stderr):
        q, p = draw(a, draws, generator), draw(b, draws, generator)
        with torch.no_grad():
            got = attempt(q, p)
            reference, error = _sum(pair_of(q, p, got.index), 4096)
            centre, scale = line_of(q).frame()
        good = accepted(got.value, got.error)
        names = (a.__name__, b.__name__)
        for j, decade in enumerate(got.decade.long().tolist()):
            i = int(got.index[j])
            told.total[decade] += 1
            told.taken[decade] += int(good[j])
            if got.value[j].isnan():
                given = (a, b, parameters(q, i), parameters(p, i))
                told.beyond[decade] += beyond_float64(*given, centre[i].item(), scale[i].item())
        size = reference.abs().clamp(min=1)
        true = (got.value - reference).abs() / size
        for j in good.nonzero().squeeze(-1).tolist():
            i = int(got.index[j])
            random = torch.rand((), generator=generator).item() < exact / (draws * len(pairs))
            if random or not true[j] <= 1e-9 or not error[j] <= 1e-7 * size[j]:
                value, mass = oracle(q, p, i)
                true[j] = abs(got.value[j].item() - value) / max(1, abs(value))
                if true[j] > 1e-9:
                    # most of a KL of 1e50 may lie where q has no mass to be checked
                    value, mass = oracle(q, p, i, panels=(0.05,))
                    true[j] = abs(got.value[j].item() - value) / max(1, abs(value))
                told.oracle.append((*names, i, true[j].item(), mass, random))
            if true[j] > got.error[j] / size[j] + 1e-12:
                told.low.append((*names, i, true[j].item(), got.error[j].item()))
            told.errors.append((true[j].item(), *names, parameters(q, i), parameters(p, i)))
        keep = got.index[good]
        if len(keep):
            for i, wrong in zip(keep.tolist(), gradient_errors(q, p, keep).tolist(), strict=True):
                told.gradients.append((wrong, *names, parameters(q, i), parameters(p, i)))
    told.errors.sort(key=lambda w: -w[0])
    # NaN first
    told.gradients.sort(key=lambda w: w[0] if w[0] == w[0] else torch.inf, reverse=True)
    return told


def main():
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--mpmath", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    told = run(given.draws, given.mpmath, given.seed)
    rows = [
        [f"1e{d:+d}", told.taken[d], told.total[d], told.beyond[d], f"{told.share([d]):.2%}"]
        for d in sorted(told.total)
    ]
    heads = ["scale ratio", "accepted", "of", "KL beyond float64", "share of the rest"]
    tqdm.write(tabulate(rows, heads, "github"))
    tqdm.write(f"{sum(told.total.values())} finite elements; accepted {told.share():.2%}")
    tqdm.write(f"ratios 1e-3 ... 1e3: {told.share(told.near()):.2%}")
    tqdm.write(f"true error above 1e-7: {sum(w[0] > 1e-7 for w in told.errors)}; the worst:")
    for w in told.errors[:8]:
        tqdm.write(f"  {w}")
    tqdm.write(f"derivatives: {sum(not w[0] <= 1e-6 for w in told.gradients)} beyond 1e-6:")
    for w in told.gradients[:8]:
        tqdm.write(f"  {w}")
    tqdm.write(f"estimate below the true error (beyond 1e-12): {len(told.low)}; above 1e-9:")
    for case in [c for c in told.low if c[3] > 1e-9][:12]:
        tqdm.write(f"  {case}")
    tqdm.write(f"seen by mpmath: {len(told.oracle)}, {sum(c[5] for c in told.oracle)} at random")


if __name__ == "__main__":
    main()
