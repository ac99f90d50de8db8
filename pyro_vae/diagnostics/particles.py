"""Many draws of one batch of data at once, for programs that were written for one draw.

A program that was written for a batch of B data is run for K draws of each in one of three ways:

* `Plate`: once, inside a plate of K particles to the left of all its own. The data stay as they
  are, so an encoder runs on B rows, whatever K is;
* `Repeated`: once, on the data repeated K times, as one batch of K B rows. A decoder that does
  not know of further dimensions (a convolution, say) sees nothing unusual;
* `OneByOne`: K times, as it was written. It is always right, and slow.

Whether the first two give the numbers of the third is not argued but tried, on two draws
(`choose`), and the first that does is taken.
"""

from __future__ import annotations

__all__ = [
    "LAYOUTS",
    "Batch",
    "Choice",
    "Laws",
    "Layout",
    "OneByOne",
    "Plate",
    "Ran",
    "Repeated",
    "choose",
]

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.diagnostics.densities import log_density
from pyro_vae.infer.batches import Data
from pyro_vae.infer.rows import PARTICLES
from pyro_vae.infer.unexpanded import remembering, unexpanded

Program: TypeAlias = Callable[..., Any]
Values: TypeAlias = Mapping[str, Tensor]
Laws: TypeAlias = Mapping[str, Any]
"""Distributions by latent site."""
# a site as Pyro's traces hold it
Node: TypeAlias = Any

AGREEMENT = 1e-3
"""By how much, relative to 1 + |log density|, a layout may differ from one run for each draw."""


class Ran(NamedTuple):
    """One run: what each site was given and gave.

    Arguments:
        values: The latent values by site, each of shape (draws, *shape of one draw).
        log_density: By site, observed ones included, log densities of shape (draws, data) in
            float64, masked as the program masks them, and not scaled.
        observed: The names of the sites that are observed.
        laws: The distributions of latent sites, as they were before a plate of particles
            expanded them; those that nothing masks.
    """

    values: dict[str, Tensor]
    log_density: dict[str, Tensor]
    observed: frozenset[str]
    laws: Laws


@dataclass(frozen=True)
class Batch:
    """One batch of data, and what a plain run of both programs said of their sites.

    Arguments:
        data: The arguments of model and guide.
        frame: The data plate.
        nesting: To how many dimensions the plates of both programs go.
        sites: The latent sites, of the model or of the guide alone.
    """

    data: Data
    frame: CondIndepStackFrame
    nesting: int
    sites: Mapping[str, SiteShape] = field(default_factory=dict)


class SiteShape(NamedTuple):
    """The shape of one draw of a latent site: batch (data and inner plates), then event."""

    batch: tuple[int, ...]
    event: tuple[int, ...]


class Layout:
    """A way to run a program for many draws at once; `run` is all that they differ in."""

    name: ClassVar[str]

    def run(self, program: Program, batch: Batch, count: int, values: Values | None) -> Ran:
        """Run a program for `count` draws of every datum.

        Arguments:
            program: A guide, or a model.
            batch: The data.
            count: The number of draws.
            values: Latent values, (count, *shape of one draw) each; None to draw them.
        """
        raise NotImplementedError


class Plate(Layout):
    """Once, inside a plate of particles."""

    name = "plate"

    def run(self, program: Program, batch: Batch, count: int, values: Values | None) -> Ran:
        """Run a program for `count` draws of every datum; see `Layout.run`."""
        dim = -batch.nesting - 1

        def widened(name: str, value: Tensor) -> Tensor:
            shape = batch.sites[name]
            ones = (1,) * (batch.nesting - len(shape.batch))
            return value.reshape(count, *ones, *shape.batch, *shape.event)

        given = None if values is None else {n: widened(n, v) for n, v in values.items()}
        with _Run(given) as run, pyro.plate(PARTICLES, count, dim=dim):
            # a density of parameters that no particle shares is computed of few numbers
            remembering(program)(*batch.data.args, **batch.data.kwargs)
        return run.ran(
            batch,
            lambda site, value: value.reshape(count, *site.batch, *site.event),
            lambda node: by_datum(node, batch.frame, batch.data.size, particles=dim),
        )


class Repeated(Layout):
    """Once, on data repeated once for each draw."""

    name = "repeated"

    def __init__(self) -> None:
        self._last: tuple[Data, int, Data] | None = None

    def run(self, program: Program, batch: Batch, count: int, values: Values | None) -> Ran:
        """Run a program for `count` draws of every datum; see `Layout.run`."""
        dim, size = batch.frame.dim or -1, batch.data.size

        def folded(name: str, value: Tensor) -> Tensor:
            at = dim - len(batch.sites[name].event)
            # (count, ..., data, ...) to (..., count * data, ...)
            return value.movedim(0, value.dim() + at - 1).flatten(at - 1, at)

        def unfolded(site: SiteShape, value: Tensor) -> Tensor:
            at = dim - len(site.event)
            return value.unflatten(at, (count, size)).movedim(at - 1, 0)

        given = None if values is None else {n: folded(n, v) for n, v in values.items()}
        data = self._data(batch.data, count)
        with _Run(given) as run:
            program(*data.args, **data.kwargs)
        return run.ran(
            batch,
            unfolded,
            lambda node: by_datum(node, batch.frame, count * size).reshape(count, size),
        )

    def _data(self, data: Data, count: int) -> Data:
        if self._last is None or self._last[0] is not data or self._last[1] != count:
            self._last = data, count, data.repeated(count)
        return self._last[2]


