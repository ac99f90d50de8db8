"""What a training step costs: Pyro's ELBOs, torch by hand, Pythae and ours, side by side.

    python -m tests.benchmarks.elbo_speed [--repeats 20] [--only 784-400-20] [--threads 1 2]
    python -m tests.benchmarks.elbo_speed --quick     # a smoke run of the smallest net

All ways take turns, a few steps each, so that whatever else the machine does meets all of them;
medians of turns are compared, and ratios are medians of the ratios within a turn. Every turn
begins at the same weights, so that the first losses of a way are draws of one number, and the last
ones of another: they are held against those of the step by hand, and no way is timed on other
work. The first call (building, tracing, compiling) finds no graph in the compiler's caches; the
compiler and Pyro have been started before it. Pythae is timed where it is installed.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pyro
import torch
from tabulate import tabulate
from tqdm import tqdm

from tests.benchmarks.elbo_nets import NETS, Net, NormalVAE
from tests.benchmarks.elbo_ways import (
    CAPTURED,
    COMPILED,
    HAND,
    HAND_COMPILED,
    SVI_MEAN_FIELD,
    SVI_TRACE,
    UNCAPTURED,
    WAYS,
    Built,
    Unavailable,
)

ROOT = Path(__file__).parents[2]
WARM, BLOCK = 2, 0.05  # turns that do not count, and seconds of a turn of the step by hand
THREADS = [1, 2]
LEAST, MOST = 5, 50  # steps of a turn
SIGMAS = 6.0  # a false alarm in 1e8 comparisons


# ------------------------------------------------------------------------ one net, in one process


class Runner:
    """A way, built, with its first weights."""

    def __init__(self, name: str, net: Net):
        self.validated = WAYS[name].validated
        with pyro.validation_enabled(self.validated):
            begin = time.perf_counter()
            built: Built = WAYS[name].build(net)
            self.step = built.step
            ready = time.perf_counter()
            self.parameters = built.parameters
            self.start = [p.detach().clone() for p in built.parameters]
            again = time.perf_counter()
            self.step()
            self.first = ready - begin + time.perf_counter() - again

    def turn(self, steps: int) -> tuple[float, float, float]:
        """Seconds a step, and the losses of the first and last one."""
        with torch.no_grad():
            for parameter, start in zip(self.parameters, self.start, strict=True):
                parameter.copy_(start)
        with pyro.validation_enabled(self.validated):
            begin = time.perf_counter()
            first = self.step()
            for _ in range(steps - 2):
                self.step()
            last = self.step()
            seconds = (time.perf_counter() - begin) / steps
        return seconds, float(first), float(last)


def started(compiler: bool = True) -> float:
    """Start Pyro, autograd and perhaps the compiler; returns the seconds the compiler took."""
    begin = time.perf_counter()
    if compiler:
        x = torch.ones(3, requires_grad=True)
        torch.compile(lambda t: t.sin().sum())(x).backward()
    seconds = time.perf_counter() - begin
    tiny = Net(lambda: NormalVAE(4, (4,), 2), 5)
    for name in (SVI_TRACE, SVI_MEAN_FIELD, HAND, UNCAPTURED, CAPTURED):
        Runner(name, tiny)
    return seconds


def built(net: Net, names) -> tuple[dict[str, Runner], dict[str, dict]]:
    """The ways that can be had, and what is to be said of the others."""
    runners, others = {}, {}
    for name in names:
        try:
            runners[name] = Runner(name, net)
        except Unavailable as reason:
            others[name] = {"missing": str(reason)}
        except Exception as error:
            # one way that fails must not hide the others; the command still ends in failure
            traceback.print_exc()
            others[name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    return runners, others


def measured(net: Net, names=tuple(WAYS), repeats: int = 20, least: int = LEAST) -> dict:
    """Times and losses of every way, in turns of at least so many steps (two)."""
    runners, found = built(net, names)
    by_hand = runners[HAND]
    by_hand.turn(least)
    steps = min(MOST, max(least, math.ceil(BLOCK / by_hand.turn(least)[0])))
    order = list(runners)
    turns = {name: [] for name in order}
    for turn in range(WARM + repeats):
        for name in order:
            taken = runners[name].turn(steps)
            if turn >= WARM:
                turns[name].append(taken)
        order = order[1:] + order[:1]  # so that none always follows the same one
    for name in names:
        if name in runners:
            seconds, first, last = zip(*turns[name], strict=True)
            found[name] = {"first_call": runners[name].first, "seconds": seconds}
            found[name] |= {"loss_at_start": first, "loss_at_end": last}
    return {"steps": steps, "ways": {name: found[name] for name in names}}


def disagreements(ways: dict) -> list[str]:
    """The ways that do not have the loss of the step by hand, or do not train as it does."""
    timed = {name: way for name, way in ways.items() if "seconds" in way}
    mean = {
        key: {name: statistics.fmean(way[key]) for name, way in timed.items()}
        for key in ("loss_at_start", "loss_at_end")
    }
    fall = mean["loss_at_start"][HAND] - mean["loss_at_end"][HAND]
    found = []
    # the analytic and the sampled KL differ in the noise of value and gradient, hence the slack
    for key, slack in (("loss_at_start", 0.0), ("loss_at_end", 0.1 * abs(fall))):
        spread = max(statistics.variance(way[key]) for way in timed.values())
        for name, way in timed.items():
            allowed = SIGMAS * math.sqrt(2 * spread / len(way[key])) + slack
            allowed += 1e-5 * abs(mean[key][HAND])  # rounding in float32
            if not abs(mean[key][name] - mean[key][HAND]) <= allowed:
                found.append(
                    f"{name}: {key} is {mean[key][name]:.6g}, by hand {mean[key][HAND]:.6g}, "
                    f"apart by more than {allowed:.2g}"
                )
    return found


def work(name: str, threads: int, repeats: int) -> dict:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    compiler = started()
    found = measured(NETS[name], repeats=repeats)
    found |= {"net": name, "threads": threads, "compiler": compiler, "torch": torch.__version__}
    return found | {"disagreements": disagreements(found["ways"])}


# ------------------------------------------------------------------------ all nets


def in_process(module: str, *arguments: str, threads: int, cache: str) -> dict:
    """What a process of its own finds, with so many threads.

    The folder keeps what the compiler learns of the machine, and no graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": cache,
            "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
            "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
        }
        out = Path(folder) / "found.json"
        command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
        command += ["--threads", str(threads), "--out", str(out)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        return json.loads(out.read_text())


def run(names, threads, repeats: int) -> list[dict]:
    """One process for each net and number of threads."""
    found = []
    with tempfile.TemporaryDirectory() as cache:
        for name, n in tqdm([(name, n) for name in names for n in threads], file=sys.stderr):
            case = ("--worker", name, "--repeats", str(repeats))
            found.append(in_process("tests.benchmarks.elbo_speed", *case, threads=n, cache=cache))
    return found


def median_ms(found: dict, name: str) -> str:
    way = found["ways"][name]
    if "seconds" not in way:
        return "failed" if "failed" in way else way["missing"]
    milliseconds = 1000 * statistics.median(way["seconds"])
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.1f}"


