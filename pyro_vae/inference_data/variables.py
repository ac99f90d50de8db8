"""Which dimensions the values of a Pyro site have, and what they are called.

A value of a site has the dimensions of its plates, the data plate among them, then those of one
event. Here the data come first, inner plates keep their names, and the dimensions of an event are
called `latent` (or `feature`, if the site is observed), with a number if there are several and
with the name of the site if there are several sites of the kind.
"""

from __future__ import annotations

__all__ = ["RESERVED", "Variable", "counted", "observed_entries", "to_numpy", "variables"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyro.distributions as dist
import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor

# a site as Pyro's traces hold it
Node: TypeAlias = Any

RESERVED = ("chain", "draw", "sample", "pred_id", "data")
"""Names of dimensions, which no variable can bear."""


@dataclass(frozen=True)
class Variable:
    """A site as a labelled variable.

    Arguments:
        name: The site.
        observed: Whether it is observed.
        dims: The names of the dimensions of one draw: `data`, inner plates, those of an event.
        event_dim: The number of the last.
        shape: The sizes, of the data of the run that showed them.
        data_dim: The (negative) dim of the data plate.
        kept: The (negative) dims of inner plates; others have size 1 and are dropped.
        bytes: Of one number.
    """

    name: str
    observed: bool
    dims: tuple[str, ...]
    event_dim: int
    shape: tuple[int, ...]
    data_dim: int
    kept: tuple[int, ...]
    bytes: int

    def arranged(self, value: Tensor) -> Tensor:
        """The dimensions of a value in the order of `dims`.

        Arguments:
            value: Of shape (draws, *batch, *event), as the program has it.

        Returns:
            The same numbers, of shape (draws, data, *inner plates, *event).
        """
        batch = value.dim() - 1 - self.event_dim
        dropped = [d for d in range(-batch, 0) if d not in (self.data_dim, *self.kept)]
        order = [self.data_dim, *self.kept, *dropped]
        front = [1 + batch + d for d in order]
        events = range(1 + batch, value.dim())
        value = value.permute(0, *front, *events)
        kept = len(order) - len(dropped)
        return value.reshape(*value.shape[: 1 + kept], *value.shape[1 + batch :])

    @property
    def numbers(self) -> int:
        """How many numbers one draw holds for one datum."""
        return math.prod(self.shape[1:])


def variables(
    nodes: Mapping[str, Node], plate: str, dims: Mapping[str, Sequence[str]]
) -> dict[str, Variable]:
    """The variables of the sites of a model, latent and observed.

    Arguments:
        nodes: The nodes of a trace of the model.
        plate: The name of the data plate.
        dims: Names of the dimensions of an event, by site, where others are wanted.

    Raises:
        ValueError: If a site bears the name of a dimension, or the names given do not fit.
    """
    sites = {n: node for n, node in nodes.items() if _speaks(node)}
    _check(sites, dims)
    return {n: _variable(n, node, plate, sites, dims) for n, node in sites.items()}


def _speaks(node: Node) -> bool:
    """Whether a node is a random site with values: no plate, no factor, no function of others."""
    if node["type"] != "sample" or site_is_subsample(node):
        return False
    return not (isinstance(node["fn"], dist.Unit) or node["infer"].get("_deterministic"))


def _check(sites: Mapping[str, Node], dims: Mapping[str, Sequence[str]]) -> None:
    for name in sites:
        if name in RESERVED:
            raise ValueError(
                f"a site is named {name!r}, which in ArviZ is a dimension; give it another name "
                f"in model and guide (taken: {', '.join(RESERVED)})."
            )
    for name, given in dims.items():
        if name not in sites:
            raise ValueError(
                f"dims= names {name!r}, which is no site of the model; its sites are "
                f"{', '.join(sites)}."
            )
        event = tuple(sites[name]["fn"].event_shape)
        taken = sorted({*given} & {*RESERVED, *sites})
        if len(given) != len(event) or len(set(given)) != len(given) or taken:
            raise ValueError(
                f"dims={{{name!r}: {list(given)!r}}} does not fit: one draw of {name!r} has shape "
                f"{event}, so give {len(event)} different names, none of them a site's or "
                f"one of {', '.join(RESERVED)}."
            )


def _variable(
    name: str,
    node: Node,
    plate: str,
    sites: Mapping[str, Node],
    dims: Mapping[str, Sequence[str]],
) -> Variable:
    observed = bool(node["is_observed"])
    event = tuple(node["fn"].event_shape)
    value = node["value"]
    frames = {f.dim: f for f in node["cond_indep_stack"] if f.dim is not None}
    data_dim = next(d for d, f in frames.items() if f.name == plate)
    batch = value.dim() - len(event)
    inner = tuple(d for d in range(-batch, 0) if d in frames and d != data_dim)
    loose = [d for d in range(-batch, 0) if d not in frames and value.shape[batch + d] > 1]
    taken = {*sites, *RESERVED}
    plates = [_free(frames[d].name, taken) for d in inner]
    plates += [_free(f"{name}_dim_{batch + d}", taken) for d in loose]
    kind = [s for s in sites.values() if bool(s["is_observed"]) == observed]
    word = "feature" if observed else "latent"
    base = word if len(kind) == 1 else f"{name}_{word}"
    names = [base] if len(event) == 1 else [f"{base}_{i}" for i in range(len(event))]
    ends = dims.get(name, [_free(n, {*taken, *plates}) for n in names])
    kept = (*inner, *loose)
    sizes = [value.shape[batch + d] for d in (data_dim, *kept)]
    return Variable(
        name,
        observed,
        ("data", *plates, *ends),
        len(event),
        (*sizes, *event),
        data_dim,
        kept,
        max(value.element_size(), 4) if value.is_floating_point() else value.element_size(),
    )


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_dim"
    return name


def observed_entries(node: Node) -> Tensor | None:
    """Which entries of a site's value are scored, of the value's shape; None if all are.

    Arguments:
        node: An observed site.
    """
    masks: list[tuple[Any, int]] = [(node["mask"], len(node["fn"].event_shape))]
    fn = node["fn"]
    while isinstance(fn, dist.Independent | dist.MaskedDistribution):
        if isinstance(fn, dist.MaskedDistribution):
            masks.append((fn._mask, len(fn.event_shape)))
        fn = fn.base_dist
    masks.append((getattr(fn, "seen", None), 0))  # of a mixture, whose entries go together
    value = node["value"]
    found = None
    for mask, event_dim in masks:
        if mask is None or mask is True:
            continue
        mask = torch.as_tensor(mask, device=value.device).bool()
        mask = mask.reshape(*mask.shape, *[1] * event_dim).expand(value.shape)
        found = mask if found is None else found & mask
    return None if found is None or bool(found.all()) else found


def to_numpy(value: Tensor) -> np.ndarray:
    """The numbers of a tensor in a type that NetCDF has: booleans are 0 and 1."""
    value = value.detach().cpu()
    if value.dtype == torch.bool:
        return value.to(torch.int8).numpy()
    if value.dtype in (torch.float16, torch.bfloat16):
        return value.float().numpy()
    return value.numpy()


def counted(values: np.ndarray, fn: Any) -> np.ndarray:
    """Draws of a discrete distribution as integers, which ArviZ counts rather than smooths.

    Arguments:
        values: Values of a site.
        fn: Its distribution.

    Returns:
        int8 for {0, 1}, int32 for other integers; the values themselves if they are none.
    """
    try:
        support: Any = fn.support
        discrete = bool(support.is_discrete)
    except NotImplementedError:  # a distribution need not say what it ranges over
        return values
    if not discrete or values.dtype.kind != "f":
        return values
    if not np.array_equal(values, np.rint(values)):
        return values
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if low < -(2**31) or high >= 2**31:
        return values
    return values.astype(np.int8 if _binary(support) else np.int32)


def _binary(support: Any) -> bool:
    while isinstance(support, dist.constraints.independent):
        support = support.base_constraint
    kinds = (type(dist.constraints.boolean), type(dist.constraints.one_hot))
    return isinstance(support, kinds)
