"""What the shelf can do: how many guides, admissible pairs, and where their KLs come from."""

from __future__ import annotations

__all__ = ["HEADS", "counts", "kinds"]

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr

from pyro_vae import kl
from pyro_vae.pairings.members import ELSEWHERE, members, pair_of, shelf

FEATURES, CONTEXT = 3, 4
KINDS = ("closed", "quadrature", "sampled", "infinite", "undefined")
HEADS = ("space of the guide", "guides", "pairs", *KINDS)

Names = Iterable[str] | Mapping[str, Any]


def kinds(guides: Names | None = None, priors: Names | None = None) -> xr.Dataset:
    """Return the route of every pair: the kind of `kl.route` at the start of training.

    Arguments:
        guides: As for `compare_pairings`; by default every guide on the shelf.
        priors: As for `compare_pairings`; by default every prior on the shelf.

    Returns:
        A Dataset with dims `guide` and `prior`: `kind` (closed, quadrature, sampled, infinite,
        undefined; empty where the pair is not admissible), `source` (whose form it is), and
        `reason` (of a refusal, or of what is infinite or sampled).

    Raises:
        TypeError: If a member is neither a name nor a factory.
        ValueError: If a name is unknown, plays another role or comes twice.

    Example:
        >>> found = kinds(["normal", "logit_normal"], ["normal", "beta"])
        >>> found.kind.values.tolist()
        [['closed', ''], ['quadrature', 'quadrature']]
    """
    q = members(shelf("guide") if guides is None else guides, "guide")
    p = members(shelf("prior") if priors is None else priors, "prior")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        pairs = [
            pair_of(make_q, make_p, FEATURES, CONTEXT)
            for make_q in q.values()
            for make_p in p.values()
        ]
        told = [_told(pair) for pair in pairs]
    spaces = {
        role: [_space(pairs, i, role, len(p)) for i in range(n)]
        for role, n in (("guide", len(q)), ("prior", len(p)))
    }
    grid = np.array(told, dtype=object).reshape(len(q), len(p), 3).astype(str)
    names = ("kind", "source", "reason")
    variables = {name: (("guide", "prior"), grid[..., i]) for i, name in enumerate(names)}
    coords = {
        "guide": list(q),
        "prior": list(p),
        "guide_space": ("guide", spaces["guide"]),
        "prior_space": ("prior", spaces["prior"]),
    }
    return xr.Dataset(variables, coords)


def _told(pair: Any) -> tuple[str, str, str]:
    if pair.refusal:
        return "", "", pair.refusal
    route = kl.route(pair.guide(torch.zeros(1, CONTEXT)), pair.prior())
    return route.kind, route.source, route.reason


def _space(pairs: list[Any], index: int, role: str, width: int) -> str:
    """The space of a guide or prior, which may depend on the partner."""
    mine = pairs[index * width : (index + 1) * width] if role == "guide" else pairs[index::width]
    names = {pair.spaces[role == "prior"] for pair in mine} - {""}
    return names.pop() if len(names) == 1 else ELSEWHERE[role == "prior"]


def counts(found: xr.Dataset) -> list[list[str | int]]:
    """Count guides, admissible pairs and their routes by the space of the guide.

    Arguments:
        found: The result of `kinds`.

    Returns:
        Rows: the space, how many guides live there, how many pairs they make with priors, and
        of those how many have each kind of route; the last row is the sum.

    Example:
        >>> counts(kinds(["normal", "gamma"], ["normal"]))[-1][:4]
        ['all', 2, 2, 2]
    """
    rows: list[list[str | int]] = []
    for space in dict.fromkeys(found["guide_space"].values.tolist()):
        kind = found["kind"].values[found["guide_space"].values == space]
        rows.append(
            [space, len(kind), int((kind != "").sum()), *(int((kind == k).sum()) for k in KINDS)]
        )
    total = [sum(int(row[i]) for row in rows) for i in range(1, len(rows[0]))]
    return [*rows, ["all", *total]]
