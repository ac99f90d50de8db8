"""Families far from their standard members: scales 1e-4 to 1e4, concentrations 0.2 to 1e4.

Members of a group meet each other, the narrow the wide: parameters differ by up to eight orders
of magnitude. Smaller concentrations have their mass where no double lies, and no oracle that sums
over doubles can know their KL; tests hold them against formulas of many digits.
"""

from __future__ import annotations

__all__ = ["WIDE"]

import pyro.distributions as dist
import torch.distributions as td

from pyro_vae.distributions import LogitNormal
from pyro_vae.kl.specimens.makers import plain
from pyro_vae.kl.specimens.settings import POSITIVE, REAL, UNIT
from pyro_vae.kl.specimens.shelf import Row, Specimen, add

_SCALES = [1e-4, 1e4, 10.0, 1e-2]
_LOCS = [0.5, -50.0, 100.0, 0.25]
_ALPHAS = [0.25, 1e4, 30.0, 0.5]

WIDE: dict[str, list[Row]] = {
    "wide scales on the line": [
        ("wide Normal", REAL, plain(td.Normal), {"loc": _LOCS, "scale": _SCALES}),
        ("wide Laplace", REAL, plain(td.Laplace), {"loc": _LOCS, "scale": _SCALES}),
        ("wide Logistic", REAL, plain(dist.Logistic), {"loc": _LOCS, "scale": _SCALES}),
        ("wide Gumbel", REAL, plain(td.Gumbel), {"loc": _LOCS, "scale": _SCALES}),
        (
            "wide StudentT",
            REAL,
            plain(td.StudentT),
            {"df": [6.0, 25.0, 20.0, 9.0], "loc": _LOCS, "scale": _SCALES},
        ),
        ("wide Cauchy", REAL, plain(td.Cauchy), {"loc": _LOCS, "scale": _SCALES}),
    ],
    "wide scales on the half-line": [
        ("wide Gamma", POSITIVE, plain(td.Gamma), {"concentration": _ALPHAS, "rate": _SCALES}),
        ("wide Exponential", POSITIVE, plain(td.Exponential), {"rate": _SCALES}),
        (
            "wide InverseGamma",
            POSITIVE,
            plain(td.InverseGamma),
            {"concentration": _ALPHAS, "rate": _SCALES},
        ),
        (
            "wide LogNormal",
            POSITIVE,
            plain(td.LogNormal),
            {"loc": [-9.0, 9.0, 0.5, 1.0], "scale": [1e-2, 2.0, 0.5, 1e-3]},
        ),
        (
            "wide Weibull",
            POSITIVE,
            plain(td.Weibull),
            {"scale": _SCALES, "concentration": [0.25, 5.5, 2.5, 0.5]},
        ),
        ("wide HalfNormal", POSITIVE, plain(td.HalfNormal), {"scale": _SCALES}),
        ("wide HalfCauchy", POSITIVE, plain(td.HalfCauchy), {"scale": _SCALES}),
    ],
    # elsewhere a guide may miss their support by a mass that no sum could see
    "wide Paretos": [
        (
            "wide Pareto",
            POSITIVE,
            plain(td.Pareto),
            {"scale": _SCALES, "alpha": [0.25, 1e3, 30.0, 5.25]},
        ),
        (
            "Uniform beyond the Paretos",
            POSITIVE,
            plain(td.Uniform),
            {"low": [2e4, 3e4, 2e4, 4e4], "high": [5e4, 4e4, 1e5, 6e4]},
        ),
    ],
    "wide concentrations": [
        (
            "wide Beta",
            UNIT,
            plain(td.Beta),
            {"concentration1": [0.5, 100.0, 30.0, 0.75], "concentration0": [2.0, 3.0, 4.0, 100.0]},
        ),
        (
            "wide Kumaraswamy",
            UNIT,
            plain(td.Kumaraswamy),
            {"concentration1": [0.5, 10.0, 30.0, 0.75], "concentration0": [2.0, 3.0, 1.5, 50.0]},
        ),
        (
            "wide LogitNormal",
            UNIT,
            plain(LogitNormal),
            {"loc": [-9.0, 9.0, 0.5, 1.0], "scale": [1e-2, 2.0, 0.5, 1e-3]},
        ),
        (
            "wide ContinuousBernoulli",
            UNIT,
            plain(td.ContinuousBernoulli),
            {"logits": [-1e3, 100.0, 0.015625, 30.0]},
        ),
    ],
}

for _group, _rows in WIDE.items():
    for _row in _rows:
        add(Specimen(*_row, group=_group))
