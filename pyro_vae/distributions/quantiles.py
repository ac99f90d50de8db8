r"""Quantiles of the height h of axially symmetric laws, read from a table over all concentrations.

The law of h in `pyro_vae.distributions.heights` has one concentration k, and two forms,

    p(h) proportional to (h (1 - h))^(a - 1) exp(-2 k h),             "tilted" (von Mises-Fisher),
    p(h) proportional to (h (1 - h))^(a - 1) (1 - h)^k,               the power spherical law,

a = (m - 1) / 2. With sigma = k / a, its log-odds at the peak are -y, where y = asinh(sigma) or
log(1 + sigma). So the quantile at the normal score z, F(h) = Phi(z), is

    log(h / (1 - h)) = v(z, t) - y,   t = exp(-y / 2),

and v and dv/dy are smooth and bounded on the whole range of t, from 0 (h / mean is gamma
distributed) to 1 (the uniform law): one table of cubics in z and t for each m serves every
concentration, and a draw with its derivative is read without loop or branch.

The table is made in float64 when a dimension is first used (some 20 ms, and 200 ms for m = 2),
and kept. The masses on both sides of h come from Gauss's rule on panels, and with them the
integrals of the score S = d log p / dk: the derivative at fixed z is implicit,

    du/dk = -(dF/dk) / p(u) = (l r1 - r l1) / ((l + r) p(u)),

for masses l, r and integrals l1, r1 of S p on the left and right of u.

Quantiles are good to 2e-7 in probability, from m = 4 on to 1e-7, and to 2e-6 for draws that are
wanted in float32. For m = 3 they are elementary, and there is no table.

References:
    Implicit reparameterization gradients (M. Figurnov, S. Mohamed, A. Mnih, 2018)
"""

from __future__ import annotations

__all__ = ["Points", "draw", "points"]

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

# normal scores that the table covers, beyond all that generators of normal numbers return
_EDGE = 9.0
# up to this dimension float32 serves for draws that are wanted in float32
_SINGLE = 128
# for fewer draws from one law, a table of that law does not pay
_FEW = 256
# panels from which a table is made, and Gauss's nodes in each
_PANELS, _NODES = 400, 5
# below this the law of m = 3 is uniform in double precision
_FLAT = 1e-7


class Points(NamedTuple):
    """Heights, as points on the sphere need them.

    Arguments:
        fall: 1 - mu . x = 2 h.
        cosine: mu . x = 1 - 2 h.
        ratio: (1 - h) / h, so that the sine of the angle is fall times the root of that.
        rate: Half the derivative of the log-odds of h with respect to k, at fixed z; the
            derivative of h is 2 h (1 - h) times that.
    """

    fall: Tensor
    cosine: Tensor
    ratio: Tensor
    rate: Tensor


# ------------------------------------------------------------------ draws
def draw(dim: int, tilted: bool, k: Tensor, count: int, dtype: torch.dtype) -> Points:
    """Random heights: so many, with a concentration for each, or one of no dimension for all."""
    if dim == 3:
        u = torch.rand(count, dtype=torch.float64, device=k.device)
        return _elementary(tilted, u, k, dtype)
    kind, steps = _kind(dim, dtype), _knots(dim)[0] - 1
    middle, unit = steps / 2, steps / (2 * _EDGE)
    if not k.dim() and count < _FEW:
        k = k.expand(count)
    place = torch.normal(middle, unit, (count,), dtype=kind, device=k.device)
    return _read(dim, tilted, place, k, dtype)


def points(dim: int, tilted: bool, z: Tensor, k: Tensor, dtype: torch.dtype) -> Points:
    """Heights with F(h) = Phi(z), for z of one dimension; `dtype` is that of the results."""
    if dim == 3:
        return _elementary(tilted, torch.special.ndtr(z.double()), k, dtype)
    place = (z.double().clamp(-_EDGE, _EDGE) + _EDGE) * ((_knots(dim)[0] - 1) / (2 * _EDGE))
    return _read(dim, tilted, place.to(_kind(dim, dtype)), k, dtype)


