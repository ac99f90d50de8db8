"""A program that is run many times alike, recorded once and replayed: the same numbers, sooner.

For small networks most of a run is spent in Pyro's handlers and in Python. Once a program was run
`AFTER` times on arguments of the same shapes, its tensor operations are recorded (see
`pyro_vae.infer.capture`), and from then on they alone are run.

No number depends on it. A recorded run is held against the program itself, number by number, and
used only if it gave the same on `PROOFS` different arguments; where a check of the program does
not hold (data outside a support, say), the program is run, and says so itself. What no graph can
hold, what draws numbers, and what writes into buffers is run as it is.
"""

from __future__ import annotations

__all__ = ["Replaying"]

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.diagnostics.particles import Batch, Layout, OneByOne, Program, Ran, Values
from pyro_vae.infer.batches import Data
from pyro_vae.infer.capturing.halves import Halves, halved
from pyro_vae.infer.capturing.signature import rebuild, signature
from pyro_vae.infer.capturing.tidy import is_random, state_of, tidy
from pyro_vae.infer.capturing.tracing import NotCapturable, all_of, record
from pyro_vae.infer.capturing.watch import Watch
from pyro_vae.infer.guard import modules_of

AFTER = 48
"""After how many runs alike one is recorded, which costs about what it saves in as many."""

PROOFS = 2
"""On how many arguments a recorded run has to give the numbers of the program."""


class _Given(NamedTuple):
    """What a run is given, and the run as a function of values and arguments."""

    key: Hashable
    values: list[Tensor]
    data: Data
    arguments: Sequence[Tensor]
    run: Callable[..., Ran]


@dataclass
class _Recorded:
    """A recorded run, which returns whether all checks hold, and the log densities."""

    halves: Halves
    watch: Watch
    names: list[str]
    observed: frozenset[str]
    proofs: int = 0
    runs: int = 0
    refused: int = 0
    # what was computed of data that are still the same
    of: Data | None = None
    once: tuple[Tensor, ...] = ()

    def __call__(self, given: _Given) -> Ran | None:
        """Return log densities, None where a check does not hold."""
        if self.of is not given.data:
            self.of, self.once = given.data, self.halves.once(*given.arguments)
        holds, *densities = self.halves.rest(*given.values, *self.once)
        self.runs += 1
        if not holds:
            self.refused += 1
            return None
        return Ran({}, dict(zip(self.names, densities, strict=True)), self.observed, {})


class Replaying:
    """A program in a layout, whose runs are replayed where many are alike.

    Arguments:
        layout: How the program is run for many draws.
        program: The program, a model.
        allowed: False to run the program itself, always.

    Attributes:
        reason: Why runs are not replayed; None as long as they may be.
        replayed: How many were.
    """

    def __init__(self, layout: Layout, program: Program, *, allowed: bool = True) -> None:
        self.layout, self.program = layout, program
        self.reason: str | None = None if allowed else "capture=False"
        if isinstance(layout, OneByOne):
            self.reason = "the program is run one by one"
        self.replayed = 0
        self._seen = Counter[Hashable]()
        self._kept: dict[Hashable, _Recorded] = {}

    def run(self, batch: Batch, count: int, values: Values, *, itself: bool = False) -> Ran:
        """Run the program on `count` draws of every datum; see `Layout.run`.

        Arguments:
            batch: The data.
            count: The number of draws.
            values: Latent values, (count, *shape of one draw) each.
            itself: Whether the program itself is to be run, for its distributions and checks.

        Returns:
            Log densities by site; a replayed run has neither values nor distributions.
        """
        given = self._given(batch, count, values)
        found = None if given is None else self._replay(given, itself=itself)
        if found is not None:
            return found
        ran = self.layout.run(self.program, batch, count, values)
        if given is not None:
            self._learn(given, ran)
        return ran

    def _given(self, batch: Batch, count: int, values: Values) -> _Given | None:
        """What a recorded run would be given; None where none may be."""
        if self.reason is not None:
            return None
        data, names = batch.data, list(values)
        try:
            sign = signature(data.args, data.kwargs)
        except (TypeError, ValueError) as error:  # arguments that a graph would hold for good
            self.reason = str(error)
            return None

        def run(*tensors: Tensor) -> Ran:
            args, kwargs = rebuild(sign.structure, tensors[len(names) :])
            rebuilt = replace(batch, data=data._replace(args=args, kwargs=kwargs))
            drawn = dict(zip(names, tensors, strict=False))
            # one of its own, for a layout may remember the data that it was given
            layout = type(self.layout)()
            with torch.no_grad():
                return layout.run(self.program, rebuilt, count, drawn)

        shapes = tuple((n, v.shape, v.stride(), v.dtype, v.device) for n, v in values.items())
        return _Given((sign.key, shapes), list(values.values()), data, sign.tensors, run)

    def _replay(self, given: _Given, *, itself: bool) -> Ran | None:
        """A replayed run, None where the program is to be run."""
        if itself:  # a block begins, before which parameters may have moved
            for recorded in self._kept.values():
                recorded.of = None
        kept = self._fresh(given.key)
        if itself or kept is None or kept.proofs < PROOFS:
            return None
        found = kept(given)
        if found is not None:
            self.replayed += 1
        elif kept.refused > max(AFTER, kept.runs // 2):
            self.reason = "a check that a graph takes for granted fails in most runs"
        return found

    def _fresh(self, key: Hashable) -> _Recorded | None:
        """The recorded run, unless what it was made of was replaced since."""
        kept = self._kept.get(key)
        if kept is not None and kept.watch.stale() is not None:
            del self._kept[key]
            return None
        return kept

    def _learn(self, given: _Given, ran: Ran) -> None:
        """Record what was run often enough, or hold what was recorded against a run."""
        kept = self._kept.get(given.key)
        if kept is None:
            self._seen[given.key] += 1
            if self._seen[given.key] < AFTER:
                return
            try:
                kept = self._kept[given.key] = self._recorded(given, ran)
            except NotCapturable as error:
                self.reason = str(error)
                return
        if kept.proofs < PROOFS:
            found = kept(given)
            if found is not None and not _same(found, ran):
                self.reason = "a recorded run gave other numbers than the program"
            kept.proofs += found is not None

    def _recorded(self, given: _Given, ran: Ran) -> _Recorded:
        names = list(ran.log_density)

        def outputs(made: Ran, flags: list[Tensor]) -> tuple[Tensor, ...]:
            densities = [made.log_density[n] for n in names]
            device = densities[0].device
            holds = all_of(flags) if flags else torch.ones((), dtype=torch.bool, device=device)
            return holds, *densities

        graph, called = record(given.run, outputs, [*given.values, *given.arguments])
        if any(is_random(node) for node in graph.graph.nodes):
            raise NotCapturable("the program draws numbers where it scores")
        if state_of(graph):
            raise NotCapturable("the program writes into its buffers where it scores")
        own = [m for _, top in modules_of(self.program) for m in top.modules()]
        watch = Watch(dict.fromkeys([*own, *called]), [], [])
        parts = halved(tidy(graph, narrow=False), fast=len(given.values))
        return _Recorded(parts, watch, names, ran.observed)


def _same(a: Ran, b: Ran) -> bool:
    return all(
        torch.allclose(value, b.log_density[name], rtol=0, atol=0, equal_nan=True)
        for name, value in a.log_density.items()
    )
