"""Families on the line, the half-line and intervals."""

from __future__ import annotations

__all__ = ["LINES"]

import pyro.distributions as dist
import torch.distributions as td
from torch.distributions import transforms

from pyro_vae.distributions import LogitNormal
from pyro_vae.kl.specimens.makers import affine_laplace, fixed, folded, mixture, plain, through
from pyro_vae.kl.specimens.settings import LOCS, LOGITS, POSITIVE, REAL, SCALES, UNIT
from pyro_vae.kl.specimens.shelf import Row, Specimen, add

LINES: list[Row] = [
    ("Normal", REAL, plain(td.Normal), {"loc": LOCS, "scale": SCALES}),
    (
        "Laplace",
        REAL,
        plain(td.Laplace),
        {"loc": [-0.5, 0.875, 1.75, 0.0], "scale": [0.5, 1.25, 2.0, 0.25]},
    ),
    (
        "Logistic",
        REAL,
        plain(dist.Logistic),
        {"loc": [0.125, -0.75, 1.0, 0.5], "scale": [0.5, 0.25, 1.5, 0.75]},
    ),
    (
        "Gumbel",
        REAL,
        plain(td.Gumbel),
        {"loc": [0.25, -0.5, 1.25, 0.75], "scale": [0.75, 2.0, 0.5, 1.25]},
    ),
    (
        "StudentT",
        REAL,
        plain(td.StudentT),
        {
            "df": [1.5, 5.0, 9.0, 4.0],
            "loc": [0.25, 1.0, -0.5, 0.5],
            "scale": [0.5, 1.25, 1.0, 0.75],
        },
    ),
    (
        "Cauchy",
        REAL,
        plain(td.Cauchy),
        {"loc": [0.25, 1.0, -0.5, 0.0], "scale": [0.5, 1.25, 1.0, 2.0]},
    ),
    (
        "AsymmetricLaplace",
        REAL,
        plain(dist.AsymmetricLaplace),
        {
            "loc": [0.0, 0.5, -1.0, 1.5],
            "scale": [0.5, 1.0, 0.75, 1.5],
            "asymmetry": [0.75, 1.5, 1.0, 2.0],
        },
    ),
    (
        "SoftLaplace",
        REAL,
        plain(dist.SoftLaplace),
        {"loc": [0.0, 0.5, -1.0, 1.5], "scale": [0.5, 1.0, 0.75, 1.75]},
    ),
    (
        "SkewLogistic",
        REAL,
        plain(dist.SkewLogistic),
        {
            "loc": [0.0, 0.5, -1.0, 1.5],
            "scale": [0.5, 1.0, 0.75, 1.25],
            "asymmetry": [0.75, 1.5, 1.0, 2.0],
        },
    ),
    (
        "affine Laplace",
        REAL,
        affine_laplace,
        {
            "loc": [-0.5, 0.875, 1.75, 0.0],
            "scale": [0.5, 1.25, 2.0, 0.25],
            "shift": [1.0, 0.0, -1.5, 0.5],
            "factor": [-0.5, 2.0, 0.75, 1.0],
        },
    ),
    (
        "mixture of Normals",
        REAL,
        mixture(td.Normal),
        {
            "weights": [[0.0, 0.5], [1.0, 0.0], [0.25, -0.5], [0.0, 0.0]],
            "loc": [[0.0, 1.5], [-1.0, 1.0], [0.5, 2.0], [-0.5, 0.25]],
            "scale": [[1.0, 0.75], [0.75, 0.5], [1.5, 1.0], [1.0, 1.25]],
        },
    ),
    (
        "Gamma",
        POSITIVE,
        plain(td.Gamma),
        {"concentration": [0.75, 2.25, 6.0, 1.5], "rate": [1.0, 1.75, 3.0, 0.5]},
    ),
    ("Chi2", POSITIVE, plain(td.Chi2), {"df": [1.5, 3.0, 7.0, 5.0]}),
    ("Exponential", POSITIVE, plain(td.Exponential), {"rate": [0.5, 1.25, 2.75, 1.0]}),
    (
        "InverseGamma",
        POSITIVE,
        plain(td.InverseGamma),
        {"concentration": [0.75, 1.75, 4.0, 5.0], "rate": [1.0, 1.5, 2.5, 3.0]},
    ),
    (
        "LogNormal",
        POSITIVE,
        plain(td.LogNormal),
        {"loc": [-0.5, 0.25, 0.875, 0.0], "scale": [0.375, 0.75, 0.25, 0.5]},
    ),
    (
        "Weibull",
        POSITIVE,
        plain(td.Weibull),
        {"scale": [0.75, 1.5, 1.0, 2.0], "concentration": [0.5, 1.375, 2.5, 1.75]},
    ),
    ("HalfNormal", POSITIVE, plain(td.HalfNormal), {"scale": [0.5, 1.25, 2.5, 1.0]}),
    ("HalfCauchy", POSITIVE, plain(td.HalfCauchy), {"scale": [0.5, 1.25, 2.5, 1.0]}),
    (
        "FisherSnedecor",
        POSITIVE,
        plain(td.FisherSnedecor),
        {"df1": [3.0, 5.0, 8.0, 4.0], "df2": [3.5, 6.0, 9.0, 12.0]},
    ),
    (
        "Pareto",
        POSITIVE,
        plain(td.Pareto),
        {"scale": [0.5, 1.0, 2.0, 2.5], "alpha": [0.75, 1.75, 4.0, 5.0]},
    ),
    ("folded Normal", POSITIVE, folded, {"loc": LOCS, "scale": SCALES}),
    (
        "exp of Logistic",
        POSITIVE,
        through(plain(dist.Logistic), transforms.ExpTransform()),
        {"loc": [0.125, -0.75, 1.0, 0.5], "scale": [0.5, 0.25, 0.375, 0.125]},
    ),
    (
        "Beta",
        UNIT,
        plain(td.Beta),
        {"concentration1": [0.75, 2.0, 5.0, 1.5], "concentration0": [1.25, 2.0, 3.75, 4.0]},
    ),
    (
        "Kumaraswamy",
        UNIT,
        plain(td.Kumaraswamy),
        {"concentration1": [0.75, 2.0, 3.0, 1.5], "concentration0": [1.25, 2.0, 3.75, 1.5]},
    ),
    (
        "LogitNormal",
        UNIT,
        plain(LogitNormal),
        {"loc": [-0.5, 0.25, 1.0, 0.0], "scale": [0.5, 1.0, 0.75, 1.5]},
    ),
    (
        "ContinuousBernoulli",
        UNIT,
        plain(td.ContinuousBernoulli),
        {"logits": [-3.0, 0.125, 1.5, 7.0]},
    ),
    (
        "RelaxedBernoulli",
        UNIT,
        plain(td.RelaxedBernoulli, temperature=0.75),
        {"logits": LOGITS},
    ),
    (
        "sigmoid of Gumbel",
        UNIT,
        through(plain(td.Gumbel), transforms.SigmoidTransform()),
        {"loc": [0.25, 1.0, -0.5, 0.5], "scale": [0.5, 0.5, 0.625, 0.75]},
    ),
    (
        "Uniform",
        "interval",
        plain(td.Uniform),
        {"low": [-1.0, -0.5, 0.125, 0.25], "high": [2.0, 1.5, 0.875, 0.625]},
    ),
    ("Uniform on (0, 1)", UNIT, fixed(td.Uniform, 0.0, 1.0), {}),
    (
        "AffineBeta",
        "interval",
        plain(dist.AffineBeta),
        {
            "concentration1": [1.25, 2.0, 5.0, 1.5],
            "concentration0": [1.25, 2.0, 3.75, 4.0],
            "loc": [-1.0, -0.5, 0.125, 0.25],
            "scale": [3.0, 2.0, 0.75, 0.5],
        },
    ),
]


for _row in LINES:
    add(Specimen(*_row))