def _elementary(tilted: bool, u: Tensor, k: Tensor, dtype: torch.dtype) -> Points:
    """Dimension 3, where h is a truncated exponential, or 1 - h a power of a uniform number."""
    k = k.double()
    if tilted:
        # exp(-s h) = 1 - u (1 - exp(-s)), with s = 2 k
        s = (-2 * k).clamp_(max=-_FLAT)
        q = u * s.expm1()
        h = q.log1p().div_(s).clamp_(1e-30, 1 - 2.0**-53)
        rest = 1 - h
        # dh/ds = (h - u exp(-s) / (1 - u (1 - exp(-s)))) / s
        rate = (u + q).div_(q.add_(1)).sub_(h).div_(h * s).div_(rest).neg_()
        ratio = rest.div_(h)
    else:
        b = k + 1
        log_rest = torch.log1p(-u).div_(b).clamp_(-70, -1e-30)
        h = -log_rest.expm1()
        rate = (log_rest / h).div_(b).mul_(0.5)
        ratio = log_rest.exp_().div_(h)
    fall = (2 * h).to(dtype)
    return Points(fall, 1 - fall, ratio.to(dtype), rate.to(dtype))


def _read(dim: int, tilted: bool, place: Tensor, k: Tensor, dtype: torch.dtype) -> Points:
    """Heights at places of the table, in cells of z."""
    kind, (across, along) = place.dtype, _knots(dim)
    table = _on(dim, tilted, kind, place.device)
    sigma = k.to(kind) * (2 / (dim - 1))
    root = torch.hypot(sigma, sigma.new_ones(())) if tilted else sigma + 1
    odds = sigma + root if tilted else root
    level = odds.rsqrt().mul_(along - 1)
    if k.dim():
        at = torch.stack([place, level])
        whole = at.floor()
        x, y = at.sub_(whole).unsqueeze(-1).unbind(0)
        column, row = whole.unbind(0)
        cell = torch.add(column, row, alpha=across).long().clamp_(0, len(table) - 1)
        rows = _cubic(table.index_select(0, cell).view(-1, 4, 8), y)
    else:
        # one law: cubics in z alone
        row, column = level.floor(), place.floor()
        x, y = place.sub_(column).unsqueeze(-1), level.sub_(row)
        row = row.long().clamp_(0, along - 1).view(1)
        table = _cubic(table.view(along, across, 4, 8).index_select(0, row)[0], y)
        rows = table.index_select(0, column.long().clamp_(0, across - 1))
    minus, slope = _cubic(rows.view(-1, 4, 2), x).unbind(-1)
    ratio = minus.exp().mul_(odds)
    fall = (ratio + 1).reciprocal_().mul_(2)
    made = Points(fall, 1 - fall, ratio, slope / root)
    return made if dtype == kind else Points(*(t.to(dtype) for t in made))


def _cubic(c: Tensor, x: Tensor) -> Tensor:
    """Cubics whose coefficients lie along the last dimension but one."""
    c0, c1, c2, c3 = c.unbind(-2)
    return torch.addcmul(c0, torch.addcmul(c1, torch.addcmul(c2, c3, x), x), x)


def _kind(dim: int, dtype: torch.dtype) -> torch.dtype:
    """The precision in which a table is read."""
    return dtype if dim <= _SINGLE and dtype == torch.float32 else torch.float64


# ------------------------------------------------------------------ the table
_KEPT: dict[tuple[int, bool, torch.dtype, torch.device], Tensor] = {}


@torch.compiler.assume_constant_result
def _on(dim: int, tilted: bool, kind: torch.dtype, device: torch.device) -> Tensor:
    """The table, kept on the device."""
    key = (dim, tilted, kind, device)
    table = _KEPT.get(key)
    if table is None:
        table = torch.from_numpy(_cells(dim, tilted, kind == torch.float32)).to(device)
        if type(table) is Tensor:  # none of a tracer's stand-ins
            _KEPT[key] = table
    return table


def _knots(dim: int) -> tuple[int, int]:
    """How many knots in z and t: v bends more sharply the fewer dimensions there are."""
    return (288, 256) if dim == 2 else (192, 128) if dim < 8 else (128, 64)


