"""What is left of a function beyond its tangent, without the cancellation.

A KL between two members of one family is a *remainder*: with f convex,

    f(b) - f(a) - (b - a) f'(a),

the gap between f and its tangent at a. Computed as it stands, everything cancels where guides
start, at q = p: in double precision a KL of 1e-10 keeps six digits at best. Here each remainder
is written in the difference d = b - a, as d^2 times something positive, so that it and its first
two derivatives are right to rounding near d = 0, value and gradient are exactly 0 at d = 0, and
no value has to be clamped. Far from d = 0 the plain expression takes over; neither branch ever
sees the arguments of the other, so that neither poisons its gradient.
"""

from __future__ import annotations

__all__ = [
    "excess",
    "exp_remainder",
    "lgamma_remainder",
    "log1p_excess",
    "log_ratio",
    "mass_excess",
    "rate_excess",
    "sinh_remainder",
]

import math

import torch
from torch import Tensor


def excess(a: Tensor, b: Tensor) -> Tensor:
    """A / b - 1 - log(a / b), what a ratio exceeds its logarithm by.

    Arguments:
        a: Positive.
        b: Positive, broadcastable with `a`.

    Returns:
        The excess, non-negative, 0 with zero gradient at a = b.

    Example:
        >>> one = torch.ones((), dtype=torch.float64)
        >>> round(excess(one + 1e-6, one).item() * 1e12, 4)
        0.5
    """
    a, b = torch.broadcast_tensors(a, b)
    near = (a - b).abs() < _NEAR * b
    s, t = _only(near, a), _only(near, b)
    far_a, far_b = _only(~near, a), _only(~near, b)
    far = far_a / far_b - 1 - (far_a.log() - far_b.log())
    return torch.where(near, _log1p_near((s - t) / t), far)


