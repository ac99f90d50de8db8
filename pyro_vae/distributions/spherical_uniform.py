"""The uniform distribution on the sphere."""

from __future__ import annotations

__all__ = ["SphericalUniform"]

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae.distributions.axial import log_area


class SphericalUniform(TorchDistribution):
    """The uniform distribution on the unit sphere of R^m: log p(x) = -log area.

    The area of the sphere is 2 pi^(m / 2) / Gamma(m / 2).

    Arguments:
        dim: The ambient dimension m, at least 2.
        batch_shape: The batch shape; a shape, since there is no parameter to give it.
        like: A tensor whose dtype and device draws are to have; the default dtype on the CPU
            without one.

    Raises:
        ValueError: If `dim` is less than 2.

    Example:
        >>> d = SphericalUniform(3, (2,))
        >>> d.rsample((5,)).shape, d.log_prob(torch.eye(3)[0])  # -log(4 pi)
        (torch.Size([5, 2, 3]), tensor([-2.5310, -2.5310]))
    """

    arg_constraints: Any = {}
    support: Any = constraints.sphere
    has_rsample = True

    def __init__(
        self,
        dim: int,
        batch_shape: Any = (),
        like: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if dim < 2:
            raise ValueError(f"SphericalUniform needs dim >= 2, not {dim}.")
        # a number per element that carries dtype and device, as parameters do elsewhere
        self.level = (torch.zeros(()) if like is None else like.new_zeros(())).expand(batch_shape)
        super().__init__(torch.Size(batch_shape), torch.Size([dim]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: SphericalUniform | None = None) -> Any:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(SphericalUniform, _instance)
        batch_shape = torch.Size(batch_shape)
        new.level = self.level.expand(batch_shape)
        super(SphericalUniform, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The origin, of shape `batch_shape + (m,)`."""
        return self.level.unsqueeze(-1).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """1 / m for each coordinate, of shape `batch_shape + (m,)`."""
        return self.mean + 1 / self.event_shape[0]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, of shape `sample_shape + batch_shape + (m,)`."""
        shape = self._extended_shape(sample_shape)
        x = torch.randn(shape, dtype=self.level.dtype, device=self.level.device)
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, with shape `sample_shape + batch_shape`."""
        if self._validate_args:
            self._validate_sample(value)
        return self.level - log_area(self.event_shape[0]) + 0 * value[..., 0]

    def entropy(self) -> Tensor:
        """Return the log area in nats, of shape `batch_shape`."""
        return self.level + log_area(self.event_shape[0])
