"""The command `audit`: every KL that is reachable, held against an independent oracle."""

from __future__ import annotations

__all__ = ["add"]

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr

from pyro_vae import kl
from pyro_vae.cli.common import DONE, FAILED, say, usage_errors
from pyro_vae.kl.audit import counts, wrong


def add(commands: Any) -> None:
    """Add the command to those of a parser."""
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


def _audit(args: argparse.Namespace) -> int:
    with usage_errors():
        out = None if args.out is None else Path(args.out).expanduser()
        if out is not None and not out.parent.is_dir():
            raise ValueError(f"there is no folder {out.parent} to write {out.name} to; make it.")
        found = kl.audit(progress=not args.quiet, seed=args.seed, sample=args.sample)
        if out is not None:
            found.to_netcdf(out, engine="h5netcdf")
    ours = wrong(found)
    if not args.quiet:
        print("\n".join(_audited(found)))  # noqa: T201
    say(f"pyro-vae: {len(ours)} of {found.sizes['pair']} KLs are wrong" + ":" * bool(ours))
    for line in ours:
        say(f"  {line}")
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
