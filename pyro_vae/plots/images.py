"""Pictures of images that a model makes: samples, reconstructions, traversals and manifolds.

All take a Pyro model with a plate over data, its guide, and data, as the diagnostics do; for a
`VAE` those are `vae.model` and `vae.guide`. An image is the mean of p(x | z). Nothing of the
caller's changes, and pictures depend on the seed alone.
"""

from __future__ import annotations

__all__ = ["NoSuchPicture", "manifold", "reconstructions", "samples", "traversals"]

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.plots.canvas import canvas, label
from pyro_vae.plots.decoding import Decoder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Program = Callable[..., Any]

MOST_LATENTS = 12
TAIL = 0.05
"""Traversals and manifolds run from this quantile of the prior to one less it."""

WIDTH = 7.5
"""Of mosaics, in inches."""

GAP = 1
"""Pixels between images."""


class NoSuchPicture(ValueError):
    """The latents of this model are not such that they can be drawn in this way."""


def samples(
    model: Program,
    guide: Program,
    x: Tensor,
    image_shape: Sequence[int],
    *,
    count: int = 48,
    seed: int = 0,
) -> Figure:
    """Draw E[x | z] for z ~ p(z), beside as many data.

    Arguments:
        model: A Pyro model with a plate over data.
        guide: Its guide.
        x: Data, with shape `(n, *event_shape)`.
        image_shape: (rows, columns), (channels, rows, columns) or (rows, columns, channels).
        count: The number of images, no more than there are data.
        seed: Of the draws.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a datum does not have as many numbers as an image.

    Example:
        >>> from pyro_vae import VAE, families as fam
        >>> vae = VAE(fam.Normal(2), fam.Normal(2, context=6), fam.Bernoulli(6, context=2))
        >>> figure = samples(vae.model, vae.guide, torch.ones(5, 6), (2, 3))
        >>> figure.axes[1].get_title(loc="left")
        'mean of p(x | z), z ~ p(z)'
    """
    decoder = Decoder(model, guide, x, seed)
    rows = x[:count]
    made = decoder.of_prior(len(rows))
    columns = _columns(len(rows), image_shape)
    figure, (left, right) = canvas(2)
    _show(left, _mosaic(_images(rows, image_shape), columns), f"{len(rows)} data")
    mosaic = _mosaic(_images(made, image_shape), columns)
    _show(right, mosaic, "mean of p(x | z), z ~ p(z)")
    return figure


def reconstructions(
    model: Program,
    guide: Program,
    x: Tensor,
    image_shape: Sequence[int],
    *,
    count: int = 12,
    draws: int = 3,
    seed: int = 0,
) -> Figure:
    """Draw data, and below each E[x | z] for a few z ~ q(z | x).

    Arguments:
        model: A Pyro model with a plate over data.
        guide: Its guide.
        x: Data, with shape `(n, *event_shape)`; the first `count` are shown.
        image_shape: As for `samples`.
        count: The number of data.
        draws: The number of z for each.
        seed: Of the draws.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a datum does not have as many numbers as an image.

    Example:
        >>> from pyro_vae import VAE, families as fam
        >>> vae = VAE(fam.Normal(2), fam.Normal(2, context=6), fam.Bernoulli(6, context=2))
        >>> figure = reconstructions(vae.model, vae.guide, torch.ones(5, 6), (2, 3), draws=2)
        >>> figure.axes[0].images[0].get_array().shape  # 3 rows of 5 images, and gaps
        (8, 19)
    """
    decoder, rows = Decoder(model, guide, x, seed), x[:count]
    lines = [rows] + [decoder.of_guide(rows, i) for i in range(draws)]
    images = np.concatenate([_images(line, image_shape) for line in lines])
    mosaic = _mosaic(images, len(rows))
    figure, (axes,) = canvas(1, width=WIDTH, height=_height(mosaic))
    _show(axes, mosaic, f"data, and below each {draws} means of p(x | z), z ~ q(z | x)")
    return figure


