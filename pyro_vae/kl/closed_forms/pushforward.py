"""Pairs that are other pairs seen through one map.

A bijection common to both sides cancels. Folding at 0 is no bijection, but two densities that
are both symmetric about 0 lose nothing by it.
"""

from __future__ import annotations

__all__: list[str] = []

import torch.distributions as td
from torch import Tensor

from pyro_vae.distributions import LogitNormal
from pyro_vae.kl.table import register


@register(LogitNormal, LogitNormal)
def _logit_normal(q: LogitNormal, p: LogitNormal) -> Tensor:
    """log(s_p / s_q) + [s_q^2 + (m_q - m_p)^2] / 2 s_p^2 - 1/2, the KL of the Normals."""
    ratio = q.scale / p.scale
    return ((ratio**2 + ((q.loc - p.loc) / p.scale) ** 2 - 1) / 2) - ratio.log()


@register(td.HalfCauchy, td.HalfCauchy)
def _half_cauchy(q: td.HalfCauchy, p: td.HalfCauchy) -> Tensor:
    """log[(s_q + s_p)^2 / 4 s_q s_p], the KL of the Cauchys at 0.

    Source: On the Kullback-Leibler divergence between Cauchy distributions (F. Chyzak,
    F. Nielsen, 2019).
    """
    return 2 * (q.scale + p.scale).log() - (4 * q.scale * p.scale).log()
