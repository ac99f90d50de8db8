"""By datum: which plate holds the data, and what a site adds to each of them."""

from __future__ import annotations

__all__ = ["PARTICLES", "data_plate", "find_plate", "rows", "subsampling"]

from collections.abc import Mapping
from typing import Any, TypeAlias

from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

# a site as Pyro's traces hold it
Node: TypeAlias = Any

PARTICLES = "num_particles_vectorized"
"""The name Pyro gives to the plate of vectorised particles."""


def find_plate(nodes: Mapping[str, Node], plate: str | None = None) -> CondIndepStackFrame | None:
    """Return the outermost vectorised plate that all observed sites share, or the one named.

    Arguments:
        nodes: The nodes of a trace of the model.
        plate: The name of the plate; by default it is found.

    Returns:
        The plate's frame, None if there is none.
    """
    stacks = [_plates(n) for n in nodes.values() if n["type"] == "sample" and n["is_observed"]]
    if not stacks:
        return None
    shared = [f for f in stacks[0] if all(f.name in {g.name for g in s} for s in stacks)]
    return next((f for f in shared if plate is None or f.name == plate), None)


def data_plate(nodes: Mapping[str, Node], plate: str | None = None) -> CondIndepStackFrame:
    """Return `find_plate`.

    Arguments:
        nodes: The nodes of a trace of the model.
        plate: The name of the plate; by default it is found.

    Raises:
        ValueError: If there is none.
    """
    observed = [n for n in nodes.values() if n["type"] == "sample" and n["is_observed"]]
    if not observed:
        raise ValueError("the model observes nothing, so there is no ELBO; pass it the data.")
    frame = find_plate(nodes, plate)
    if frame is None:
        known = sorted({f.name for n in observed for f in _plates(n)})
        raise ValueError(
            f"no plate{'' if plate is None else f' named {plate!r}'} is common to the observed "
            f"sites, so there are no rows to compare by datum. Plates of the observed sites: "
            f"{', '.join(known) or 'none'}; put `with pyro.plate('data', len(x)):` around them."
        )
    return frame


def _plates(node: Node) -> list[CondIndepStackFrame]:
    return [f for f in node["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]


def rows(value: Tensor, node: Node, frame: CondIndepStackFrame | None, *, keep: int = 0) -> Tensor:
    """Sum what a site adds over all plates but the data plate.

    Arguments:
        value: With the batch shape of the site.
        node: The site.
        frame: The data plate, None if there is none.
        keep: The (negative) dim of vectorised particles, which are kept; 0 if there is none.

    Returns:
        A tensor of shape (data,), (particles, data), (particles,) or (): without data for a
        site outside the plate.
    """
    kept = {f.dim for f in node["cond_indep_stack"] if frame is not None and f.name == frame.name}
    kept |= {keep} - {0}
    dims = [d for d in range(-value.dim(), 0) if d not in kept]
    return value.sum(dims) if dims else value


def subsampling(frame: CondIndepStackFrame | None) -> float:
    """Return full size over size of a plate, by which Pyro weighs what is in it."""
    return 1.0 if frame is None or frame.full_size is None else frame.full_size / frame.size
