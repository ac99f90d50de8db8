"""Pairs that are other pairs seen through one map.

A bijection common to both sides cancels. Folding at 0 is no bijection, but two densities that
are both symmetric about 0 lose nothing by it.
"""

from __future__ import annotations

__all__: list[str] = []

import torch.distributions as td
from torch import Tensor

from pyro_vae.distributions import LogitNormal
from pyro_vae.kl.closed_forms.location_scale import cauchy, gumbel, normal
from pyro_vae.kl.remainders import log_ratio
from pyro_vae.kl.table import register


@register(td.LogNormal, td.LogNormal)
@register(LogitNormal, LogitNormal)
def _normal(q: td.LogNormal | LogitNormal, p: td.LogNormal | LogitNormal) -> Tensor:
    """The KL of the Normals, of the logarithm or of the logit."""
    return normal(q.scale, p.scale, q.loc - p.loc)


@register(td.HalfNormal, td.HalfNormal)
def _half_normal(q: td.HalfNormal, p: td.HalfNormal) -> Tensor:
    """The KL of the Normals at 0."""
    return normal(q.scale, p.scale, 0.0)


@register(td.HalfCauchy, td.HalfCauchy)
def _half_cauchy(q: td.HalfCauchy, p: td.HalfCauchy) -> Tensor:
    """The KL of the Cauchys at 0."""
    return cauchy(q.scale, p.scale, 0.0)


@register(td.Weibull, td.Weibull)
def _weibull(q: td.Weibull, p: td.Weibull) -> Tensor:
    """The KL of the Gumbels of -log x, at -log(scale) with scale 1 / concentration."""
    offset = p.concentration * log_ratio(q.scale, p.scale)
    return gumbel(p.concentration, q.concentration, offset)
