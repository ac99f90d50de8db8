"""The aggregate posterior q(z) = E_x q(z | x) as a mixture over data, from both sides.

With z_i ~ q(. | x_i) and L_ij = log q(z_i | x_j), the mean over i of

    with itself:    log (1 / N) sum_j L_ij,
    without:        log (1 / (N - 1)) sum_{j != i} L_ij

lies, in expectation over independent data, above and below E log q(z). Both are means over data
that share the data, so that standard errors are those of the jackknife, which leaves out a datum
as draw and as component at once.
"""

from __future__ import annotations

__all__ = ["Jackknife", "Mixture"]

import math

import torch
from torch import Tensor


class Jackknife:
    """A mean over N data and its N values with a datum left out; linear combinations of them.

    Arguments:
        mean: Of shape (...).
        without: With a datum left out, of shape (N, ...).
    """

    def __init__(self, mean: Tensor, without: Tensor) -> None:
        self.mean, self.without = mean, without

    @classmethod
    def of(cls, values: Tensor) -> Jackknife:
        """The mean of numbers by datum, of shape (N, ...)."""
        count = len(values)
        return cls(values.mean(0), (values.sum(0) - values) / (count - 1))

    def __sub__(self, other: Jackknife) -> Jackknife:
        return Jackknife(self.mean - other.mean, self.without - other.without)

    def sum(self) -> Jackknife:
        """The sum over the last dimension."""
        return Jackknife(self.mean.sum(-1), self.without.sum(-1))

    @property
    def std_error(self) -> Tensor:
        """The standard error of the mean, of shape (...)."""
        count = len(self.without)
        away = self.without - self.without.mean(0)
        return ((count - 1) / count * away.square().sum(0)).sqrt()


class Mixture:
    """Log densities of all draws under the mixture of all data, filled in rows of draws.

    Arguments:
        count: N, the number of data.
        kinds: The shape of what is mixed beside draws and data, () or (latent,).

    Example:
        >>> mixture = Mixture(3)
        >>> mixture.add(0, torch.zeros(3, 3))  # all components are the same
        >>> abs(mixture.inside.mean) < 1e-6, mixture.outside.std_error < 1e-6
        (tensor(True), tensor(True))
    """

    def __init__(self, count: int, kinds: tuple[int, ...] = ()) -> None:
        self.count = count
        self._sums = [torch.zeros(kinds, dtype=torch.float64) for _ in range(2)]
        self._without = [torch.zeros(count, *kinds, dtype=torch.float64) for _ in range(2)]

    def add(self, start: int, log_q: Tensor) -> None:
        """Add the draws from number `start` on.

        Arguments:
            start: The number of the first draw.
            log_q: log q(z_i | x_j), of shape (draws, data, ...); it is written to.
        """
        rows = torch.arange(len(log_q))
        own = (rows, rows + start)
        mine = log_q[own].double().cpu()
        log_q[own] = -math.inf
        peak, top = log_q.max(1, keepdim=True)
        peak = peak.clamp(min=torch.finfo(peak.dtype).min)  # of densities that are all 0
        # relative to the largest, single precision is enough
        weights = (log_q - peak).float().exp().cpu()
        peak, top = peak[:, 0].double().cpu(), top.cpu()
        others = weights.sum(1).double()
        outside = peak + others.log()
        # without the largest the rest is summed anew, lest it cancel
        rest = weights.scatter(1, top, 0.0).sum(1).double()
        totals = (torch.logaddexp(mine, outside), outside)
        rests = (torch.logaddexp(mine, peak + rest.log()), peak + rest.log())
        for side, (total, less) in enumerate(zip(totals, rests, strict=True)):
            components = self.count - side
            share = weights * (peak - total).exp().float()[:, None]
            # what leaving out a datum takes off, as a component: for most next to nothing
            drop = torch.log1p(-share.clamp_(max=0.5)).double()
            drop = drop.scatter_(1, top, (less - total)[:, None])
            g = total - math.log(components - 1)
            self._sums[side] += (total - math.log(components)).sum(0)
            self._without[side] += g.sum(0) + drop.sum(0)
            # a datum that is left out is no draw either
            self._without[side][start + rows] -= g

    @property
    def inside(self) -> Jackknife:
        """The mixture with the draw's own datum: not below E log q(z), in expectation."""
        return self._side(0)

    @property
    def outside(self) -> Jackknife:
        """The mixture without the draw's own datum: not above E log q(z), in expectation."""
        return self._side(1)

    def _side(self, side: int) -> Jackknife:
        count = self.count
        return Jackknife(self._sums[side] / count, self._without[side] / (count - 1))
