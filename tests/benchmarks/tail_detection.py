"""How often Pareto k of the log ratios tells an infinite KL from a finite one.

    python -m tests.benchmarks.tail_detection [--repeats 200] [--draws 1000 10000]

All pairs of specimens on the line whose KL is decided by their tails are drawn from, setting by
setting. The share of runs in which k exceeds 0.7, or 1, is the rate of detection where the KL is
infinite, and that of false alarms where it is finite. (What is infinite by a support needs no
index: a draw outside gives it away.) Pairs are sorted by theory: with the log ratio f,
P(f > t) ~ t^(-1 / k), k = 1 the border of an infinite mean and k = 1/2 that of an infinite
variance; on the ladder of `pyro_vae.kl.tails` k is

    tail of q and growth of -log p on one level: growth / tail, of rates (levels 0 and 1) or, at
    equal rates, of factors (2 and 3); the growth on a lower step: 0; on a higher one: infinite.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

from pyro_vae import kl
from pyro_vae.kl.audit import Pair, pairs
from pyro_vae.kl.ends import End, ends_of
from pyro_vae.kl.finiteness import finiteness
from pyro_vae.kl.specimens import SETTINGS
from pyro_vae.kl.tails import LOG

LIMITS = (0.7, 1.0)
CLASSES = (
    "k > 5",
    "1.25 <= k <= 5",
    "1 <= k < 1.25",
    "0.7 <= k < 1",
    "0.5 <= k < 0.7",
    "0 < k < 0.5",
    "k = 0",
)


class Case(NamedTuple):
    """One setting of a pair, whose KL a rule has decided by the tails."""

    pair: Pair
    setting: int
    end: str
    tails: str
    k: float

    @property
    def infinite(self) -> bool:
        """Whether the KL is infinite."""
        return self.k >= 1

    @property
    def kind(self) -> str:
        """The class by theory."""
        if self.k > 5:
            return CLASSES[0]
        borders = ((1.25, 1), (1.0, 2), (0.7, 3), (0.5, 4), (1e-9, 5))
        return CLASSES[next((i for border, i in borders if self.k >= border), 6)]


def cases(*, infinite: bool | None = None) -> list[Case]:
    """Return all cases, or only those that are infinite (or finite)."""
    found = [case for pair in pairs() for case in _cases_of(pair)]
    return [c for c in found if infinite is None or c.infinite is infinite]


def _cases_of(pair: Pair) -> Iterator[Case]:
    q, p, _ = pair.built()
    guide, prior = ends_of(q), ends_of(p)
    if q.event_shape or guide is None or prior is None or guide.held is not None:
        return
    verdict = finiteness(q, p)
    if not verdict.decided or prior.held is not None:
        return
    finite = torch.as_tensor(verdict.finite).expand(SETTINGS)
    for i in range(SETTINGS):
        sides = (("left", guide.low, prior.low), ("right", guide.high, prior.high))
        found = [(*_theory(falls, grows, i), end) for end, falls, grows in sides]
        k, kinds, end = max(found)
        if bool(finite[i]) == (k < 1):
            yield Case(pair, i, end, kinds, k)
        else:
            # a tail never makes a finite KL infinite, but a support may
            assert k < 1, f"{pair.name} is finite in spite of a tail index of {k}"


def _theory(guide: End, prior: End, setting: int) -> tuple[float, str]:
    """The tail index of the log ratio at one end, and what meets there."""

    def number(value: Any) -> float:
        value = torch.as_tensor(value).detach().double()
        return value.expand(SETTINGS)[setting].item()

    assert guide.tail is not None
    assert prior.growth is not None
    there = number(guide.place) == number(prior.place)
    falls = [number(v) for v in guide.tail[:3]]
    grows = [number(v) for v in (prior.growth if there else LOG)[:3]]
    at = "infinity" if math.isinf(number(guide.place)) else "a finite end"
    kinds = f"{_name(falls, 't')} against {_name(grows, 'X')} at {at}"
    if grows[0] != falls[0]:
        return (math.inf if grows[0] > falls[0] else 0.0), kinds
    if grows[0] < 2:
        return grows[1] / falls[1], kinds
    if grows[1] != falls[1]:
        return (math.inf if grows[1] > falls[1] else 0.0), kinds
    return grows[2] / falls[2], kinds


def _name(step: list[float], x: str) -> str:
    return {-1: f"log log {x}", 0: f"log {x}", 1: f"{x}^", 2: f"exp {x}^", 3: f"exp exp {x}"}[
        int(step[0])
    ]


def measured(chosen: list[Case], draws: int, repeats: int, *, progress: bool = True) -> np.ndarray:
    """Return k of each case and repeat, of shape (cases, repeats)."""
    found = {}
    settings = {c.pair.name: c.pair for c in chosen}
    with torch.no_grad():
        for name, pair in tqdm(settings.items(), disable=not progress, file=sys.stderr):
            q, p, _ = pair.built()
            wide = q.expand((repeats, SETTINGS))
            found[name] = kl.estimate(wide, p, draws).pareto_k.numpy()
    return np.stack([found[c.pair.name][:, c.setting] for c in chosen])


def table(chosen: list[Case], k: np.ndarray) -> str:
    """Rates of k above each limit, by class, end and kinds of tails."""
    rows = []
    for infinite, kind in ((True, "infinite"), (False, "finite")):
        members = [i for i, c in enumerate(chosen) if c.infinite is infinite]
        rows.append([kind, "all", "", len(members), *_rates(k[members])])
        groups = sorted(
            {(CLASSES.index(chosen[i].kind), chosen[i].end, chosen[i].tails) for i in members}
        )
        for index, end, tails in groups:
            some = [
                i
                for i in members
                if (chosen[i].kind, chosen[i].end, chosen[i].tails) == (CLASSES[index], end, tails)
            ]
            rows.append([kind, CLASSES[index], f"{tails} ({end})", len(some), *_rates(k[some])])
    heads = ["KL", "theory", "tail of q against -log p", "cases", *(f"k > {v}" for v in LIMITS)]
    return tabulate(rows, heads)


def _rates(k: np.ndarray) -> list[str]:
    return [f"{np.mean(k > limit):.1%}" if k.size else "" for limit in LIMITS]


def main() -> None:
    """Print the table for each number of draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--draws", type=int, nargs="+", default=[1000, 10_000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen = cases()
    for draws in options.draws:
        k = measured(chosen, draws, options.repeats)
        tqdm.write(f"\n{draws} draws, {options.repeats} repeats\n\n{table(chosen, k)}")


if __name__ == "__main__":
    main()
