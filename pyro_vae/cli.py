"""The command `python -m pyro_vae`, also installed as `pyro-vae`.

Whatever is wrong with names, data, settings or the output folder is said in one line on stderr,
with exit code 2, before anything is trained. Finished cells lie in the output folder from the
moment they are finished, so the same command started again goes on where it was stopped.

Exit codes: 0 done, 1 a pair failed (or a KL is wrong), 2 an error of usage, 130 stopped by the
user.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import dataclasses
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae import datasets, kl, plots, report
from pyro_vae import families as fam
from pyro_vae.diagnostics import DIAGNOSTICS
from pyro_vae.kl.audit import counts, wrong
from pyro_vae.pairings import (
    GUIDES,
    PRIORS,
    CellWarning,
    Pairings,
    Settings,
    catalogue,
    kinds,
    members,
    shelf,
    store,
)
from pyro_vae.registry import nearest
from pyro_vae.supports import space_of

DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 130
USER_ERRORS = (ValueError, TypeError, KeyError, ImportError, OSError)
HELD_OUT_EVERY = 10


class UsageError(Exception):
    """What the user can mend; its message is the one line they see."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Arguments:
        argv: The arguments, by default those of the process.

    Returns:
        The exit code: 0 done, 1 a pair failed (or a KL is wrong), 2 an error of usage, 130
        stopped by the user.
    """
    try:
        args = _parser().parse_args(argv)
        return args.run(args)
    except UsageError as error:
        _say("pyro-vae: error: " + " ".join(str(error).split()))
        return USAGE


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pyro-vae", description="Variational autoencoders in Pyro, compared.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
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
    catalogue = commands.add_parser(
        "catalogue", help="list families, data sets, diagnostics and how many pairs are admissible"
    )
    catalogue.set_defaults(run=_catalogue)
    audit = commands.add_parser(
        "audit",
        help="check every KL that is reachable, ours and torch's, by quadrature and sums",
        description="Hold every KL divergence and its gradients, in both precisions, against an "
        "independent oracle. The exit code is 0 if all of this package's are right, else 1.",
        allow_abbrev=False,
    )
    audit.set_defaults(run=_audit)
    add = audit.add_argument
    add("--out", metavar="FILE.nc", help="write all results to a NetCDF file")
    add("--sample", type=int, metavar="N", help="only N pairs, chosen at random (default: all)")
    add("--seed", type=int, default=0, help="of that choice (default: 0)")
    add("--quiet", action="store_true", help="no progress bar, and only what is wrong of ours")
    return parser


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


# ---------------------------------------------------------------------- compare


def _compare(args: argparse.Namespace) -> int:
    out = Path(args.out).expanduser()
    try:
        with _usage_errors():
            plots.require_matplotlib()
            report.require_tabulate()
            pairings = _prepared(args)
            _check_writable(out)
        if not args.quiet:
            _say_found(pairings, out)
        with _cell_warnings(), _threads(args.threads):
            result = pairings.run(out, progress=not args.quiet)
        with _usage_errors((OSError,)):
            written = _write(result, out)
    except KeyboardInterrupt:
        _say(
            f"pyro-vae: stopped; finished pairs are kept in {out / 'cells'}, and the same "
            "command goes on from there."
        )
        return STOPPED
    if not args.quiet:
        print(report.table(result))  # noqa: T201
        print("\nWritten:", ", ".join(map(str, written)))  # noqa: T201
    return _verdict(result)


def _say_found(pairings: Pairings, out: Path) -> None:
    own, others = pairings.found(out)
    if own:
        _say(
            f"pyro-vae: {own} of {len(pairings.admissible)} pairs are finished in {out / 'cells'}"
        )
    if others:
        _say(
            f"pyro-vae: {others} files in {out / 'cells'} belong to other pairs, settings, data "
            "or code, and are left alone"
        )


def _prepared(args: argparse.Namespace) -> Pairings:
    settings = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)}
    if args.threads < 1:
        raise ValueError(f"threads must be a whole number, at least 1, not {args.threads}.")
    checked = Settings(**settings)
    guides, priors = _names(args.guides, "guide"), _names(args.priors, "prior")
    members(guides, "guide")  # names are cheaper to check than data are to load
    members(priors, "prior")
    train, held_out, likelihood = _data(args)
    return Pairings(
        guides, priors, train, validation=held_out, likelihood=likelihood, settings=checked
    )


def _names(given: Sequence[str], role: fam.Role) -> list[str]:
    names = [name for text in given for name in text.replace(",", " ").split()]
    return shelf(role) if names == ["all"] else names


def _data(args: argparse.Namespace) -> tuple[Tensor, Tensor, str]:
    """Training rows, held-out rows, and the likelihood that scores them."""
    if args.data in datasets.datasets:
        data = datasets.load(args.data, args.root, likelihood=args.likelihood)
        return data.train, data.validation, data.likelihood
    path = Path(args.data).expanduser()
    if not (path.suffix or path.exists()):
        raise ValueError(
            f"no data set is named {args.data!r}. {nearest(args.data, datasets.datasets)} Or give "
            "a file, such as data.npy."
        )
    rows = datasets.read(path)
    if len(rows) < 2:
        raise ValueError(f"{path} holds one row; at least two are needed, one to hold out.")
    # every tenth row rather than the last ones: files are often sorted
    held_out = torch.arange(len(rows)) % HELD_OUT_EVERY == min(HELD_OUT_EVERY, len(rows)) - 1
    return rows[~held_out], rows[held_out], args.likelihood or "bernoulli"


def _check_writable(out: Path) -> None:
    try:
        (out / "cells").mkdir(parents=True, exist_ok=True)
        for folder in (out, out / "cells"):
            with tempfile.NamedTemporaryFile(dir=folder) as file:
                file.write(b"?")
    except OSError as error:
        raise ValueError(
            f"the folder {out} cannot be written to ({error.strerror or error}); choose another "
            "by --out."
        ) from error


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
        _say(
            f"pyro-vae: {failed} of {int(result['admissible'].sum())} pairs failed (see the "
            "findings); the others are kept, and the same command tries these again."
        )
    return FAILED if failed else DONE


@contextmanager
def _usage_errors(kinds: tuple[type[Exception], ...] = USER_ERRORS) -> Iterator[None]:
    """Errors that are the user's to mend, as one line."""
    try:
        yield
    except kinds as error:
        raise UsageError(error.args[0] if isinstance(error, KeyError) else error) from error


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


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------- catalogue


