"""The entropy of a distribution, H(q) = -E_q[log q(x)], where it is known and its own.

Sources are, in this order, what the closed forms of KLs know (the rows of statistics, and a few
classes that have none) and the distribution's own method `entropy`. That method is not believed
where

* a subclass with another density has inherited it;
* it is the generic one of `torch.distributions.ExponentialFamily`, which detaches the parameters
  and so has no gradient;
* it is that of torch's `Multinomial`, which gets lost when the distribution is expanded.
"""

from __future__ import annotations

__all__ = ["closed_entropy"]

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import Distribution, ExponentialFamily

from pyro_vae.distributions import WrappedNormal
from pyro_vae.kl.closed_forms import circle, multivariate_student
from pyro_vae.kl.closed_forms.von_mises import mean_cosine
from pyro_vae.kl.plan import sum_last
from pyro_vae.kl.statistics import rows
from pyro_vae.kl.table import canonical, same_class


def closed_entropy(d: Distribution) -> Tensor | None:
    """H(d) = -E_d[log d(x)], exactly, or None.

    Arguments:
        d: A distribution; `Independent` and expanded ones are looked through.

    Returns:
        The entropy in nats, of the batch shape, differentiable in the parameters; None if no
        closed form of this very class is known.

    Example:
        >>> closed_entropy(td.Independent(td.Uniform(torch.zeros(2), 2.0), 1))
        tensor(1.3863)
        >>> closed_entropy(td.NegativeBinomial(3.0, 0.5)) is None
        True
    """
    wrapped: Any = d
    if same_class(d, td.Independent):
        inner = closed_entropy(wrapped.base_dist)
        return None if inner is None else sum_last(inner, wrapped.reinterpreted_batch_ndims)
    if isinstance(d, ExpandedDistribution):
        inner = closed_entropy(wrapped.base_dist)
        return None if inner is None else inner.expand(d.batch_shape)
    cls = canonical(type(d))
    row = rows().get(cls)
    if row is not None and row.defines("entropy"):
        return row(d).entropy()
    if cls in _FORMS:
        return _FORMS[cls](d)
    if cls is td.Multinomial or not _own(cls):
        return None
    try:
        return d.entropy()
    except NotImplementedError:
        return None


def _own(cls: type[Distribution]) -> bool:
    """Whether the entropy of a class is that of its own density, not one of a parent's."""
    mro = cls.__mro__
    definer = {
        name: next((i for i, c in enumerate(mro) if name in vars(c)), len(mro))
        for name in ("entropy", "log_prob")
    }
    if definer["entropy"] > definer["log_prob"] or definer["entropy"] == len(mro):
        return False
    return mro[definer["entropy"]] is not ExponentialFamily


# ------------------------------------------------------------------- classes without statistics
def _von_mises(d: Any) -> Tensor:
    k = d.concentration
    negative = k * (mean_cosine(k) - 1) - torch.special.i0e(k).log()
    return math.log(2 * math.pi) - negative + 0 * d.loc


def _wrapped_normal(d: Any) -> Tensor:
    return math.log(2 * math.pi) - circle.negentropy(d.scale) + 0 * d.loc


def _multivariate_student(d: Any) -> Tensor:
    log_scale = d.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return multivariate_student.entropy(d.df, d.event_shape[0], log_scale)


_FORMS: dict[type[Distribution], Callable[[Any], Tensor]] = {
    td.VonMises: _von_mises,
    WrappedNormal: _wrapped_normal,
    dist.MultivariateStudentT: _multivariate_student,
}
