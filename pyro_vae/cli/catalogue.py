"""The command `catalogue`: what is on the shelves."""

from __future__ import annotations

__all__ = ["add"]

import argparse
from typing import Any

from pyro_vae import datasets, report
from pyro_vae import families as fam
from pyro_vae.cli.common import DONE, usage_errors
from pyro_vae.diagnostics import DIAGNOSTICS
from pyro_vae.pairings import catalogue, kinds
from pyro_vae.pairings.members import home


def add(commands: Any) -> None:
    """Add the command to those of a parser."""
    parser = commands.add_parser(
        "catalogue", help="list families, data sets, diagnostics and how many pairs are admissible"
    )
    parser.set_defaults(run=_catalogue)


def _catalogue(args: argparse.Namespace) -> int:
    with usage_errors():
        report.require_tabulate()
        print(_shelf())  # noqa: T201
    return DONE


def _shelf() -> str:
    from tabulate import tabulate

    roles: tuple[fam.Role, ...] = ("prior", "guide", "likelihood")
    rows = [
        [name, ", ".join(r for r in roles if r in cls.roles), home(name), _text(name)]
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


def _text(name: str) -> str:
    missing = fam.registry[name].available()
    return fam.registry.summary(name) + (f" [left out: {missing}]" if missing else "")