def _catalogue(args: argparse.Namespace) -> int:
    with _usage_errors():
        report.require_tabulate()
        print(_shelf())  # noqa: T201
    return DONE


def _shelf() -> str:
    from tabulate import tabulate

    roles: tuple[fam.Role, ...] = ("prior", "guide", "likelihood")
    summary = fam.registry.summary
    rows = [
        [name, ", ".join(r for r in roles if r in cls.roles), _space(name), summary(name)]
        for name, cls in fam.registry.items()
    ]
    families = tabulate(rows, ["family", "roles", "space", ""], "simple")
    loaders = [[name, datasets.datasets.summary(name)] for name in datasets.datasets]
    tests = [[name, DIAGNOSTICS.summary(name)] for name in DIAGNOSTICS]
    found = kinds()
    guides, priors = found.sizes["guide"], found.sizes["prior"]
    count = int((found["kind"] != "").sum())
    return "\n\n".join(
        [
            families,
            tabulate(loaders, ["data set", ""], "simple"),
            tabulate(tests, ["diagnostic", ""], "simple"),
            tabulate(catalogue.counts(found), catalogue.HEADS, "simple"),
            f"{len(fam.registry)} families; {count} of {guides * priors} pairs of {guides} guides "
            f"and {priors} priors are admissible. A prior named learnable_<family> has its "
            "parameters trained.",
        ]
    )


def _space(name: str) -> str:
    if name == "transported":
        return "the prior's"
    return space_of(fam.registry[name].example().support).name


# ---------------------------------------------------------------------- audit


def _audit(args: argparse.Namespace) -> int:
    with _usage_errors():
        out = None if args.out is None else Path(args.out).expanduser()
        if out is not None and not out.parent.is_dir():
            raise ValueError(f"there is no folder {out.parent} to write {out.name} to; make it.")
        found = kl.audit(progress=not args.quiet, seed=args.seed, sample=args.sample)
        if out is not None:
            found.to_netcdf(out, engine="h5netcdf")
    ours = wrong(found)
    if not args.quiet:
        print("\n".join(_audited(found)))  # noqa: T201
    _say(f"pyro-vae: {len(ours)} of {found.sizes['pair']} KLs are wrong" + ":" * bool(ours))
    for line in ours:
        _say(f"  {line}")
    return FAILED if ours else DONE


def _audited(found: xr.Dataset) -> Iterator[str]:
    """What torch and Pyro have wrong, and a count by space and route."""
    served = int((found["torch_source"] != "none").sum())
    yield f"torch and Pyro have a form for {served} of {found.sizes['pair']} pairs; wrong are:"
    yield from (f"  {line}" for line in wrong(found, "torch_") or ["none"])
    by_space = counts(found)
    kinds = sorted(by_space["all"], key=lambda kind: -by_space["all"][kind])
    yield "\n" + f"{'pairs by space of q':32}" + "".join(f"{kind:>12}" for kind in kinds)
    for space, by_kind in by_space.items():
        yield f"{space:32}" + "".join(f"{by_kind.get(kind, 0):12}" for kind in kinds)
