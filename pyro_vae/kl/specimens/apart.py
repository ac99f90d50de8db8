"""Families that meet their own kind alone, wrappers, and settings far out."""

from __future__ import annotations

__all__: list[str] = []

import math

import pyro.distributions as dist
import torch.distributions as td
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_vae.distributions import RelaxedOneHotCategorical
from pyro_vae.kl.specimens.lines import LINES
from pyro_vae.kl.specimens.makers import counted, draws, fixed, masked, plain, wishart
from pyro_vae.kl.specimens.settings import CLASSES, ORDER, REAL, UNIT
from pyro_vae.kl.specimens.shelf import Row, Specimen, add

_APART: list[tuple[str, Row]] = [
    (
        "logarithms of a simplex",
        (
            "ExpRelaxedCategorical",
            "simplex",
            plain(ExpRelaxedCategorical, temperature=0.75),
            {"logits": CLASSES},
        ),
    ),
    (
        "one temperature",
        (
            "RelaxedOneHotCategorical of one temperature",
            "simplex",
            plain(RelaxedOneHotCategorical),
            {"temperature": [0.75] * 4, "logits": CLASSES},
        ),
    ),
    (
        "relaxed bits",
        (
            "RelaxedOneHotCategorical of two",
            "simplex",
            plain(td.RelaxedOneHotCategorical, temperature=0.75),
            {"logits": [[0.5, 0.0], [-1.0, 0.5], [2.0, 0.0], [0.0, 0.25]]},
        ),
    ),
    (
        "matrices",
        (
            "Wishart",
            "positive definite matrices",
            wishart,
            {"df": [3.0, 4.5, 7.0, 5.0], "raw": draws(2, 2, seed=27, scale=0.3)},
        ),
    ),
    (
        "correlations",
        (
            "LKJCholesky",
            "correlation factors",
            plain(dist.LKJCholesky, dim=3),
            {"concentration": [0.75, 1.5, 4.0, 2.5]},
        ),
    ),
    (
        "trials",
        (
            "Multinomial",
            "counts of classes",
            lambda logits: td.Multinomial(4, logits=logits, validate_args=False),
            {"logits": CLASSES},
        ),
    ),
    (
        "circle",
        (
            "VonMises",
            "circle",
            plain(td.VonMises),
            {"loc": [0.25, -1.5, -1.5, 3.0], "concentration": [0.5, 30.0, 26.0, 12.0]},
        ),
    ),
    (
        "circle",
        (
            "Uniform on an arc",
            "circle",
            plain(td.Uniform),
            {"low": [-1.0, -2.0, 0.5, 0.0], "high": [1.0, 0.5, 2.5, 3.0]},
        ),
    ),
    (
        "circle",
        (
            "Uniform on the circle",
            "circle",
            fixed(td.Uniform, -math.pi, math.pi),
            {},
        ),
    ),
    (
        "circle",
        (
            "Uniform beyond the circle",
            "circle",
            plain(td.Uniform),
            {"low": [-3.5, -4.0, -3.25, -5.0], "high": [4.0, 3.5, 3.25, 3.5]},
        ),
    ),
    (
        "probabilities",
        (
            "Bernoulli of probs",
            "{0, 1}",
            plain(td.Bernoulli),
            {"probs": [0.25, 0.5, 0.875, 0.125]},
        ),
    ),
    (
        "probabilities",
        (
            "Categorical of probs",
            "integers",
            plain(td.Categorical),
            {
                "probs": [
                    [0.25, 0.5, 0.25],
                    [0.125, 0.5, 0.375],
                    [0.5, 0.375, 0.125],
                    [0.75, 0.125, 0.125],
                ]
            },
        ),
    ),
    ("masks", ("masked Normal", REAL, masked(plain(td.Normal)), LINES[0][3])),
    ("masks", ("masked Laplace", REAL, masked(plain(td.Laplace)), LINES[1][3])),
    (
        "points",
        (
            "Delta",
            REAL,
            lambda v, log_density: dist.Delta(v, log_density),
            {"v": [0.5, -0.25, 1.0, 2.0], "log_density": [0.0, 0.5, -1.0, 0.25]},
        ),
    ),
    # Pyro has a form of a point mass for its own classes only
    ("points", ("Normal around points", REAL, plain(dist.Normal), LINES[0][3])),
    # far out, where probabilities round to 0 or 1
    (
        "far Bernoullis",
        (
            "Bernoulli of large logits",
            "{0, 1}",
            plain(td.Bernoulli),
            {"logits": [120.0, -3.0, -800.0, 40.0]},
        ),
    ),
    (
        "far Categoricals",
        (
            "Categorical of large logits",
            "integers",
            plain(td.Categorical),
            {"logits": [[900.0, 0, 1], [0, 300, 2], [-5, 0, 200], [0, 0, 800]]},
        ),
    ),
    (
        "far one-hot vectors",
        (
            "OneHotCategorical of large logits",
            "one-hot vectors",
            plain(td.OneHotCategorical),
            {"logits": [[900.0, 0, 1], [0, 300, 2], [-5, 0, 200], [0, 0, 800]]},
        ),
    ),
    (
        "far Binomials",
        (
            "Binomial of large logits",
            "integers",
            counted(td.Binomial, 3.0, 3.0, 5.0, 4.0),
            {"which": ORDER, "logits": [120.0, -3.0, 5.0, 40.0]},
        ),
    ),
    (
        "far ContinuousBernoullis",
        (
            "ContinuousBernoulli of large logits",
            UNIT,
            plain(td.ContinuousBernoulli),
            {"logits": [-500.0, 20.0, 60.0, -3.0]},
        ),
    ),
]

_ENDS: list[Row] = [
    ("Poisson of rate 0", "counts", plain(td.Poisson), {"rate": [0.0, 0.0, 1.0, 2.0]}),
    (
        "Geometric of probability 1",
        "counts",
        plain(td.Geometric),
        {"probs": [1.0, 1.0, 0.5, 1.0]},
    ),
]


for _group, _row in _APART:
    add(Specimen(*_row, group=_group))
for _row in _ENDS:
    add(Specimen(*_row, group=_row[0], differentiable=False))
