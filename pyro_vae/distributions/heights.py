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
density is analytic at both poles for every m. All of this is computed in float64.

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
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# how far the panels reach, in units of r: beyond it lies 1e-11 of the mass
_REACH = 6.8
# draws in a block that stays in the cache of one core, with and without nodes
_BLOCK, _WIDE = 1024, 16384


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
    def draw(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return h with F(h) = Phi(z), and dh / dparameter at fixed z.

        Arguments:
            z: Standard normal numbers in float64, of a shape to which the parameter broadcasts.

        Returns:
            Two tensors of the shape of z, without gradient.
        """
        with torch.no_grad():
            if self.dim == 3:
                return self._three(z)
            flat = z.reshape(-1)
            shared = self.parameter.numel() == 1
            wide = self.parameter.reshape(1) if shared else self.parameter.expand(z.shape)
            wide = wide.reshape(-1)
            # without a cache to fit into, a block is everything
            size = _WIDE if z.device.type == "cpu" else max(len(flat), 1)
            made = [
                self._like(wide if shared else wide[i : i + size])._solve(flat[i : i + size])
                for i in range(0, len(flat), size)
            ]
            if not made:
                return torch.empty_like(z), torch.empty_like(z)
            h, slope = (torch.cat(parts).reshape(z.shape) for parts in zip(*made, strict=True))
            return h, slope

    def _like(self, parameter: Tensor) -> Heights:
        return Heights(self.dim, **{"slope" if self.tilted else "power": parameter})

    def _three(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Dimension 3, where F is elementary: a truncated exponential, or a power."""
        if not self.tilted:
            log_rest = torch.special.log_ndtr(-z) / self.b
            return -torch.expm1(log_rest), log_rest * log_rest.exp() / self.b
        s = self.slope
        u, rest = (torch.special.erfc(x / math.sqrt(2)) / 2 for x in (-z, z))
        # on the right u rounds to 1
        far = -(rest + u * (-s).exp()).log()
        h = torch.where((z > 0) & (s > 1), far, -torch.log1p(u * torch.expm1(-s))) / s
        # (u exp(s (h - 1)) - h) / s, without its cancellation for small s
        bent = -u * rest / 2
        return h, torch.where(s < 1e-5, bent, (u * torch.exp(s * (h - 1)) - h) / s)

    def _solve(self, z: Tensor) -> tuple[Tensor, Tensor]:
        chart = _Circle(self) if self.dim == 2 else _Sphere(self)
        u, low, high = chart.place(z)
        h, c = chart.point(u)
        left, right, left_score, right_score = self._panels(h, c, low, high)
        total = left + right
        z0 = chart.normal(left, right)
        goal = z.abs() if self.dim == 2 else z
        # Phi(z) = F(u): u' = phi / p, u'' / u' = -z - g' u', and so on
        gap = (goal - z0).clamp(-0.5, 0.5)
        g1, g2 = chart.derivatives(h, c)
        width = chart.width(h, c)
        d1 = torch.exp(-0.5 * z0 * z0) * total / (math.sqrt(2 * math.pi) * width)
        bend = -z0 - g1 * d1
        d3 = bend * bend - 1 - g2 * d1 * d1 - g1 * d1 * bend
        step = d1 * gap * (1 + gap / 2 * (bend + gap / 3 * d3))
        # v = -(dF/dk) / p obeys v' = -(S - E S) - g' v
        mean = (left_score + right_score) / total
        v = (left * right_score - right * left_score) / (total * chart.angle(h, c))
        v1 = mean - g1 * v
        v2 = -chart.score_slope(h, c) - g2 * v - g1 * v1
        v = v + step * (v1 + step / 2 * v2)
        h, c = chart.point(u + step)
        return h, v * chart.speed(h, c)

    def _panels(self, h: Tensor, c: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, ...]:
        """The masses on both sides of h and the integrals of the score, relative to p(theta)."""
        centre = _quarter(h, c)
        low = torch.minimum(low, 0.99 * centre)
        high = torch.maximum(high, torch.minimum(1.01 * centre, 0.5 + 0.5 * centre))
        length = torch.stack([low - centre, high - centre], -1)
        size = _BLOCK if h.device.type == "cpu" else max(len(h), 1)
        shared = self.parameter.numel() == 1
        made = []
        for i in range(0, len(h), size):
            law = self if shared else self._like(self.parameter[i : i + size])
            made.append(law._panel(centre[i : i + size], length[i : i + size]))
        first, second = (torch.cat(parts) for parts in zip(*made, strict=True))
        # w = tan(theta / 4), d theta = 4 dw / (1 + w^2)
        length = 4 * length.abs()
        return *(first * length).unbind(-1), *(second * length).unbind(-1)

    def _panel(self, centre: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Two Gauss sums for each row and side, without the length of the panel."""
        x, weight = _legendre(14 if self.dim < 16 else 12, centre.device)
        log0, _, score0 = self._log_density(centre.clone())
        w = (length.unsqueeze(-1) * x).add_(centre[:, None, None])
        log, d, score = self._log_density(w)
        mass = log.sub_(log0[:, None, None]).exp_().mul_(d)
        first = mass @ weight
        return first, mass.mul_(score) @ weight - first * score0.unsqueeze(-1)

    def _log_density(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log p(theta), 1 / (1 + w^2), and the score; overwrites w."""
        more = (None,) * (w.dim() - 1)
        q = w * w
        d = (q + 1).reciprocal_()
        d2 = d * d
        if self.tilted:
            score = q * d2  # h / 4
            # sin(theta) / 4 = w (1 - q) / (1 + q)^2
            sine = w.mul_(d2)
            sine.addcmul_(sine, q, value=-1)
            # log1p is faster than log, and as good where there is mass
            log = sine.sub_(1).log1p_().mul_(self.dim - 2) if self.dim > 2 else torch.zeros_like(q)
            log.addcmul_(score, self.slope[(..., *more)], value=-4)
            return log, d, score.mul_(-4)
        cosine = torch.addcmul(d, d, q, value=-1)  # cos(theta / 2)
        score = cosine.log().mul_(2)
        log = score * self.power[(..., *more)]
        if self.dim > 2:
            log.add_(w.mul_(d).mul_(cosine).log_(), alpha=self.dim - 2)
        return log, d, score

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
        return low.expand_as(self.parameter), high.expand_as(self.parameter)


# -------------------------------------------------------------------------------------- charts
class _Sphere:
    """The coordinate u = log(h / (1 - h)), for m > 2."""

    def __init__(self, law: Heights) -> None:
        self.law = law
        a, b, s = law.a, law.b, law.slope
        root = ((a - b - s).square() + 4 * a * b).sqrt()
        self.h = 2 * a / (a + b + s + root)
        c = 1 - self.h
        log_h, log_c = self.h.log(), torch.log1p(-self.h)
        spread = self.h * c
        tilt = s * (c - self.h)
        # minus the second and the third derivative of the log density at the peak
        self.scale = (spread * (a + b + tilt)).rsqrt()
        third = -spread * ((c - self.h) * (a + b + tilt) - 2 * s * spread)
        self.skew = third * self.scale**3
        self.peak = log_h - log_c
        self.top = a * log_h + b * log_c - s * self.h

    def place(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A start for the draws, and where the panels begin and end, in w."""
        if self.h.numel() < z.numel():
            return self.start(z), *self.ends()
        reach = torch.full_like(z, _REACH)
        u, *ends = self.start(torch.stack([z, -reach, reach]))
        low, high = (_quarter(*self.point(end)) for end in ends)
        return u, low, high

    def start(self, z: Tensor, steps: int | None = None) -> Tensor:
        """Where r* = z, by Newton's rule."""
        a, b, s = self.law.a, self.law.b, self.law.slope
        limit = -self.skew / 3
        x = z - limit
        u = self.peak + self.scale * (x + self.skew / 6 * x * x).clamp(-6.0, 12.0)
        steps = (1 if self.law.dim >= 16 else 3) if steps is None else steps
        for _ in range(steps):
            h = torch.sigmoid(u)
            log_h = h.log()
            fall = (self.top + s * h - a * log_h - b * (log_h - u)).clamp(min=1e-30)
            slope = h * (a + b + s * (1 - h)) - a
            r = torch.copysign((2 * fall).sqrt(), u - self.peak)
            # q / r and its logarithm are 0 / 0 at the peak
            near = r.abs() < 0.02
            ratio = torch.where(near, 1.0, slope * self.scale / r)
            u = u + (z - r - torch.where(near, limit, ratio.log() / r)) * self.scale / ratio
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
    def normal(left: Tensor, right: Tensor) -> Tensor:
        """The normal score of the share that lies on the left."""
        z = torch.special.ndtri(torch.minimum(left, right) / (left + right))
        return torch.copysign(z, left - right)

    def derivatives(self, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The first two derivatives of the log density."""
        a, b, s = self.law.a, self.law.b, self.law.slope
        return a - h * (a + b + s * c), -h * c * (a + b + s * (c - h))

    @staticmethod
    def angle(h: Tensor, c: Tensor) -> Tensor:
        """The derivative of the angle."""
        return (h * c).sqrt()

    width = angle

    def score_slope(self, h: Tensor, c: Tensor) -> Tensor:
        """The derivative of the score, -h or log(1 - h)."""
        return -h * c if self.law.tilted else -h

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
    def normal(left: Tensor, right: Tensor) -> Tensor:
        """The normal score, half of the mass lying on the other side of the pole."""
        return -torch.special.ndtri(right / (2 * (left + right)))

    def derivatives(self, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The first two derivatives of the log density."""
        b, s = self.law.b, self.law.slope
        return -2 * h.sqrt() * (s * c + b), -2 * c * (s * (c - 2 * h) + b)

    @staticmethod
    def angle(h: Tensor, c: Tensor) -> Tensor:
        """The derivative of the angle."""
        return 2 * c.sqrt()

    @staticmethod
    def width(h: Tensor, c: Tensor) -> Tensor:
        """The same, per unit of the mass on both sides of the pole."""
        return c.sqrt()

    def score_slope(self, h: Tensor, c: Tensor) -> Tensor:
        """The derivative of the score, -h or log(1 - h)."""
        return -2 * h.sqrt() * (c if self.law.tilted else 1.0)

    @staticmethod
    def speed(h: Tensor, c: Tensor) -> Tensor:
        """The derivative of h."""
        return 2 * h.sqrt() * c


def _quarter(h: Tensor, c: Tensor) -> Tensor:
    """From h and 1 - h to w = tan(theta / 4)."""
    return h.sqrt() / (1 + c.sqrt())


@cache
def _rule(count: int) -> tuple[np.ndarray, np.ndarray]:
    x, weight = np.polynomial.legendre.leggauss(count)
    return (x + 1) / 2, weight / 2


def _legendre(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gauss's rule on (0, 1)."""
    x, weight = _rule(count)
    return torch.as_tensor(x, device=device), torch.as_tensor(weight, device=device)
