"""Special functions that torch lacks, or has to too few digits, in float64 and differentiable."""

from __future__ import annotations

__all__ = ["EULER", "digamma", "exp1", "log_beta", "trigamma"]

import torch
from torch import Tensor

EULER = 0.57721566490153286061
"""Euler's constant."""


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    """Log B(a, b) = log Gamma(a) + log Gamma(b) - log Gamma(a + b).

    Arguments:
        a: Positive.
        b: Positive, broadcastable with `a`.

    Returns:
        The logarithm of the beta function.

    Example:
        >>> bool(log_beta(torch.tensor(1.0), torch.tensor(2.0)).exp().isclose(torch.tensor(0.5)))
        True
    """
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def digamma(x: Tensor) -> Tensor:
    """Psi(x), the derivative of log Gamma, whose own derivatives are right to rounding as well.

    That of `torch.digamma` is `torch.polygamma(1, x)`, only good to 5e-10. Here the argument is
    shifted by 12 and the asymptotic series of Bernoulli numbers does the rest.

    Arguments:
        x: Positive.

    Returns:
        The digamma function.

    Example:
        >>> round(digamma(torch.tensor(1.0, dtype=torch.float64)).item(), 12)  # - EULER
        -0.577215664902
    """
    shift = 12
    head = sum((x + n).reciprocal() for n in range(shift))
    y = x + shift
    r2 = y.reciprocal() ** 2
    # B_2 / 2, B_4 / 4, ..., B_12 / 12
    series = 1 / 12 + r2 * (
        -1 / 120 + r2 * (1 / 252 + r2 * (-1 / 240 + r2 * (1 / 132 - r2 * (691 / 32760))))
    )
    return y.log() - 0.5 / y - r2 * series - head


def trigamma(x: Tensor) -> Tensor:
    """psi_1(x) = sum_{n >= 0} 1 / (x + n)^2, to full precision.

    `torch.polygamma(1, x)` in float64 is only good to 5e-10. Here the argument is shifted by 12
    and the asymptotic series of Bernoulli numbers does the rest.

    Arguments:
        x: Positive.

    Returns:
        The trigamma function.

    Example:
        >>> round(trigamma(torch.tensor(1.0, dtype=torch.float64)).item(), 12)
        1.644934066848
    """
    shift = 12
    head = sum((x + n).pow(-2) for n in range(shift))
    r = (x + shift).reciprocal()
    r2 = r * r
    # B_2, B_4, ..., B_12
    series = 1 / 6 + r2 * (
        -1 / 30 + r2 * (1 / 42 + r2 * (-1 / 30 + r2 * (5 / 66 - r2 * (691 / 2730))))
    )
    return head + r + r2 / 2 + r * r2 * series


def exp1(x: Tensor) -> Tensor:
    """E_1(x), the integral of exp(-t) / t from x to infinity.

    The power series below 2, the continued fraction above.

    Arguments:
        x: Positive; beyond 700 the value is 0.

    Returns:
        The exponential integral.

    Example:
        >>> round(exp1(torch.tensor(1.0, dtype=torch.float64)).item(), 12)
        0.219383934396
    """
    small = x < 2
    # each branch computes with its own arguments alone, so that neither poisons the gradient
    s = torch.where(small, x, torch.ones_like(x))
    total, term = torch.zeros_like(x), -torch.ones_like(x)
    for k in range(1, 31):
        term = -term * s / k
        total = total + term / k
    series = -EULER - s.log() + total

    b = torch.where(small, torch.full_like(x, 2.0), x)
    fraction = b + 2 * 60 + 1
    for k in range(60, 0, -1):
        fraction = b + 2 * k - 1 - k * k / fraction
    return torch.where(small, series, (-b).exp() / fraction)
