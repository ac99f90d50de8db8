"""Families on the simplex that this package adds."""

from __future__ import annotations

__all__: list[str] = []

from pyro_vae.distributions import GEM, StickBreaking
from pyro_vae.kl.specimens.makers import plain, positive
from pyro_vae.kl.specimens.shelf import Row, Specimen, add

_SIMPLICES: list[Row] = [
    (
        "StickBreaking",
        "simplex",
        plain(StickBreaking),
        {
            "concentration1": positive(2, seed=31, centre=2.0),
            "concentration0": positive(2, seed=32, centre=4.0),
        },
    ),
    ("GEM", "simplex", plain(GEM, parts=3), {"concentration": [1.5, 3.0, 6.0, 4.0]}),
]


for _row in _SIMPLICES:
    add(Specimen(*_row))
