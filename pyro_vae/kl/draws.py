"""Kinds of draws: independent ones, antithetic pairs, and replicates of a quasi-random net.

All of them are exact draws from q, one by one; what differs is how the draws of one *group* lean
on each other, so that the error of their mean is smaller than that of as many independent draws.
Different groups are independent, and the standard error of a mean over S draws is that of the
means of its G groups,

    std_error = std(mean of group 1, ..., mean of group G) / sqrt(G).

* `random`: each draw is a group.
* `antithetic`: groups of two, made of the noise u and 1 - u (a Normal z and -z). Whatever is odd
  in the noise cancels, whatever is even is drawn half as often. For Normals, log q - log p gains
  iff mu^2 sigma^2 > (sigma^2 - 1)^2 / 2 (p standard).
* `quasi`: eight groups, each a Sobol net of its own, scrambled (a random linear map of its digits
  and, by batch element, a random digital shift; below 2^-30 the digits are random). The error of
  smooth integrands falls nearly like 1 / S; the standard error has 7 degrees of freedom.

Sources: On the distribution of points in a cube and the approximate evaluation of integrals
(I. M. Sobol, 1967); Randomly permuted (t,m,s)-nets and (t,s)-sequences (A. B. Owen, 1995).
"""

from __future__ import annotations

__all__ = ["REPLICATES", "NoEstimate", "Noise", "draws", "net"]

import math
from typing import ClassVar

import torch
import torch.distributions as td
from torch import Tensor
from torch.quasirandom import SobolEngine

from pyro_vae.registry import Registry

REPLICATES = 8
"""The number of independent scramblings of a quasi-random net."""

# the numbers nearest to 0 and 1 whose complements are neither
_LEAST = 2.0**-53


class NoEstimate(NotImplementedError):
    """This estimator, or this kind of draws, is not to be had for this guide."""


class Noise:
    """A source of standard noise, from which a recipe makes draws of a distribution.

    Arguments:
        count: The number of draws, a multiple of the size of a group.
        group: The number of draws in a group.
        batch: The batch shape; dimensions beyond it belong to one event.
        device: Where the noise is wanted.
        of: The name of the distribution, for messages.
    """

    name: ClassVar[str] = ""

    def __init__(
        self, count: int, group: int, batch: torch.Size, device: torch.device, of: str
    ) -> None:
        self.count, self.group, self.batch, self.device, self.of = count, group, batch, device, of

    @classmethod
    def group_size(cls, num_samples: int) -> int:
        """Return the number of draws in a group; ValueError if there are not two groups."""
        raise NotImplementedError

    def uniform(self, shape: torch.Size) -> Tensor:
        """Return numbers in the open interval (0, 1), of shape (count, *shape), in float64.

        A recipe asks for noise of one kind once only, for the dimensions of a net belong together.
        """
        raise NotImplementedError

    def normal(self, shape: torch.Size) -> Tensor:
        """Return standard Normal numbers, of shape (count, *shape), in float64."""
        return torch.special.ndtri(self.uniform(shape))

    def log_gamma(self, concentration: Tensor, *, scales: bool = False) -> Tensor:
        """Return logarithms of Gamma(concentration, 1) draws, of shape (count, *its shape).

        Arguments:
            concentration: In float64.
            scales: Whether they are but the scales of something symmetric.
        """
        raise self.missing(["random", "antithetic"] if scales else ["random"])

    def missing(self, others: list[str]) -> NoEstimate:
        """Return the error that names the kinds of draws that there are."""
        known = " or ".join(f"draws={name!r}" for name in others)
        return NoEstimate(
            f"{self.of} has no {self.name} draws: they need an inverse of its distribution "
            f"function, or a symmetric base that is shifted and scaled. Take {known}."
        )


draws: Registry[type[Noise]] = Registry("kind of draws")
"""The kinds of draws by name; a further one is a subclass of `Noise` with `@draws.register`."""


