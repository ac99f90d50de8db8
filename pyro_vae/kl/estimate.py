"""KL by sampling, with its standard error and the tail index that says whether to believe it.

Wrappers are taken off first: of independent elements each is estimated by itself, and masked ones
are not counted. What is left is drawn in double precision and, where supports have ends, in a
coordinate without them (`pyro_vae.kl.recipes`), so that nothing is rounded to an end.
"""

from __future__ import annotations

__all__ = ["Estimate", "estimate"]

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Distribution, transform_to

from pyro_vae.kl.charts import Exp, Sigmoid, Softplus, backward, forward, matched
from pyro_vae.kl.draws import NoEstimate, Noise
from pyro_vae.kl.draws import draws as kinds
from pyro_vae.kl.edges import at_edge
from pyro_vae.kl.ends import space
from pyro_vae.kl.estimators import EstimateWarning, Scored, estimators, moving
from pyro_vae.kl.lines import Line, line_of
from pyro_vae.kl.parameters import device_of, dtype_of, prepared, unvalidated
from pyro_vae.kl.plan import broadcast, describe, plan, sum_last
from pyro_vae.kl.recipes import drawn, recipe_of, reparameterised
from pyro_vae.kl.table import same_class
from pyro_vae.pareto import tail_index
from pyro_vae.supports import Space

# numbers drawn and scored at a time
_CHUNK = 2**22


class _Moments(NamedTuple):
    mean: Tensor
    std_error: Tensor
    pareto_k: Tensor


class Estimate(_Moments):
    """A sampled KL, which unpacks as (mean, std_error, pareto_k); each of the batch shape.

    Arguments:
        mean: The mean over draws, in nats, differentiable; +inf where the KL is infinite.
        std_error: The standard error of the mean, in nats; NaN where the KL is infinite.
        pareto_k: The tail index of what was averaged: below 1/2 the standard error can be
            believed, from 1 on the KL is probably infinite; NaN for fewer than 25 draws.
        edge: The share of the draws that lie at an end of the support, where numbers are rounded
            and the mean is biased; a warning tells of them.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> found = estimate(td.Beta(0.1, 0.1), td.Uniform(0.0, 1.0))
        >>> mean, std_error, pareto_k = found
        >>> found.edge
        tensor(0.)
    """

    edge: Tensor

    def __new__(cls, mean: Tensor, std_error: Tensor, pareto_k: Tensor, edge: Tensor) -> Estimate:
        """Make one of its three parts and what stands beside them."""
        made = super().__new__(cls, mean, std_error, pareto_k)
        made.edge = edge
        return made


