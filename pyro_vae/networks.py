"""Networks for those who bring none: plain torch, knowing nothing of the rest."""

from __future__ import annotations

__all__ = ["MLP"]

import math
from collections.abc import Callable, Sequence

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
