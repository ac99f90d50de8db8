"""Closed forms that torch lacks, given to torch.

`TraceMeanField_ELBO` asks `torch.distributions.kl_divergence`, and samples in silence where that
has no form. So the forms of this package are registered there as well, for exactly the pairs that
torch, Pyro and their users have none for. A guest changes nothing that worked before:

* what is registered already, by whomever, is never replaced, nor is it shadowed: a pair for which
  an inherited form applies is left alone (but for the two generic rules of torch, which serve no
  two different classes);
* a form serves exactly the classes it was written for. torch dispatches on inheritance, so a
  subclass with another density arrives here too; it gets what it got before, which is
  NotImplementedError or a generic rule;
* wherever the KL is infinite in any element the form declines, again by NotImplementedError
  (inside a graph, where nobody can ask, those elements are +inf);
* only closed forms are given, never quadrature.
"""

from __future__ import annotations

__all__ = ["offer"]

from typing import Any, NoReturn

import torch
import torch.distributions as td
from pyro.distributions import MultivariateStudentT
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions import Product
from pyro_vae.kl import statistics, table
from pyro_vae.kl.parameters import dtype_of
from pyro_vae.kl.plan import plan
from pyro_vae.kl.quadrature import traced
from pyro_vae.kl.table import Form, Key

Class = type[Distribution]

# where torch's rule serves but one special case: two of equal parameters
_HARDLY = {(td.Weibull, td.Weibull)}


def offer(q: Key, p: Key) -> bool:
    """Give torch the form of a pair, if torch lacks one.

    Arguments:
        q: The class of the first argument, or `(Independent, Base)`.
        p: The class of the second argument, likewise.

    Returns:
        Whether torch now has it from here.

    Example:
        >>> offer(td.Normal, td.Normal)  # has its own
        False
        >>> offer(td.StudentT, td.Normal)
        True
        >>> td.kl_divergence(td.StudentT(3.0), td.Normal(0.0, 1.0)).shape
        torch.Size([])
    """
    given = (_class(q), _class(p))
    for left in table.spellings(given[0]):
        for right in table.spellings(given[1]):
            rules = table.others(left, right)
            if not rules or (left, right) in _HARDLY:
                table.give(left, right, _guarded(*given, rules))
    return table.given(*given)


def _guarded(q: Class, p: Class, rules: list[Form]) -> Form:
    """The form for torch's table: of exactly these classes, finite, closed, in torch's dtype."""

    def form(left: Any, right: Any) -> Tensor:
        if not (table.same_class(left, q) and table.same_class(right, p)):
            # a subclass may have another density; what served it before still does
            for rule in rules:
                return rule(left, right)
            return _decline(left, right, "another density than that of its parent is possible")
        made = plan(left, right)
        if made.kind != "closed" or made.value is None:
            return _decline(left, right, "there is no closed form")
        value, finite = made.value().to(dtype_of(left, right)), made.finite
        if finite is None:
            return value
        if not traced() and not bool(finite.all()):
            return _decline(left, right, f"not finite everywhere, for {made.why()}")
        return torch.where(finite, value, torch.inf)

    form.__doc__ = f"KL({q.__name__} || {p.__name__}), given by pyro_vae."
    return form


def _decline(q: Distribution, p: Distribution, why: str) -> NoReturn:
    raise NotImplementedError(f"KL({type(q).__name__} || {type(p).__name__}): {why}.")


def _class(key: Key) -> Class:
    return key if isinstance(key, type) else key[0]


def _offer_all() -> None:
    for q, p in table.forms():
        offer(q, p)
    for q in statistics.rows():
        for p in statistics.columns():
            if statistics.pair(q, p) is not None:
                offer(q, p)
    # a reduction to the marginals, whatever the elements of the prior
    for q in (td.MultivariateNormal, td.LowRankMultivariateNormal, MultivariateStudentT):
        offer(q, td.Independent)
    # sums over blocks
    for q, p in ((Product, Product), (Product, td.Independent), (td.Independent, Product)):
        offer(q, p)


_offer_all()
table.watch(offer)
