"""The line of the folded normal distribution, |x| of a Normal x, in y = log |x|."""

from __future__ import annotations

__all__: list[str] = []

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae.kl.charts import Exp
from pyro_vae.kl.lines import Frame, Line, line
from pyro_vae.kl.table import same_class


@line(dist.FoldedDistribution)
class _FoldedNormal(Line):
    """Density (phi((x - loc) / scale) + phi((x + loc) / scale)) x / scale, x = exp(y)."""

    loc: Tensor
    scale: Tensor
    chart = (Exp(),)

    @classmethod
    def of(cls, d: Any) -> Line | None:
        return super().of(d.base_dist) if same_class(d.base_dist, td.Normal) else None

    def log_density(self, y: Tensor) -> Tensor:
        x, unit = y.exp(), self.scale.reciprocal()
        folds = ((x + sign * self.loc) * unit for sign in (-1, 1))
        both = torch.logaddexp(*(-0.5 * z.square() for z in folds))
        return y + both - (self.scale.log() + 0.5 * math.log(2 * math.pi))

    def frame(self) -> Frame:
        size = torch.hypot(self.loc, self.scale)
        return Frame(size.log(), self.scale / size)

    def singularities(self) -> list[Frame]:
        # both folds cancel at x = i pi scale^2 / (2 loc), which is at infinity for loc = 0
        narrow = self.scale / (self.loc.abs() / self.scale).clamp(min=1e-3)
        centre = (0.5 * math.pi * narrow).log()
        return [Frame(centre, torch.full_like(centre, 0.5 * math.pi))]