@draws.register
class Random(Noise):
    """Independent draws."""

    name = "random"

    @classmethod
    def group_size(cls, num_samples: int) -> int:
        """Return 1."""
        return 1

    def uniform(self, shape: torch.Size) -> Tensor:
        """Return torch's uniform numbers."""
        u = torch.rand((self.count, *shape), dtype=torch.float64, device=self.device)
        return u.clamp(_LEAST, 1 - _LEAST)

    def normal(self, shape: torch.Size) -> Tensor:
        """Return torch's Normal numbers."""
        return torch.randn((self.count, *shape), dtype=torch.float64, device=self.device)

    def log_gamma(self, concentration: Tensor, *, scales: bool = False) -> Tensor:
        """Return log g, which for a < 1 is log g' + log(u) / a, g' ~ Gamma(a + 1).

        torch's draws of small concentration would be clipped at the smallest number.
        """
        return _log_gamma(concentration, self.count)


@draws.register
class Antithetic(Noise):
    """Pairs of opposite draws."""

    name = "antithetic"

    @classmethod
    def group_size(cls, num_samples: int) -> int:
        """Return 2."""
        if num_samples % 2 or num_samples < 4:
            raise ValueError(
                f"num_samples={num_samples}: antithetic draws come in pairs; take an even number "
                "of at least 4."
            )
        return 2

    def uniform(self, shape: torch.Size) -> Tensor:
        """Return u and 1 - u in turn."""
        u = torch.rand((self.count // 2, *shape), dtype=torch.float64, device=self.device)
        u = u.clamp(_LEAST, 1 - _LEAST)
        return torch.stack([u, 1 - u], 1).flatten(0, 1)

    def normal(self, shape: torch.Size) -> Tensor:
        """Return z and -z in turn."""
        z = torch.randn((self.count // 2, *shape), dtype=torch.float64, device=self.device)
        return torch.stack([z, -z], 1).flatten(0, 1)

    def log_gamma(self, concentration: Tensor, *, scales: bool = False) -> Tensor:
        """Return one and the same scale for both of a pair; there is nothing else to be had."""
        if not scales:
            raise self.missing(["random"])
        return _log_gamma(concentration, self.count // 2).repeat_interleave(2, 0)


@draws.register
class Quasi(Noise):
    """Replicates of a scrambled Sobol net."""

    name = "quasi"

    @classmethod
    def group_size(cls, num_samples: int) -> int:
        """Return an eighth of all draws."""
        if num_samples % REPLICATES or not num_samples:
            raise ValueError(
                f"num_samples={num_samples}: quasi-random draws come in {REPLICATES} replicates "
                f"of equal size; take a multiple of {REPLICATES}, best a power of 2."
            )
        return num_samples // REPLICATES

    def uniform(self, shape: torch.Size) -> Tensor:
        """Return the points of nets, one to a group, shifted anew in each batch element."""
        dims, replicates = math.prod(shape[len(self.batch) :]), self.count // self.group
        if dims > SobolEngine.MAXDIM:
            raise NoEstimate(
                f"{self.of} has {dims} numbers in an event, and a Sobol net has at most "
                f"{SobolEngine.MAXDIM} dimensions. Take draws='random' or draws='antithetic'."
            )
        # all that follows is a function of one number of torch's random state
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), device="cpu")))
        bits = 2**SobolEngine.MAXBIT
        nets = torch.stack([net(dims, self.group, generator) for _ in range(replicates)])
        nets = nets.reshape(replicates, self.group, *(1,) * len(self.batch), dims)
        shape_of = (replicates, self.group, *self.batch, dims)
        shift = torch.randint(bits, (replicates, 1, *shape_of[2:]), generator=generator)
        rest = torch.rand(shape_of, generator=generator, dtype=torch.float64)
        u = ((nets ^ shift) + rest) / bits
        return u.reshape(self.count, *shape).clamp(_LEAST, 1 - _LEAST).to(self.device)


def net(dims: int, size: int, generator: torch.Generator) -> Tensor:
    """Return the points of a scrambled Sobol net as integers below 2^30, of shape (size, dims).

    Arguments:
        dims: The number of dimensions.
        size: The number of points.
        generator: What the scrambling is drawn from.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    engine = SobolEngine(dims, scramble=True, seed=seed)
    return (engine.draw(size, dtype=torch.float64) * 2**SobolEngine.MAXBIT).round().long()


def _log_gamma(concentration: Tensor, count: int) -> Tensor:
    a = concentration.expand(count, *concentration.shape)
    small = a < 1
    boosted = torch.where(small, a + 1, a)
    g = td.Gamma(boosted, torch.ones_like(boosted), validate_args=False).rsample()
    u = torch.rand_like(a).clamp(min=_LEAST)
    return g.log() + torch.where(small, u.log() / a, 0.0)
