"""Streaming: what the batches of the data gave, put together again."""

from __future__ import annotations

__all__ = ["Merged", "batch_weights", "merged"]

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pyro_vae.comparison.draws import Site


class Merged(NamedTuple):
    """One site over all batches, as arrays.

    Arguments:
        site: The site as the first batch saw it.
        sampled: log q - log p, with shape (draws, data), or (draws, 1) outside the plate.
        rounding: The rounding error of one such number, by datum.
        analytic: The exact KL, of the same shape, or None.
        lower: A lower bound on the KL, of the same shape, or None where no interval is known.
        upper: An upper bound, likewise.
        torch_form: The KL that `TraceMeanField_ELBO` computes, or None.
        trace_term: What `Trace_ELBO` adds to its loss, with shape (draws,).
        mean_field_term: What `TraceMeanField_ELBO` adds, or None where it refuses.
        at_edge: Whether any draw lies where the numbers of its precision end.
    """

    site: Site
    sampled: np.ndarray
    rounding: np.ndarray
    analytic: np.ndarray | None
    lower: np.ndarray | None
    upper: np.ndarray | None
    torch_form: np.ndarray | None
    trace_term: np.ndarray
    mean_field_term: np.ndarray | None
    at_edge: bool

    @property
    def name(self) -> str:
        """The name of the site."""
        return self.site.name


def batch_weights(
    frames: Sequence[CondIndepStackFrame], sites: Sequence[Sequence[Site]]
) -> list[float]:
    """Return the weight of each batch's loss in that of all data.

    A model that scales its plate to the full data size gives an estimate of the whole from each
    batch, and the estimates are averaged; otherwise the batches add up.

    Raises:
        ValueError: If they would add up, but a latent site lies outside the data plate and so
            would be counted once a batch.
    """
    sizes = [frame.size for frame in frames]
    if len(frames) == 1:
        return [1.0]
    scaled = [f.full_size is not None and f.full_size > f.size for f in frames]
    if all(scaled):
        return [size / sum(sizes) for size in sizes]
    outside = [site.name for site in sites[0] if not site.in_plate]
    if outside:
        raise ValueError(
            f"site {outside[0]!r} lies outside the data plate, so its KL would be counted once "
            "for each batch; compare without batch_size=, or give the plate its full size "
            "(pyro.plate('data', N, subsample_size=len(x)))."
        )
    return [1.0] * len(frames)


def merged(parts: Sequence[Site], weights: Sequence[float]) -> Merged:
    """Put the batches of one site together.

    Arguments:
        parts: The site in each batch.
        weights: The weight of each batch.
    """

    def stacked(name: str) -> list[np.ndarray] | None:
        arrays = [_stack(getattr(part, name)) for part in parts]
        there = [a for a in arrays if a is not None]
        return there if len(there) == len(parts) else None

    def weighed(arrays: list[np.ndarray]) -> np.ndarray:
        return np.sum([w * a for w, a in zip(weights, arrays, strict=True)], axis=0)

    def joined(name: str) -> np.ndarray | None:
        arrays = stacked(name)
        if arrays is None:
            return None
        return np.concatenate(arrays, axis=1) if parts[0].in_plate else weighed(arrays)

    def summed(name: str) -> np.ndarray | None:
        arrays = stacked(name)
        return None if arrays is None else weighed([a.sum(1) for a in arrays])

    sampled, rounding, trace_term = joined("sampled"), joined("rounding"), summed("trace_term")
    assert sampled is not None
    assert rounding is not None
    assert trace_term is not None
    return Merged(
        site=parts[0],
        sampled=sampled,
        rounding=rounding.mean(0),
        analytic=joined("analytic"),
        lower=joined("lower"),
        upper=joined("upper"),
        torch_form=joined("torch_form"),
        trace_term=trace_term,
        mean_field_term=summed("mean_field_term"),
        at_edge=any(bool(edge) for part in parts for edge in part.at_edge),
    )


def _stack(values: list[Tensor]) -> np.ndarray | None:
    return torch.stack(values).cpu().numpy() if values else None
