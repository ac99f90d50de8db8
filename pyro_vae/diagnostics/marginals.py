"""The marginals of a distribution by coordinate, where they are known in closed form."""

from __future__ import annotations

__all__ = ["marginals"]

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.diagnostics.coordinates import Coordinates
from pyro_vae.distributions import multivariate as own
from pyro_vae.kl import same_class

_NORMALS: tuple[Any, ...] = (
    dist.MultivariateNormal,
    dist.LowRankMultivariateNormal,
    own.LowRankMultivariateNormal,
)
_STUDENTS: tuple[Any, ...] = (dist.MultivariateStudentT, own.MultivariateStudentT)


def marginals(fn: Any, coordinates: Coordinates) -> Any | None:
    """A distribution of numbers, of batch shape `fn.batch_shape + event`, or None if not known.

    Known are those of independent elements, of correlated Normals and multivariate Student-t's,
    of a Dirichlet (Beta) and of classes one-hot (Bernoulli).

    Arguments:
        fn: The distribution of a site.
        coordinates: Its coordinates.

    Example:
        >>> joint = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
        >>> marginals(joint, Coordinates("z", "real", (2,))).scale
        tensor([2., 1.])
    """
    if coordinates.kind == "class":
        return None
    dims = 0
    while isinstance(fn, dist.Independent):
        dims += fn.reinterpreted_batch_ndims
        fn = fn.base_dist
    if not fn.event_shape:
        return fn
    if dims:
        return None
    if any(same_class(fn, c) for c in _NORMALS):
        return dist.Normal(fn.loc, fn.variance.sqrt())
    if any(same_class(fn, c) for c in _STUDENTS):
        scale = fn.scale_tril.square().sum(-1).sqrt()
        return dist.StudentT(fn.df[..., None], fn.loc, scale)
    if same_class(fn, torch.distributions.Dirichlet):
        a: Tensor = fn.concentration
        return dist.Beta(a, a.sum(-1, keepdim=True) - a)
    if same_class(fn, torch.distributions.OneHotCategorical):
        return dist.Bernoulli(probs=fn.probs)
    return None
