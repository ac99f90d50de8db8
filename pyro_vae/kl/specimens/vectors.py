"""Families of vectors."""

from __future__ import annotations

__all__: list[str] = []

import pyro.distributions as dist
import torch.distributions as td
from torch.distributions import transforms

from pyro_vae.distributions import Kumaraswamy, Sticks
from pyro_vae.kl.specimens.makers import (
    draws,
    mixture_of_vectors,
    mvn,
    mvt,
    plain,
    positive,
    through,
    vector,
)
from pyro_vae.kl.specimens.settings import CLASSES
from pyro_vae.kl.specimens.shelf import Row, Specimen, add

_VECTORS: list[Row] = [
    (
        "independent Normals",
        "real vectors",
        vector(td.Normal),
        {"loc": draws(2, seed=1), "scale": positive(2, seed=2)},
    ),
    (
        "MultivariateNormal",
        "real vectors",
        mvn,
        {"loc": draws(2, seed=3), "raw": draws(2, 2, seed=4, scale=0.4)},
    ),
    (
        "LowRankMultivariateNormal",
        "real vectors",
        plain(td.LowRankMultivariateNormal),
        {
            "loc": draws(2, seed=5),
            "cov_factor": draws(2, 1, seed=6, scale=0.7),
            "cov_diag": positive(2, seed=7),
        },
    ),
    (
        "MultivariateStudentT",
        "real vectors",
        mvt,
        {
            "df": [4.0, 6.0, 5.0, 9.0],
            "loc": draws(2, seed=8),
            "raw": draws(2, 2, seed=9, scale=0.4),
        },
    ),
    (
        "independent StudentTs",
        "real vectors",
        vector(td.StudentT),
        {
            "df": positive(2, seed=10, centre=7.0),
            "loc": draws(2, seed=11),
            "scale": positive(2, seed=12),
        },
    ),
    (
        "independent Logistics",
        "real vectors",
        vector(dist.Logistic),
        {"loc": draws(2, seed=13), "scale": positive(2, seed=14)},
    ),
    (
        "mixture of Normal vectors",
        "real vectors",
        mixture_of_vectors,
        {
            "weights": draws(2, seed=15),
            "loc": draws(2, 2, seed=16),
            "scale": positive(2, 2, seed=17),
        },
    ),
    (
        "exp of MultivariateNormal",
        "positive vectors",
        through(mvn, transforms.ExpTransform()),
        {
            "loc": draws(2, seed=18, scale=0.5),
            "raw": draws(2, 2, seed=19, scale=0.2, shift=-0.5),
        },
    ),
    (
        "independent Gammas",
        "positive vectors",
        vector(td.Gamma),
        {"concentration": positive(2, seed=20, centre=3.0), "rate": positive(2, seed=21)},
    ),
    (
        "Dirichlet",
        "simplex",
        plain(td.Dirichlet),
        {"concentration": positive(3, seed=22, centre=4.0)},
    ),
    (
        "LogisticNormal",
        "simplex",
        plain(td.LogisticNormal),
        {"loc": draws(2, seed=23, scale=0.7), "scale": positive(2, seed=24)},
    ),
    (
        "RelaxedOneHotCategorical",
        "simplex",
        plain(td.RelaxedOneHotCategorical, temperature=0.75),
        {"logits": CLASSES},
    ),
    (
        "Kumaraswamy sticks",
        "simplex",
        # torch's density of small sticks is 0
        through(vector(Kumaraswamy), Sticks()),
        {
            "concentration1": positive(2, seed=25, centre=1.75),
            "concentration0": positive(2, seed=26, centre=1.75),
        },
    ),
]


for _row in _VECTORS:
    add(Specimen(*_row))
