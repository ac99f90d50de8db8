"""How time and memory of a training step grow with the batch, the latents and the particles.

    python -m tests.benchmarks.elbo_growth --picture growth.png [--repeats 9] [--only batch]
    python -m tests.benchmarks.elbo_growth --picture growth.png --quick     # a smoke run

Each point is timed in a process of its own, all ways in turns, as `elbo_speed` does. Memory is
measured for each way in a process of its own: by how much the process is larger, at its peak in
five steps, than it was before the step was built, Pyro (and the compiler, where it is used) being
loaded already. It is the kernel's count of resident pages, so this runs on Linux only.
"""

import argparse
import ctypes
import json
import statistics
import sys
import tempfile
from pathlib import Path

import pyro
import torch
from tabulate import tabulate
from tqdm import tqdm

from tests.benchmarks.elbo_nets import Net, NormalVAE
from tests.benchmarks.elbo_speed import (
    Runner,
    check,
    disagreements,
    in_process,
    measured,
    ratio,
    started,
)
from tests.benchmarks.elbo_ways import (
    CAPTURED,
    COMPILED,
    HAND,
    HAND_COMPILED,
    SVI_MEAN_FIELD,
    UNCAPTURED,
)

MODULE = "tests.benchmarks.elbo_growth"
# colours that are told apart by colour-blind readers
COLOURS = {
    SVI_MEAN_FIELD: "#D55E00",
    UNCAPTURED: "#E69F00",
    CAPTURED: "#56B4E9",
    COMPILED: "#0072B2",
    HAND: "#999999",
    HAND_COMPILED: "#000000",
}
# what grows -> the net, the values
AXES = {
    "batch": (
        lambda n: Net(lambda: NormalVAE(784, (400,), 20), n),
        (32, 128, 512, 2048, 4096),
        "784-400-20",
    ),
    "latents": (
        lambda n: Net(lambda: NormalVAE(784, (400,), n), 128),
        (2, 8, 32, 128, 512),
        "784-400-d, batch of 128",
    ),
    "particles": (
        lambda n: Net(lambda: NormalVAE(64, (64,), 8, particles=n), 100),
        (1, 5, 20, 100, 500),
        "64-64-8, batch of 100",
    ),
}


# ------------------------------------------------------------------------ in a process of its own


def timed(axis: str, value: int, repeats: int) -> dict:
    started()
    found = measured(AXES[axis][0](value), tuple(COLOURS), repeats, least=2)
    return found | {"disagreements": disagreements(found["ways"])}


def status(key: str) -> float:
    """MiB of this process, by the kernel: VmRSS now, or VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def peak_forgotten() -> None:
    """Give freed memory back, and let the peak begin anew."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def remembered(axis: str, value: int, name: str) -> dict:
    """MiB at the peak of building and the first step, and of five steps after it."""
    started(compiler=name in (HAND_COMPILED, COMPILED))
    net = AXES[axis][0](value)
    peak_forgotten()
    before = status("VmRSS")
    runner = Runner(name, net)
    first = status("VmHWM") - before
    peak_forgotten()
    with pyro.validation_enabled(runner.validated):
        for _ in range(5):
            runner.step()
    return {"first": first, "steps": status("VmHWM") - before}


# ------------------------------------------------------------------------ all points


def run(axes: dict[str, tuple[int, ...]], threads: int, repeats: int) -> list[dict]:
    points = [(axis, value) for axis, values in axes.items() for value in values]
    found = []
    with (
        tempfile.TemporaryDirectory() as cache,
        tqdm(total=len(points) * (1 + len(COLOURS)), file=sys.stderr) as progress,
    ):
        for axis, value in points:
            case = ("--worker", axis, str(value))
            point = in_process(
                MODULE, *case, "--repeats", str(repeats), threads=threads, cache=cache
            )
            progress.update()
            point |= {"net": f"{axis} {value}", "threads": threads, "axis": axis, "value": value}
            point["memory"] = {}
            for name in COLOURS:
                point["memory"][name] = in_process(
                    MODULE, *case, "--way", name, threads=threads, cache=cache
                )
                progress.update()
            found.append(point)
    return found