def traversals(
    model: Program,
    guide: Program,
    x: Tensor,
    image_shape: Sequence[int],
    *,
    datum: int = 0,
    steps: int = 11,
    seed: int = 0,
) -> Figure:
    """Draw E[x | z] as one coordinate of z moves through the prior and the others stay.

    The others are those of one draw of q(z | x) for a datum. A coordinate moves through quantiles
    of its prior from 5 to 95 %: those of `icdf` where the prior has one, otherwise those of draws
    of the prior. Of more than 12 coordinates, those are shown whose posterior mean varies most.

    Arguments:
        model: A Pyro model with a plate over data.
        guide: Its guide.
        x: Data, with shape `(n, *event_shape)`.
        image_shape: As for `samples`.
        datum: The row of the datum.
        steps: The number of values of each coordinate.
        seed: Of the draws.

    Raises:
        ImportError: If matplotlib is not installed.
        NoSuchPicture: If no coordinate can be moved alone (simplex, sphere, one-hot).
        ValueError: If a datum does not have as many numbers as an image.

    Example:
        >>> from pyro_vae import VAE, families as fam
        >>> vae = VAE(fam.Beta(2), fam.Beta(2, context=6), fam.Bernoulli(6, context=2))
        >>> figure = traversals(vae.model, vae.guide, torch.ones(5, 6), (2, 3))
        >>> sorted(label.get_text() for label in figure.axes[0].get_yticklabels())
        ['z[0]', 'z[1]']
    """
    decoder = Decoder(model, guide, x, seed)
    coordinates = decoder.movable()[:MOST_LATENTS]
    if not coordinates:
        raise NoSuchPicture(
            "no latent coordinate can be moved while the others stay: the sites "
            f"{', '.join(decoder.sites)} live where coordinates depend on each other. See "
            "plots.samples."
        )
    at = torch.linspace(TAIL, 1 - TAIL, steps, dtype=torch.float64)
    lines = [decoder.moved(datum, [(c, decoder.quantiles(c, at))]) for c in coordinates]
    mosaic = _mosaic(np.concatenate([_images(line, image_shape) for line in lines]), steps)
    figure, (axes,) = canvas(1, width=WIDTH, height=_height(mosaic))
    title = f"one latent at a time, {TAIL:.0%} to {1 - TAIL:.0%} of the prior, from datum {datum}"
    _show(axes, mosaic, title)
    height = mosaic.shape[0] / len(coordinates)
    names = [f"{c.site}{c.place}" for c in coordinates]
    axes.set_axis_on()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.set_yticks([(i + 0.5) * height - 0.5 for i in range(len(names))], names)
    return figure


