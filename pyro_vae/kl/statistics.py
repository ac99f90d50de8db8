"""KL from statistics: a few rows and columns give whole blocks of pairs.

KL(q || p) = -H(q) - E_q[log p], and for most priors -log p is a short combination of

    1, x, x^2, |x - a|, exp((a - x) / c)   on the line,
    1, log x, (log x)^2, (x / u)^k         on the half-line,
    x, logit x, (logit x)^2                on the unit interval.

A guide that states its entropy and those expectations (a *row*, a subclass of `Statistics`) is
therefore paired with every prior that states its -log p as a combination of them (a *column*, a
function of the prior and of the guide's statistics): n rows and m columns give n m pairs. Which
pairs exist follows from the classes alone: a column names the statistics it needs, a row has
those that it defines. An expectation that diverges is +inf.
"""

from __future__ import annotations

__all__ = ["Column", "Statistics", "column", "columns", "pair", "row", "rows"]

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.table import Form, canonical

S = TypeVar("S", bound="type[Statistics]")


class Statistics:
    """Entropy and expectations of a guide; a row defines those that have a closed form.

    Arguments:
        q: The guide, its parameters in float64 and of equal shapes.
    """

    def __init__(self, q: Any) -> None:
        self.q = q

    def entropy(self) -> Tensor:
        """H(q) = -E log q(x)."""
        raise NotImplementedError

    def mean(self) -> Tensor:
        """E x."""
        raise NotImplementedError

    def variance(self) -> Tensor:
        """E (x - E x)^2."""
        raise NotImplementedError

    def abs_deviation(self, a: Tensor) -> Tensor:
        """E |x - a|."""
        raise NotImplementedError

    def exp_decay(self, a: Tensor, c: Tensor) -> Tensor:
        """E exp((a - x) / c), c > 0; neither exp(a / c) nor E exp(-x / c) need be a double."""
        raise NotImplementedError

    def log(self) -> Tensor:
        """E log x."""
        raise NotImplementedError

    def log_variance(self) -> Tensor:
        """E (log x - E log x)^2."""
        raise NotImplementedError

    def power(self, k: Tensor, unit: Tensor) -> Tensor:
        """E (x / unit)^k, k of either sign, unit > 0."""
        raise NotImplementedError

    def logit(self) -> Tensor:
        """E logit x, E log (1 - x) being E log x - E logit x."""
        raise NotImplementedError

    def logit_variance(self) -> Tensor:
        """E (logit x - E logit x)^2."""
        raise NotImplementedError

    @classmethod
    def defines(cls, statistic: str) -> bool:
        """Say whether this row has a closed form of the statistic of that name."""
        return getattr(cls, statistic) is not getattr(Statistics, statistic)

    @staticmethod
    def where(converges: Tensor, value: Tensor) -> Tensor:
        """Return the value of an expectation where it converges, +inf elsewhere."""
        return torch.where(converges, value, torch.inf)


class Column(NamedTuple):
    """A prior's -E_q log p as a function of statistics of q.

    Arguments:
        cross_entropy: The function of (p, statistics of q), in nats.
        needs: The names of the statistics that it calls.
    """

    cross_entropy: Callable[[Any, Statistics], Tensor]
    needs: tuple[str, ...]


_ROWS: dict[type[Distribution], type[Statistics]] = {}
_COLUMNS: dict[type[Distribution], Column] = {}


def row(*guides: type[Distribution]) -> Callable[[S], S]:
    """Register a subclass of `Statistics` as the row of these classes.

    Arguments:
        *guides: Classes of distributions with the attributes that the row reads.

    Returns:
        A decorator that returns the subclass unchanged.

    Raises:
        ValueError: If a class has a row already, or the row has no docstring of its own.
    """

    def add(statistics: S) -> S:
        for guide in guides:
            _check(guide, statistics, _ROWS, "row of statistics")
            _ROWS[canonical(guide)] = statistics
        return statistics

    return add


def column(prior: type[Distribution], *, needs: tuple[str, ...]) -> Callable[[Any], Any]:
    """Register a function (p, statistics of q) -> -E_q log p as the column of a prior.

    Arguments:
        prior: The class of p.
        needs: The statistics that the function calls.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: If the class has a column already, the function no docstring, or a statistic
            is not one of `Statistics`.
    """

    def add(function: Callable[[Any, Statistics], Tensor]) -> Callable[[Any, Statistics], Tensor]:
        _check(prior, function, _COLUMNS, "column")
        for name in needs:
            if not hasattr(Statistics, name):
                raise ValueError(f"{name!r} is not a statistic; see pyro_vae.kl.statistics.")
        _COLUMNS[canonical(prior)] = Column(function, needs)
        return function

    return add


def _check(cls: type[Distribution], item: Any, shelf: Mapping[Any, Any], kind: str) -> None:
    if canonical(cls) in shelf:
        raise ValueError(f"{cls.__name__} has a {kind} already: {shelf[canonical(cls)]}.")
    own = vars(item).get("__doc__") if isinstance(item, type) else inspect.getdoc(item)
    if not own:
        raise ValueError(f"the {kind} of {cls.__name__} has no docstring; write one.")


def pair(q: type[Distribution], p: type[Distribution]) -> Form | None:
    """Return the form of KL(q || p) that row and column make, or None.

    Arguments:
        q: The class of the guide.
        p: The class of the prior.

    Returns:
        A function of (q, p), or None if there is no row, no column, or a statistic is missing.

    Example:
        >>> import torch.distributions as td, pyro_vae.kl
        >>> form = pair(td.Laplace, td.Normal)
        >>> q, p = td.Laplace(0.0, torch.tensor(1.0)), td.Normal(0.0, torch.tensor(1.0))
        >>> form(q, p).allclose(td.kl_divergence(q, p))
        True
    """
    statistics, prior = _ROWS.get(canonical(q)), _COLUMNS.get(canonical(p))
    if statistics is None or prior is None:
        return None
    if not all(statistics.defines(name) for name in prior.needs):
        return None

    def form(q: Distribution, p: Distribution) -> Tensor:
        guide = statistics(q)
        return prior.cross_entropy(p, guide) - guide.entropy()

    return form


def rows() -> Mapping[type[Distribution], type[Statistics]]:
    """Return a live, read-only view of the rows by class of guide."""
    return MappingProxyType(_ROWS)


def columns() -> Mapping[type[Distribution], Column]:
    """Return a live, read-only view of the columns by class of prior."""
    return MappingProxyType(_COLUMNS)
