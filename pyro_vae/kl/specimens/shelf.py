"""What a specimen is, and where specimens are kept."""

from __future__ import annotations

__all__ = ["SETTINGS", "Row", "Specimen", "add", "build", "specimens"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.table import canonical

SETTINGS = 4
"""The number of settings of each specimen."""


@dataclass(frozen=True, eq=False)
class Specimen:
    """Members of a family.

    Arguments:
        name: How people call it, once on the shelf.
        space: Where it lives, for people; bounds may depend on parameters.
        make: From the parameters, by name, to a distribution of batch shape (4,).
        parameters: The four settings of each parameter; those that are not whole numbers take a
            gradient.
        group: Who it meets: those of the same group.
        differentiable: False at the end of a parameter's range, where no gradient is defined.
    """

    name: str
    space: str
    make: Callable[..., Distribution]
    parameters: Mapping[str, Any]
    group: str = ""
    differentiable: bool = True

    @property
    def cls(self) -> type[Distribution]:
        """The class of its members, as forms are registered for it."""
        return canonical(type(build(self)[0]))


Row = tuple[str, str, Callable[..., Distribution], Mapping[str, Sequence[Any] | Tensor]]
"""Name, space, maker and parameters of a specimen."""

_SHELF: dict[str, Specimen] = {}


def add(specimen: Specimen) -> Specimen:
    """Put a specimen on the shelf, for the audit of forms of one's own.

    Arguments:
        specimen: Members of a family.

    Returns:
        The specimen unchanged.

    Raises:
        ValueError: If the name is taken, or a parameter has not four settings.

    Example:
        >>> add(specimens()[0])
        Traceback (most recent call last):
        ...
        ValueError: there is a specimen named 'Normal' already; choose another name.
    """
    if specimen.name in _SHELF:
        raise ValueError(
            f"there is a specimen named {specimen.name!r} already; choose another name."
        )
    for name, values in specimen.parameters.items():
        if len(values) != SETTINGS:
            raise ValueError(
                f"{name} of {specimen.name} has {len(values)} settings; give {SETTINGS}."
            )
    _SHELF[specimen.name] = specimen
    return specimen


def specimens() -> tuple[Specimen, ...]:
    """Return all specimens in the order in which they were added.

    Example:
        >>> specimens()[0].name
        'Normal'
    """
    return tuple(_SHELF.values())


def build(
    specimen: Specimen, dtype: torch.dtype = torch.float64, *, shift: int = 0
) -> tuple[Any, list[Tensor]]:
    """Make the members of a specimen.

    Arguments:
        specimen: Which.
        dtype: Of the parameters.
        shift: By how many the settings are rolled; the audit rolls those of priors by 1.

    Returns:
        The distribution, of batch shape (4,), and its parameters, which require gradients.

    Example:
        >>> d, (loc, scale) = build(specimens()[0])
        >>> d.batch_shape, scale.dtype
        (torch.Size([4]), torch.float64)
    """
    leaves = {
        name: _leaf(torch.as_tensor(values).roll(shift, 0), dtype)
        for name, values in specimen.parameters.items()
    }
    return specimen.make(**leaves), [leaf for leaf in leaves.values() if leaf.requires_grad]


def _leaf(values: Tensor, dtype: torch.dtype) -> Tensor:
    if not values.is_floating_point():
        return values
    return values.float().to(dtype).requires_grad_()