def manifold(
    model: Program,
    guide: Program,
    x: Tensor,
    image_shape: Sequence[int],
    *,
    steps: int = 15,
    seed: int = 0,
) -> Figure:
    """Draw E[x | z] over a grid of two latent coordinates, evenly spaced in the prior's mass.

    Coordinates are quantiles of the prior from 5 to 95 %, so that a grid over a Student-t, a Gamma
    or a Beta prior shows what it generates as often.

    Arguments:
        model: A Pyro model with a plate over data, and two latent coordinates.
        guide: Its guide.
        x: Data, with shape `(n, *event_shape)`.
        image_shape: As for `samples`.
        steps: The number of values of each coordinate.
        seed: Of draws of the prior, where it has no `icdf`.

    Raises:
        ImportError: If matplotlib is not installed.
        NoSuchPicture: If there are not two coordinates that move independently.
        ValueError: If a datum does not have as many numbers as an image.

    Example:
        >>> from pyro_vae import VAE, families as fam
        >>> vae = VAE(fam.StudentT(2), fam.Normal(2, context=6), fam.Bernoulli(6, context=2))
        >>> figure = manifold(vae.model, vae.guide, torch.ones(5, 6), (2, 3), steps=4)
        >>> figure.axes[0].get_xlabel()
        'z[0]'
    """
    decoder = Decoder(model, guide, x, seed)
    coordinates = sorted(decoder.movable(), key=lambda c: (c.site, c.place))
    if len(coordinates) != 2 or decoder.others(coordinates):
        raise NoSuchPicture(
            f"a manifold needs two latent coordinates that move independently, but there are "
            f"{len(coordinates)}; see plots.traversals or plots.samples."
        )
    at = torch.linspace(TAIL, 1 - TAIL, steps, dtype=torch.float64)
    across, up = (decoder.quantiles(c, at) for c in coordinates)
    values = (across.repeat(steps), up.flip(0).repeat_interleave(steps))
    made = decoder.moved(0, list(zip(coordinates, values, strict=True)))
    mosaic = _mosaic(_images(made, image_shape), steps)
    figure, (axes,) = canvas(1, width=5.4, height=5.4 * mosaic.shape[0] / mosaic.shape[1] + 0.7)
    _show(axes, mosaic, f"mean of p(x | z) over {TAIL:.0%} to {1 - TAIL:.0%} of the prior")
    axes.set_axis_on()
    axes.spines[:].set_visible(False)
    for i, (coordinate, values) in enumerate(zip(coordinates, (across, up.flip(0)), strict=True)):
        size = mosaic.shape[1 - i] / steps
        ends = [0, steps // 2, steps - 1]
        ticks = [(e + 0.5) * size - 0.5 for e in ends]
        texts = [f"{float(values[e]):.2g}" for e in ends]
        (axes.set_xticks if i == 0 else axes.set_yticks)(ticks, texts)
        name = f"{coordinate.site}{coordinate.place}"
        (axes.set_xlabel if i == 0 else axes.set_ylabel)(name, fontsize=9)
    return figure


# -------------------------------------------------------------------------------------- mosaics
def _images(x: Tensor, image_shape: Sequence[int]) -> np.ndarray:
    """Rows as images, with shape (n, rows, columns) or (n, rows, columns, 3)."""
    shape = tuple(image_shape)
    if math.prod(shape) != math.prod(x.shape[1:]):
        raise ValueError(
            f"image_shape {shape} has {math.prod(shape)} numbers, but a datum has "
            f"{math.prod(x.shape[1:])} (shape {tuple(x.shape[1:])})."
        )
    images = x.detach().cpu().double().reshape(len(x), *shape).numpy()
    if len(shape) == 2:
        return images
    if len(shape) == 3 and shape[-1] in (1, 3):
        return images if shape[-1] == 3 else images[..., 0]
    if len(shape) == 3 and shape[0] in (1, 3):
        return images.transpose(0, 2, 3, 1) if shape[0] == 3 else images[:, 0]
    raise ValueError(
        f"image_shape must be (rows, columns), (channels, rows, columns) or (rows, columns, "
        f"channels) with 1 or 3 channels, not {shape}."
    )


def _columns(count: int, image_shape: Sequence[int]) -> int:
    """How many images make a row of a mosaic that is about as wide as high."""
    rows, columns = _images(torch.zeros(1, math.prod(image_shape)), image_shape).shape[1:3]
    return max(1, min(count, math.ceil((count * rows / columns) ** 0.5)))


def _mosaic(images: np.ndarray, columns: int) -> np.ndarray:
    """Images side by side, a row after another, NaN between them and where there is none."""
    count, height, width = images.shape[:3]
    rows = math.ceil(count / columns)
    size = ((height + GAP) * rows - GAP, (width + GAP) * columns - GAP, *images.shape[3:])
    mosaic = np.full(size, np.nan)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        mosaic[top : top + height, left : left + width] = image
    return mosaic


def _height(mosaic: np.ndarray) -> float:
    """The height of axes that show a mosaic in its own proportions, in inches."""
    return min(WIDTH * mosaic.shape[0] / mosaic.shape[1] + 0.4, 12.0)


def _show(axes: Axes, mosaic: np.ndarray, title: str) -> None:
    low, high = np.nanmin(mosaic), np.nanmax(mosaic)
    # data in [0, 1] keep their greys; others are spread between their ends
    low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    if mosaic.ndim == 3:
        scaled = np.where(np.isnan(mosaic), 1.0, (mosaic - low) / ((high - low) or 1.0))
        axes.imshow(scaled, interpolation="nearest")
    else:
        axes.imshow(mosaic, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
    axes.set_axis_off()
    label(axes, title)
