"""The command `compare`: every admissible pair of guides and priors, trained and compared."""

from __future__ import annotations

__all__ = ["add"]

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr
from tqdm.auto import tqdm

from pyro_vae import families as fam
from pyro_vae import plots, report
from pyro_vae.cli.common import (
    DONE,
    FAILED,
    STOPPED,
    check_threads,
    check_writable,
    data_of,
    say,
    threads,
    usage_errors,
)
from pyro_vae.pairings import (
    GUIDES,
    PRIORS,
    CellWarning,
    Pairings,
    Settings,
    absent,
    members,
    shelf,
    store,
)


def add(commands: Any) -> None:
    """Add the command to those of a parser."""
    compare = commands.add_parser(
        "compare",
        help="train and compare every admissible pair of guides and priors",
        description="Train a VAE with every admissible pair of the guides and priors named, and "
        "write a table, a picture and pages of their ELBOs, KLs and gradient noise to --out. "
        "Finished pairs are kept there: the same command, started again, goes on.",
        allow_abbrev=False,
    )
    compare.set_defaults(run=_compare)
    _add_options(compare)


def _add_options(compare: argparse.ArgumentParser) -> None:
    default = Settings()
    add = compare.add_argument
    add(
        "--data",
        default="digits",
        help="a data set's name, or a file, .npy, .npz, .csv, ... (default: digits)",
    )
    add("--root", help="the folder of a data set that needs one")
    add("--likelihood", help="a family; by default the data set's own, bernoulli for a file")
    for role, names in (("guides", GUIDES), ("priors", PRIORS)):
        text = f"names with commas or spaces between, or 'all' (default: {', '.join(names)})"
        add(f"--{role}", nargs="+", default=list(names), metavar="NAME", help=text)
    texts = {
        "latent": "features of z (groups, for one-hot families)",
        "categories": "classes in each group of one-hot families, parts of those on the simplex",
        "components": "of a mixture, and pseudo-inputs of a VampPrior",
        "hidden": "width of the hidden layer of encoder and decoder",
        "epochs": "passes over the training data",
        "batch_size": "data in a step",
        "learning_rate": "of Adam",
        "num_particles": "draws for KLs, ELBOs and gradients",
        "seed": "the numbers of a pair depend on it and on the pair's names",
        "device": "where to train: cpu, cuda, ...",
    }
    for name, text in texts.items():
        value = getattr(default, name)
        add(
            f"--{name.replace('_', '-')}",
            type=type(value),
            default=value,
            help=f"{text} (default: {value})",
        )
    add(
        "--threads", type=int, default=1, help="of torch, more pay for large networks (default: 1)"
    )
    add("--out", default="comparison", help="the folder to write to (default: comparison)")
    add("--quiet", action="store_true", help="no progress bar and no table, errors only")


def _compare(args: argparse.Namespace) -> int:
    out = Path(args.out).expanduser()
    try:
        with usage_errors():
            plots.require_matplotlib()
            report.require_tabulate()
            if not args.quiet:
                _say_absent(args)
            pairings = _prepared(args)
            check_writable(out, out / "cells")
        if not args.quiet:
            _say_found(pairings, out)
        with _cell_warnings(), threads(args.threads):
            result = pairings.run(out, progress=not args.quiet)
        with usage_errors((OSError,)):
            written = _write(result, out)
    except KeyboardInterrupt:
        say(
            f"pyro-vae: stopped; finished pairs are kept in {out / 'cells'}, and the same "
            "command goes on from there."
        )
        return STOPPED
    if not args.quiet:
        print(report.table(result))  # noqa: T201
        print("\nWritten:", ", ".join(map(str, written)))  # noqa: T201
    return _verdict(result)


def _say_absent(args: argparse.Namespace) -> None:
    """Say what 'all' leaves out, because it cannot be built here."""
    roles: tuple[tuple[fam.Role, Sequence[str]], ...] = (
        ("guide", args.guides),
        ("prior", args.priors),
    )
    for role, given in roles:
        left_out = absent(role) if list(given) == ["all"] else {}
        for missing in dict.fromkeys(left_out.values()):
            names = ", ".join(n for n, why in left_out.items() if why == missing)
            say(f"pyro-vae: left out of all {role}s: {names} ({missing})")


def _say_found(pairings: Pairings, out: Path) -> None:
    own, others = pairings.found(out)
    if own:
        say(f"pyro-vae: {own} of {len(pairings.admissible)} pairs are finished in {out / 'cells'}")
    if others:
        say(
            f"pyro-vae: {others} files in {out / 'cells'} belong to other pairs, settings, data "
            "or code, and are left alone"
        )


def _prepared(args: argparse.Namespace) -> Pairings:
    settings = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)}
    check_threads(args.threads)
    checked = Settings(**settings)
    guides, priors = _names(args.guides, "guide"), _names(args.priors, "prior")
    members(guides, "guide")  # names are cheaper to check than data are to load
    members(priors, "prior")
    rows = data_of(args.data, args.root, args.likelihood)
    return Pairings(
        guides,
        priors,
        rows.splits["train"],
        validation=rows.splits["validation"],
        likelihood=rows.likelihood,
        settings=checked,
    )


def _names(given: Sequence[str], role: fam.Role) -> list[str]:
    names = [name for text in given for name in text.replace(",", " ").split()]
    return shelf(role) if names == ["all"] else names


def _write(result: xr.Dataset, out: Path) -> list[Path]:
    picture = plots.png(plots.heatmap(result))
    paths = [out / f"comparison.{suffix}" for suffix in ("nc", "png", "html", "md")]
    store.write(result, paths[0])
    paths[1].write_bytes(picture)
    paths[2].write_text(report.page(result, picture), encoding="utf-8")
    paths[3].write_text(report.markdown(result, paths[1].name), encoding="utf-8")
    return paths


def _verdict(result: xr.Dataset) -> int:
    failed = int((result["failure"] != "").sum())
    if failed:
        say(
            f"pyro-vae: {failed} of {int(result['admissible'].sum())} pairs failed (see the "
            "findings); the others are kept, and the same command tries these again."
        )
    return FAILED if failed else DONE


@contextmanager
def _cell_warnings() -> Iterator[None]:
    """Show warnings about stored cells as one line each, between strokes of the progress bar."""

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, CellWarning):
            tqdm.write(f"pyro-vae: warning: {message}", file=sys.stderr)
        else:
            shown(message, category, *rest, **more)

    with warnings.catch_warnings():
        shown, warnings.showwarning = warnings.showwarning, show
        warnings.simplefilter("always", CellWarning)
        yield
