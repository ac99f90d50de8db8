"""Likelihoods of images, whose parameters are read off feature maps pixel by pixel.

A family's head is linear in its whole context: over maps of 32 x 28 x 28 and an image of 1 x 28 x
28 it would have twenty million weights. Here it is the head of one pixel, shared by all.
"""

from __future__ import annotations

__all__ = ["PerPixel"]

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.nn import Module

from pyro_vae.families.family import Family


class PerPixel(Family):
    """p(x | maps) = prod_ij p(x_:ij | maps_:ij), each pixel by the same family of its channels.

    The family's linear head becomes a convolution of one pixel. It looks at maps of shape
    `(*batch, C, height, width)` and returns a distribution of event shape
    `(channels, height, width)`, whose elements are independent.

    It ends a decoder, `nn.Sequential(networks.ConvDecoder(...), PerPixel(...))`; it is not
    registered, for its context has another shape than that of the families on the shelf.

    Arguments:
        family: A family whose features are the channels of a pixel and whose context is C, such
            as `Bernoulli(1, context=32)`.
        size: Height and width.

    Raises:
        TypeError: If `family` is no family.
        ValueError: If it looks at nothing, if its features are not the channels alone, or if it
            is joint over them: what is left must be independent elements.

    Example:
        >>> from pyro_vae import families as fam
        >>> likelihood = PerPixel(fam.Normal(3, context=16), (28, 28))
        >>> d = likelihood(torch.zeros(7, 16, 28, 28))
        >>> d.batch_shape, d.event_shape
        (torch.Size([7]), torch.Size([3, 28, 28]))
    """

    roles = frozenset({"likelihood"})

    def __init__(self, family: Family, size: Sequence[int]) -> None:
        Module.__init__(self)
        if not isinstance(family, Family):
            raise TypeError(
                "PerPixel takes a family of one pixel, such as fam.Bernoulli(1, context=32), not "
                f"a {type(family).__name__}."
            )
        name = type(family).__name__
        if len(family.features) != 1 or not family.predicted:
            raise ValueError(
                f"PerPixel takes a family of the channels of one pixel that looks at its maps, "
                f"fam.{name}(channels, context=C), not {family!r}."
            )
        if isinstance(size, int) or len(size) != 2 or any(n < 1 for n in size):
            raise ValueError(f"size must be (height, width), not {size!r}.")
        self.family, self.context = family, family.context
        self.features = (family.features[0], *size)
        self.learned, self.predicted = family.learned, family.predicted
        if any(family._shape(n)[:1] != family.features for n in family.spec) or not _elementwise(
            family
        ):
            raise ValueError(
                f"{name} is joint over its features, and PerPixel over channels that are "
                "independent given the maps; take a family of independent elements."
            )

    @property
    def support(self) -> Constraint:
        """The family's support, at every pixel."""
        return constraints.independent(self.family.support, 2)

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """Return p(x | maps).

        Arguments:
            context: Maps, with shape `(*batch, C, height, width)`.

        Returns:
            A Pyro distribution with batch shape `batch` and event shape
            `(channels, height, width)`.

        Raises:
            ValueError: If the maps are missing or of another shape.
        """
        wanted = (self.context, *self.features[1:])
        if context is None or tuple(context.shape[-3:]) != wanted:
            found = "nothing" if context is None else f"a tensor of shape {tuple(context.shape)}"
            raise ValueError(
                f"PerPixel({type(self.family).__name__}) looks at maps of shape "
                f"{('*batch', *wanted)}, but received {found}."
            )
        values = self.family.values(context.movedim(-3, -1))
        planes = {name: self._plane(name, value) for name, value in values.items()}
        return self.family.distribution(**planes).to_event(2)

    def _plane(self, name: str, value: Tensor) -> Tensor:
        """A parameter with the channels before height and width, as an image has them."""
        extra = len(self.family._shape(name)) - 1
        if name in self.predicted:
            return value.movedim(-1 - extra, -3 - extra)
        return value.reshape(value.shape[0], 1, 1, *value.shape[1:])

    def extra_repr(self) -> str:
        """Return the size; the family is shown as a submodule."""
        return f"size={self.features[1:]}"


def _elementwise(family: Family) -> bool:
    """Whether draws have independent elements."""
    with torch.no_grad():
        d: Any = family(torch.zeros(1, family.context, dtype=family.head.weight.dtype))
    while isinstance(d, dist.Independent):
        d = d.base_dist
    return not d.event_shape
