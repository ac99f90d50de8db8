"""Families on the circle."""

from __future__ import annotations

__all__: list[str] = []

import torch
from torch.distributions import Distribution

from pyro_vae.distributions import CircularUniform, WrappedNormal
from pyro_vae.kl.specimens.makers import plain
from pyro_vae.kl.specimens.shelf import SETTINGS, Specimen, add


def _uniform() -> Distribution:
    like = torch.zeros((), dtype=torch.float64)
    return CircularUniform((SETTINGS,), like, validate_args=False)


add(
    Specimen(
        "WrappedNormal",
        "circle",
        plain(WrappedNormal),
        {"loc": [2.0, 2.75, 0.25, -1.5], "scale": [0.0625, 1.25, 1.75, 3.0]},
        "circle",
    )
)
add(Specimen("CircularUniform", "circle", _uniform, {}, "circle"))
