"""The von Mises distribution, with draws that are reparameterised in both parameters.

A draw is the inverse of the distribution function at a uniform number. By symmetry it is enough
to find the distance a of a draw from the mean, in [0, pi], from its tail probability

    S(a) = exp(k (cos a - 1)) M(a) / (pi e^-k I_0(k)),   M(a) = int_a^pi exp(k (cos t - cos a)) dt.

M falls from a to pi by no more than a Gaussian does, so that one Gauss-Legendre rule gives it to
rounding for every concentration k, in the far tail too. The trapezoidal rule on a few cells finds
the place roughly; then three steps on log S, whose slope is -1 / M, find it to rounding. A step
takes M to be linear, with M' = k sin(a) M - 1, so that it is right both where S falls as an
exponential and where it ends at pi. The number of steps is fixed, and nothing depends on values.
The derivative is that of an implicit function, with A = I_1 / I_0,

    da/dk = -(dF/dk) / f = int_a^pi exp(k (cos t - cos a)) (cos t - A) dt,

and that in the mean is 1. All of it is done in float64.
"""

from __future__ import annotations

__all__ = ["VonMises"]

import math
from typing import Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions.utils import broadcast_all

from pyro_vae.distributions.circular import circle, wrapped

# errors of 1e-13 in a and 1e-11 in its slope, in units of their spread, for k = 1e-6 ... 2e6
_NODES, _WEIGHTS = (tuple(v.tolist()) for v in np.polynomial.legendre.leggauss(24))
_STEPS = 3
# short of pi, where the tail is 0
_END = math.pi - 1e-15
# standard deviations beyond which nothing is left of a Gaussian in double precision
_REACH = 11.0
_CELLS = 16
_BLOCK = 4096


