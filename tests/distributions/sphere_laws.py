"""Oracles for laws on the sphere, and wrong samplers that must be caught."""

import math

import mpmath as mp
import numpy as np
import torch
from scipy import integrate, special

F64 = torch.float64
DIMS = [2, 3, 4, 5, 16, 64, 256, 1000]
CONCENTRATIONS = [1e-3, 0.3, 2.0, 12.0, 100.0, 1e4, 1e5]


def axis(dim, dtype=F64, seed=0):
    v = torch.randn(dim, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return (v / v.norm()).to(dtype)


def bessel_log_c(m, k):
    """Log C(k) of the von Mises-Fisher law, in 40 digits."""
    with mp.workdps(40):
        nu, k = mp.mpf(m) / 2 - 1, mp.mpf(k)
        return nu * mp.log(k) - mp.mpf(m) / 2 * mp.log(2 * mp.pi) - mp.log(mp.besseli(nu, k))


def bessel_moments(m, k):
    """Mean A of mu . x, its variance 1 - A^2 - (m - 1) A / k, which is also dA / dk."""
    with mp.workdps(40):
        nu, k = mp.mpf(m) / 2 - 1, mp.mpf(k)
        a = mp.besseli(nu + 1, k) / mp.besseli(nu, k)
        return float(a), float(1 - a * a - (m - 1) * a / k)


def fisher_log(k):
    return lambda h: -2 * k * h


def power_log(k):
    return lambda h: k * np.log1p(-h)


def cdf(m, log_kernel, h):
    """P(H <= h) by adaptive quadrature over the angle, theta = 2 asin sqrt h."""
    grid = np.concatenate([np.geomspace(1e-7, 0.1, 4000), np.linspace(0.1, math.pi - 1e-9, 4000)])

    def log(theta):
        s = np.sin(theta / 2) ** 2
        return log_kernel(s) + (m - 2) * np.log(np.sin(theta))

    values = log(grid)
    top, peak = values.max(), grid[values.argmax()]
    inside = grid[values > top - 45]

    def mass(low, high):
        f = lambda t: np.exp(log(t) - top)  # noqa: E731
        points = [peak] if low < peak < high else None
        return integrate.quad(f, low, high, points=points, limit=300, epsabs=0, epsrel=1e-11)[0]

    low = 1e-13 if inside[0] < 1e-6 else inside[0] * 0.95
    high = min(inside[-1] * 1.05, math.pi - 1e-12)
    angles = 2 * np.arcsin(np.sqrt(h))
    parts = [(mass(low, a), mass(a, high)) for a in np.clip(angles, low, high)]
    return np.array([left / (left + right) for left, right in parts])


def envelope_draws(m, k, count, *, taylor=False, seed=0):
    """t by rejection from an envelope, as elsewhere; `taylor` takes b = (m - 1) / (4 k).

    The approximation holds for k much above m only. Returns t, the proposal e and b.
    """
    g = np.random.default_rng(seed)
    root = math.sqrt(4 * k * k + (m - 1) ** 2)
    b = (m - 1) / (4 * k) if taylor else (m - 1) / (2 * k + root)
    a = (m - 1 + 2 * k + root) / 4
    d = 4 * a * b / (1 + b) - (m - 1) * math.log(m - 1)
    kept = []
    while sum(map(len, kept)) < count:
        e = g.beta((m - 1) / 2, (m - 1) / 2, count)
        t = 2 * a * b / (1 - (1 - b) * e)
        kept.append(e[(m - 1) * np.log(t) - t + d > np.log(g.uniform(size=count))])
    e = np.concatenate(kept)[:count]
    return (1 - (1 + b) * e) / (1 - (1 - b) * e), e, b


def ive_underflows(m, k):
    """Whether the Bessel function by which others normalise is 0 in single precision."""
    return special.ive(np.float32(m / 2 - 1), np.float32(k)) == 0
