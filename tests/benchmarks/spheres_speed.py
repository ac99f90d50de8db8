"""Draws with their gradient on the sphere: ours beside other samplers, and beside the floor.

The floor is what any sampler needs once the height of the point is given: a tangent draw, its
Householder reflection, and the gradient of both. A row with one concentration for
each draw is the amortised case; one concentration for all draws is the other.

    python tests/benchmarks/spheres_speed.py [--von-mises-fisher PATH] [--power-spherical PATH]

The paths are those of checkouts of the implementations of De Cao and others, which are imported
from there (or from what is installed); without them their columns are empty.
"""

import argparse
import statistics
import sys
import time
from importlib import import_module
from importlib.util import find_spec

import torch
from tabulate import tabulate
from torch.distributions import Dirichlet, VonMises
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from pyro_vae.distributions import PowerSpherical, VonMisesFisher

DIMS, DRAWS = (3, 16, 64, 256), (100, 1_000, 10_000, 100_000)
CONCENTRATIONS = {False: "one a draw", True: "shared"}
# elements beyond which torch's Dirichlet, the slowest by far, is left out
LARGE = 7_000_000


def inputs(dim, draws, shared):
    g = torch.Generator().manual_seed(0)
    loc = normalize(torch.randn(1 if shared else draws, dim, generator=g), dim=-1)
    k = dim * (0.5 + torch.rand(1 if shared else draws, generator=g))
    return loc.requires_grad_(), k.requires_grad_(), torch.randn(draws, dim, generator=g)


def ours(cls):
    def draw(loc, k, shape):
        return cls(loc, k, validate_args=False).rsample(shape).squeeze(-2 if shape else ())

    return draw


def floor(loc, k, shape):
    """A tangent draw and a Householder reflection, the height given: any sampler needs these."""
    draws = shape[0] if shape else len(loc)
    tangent = normalize(torch.randn(draws, loc.shape[-1] - 1), dim=-1)
    height = torch.full((draws, 1), 0.3)
    x = torch.cat([height, (1 - height**2).sqrt() * tangent], -1)
    pole = torch.zeros_like(loc)
    pole[..., 0] = 1
    mirror = normalize(pole - loc, dim=-1)
    return x - 2 * (x * mirror).sum(-1, keepdim=True) * mirror


def known_fisher(cls):
    def draw(loc, k, shape):
        return (
            cls(loc, k.unsqueeze(-1), validate_args=False)
            .rsample(torch.Size(shape))
            .squeeze(1 if shape else ())
        )

    return draw


def known_power(cls):
    def draw(loc, k, shape):
        return cls(loc, k, validate_args=False).rsample(shape).squeeze(1 if shape else ())

    return draw


def dirichlet(loc, k, shape):
    """torch's own sampler of a vector, as a yardstick."""
    concentration = loc.square() * k.unsqueeze(-1) + 0.5
    return Dirichlet(concentration, validate_args=False).rsample(shape).squeeze(1 if shape else ())


def timed(draw, dim, draws, shared):
    loc, k, weight = inputs(dim, draws, shared)
    begin = time.thread_time()
    x = draw(loc, k, (draws,) if shared else ())
    torch.autograd.grad((x * weight).sum(), [loc, k], allow_unused=True)
    return time.thread_time() - begin


def medians(ways, dim, draws, shared, repeats):
    times = {name: [] for name in ways}
    for turn in range(repeats + 2):
        for name, draw in ways.items():
            taken = timed(draw, dim, draws, shared)
            if turn > 1:  # two turns to warm up
                times[name].append(taken)
    return {name: statistics.median(t) for name, t in times.items()}


def circle(draws, repeats):
    """Ours for m = 2 against torch's VonMises, which has no gradient: seconds of each."""
    loc, k, _ = inputs(2, draws, False)
    k = k.detach()
    ways = {
        "ours": lambda: VonMisesFisher(loc.detach(), k, validate_args=False).sample(),
        "torch": lambda: VonMises(0.0 * k, k, validate_args=False).sample(),
    }
    times = {name: [] for name in ways}
    for turn in range(repeats + 2):
        for name, way in ways.items():
            begin = time.thread_time()
            way()
            if turn > 1:
                times[name].append(time.thread_time() - begin)
    return {name: statistics.median(t) for name, t in times.items()}


