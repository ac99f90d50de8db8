"""Replicates: latent values and data drawn from the model, in the place of the data it was given.

    z* ~ p(z),  x* ~ p(x | z*)

A model observes what it is passed. It generates in the first of these ways that is right:

* *unconditioned*: it is run as it is on the data, its observations withdrawn
  (`pyro.poutine.uncondition`), so that every site is drawn;
* *without data*: what it observes is passed as None (and the number of data as `size`, if it has
  such an argument), for models that draw replicates then;
* a `simulator` of the caller's, a program with the sites of the model, called as the model is.

Whether a way is right is tried: the model, given the replicates as its data and z*, must score
them as they were drawn. A model that looks at the data it observes (one that is autoregressive
under teacher forcing, say) fails this when it is unconditioned.

What is passed beside what is observed (labels, masks) stays; replicate r has that of datum r,
or, with more replicates than data, of r modulo their number.
"""

from __future__ import annotations

__all__ = ["Replicates", "Simulation", "simulate"]

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

from pyro_vae.diagnostics.particles import AGREEMENT, Batch, Node, OneByOne, Program, by_datum
from pyro_vae.diagnostics.passes import Pass, samples, seed_of
from pyro_vae.diagnostics.shelf import NotApplicable
from pyro_vae.infer.batches import Data

Way = Callable[[Data], dict[str, Node]]


class Replicates(NamedTuple):
    """What was drawn.

    Arguments:
        data: The arguments of both programs, with replicates in the place of data.
        latents: The latent values by site, (1, *shape of one draw) with all replicates.
        way: How the model was made to generate.
    """

    data: Data
    latents: dict[str, Tensor]
    way: str


