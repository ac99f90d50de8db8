"""Means of p(x | z) of any model: at draws of prior and guide, and at latents moved by hand."""

from __future__ import annotations

__all__ = ["Coordinate", "Decoder"]

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.infer.guard import evaluating, untouched
from pyro_vae.infer.sites import latent_sites
from pyro_vae.supports import space_of

PRIOR_DRAWS = 4000
"""From which quantiles are taken where the prior has no `icdf`."""

MEAN_DRAWS = 20
"""Of which posterior means are taken, to say which latents move."""

_FREE = ("real", "circle")
"""Kinds of spaces whose coordinates move independently."""


class Coordinate(NamedTuple):
    """One number of a latent site.

    Arguments:
        site: The site.
        index: Its place in a draw of one datum, empty for a number.
    """

    site: str
    index: tuple[int, ...]

    @property
    def place(self) -> str:
        """The index as text, `[0]`; empty for a number."""
        return f"[{','.join(map(str, self.index))}]" if self.index else ""


class Decoder:
    """A model and its guide, run without leaving a trace.

    Arguments:
        model: A Pyro model with a plate over data as outermost one.
        guide: Its guide.
        x: Data, with shape `(n, *event_shape)`, the only argument of both.
        seed: Of all draws.

    Raises:
        ValueError: If the model does not observe data of one site, a row each.
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], x: Tensor, seed: int
    ) -> None:
        self.model, self.guide, self.x, self.seed = model, guide, x, seed
        with self._aside(0):
            guided: Any = poutine.trace(guide).get_trace(x)
            self._modelled = _nodes(poutine.replay(model, trace=guided), x)
        self._guided: dict[str, Any] = guided.nodes
        self.sites = latent_sites(self._modelled, self._guided)
        self._means = self._posterior_means()
        seen = [
            n
            for n, node in self._modelled.items()
            if node["type"] == "sample" and node["is_observed"] and not site_is_subsample(node)
        ]
        if len(seen) != 1:
            raise ValueError(
                f"pictures of images need a model with one observed site, but it has {len(seen)}"
                f"{': ' + ', '.join(seen) if seen else ''}."
            )
        self.observed = seen[0]
        for name in (*self.sites, self.observed):
            value = self._modelled[name]["value"]
            if value.shape[:1] != x.shape[:1]:
                raise ValueError(
                    f"site {name!r} has shape {tuple(value.shape)}, but pictures of images need a "
                    f"row for each of {len(x)} data."
                )

    # ------------------------------------------------------------------------------- images
    def of_prior(self, count: int) -> Tensor:
        """Means of p(x | z) for z ~ p(z), with shape (count, *event_shape)."""
        with self._aside(1):
            return self._mean(self.model, self._rows(count))

    def of_guide(self, x: Tensor, number: int) -> Tensor:
        """Means of p(x | z) for one draw z ~ q(z | x) of each datum."""
        with self._aside(2 + number):
            guided = poutine.trace(self.guide).get_trace(x)
            return self._mean(poutine.replay(self.model, trace=guided), x)

    def moved(self, datum: int, changes: Sequence[tuple[Coordinate, Tensor]]) -> Tensor:
        """Means of p(x | z) at a draw of the guide with some coordinates replaced.

        Arguments:
            datum: The row whose draw it is.
            changes: Coordinates, and the values of each, with shape (count,).
        """
        count = len(changes[0][1])
        values = {}
        for name in self.sites:
            one = self._guided[name]["value"][datum : datum + 1]
            values[name] = one.expand(count, *one.shape[1:]).clone()
        for (site, index), new in changes:
            values[site][(slice(None), *index)] = new.to(values[site])
        with self._aside(1):
            return self._mean(poutine.condition(self.model, data=values), self._rows(count))

    # ------------------------------------------------------------------------------- latents
    def movable(self) -> list[Coordinate]:
        """The coordinates that can be moved alone, those first whose means vary most over data."""
        found: list[tuple[float, Coordinate]] = []
        for name in self.sites:
            node = self._modelled[name]
            if space_of(node["fn"].support).kind not in _FREE:
                continue
            between = self._means[name].std(0, correction=0)
            for index in itertools.product(*map(range, between.shape)):
                found.append((float(between[index]), Coordinate(name, index)))
        return [c for _, c in sorted(found, key=lambda pair: -pair[0])]

    def others(self, coordinates: Sequence[Coordinate]) -> bool:
        """Whether there are more latent numbers than these."""
        total = sum(self._guided[name]["value"][0].numel() for name in self.sites)
        return total > len(coordinates)

    def quantiles(self, coordinate: Coordinate, at: Tensor) -> Tensor:
        """Quantiles of the prior of a coordinate, by `icdf` if it has one, else of draws.

        Arguments:
            coordinate: Which.
            at: Probabilities, with shape (count,).
        """
        site, index = coordinate
        with self._aside(1):
            drawn = _nodes(self.model, self._rows(len(at)))[site]
            exact = _icdf(drawn["fn"], index, at, drawn["value"].shape)
            if exact is not None:
                return exact
            rows = self._rows(PRIOR_DRAWS)
            values = _nodes(self.model, rows)[site]["value"]
        return values[(slice(None), *index)].double().quantile(at.to(values.device))

    # --------------------------------------------------------------------------------- inside
    def _posterior_means(self) -> dict[str, Tensor]:
        """Means of a few draws of the guide by site."""
        with self._aside(0):
            traces = [_nodes(self.guide, self.x) for _ in range(MEAN_DRAWS)]
        return {
            n: torch.stack([t[n]["value"] for t in traces]).double().mean(0) for n in self.sites
        }

    def _rows(self, count: int) -> Tensor:
        """Data that are there for their number."""
        return self.x[:1].expand(count, *self.x.shape[1:])

    def _mean(self, model: Callable[..., Any], x: Tensor) -> Tensor:
        fn = _nodes(model, x)[self.observed]["fn"]
        base = fn
        while hasattr(base, "base_dist"):
            base = base.base_dist
        if isinstance(base, torch.distributions.Categorical):  # torch gives no mean
            values = torch.arange(base.probs.shape[-1], device=x.device).to(base.probs)
            return base.probs @ values
        return fn.mean

    @contextmanager
    def _aside(self, number: int) -> Iterator[None]:
        with untouched(self.model, self.guide), evaluating(), torch.no_grad():
            pyro.set_rng_seed((self.seed * 1009 + number) % 2**32)
            yield


def _nodes(program: Callable[..., Any], x: Tensor) -> dict[str, Any]:
    """The sites of a run, by name."""
    return dict(poutine.trace(program).get_trace(x).nodes)


def _icdf(fn: Any, index: tuple[int, ...], at: Tensor, shape: torch.Size) -> Tensor | None:
    """Quantiles of one coordinate of a distribution whose draws have this shape, or None."""
    column = at.reshape(-1, *[1] * (len(shape) - 1)).to(torch.get_default_dtype()).expand(shape)
    base = fn
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    try:
        values = base.icdf(column)
    except (NotImplementedError, AttributeError):
        return None
    return values[(slice(None), *index)].double() if values.shape == shape else None
