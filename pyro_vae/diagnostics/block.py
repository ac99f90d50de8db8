"""What the engine hands out: the log weights of a block of data, and their parts."""

from __future__ import annotations

__all__ = ["LogWeights"]

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from pyro_vae.pareto import PSIS, psis

_ROUNDINGS = 16  # of the largest part, that go into a log weight


@dataclass
class LogWeights:
    """The log weights of S draws for each of a block of B data, and their parts, in float64.

    Arguments:
        start: The number of the block's first datum.
        log_likelihood: log p(x_n | z_sn), summed over observed sites, of shape (S, B).
        log_prior: By latent site of the model, log p(z_sn), (S, B).
        log_q: By site of the guide, log q(z_sn | x_n), (S, B).
        draws: By site of the guide, the draws, of shape (S, *shape of a draw of the block); empty
            unless asked for.
        kl: By latent site, KL(q || p) by datum, (B,), where it is exact; empty unless asked for.
        eps: The relative precision in which the programs compute.
        edge: By site of the guide, the share of draws of which a number lies where floats end (see
            `kl.at_edge`), (B,), of the first few draws; without sites that are masked.
    """

    start: int
    log_likelihood: Tensor
    log_prior: dict[str, Tensor]
    log_q: dict[str, Tensor]
    draws: dict[str, Tensor] = field(default_factory=dict)
    kl: dict[str, Tensor] = field(default_factory=dict)
    eps: float = torch.finfo(torch.float64).eps
    edge: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """S, exactly as asked for."""
        return self.log_likelihood.shape[0]

    @property
    def size(self) -> int:
        """B, the number of data."""
        return self.log_likelihood.shape[1]

    @cached_property
    def log_weight(self) -> Tensor:
        """Log p(x, z) - log q(z | x), of shape (S, B)."""
        joint = self.log_likelihood + sum(self.log_prior.values())
        return joint - sum(self.log_q.values())

    @cached_property
    def rounding(self) -> Tensor:
        """By how much log weights may differ for no other reason than rounding, (B,)."""
        parts = [self.log_likelihood, *self.log_prior.values(), *self.log_q.values()]
        size = torch.stack([part.abs().amax(0) for part in parts]).sum(0)
        return _ROUNDINGS * self.eps * size

    @cached_property
    def psis(self) -> PSIS:
        """Smoothed weights, k-hat, status and the log mean of the smoothed weights.

        Weights that differ by rounding alone, as those of an exact guide do, are constant.
        """
        log_weight = self.log_weight
        low, high = log_weight.aminmax(dim=0)
        return psis(torch.where(high - low <= self.rounding, high, log_weight))

    def relative(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Log weights less their largest by datum, (S, B), in few bytes, and the largest, (B,).

        The largest is taken off before the cast: in float32, log weights of -1e4 nats are
        rounded to 1e-3, which moves k-hat by hundredths.
        """
        log_weight = self.log_weight
        peak = log_weight.max(0).values
        return (log_weight - peak).to(dtype), peak
