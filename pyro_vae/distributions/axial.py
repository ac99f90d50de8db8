r"""Laws on the sphere that are symmetric about an axis: one place for their draws and moments.

A draw is x = t mu + sqrt(1 - t^2) v, with t = mu . x from the family's own marginal and v uniform
among the unit vectors at right angles to the axis mu. In many dimensions v is a Gaussian vector
without its part along mu, normalised. In few, that part may be nearly all of it; there v is the
image of a Gaussian vector g without its last coordinate under the reflection that takes the last
unit vector e to mu or -mu. With s the sign of mu_m,

    v = g - (g . mu) (mu + s e) / (1 + |mu_m|),

which loses no digit for any mu; for m = 3, g is drawn by its angle.

The gradient follows the motion of x when mu turns to mu + d mu by the smallest rotation, and t
with its parameter:

    dx = t d mu - (x . d mu) mu + (mu - t / sqrt(1 - t^2) v) dt.

Since the law turns with mu, that motion carries it along, and gradients are unbiased; that with
respect to mu is at right angles to mu. The last term is (mu - t x) dt / (1 - t^2), and
-dt / (1 - t^2) is half the change of the log-odds of h = (1 - t) / 2. Draws have a first
derivative only.
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
from pyro_vae.distributions.quantiles import draw

# dimensions from which a Gaussian vector is hardly ever nearly along the axis
_MANY = 16
# draws in a block that stays in the cache of one core
_BLOCK = 4096


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
        batch = concentration.shape
        try:
            if loc.shape[:-1] != batch:
                batch = torch.broadcast_shapes(loc.shape[:-1], batch)
        except RuntimeError:
            raise ValueError(
                f"{name}: a loc of shape {tuple(loc.shape)} has batch shape "
                f"{tuple(loc.shape[:-1])}, which does not broadcast with a concentration of shape "
                f"{tuple(concentration.shape)}; the concentration has no dimension for m."
            ) from None
        self._shared = concentration if concentration.numel() == 1 else None
        # what need not be expanded leaves no trace in the graph of gradients
        whole = loc.shape[:-1] == batch
        self.loc = loc if whole else loc.expand(*batch, loc.shape[-1])
        whole = concentration.shape == batch
        self.concentration = concentration if whole else concentration.expand(batch)
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

    # whether the law of h is exp(-2 k h) or (1 - h)^k times that of the uniform law
    _tilted: bool

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
        shape, dim = self._extended_shape(sample_shape), self.event_shape[0]
        batch = self.batch_shape.numel()
        # one law, one draw from each of many, or some of each
        one, count = batch == 1, shape[:-1].numel()
        rows = (count,) if one or count == batch else (count // max(batch, 1), batch)
        loc = _shaped(self.loc, (dim,) if one else (batch, dim))
        k = self.concentration if self._shared is None else self._shared
        k = _shaped(k, () if k.numel() == 1 else (batch,))
        if torch.compiler.is_compiling() or _transformed():
            with torch.no_grad():
                made = _drawn(self._tilted, loc.detach(), k.detach(), rows)
            x = _Given.apply(loc, k, *made)
        else:
            x = _Draw.apply(loc, k, self._tilted, rows)
        assert isinstance(x, Tensor)
        return _shaped(x, shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return the same draws without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)


def _shaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same in another shape, without a trace in the graph where it has that already."""
    return x if x.shape == shape else x.reshape(shape)


def _transformed() -> bool:
    """Say whether this runs in a transform of `torch.func`."""
    return torch._C._functorch.maybe_current_level() is not None  # type: ignore[attr-defined]


