"""Independent elements against a correlated Gaussian: the elements, and what their means add.

With precision P and mean m of the prior p, and e = E x - m,

    KL(q || p) = sum_i KL(q_i || N(m_i, 1 / P_ii)) + (sum_i log P_ii - log |P|) / 2
                 + sum_{i < j} P_ij e_i e_j

for independent q_i, since E (x_i - m_i)(x_j - m_j) is e_i e_j off the diagonal. So a guide of any
kind whose mean is known stands beside a prior N(m, S), S full or of low rank, if it stands
beside a Normal; so it does if the draws of p are vectors reshaped.
"""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions.transforms import ReshapeTransform

from pyro_vae.kl.parameters import prepared
from pyro_vae.kl.plan import Plan, changed, plan, reduction, sum_last, unpack
from pyro_vae.kl.statistics import rows
from pyro_vae.kl.table import canonical, key_of, lookup, same_class

_GAUSSIANS = (td.MultivariateNormal, td.LowRankMultivariateNormal)


@reduction
def _correlated(q: Any, p: Any) -> Plan | None:
    """Independent elements against a correlated Gaussian: the elements, and their means."""
    (base, dims), joint, shape = unpack(q), _vectors(p), p.event_shape
    row = rows().get(canonical(type(base)))
    if canonical(type(joint)) not in _GAUSSIANS or dims != len(shape) or row is None:
        return None
    if not row.defines("mean") or lookup(key_of(q), key_of(p)) is not None:
        return None
    wide: Any = prepared(joint, joint.batch_shape, None)
    root = _inverse_factor(wide.scale_tril)
    diagonal = root.square().sum(-2)
    moments = (t.reshape(*t.shape[:-1], *shape) for t in (wide.loc, diagonal.rsqrt()))
    elements = plan(base, td.Normal(*moments, validate_args=False))
    finite = None if elements.finite is None else elements.finite.flatten(-dims).all(-1)

    def value(of: Callable[[], Tensor]) -> Tensor:
        mean: Any = row(prepared(base, elements.batch, elements.finite)).mean()
        if elements.finite is not None:
            mean = torch.where(elements.finite, mean, 0.0)
        away = mean.flatten(-dims) - wide.loc
        joint = (root @ away.unsqueeze(-1)).square().sum((-2, -1))
        apart = joint - (diagonal * away.square()).sum(-1)
        log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return sum_last(of(), dims) + (diagonal.log().sum(-1) - log_det + apart) / 2

    reduced = changed(
        elements,
        elements.batch[:-dims],
        finite,
        value,
        "summed, with the correlations of the prior",
    )
    # torch may have the form of the elements, but not that of the pair
    return reduced if reduced.value is None else reduced._replace(source="pyro_vae")


def _vectors(p: Any) -> Any:
    """What makes the vectors that p reshapes, if that is all it does; else p itself."""
    maps = p.transforms if same_class(p, td.TransformedDistribution) else []
    reshapes = len(maps) == 1 and isinstance(maps[0], ReshapeTransform)
    return p.base_dist if reshapes and p.base_dist.event_shape else p


def _inverse_factor(tril: Tensor) -> Tensor:
    """A lower triangular R with R' R the precision, of the Cholesky factor of the covariance."""
    identity = torch.eye(tril.shape[-1], dtype=tril.dtype, device=tril.device)
    return torch.linalg.solve_triangular(tril, identity, upper=False)
