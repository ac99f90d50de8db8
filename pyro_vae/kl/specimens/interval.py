"""Families on intervals that this package adds, and settings where torch's densities fail."""

from __future__ import annotations

__all__: list[str] = []

from pyro_vae.distributions import ContinuousBernoulli, TruncatedNormal
from pyro_vae.kl.specimens.makers import plain
from pyro_vae.kl.specimens.settings import UNIT
from pyro_vae.kl.specimens.shelf import Row, Specimen, add

_INTERVALS: list[Row] = [
    (
        "TruncatedNormal",
        UNIT,
        plain(TruncatedNormal, low=0.0, high=1.0),
        {"loc": [0.25, 0.5, -1.5, 3.0], "scale": [0.5, 0.125, 0.75, 1.0]},
    ),
    (
        "TruncatedNormal on an interval",
        "interval",
        plain(TruncatedNormal),
        {
            "loc": [0.5, -2.0, 0.375, 1.0],
            "scale": [0.75, 1.0, 0.125, 0.5],
            "low": [-1.0, -0.5, 0.125, 0.25],
            "high": [2.0, 1.5, 0.875, 0.75],
        },
    ),
]

_FAR: list[tuple[str, Row]] = [
    (
        "far truncated Normals",
        (
            "TruncatedNormal far from its loc",
            UNIT,
            plain(TruncatedNormal, low=0.0, high=1.0),
            {"loc": [-1000.0, 50.0, 0.5, -20.0], "scale": [1.0, 8.0, 1024.0, 0.5]},
        ),
    ),
    (
        "even ContinuousBernoullis",
        (
            "ContinuousBernoulli of small logits",
            UNIT,
            plain(ContinuousBernoulli),
            {"logits": [0.0009765625, -0.125, 2.0, -40.0]},
        ),
    ),
]


for _row in _INTERVALS:
    add(Specimen(*_row))
for _group, _row in _FAR:
    add(Specimen(*_row, group=_group))