class OneByOne(Layout):
    """As it was written, once for each draw."""

    name = "one by one"

    def run(self, program: Program, batch: Batch, count: int, values: Values | None) -> Ran:
        """Run a program for `count` draws of every datum; see `Layout.run`."""
        runs = [
            self._once(
                program, batch, None if values is None else {n: v[k] for n, v in values.items()}
            )
            for k in range(count)
        ]
        return Ran(
            {n: torch.stack([r.values[n] for r in runs]) for n in runs[0].values},
            {n: torch.stack([r.log_density[n] for r in runs]) for n in runs[0].log_density},
            runs[0].observed,
            runs[0].laws,
        )

    def _once(self, program: Program, batch: Batch, values: Values | None) -> Ran:
        with _Run(values) as run:
            program(*batch.data.args, **batch.data.kwargs)
        return run.ran(
            batch,
            lambda _, value: value,
            lambda node: by_datum(node, batch.frame, batch.data.size),
        )


LAYOUTS: tuple[type[Layout], ...] = (Plate, Repeated, OneByOne)


class _Run(Messenger):
    """Gives latent sites their values and keeps what the sites of a run became."""

    def __init__(self, values: Values | None) -> None:
        super().__init__()
        self.given = values or {}
        self.nodes: dict[str, Node] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.given:
            msg["value"], msg["done"] = self.given[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self.nodes[msg["name"]] = msg.copy()

    def ran(
        self,
        batch: Batch,
        plain: Callable[[SiteShape, Tensor], Tensor],
        density: Callable[[Node], Tensor],
    ) -> Ran:
        latent = {n: node for n, node in self.nodes.items() if not node["is_observed"]}
        return Ran(
            {n: plain(batch.sites[n], node["value"]) for n, node in latent.items()},
            {n: density(node) for n, node in self.nodes.items()},
            frozenset(self.nodes) - frozenset(latent),
            {n: unexpanded(node) for n, node in latent.items() if node["mask"] is None},
        )


# ------------------------------------------------------------------------------- log densities
def by_datum(
    node: Node, frame: CondIndepStackFrame, size: int, *, particles: int | None = None
) -> Tensor:
    """The log density of a site, masked and not scaled, summed over all plates but the data's.

    Arguments:
        node: The site.
        frame: The data plate.
        size: The number of rows along it.
        particles: The dim of the plate of particles, None if there is none.

    Returns:
        A tensor of shape (data,) or (particles, data), in float64.

    Raises:
        ValueError: If the site lies outside the data plate.
    """
    if not any(f.dim == frame.dim and f.size == size for f in node["cond_indep_stack"]):
        raise ValueError(
            f"site {node['name']!r} lies outside the data plate {frame.name!r} ({size} data), so "
            "that the weights do not factorise over data. Move it inside, make it a parameter, "
            "or fix its value with pyro.poutine.condition."
        )
    value = log_density(unexpanded(node), node["value"], *node["args"], **node["kwargs"])
    if node["mask"] is not None:
        value = torch.as_tensor(scale_and_mask(value, mask=node["mask"]))
    batch = node["fn"].batch_shape
    if value.shape != batch:
        value = value.expand(torch.broadcast_shapes(value.shape, batch))
    kept = {frame.dim, particles}
    inner = [d for d in range(-value.dim(), 0) if d not in kept]
    return value.sum(inner, dtype=torch.float64) if inner else value.double()


# ----------------------------------------------------------------------------- which layout
class Choice(NamedTuple):
    """How guide and model are run for many draws.

    Arguments:
        guide: The layout of the guide.
        model: That of the model.
        reasons: Why faster ones were not taken, a sentence each.
    """

    guide: Layout
    model: Layout
    reasons: tuple[str, ...]


def choose(model: Program, guide: Program, batch: Batch, draws: int = 2) -> Choice:
    """Find the fastest layouts that give the numbers of one run for each draw.

    Arguments:
        model: A Pyro model.
        guide: Its guide.
        batch: Some data.
        draws: On how many draws to try.
    """
    plain = OneByOne()
    drawn = plain.run(guide, batch, draws, None)
    latent = {n: v for n, v in drawn.values.items() if n in drawn.log_density}
    scored = plain.run(model, batch, draws, latent)
    reasons: list[str] = []

    def model_agrees(layout: Layout) -> bool:
        return _close(layout.run(model, batch, draws, latent), scored)

    def guide_agrees(layout: Layout) -> bool:
        ran = layout.run(guide, batch, draws, None)
        return _close(ran, plain.run(guide, batch, draws, ran.values))

    return Choice(
        _first(guide_agrees, "guide", reasons),
        _first(model_agrees, "model", reasons),
        tuple(reasons),
    )


def _first(agrees: Callable[[Layout], bool], what: str, reasons: list[str]) -> Layout:
    for kind in LAYOUTS[:-1]:
        layout = kind()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they were heard in the plain run
                if agrees(layout):
                    return layout
            reasons.append(f"{what}, {layout.name}: other log densities than draw by draw")
        except Exception as error:  # whatever a program may raise for a shape it does not expect
            first = str(error).strip().partition("\n")[0]
            reasons.append(f"{what}, {layout.name}: {type(error).__name__}: {first}")
    return OneByOne()


def _close(ran: Ran, reference: Ran) -> bool:
    if ran.log_density.keys() != reference.log_density.keys():
        return False
    return all(
        torch.allclose(ran.log_density[n], value, rtol=AGREEMENT, atol=AGREEMENT, equal_nan=True)
        for n, value in reference.log_density.items()
    )
