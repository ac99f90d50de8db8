"""Networks for those who bring none: plain torch, knowing nothing of the rest.

All take any batch shape, particles included: what precedes the event is flattened where torch
wants one batch dimension, and restored. None has batch normalisation, under which a datum's bound
would depend on the other data of its batch.
"""

from __future__ import annotations

__all__ = ["MLP", "Beside", "ConvDecoder", "ConvEncoder", "GatedMLP", "Log1p", "Rescale"]

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

Activation = Callable[[], nn.Module]


class _Perceptron(nn.Sequential):
    """Layers of vectors, after an event that is flattened."""

    def __init__(
        self,
        features: int | Sequence[int],
        widths: Sequence[int],
        layer: Callable[[int, int], Sequence[nn.Module]],
    ) -> None:
        self.event_shape, sizes = _sizes(type(self).__name__, features, widths)
        pairs = zip(sizes, sizes[1:], strict=False)
        super().__init__(*(module for pair in pairs for module in layer(*pair)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations of the last layer, with shape `(*batch, widths[-1])`.

        Arguments:
            x: The input, with shape `(*batch, *features)`; integers are taken as numbers.
        """
        x = _checked(self, x, self.event_shape)
        return super().forward(x.flatten(x.dim() - len(self.event_shape)))


class MLP(_Perceptron):
    """A multilayer perceptron h = a(W_L ... a(W_1 x + b_1) ... + b_L), activated at every layer.

    The last layer is activated too, for a family's linear head follows it.

    Arguments:
        features: The event shape of the input, an int or a tuple; it is flattened.
        *widths: The width of each layer, at least one.
        activation: Makes the activation that follows every layer.

    Raises:
        ValueError: If no width is given.

    Example:
        >>> MLP((4, 10), 128, 64)(torch.zeros(7, 4, 10)).shape
        torch.Size([7, 64])
    """

    def __init__(
        self,
        features: int | Sequence[int],
        *widths: int,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__(features, widths, lambda n, m: [nn.Linear(n, m), activation()])


class Log1p(nn.Module):
    """log(1 + x), which brings counts of any size to numbers that a network can read.

    Below 0, where no counts lie, it is -log(1 - x), so that nothing becomes NaN (pseudo-inputs of
    a VampPrior move where they will).

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
        """Return sign(x) log(1 + |x|), with the shape of x."""
        counts = x if self.features is None else x[..., : self.features]
        logs = counts.sign() * counts.abs().log1p()
        return logs if self.features is None else torch.cat([logs, x[..., self.features :]], -1)

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


class GatedMLP(_Perceptron):
    """A gated perceptron, h_l = (A_l h_l-1 + a_l) * sigmoid(B_l h_l-1 + b_l), h_0 = x.

    Each layer is linear where its gates stand open, and twice as large as a layer of an `MLP`.

    Arguments:
        features: The event shape of the input, an int or a tuple; it is flattened.
        *widths: The width of each layer, at least one.

    Raises:
        ValueError: If no width is given.

    References:
        Language modeling with gated convolutional networks (Y. N. Dauphin, A. Fan, M. Auli,
        D. Grangier, 2017);
        VAE with a VampPrior (J. M. Tomczak, M. Welling, 2018)

    Example:
        >>> GatedMLP((4, 10), 128, 64)(torch.zeros(7, 4, 10)).shape
        torch.Size([7, 64])
    """

    def __init__(self, features: int | Sequence[int], *widths: int) -> None:
        # A and B in one matrix
        super().__init__(features, widths, lambda n, m: [nn.Linear(n, 2 * m), nn.GLU(-1)])


class ConvEncoder(nn.Module):
    """Features of an image: 3 x 3 convolutions that halve its sides, then one linear layer.

    All layers are activated. A side of n pixels becomes ceil(n / 2), whatever n is.

    Arguments:
        image_shape: The event shape of an image, (channels, height, width).
        features: C, the number of features returned: the context of the family that follows.
        channels: The channels after each convolution, at least one.
        activation: Makes the activation that follows every layer.

    Raises:
        ValueError: If the shape is not that of an image, or no channels are given.

    Example:
        >>> ConvEncoder((1, 28, 28), 128)(torch.zeros(5, 7, 1, 28, 28)).shape
        torch.Size([5, 7, 128])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        features: int,
        *,
        channels: Sequence[int] = (32, 64),
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        self.event_shape = _image(type(self).__name__, image_shape)
        coarse = _halvings(type(self).__name__, self.event_shape[1:], channels)[-1]
        layers: list[nn.Module] = []
        for inner, outer in zip((self.event_shape[0], *channels), channels, strict=False):
            layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1), activation()]
        self.convolutions = nn.Sequential(*layers)
        flat = channels[-1] * math.prod(coarse)
        self.linear = nn.Sequential(nn.Linear(flat, features), activation())

    def forward(self, x: Tensor) -> Tensor:
        """Return features, with shape `(*batch, features)`.

        Arguments:
            x: Images, with shape `(*batch, channels, height, width)`; integers are taken as
                numbers.
        """
        x = _checked(self, x, self.event_shape)
        maps = self.convolutions(x.reshape(-1, *self.event_shape))
        features = self.linear(maps.flatten(1))
        return features.reshape(*x.shape[:-3], features.shape[-1])


class ConvDecoder(nn.Module):
    """Feature maps of z: a linear layer to the coarsest maps, which 3 x 3 convolutions refine.

    Before each convolution the maps are enlarged to the next finer size by repeating pixels. All
    layers are activated, for a likelihood's head follows: `families.PerPixel` has one for all
    pixels, where a linear one from all maps to all pixels would have millions of weights.

    Arguments:
        features: The event shape of the input, an int or a tuple; it is flattened.
        maps: The event shape returned, (channels, height, width), of any height and width.
        channels: The channels of the coarser maps, coarsest first; each doubles the sides.
        activation: Makes the activation that follows every layer.

    Raises:
        ValueError: If the shape is not that of maps, or no channels are given.

    References:
        Deconvolution and checkerboard artifacts (A. Odena, V. Dumoulin, C. Olah, 2016)

    Example:
        >>> from pyro_vae import families as fam
        >>> decoder = nn.Sequential(
        ...     ConvDecoder(8, (16, 28, 28)), fam.PerPixel(fam.Bernoulli(1, context=16), (28, 28))
        ... )
        >>> decoder(torch.zeros(7, 8)).event_shape
        torch.Size([1, 28, 28])
    """

    def __init__(
        self,
        features: int | Sequence[int],
        maps: Sequence[int],
        *,
        channels: Sequence[int] = (64, 32),
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.event_shape = (features,) if isinstance(features, int) else tuple(features)
        self.maps = _image(name, maps)
        sizes = _halvings(name, self.maps[1:], channels)[::-1]
        self.coarsest, self.finer = (channels[0], *sizes[0]), sizes[1:]
        inner = math.prod(self.event_shape)
        self.linear = nn.Sequential(nn.Linear(inner, math.prod(self.coarsest)), activation())
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), activation())
            for a, b in zip(channels, (*channels[1:], self.maps[0]), strict=True)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return maps, with shape `(*batch, *maps)`.

        Arguments:
            z: The input, with shape `(*batch, *features)`.
        """
        z = _checked(self, z, self.event_shape)
        batch = z.shape[: z.dim() - len(self.event_shape)]
        flat = z.reshape(-1, math.prod(self.event_shape))
        maps = self.linear(flat).reshape(-1, *self.coarsest)
        for size, convolution in zip(self.finer, self.convolutions, strict=True):
            maps = convolution(interpolate(maps, size=size, mode="nearest"))
        return maps.reshape(*batch, *self.maps)


class Beside(nn.Module):
    """A network for the first part of its input, beside which the rest passes as it is.

    h = (net(x), y) for an input (x, y), flattened and joined: as a `VAE` joins x and what it is
    conditioned on, and a `HierarchicalVAE` joins x and a layer.

    Arguments:
        net: Takes `(*batch, *features)` to `(*batch, C)`.
        features: The event shape of the first part, an int or a tuple.
        rest: How many numbers the rest has; h has C + rest.

    Example:
        >>> net = Beside(ConvEncoder((1, 8, 8), 32), (1, 8, 8), rest=10)
        >>> net(torch.zeros(7, 64 + 10)).shape
        torch.Size([7, 42])
    """

    def __init__(self, net: nn.Module, features: int | Sequence[int], rest: int) -> None:
        super().__init__()
        self.net, self.rest = net, rest
        self.features = (features,) if isinstance(features, int) else tuple(features)
        self.event_shape = (math.prod(self.features) + rest,)

    def forward(self, x: Tensor) -> Tensor:
        """Return net(x) and the rest, with shape `(*batch, C + rest)`.

        Arguments:
            x: Both parts, with shape `(*batch, prod(features) + rest)`.
        """
        x = _checked(self, x, self.event_shape)
        first, rest = x.split([x.shape[-1] - self.rest, self.rest], dim=-1)
        seen = self.net(first.reshape(*x.shape[:-1], *self.features))
        return torch.cat([seen, rest], dim=-1)


def _sizes(
    name: str, features: int | Sequence[int], widths: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not widths:
        raise ValueError(f"{name} needs at least one width, as in {name}(64, 128).")
    event_shape = (features,) if isinstance(features, int) else tuple(features)
    return event_shape, (math.prod(event_shape), *widths)


def _image(name: str, shape: Sequence[int]) -> tuple[int, int, int]:
    if isinstance(shape, int) or len(shape) != 3 or any(n < 1 for n in shape):
        raise ValueError(
            f"{name} takes a shape (channels, height, width), such as (1, 28, 28), not {shape!r}."
        )
    channels, height, width = shape
    return channels, height, width


def _halvings(name: str, size: tuple[int, ...], channels: Sequence[int]) -> list[tuple[int, ...]]:
    """The sizes of maps, the finest first: each side rounded up when it is halved."""
    if not channels:
        raise ValueError(f"{name} needs the channels of at least one layer, channels=(32,).")
    sizes = [size]
    for _ in channels:
        sizes.append(tuple(-(-n // 2) for n in sizes[-1]))
    return sizes


def _checked(net: nn.Module, x: Tensor, event_shape: tuple[int, ...]) -> Tensor:
    """The input in the network's dtype, if its event has the right shape."""
    shape = tuple(x.shape[max(x.dim() - len(event_shape), 0) :])
    if shape != event_shape:
        raise ValueError(
            f"this {type(net).__name__} takes events of shape {event_shape}, but received a "
            f"tensor of shape {tuple(x.shape)}."
        )
    return x.to(next(net.parameters()).dtype)
