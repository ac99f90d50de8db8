"""The line of an event of one number, whatever it is written as.

A vector of one element, a Gaussian with a covariance of one, a mixture of such: the KL is that of
the number, and one integral. A mixture of longer events is none, for its elements depend on each
other.
"""

from __future__ import annotations

__all__ = ["element_of"]

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import transforms

from pyro_vae.kl.line_composites import mixed
from pyro_vae.kl.lines import Line, line_of
from pyro_vae.kl.table import canonical, same_class


def element_of(d: Any) -> Line | None:
    """Return the line of a number, or of the one number in an event.

    Arguments:
        d: A distribution without masks.

    Returns:
        The line, of the batch shape of `d`; None if an event has several numbers, or its class
        has no line.

    Example:
        >>> import pyro_vae.kl
        >>> element_of(dist.Normal(torch.zeros(3, 1), 1.0).to_event(1)).frame().centre.shape
        torch.Size([3])
        >>> element_of(dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)) is None
        True
    """
    if not d.event_shape:
        return line_of(d)
    if d.event_shape.numel() != 1:
        return None
    if same_class(d, td.Independent):
        inner = element_of(d.base_dist)
        drop = _less(d.base_dist.batch_shape, d.reinterpreted_batch_ndims)
        return None if inner is None else inner.mapped(drop)
    if same_class(d, td.MixtureSameFamily):
        return mixed(d.mixture_distribution, element_of(d.component_distribution))
    if same_class(d, td.TransformedDistribution):
        shaped = all(isinstance(t, transforms.ReshapeTransform) for t in d.transforms)
        return element_of(d.base_dist) if shaped else None
    vector = _VECTORS.get(canonical(type(d)))
    return None if vector is None else line_of(vector(d))


def _less(batch: torch.Size, dims: int) -> Callable[[Tensor, int], Tensor]:
    """Drop the last dimensions of a batch shape, each of one element."""

    def change(t: Tensor, beyond: int) -> Tensor:
        rest = t.shape[t.dim() - beyond :]
        kept = batch[: len(batch) - dims]
        return t.expand(batch + rest).reshape(kept + rest)

    return change


def _normal(d: Any) -> td.Normal:
    return td.Normal(d.loc[..., 0], d.variance[..., 0].sqrt(), validate_args=False)


def _student(d: Any) -> td.StudentT:
    return td.StudentT(d.df, d.loc[..., 0], d.scale_tril[..., 0, 0], validate_args=False)


_VECTORS: dict[type, Callable[[Any], td.Distribution]] = {
    td.MultivariateNormal: _normal,
    td.LowRankMultivariateNormal: _normal,
    dist.MultivariateStudentT: _student,
}
