"""Pairs of one location-scale family, in ratios of scales and differences of locations.

Each is a sum of non-negative terms, x - 1 - log x of a ratio of scales among them, and quadratic
near q = p: there value and gradient with respect to q are exactly 0 (but for Uniform, whose
support ends with its parameters, so that a step inwards has a KL of first order).
"""

from __future__ import annotations

__all__ = ["cauchy", "gumbel", "normal"]

import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae.kl.remainders import excess, exp_remainder, lgamma_remainder
from pyro_vae.kl.table import register


def normal(scale: Tensor, prior_scale: Tensor, offset: Tensor | float) -> Tensor:
    """X - 1 - log x + (x - 1)^2 / 2 + (d / s_p)^2 / 2, x the ratio s_q / s_p of the scales.

    Arguments:
        scale: Of q.
        prior_scale: Of p.
        offset: The difference d of the locations.

    Returns:
        The KL between the Normals.

    Example:
        >>> one = torch.ones(())
        >>> normal(one, one, one).item()
        0.5
    """
    quadratic = ((scale - prior_scale) / prior_scale) ** 2 + (offset / prior_scale) ** 2
    return excess(scale, prior_scale) + quadratic / 2


def gumbel(scale: Tensor, prior_scale: Tensor, offset: Tensor) -> Tensor:
    """e^w - 1 - w + R + x - 1 - log x, with x = s_q / s_p and w = d + (x - 1) psi(2) + R.

    Here R = log Gamma(1 + x) - (x - 1) psi(2), so that e^w = e^d Gamma(1 + x).

    Arguments:
        scale: Of q.
        prior_scale: Of p.
        offset: d = (location of p - location of q) / s_p.

    Returns:
        The KL between the Gumbels.

    Example:
        >>> one = torch.ones(())
        >>> round(gumbel(one, one, one).item(), 4)  # e - 2
        0.7183
    """
    step = (scale - prior_scale) / prior_scale
    rest = lgamma_remainder(torch.full_like(step, 2.0), step)
    w = offset + _DIGAMMA_2 * step + rest
    return w**2 * exp_remainder(w) + rest + excess(scale, prior_scale)


def cauchy(scale: Tensor, prior_scale: Tensor, offset: Tensor | float) -> Tensor:
    """log(1 + [(s_q - s_p)^2 + d^2] / 4 s_q s_p).

    On the Kullback-Leibler divergence between Cauchy distributions (F. Chyzak, F. Nielsen, 2019).

    Arguments:
        scale: Of q.
        prior_scale: Of p.
        offset: The difference d of the locations.

    Returns:
        The KL between the Cauchys.

    Example:
        >>> one = torch.ones(())
        >>> round(cauchy(one, one, 2 * one).item(), 4)  # log 2
        0.6931
    """
    geometric = 2 * (scale * prior_scale).sqrt()
    square = ((scale - prior_scale) / geometric) ** 2 + (offset / geometric) ** 2
    return torch.log1p(square)


_DIGAMMA_2 = 0.42278433509846713939


@register(td.Normal, td.Normal)
def _normal(q: td.Normal, p: td.Normal) -> Tensor:
    """X - 1 - log x + (x - 1)^2 / 2 + d^2 / 2 s_p^2, x = s_q / s_p, d the offset."""
    return normal(q.scale, p.scale, q.loc - p.loc)


@register(td.Laplace, td.Laplace)
def _laplace(q: td.Laplace, p: td.Laplace) -> Tensor:
    """X - 1 - log x + x (e^-y - 1 + y), x = b_q / b_p, y = |m_q - m_p| / b_q."""
    z = (q.loc - p.loc) / q.scale
    return excess(q.scale, p.scale) + q.scale / p.scale * (z**2 * exp_remainder(-z.abs()))


@register(td.Gumbel, td.Gumbel)
def _gumbel(q: td.Gumbel, p: td.Gumbel) -> Tensor:
    """log(c_p / c_q) + g (x - 1) + e^d Gamma(1 + x) - 1 - d, in remainders.

    With x = c_q / c_p, d = (m_p - m_q) / c_p and g Euler's constant.
    """
    return gumbel(q.scale, p.scale, (p.loc - q.loc) / p.scale)


@register(td.Cauchy, td.Cauchy)
def _cauchy(q: td.Cauchy, p: td.Cauchy) -> Tensor:
    """log(1 + [(s_q - s_p)^2 + (m_q - m_p)^2] / 4 s_q s_p)."""
    return cauchy(q.scale, p.scale, q.loc - p.loc)


@register(td.Uniform, td.Uniform)
def _uniform(q: td.Uniform, p: td.Uniform) -> Tensor:
    """Log of the ratio of the widths, [l_q, h_q] lying within [l_p, h_p]."""
    width = q.high - q.low
    more = ((p.high - q.high) + (q.low - p.low)) / width
    return torch.log1p(more)