def found(path, module, cls):
    """A class of somebody else's, or None."""
    if path:
        sys.path.insert(0, path)
    return getattr(import_module(module), cls) if find_spec(module.partition(".")[0]) else None


def measured(fisher=None, power=None, repeats=9):
    """Seconds of each way, by case: whether one concentration is shared, dimension and draws."""
    ways = {"ours": ours(VonMisesFisher), "floor": floor, "ours, power": ours(PowerSpherical)}
    ways |= {} if fisher is None else {"known": known_fisher(fisher)}
    ways |= {} if power is None else {"known, power": known_power(power)}
    times = {}
    cases = [(s, d, n) for s in (False, True) for d in DIMS for n in DRAWS]
    for shared, dim, draws in tqdm(cases, file=sys.stderr):
        large = dim * draws > LARGE
        count = 3 if large else 5 if draws == DRAWS[-1] else repeats if draws >= 10_000 else 41
        case = ways if large else ways | {"dirichlet": dirichlet}
        times[shared, dim, draws] = medians(case, dim, draws, shared, count)
    return times


def _times(t, slow, fast):
    return f"{t[slow] / t[fast]:.2f}" if slow in t else ""


def speed_table(times):
    """Times and ratios, as Markdown; every ratio is that of the other's time to ours."""
    rows = [
        [
            CONCENTRATIONS[shared],
            dim,
            f"{draws:,}",
            f"{1e6 * t['ours'] / draws:.2f}",
            _times(t, "known", "ours"),
            _times(t, "dirichlet", "ours"),
            _times(t, "ours", "floor"),
            _times(t, "known, power", "ours, power"),
            _times(t, "ours, power", "floor"),
        ]
        for (shared, dim, draws), t in times.items()
    ]
    heads = ["concentration", "m", "draws", "us a draw", "known / ours", "Dirichlet / ours"]
    heads += ["ours / floor", "power: known / ours", "power: ours / floor"]
    return tabulate(rows, heads, "github", disable_numparse=True)


def short_table(times):
    """The same in one row for each dimension: known / ours, and ours / floor."""
    laws = {
        "von Mises-Fisher": ("known", "ours"),
        "power spherical": ("known, power", "ours, power"),
    }
    rows = [
        [
            name,
            CONCENTRATIONS[shared],
            dim,
            *(
                f"{_times(t, *pair)} ({_times(t, pair[1], 'floor')})"
                for t in (times[shared, dim, n] for n in DRAWS)
            ),
        ]
        for name, pair in laws.items()
        for shared in (False, True)
        for dim in DIMS
    ]
    heads = ["draws", "concentration", "m", *(f"{n:,}" for n in DRAWS)]
    return tabulate(rows, heads, "github", disable_numparse=True)


def known_packages(fisher=None, power=None):
    """The classes of De Cao and others, from these checkouts or from what is installed."""
    module = "hyperspherical_vae.distributions.von_mises_fisher"
    return (
        found(fisher, module, "VonMisesFisher"),
        found(power, "power_spherical", "PowerSpherical"),
    )


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--von-mises-fisher", help="a checkout with `hyperspherical_vae`")
    parser.add_argument("--power-spherical", help="a checkout with `power_spherical`")
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tqdm.write(f"one thread, torch {torch.__version__}")
    known = known_packages(given.von_mises_fisher, given.power_spherical)
    tqdm.write(speed_table(measured(*known, given.repeats)))
    for draws in DRAWS:
        t = circle(draws, given.repeats)
        tqdm.write(f"m = 2, {draws:,} draws: torch / ours = {t['torch'] / t['ours']:.2f}")


if __name__ == "__main__":
    main()