def estimate(
    q: Distribution,
    p: Distribution,
    num_samples: int = 1000,
    *,
    estimator: str = "log_ratio",
    draws: str = "random",
) -> Estimate:
    """(1/S) sum_s [log q(x_s) - log p(x_s)], x_s ~ q, for KL(q || p).

    Where supports or tails say that the KL is infinite, no sampled number is shown for it: the
    mean is +inf and its standard error NaN. Masks count as in `divergence`.

    The mean is differentiable once in the parameters of both. Where q is reparameterised the
    gradient goes through the draws; masses (also straight-through ones), mixtures and whatever
    else has no `rsample` get the unbiased gradient of the score function, with the mean of the
    other draws as baseline. Standard error and Pareto k carry no gradient.

    Where no rule decides, Pareto k is all there is. Over the shelf of specimens (see the benchmark
    `tail_detection`), of the KLs that are infinite by a tail it tells k > 0.7 in 96 % of runs at
    1,000 draws and 99 % at 10,000, and k > 1 in 80 % at both: 94 % and 98 % of tails of a true
    k >= 1.25, 66 % and 61 % of those at the border (1 <= k < 1.25). Of the finite KLs k > 0.7
    suspects 5 % at 1,000 draws and 8 % at 10,000, k > 1 suspects 3 % and 5 %; of those whose log
    ratio has a finite variance, 3 % and 4 %, and 2 % and 3 %.

    Memory is that of `num_samples` numbers for each batch element; with a gradient, of the whole
    graph.

    Arguments:
        q: The guide, of any batch shape.
        p: The prior, its batch shape broadcastable with that of q and of equal event shape.
        num_samples: The number S of draws, at least 2.
        estimator: What is averaged: "log_ratio"; "path", of equal value, whose gradient goes
            through the draws alone and is 0 at q = p; "entropy", the exact entropy of q and a
            sampled cross-entropy; "non_negative", which warns of itself. All known ones:
            `pyro_vae.kl.estimators.estimators`.
        draws: "random"; "antithetic" (pairs; S even), where q is a shifted and scaled symmetric
            distribution or has a quantile function; "quasi" (8 replicates of a scrambled Sobol
            net; S a multiple of 8, best a power of 2), where it is Normal or has a quantile
            function. `Independent` and transforms are looked through.

    Returns:
        Mean, standard error and Pareto k, each of the broadcast batch shape; `edge` beside them.

    Raises:
        ValueError: If the KL is undefined, the batch shapes do not broadcast, the number of draws
            does not suit their kind, or the estimator is known to be biased for the pair.
        NoEstimate: A NotImplementedError: if there is no such estimator or kind of draws for q.
        KeyError: If there is none of that name at all.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> mean, std_error, k = estimate(td.Normal(0.0, 1.0), td.Cauchy(0.0, 1.0))
        >>> bool(std_error < 0.05), bool(k < 0.5)
        (True, True)
        >>> quasi = estimate(td.Normal(0.0, 1.0), td.Cauchy(0.0, 1.0), 8192, draws="quasi")
        >>> bool(quasi.std_error < std_error / 5)
        True
    """
    method, kind = estimators[estimator](), kinds[draws]
    if num_samples < 2:
        raise ValueError(f"num_samples={num_samples} gives no standard error; take at least 2.")
    group = kind.group_size(num_samples)
    made = plan(q, p)
    if made.kind == "undefined":
        raise ValueError(
            f"KL({type(q).__name__} || {type(p).__name__}) is undefined: {made.why()}."
        )
    pair = _Pair.of(q, p, made.batch)
    method.check(*pair.given)
    values, edges = [], []
    for count in pair.chunks(num_samples, group):
        noise = kind(count, group, pair.batch, device_of(q), describe(pair.q))
        scored = pair.scored(noise)
        values.append(pair.back(_with_score(method.values(scored), scored)))
        edges.append(pair.back(scored.edge.double()) > 0)
    value, edge = torch.cat(values), torch.cat(edges).double().mean(0)
    mean, spread, k = _summary(value, group)
    if made.finite is not None:
        mean = torch.where(made.finite, mean, torch.inf)
        spread = torch.where(made.finite, spread, torch.nan)
        edge = torch.where(made.finite, edge, 0.0)
    _warn(pair, edge)
    mean, spread, k, edge = (t.to(dtype_of(q, p)) for t in (mean, spread, k, edge))
    return Estimate(mean, spread, k, edge)


def _with_score(values: Tensor, drawn: Scored) -> Tensor:
    """The values with the gradient of the score function, where draws carry none."""
    if reparameterised(drawn.q) or not torch.is_grad_enabled() or not drawn.log_q.requires_grad:
        return values
    if moving(drawn.q):
        raise NoEstimate(
            f"{describe(drawn.q)} is not reparameterised, and an end of its support is a "
            "parameter that takes a gradient, which the score function does not know. Detach "
            "that parameter, or estimate under torch.no_grad()."
        )
    weight = values.detach().nan_to_num(0.0, 0.0, 0.0)
    others = (weight.sum(0) - weight) / max(1, len(weight) - 1)
    return values + (weight - others) * (drawn.log_q - drawn.log_q.detach())