def _cells(dim: int, tilted: bool, single: bool) -> np.ndarray:
    """A row for each cell, t by t and z by z: powers of t, powers of z, and -v and half du/dk.

    The last row of cells in either direction lies beyond the edge, for what is on the edge.
    """
    across, along = _knots(dim)
    a = (dim - 1) / 2
    t = np.linspace(0, 1, along).clip(min=1e-7)
    v, slope = _quantiles(a, tilted, -2 * np.log(t), np.linspace(-_EDGE, _EDGE, across))
    known = np.stack([-v, slope / (2 * a)])
    near, powers = _through(along)
    cubics = np.einsum("vzjt,jpt->zjpv", known[:, :, near], powers)
    near, powers = _through(across)
    cells = np.einsum("izjpv,iqz->jipqv", cubics[near], powers)
    return np.ascontiguousarray(cells.reshape(-1, 32), np.float32 if single else np.float64)


def _through(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The four knots next to each cell, and from values there to the powers of a cubic."""
    cell = np.arange(count)
    near = (cell - 1).clip(0, count - 4)[:, None] + np.arange(4)
    return near, np.linalg.inv((near - cell[:, None])[:, :, None] ** np.arange(4.0))


def _quantiles(a: float, tilted: bool, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, ...]:
    """V and du/dy for scores z (rows) and laws y (columns)."""
    s, b = (2 * a * np.sinh(y), a + 0 * y) if tilted else (0 * y, a * np.exp(y))

    def law(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log p without its normaliser, and S."""
        e = np.exp(-np.abs(u))
        log = np.log1p(e)
        h, log_c = np.where(u > 0, 1, e) / (1 + e), -np.maximum(u, 0) - log
        return a * (np.minimum(u, 0) - log) + b * log_c - s * h, -h if tilted else log_c

    top = law(-y)[0]

    def far(u: np.ndarray) -> np.ndarray:
        return top - law(u)[0] > 50

    def mass(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Integrals of p and of S p."""
        half = (high - low) / 2
        total = np.zeros((2, *half.shape))
        for x, weight in zip(*np.polynomial.legendre.leggauss(_NODES), strict=True):
            u = low + half * (1 + x)
            log_p, score = law(u)
            p = weight * half * np.exp(log_p - top)
            total += np.stack([p, p * score])
        return total

    def normal(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.where(left < right, 1, -1) * ndtri(np.minimum(left, right) / (left + right))

    # panels over all but exp(-50) of p, and what lies on either side of their ends
    low, high = (_first(lambda x, way=way: far(way * x - y), y.shape) for way in (-1, 1))
    step, columns = (low + high) / _PANELS, np.arange(len(y))
    ends = -y - low + step * np.arange(_PANELS + 1)[:, None]
    parts, none = mass(ends[:-1], ends[1:]), np.zeros((2, 1, len(y)))
    lefts = np.concatenate([none, parts.cumsum(1)], 1)
    rights = np.concatenate([parts[:, ::-1].cumsum(1)[:, ::-1], none], 1)
    known = normal(lefts[0, 1:-1], rights[0, 1:-1])
    u = np.stack([np.interp(z, known[:, j], ends[1:-1, j]) for j in columns], 1)
    i = ((u - ends[0]) / step).astype(int).clip(0, _PANELS - 1)
    for _ in range(3):
        part = mass(ends[i, columns], u)
        left, right = lefts[:, i, columns] + part, rights[:, i, columns] - part
        total, p = left[0] + right[0], np.exp(law(u)[0] - top)
        slope = (left[0] * right[1] - right[0] * left[1]) / (total * p)
        # a step of Newton's rule; the last is of the order of rounding
        z0 = normal(left[0], right[0])
        u = u + (z[:, None] - z0) * np.exp(-z0 * z0 / 2) * total / (p * math.sqrt(2 * math.pi))
        u = u.clip(ends[i, columns], ends[i + 1, columns])
    return u + y, slope * (2 * a * np.cosh(y) if tilted else b)


def _first(far: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The least positive number that is far, by bisection."""
    low, high = np.zeros(shape), np.full(shape, 256.0)
    for _ in range(24):
        middle = (low + high) / 2
        beyond = far(middle)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return high
