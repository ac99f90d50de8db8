"""Relaxed families of several temperatures, and straight-through masses."""

from __future__ import annotations

__all__: list[str] = []

import torch.distributions as td

from pyro_vae.distributions import (
    OneHotCategorical,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    StraightThroughBernoulli,
    StraightThroughOneHotCategorical,
)
from pyro_vae.kl.specimens.makers import plain
from pyro_vae.kl.specimens.settings import CLASSES, LOGITS, UNIT
from pyro_vae.kl.specimens.shelf import Row, Specimen, add

# lower ones have mass so near to 1 that the oracle, which looks at x, cannot see it
_TEMPERATURES = [0.75, 1.5, 1.0, 2.5]
_BITS = [[0.5, 0.0], [-1.0, 0.5], [2.0, 0.0], [0.0, 0.25]]

_RELAXED: list[tuple[str, Row]] = [
    (
        "",
        (
            "RelaxedBernoulli of several temperatures",
            UNIT,
            plain(RelaxedBernoulli),
            {"logits": LOGITS, "temperature": _TEMPERATURES},
        ),
    ),
    (
        "relaxed one-hot vectors",
        (
            "RelaxedOneHotCategorical of our own",
            "simplex",
            plain(RelaxedOneHotCategorical, temperature=1.25),
            {"logits": CLASSES},
        ),
    ),
    (
        # as priors they have other temperatures, where no form is known
        "relaxed one-hot vectors",
        (
            "RelaxedOneHotCategorical of several temperatures",
            "simplex",
            plain(RelaxedOneHotCategorical),
            {"logits": CLASSES, "temperature": _TEMPERATURES},
        ),
    ),
    (
        "relaxed bits",
        (
            "RelaxedOneHotCategorical of two, of several temperatures",
            "simplex",
            plain(RelaxedOneHotCategorical),
            {"logits": _BITS, "temperature": _TEMPERATURES},
        ),
    ),
]

_STRAIGHT: list[tuple[str, Row]] = [
    (
        "straight-through bits",
        (
            "StraightThroughBernoulli",
            "{0, 1}",
            plain(StraightThroughBernoulli),
            {"logits": LOGITS},
        ),
    ),
    (
        "straight-through bits",
        (
            "Bernoulli beside straight-through bits",
            "{0, 1}",
            plain(td.Bernoulli),
            {"logits": LOGITS},
        ),
    ),
    (
        "straight-through vectors",
        (
            "StraightThroughOneHotCategorical",
            "one-hot vectors",
            plain(StraightThroughOneHotCategorical),
            {"logits": CLASSES},
        ),
    ),
    (
        "straight-through vectors",
        (
            "OneHotCategorical of our own",
            "one-hot vectors",
            plain(OneHotCategorical),
            {"logits": CLASSES},
        ),
    ),
]

for _group, _row in (*_RELAXED, *_STRAIGHT):
    add(Specimen(*_row, group=_group))