def _summary(values: Tensor, group: int) -> _Moments:
    """Mean, standard error by independent groups, and tail index."""
    still = values.detach()
    means = still.reshape(-1, group, *values.shape[1:]).mean(1)
    k = tail_index(still)
    # a draw outside the support of p makes the tail as heavy as can be
    k = torch.where((still == torch.inf).any(0), torch.inf, k)
    return _Moments(values.mean(0), means.std(0) / math.sqrt(len(means)), k)


def _warn(pair: _Pair, edge: Tensor) -> None:
    worst = edge.max().item() if edge.numel() else 0.0
    if worst > 0:
        warnings.warn(
            f"{worst:.2g} of the draws of {describe(pair.q)} lie at an end of its support, where "
            "numbers are too coarse to tell one from another: the sampled KL is biased by "
            "an amount that its standard error does not know. Do not hold it against an exact "
            "one; kl.divergence has no such ends.",
            EstimateWarning,
            stacklevel=3,
        )


# ------------------------------------------------------------------------------ pairs of leaves
class _Pair(NamedTuple):
    """Two distributions without wrappers, in double precision, and the way back to those with.

    Arguments:
        q: The guide, of batch shape `batch`.
        p: The prior.
        batch: The batch shape, elements that were independent included.
        lines: Both as lines, where q is drawn in a coordinate without ends.
        given: Both as they were given, without wrappers.
        back: From values of the elements, (S, *batch), to those of the pair with wrappers.
    """

    q: Any
    p: Any
    batch: torch.Size
    lines: tuple[Line, Line] | None
    given: tuple[Any, Any]
    back: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, q: Any, p: Any, batch: torch.Size) -> _Pair:
        """Take off masks, expansions and the independence that both share."""
        masks = [torch.as_tensor(d._mask) for d in (q, p) if isinstance(d, MaskedDistribution)]
        if masks:
            inner = cls.of(_base(q, MaskedDistribution), _base(p, MaskedDistribution), batch)
            return inner.then(lambda v: _masked(v, masks))
        if isinstance(q, ExpandedDistribution) or isinstance(p, ExpandedDistribution):
            return cls.of(_base(q, ExpandedDistribution), _base(p, ExpandedDistribution), batch)
        if same_class(q, td.Independent) and same_class(p, td.Independent):
            dims = min(q.reinterpreted_batch_ndims, p.reinterpreted_batch_ndims)
            a, b = _peeled(q, dims), _peeled(p, dims)
            elements = broadcast(a, b)
            inner = cls.of(a, b, torch.Size([*batch, *elements[len(elements) - dims :]]))
            return inner.then(lambda v: sum_last(v, dims))
        finite = plan(q, p).finite
        finite = None if finite is None else finite.expand(batch)
        lines = _lines(q, p, batch, finite)
        wide_q, wide_p = (_wide(d, batch, finite) for d in (q, p))
        return cls(wide_q, wide_p, batch, lines, (q, p), lambda v: v)

    def then(self, change: Callable[[Tensor], Tensor]) -> _Pair:
        """Go one wrapper further back."""
        back = self.back
        return self._replace(back=lambda v: change(back(v)))

    def chunks(self, num_samples: int, group: int) -> list[int]:
        """Counts of draws, whole groups, that are small enough to be scored at a time."""
        numbers = max(1, math.prod([*self.batch, *self.q.event_shape])) * group
        size = max(1, _CHUNK // numbers) * group
        full, rest = divmod(num_samples, size)
        return [size] * full + [rest] * bool(rest)

    def copies(self) -> tuple[Any, Any]:
        """Both distributions, without argument checks, and free to remember what they compute."""
        return unvalidated(self.q), unvalidated(self.p)

    def scored(self, noise: Noise) -> Scored:
        """Draw, and score."""
        return self._as_they_are(noise) if self.lines is None else self._in_coordinate(noise)

    def _in_coordinate(self, noise: Noise) -> Scored:
        (q, p), make = self.copies(), recipe_of(self.q)
        assert make is not None
        assert self.lines is not None
        guide, prior = self.lines
        y = make(q, noise)
        to_x, from_x = matched(guide.chart, prior.chart)
        at = backward(from_x, forward(to_x, y))
        log_p = prior.log_density(at.x) + at.slope
        slope, edge = forward(guide.chart, y).slope, torch.zeros_like(y).bool()
        return Scored(q, p, y, guide.log_density, log_p, slope, edge)

    def _as_they_are(self, noise: Noise) -> Scored:
        q, p = self.copies()
        x = drawn(q, noise)
        # a unit vector of single precision is one to that precision alone
        within = p.support.check(x) | p.support.check(x.to(dtype_of(*self.given)))
        known = x if bool(within.all()) else _legal(p.support, x, within, q.event_shape)
        log_p = torch.where(within, p.log_prob(known), -torch.inf)
        slope, edge = torch.zeros_like(log_p), at_edge(q, x.detach())
        return Scored(q, p, x, q.log_prob, log_p, slope, edge)


def _legal(support: Any, x: Tensor, within: Tensor, event: torch.Size) -> Tensor:
    """The draws, others in the place of those that p does not have."""
    if support.is_discrete:
        # a category that p does not know cannot even be looked up; 0 always can
        return x if event else torch.where(within, x, 0)
    free = transform_to(support)
    point = free(x.new_zeros(free.inverse_shape(x.shape)))
    return torch.where(within.reshape(within.shape + (1,) * len(event)), x, point)


def _lines(q: Any, p: Any, batch: torch.Size, finite: Tensor | None) -> tuple[Line, Line] | None:
    """Both as lines, if q has ends and is drawn in a coordinate that no parameter changes."""
    if recipe_of(q) is None or not _within(space(q), space(p)):
        return None
    guide, prior = line_of(q), line_of(p)
    if guide is None or prior is None or not guide.chart:
        return None
    if not all(isinstance(step, Exp | Sigmoid | Softplus) for step in guide.chart):
        return None

    def gated(t: Tensor, beyond: int) -> Tensor:
        t = t.expand(torch.Size([*batch, *t.shape[t.dim() - beyond :]]))
        where = None if finite is None else finite.reshape(finite.shape + (1,) * beyond)
        return t if where is None else torch.where(where, t, t.detach())

    return guide.mapped(gated), prior.mapped(gated)


def _within(inner: Space, outer: Space) -> bool:
    """Whether one interval lies in another, in all elements."""
    if inner.kind != "real" or outer.kind != "real":
        return False
    inside = (inner.lower >= outer.lower, inner.upper <= outer.upper)
    return all(bool(torch.as_tensor(side).all()) for side in inside)


def _wide(d: Any, batch: torch.Size, finite: Tensor | None) -> Any:
    """The distribution expanded and in double precision, as far as it is known how."""
    wide = prepared(d, batch, finite)
    if wide is not d:
        return wide
    wide = d if d.batch_shape == batch else d.expand(batch)
    if not same_class(d, td.TransformedDistribution) or not _plain(d.transforms):
        return wide
    wide = copy.copy(wide)
    wide.base_dist = _wide(wide.base_dist, wide.base_dist.batch_shape, None)
    return wide


def _plain(maps: list[Any]) -> bool:
    """Whether maps take numbers of any precision, as a network would not."""
    return all(type(t).__module__ == "torch.distributions.transforms" for t in maps)


def _masked(values: Tensor, masks: list[Tensor]) -> Tensor:
    for mask in masks:
        values = torch.where(mask.to(values.device), values, 0.0)
    return values


def _base(d: Any, wrapper: type) -> Any:
    return d.base_dist if isinstance(d, wrapper) else d


def _peeled(d: Any, dims: int) -> Any:
    left = d.reinterpreted_batch_ndims - dims
    return td.Independent(d.base_dist, left, validate_args=False) if left else d.base_dist
