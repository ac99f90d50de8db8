"""From parameters to distributions, for specimens that are more than their class."""

from __future__ import annotations

__all__ = [
    "affine_laplace",
    "counted",
    "draws",
    "fixed",
    "folded",
    "masked",
    "mixture",
    "mixture_of_vectors",
    "mvn",
    "mvt",
    "plain",
    "positive",
    "through",
    "vector",
    "wishart",
]

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution, transforms

from pyro_vae.kl.specimens.shelf import SETTINGS

Make = Callable[..., Distribution]


def plain(cls: Any, **constants: float) -> Make:
    """The class itself, some of its parameters constant."""

    def make(**parameters: Tensor) -> Distribution:
        like = next(iter(parameters.values()))
        fixed = {
            name: value if isinstance(value, int) else like.new_tensor(value)
            for name, value in constants.items()
        }
        return cls(**parameters, **fixed, validate_args=False)

    return make


def vector(cls: Any) -> Make:
    """Independent elements."""

    def make(**parameters: Tensor) -> Distribution:
        return td.Independent(cls(**parameters, validate_args=False), 1, validate_args=False)

    return make


def through(make: Make, *maps: Any) -> Make:
    """What transforms make of it."""

    def transformed(**parameters: Tensor) -> Distribution:
        base = make(**parameters)
        return td.TransformedDistribution(base, list(maps), validate_args=False)

    return transformed


def masked(make: Make) -> Make:
    """Masked in the third setting."""
    mask = torch.tensor([True, True, False, True])
    return lambda **parameters: dist.MaskedDistribution(make(**parameters), mask)


def tril(raw: Tensor) -> Tensor:
    """A Cholesky factor from any matrix."""
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())


def mvn(loc: Tensor, raw: Tensor) -> Distribution:
    """A Gaussian whose Cholesky factor is made of a matrix without constraints."""
    return td.MultivariateNormal(loc, scale_tril=tril(raw), validate_args=False)


def mvt(df: Tensor, loc: Tensor, raw: Tensor) -> Distribution:
    """A multivariate Student-t, likewise."""
    return dist.MultivariateStudentT(df, loc, tril(raw), validate_args=False)


def wishart(df: Tensor, raw: Tensor) -> Distribution:
    """A Wishart, likewise."""
    return td.Wishart(df, scale_tril=tril(raw), validate_args=False)


def affine_laplace(loc: Tensor, scale: Tensor, shift: Tensor, factor: Tensor) -> Distribution:
    """An affine map of a Laplace."""
    maps: list[transforms.Transform] = [transforms.AffineTransform(shift, factor)]
    base = td.Laplace(loc, scale, validate_args=False)
    return td.TransformedDistribution(base, maps, validate_args=False)


def mixture(component: Any) -> Make:
    """A mixture, its components in the last dimension of their parameters."""

    def make(weights: Tensor, **parameters: Tensor) -> Distribution:
        return td.MixtureSameFamily(
            td.Categorical(logits=weights, validate_args=False),
            component(**parameters, validate_args=False),
            validate_args=False,
        )

    return make


def mixture_of_vectors(weights: Tensor, loc: Tensor, scale: Tensor) -> Distribution:
    """A mixture of vectors of independent Normals."""
    return td.MixtureSameFamily(
        td.Categorical(logits=weights, validate_args=False),
        td.Independent(td.Normal(loc, scale, validate_args=False), 1),
        validate_args=False,
    )


def fixed(cls: Any, *constants: float) -> Make:
    """With nothing but constants, in double precision."""

    def make() -> Distribution:
        given = [torch.full((SETTINGS,), c, dtype=torch.float64) for c in constants]
        return cls(*given, validate_args=False)

    return make


def folded(loc: Tensor, scale: Tensor) -> Distribution:
    """The absolute value of a Normal."""
    base = td.Normal(loc, scale, validate_args=False)
    return dist.FoldedDistribution(base, validate_args=False)


def counted(cls: Any, *counts: float) -> Make:
    """With a total count, which takes no gradient but is rolled along with the settings."""

    def make(which: Tensor, **parameters: Tensor) -> Distribution:
        dtype = next(iter(parameters.values())).dtype
        total = torch.tensor(counts, dtype=dtype)[which]
        return cls(total_count=total, **parameters, validate_args=False)

    return make


def draws(*shape: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Settings of a parameter that is not a number, from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(SETTINGS, *shape, generator=generator)


def positive(*shape: int, seed: int, centre: float = 1.0) -> Tensor:
    """Settings of a positive parameter, likewise."""
    return centre * draws(*shape, seed=seed, scale=0.4).exp()