class VonMises(TorchDistribution):
    r"""Angles about a mean: log p(x) = k cos(x - loc) - log(2 pi I_0(k)), -pi <= x < pi.

    Unlike torch's, it can be differentiated through its draws (`rsample`), and lives on the
    circle, not on the real line. Draws are exact for concentrations of 1e-6 to 1e6.

    The derivative of a draw is its motion on the circle, across the cut at pi as elsewhere, and
    so serves periodic functions of it; see `pyro_vae.distributions.circular`.

    Arguments:
        loc: The mean direction, any angle, with shape `batch_shape` (broadcast).
        concentration: k, positive.

    Raises:
        ValueError: If validation is on and `concentration` is not positive.

    References:
        Directional statistics (K. V. Mardia, P. E. Jupp, 2000)
        Implicit reparameterization gradients (M. Figurnov, S. Mohamed, A. Mnih, 2018)

    Example:
        >>> x = VonMises(3.0, torch.tensor(4.0)).rsample((1000,))
        >>> bool((x.abs() <= torch.pi).all()), round(torch.cos(x - 3.0).mean().item(), 1)
        (True, 0.9)
    """

    arg_constraints: Any = {"loc": constraints.real, "concentration": constraints.positive}
    support: Any = circle
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        concentration: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.concentration = broadcast_all(loc, concentration)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: VonMises | None = None) -> VonMises:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(VonMises, _instance)
        new.loc = self.loc.expand(batch_shape)
        new.concentration = self.concentration.expand(batch_shape)
        super(VonMises, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, with shape `sample_shape + batch_shape`."""
        shape = self._extended_shape(sample_shape)
        u = 2 * torch.rand(shape, dtype=torch.float64, device=self.loc.device) - 1
        tail = (1 - u.abs()).clamp(min=1e-16)
        k = self.concentration.double().expand(shape)
        distance: Any = _Distance.apply(tail, k)
        return wrapped(self.loc.double() + distance[0].copysign(u), self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        k = self.concentration.double()
        # k (cos d - 1) without cancellation
        drop = 2 * k * ((value.double() - self.loc.double()) / 2).sin().square()
        log_p = -drop - math.log(2 * math.pi) - torch.special.i0e(k).log()
        return log_p.to(torch.promote_types(value.dtype, self.loc.dtype))

    @property
    def mean(self) -> Tensor:
        """The mean direction, an angle."""
        return wrapped(self.loc)

    @property
    def variance(self) -> Tensor:
        """The circular variance, 1 - E cos(x - loc) = 1 - I_1(k) / I_0(k)."""
        k = self.concentration.double()
        return (1 - torch.special.i1e(k) / torch.special.i0e(k)).to(self.loc.dtype)


class _Distance(torch.autograd.Function):
    """The distance from the mean that is exceeded with probability `tail`, and its slope in k."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tail: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        # blocks that stay in the cache of one core; without one, a block is everything
        size = _BLOCK if tail.device.type == "cpu" else max(tail.numel(), 1)
        blocks = zip(tail.reshape(-1).split(size), k.reshape(-1).split(size), strict=True)
        a, slope = zip(*(_solved(*block) for block in blocks), strict=True)
        return torch.cat(a).reshape(tail.shape), torch.cat(slope).reshape(tail.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[None, Tensor]:
        return None, grad * ctx.saved_tensors[0]


def _solved(tail: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of that tail probability, and its derivative in k."""
    log_tail = tail.log()
    log_whole = torch.special.i0e(k).log() + math.log(math.pi)
    rest = 1 - torch.special.i1e(k) / torch.special.i0e(k)
    a, slope = _start(tail, k), torch.zeros_like(k)
    for _ in range(_STEPS):
        mills, slope = _integrals(a, k, rest)
        excess = mills.log() - 2 * k * (a / 2).sin().square() - log_whole - log_tail
        bend = (k * a.sin() * mills - 1) * excess
        step = excess * mills * _expm1_ratio(bend)
        a = (a + step).clamp(0, _END)
    return a, slope


def _start(tail: Tensor, k: Tensor) -> Tensor:
    """The answer by the trapezoidal rule on a few cells, between which S is taken to be linear."""
    cells = torch.arange(_CELLS + 1, dtype=k.dtype, device=k.device).reshape(-1, *(1,) * k.dim())
    width = torch.minimum(_REACH * k.rsqrt(), torch.full_like(k, math.pi)) / _CELLS
    density = (-2 * k * (cells * width / 2).sin().square()).exp()
    mass = (density[1:] + density[:-1]).flip(0).cumsum(0).flip(0)
    survival = mass / mass[0]
    beyond = torch.cat([survival[1:], torch.zeros_like(survival[:1])])
    cell = (survival > tail).sum(0, keepdim=True).clamp(min=1) - 1
    high, low = survival.gather(0, cell)[0], beyond.gather(0, cell)[0]
    return ((cell[0] + (high - tail) / (high - low)) * width).clamp(0, _END)


def _expm1_ratio(x: Tensor) -> Tensor:
    """(e^x - 1) / x."""
    small = x.abs() < 1e-8
    safe = torch.where(small, 1.0, x.clamp(-700, 3))
    return torch.where(small, 1.0, torch.expm1(safe) / safe)


def _integrals(a: Tensor, k: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """The integrals over t from a to pi of g and of g (cos t - A), g = exp(k (cos t - cos a))."""
    half = torch.minimum(math.pi - a, _REACH * k.rsqrt()) / 2
    nodes, weights = (
        torch.tensor(v, dtype=a.dtype, device=a.device).reshape(-1, *(1,) * a.dim())
        for v in (_NODES, _WEIGHTS)
    )
    # the middle between a and the node t, and half the way from one to the other
    step = half * (1 + nodes) / 2
    fall = 2 * step.sin() * (step + a).sin()
    g = weights * (-k * fall).exp() * half
    # cos t - A = (1 - A) - (1 - cos a) - (cos a - cos t)
    height = rest - 2 * (a / 2).sin().square()
    return g.sum(0), (g * (height - fall)).sum(0)