def _drawn(tilted: bool, loc: Tensor, k: Tensor, rows: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Points, and what their gradient needs: 1 - t, t, and half the change of the log-odds."""
    size = max(1, _BLOCK // math.prod(rows[1:]))
    if rows[0] <= size or loc.device.type != "cpu":
        return _block(tilted, loc, k, rows)
    x, made = loc.new_empty(*rows, loc.shape[-1]), []
    # parameters of rows are cut along with them
    of_loc, of_k = len(rows) == 1 < loc.dim(), len(rows) == 1 == k.dim()
    for i in range(0, rows[0], size):
        part = slice(i, min(i + size, rows[0]))
        few = (loc[part] if of_loc else loc, k[part] if of_k else k)
        x[part], *rest = _block(tilted, *few, (part.stop - i, *rows[1:]))
        made.append(rest)
    return x, *(torch.cat(parts) for parts in zip(*made, strict=True))


def _block(tilted: bool, loc: Tensor, k: Tensor, rows: tuple[int, ...]) -> tuple[Tensor, ...]:
    dim = loc.shape[-1]
    each = k.expand(rows).reshape(-1) if len(rows) > 1 == k.dim() else k
    made = draw(dim, tilted, each, math.prod(rows), loc.dtype)
    fall, cosine, ratio, rate = (_shaped(t, rows) for t in made)
    if dim == 3:
        x = _by_angle(cosine, ratio.sqrt_().mul_(fall), loc)
    else:
        noise = torch.randn(*rows, dim, dtype=loc.dtype, device=loc.device)
        x = (_reflected if dim < _MANY else _projected)(noise, fall, cosine, ratio, loc)
    return x, fall, cosine, rate


def _projected(g: Tensor, fall: Tensor, cosine: Tensor, ratio: Tensor, loc: Tensor) -> Tensor:
    """Points from Gaussian vectors, in many dimensions."""
    along = _dot(g, loc)
    square = torch.linalg.vecdot(g, g).addcmul_(along, along, value=-1)
    scale = square.div_(ratio).rsqrt_().mul_(fall)
    part = along.mul_(scale)
    return g.mul_(scale.unsqueeze(-1)).addcmul_((cosine - part).unsqueeze(-1), loc)


def _reflected(g: Tensor, fall: Tensor, cosine: Tensor, ratio: Tensor, loc: Tensor) -> Tensor:
    """The same in few."""
    # where the generator returns zeros, once in 2^24 times, any direction will do
    last = g.add_(1e-15).select(-1, -1).zero_()
    end = loc.select(-1, -1)
    sign = torch.copysign(torch.ones_like(end), end)
    scale = ratio.clamp_(max=1e30).sqrt_().mul_(fall).div_(torch.linalg.vector_norm(g, dim=-1))
    part = _dot(g, loc).div_(end + sign)
    last.sub_(part)
    rest = torch.addcmul(cosine, part.mul_(sign), scale, value=-1)
    return g.mul_(scale.unsqueeze(-1)).addcmul_(rest.unsqueeze(-1), loc)


def _by_angle(cosine: Tensor, sine: Tensor, loc: Tensor) -> Tensor:
    """The same in three dimensions, coordinate by coordinate, from an angle."""
    angle = torch.rand_like(cosine).mul_(2 * math.pi)
    first, second = angle.cos().mul_(sine), angle.sin_().mul_(sine)
    one, two, end = loc.unbind(-1)
    sign = torch.copysign(torch.ones_like(end), end)
    part = (first * one).addcmul_(second, two).div_(end + sign)
    rest = torch.addcmul(cosine, part, sign, value=-1)
    made = [first.addcmul_(rest, one), second.addcmul_(rest, two), (rest * end).sub_(part)]
    return torch.stack(made, -1)


def _gradients(
    needed: tuple[bool, ...], k: torch.Size, grad: Tensor, saved: tuple[Tensor, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradient of the smallest rotation, and of the height."""
    loc, x, fall, cosine, rate = saved
    along = _dot(grad, loc)
    of_loc = of_k = None
    if needed[0]:
        if loc.dim() == 1:
            of_loc = cosine @ grad - along @ x
        else:
            of_loc = grad * cosine.unsqueeze(-1)
            of_loc = of_loc.addcmul_(along.unsqueeze(-1), x, value=-1)
            of_loc = of_loc if of_loc.shape == loc.shape else of_loc.sum(0)
    if needed[1]:
        on_x = torch.linalg.vecdot(grad, x)
        # t (g . x) - g . mu, without cancellation near the axis
        of_k = (on_x - along).addcmul_(fall, on_x, value=-1).mul_(rate)
        of_k = of_k if of_k.shape == k else of_k.sum_to_size(k)
    return of_loc, of_k


class _Draw(torch.autograd.Function):
    """Draws points; the axis and the concentration may be one for all."""

    @staticmethod
    def forward(ctx: Any, loc: Tensor, k: Tensor, tilted: bool, rows: tuple[int, ...]) -> Tensor:
        """The points."""
        x, *made = _drawn(tilted, loc, k, rows)
        ctx.save_for_backward(loc, x, *made)
        ctx.k = k.shape
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients."""
        found = _gradients(ctx.needs_input_grad, ctx.k, grads[0], ctx.saved_tensors)
        return *found, None, None


class _Given(torch.autograd.Function):
    """Gives drawn points their gradient, in the form that function transforms need."""

    @staticmethod
    def forward(
        loc: Tensor, k: Tensor, x: Tensor, fall: Tensor, cosine: Tensor, rate: Tensor
    ) -> Tensor:
        """The points."""
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the gradient needs."""
        loc, k, *made = inputs
        ctx.save_for_backward(loc, *made)
        ctx.k = k.shape

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients."""
        found = _gradients(ctx.needs_input_grad, ctx.k, grads[0], ctx.saved_tensors)
        return *found, None, None, None, None


def _dot(x: Tensor, axis: Tensor) -> Tensor:
    """The products with vectors, or with one vector for all, which is faster."""
    return x @ axis if axis.dim() == 1 else torch.linalg.vecdot(x, axis)
