r"""Laws on the sphere that are symmetric about an axis: one place for their draws and moments.

A draw is x = t mu + sqrt(1 - t^2) v, with t = mu . x from the family's own marginal and v uniform
among the unit vectors at right angles to the axis mu. v is a Gaussian vector without its part
along mu, normalised; nothing is reflected, so no direction of mu is special.

The gradient follows the motion of x when mu turns to mu + d mu by the smallest rotation, and t
with its parameter:

    dx = t d mu - (x . d mu) mu + (mu - t / sqrt(1 - t^2) v) dt.

Since the law turns with mu, that motion carries it along, and gradients are unbiased; that with
respect to mu is at right angles to mu. Draws have a first derivative only.
"""

from __future__ import annotations

__all__ = ["Axial", "log_area"]

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyro_vae.distributions.heights import Heights


def log_area(dim: int) -> float:
    """The logarithm of the area of the unit sphere in R^dim, 2 pi^(dim / 2) / Gamma(dim / 2).

    Example:
        >>> round(log_area(2) - math.log(2 * math.pi), 12)
        0.0
    """
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


class Axial(TorchDistribution):
    """A law about an axis, of one concentration: what von Mises-Fisher and power spherical share.

    Arguments:
        loc: The axis mu, unit vectors of shape `(*batch_shape, m)` with m >= 2.
        concentration: Not negative, of shape `batch_shape` (broadcast with `loc`); 0 is uniform.

    Raises:
        ValueError: If the shapes do not broadcast or m < 2, and, if validation is on, if `loc` is
            not of unit length or `concentration` is negative.
    """

    arg_constraints: Any = {"loc": constraints.sphere, "concentration": constraints.nonnegative}
    support: Any = constraints.sphere
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        concentration: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        name = type(self).__name__
        if loc.dim() < 1 or loc.shape[-1] < 2:
            raise ValueError(
                f"{name} needs a loc of shape (*batch, m) with m >= 2, not {tuple(loc.shape)}."
            )
        concentration = torch.as_tensor(concentration, dtype=loc.dtype, device=loc.device)
        try:
            batch = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        except RuntimeError:
            raise ValueError(
                f"{name}: a loc of shape {tuple(loc.shape)} has batch shape "
                f"{tuple(loc.shape[:-1])}, which does not broadcast with a concentration of shape "
                f"{tuple(concentration.shape)}; the concentration has no dimension for m."
            ) from None
        self._shared = concentration if concentration.numel() == 1 else None
        self.loc = loc.expand(*batch, loc.shape[-1])
        self.concentration = concentration.expand(batch)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Axial | None = None) -> Any:
        """Return the same distribution over a larger batch shape."""
        new: Any = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        new.concentration, new._shared = self.concentration.expand(batch_shape), self._shared
        super(Axial, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    # ------------------------------------------------------------------ the family's own
    def heights(self, concentration: Tensor | None = None) -> Heights:
        """The law of h = (1 - mu . x) / 2, in float64.

        Arguments:
            concentration: Another than its own, of any shape.
        """
        raise NotImplementedError

    # dh / dconcentration, in units of the derivative that `heights` gives
    _rate: float = 1.0

    # ------------------------------------------------------------------ moments
    def cosine_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of mu . x, in float64, of shape `batch_shape`."""
        rule = self.heights().rule()
        mean = rule.mean(rule.h)
        # h is small where the law is narrow: neither moment cancels
        return 1 - 2 * mean, 4 * rule.mean((rule.h - mean).square())

    @property
    def mean(self) -> Tensor:
        """E x = E[mu . x] mu, of shape `batch_shape + (m,)`."""
        return (self.cosine_moments()[0].unsqueeze(-1) * self.loc.double()).to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, of shape `batch_shape + (m,)`."""
        rule, square = self.heights().rule(), self.loc.double().square()
        across = 4 * rule.mean(rule.h * rule.rest) / (self.event_shape[0] - 1)
        along = self.cosine_moments()[1].unsqueeze(-1)
        return (along * square + across.unsqueeze(-1) * (1 - square)).to(self.loc.dtype)

    # ------------------------------------------------------------------ draws
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterised draws, of shape `sample_shape + batch_shape + (m,)`."""
        shape = self._extended_shape(sample_shape)
        z = torch.randn(shape[:-1], dtype=self.loc.dtype, device=self.loc.device).double()
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        k = self.concentration.detach() if self._shared is None else self._shared.detach()
        law = self.heights(k if self._shared is None else k.reshape(()))
        h, slope = law.draw(z, self.loc.dtype)
        slope = self._rate * slope
        if self.batch_shape.numel() == 1:
            # one law: its gradient is summed on the way, by products of matrices
            loc, k = self.loc.reshape(-1), self.concentration.reshape(())
            flat = (h.reshape(-1), slope.reshape(-1), noise.reshape(-1, shape[-1]))
            drawn = _Draw.apply(loc, k, *flat)
        else:
            k = self.concentration.expand(shape[:-1])
            drawn = _Draw.apply(self.loc.expand(shape), k, h, slope, noise)
        assert isinstance(drawn, Tensor)
        return drawn.reshape(shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return the same draws without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)


class _Draw(torch.autograd.Function):
    """From an axis, a height and noise to a point; the axis may be one vector for all."""

    @staticmethod
    def forward(
        loc: Tensor, concentration: Tensor, h: Tensor, slope: Tensor, noise: Tensor
    ) -> Tensor:
        """The point at the height h."""
        if loc.shape[-1] == 2:
            sign = torch.where(noise[..., :1] < 0, -1.0, 1.0).to(loc.dtype)
            across = torch.stack([-loc[..., 1], loc[..., 0]], -1) * sign
        else:
            across = _without(noise, loc)
        if 2 < loc.shape[-1] < 5:
            # noise that is nearly along the axis has left few digits
            across = _without(across, loc)
        length = torch.linalg.vector_norm(across, dim=-1)
        radius = 2 * (h * (1 - h)).sqrt().to(loc.dtype) / length
        cosine = (1 - 2 * h).to(loc.dtype)
        return across.mul_(radius.unsqueeze(-1)).addcmul_(cosine.unsqueeze(-1), loc)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the gradient needs."""
        loc, concentration, h, slope, _ = inputs
        ctx.save_for_backward(loc, h, slope, output)
        ctx.dtype = concentration.dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the smallest rotation, and of the height."""
        [grad] = grads
        loc, h, slope, x = ctx.saved_tensors
        along, on_x, one = _dot(grad, loc), torch.linalg.vecdot(grad, x), loc.dim() == 1
        of_loc = of_concentration = None
        t = 1 - 2 * h
        if ctx.needs_input_grad[0]:
            cosine = t.to(loc.dtype)
            if one:
                of_loc = cosine @ grad - along @ x
            else:
                of_loc = grad * cosine.unsqueeze(-1)
                of_loc = of_loc.addcmul_(along.unsqueeze(-1), x, value=-1)
        if ctx.needs_input_grad[1]:
            along, on_x = along.double(), on_x.double()
            spread = (2 * h * (1 - h)).clamp(min=1e-300)
            of_h = t * (on_x - t * along) / spread - 2 * along
            of_k = of_h * slope
            of_concentration = (of_k.sum() if one else of_k).to(ctx.dtype)
        return of_loc, of_concentration, None, None, None


def _dot(x: Tensor, axis: Tensor) -> Tensor:
    """The products with vectors, or with one vector for all, which is faster."""
    return x @ axis if axis.dim() == 1 else torch.linalg.vecdot(x, axis)


def _without(x: Tensor, axis: Tensor) -> Tensor:
    """What of x is at right angles to a unit vector."""
    return torch.addcmul(x, _dot(x, axis).unsqueeze(-1), axis, value=-1)
