"""Which closed form serves a pair of classes, and whose it is.

The order: forms registered here, torch's form of two distributions of one class, the statistics
table (evaluated in float64), torch's other forms, enumeration. torch's table is read for exactly
matching classes only, for its own dispatch would give a subclass its parent's KL; what is known to
be wrong in it is never used, and neither is what this package has put there.
"""

from __future__ import annotations

__all__ = ["WRONG_IN_TORCH", "Found", "find"]

from typing import NamedTuple

import torch.distributions as td
from pyro.distributions import FoldedDistribution
from torch.distributions import Distribution
from torch.distributions.kl import _KL_REGISTRY

from pyro_vae.kl import enumeration, statistics, table
from pyro_vae.kl.table import Form, canonical

WRONG_IN_TORCH: dict[tuple[type[Distribution], type[Distribution]], str] = {
    (td.ContinuousBernoulli, td.ContinuousBernoulli): (
        "loses all digits for logits beyond 37, where it may be negative"
    ),
    (td.ContinuousBernoulli, td.Uniform): "is +inf for equal supports",
    (td.Uniform, td.ContinuousBernoulli): "is +inf for equal supports",
    (td.Bernoulli, td.Bernoulli): "is +inf once a probability rounds to 0 or 1",
    (td.Categorical, td.Categorical): "is +inf once a probability underflows",
    (td.OneHotCategorical, td.OneHotCategorical): "is +inf once a probability underflows",
    (td.Binomial, td.Binomial): "is -inf at probability 1, and refuses a larger prior count",
    (td.Poisson, td.Poisson): "is NaN for a rate of 0",
    (td.Geometric, td.Geometric): "is +inf for two probabilities of 1",
    (td.Wishart, td.Wishart): (
        "has no gradient with respect to q, and sums one term over a whole batch"
    ),
    (td.TransformedDistribution, td.TransformedDistribution): (
        "takes transforms that are equal in value for one and the same, bijective or not"
    ),
    (FoldedDistribution, FoldedDistribution): "is the KL of the unfolded distributions",
    (td.HalfNormal, FoldedDistribution): "is the KL of the unfolded distributions",
    (FoldedDistribution, td.HalfNormal): "is the KL of the unfolded distributions",
}
"""Pairs for which `torch.distributions.kl_divergence` errs, and how."""

# Pyro's form serves Normals and points alone, which have forms here, and declines all others
_DECLINING = {(td.Independent, td.MultivariateNormal)}


class Found(NamedTuple):
    """A closed form and where it comes from.

    Arguments:
        form: The function of (q, p).
        source: The package that defines it, "torch", "pyro_vae" or a third party's, and whether it
            was given to torch or stands in the place of another: see `table.source_of`.
    """

    form: Form
    source: str


def find(q: Distribution, p: Distribution) -> Found | None:
    """Return the closed form of KL(q || p), or None; classes and supports alone decide.

    Arguments:
        q: The guide.
        p: The prior.

    Returns:
        The form and its source, None if nobody has one.

    Example:
        >>> import pyro_vae.kl
        >>> find(td.Normal(0.0, 1.0), td.Gumbel(0.0, 1.0)).source
        "pyro_vae, in place of torch's"
        >>> find(td.StudentT(3.0), td.Normal(0.0, 1.0)).source
        'pyro_vae, given to torch'
    """
    form = table.lookup(table.key_of(q), table.key_of(p))
    if form is not None:
        return Found(form, table.source_of(q, p, table.package_of(form)))
    torchs = _in_torch(type(q), type(p))
    if torchs is not None and table.same_class(q, p):
        return torchs
    form = statistics.pair(type(q), type(p))
    if form is not None:
        return Found(form, table.source_of(q, p, "pyro_vae"))
    if torchs is None and enumeration.enumerable(q, p):
        return Found(enumeration.total, table.source_of(q, p, "pyro_vae"))
    return torchs


def _in_torch(q: type[Distribution], p: type[Distribution]) -> Found | None:
    """The form in torch's table for exactly these classes, if it is right."""
    pair = (canonical(q), canonical(p))
    if pair in WRONG_IN_TORCH or pair in _DECLINING:
        return None
    for key in ((q, p), pair, (q, canonical(p)), (canonical(q), p)):
        form = _KL_REGISTRY.get(key)
        if form is not None and not table.given(*key):
            return Found(form, table.package_of(form))
    return None
