"""Blocks of features of different families in one latent site: Product."""

from __future__ import annotations

__all__ = ["Product"]

from typing import Any

from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.nn import Module, ModuleList

from pyro_vae import distributions
from pyro_vae.distributions.product import Blocks
from pyro_vae.families.family import Family, register
from pyro_vae.families.positive import Gamma
from pyro_vae.families.real import Normal
from pyro_vae.supports import space_of


@register
class Product(Family):
    """Independent blocks of other families side by side: log p(z) = sum_b log p_b(z_b).

    Draws of the blocks are joined along the last dimension where their shapes agree in all
    others, else each is flattened first: blocks of 4 and 3 features make 7, blocks of (5, 2) and
    (5, 1) make (5, 3), blocks of (5, 3) and 4 make 19.

    Arguments:
        *blocks: Families, with the same `context=C` or without one; a Product among them
            counts as its blocks.

    Raises:
        TypeError: If a block is no family.
        ValueError: If there is none, if two predict from contexts of different sizes, or if
            one is discrete: a draw cannot be a mass here and a density there.

    Example:
        >>> import torch
        >>> guide = Product(Normal(4, context=8), Gamma(3, context=8))
        >>> z = guide(torch.zeros(5, 8)).rsample()
        >>> z.shape, bool((z[:, 4:] > 0).all())
        (torch.Size([5, 7]), True)
    """

    blocks: ModuleList

    def __init__(self, *blocks: Family) -> None:
        Module.__init__(self)
        _check_families(blocks)
        # a product of products is one of all their blocks
        flat: list[Any] = [b for block in blocks for b in _members(block)]
        self.blocks = ModuleList(flat)
        sizes = sorted({block.context for block in flat} - {0})
        if len(sizes) > 1:
            raise ValueError(
                f"the blocks of a Product see one context, but were built with context={sizes[0]} "
                f"and context={sizes[1]}; give all of them the same."
            )
        self.context = sizes[0] if sizes else 0
        self.features = self.support.layout.event
        self.learned = tuple(name for block in flat for name in block.learned)
        self.predicted = tuple(name for block in flat for name in block.predicted)

    @property
    def support(self) -> Blocks:
        """Where each block lives."""
        members: list[Any] = list(self.blocks)
        return Blocks([b.support for b in members], [tuple(b.event_shape) for b in members])

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """Return the product of the blocks' distributions.

        Arguments:
            context: None if no block looks at one, otherwise with shape `(*batch, C)`.
        """
        # a block without context refuses one that no block wants
        seen = [b(context) if b.context or not self.context else b() for b in self.blocks]
        return distributions.Product(seen)

    @classmethod
    def example(
        cls, features: int | tuple[int, ...] = 3, context: int = 0, *, learnable: bool = False
    ) -> Product:
        """Return Normals beside Gammas, or a Normal alone where there is but one feature."""
        *outer, n = (features,) if isinstance(features, int) else features
        halves = [(Normal, n - n // 2), (Gamma, n // 2)]
        made = [
            family((*outer, size), context, learnable=learnable) for family, size in halves if size
        ]
        return cls(*made)

    @classmethod
    def named(
        cls,
        features: int | tuple[int, ...],
        context: int = 0,
        *,
        learnable: bool = False,
        **options: int,
    ) -> Product:
        """Return the example: the name says of no blocks."""
        return cls.example(features, context, learnable=learnable, **options)

    @classmethod
    def fits(cls, support: Constraint) -> bool:
        """Say whether some product puts all its mass within `support`."""
        space = space_of(support)
        if space.kind == "product":
            return not space.is_discrete
        return super().fits(support)

    def extra_repr(self) -> str:
        """Return the features and the context; the blocks are shown as submodules."""
        features = self.features[0] if len(self.features) == 1 else self.features
        return f"{features}" + (f", context={self.context}" if self.context else "")


def _members(block: Any) -> list[Any]:
    inner: Any = getattr(block, "blocks", None)
    return list(inner) if isinstance(block, Product) else [block]


def _check_families(blocks: tuple[Family, ...]) -> None:
    if not blocks:
        raise ValueError(
            "a Product needs blocks, such as fam.Product(fam.Normal(4), fam.Gamma(3))."
        )
    for block in blocks:
        if not isinstance(block, Family):
            raise TypeError(
                "a Product is made of families, such as fam.Product(fam.Normal(4), fam.Gamma(3)), "
                f"not of a {type(block).__name__}."
            )
        if space_of(block.support).is_discrete:
            name = type(block).__name__
            raise ValueError(
                f"{name} is discrete: in one draw with a density its mass would be mixed up with "
                "it, and the draw would not be reparameterised. Give it a site of its own, "
                f'VAE(prior={{"c": fam.{name}(...), "z": ...}}, encoder={{"c": ..., "z": ...}}, '
                "...); a relaxed family (fam.RelaxedOneHotCategorical) may stand in a Product."
            )
