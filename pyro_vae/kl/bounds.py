"""Bounds on the KL of Gaussian mixtures, which has no closed form.

With q = sum_a v_a q_a and p = sum_k w_k p_k, H_a the entropy of q_a, and z_ak the integral of
q_a p_k, Jensen's inequality bounds E_{q_a} log p from both sides,

    log sum_k w_k exp(-KL(q_a || p_k)) - H_a  <=  E_{q_a} log p  <=  log sum_k w_k z_ak,

and E_{q_a} log q likewise. The lower bound below follows, and two upper bounds; a third is the KL
of the component labels and components taken together, which is no less than that of what is left
when the labels are forgotten. All of them are rigorous. The popular "variational" and "product"
approximations to the KL of two mixtures, differences of such bounds, are not bounds.

Source: Approximating the Kullback Leibler divergence between Gaussian mixture models (J. R.
Hershey, P. A. Olsen, 2007); Estimating mixture entropy with pairwise distances (A. Kolchinsky,
B. D. Tracey, 2017).
"""

from __future__ import annotations

__all__ = ["Bounds", "bounds", "is_bounded"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import Distribution, transforms

from pyro_vae.kl.divergence import divergence
from pyro_vae.kl.parameters import dtype_of, prepared
from pyro_vae.kl.plan import broadcast, unpack
from pyro_vae.kl.table import same_class


class Bounds(NamedTuple):
    """An interval that holds a KL, in nats.

    Arguments:
        lower: The lower end, of the broadcast batch shape.
        upper: The upper end, of the same shape.
    """

    lower: Tensor
    upper: Tensor


def bounds(q: Distribution, p: Distribution) -> Bounds:
    """Return lower <= KL(q || p) <= upper for Gaussians and Gaussian mixtures.

    The bounds hold always, and are often too wide to stand for the KL: a sampled value between
    them says more (`kl.estimate`). Both are differentiable.

    Arguments:
        q: A Gaussian (`Normal`, independent Normals, `MultivariateNormal`,
            `LowRankMultivariateNormal`) or a `MixtureSameFamily` of such.
        p: Another, of the same event shape and of a batch shape that broadcasts.

    Returns:
        The lower and the upper bound in nats, of the broadcast batch shape.

    Raises:
        ValueError: If one of them is neither, or the event shapes differ.

    Example:
        >>> weights, loc = td.Categorical(torch.ones(2)), torch.tensor([-1.0, 1.0])
        >>> p = td.MixtureSameFamily(weights, td.Normal(loc, 0.5))
        >>> lower, upper = bounds(td.Normal(0.0, 1.0), p)
        >>> bool(0 <= lower <= upper)
        True
    """
    if not is_bounded(q, p) or q.event_shape != p.event_shape:
        raise ValueError(
            f"kl.bounds knows Gaussians and mixtures of Gaussians of one event shape, not "
            f"{type(q).__name__} {tuple(q.event_shape)} against {type(p).__name__} "
            f"{tuple(p.event_shape)}; kl.route(q, p) says what can be had for this pair."
        )
    batch = broadcast(q, p)
    joint = not all(_is_diagonal(d) for d in (q, p))
    (log_v, guide), (log_w, prior) = (_components(d, batch, joint) for d in (q, p))
    v, entropy = log_v.exp(), guide.entropy()
    # E_{q_a} log p and E_{q_a} log q, from below and from above
    p_low, p_high = _log_density_bounds(guide, log_w, prior, entropy)
    q_low, q_high = _log_density_bounds(guide, log_v, guide, entropy)
    lower = _mean(v, q_low - p_high).clamp(min=0.0)
    # Jensen on both densities; and the convexity of KL in q, for which E_{q_a} log q_a is exact
    upper = torch.minimum(_mean(v, q_high - p_low), _mean(v, -entropy - p_low))
    if log_v.shape == log_w.shape:
        labelled = _mean(v, log_v - log_w + divergence(guide, prior))
        upper = torch.minimum(upper, labelled)
    dtype = dtype_of(q, p)
    return Bounds(lower.to(dtype), upper.to(dtype))


def is_bounded(q: Distribution, p: Distribution) -> bool:
    """Say whether `bounds` knows both classes.

    Arguments:
        q: A distribution.
        p: Another.

    Returns:
        True if both are Gaussians or Gaussian mixtures.

    Example:
        >>> is_bounded(td.Normal(0.0, 1.0), td.Laplace(0.0, 1.0))
        False
    """
    return all(_is_gaussian(_component(d)) for d in (q, p))


def _mean(weights: Tensor, values: Tensor) -> Tensor:
    """The mean over components, those without weight left out, whatever they have."""
    held = weights > 0
    return (weights * torch.where(held, values, 0.0)).sum(-1)


def _mixed(d: Any) -> Any:
    """The mixture, if it is one, perhaps expanded."""
    while isinstance(d, ExpandedDistribution):
        d = d.base_dist
    return d if same_class(d, td.MixtureSameFamily) else None


def _component(d: Any) -> Any:
    mixture = _mixed(d)
    return _stripped(d if mixture is None else mixture.component_distribution)


def _stripped(d: Any) -> Any:
    """A Gaussian that is only expanded, or whose draws are only laid out in another shape."""
    if isinstance(d, ExpandedDistribution):
        return _stripped(d.base_dist)
    if not same_class(d, td.TransformedDistribution):
        return d
    plain = all(isinstance(t, transforms.ReshapeTransform) for t in d.transforms)
    return _stripped(d.base_dist) if plain else d


def _is_gaussian(d: Any) -> bool:
    base, dims = unpack(d)
    joint = (td.MultivariateNormal, td.LowRankMultivariateNormal)
    return same_class(base, td.Normal) or (dims == 0 and any(same_class(base, c) for c in joint))


def _is_diagonal(d: Any) -> bool:
    return same_class(unpack(_component(d))[0], td.Normal)


def _components(d: Any, batch: torch.Size, joint: bool) -> tuple[Tensor, Any]:
    """Log weights (*batch, K), and Gaussians over vectors, of batch shape (*batch, K)."""
    mixture = _mixed(d)
    if mixture is None:
        alone = prepared(_component(d), batch, None)
        one = _vectors(alone, joint, lambda t: t.unsqueeze(len(batch)))
        return one.mean.new_zeros(*batch, 1), one
    log_weights = mixture.mixture_distribution.logits.double().log_softmax(-1)
    count = log_weights.shape[-1]
    each = prepared(_component(d), torch.Size([*batch, count]), None)
    return log_weights.expand(*batch, count), _vectors(each, joint, lambda t: t)


def _vectors(d: Any, joint: bool, change: Callable[[Tensor], Tensor]) -> Any:
    """A Gaussian, its event flattened to a vector, by its covariance or by its variances."""
    base, _ = unpack(d)
    if not same_class(base, td.Normal):
        # of low rank, the factor that torch keeps is that of another matrix
        full = same_class(base, td.MultivariateNormal)
        tril = base.scale_tril if full else torch.linalg.cholesky(base.covariance_matrix)
        return _joint(change(base.loc), change(tril))
    shape = (*d.batch_shape, math.prod(d.event_shape))
    loc, scale = (change(t.reshape(shape)) for t in (base.loc, base.scale))
    return _joint(loc, torch.diag_embed(scale)) if joint else _apart(loc, scale)


def _joint(loc: Tensor, tril: Tensor) -> Any:
    return td.MultivariateNormal(loc, scale_tril=tril, validate_args=False)


def _apart(loc: Tensor, scale: Tensor) -> Any:
    normal = td.Normal(loc, scale, validate_args=False)
    return td.Independent(normal, 1, validate_args=False)


def _log_density_bounds(
    guide: Any, log_w: Tensor, prior: Any, entropy: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds on E_{q_a} log sum_k w_k p_k, each of shape (*batch, K_q)."""
    if same_class(guide, td.Independent):
        one, other = _beside(guide, -1), _beside(prior, -2)
        apart, overlap = divergence(one, other), _overlap(one, other)
    else:
        # one at a time, for each has a covariance matrix for each element of the batch
        each = [_component_of(prior, k) for k in range(log_w.shape[-1])]
        apart = torch.stack([divergence(guide, p) for p in each], -1)
        overlap = torch.stack([_overlap(guide, p) for p in each], -1)
    log_w = log_w.unsqueeze(-2)
    return (log_w - apart).logsumexp(-1) - entropy, (log_w + overlap).logsumexp(-1)


def _overlap(one: Any, other: Any) -> Tensor:
    """The logarithm of the integral of the product of two Gaussians."""
    if same_class(one, td.Independent):
        scale = torch.hypot(one.base_dist.scale, other.base_dist.scale)
        return _apart(other.mean, scale).log_prob(one.mean)
    total = one.covariance_matrix + other.covariance_matrix
    return _joint(other.loc, torch.linalg.cholesky(total)).log_prob(one.loc)


def _beside(d: Any, dim: int) -> Any:
    """The same with another batch dimension, so that q_a and p_k meet."""
    base = d.base_dist
    return _apart(base.loc.unsqueeze(dim - 1), base.scale.unsqueeze(dim - 1))


def _component_of(d: Any, k: int) -> Any:
    return _joint(d.loc[..., k, None, :], d.scale_tril[..., k, None, :, :])
