"""The networks of flows: zuko's, made, silenced, and turned into constants."""

from __future__ import annotations

__all__ = [
    "INSTALL",
    "NETWORKS",
    "Halves",
    "Periodic",
    "checked_settings",
    "freeze",
    "masked",
    "missing",
    "options",
    "silence",
    "split",
    "zuko_package",
]

import importlib.util
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import Module

from pyro_vae.distributions import Coupling

INSTALL = 'flows need zuko: pip install "pyro-vae[flows]"'
NETWORKS = "flow"
"""The name by which `learnable=("flow",)` trains the networks alone."""


class Periodic(Module):
    """A network that sees angles, the first of its inputs, as their cosines and sines."""

    def __init__(self, size: int, net: Module) -> None:
        super().__init__()
        self.size, self.net = size, net

    def forward(self, x: Tensor) -> Tensor:
        """Return what the network makes of `size` angles and whatever follows them."""
        angles = x[..., : self.size]
        return self.net(torch.cat([angles.cos(), angles.sin(), x[..., self.size :]], -1))


class Halves(Module):
    """A coupling layer of zuko's, whose halves are known before it is run."""

    kept: Tensor
    moved: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        for name, chosen in (("kept", layer.mask), ("moved", ~layer.mask)):
            self.register_buffer(name, chosen.nonzero().squeeze(-1), persistent=False)

    @property
    def hyper(self) -> Module:
        """The network."""
        return self.layer.hyper

    def forward(self, context: Tensor | None = None) -> Coupling:
        """Return the transform from data to noise."""
        return Coupling(partial(self.layer.meta, context), self.kept, self.moved)


# ---------------------------------------------------------------------------------- networks
def zuko_package() -> Any:
    """The package zuko; what its import does to torch's validation of arguments is undone."""
    before = Distribution._validate_args
    try:
        import zuko
        import zuko.flows
        import zuko.nn
    except ImportError as error:
        raise ImportError(INSTALL) from error
    finally:
        Distribution.set_default_validate_args(before)
    return zuko


def missing() -> str:
    """Return what is to be installed before a flow can be built, "" if nothing."""
    return "" if importlib.util.find_spec("zuko") else INSTALL


def options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that zuko's constructors know."""
    # smooth networks make smooth densities, whose gradients guides and samplers follow
    known = {n: v for n, v in settings.items() if n != "inverse" and v is not None}
    return {**known, "activation": nn.SiLU}


def silence(flow: Module) -> None:
    """Make every layer the identity, as it is where the numbers that shape it are 0."""
    with torch.no_grad():
        for layer in flow.transforms:  # type: ignore[union-attr]
            if hasattr(layer, "hyper"):
                last = [m for m in layer.hyper.modules() if hasattr(m, "weight")][-1]
                last.weight.zero_()
                last.bias.zero_()
            else:
                for number in layer.phi:
                    number.zero_()


def freeze(flow: Module) -> None:
    """Turn parameters into buffers of the same names."""
    for module in flow.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, parameter.detach())


def masked(family: Module) -> dict[str, Tensor]:
    """By name, which weights of masked layers are not used."""
    masks = {name: getattr(module, "mask", None) for name, module in family.named_modules()}
    layers = {n: m for n, m in masks.items() if isinstance(m, Tensor) and m.dim() == 2}
    return {f"{name}.weight": ~mask for name, mask in layers.items()}


# ---------------------------------------------------------------------------------- settings
def split(learnable: bool | Iterable[str]) -> tuple[Any, bool]:
    """What is to be trained of the parameters, and whether the networks are."""
    if isinstance(learnable, bool):
        return learnable, learnable
    names = [learnable] if isinstance(learnable, str) else list(learnable)
    named = [n for n in names if n != NETWORKS]
    return named or False, NETWORKS in names


def checked_settings(name: str, given: dict[str, Any], context: bool) -> dict[str, Any]:
    """The settings in the form in which they are kept."""
    hidden = given["hidden_features"]
    given["hidden_features"] = widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    if given.get("inverse", False) is None:
        given["inverse"] = context
    if not isinstance(given.get("inverse", False), bool):
        raise ValueError(f"{name}: inverse must be True, False or None, not {given['inverse']!r}.")
    for option, least in (("transforms", 1), ("bins", 2), ("passes", 2)):
        value = given.get(option)
        if value is not None and not _whole(value, least):
            raise ValueError(
                f"{name}: {option} must be a whole number, {least} at least, not {value!r}."
            )
    if not widths or not all(_whole(width, 1) for width in widths):
        raise ValueError(
            f"{name}: hidden_features must be the width of a hidden layer or a tuple of widths, "
            f"not {hidden!r}."
        )
    return given


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
