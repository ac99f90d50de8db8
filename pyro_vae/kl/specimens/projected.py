"""The projected normal, on the sphere in three dimensions."""

from __future__ import annotations

__all__: list[str] = []

from pyro_vae.distributions import ProjectedNormal
from pyro_vae.kl.specimens.makers import plain
from pyro_vae.kl.specimens.shelf import Specimen, add

add(
    Specimen(
        "ProjectedNormal",
        "sphere",
        plain(ProjectedNormal),
        {
            "concentration": [
                [1.0, 0.25, -0.5],
                [0.5, -3.0, 12.0],
                [0.0, 0.0, 0.0],
                [2.0, 1.0, 2.5],
            ]
        },
        "sphere",
    )
)
