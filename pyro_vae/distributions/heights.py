r"""Heights of axially symmetric laws on the sphere, drawn by inversion.

A point x on the unit sphere of R^m lies at the angle theta from an axis mu. Its *height below the
pole*, h = (1 - mu . x) / 2 = sin^2(theta / 2), has for the von Mises-Fisher and the power
spherical law a density of one kind,

    p(h) proportional to h^(a - 1) (1 - h)^(b - 1) exp(-s h),   a = (m - 1) / 2,  0 < h < 1.

A draw solves F(h) = Phi(z) for a standard normal z, in three steps without a loop that depends on
data:

1. *A start* from the tail approximation of a unimodal density in a coordinate u (log-odds of h),
   F = Phi(r*), r* = r + log(q / r) / r, where r^2 / 2 is the fall of the log density from its peak
   and q its slope in units of the curvature at the peak. It is solved by Newton's rule, and is
   off by 1e-2 in z for m = 4, by 1e-5 for m = 256.
2. *The truth about the start*: Gauss's rule from both ends of the support to the start gives the
   two masses l and r (and the integrals l1, r1 of the score), hence z there, with no normaliser.
3. *One step* along the Taylor series of the quantile function in z, whose derivatives follow
   from the density.

The derivative with respect to a parameter k is implicit: with the score S = d log p / dk,

    du/dk = -(dF/dk) / p(u) = (l r1 - r l1) / ((l + r) p(u)),

a sum of positive terms where S is monotone. Panels are laid in w = tan(theta / 4), in which the
density is analytic at both poles for every m. All of this is computed in float64, but for the
nodes of draws that are wanted in float32: where rounding there costs less than 2e-6 of the mass
they are float32 as well.

Many draws from one law share a table of quantiles and their derivatives at equal steps of z, read
by cubic interpolation of the log-odds.

For m = 2 the peak of p(theta) lies at the pole itself, and h has none in log-odds; there theta is
unfolded to (-pi, pi), u = artanh(sqrt(h)) in place of the log-odds.

References:
    Approximating the tail of a distribution: Inference and asymptotics (O. E.
    Barndorff-Nielsen, D. R. Cox, 1994); Implicit reparameterization gradients (M. Figurnov,
    S. Mohamed, A. Mnih, 2018)
"""

from __future__ import annotations

__all__ = ["Heights", "Rule"]

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# how far the panels reach, in units of r: beyond it lies 1e-11 of the mass
_REACH = 6.8
# draws in a block that stays in the cache of one core, with and without nodes
_BLOCK, _WIDE = 1024, 16384
# the table of a shared law: its knots, how far it reaches in z, and for how many draws it pays
_KNOTS, _EDGE, _MANY = 256, 7.0, 512
# dimensions in which (m - 2) log sin(theta) has digits to spare in float32
_SINGLE = 32
# from four values at -1, 0, 1, 2 to the coefficients of the cubic through them
_CUBIC = np.linalg.inv(np.vander([-1.0, 0.0, 1.0, 2.0], increasing=True)).T


class Rule(NamedTuple):
    """Nodes for the whole range of h: the integral of f p is sum f(h) exp(log_weight) / sum.

    Arguments:
        h: Nodes, of shape (n, *batch).
        rest: 1 - h, to full precision.
        log_weight: Logarithms of the weights times the density without its normaliser.
    """

    h: Tensor
    rest: Tensor
    log_weight: Tensor

    def log_mass(self) -> Tensor:
        """The logarithm of the integral of h^(a - 1) (1 - h)^(b - 1) exp(-s h)."""
        return self.log_weight.logsumexp(0)

    def mean(self, f: Tensor) -> Tensor:
        """The mean of a function, given at the nodes."""
        return (self.log_weight.softmax(0) * f).sum(0)


