"""The line of the truncated normal distribution, in y = logit((x - low) / (high - low))."""

from __future__ import annotations

__all__: list[str] = []

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.distributions import TruncatedNormal
from pyro_vae.distributions.truncated_gauss import Window, log_mass, moments, window
from pyro_vae.kl.charts import Affine, Chart, Sigmoid
from pyro_vae.kl.lines import Frame, Line, line


@line(TruncatedNormal)
class _TruncatedNormal(Line):
    """Density exp(-d (m + d / 2)) s(y) s(-y) (high - low) / (scale mass), d = (x - x_m) / scale.

    x_m is the point of the interval nearest to loc. Where it is an end, d is proportional to s(y)
    or s(-y), and exact however near to that end the mass lies.
    """

    near_chart = True
    loc: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    @property
    def chart(self) -> Chart:  # type: ignore[override]
        return (Sigmoid(), Affine(self.low, self.high - self.low))

    def log_density(self, y: Tensor) -> Tensor:
        w = self._window()
        left, right = logsigmoid(y), logsigmoid(-y)
        width = w.above - w.below
        # the distance from x_m, which no difference of places near an end could give
        from_low, from_high = w.below + width * left.exp(), w.above - width * right.exp()
        d = torch.where(w.place == self.high, from_high, from_low)
        return left + right + width.log() - d * (w.mode + d / 2) - log_mass(w)

    def frame(self) -> Frame:
        w = self._window()
        of = moments(w)
        width = w.above - w.below
        left, right = (of.mean - w.below) / width, (w.above - of.mean) / width
        spread = of.variance.sqrt() / (width * left * right)
        return Frame((left / right).log(), spread.clamp(max=2.0))

    def singularities(self) -> list[Frame]:
        # those of the logistic function
        return [Frame(torch.zeros_like(self.loc), torch.full_like(self.loc, 3.0))]

    def _window(self) -> Window:
        return window(self.loc, self.scale, self.low, self.high)
