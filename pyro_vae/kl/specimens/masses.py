"""Families of counts and classes."""

from __future__ import annotations

__all__: list[str] = []

import pyro.distributions as dist
import torch.distributions as td

from pyro_vae.kl.specimens.makers import counted, mixture, plain
from pyro_vae.kl.specimens.settings import CLASSES, LOGITS, ORDER
from pyro_vae.kl.specimens.shelf import Row, Specimen, add

_COUNTS: list[Row] = [
    ("Bernoulli", "{0, 1}", plain(td.Bernoulli), {"logits": LOGITS}),
    ("Geometric", "counts", plain(td.Geometric), {"logits": LOGITS}),
    ("Poisson", "counts", plain(td.Poisson), {"rate": [0.5, 2.25, 5.0, 1.0]}),
    (
        "Binomial",
        "integers",
        counted(td.Binomial, 3.0, 5.0, 5.0, 7.0),
        {"which": ORDER, "logits": LOGITS},
    ),
    (
        "NegativeBinomial",
        "counts",
        plain(td.NegativeBinomial),
        {"total_count": [0.5, 2.5, 7.0, 3.0], "logits": [-1.25, 0.5, 1.0, -0.25]},
    ),
    (
        "GammaPoisson",
        "counts",
        plain(dist.GammaPoisson),
        {"concentration": [0.5, 2.5, 7.0, 3.0], "rate": [0.75, 1.5, 3.0, 1.0]},
    ),
    (
        "ZeroInflatedPoisson",
        "counts",
        lambda rate, gate: dist.ZeroInflatedPoisson(rate, gate=gate, validate_args=False),
        {"rate": [0.5, 2.25, 5.0, 1.0], "gate": [0.125, 0.5, 0.25, 0.75]},
    ),
    (
        "BetaBinomial",
        "integers",
        counted(dist.BetaBinomial, 3.0, 3.0, 5.0, 4.0),
        {
            "which": ORDER,
            "concentration1": [0.5, 2.25, 5.0, 1.0],
            "concentration0": [1.5, 0.75, 3.0, 1.0],
        },
    ),
    ("Categorical", "integers", plain(td.Categorical), {"logits": CLASSES}),
    (
        "Categorical of four",
        "integers",
        plain(td.Categorical),
        {
            "logits": [
                [0.1, -0.4, 1.0, 0.0],
                [0.0, 2.0, 0.3, 1.0],
                [-1.0, 0.2, 0.5, 0.5],
                [0.0] * 4,
            ]
        },
    ),
    (
        "mixture of Bernoullis",
        "{0, 1}",
        mixture(td.Bernoulli),
        {
            "weights": [[0.0, 0.5], [1.0, 0.0], [0.25, -0.5], [0.0, 0.0]],
            "logits": [[0.0, 1.5], [-1.0, 1.0], [0.5, 2.0], [-0.5, 0.25]],
        },
    ),
    ("OneHotCategorical", "one-hot vectors", plain(td.OneHotCategorical), {"logits": CLASSES}),
    (
        "OneHotCategoricalStraightThrough",
        "one-hot vectors",
        plain(td.OneHotCategoricalStraightThrough),
        {"logits": CLASSES},
    ),
]


for _row in _COUNTS:
    add(Specimen(*_row))
