"""Numbers on the line: torch's and Pyro's distributions, right at extreme parameters in float32.

Parameters, moments and densities are theirs. What differs: draws are never infinite, and neither
they nor the densities nor any gradient is NaN (`pyro_vae.distributions.wide`).
"""

from __future__ import annotations

__all__ = ["Cauchy", "Gumbel", "Logistic", "StudentT", "heavy_factor", "log_normaliser"]

import math

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.wide import (
    OnLine,
    capped_exp,
    exponential,
    log1p_square,
    log_gamma_draw,
)

# the largest factor of a Student-t draw is exp of this, for its gradient to stay within float64
_LOG_LARGEST = 350.0


class StudentT(OnLine, dist.StudentT):
    """A Normal of random precision: z = (x - loc) / scale has density ~ (1 + z^2 / df)^-(df+1)/2.

    Arguments:
        df: Degrees of freedom, positive; moments below order df are finite.
        loc: The median.
        scale: The scale, positive.

    Example:
        >>> StudentT(torch.tensor(1e-3), torch.tensor(0.0), torch.tensor(1.0)).sample().isfinite()
        tensor(True)
    """

    def _standard_draw(self, shape: Size, df: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        normal = torch.randn(shape, dtype=df.dtype, device=df.device)
        return normal * heavy_factor(df, shape)

    def _log_density(self, value: Tensor, df: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        power = (df + 1) / 2 * log1p_square((value - loc) / (scale * df.sqrt()))
        return log_normaliser(df, 1) - scale.log() - power


def heavy_factor(df: Tensor, shape: Size) -> Tensor:
    """Return sqrt(df / C), C ~ chi^2(df): what makes a Student-t of a Normal.

    Arguments:
        df: Degrees of freedom, float64.
        shape: The shape of the draws.

    Returns:
        Positive draws, with gradient to `df`.

    Example:
        >>> df = torch.tensor(1e6, dtype=torch.float64)
        >>> bool((heavy_factor(df, Size([9])) - 1).abs().max() < 0.01)
        True
    """
    log_factor = 0.5 * ((df / 2).log() - log_gamma_draw(df / 2, shape))
    return log_factor.clamp(max=_LOG_LARGEST).exp()


def log_normaliser(df: Tensor, dim: int) -> Tensor:
    """Return log[Gamma((df + D) / 2) / (Gamma(df / 2) (df pi)^(D / 2))].

    Arguments:
        df: Degrees of freedom, float64.
        dim: The dimension D.

    Returns:
        The log density of a standard Student-t at 0.

    Example:
        >>> log_normaliser(torch.tensor(1.0, dtype=torch.float64), 1).exp().item() * math.pi
        1.0
    """
    half = df / 2
    ratio = torch.lgamma(half + dim / 2) - torch.lgamma(half)
    return ratio - dim / 2 * (df * math.pi).log()


class Cauchy(OnLine, dist.Cauchy):
    """log p(x) = -log(pi scale) - log(1 + z^2), z = (x - loc) / scale.

    Arguments:
        loc: The median; there is no mean.
        scale: Half the distance between the quartiles, positive.

    Example:
        >>> Cauchy(torch.tensor(0.0), torch.tensor(1e6)).sample().isfinite()
        tensor(True)
    """

    def _standard_draw(self, shape: Size, loc: Tensor, scale: Tensor) -> Tensor:
        return loc.new_empty(shape).cauchy_()

    def _log_density(self, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        return -math.log(math.pi) - scale.log() - log1p_square((value - loc) / scale)


class Logistic(OnLine, dist.Logistic):
    """log p(x) = log s(z) + log s(-z) - log scale, z = (x - loc) / scale, s(z) = 1 / (1 + e^-z).

    Arguments:
        loc: The mean.
        scale: The scale, positive; the standard deviation is pi / sqrt(3) times this.

    Example:
        >>> Logistic(torch.tensor(0.0), torch.tensor(1e6)).sample().isfinite()
        tensor(True)
    """

    def _standard_draw(self, shape: Size, loc: Tensor, scale: Tensor) -> Tensor:
        return exponential(shape, loc).log() - exponential(shape, loc).log()

    def _log_density(self, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        z = (value - loc) / scale
        return logsigmoid(z) + logsigmoid(-z) - scale.log()


class Gumbel(OnLine, dist.Gumbel):
    """log p(x) = -z - exp(-z) - log scale, z = (x - loc) / scale.

    Arguments:
        loc: The mode.
        scale: The scale, positive; the standard deviation is pi / sqrt(6) times this.

    Example:
        >>> Gumbel(torch.tensor(0.0), torch.tensor(1e6)).sample().isfinite()
        tensor(True)
    """

    def _standard_draw(self, shape: Size, loc: Tensor, scale: Tensor) -> Tensor:
        return -exponential(shape, loc).log()

    def _log_density(self, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        z = (value - loc) / scale
        return -z - capped_exp(-z, self._dtype()) - scale.log()
