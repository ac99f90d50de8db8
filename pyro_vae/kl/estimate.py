"""KL by sampling, with its standard error and the tail index that says whether to believe it."""

from __future__ import annotations

__all__ = ["Estimate", "estimate"]

import math
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.parameters import dtype_of, unvalidated
from pyro_vae.kl.plan import plan, sum_last
from pyro_vae.kl.table import same_class
from pyro_vae.pareto import tail_index


class Estimate(NamedTuple):
    """A sampled KL, each field of the broadcast batch shape.

    Arguments:
        mean: The mean of log q - log p over draws from q, in nats; +inf where the KL is infinite.
        std_error: The standard error of the mean, in nats; NaN where the KL is infinite.
        pareto_k: The tail index of log q - log p: below 1/2 the standard error can be
            believed, from 1 on the KL is probably infinite; NaN for fewer than 25 draws.
    """

    mean: Tensor
    std_error: Tensor
    pareto_k: Tensor


def estimate(q: Distribution, p: Distribution, num_samples: int = 1000) -> Estimate:
    """(1/S) sum_s [log q(x_s) - log p(x_s)], x_s ~ q, for KL(q || p).

    No gradient passes. Where supports or tails say that the KL is infinite, no sampled number is
    shown for it: the mean is +inf and its standard error NaN. Masks count as in `divergence`.

    Arguments:
        q: The guide, of any batch shape.
        p: The prior, its batch shape broadcastable with that of q and of equal event shape.
        num_samples: The number S of draws, at least 2.

    Returns:
        Mean, standard error and Pareto k, each of the broadcast batch shape.

    Raises:
        ValueError: If the KL is undefined, the batch shapes do not broadcast, or there are
            fewer than 2 draws.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> mean, std_error, k = estimate(td.Normal(0.0, 1.0), td.Cauchy(0.0, 1.0))
        >>> bool(std_error < 0.05), bool(k < 0.5)
        (True, True)
    """
    if num_samples < 2:
        raise ValueError(f"num_samples={num_samples} gives no standard error; take at least 2.")
    made = plan(q, p)
    if made.kind == "undefined":
        raise ValueError(
            f"KL({type(q).__name__} || {type(p).__name__}) is undefined: {made.why()}."
        )
    with torch.no_grad():
        draws = q.expand(made.batch).sample(torch.Size([num_samples]))
        ratio = _log_ratio(q, p, draws).double().expand(num_samples, *made.batch)
        k = tail_index(ratio)
        # a draw outside the support of p makes the tail as heavy as can be
        k = torch.where((ratio == torch.inf).any(0), torch.inf, k)
        mean, spread = ratio.mean(0), ratio.std(0) / math.sqrt(num_samples)
        if made.finite is not None:
            mean = torch.where(made.finite, mean, torch.inf)
            spread = torch.where(made.finite, spread, torch.nan)
    dtype = dtype_of(q, p)
    return Estimate(mean.to(dtype), spread.to(dtype), k.to(dtype))


def _log_ratio(q: Any, p: Any, x: Tensor) -> Tensor:
    """The log ratio at x, masked by the product of both masks, +inf outside the support of p."""
    masks = [d._mask for d in (q, p) if isinstance(d, MaskedDistribution)]
    if masks:
        ratio = _log_ratio(_base(q, MaskedDistribution), _base(p, MaskedDistribution), x)
        for mask in masks:
            ratio = torch.where(torch.as_tensor(mask, device=x.device), ratio, 0.0)
        return ratio
    if isinstance(q, ExpandedDistribution) or isinstance(p, ExpandedDistribution):
        return _log_ratio(_base(q, ExpandedDistribution), _base(p, ExpandedDistribution), x)
    if same_class(q, td.Independent) and same_class(p, td.Independent):
        shared = min(q.reinterpreted_batch_ndims, p.reinterpreted_batch_ndims)
        return sum_last(_log_ratio(_peeled(q, shared), _peeled(p, shared), x), shared)
    prior = unvalidated(p)
    within = p.support.check(x)
    if p.support.is_discrete and not p.event_shape:
        # a category that p does not know cannot even be looked up; 0 always can
        x = torch.where(within, x, 0)
    return torch.where(within, unvalidated(q).log_prob(x) - prior.log_prob(x), torch.inf)


def _base(d: Any, wrapper: type) -> Any:
    return d.base_dist if isinstance(d, wrapper) else d


def _peeled(d: Any, dims: int) -> Any:
    left = d.reinterpreted_batch_ndims - dims
    return td.Independent(d.base_dist, left, validate_args=False) if left else d.base_dist