def simulate(
    walk: Pass, replicates: int, simulator: Callable[..., Any] | None = None
) -> Replicates:
    """Draw replicates block by block; the seed of each is made of its number alone.

    Arguments:
        walk: The programs and the data.
        replicates: How many to draw.
        simulator: A program with the sites of the model that draws them all, called as the
            model is; by default the model itself.

    Raises:
        NotApplicable: If the model cannot be made to generate.
    """
    stream = walk.stream
    if not stream.data.size:
        raise NotApplicable(
            "the programs take no data as arguments, so that replicates cannot be passed to the "
            "guide; write model(x) and guide(x)."
        )
    simulation = Simulation(walk, simulator)
    size = stream.block
    parts: list[Data] = []
    latents: list[dict[str, Tensor]] = []
    for number in range(-(-replicates // size)):
        rows = torch.arange(number * size, min((number + 1) * size, replicates))
        with walk.aside(), pyro.validation_enabled(False):
            pyro.set_rng_seed(seed_of(stream.seed, 2, number))
            data, drawn = simulation.draw(taken(stream.data, rows % stream.data.size))
        parts.append(data)
        latents.append(drawn)
    joined = {
        n: torch.cat([part[n] for part in latents], -len(walk.shapes[n].event) + walk.dim)[None]
        for n in walk.names
    }
    return Replicates(concatenated(parts), joined, simulation.way)


def taken(data: Data, rows: Tensor) -> Data:
    """Some data, by number."""
    return data._mapped(lambda a: a[rows.to(a.device)], len(rows))


def concatenated(parts: list[Data]) -> Data:
    """Data after data."""

    def joined(name: int | str) -> Any:
        values = [p.args[name] if isinstance(name, int) else p.kwargs[name] for p in parts]
        return torch.cat(values) if name in parts[0].names else values[0]

    return Data(
        tuple(joined(i) for i in range(len(parts[0].args))),
        {n: joined(n) for n in parts[0].kwargs},
        sum(p.size for p in parts),
        parts[0].names,
    )


class Simulation:
    """How a model is made to generate; see the module.

    Arguments:
        walk: The programs and the data.
        simulator: The caller's own, if any.

    Attributes:
        places: By observed site, which argument it observes.
        way: How the model generates.

    Raises:
        NotApplicable: If no way is right.
    """

    def __init__(self, walk: Pass, simulator: Callable[..., Any] | None) -> None:
        self.walk, self.model = walk, walk.stream.model
        first = walk.stream.first.data
        with walk.aside():
            _, nodes = walk.traces(walk.stream.first, 0)
            self.observed = {n: node for n, node in nodes.items() if node["is_observed"]}
            self.places = {n: self._place(n, node, first) for n, node in self.observed.items()}
            self._generate, self.way = self._choose(simulator, first)

    def draw(self, data: Data) -> tuple[Data, dict[str, Tensor]]:
        """Replicates of some data, and the latent values they were drawn from."""
        nodes = self._generate(data)
        replaced = self._replaced(data, nodes)
        return replaced, {n: nodes[n]["value"] for n in self.walk.names}

    # -------------------------------------------------------------------- arguments and sites
    def _place(self, name: str, node: Node, data: Data) -> int | str:
        if isinstance(node["fn"], dist.Unit):
            raise NotApplicable(
                f"site {name!r} is a pyro.factor, which has nothing to draw, so the model cannot "
                "generate data; write it as a distribution, or give simulator=."
            )
        named = {**dict(enumerate(data.args)), **data.kwargs}
        for place in data.names:
            if _same(node["value"], named[place]):
                return place
        raise NotApplicable(
            f"site {name!r} observes none of the arguments as it was passed, so replicates of it "
            "cannot be passed to the guide. Pass what is observed (preprocess it before the "
            "call) as an argument, a datum a row."
        )

    def _replaced(self, data: Data, nodes: Mapping[str, Node]) -> Data:
        args, kwargs = list(data.args), dict(data.kwargs)
        for name, place in self.places.items():
            holder: Any = args if isinstance(place, int) else kwargs
            drawn, old = nodes[name]["value"], holder[place]
            if drawn.numel() != old.numel():
                raise ValueError(
                    f"site {name!r} drew {tuple(drawn.shape)} numbers in the place of an argument "
                    f"of shape {tuple(old.shape)}: a replicate for each datum is needed."
                )
            new = drawn.reshape(old.shape).to(old.dtype)
            rounded = old.dtype.is_floating_point  # which changes densities by next to nothing
            if not rounded and not torch.equal(new.to(drawn.dtype), drawn.reshape(old.shape)):
                raise ValueError(
                    f"site {name!r} draws {drawn.dtype} numbers that its argument, of "
                    f"{old.dtype}, cannot hold; pass the data as {drawn.dtype}."
                )
            holder[place] = new
        return Data(tuple(args), kwargs, data.size, data.names)

    # ------------------------------------------------------------------------------ the ways
    def _choose(self, simulator: Callable[..., Any] | None, data: Data) -> tuple[Way, str]:
        if simulator is not None:
            ways: dict[str, Way] = {"simulator": lambda d: _run(simulator, d.args, d.kwargs)}
        else:
            ways = {"unconditioned": self._unconditioned, "without data": self._without_data}
        reasons: list[str] = []
        for name, way in ways.items():
            pyro.set_rng_seed(seed_of(self.walk.stream.seed, 3))
            try:
                reason = self._wrong(way, data)
            except Exception as error:  # whatever a program may raise when it is called like this
                reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            if reason is None:
                return way, name
            reasons.append(f"{name}: {reason}")
        raise NotApplicable(
            f"the model cannot be made to generate data ({'; '.join(reasons)}). Give simulator=, "
            "a program with the model's sites that draws all of them, called as the model is."
        )

    def _unconditioned(self, data: Data) -> dict[str, Node]:
        return _run(poutine.uncondition(self.model), data.args, data.kwargs)

    def _without_data(self, data: Data) -> dict[str, Node]:
        gone = set(self.places.values())
        args = tuple(None if i in gone else a for i, a in enumerate(data.args))
        kwargs = {n: None if n in gone else a for n, a in data.kwargs.items()}
        if _takes(self.model, "size"):
            kwargs["size"] = data.size
        return _run(self.model, args, kwargs)

    def _wrong(self, way: Way, data: Data) -> str | None:
        """Why a way of generating is wrong, None if it is right."""
        nodes = way(data)
        missing = {*self.walk.names, *self.places} - nodes.keys()
        if missing:
            return f"site {sorted(missing)[0]!r} is not drawn"
        still = [n for n in (*self.walk.names, *self.places) if nodes[n]["is_observed"]]
        if still:
            return f"site {still[0]!r} is observed, not drawn"
        replaced = self._replaced(data, nodes)
        frame, size = self.walk.stream.frame, data.size
        latents = {n: nodes[n]["value"] for n in self.walk.names}
        batch = Batch(replaced, frame, self.walk.stream.first.nesting, self.walk.shapes)
        given = {n: v[None] for n, v in latents.items()}
        scored = OneByOne().run(self.model, batch, 1, given).log_density
        for name in [*self.places, *latents]:
            drawn = by_datum(nodes[name], frame, size)
            if not torch.allclose(
                drawn, scored[name][0], rtol=AGREEMENT, atol=AGREEMENT, equal_nan=True
            ):
                return (
                    f"site {name!r} has another log density when the model is given what was "
                    "drawn; it may look at the data it observes"
                )
        return None


def _run(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Node]:
    return samples(poutine.trace(program).get_trace(*args, **kwargs))


def _same(value: Any, argument: Tensor) -> bool:
    """Whether a site observes an argument, in whatever shape and precision."""
    if not isinstance(value, Tensor) or value.numel() != argument.numel():
        return False
    given = argument.to(value.device, value.dtype).reshape(value.shape)
    # masked entries may be NaN in the argument, and anything in what is observed
    return bool(((value == given) | given.isnan()).all())


def _takes(program: Program, name: str) -> bool:
    function = program.forward if isinstance(program, torch.nn.Module) else program
    return name in inspect.signature(function).parameters