class Heights:
    """The law of h for one kind of axially symmetric distribution.

    Arguments:
        dim: The ambient dimension m, at least 2.
        power: The excess b - a of the power of 1 - h, not negative.
        slope: The rate s of the exponential, not negative.

    One of `power` and `slope` is a float64 tensor of the batch shape, the parameter of the family,
    the other None for 0.

    Example:
        >>> law = Heights(5, slope=torch.tensor([0.5, 50.0], dtype=torch.float64))
        >>> h, slope = law.draw(torch.zeros(2, dtype=torch.float64))
        >>> [round(x, 4) for x in h.tolist()]  # the medians
        [0.4688, 0.0329]
    """

    def __init__(
        self, dim: int, *, power: Tensor | None = None, slope: Tensor | None = None
    ) -> None:
        self.dim, self.a = dim, (dim - 1) / 2
        self.tilted = power is None
        given = slope if power is None else power
        if given is None:
            raise TypeError("Heights needs power= or slope=.")
        zero = torch.zeros((), dtype=torch.float64, device=given.device)
        self.parameter: Tensor = given
        self.power, self.slope = (zero, given) if self.tilted else (given, zero)
        self.b = self.a + self.power

    # ------------------------------------------------------------------ draws
    def draw(self, z: Tensor, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Return h with F(h) = Phi(z), and dh / dparameter at fixed z.

        Arguments:
            z: Standard normal numbers in float64, of a shape to which the parameter broadcasts.
            dtype: What the draws are wanted in; for float32, h is good to 2e-6 in probability.

        Returns:
            Two tensors of the shape of z, in float64, without gradient.
        """
        with torch.no_grad():
            flat = z.reshape(-1)
            shared = self.parameter.numel() == 1
            if shared and self.dim > 3 and len(flat) >= _MANY:
                table = self._table()
                h, slope = _in_blocks(lambda z: _read(table, z), 4 * _BLOCK, flat)
            else:
                wide = self.parameter if shared else self.parameter.expand(z.shape)
                h, slope = _in_blocks(
                    lambda z, k: self._like(k)._solve(z, dtype),
                    4 * _BLOCK if self.dim == 3 else _WIDE,
                    flat,
                    wide.reshape(-1),
                )
            return h.reshape(z.shape), slope.reshape(z.shape)

    def _table(self) -> Tensor:
        """Cubics between the knots for the log-odds of h and their derivative, a row for each."""
        device = self.parameter.device
        knots = torch.linspace(-_EDGE, _EDGE, _KNOTS, dtype=torch.float64, device=device)
        h, slope = self._like(self.parameter.reshape(())).draw(knots)
        # log-odds are smooth in z, in both tails
        known = torch.stack([h.logit(), slope / (h * (1 - h))])
        return (known.unfold(1, 4, 1) @ known.new_tensor(_CUBIC)).transpose(0, 1).flatten(1)

    def _like(self, parameter: Tensor) -> Heights:
        return Heights(self.dim, **{"slope" if self.tilted else "power": parameter})

    def _three(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Dimension 3, where F is elementary: a truncated exponential, or a power."""
        if not self.tilted:
            log_rest = torch.special.log_ndtr(-z) / self.b
            return -torch.expm1(log_rest), log_rest * log_rest.exp() / self.b
        s = self.slope
        less = torch.special.erfc(z.abs() * math.sqrt(0.5)).mul_(0.5)
        more, right = 1 - less, z > 0
        u, rest = torch.where(right, more, less), torch.where(right, less, more)
        # exp(-s h) = 1 - u (1 - exp(-s)), and h from odds that keep their digits everywhere
        below = (-s).exp()
        ratio = u / torch.addcmul(rest, u, below)
        # rounding may lead past 1 where s is small
        h = (ratio * -torch.expm1(-s)).log1p_().div_(s).clamp_(max=1)
        # (u exp(s (h - 1)) - h) / s, without its cancellation for small s
        slope = (ratio * below).sub_(h).div_(s)
        return h, torch.where(s < 1e-5, u * rest * -0.5, slope)

    def _solve(self, z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if self.dim == 3:
            return self._three(z)
        chart = _Circle(self) if self.dim == 2 else _Sphere(self)
        u, low, high = chart.place(z)
        h, c = chart.point(u)
        left, right, left_score, right_score = self._panels(h, c, low, high, dtype)
        total = left + right
        z0 = chart.normal(torch.minimum(left, right), left - right, total)
        gap = ((z.abs() if self.dim == 2 else z) - z0).clamp_(-0.5, 0.5)
        g1, g2, score, score1, angle = chart.falls(h, c)
        # Phi(z) = F(u): u' = phi / p, u'' / u' = -z + g1 u', and so on
        d1 = (z0 * z0).mul_(-0.5).exp_().mul_(total).div_(angle).mul_(chart.phi)
        turn = g1 * d1
        bend = turn - z0
        d3 = (bend + turn).mul_(bend).sub_(1).addcmul_(g2, d1 * d1)
        step = d1.mul_(gap)
        step = torch.addcmul(step, step, bend.addcmul_(gap, d3, value=1 / 3).mul_(gap), value=0.5)
        # v = -(dF/dk) / p obeys v' = S0 + E S + g1 v, with S0 = -S
        v = (left * right_score).addcmul_(right, left_score, value=-1).div_(total * angle)
        v1 = (left_score + right_score).div_(total).add_(score).addcmul_(g1, v)
        v2 = torch.addcmul(score1, g2, v).addcmul_(g1, v1)
        v = v.addcmul_(step, v1.addcmul_(step, v2, value=0.5))
        h, c = chart.point(u + step)
        return h, v.mul_(chart.speed(h, c))

    def _panels(
        self, h: Tensor, c: Tensor, low: Tensor, high: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """The masses on both sides of h and the integrals of the score, relative to p(theta)."""
        centre = _quarter(h, c)
        low = torch.minimum(low, 0.99 * centre)
        high = torch.maximum(high, torch.minimum(1.01 * centre, 0.5 + 0.5 * centre))
        length = torch.stack([low - centre, high - centre])
        fall = self.slope * h if self.tilted else self.power * -c.log()
        if self.dim > 2:
            fall = fall.add((h * c).mul_(0.25).log_(), alpha=0.5 - self.a)
        single = self.tilted and dtype == torch.float32 and self.dim <= _SINGLE
        kind = torch.float32 if single else torch.float64
        given = [t.to(kind) for t in (centre, length, fall, self.parameter)]
        # half the bytes, twice the draws
        first, second = _in_blocks(self._panel, _BLOCK * (1 + single), *given)
        # w = tan(theta / 4), d theta = 4 dw / (1 + w^2)
        length = 4 * length.abs()
        left, right = length * first
        return left, right, *(length * second)

    def _panel(
        self, centre: Tensor, length: Tensor, fall: Tensor, parameter: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Two Gauss sums for each side and row, without the length of the panel."""
        x, weight = _legendre(14 if self.dim < 16 else 12, centre.device, centre.dtype)
        # sides, nodes, rows: rows are many
        w = torch.addcmul(centre, length.unsqueeze(-2), x.unsqueeze(-1))
        q = w * w
        d = (q + 1).reciprocal_()
        if self.tilted:
            square = d * d
            # sin(theta) / 4 = w (1 - q) / (1 + q)^2, h / 4 = q / (1 + q)^2
            sine = w.mul_(square)
            sine.addcmul_(sine, q, value=-1)
            score = square.mul_(q).mul_(-4)
        else:
            cosine = torch.addcmul(d, d, q, value=-1)  # cos(theta / 2)
            sine = w.mul_(d).mul_(cosine)
            score = cosine.log_().mul_(2)
        log = torch.addcmul(fall, score, parameter)
        if self.dim > 2:
            log.add_(sine.log_(), alpha=self.dim - 2)
        mass = log.exp_().mul_(d)
        first = weight @ mass
        return first, weight @ mass.mul_(score)

    # ------------------------------------------------------------------ integrals
    def rule(self, nodes: int = 64, split: Tensor | None = None) -> Rule:
        """Return a quadrature of the whole law, differentiable in its parameter.

        Nodes do not depend on the parameter as far as gradients are concerned.

        Arguments:
            nodes: How many.
            split: Heights of the batch shape where the function to be integrated is not smooth;
                panels then end there, their nodes crowded towards it.
        """
        with torch.no_grad():
            batch = self.parameter.shape
            low, high = (t.reshape(batch) for t in self._like(self.parameter.reshape(-1))._span())
            x, weight = _legendre(nodes if split is None else nodes // 2, low.device)
            x, weight = (t.reshape(-1, *(1,) * len(batch)) for t in (x, weight))
            if split is None:
                w, weight = low + (high - low) * x, weight * (high - low)
            else:
                # crowded at both ends, which takes the edge off a logarithm or a power
                x, weight = x**3 * (10 - 15 * x + 6 * x * x), 30 * (x * (1 - x)) ** 2 * weight
                middle = _quarter(split, 1 - split).clamp(low, high)
                w = torch.cat([middle + (end - middle) * x for end in (low, high)])
                weight = torch.cat([(end - middle).abs() * weight for end in (low, high)])
            q = w * w
            half = 2 / (1 + q)
            h, rest = q * half * half, ((1 - q) * half / 2).square()
            # dh = sin(theta) d theta / 2
            log_weight = (2 * weight * half).log() + (self.a - 0.5) * (h.log() + rest.log())
        return Rule(h, rest, log_weight + self.power * rest.log() - self.slope * h)

    def _span(self) -> tuple[Tensor, Tensor]:
        """The range, in w, beyond which lies less than 1e-16 of the mass."""
        if self.dim == 3:
            high = self._three(torch.full_like(self.parameter, 8.5))[0]
            return torch.zeros_like(high), _quarter(high, 1 - high)
        low, high = (_Circle(self) if self.dim == 2 else _Sphere(self)).ends(8.5)
        # where the slope turns before Newton's rule arrives, all the way to the other pole
        low, high = torch.nan_to_num(low, nan=0.0), torch.nan_to_num(high, nan=1.0)
        return low.expand_as(self.parameter), high.expand_as(self.parameter)


# -------------------------------------------------------------------------------------- charts
class _Sphere:
    """The coordinate u = log(h / (1 - h)), for m > 2."""

    def __init__(self, law: Heights) -> None:
        self.law = law
        a, b, s = law.a, law.b, law.slope
        self.sum = a + b
        self.all = self.sum + s
        self.h = 2 * a / (self.all + (self.all.square() - 4 * a * s).sqrt_())
        c = 1 - self.h
        log_h, log_c = self.h.log(), c.log()
        spread, tilt = self.h * c, c - self.h
        # from minus the second and the third derivative of the log density at the peak
        self.scale = torch.addcmul(self.sum, s, tilt).mul_(spread).rsqrt_()
        square = spread.mul_(self.scale).square_()
        self.skew = torch.addcmul(tilt, s, square, value=-2).mul_(-self.scale)
        self.peak = log_h - log_c
        self.top = (a * log_h).addcmul_(b, log_c).addcmul_(s, self.h, value=-1)

    def place(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A start for the draws, and where the panels begin and end, in w."""
        if self.h.numel() < z.numel():
            return self.start(z), *self.ends()
        reach = torch.full_like(z, _REACH)
        u = self.start(torch.stack([z, -reach, reach]))
        low, high = _quarter(*self.point(u[1:]))
        return u[0], low, high

    def start(self, z: Tensor, steps: int | None = None) -> Tensor:
        """Where r* = z, by Newton's rule."""
        a, b, s = self.law.a, self.law.b, self.law.slope
        limit = self.skew * (-1 / 3)
        x = z - limit
        x = torch.addcmul(x, x * x, limit, value=-0.5).clamp_(-6.0, 12.0)
        u = torch.addcmul(self.peak, self.scale, x)
        steps = (1 if self.law.dim >= 16 else 3) if steps is None else steps
        for _ in range(steps):
            h = torch.sigmoid(u)
            # the fall of the log density, whose terms are a log h + b log(1 - h) - s h
            fall = torch.addcmul(self.top, s, h).addcmul_(self.sum, h.log(), value=-1)
            r = fall.addcmul_(b, u).clamp_(min=1e-30).mul_(2).sqrt_().copysign_(u - self.peak)
            slope = torch.addcmul(self.all, s, h, value=-1).mul_(h).sub_(a)
            # q / r and its logarithm are 0 / 0 at the peak
            near = r.abs() < 0.02
            ratio = torch.where(near, 1.0, slope.mul_(self.scale).div_(r))
            rest = (z - r).sub_(torch.where(near, limit, ratio.log().div_(r)))
            u = rest.mul_(self.scale).div_(ratio).add_(u)
        return u

    def ends(self, reach: float = _REACH) -> tuple[Tensor, Tensor]:
        """Where the panels begin and end, in w."""
        # beyond the draws' own reach there is more to cover, and time to cover it well
        steps = 5 if reach > _REACH else 3 if self.law.dim == 4 else 1 if self.law.dim >= 16 else 2
        reach_of = torch.tensor([[-reach], [reach]], dtype=self.h.dtype, device=self.h.device)
        low, high = _quarter(*self.point(self.start(reach_of, steps)))
        return low, high

    @staticmethod
    def point(u: Tensor) -> tuple[Tensor, Tensor]:
        """From u to h and 1 - h."""
        return torch.sigmoid(u), torch.sigmoid(-u)

    @staticmethod
    def normal(less: Tensor, lead: Tensor, total: Tensor) -> Tensor:
        """The normal score of the share that lies on the left."""
        return torch.special.ndtri(less.div_(total)).copysign_(lead)

    def falls(self, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """Minus g' and g'', minus the score S and S', and the derivative of the angle."""
        s, spread = self.law.slope, h * c
        first = torch.addcmul(self.sum, s, c).mul_(h).sub_(self.law.a)
        second = torch.addcmul(self.sum, s, c - h).mul_(spread)
        score, score1 = (h, spread) if self.law.tilted else (-c.log(), h)
        return first, second, score, score1, spread.sqrt()

    # the factor of the normal density, over the share of the mass that p(theta) counts
    phi = 1 / math.sqrt(2 * math.pi)

    @staticmethod
    def speed(h: Tensor, c: Tensor) -> Tensor:
        """The derivative of h."""
        return h * c


class _Circle:
    """The coordinate u = artanh(sqrt(h)) > 0, for m = 2; the law is that of |u|, u symmetric."""

    def __init__(self, law: Heights) -> None:
        self.law = law

    def place(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A start for the draws, and where the panels begin and end, in w."""
        return self.start(z.abs()), *self.ends()

    def start(self, z: Tensor) -> Tensor:
        """Where r* = z > 0, by Newton's rule."""
        b, s = self.law.b, self.law.slope
        scale = (2 * (s + b)).rsqrt()
        u = z * scale
        for _ in range(6):
            h = torch.tanh(u).square()
            # log(1 - h) = -2 log cosh u
            log_c = 2 * (math.log(2) - u - torch.log1p(torch.exp(-2 * u)))
            r = (2 * (s * h - b * log_c)).clamp(min=1e-30).sqrt()
            slope = 2 * h.sqrt() * (s * log_c.exp() + b)
            near = r < 0.02
            ratio = torch.where(near, 1.0, slope * scale / r)
            u = u + (z - r - ratio.log() / r) * scale / ratio
            u = u.abs()
        return u

    def ends(self, reach: float = _REACH) -> tuple[Tensor, Tensor]:
        """Where the panels begin and end, in w."""
        high = _quarter(*self.point(self.start(reach * torch.ones_like(self.law.b))))
        return torch.zeros_like(high), high

    @staticmethod
    def point(u: Tensor) -> tuple[Tensor, Tensor]:
        """From u to h and 1 - h."""
        return torch.tanh(u).square(), torch.cosh(u).pow(-2)

    @staticmethod
    def normal(less: Tensor, lead: Tensor, total: Tensor) -> Tensor:
        """The normal score, half of the mass lying on the other side of the pole."""
        right = torch.where(lead < 0, total - less, less)
        return -torch.special.ndtri(right / (2 * total))

    def falls(self, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """Minus g' and g'', minus the score S and S', and the derivative of the angle."""
        b, s, root = self.law.b, self.law.slope, 2 * h.sqrt()
        first, second = root * (s * c + b), 2 * c * (s * (c - 2 * h) + b)
        score, score1 = (h, root * c) if self.law.tilted else (-c.log(), root)
        return first, second, score, score1, 2 * c.sqrt()

    # half of the mass lies on the other side of the pole
    phi = 2 / math.sqrt(2 * math.pi)

    @staticmethod
    def speed(h: Tensor, c: Tensor) -> Tensor:
        """The derivative of h."""
        return 2 * h.sqrt() * c


def _quarter(h: Tensor, c: Tensor) -> Tensor:
    """From h and 1 - h to w = tan(theta / 4)."""
    return h.clamp(min=0).sqrt() / (1 + c.clamp(min=0).sqrt())


@cache
def _rule(count: int) -> np.ndarray:
    x, weight = np.polynomial.legendre.leggauss(count)
    return np.stack([(x + 1) / 2, weight / 2])


def _legendre(
    count: int, device: torch.device, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Gauss's rule on (0, 1)."""
    x, weight = torch.tensor(_rule(count), device=device, dtype=dtype)
    return x, weight


def _read(table: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The draws of one law, and their derivative, from the table of its quantiles."""
    at = (z + _EDGE) * ((_KNOTS - 1) / (2 * _EDGE)) - 1
    cell = at.clamp(0, _KNOTS - 4).floor_()
    x = at.sub_(cell).clamp_(-1, 2)
    rows = table.index_select(0, cell.long()).T.contiguous()
    u, v = (
        (c3 * x).add_(c2).mul_(x).add_(c1).mul_(x).add_(c0)
        for c0, c1, c2, c3 in (rows[:4], rows[4:])
    )
    h = torch.sigmoid(u)
    return h, v.mul_(h).mul_(1 - h)


def _in_blocks(
    f: Callable[..., tuple[Tensor, Tensor]], size: int, *given: Tensor
) -> tuple[Tensor, Tensor]:
    """Two results of f, made in blocks of the last dimension; one of length 1 is for all."""
    count = given[0].shape[-1]
    # without a cache to fit into, a block is everything
    if count <= size or given[0].device.type != "cpu":
        return f(*given)
    made = [
        f(*(t if t.shape[-1] == 1 else t[..., i : i + size] for t in given))
        for i in range(0, count, size)
    ]
    first, second = (torch.cat(parts, -1) for parts in zip(*made, strict=True))
    return first, second