def ratio(found: dict, name: str, other: str) -> float | None:
    """The median over turns of the time of one way to that of another."""
    ways = [found["ways"][n].get("seconds") for n in (name, other)]
    if None in ways:
        return None
    return statistics.median(a / b for a, b in zip(*ways, strict=True))


def pays_after(found: dict, name: str, other: str) -> str:
    """In how many steps a way has made up for its first call, beside another one."""
    mine, its = (found["ways"][n] for n in (name, other))
    if "seconds" not in mine or "seconds" not in its:
        return "-"
    gain = statistics.median(its["seconds"]) - statistics.median(mine["seconds"])
    cost = mine["first_call"] - its["first_call"]
    return "never" if gain <= 0 else f"{max(1, math.ceil(cost / gain)):,}"


def together(found: list[dict], text) -> str:
    """A cell: what is found with one thread / two threads, once if it is a word."""
    texts = [text(f) for f in found]
    words = set(texts) if not any(c.isdigit() for c in "".join(texts)) else ()
    return texts[0] if len(words) == 1 else " / ".join(texts)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def seconds_of(found: dict, name: str) -> str:
    way = found["ways"][name]
    return f"{way['first_call']:.1f}" if "seconds" in way else "-"


def elbo_table(found: list[dict]) -> str:
    """Times of all ways, and what follows from them, as Markdown."""
    by_net = {}
    for f in found:
        by_net.setdefault(f["net"], []).append(f)
    threads = " / ".join(str(f["threads"]) for f in next(iter(by_net.values())))
    times = [
        [way, *(together(fs, lambda f, way=way: median_ms(f, way)) for fs in by_net.values())]
        for way in WAYS
    ]
    summary = [
        [
            net,
            together(fs, lambda f: number(ratio(f, SVI_TRACE, COMPILED))),
            together(fs, lambda f: number(ratio(f, SVI_MEAN_FIELD, COMPILED))),
            together(fs, lambda f: number(ratio(f, COMPILED, HAND_COMPILED))),
            *(
                together(fs, lambda f, n=name: seconds_of(f, n))
                for name in (HAND_COMPILED, CAPTURED, COMPILED)
            ),
            *(
                together(fs, lambda f, a=a, b=b: pays_after(f, a, b))
                for a, b in ((CAPTURED, SVI_TRACE), (COMPILED, SVI_TRACE), (COMPILED, CAPTURED))
            ),
        ]
        for net, fs in by_net.items()
    ]
    heads = ["net", "SVI(Trace) / ours", "SVI(MeanField) / ours", "ours / by hand, compiled"]
    heads += ["first call: by hand, compiled", "captured", "captured and compiled"]
    heads += ["captured pays after", "compiled pays after", "compiled pays over captured after"]
    parts = [
        f"Milliseconds a step, with {threads} threads:",
        tabulate(times, ["step", *by_net], "github", disable_numparse=True),
        f"Ratios of times, ours being captured and compiled, with {threads} threads; the first "
        "call in seconds (building, tracing, compiling), and the steps after which it has paid "
        "beside SVI(Trace_ELBO):",
        tabulate(summary, heads, "github", disable_numparse=True),
    ]
    return "\n\n".join(parts)


