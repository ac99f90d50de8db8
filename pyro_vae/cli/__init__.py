"""The command `python -m pyro_vae`, also installed as `pyro-vae`.

Whatever is wrong with names, data, settings or the output folder is said in one line on stderr,
with exit code 2, before anything is trained. Finished cells lie in the output folder from the
moment they are finished, so the same command started again goes on where it was stopped.

Exit codes: 0 done, 1 a pair failed (or a KL is wrong), 2 an error of usage, 130 stopped by the
user.
"""

from __future__ import annotations

__all__ = ["DONE", "FAILED", "STOPPED", "USAGE", "main"]

import argparse
from collections.abc import Sequence
from typing import NoReturn

from pyro_vae.cli import audit, catalogue, compare, diagnose, train
from pyro_vae.cli.common import DONE, FAILED, STOPPED, USAGE, UsageError, say


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
        say("pyro-vae: error: " + " ".join(str(error).split()))
        return USAGE


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pyro-vae", description="Variational autoencoders in Pyro, compared.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (compare, train, diagnose, catalogue, audit):
        command.add(commands)
    return parser
