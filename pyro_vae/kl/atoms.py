"""When the KL of two discrete distributions is finite: p may not be 0 where q is not."""

from __future__ import annotations

__all__ = ["atoms", "known"]

from typing import Any

import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae.kl.table import canonical

# classes whose masses can be 0 by their parameters
_CATEGORIES = (
    td.Categorical,
    td.OneHotCategorical,
    td.OneHotCategoricalStraightThrough,
    td.Multinomial,
)
_COUNTS = (td.Bernoulli, td.Binomial, td.Geometric, td.NegativeBinomial, td.Poisson)


def known(*pair: Any) -> bool:
    """Say whether both are of categories, or both are counts, with a form of their own.

    Arguments:
        *pair: Two distributions.

    Returns:
        True if so.

    Example:
        >>> known(td.Poisson(1.0), td.Geometric(0.5))
        True
    """
    classes = [canonical(type(d)) for d in pair]
    return any(all(c in block for c in classes) for block in (_CATEGORIES, _COUNTS))


def atoms(q: Any, p: Any) -> bool | Tensor:
    """Say where p has mass wherever q has some.

    Arguments:
        q: A discrete distribution.
        p: Another, so that both are `known`.

    Returns:
        A bool where classes decide, else a BoolTensor of the broadcast batch shape.

    Example:
        >>> atoms(td.Bernoulli(torch.tensor([0.0, 0.5])), td.Bernoulli(torch.tensor(0.0)))
        tensor([ True, False])
    """
    if all(isinstance(d, td.Multinomial) for d in (q, p)) and q.total_count != p.total_count:
        return False
    inner, outer = _masses(q), _masses(p)
    if outer is None:
        return True
    never = outer == 0
    if inner is not None:
        common = min(inner.shape[-1], outer.shape[-1])
        never = never[..., :common] & (inner[..., :common] > 0)
    finite = ~never.any(-1)
    if isinstance(q, td.Binomial) and isinstance(p, td.Binomial):
        # a prior of sure successes takes its own count alone
        finite = finite & ((outer[..., 0] > 0) | (q.total_count == p.total_count))
    return finite


def _masses(d: Any) -> Tensor | None:
    """Positive numbers for what has mass: the categories, or 0 and more than 0; None for all."""
    if isinstance(d, td.Poisson):
        return torch.stack([torch.ones_like(d.rate), d.rate], -1)
    d = getattr(d, "_categorical", d)
    primary = vars(d).get("_param", vars(d).get("probs" if "logits" not in vars(d) else "logits"))
    if primary is not vars(d).get("probs"):
        # a finite logit is never a probability of 0 or 1
        return (primary > -torch.inf).double() if isinstance(d, td.Categorical) else None
    if isinstance(d, td.Categorical):
        return primary
    pair = (primary, 1 - primary) if isinstance(d, td.Geometric) else (1 - primary, primary)
    return torch.stack(pair, -1)
