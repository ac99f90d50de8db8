"""The quadrature under stress: random pairs of all classes, scales 1e-4 ... 1e4.

    python -m tests.benchmarks.quadrature_stress [--draws 30] [--mpmath 1000]

Every possible pair of classes is drawn that many times. A value is accepted at an estimated error
of 1e-7 max(1, KL); its true error is measured against the same rule with 4,096 nodes, and, where
the two disagree beyond 1e-9 and for a random sample of elements, against mpmath.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent / "kl"))

from mp_lines import divergence
from random_lines import RANGES, accepted, attempt, draw, possible

from pyro_vae.kl.lines import line_of
from pyro_vae.kl.quadrature import _frames, _kinks, _Pair, _range, _sum


def parameters(d, i):
    """The parameters of element i of a batch, as numbers."""
    return {n: getattr(d, n).expand(d.batch_shape)[i].item() for n in RANGES[_class(d)]}


def _class(d):
    return next(c for c in RANGES if type(d) is c)


def pair_of(q, p, index):
    """The lines of chosen elements."""
    return _Pair(*(line_of(d).mapped(lambda t, n: t[index]) for d in (q, p)), None)


def marks(q, p, i):
    """Where mpmath needs panels: frames, the frame of p, and kinks."""
    pair = pair_of(q, p, torch.tensor([i]))
    frames = [(f.centre.item(), f.scale.item()) for f in _frames(pair)]
    low, high, ok = _range(pair, _frames(pair))
    kinks = _kinks(pair, low, high)[1:-1] if bool(ok) else []
    if pair.q.chart == pair.p.chart == ():
        frame = pair.p.frame()
        frames.append((frame.centre.item(), frame.scale.item()))
    return frames + [(k.item(), 0.0) for k in kinks]


def oracle(q, p, i):
    """KL of element i by mpmath."""
    given = (_class(q), _class(p), parameters(q, i), parameters(p, i), marks(q, p, i))
    for panel in (0.5, 0.1):
        value, mass = divergence(*given, panel=panel)
        if abs(mass - 1) < 1e-10:
            return value, mass
    raise ArithmeticError(f"mpmath saw a mass of {mass} of {given}")


def run(draws, exact, seed=0, pairs=None, progress=True):
    """Stress pairs (all); returns counts, cases with too low an estimate, errors, and oracles."""
    generator = torch.Generator().manual_seed(seed)
    total, taken, low, worst, cases = Counter(), Counter(), [], [], []
    pairs = possible() if pairs is None else pairs
    for a, b in tqdm(pairs, disable=not progress, file=sys.stderr):
        q, p = draw(a, draws, generator), draw(b, draws, generator)
        with torch.no_grad():
            got = attempt(q, p)
            reference, error = _sum(pair_of(q, p, got.index), 4096)
        good = accepted(got.value, got.error)
        for decade, yes in zip(got.decade.tolist(), good.tolist(), strict=True):
            total[int(decade)] += 1
            taken[int(decade)] += yes
        size = reference.abs().clamp(min=1)
        true = (got.value - reference).abs() / size
        for j in good.nonzero().squeeze(-1).tolist():
            i = int(got.index[j])
            random = torch.rand((), generator=generator).item() < exact / (draws * len(pairs))
            if random or not true[j] <= 1e-9 or not error[j] <= 1e-7 * size[j]:
                value, mass = oracle(q, p, i)
                true[j] = abs(got.value[j].item() - value) / max(1, abs(value))
                cases.append((a.__name__, b.__name__, i, true[j].item(), mass, random))
            if true[j] > got.error[j] / size[j] + 1e-12:
                low.append((a.__name__, b.__name__, i, true[j].item(), got.error[j].item()))
            worst.append(
                (true[j].item(), a.__name__, b.__name__, parameters(q, i), parameters(p, i))
            )
    worst.sort(key=lambda w: -w[0])
    return total, taken, low, worst, cases


def main():
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--mpmath", type=int, default=1000)
    given = parser.parse_args()
    total, taken, low, worst, cases = run(given.draws, given.mpmath)
    tqdm.write(f"{sum(total.values())} finite elements, accepted {share(taken, total):.2%}")
    near = [d for d in total if abs(d) <= 3]
    tqdm.write(f"ratios 1e-3 ... 1e3: {share(taken, total, near):.2%}")
    for decade in sorted(total):
        tqdm.write(f"  1e{decade:+d}: {taken[decade]:5d} of {total[decade]:5d}")
    tqdm.write(f"true error above 1e-7: {sum(w[0] > 1e-7 for w in worst)}; the worst:")
    for w in worst[:8]:
        tqdm.write(f"  {w}")
    tqdm.write(f"estimate below the true error (beyond 1e-12): {len(low)}, of which above 1e-9:")
    for case in [c for c in low if c[3] > 1e-9][:12]:
        tqdm.write(f"  {case}")
    tqdm.write(f"seen by mpmath: {len(cases)}, {sum(c[5] for c in cases)} of them at random")


def share(taken, total, of=None):
    """The share of elements accepted."""
    of = list(total) if of is None else of
    return sum(taken[d] for d in of) / sum(total[d] for d in of)


if __name__ == "__main__":
    main()
