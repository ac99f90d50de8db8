r"""Heights of axially symmetric laws on the sphere: their quantiles, and integrals over them.

A point x on the unit sphere of R^m lies at the angle theta from an axis mu. Its *height below the
pole*, h = (1 - mu . x) / 2 = sin^2(theta / 2), has for the von Mises-Fisher and the power
spherical law a density of one kind,

    p(h) proportional to h^(a - 1) (1 - h)^(b - 1) exp(-s h),   a = (m - 1) / 2,  0 < h < 1.

Draws are quantiles, read from a table (`pyro_vae.distributions.quantiles`). Integrals are sums by
Gauss's rule over w = tan(theta / 4), in which the density is analytic at both poles for every m.
"""

from __future__ import annotations

__all__ = ["Heights", "Rule"]

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.distributions.quantiles import points

# normal scores beyond which lies less than 1e-15 of the mass
_REACH = 8.0


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
        h, c, rate = self._at(z, dtype)
        return h, (h * c).mul_(rate if self.tilted else 2 * rate)

    @torch.no_grad()
    def _at(self, z: Tensor | float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """At the normal score z h, 1 - h, and half the derivative of their log-odds by k."""
        k = self.parameter / 2 if self.tilted else self.parameter
        z = z if isinstance(z, Tensor) else torch.full_like(k, z)
        each = k.reshape(()) if k.numel() == 1 else k.expand(z.shape).reshape(-1)
        made = points(self.dim, self.tilted, z.reshape(-1), each, dtype)
        fall, _, ratio, rate = (t.double().reshape(z.shape) for t in made)
        h, c = fall / 2, ratio * fall / 2
        # the one that is less than 1/2 keeps its digits
        return torch.where(fall < 1, h, 1 - c), torch.where(fall < 1, 1 - h, c), rate

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
            low, high = (_quarter(*self._at(z)[:2]) for z in (-_REACH, _REACH))
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


def _quarter(h: Tensor, c: Tensor) -> Tensor:
    """From h and 1 - h to w = tan(theta / 4)."""
    return h.sqrt() / (1 + c.sqrt())


@cache
def _rule(count: int) -> np.ndarray:
    x, weight = np.polynomial.legendre.leggauss(count)
    return np.stack([(x + 1) / 2, weight / 2])


def _legendre(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gauss's rule on (0, 1)."""
    x, weight = torch.tensor(_rule(count), device=device, dtype=torch.float64)
    return x, weight