def growth_table(found: list[dict]) -> str:
    """Time and memory beside the compiled step by hand, as Markdown."""
    rows = []
    for point in found:
        memory = {name: m["steps"] for name, m in point["memory"].items()}
        rows.append(
            [
                point["axis"],
                point["value"],
                f"{milliseconds(point, HAND_COMPILED):.3g}",
                *(
                    f"{ratio(point, n, HAND_COMPILED) or float('nan'):.2f}"
                    for n in COLOURS
                    if n != HAND_COMPILED
                ),
                f"{memory[HAND_COMPILED]:.0f}",
                *(f"{memory[n] - memory[HAND_COMPILED]:+.0f}" for n in (HAND, CAPTURED, COMPILED)),
            ]
        )
    heads = ["what grows", "to", f"ms {HAND_COMPILED}"]
    heads += [f"{n}, time as a ratio" for n in COLOURS if n != HAND_COMPILED]
    heads += [f"MiB {HAND_COMPILED}", *(f"MiB more: {n}" for n in (HAND, CAPTURED, COMPILED))]
    return tabulate(rows, heads, "github", disable_numparse=True)


def milliseconds(point: dict, name: str) -> float:
    seconds = point["ways"][name].get("seconds", [float("nan")])
    return 1000 * statistics.median(seconds)


def picture(found: list[dict], path: Path) -> None:
    """Time, its ratio to the step by hand, and memory: a row each; what grows: a column each."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    axes = [axis for axis in AXES if any(point["axis"] == axis for point in found)]
    rows = {
        "ms a step": milliseconds,
        "time / by hand, compiled": lambda p, n: ratio(p, n, HAND_COMPILED) or float("nan"),
        "peak memory, MiB": lambda p, n: p["memory"][n]["steps"],
    }
    figure, grid = plt.subplots(
        len(rows), len(axes), figsize=(4 * len(axes), 9), squeeze=False, sharey="row", sharex="col"
    )
    for j, axis in enumerate(axes):
        points = [point for point in found if point["axis"] == axis]
        grid[0, j].set_title(AXES[axis][2])
        grid[-1, j].set_xlabel(axis)
        for ax, (label, value_of) in zip(grid[:, j], rows.items(), strict=True):
            for name, colour in COLOURS.items():
                values = [value_of(point, name) for point in points]
                style = {"color": colour, "marker": "o", "markersize": 3, "label": name}
                ax.plot([p["value"] for p in points], values, **style)
            ax.set(xscale="log", yscale="log")
            ax.grid(alpha=0.3)
            if j == 0:
                ax.set_ylabel(label)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, help="where to draw it, as PNG")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each way")
    parser.add_argument("--only", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one point, 3 turns")
    parser.add_argument("--out", type=Path, help="write all figures to this file, as JSON")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=COLOURS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not (given.picture or given.worker):
        parser.error("say where to draw it: --picture growth.png")
    return given


def main():
    """Print the ratios and draw the picture."""
    given = parsed()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    if given.worker:
        axis, value = given.worker[0], int(given.worker[1])
        if given.way:
            found = remembered(axis, value, given.way)
        else:
            found = timed(axis, value, given.repeats)
        given.out.write_text(json.dumps(found))
        return
    axes = {axis: AXES[axis][1] for axis in given.only}
    if given.quick:
        axes, given.repeats = {"particles": AXES["particles"][1][:1]}, 3
    found = run(axes, given.threads, given.repeats)
    if given.out:
        given.out.write_text(json.dumps(found))
    tqdm.write(growth_table(found))
    picture(found, given.picture)
    check(found)


if __name__ == "__main__":
    main()
