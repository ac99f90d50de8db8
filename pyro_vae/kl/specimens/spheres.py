"""Families on the sphere in three dimensions, the most of which the oracle can sum over."""

from __future__ import annotations

__all__: list[str] = []

from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions import PowerSpherical, SphericalUniform, VonMisesFisher
from pyro_vae.kl.specimens.shelf import SETTINGS, Row, Specimen, add

_AXES = [[1.0, 0.25, -0.5], [0.5, -1.0, 0.25], [-0.75, 0.5, 1.0], [0.25, 0.5, 1.5]]


def _axial(cls: Any) -> Any:
    def make(axis: Tensor, concentration: Tensor) -> Any:
        return cls(axis / axis.norm(dim=-1, keepdim=True), concentration, validate_args=False)

    return make


def _uniform() -> SphericalUniform:
    like = torch.zeros((), dtype=torch.float64)
    return SphericalUniform(3, (SETTINGS,), like, validate_args=False)


_SPHERES: list[Row] = [
    (
        "VonMisesFisher",
        "sphere",
        _axial(VonMisesFisher),
        {"axis": _AXES, "concentration": [0.5, 12.0, 3.0, 1.25]},
    ),
    (
        "PowerSpherical",
        "sphere",
        _axial(PowerSpherical),
        {"axis": [row[::-1] for row in _AXES], "concentration": [6.0, 9.0, 7.0, 4.5]},
    ),
    ("SphericalUniform", "sphere", _uniform, {}),
]

for _row in _SPHERES:
    add(Specimen(*_row, group="sphere"))