def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a / b), with all its digits where a is close to b.

    Arguments:
        a: Positive.
        b: Positive, broadcastable with `a`.

    Returns:
        The logarithm of the ratio.

    Example:
        >>> one = torch.ones((), dtype=torch.float64)
        >>> log_ratio(one + 2**-40, one).item() * 2**40 > 0.999999999999
        True
    """
    a, b = torch.broadcast_tensors(a, b)
    near = (a - b).abs() < 0.5 * b
    s, t = _only(near, a), _only(near, b)
    far = _only(~near, a).log() - _only(~near, b).log()
    return torch.where(near, torch.log1p((s - t) / t), far)


def log1p_excess(u: Tensor) -> Tensor:
    """The excess of u over log(1 + u).

    Arguments:
        u: Above -1.

    Returns:
        The value u - log(1 + u), non-negative.

    Example:
        >>> round(log1p_excess(torch.tensor(1e-6).double()).item() * 1e12, 4)
        0.5
    """
    near = u.abs() < _NEAR
    far = torch.where(near, 1.0, u)
    return torch.where(near, _log1p_near(torch.where(near, u, 0.0)), far - torch.log1p(far))


def exp_remainder(x: Tensor) -> Tensor:
    """(e^x - 1 - x) / x^2, an entire function; 1/2 at x = 0.

    The square is left to the caller, for whom it may be that of a signed number of which x is the
    absolute value; that keeps the second derivative at 0.

    Arguments:
        x: Any real number.

    Returns:
        The value, positive.

    Example:
        >>> exp_remainder(torch.zeros(())).item()
        0.5
    """
    near = x.abs() < 1
    s = torch.where(near, x, 0.0)
    series = torch.full_like(s, 1 / _FACTORIALS[-1])
    for factorial in _FACTORIALS[-2::-1]:
        series = 1 / factorial + s * series
    far = torch.where(near, 1.0, x)
    return torch.where(near, series, (torch.expm1(far) - far) / far**2)


def mass_excess(q: Tensor, p: Tensor, log_p_over_q: Tensor) -> Tensor:
    """P - q + q log(q / p), the summands of a KL between masses, each non-negative.

    Since masses sum to one on both sides, the KL of discrete distributions is the sum of these,
    and nothing of first order is left in them to cancel.

    Arguments:
        q: Masses (or rates), not negative.
        p: The other masses.
        log_p_over_q: log(p / q), which the caller may know to more digits than masses show. Where
            q = 0 it is not looked at.

    Returns:
        The summands, p where q = 0.

    Example:
        >>> q, p = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.25, 0.5])
        >>> mass_excess(q, p, (p / q).log()).sum().item()  # log 2
        0.6931471824645996
    """
    held = q > 0
    log = torch.where(held, log_p_over_q, 0.0)
    near = log.abs() < 1
    small = torch.where(near, log, 0.0)
    far = torch.where(near, 1.0, log)
    value = torch.where(near, q * small**2 * exp_remainder(small), p - q - q * far)
    return torch.where(held, value, p)


def rate_excess(a: Tensor, b: Tensor) -> Tensor:
    """B - a + a log(a / b), which is b at a = 0.

    Arguments:
        a: Not negative.
        b: Positive, broadcastable with `a`; 0 at most where `a` is.

    Returns:
        The KL between Poisson distributions of these rates.

    Example:
        >>> rate_excess(torch.zeros(()), torch.tensor(1.5)).item()
        1.5
    """
    a, b = torch.broadcast_tensors(a, b)
    held = (a > 0) & (b > 0)
    return mass_excess(a, b, log_ratio(_only(held, b), _only(held, a)))


def sinh_remainder(x: Tensor) -> Tensor:
    """1 - x / sinh x for small x, where it is nearly x^2 / 6.

    Arguments:
        x: Between -1 and 1.

    Returns:
        The value.

    Example:
        >>> round(sinh_remainder(torch.tensor(1e-6).double()).item() * 1e12, 6)
        0.166667
    """
    y = x**2
    # (sinh x - x) / x^3
    series = torch.full_like(y, 1 / _ODD_FACTORIALS[-1])
    for factorial in _ODD_FACTORIALS[-2::-1]:
        series = 1 / factorial + y * series
    return y * series / (1 + y * series)


def lgamma_remainder(a: Tensor, d: Tensor) -> Tensor:
    """Log Gamma(a + d) - log Gamma(a) - d psi(a).

    With Gamma's recurrence the argument is shifted by n, log x and Stirling's series being left:

        sum_{i < n} [u_i - log(1 + u_i)] + A [(1 + u) log(1 + u) - u] + [u - log(1 + u)] / 2
            + remainders of B_2k / (2k (2k - 1) x^(2k - 1)),

    u_i = d / (a + i), A = a + n, u = d / A. All of it is of second order in d, and no two terms
    of note have opposite signs.

    Arguments:
        a: Positive.
        d: The step, d > -a, broadcastable with `a`.

    Returns:
        The remainder, non-negative, to about 1e-14 relative for every a and d.

    Example:
        >>> a, d = torch.tensor([2.0, 2.0]).double(), torch.tensor([1.0, 1e-7]).double()
        >>> value = lgamma_remainder(a, d)
        >>> round(value[0].item(), 12)  # log 2 - psi(2)
        0.270362845461
        >>> round(value[1].item() * 1e14, 6)  # psi_1(2) / 2
        0.322467
    """
    a, d = torch.broadcast_tensors(a, d)
    steps = torch.arange(_SHIFT, dtype=a.dtype, device=a.device)
    head = log1p_excess(d.unsqueeze(-1) / (a.unsqueeze(-1) + steps)).sum(-1)
    shifted = a + _SHIFT
    u = d / shifted
    gap = log1p_excess(u)
    r = 1 / (1 + u)
    # the remainder of x^-m is A^-m u^2 r sum_{i < m} (m - i) r^i
    tail, sums, powers = torch.zeros_like(u), torch.zeros_like(u), torch.zeros_like(u)
    for m in range(1, 2 * len(_STIRLING)):
        powers = powers + r ** (m - 1)
        sums = sums + powers
        if m % 2:
            tail = tail + _STIRLING[m // 2] * sums / shifted**m
    return head + shifted * (u * torch.log1p(u) - gap) + gap / 2 + u**2 * r * tail


_FACTORIALS = [2.0]
for _k in range(3, 21):
    _FACTORIALS.append(_FACTORIALS[-1] * _k)

_ODD_FACTORIALS = [math.factorial(_k) for _k in range(3, 21, 2)]

_NEAR = 0.25
_SHIFT = 8
# B_2k / (2k (2k - 1)), k = 1, ..., 8
_STIRLING = (
    1 / 12,
    -1 / 360,
    1 / 1260,
    -1 / 1680,
    1 / 1188,
    -691 / 360360,
    1 / 156,
    -3617 / 122400,
)


def _log1p_near(u: Tensor) -> Tensor:
    """The same for |u| < 1/4: with s = u / (2 + u), log(1 + u) = 2 artanh(s)."""
    s = u / (2 + u)
    y = s * s
    series = torch.full_like(s, 1 / 21)
    for odd in range(19, 1, -2):
        series = 1 / odd + y * series
    return s * (u - 2 * y * series)


def _only(mask: Tensor, x: Tensor) -> Tensor:
    """Keep x where the mask holds, 1 elsewhere."""
    return torch.where(mask, x, 1.0)
