"""Bands for empirical distribution functions of uniform numbers: all of a curve lies inside."""

from __future__ import annotations

__all__ = ["distance", "ecdf_band", "ecdf_difference", "kolmogorov"]

import functools

import numpy as np
from scipy import stats

POINTS, SIMULATIONS = 99, 2000


def ecdf_difference(u: np.ndarray, at: np.ndarray) -> np.ndarray:
    """F_n(a) - a, F_n being the empirical distribution function of u.

    Arguments:
        u: Numbers in [0, 1], of shape (n,).
        at: Where to look, of shape (m,).

    Returns:
        Differences, of shape (m,).

    Example:
        >>> ecdf_difference(np.array([0.2, 0.4]), np.array([0.3]))
        array([0.2])
    """
    return np.searchsorted(np.sort(u), at, side="right") / len(u) - at


def distance(u: np.ndarray) -> float:
    """How far the ecdf of u is off anywhere, on either side of its steps.

    Arguments:
        u: Numbers in [0, 1], of shape (n,).

    Example:
        >>> distance(np.array([0.5]))
        0.5
    """
    steps, ordered = np.arange(len(u) + 1) / len(u), np.sort(u)
    return float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))


def kolmogorov(count: int, failure_probability: float) -> float:
    """How far an ecdf of n uniform numbers may be off anywhere, by the test of Kolmogorov.

    Arguments:
        count: n.
        failure_probability: With which it is farther off.

    Example:
        >>> round(kolmogorov(1000, 0.05), 3)  # 1.358 / sqrt(n)
        0.043
    """
    return float(stats.kstwo.ppf(1 - failure_probability, count))


@functools.lru_cache(maxsize=16)
def ecdf_band(count: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A band for F_n(a) - a at many a, which holds all of a curve with probability `level`.

    At each a, n F_n(a) ~ Binomial(n, a) lies between its quantiles gamma / 2 and 1 - gamma / 2;
    gamma is such that it does so at all a at once. So the band is as hard to leave at the ends
    as in the middle, unlike Kolmogorov's.

    Arguments:
        count: n.
        level: The probability, met by simulation to about 0.005.

    Returns:
        a, and lower and upper ends of the band, each of shape (99,).

    References:
        Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation
        and multiple sample comparison (T. Sailynoja, P.-C. Burkner, A. Vehtari, 2022)

    Example:
        >>> at, low, high = ecdf_band(100)
        >>> bool((high - low)[0] < (high - low)[49])  # narrow at the ends
        True
    """
    at = np.arange(1, POINTS + 1) / (POINTS + 1)
    # counts at the points of n uniform numbers: a walk, of numbers that fall between points
    cells = np.full(POINTS + 1, 1 / (POINTS + 1))
    # a generator of its own, and none of the caller's numbers
    walks = np.random.default_rng(count).multinomial(count, cells, SIMULATIONS)[:, :-1].cumsum(1)
    below = stats.binom.cdf(np.arange(-1, count + 1)[:, None], count, at)  # k = -1, ..., n
    columns = np.arange(POINTS)
    low_tail, high_tail = below[walks + 1, columns], 1 - below[walks, columns]
    gamma = 2 * np.quantile(np.minimum(low_tail, high_tail).min(1), 1 - level)
    low, high = stats.binom.ppf([[gamma / 2], [1 - gamma / 2]], count, at)
    return at, low / count - at, high / count - at
