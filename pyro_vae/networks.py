"""Networks for those who bring none: plain torch, knowing nothing of the rest."""

from __future__ import annotations

__all__ = ["MLP", "Log1p", "Rescale"]

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class MLP(nn.Sequential):
    """A multilayer perceptron h = a(W_L ... a(W_1 x + b_1) ... + b_L), activated at every layer.

    The last layer is activated too, for a family's linear head follows it.

    Arguments:
        features: The event shape of the input, an int or a tuple; it is flattened.
        *widths: The width of each layer, at least one.
        activation: Makes the activation that follows every layer.

    Raises:
        ValueError: If no width is given.

    Example:
        >>> import torch
        >>> MLP((4, 10), 128, 64)(torch.zeros(7, 4, 10)).shape
        torch.Size([7, 64])
    """

    def __init__(
        self,
        features: int | Sequence[int],
        *widths: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        if not widths:
            raise ValueError("MLP needs at least one width, as in MLP(64, 128).")
        self.event_shape = (features,) if isinstance(features, int) else tuple(features)
        sizes = (math.prod(self.event_shape), *widths)
        layers: list[nn.Module] = []
        for inner, outer in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(inner, outer), activation()]
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations of the last layer, with shape `(*batch, widths[-1])`.

        Arguments:
            x: The input, with shape `(*batch, *features)`; integers are taken as numbers.
        """
        shape = tuple(x.shape[x.dim() - len(self.event_shape) :])
        if shape != self.event_shape:
            raise ValueError(
                f"this MLP takes events of shape {self.event_shape}, but received a tensor of "
                f"shape {tuple(x.shape)}."
            )
        flat = x.flatten(x.dim() - len(self.event_shape))
        return super().forward(flat.to(next(self.parameters()).dtype))


class Log1p(nn.Module):
    """log(1 + x), which brings counts of any size to numbers that a network can read.

    Arguments:
        features: How many of the last dimension are counts; the others, such as columns of `y`
            that a `VAE` puts beside x, pass as they are. All of them if not given.

    Example:
        >>> Log1p()(torch.tensor([0.0, 999.0]))
        tensor([0.0000, 6.9078])
        >>> Log1p(1)(torch.tensor([999.0, -5.0]))
        tensor([ 6.9078, -5.0000])
    """

    def __init__(self, features: int | None = None) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """Return log(1 + x), with the shape of x."""
        if self.features is None:
            return torch.log1p(x)
        counts, others = x[..., : self.features], x[..., self.features :]
        return torch.cat([torch.log1p(counts), others], -1)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return "" if self.features is None else str(self.features)


class Rescale(nn.Module):
    """(x - loc) / scale with two constants: grey levels 0 to 255 as numbers from 0 to 1.

    Arguments:
        loc: What becomes 0.
        scale: What becomes 1 above it, not 0.

    Raises:
        ValueError: If `scale` is 0.

    Example:
        >>> Rescale(scale=255.0)(torch.tensor([0.0, 51.0, 255.0]))
        tensor([0.0000, 0.2000, 1.0000])
    """

    def __init__(self, loc: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        if scale == 0:
            raise ValueError("Rescale: scale must not be 0; nothing can be divided by it.")
        self.loc, self.scale = loc, scale

    def forward(self, x: Tensor) -> Tensor:
        """Return (x - loc) / scale, with the shape of x."""
        return (x - self.loc) / self.scale

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"loc={self.loc:g}, scale={self.scale:g}"