def failures(found: list[dict]) -> list[str]:
    """Ways that failed or disagree, by net and threads."""
    lines = []
    for f in found:
        place = f"{f['net']}, {f['threads']} threads"
        lines += [
            f"{place}: {name}: {way['failed']}"
            for name, way in f["ways"].items()
            if "failed" in way
        ]
        lines += [f"{place}: {line}" for line in f["disagreements"]]
    return lines


def speed_table(repeats: int = 20) -> str:
    """All nets with one thread and two, as Markdown; fails if a way failed or did other work."""
    found = run(list(NETS), THREADS, repeats)
    check(found)
    return elbo_table(found)


def check(found: list[dict]) -> None:
    """End in an error if a way failed, or did other work than the step by hand."""
    if wrong := failures(found):
        sys.exit("\n".join(["not the same work, or failed:", *wrong]))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="turns of each way")
    parser.add_argument("--only", nargs="+", choices=NETS, help="these nets; leaves the README")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--quick", action="store_true", help="smallest net, one thread, 3 turns")
    parser.add_argument("--dry", action="store_true", help="print only")
    parser.add_argument("--out", type=Path, help="write all figures to this file, as JSON")
    parser.add_argument("--worker", choices=NETS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.repeats, given.threads = 3, given.threads[:1]
        given.only = given.only or [next(iter(NETS))]
    return given


def main():
    """Print the table, and write it to the README if it is complete."""
    from tests.benchmarks.readme_tables import README, written

    given = parsed()
    if given.worker:
        found = work(given.worker, given.threads[0], given.repeats)
        given.out.write_text(json.dumps(found))
        return
    found = run(given.only or list(NETS), given.threads, given.repeats)
    if given.out:
        given.out.write_text(json.dumps(found))
    table = elbo_table(found)
    tqdm.write(table)
    check(found)
    if not (given.dry or given.only or given.quick or given.threads != THREADS):
        README.write_text(written(README.read_text(), "elbo-speed", table))


if __name__ == "__main__":
    main()
