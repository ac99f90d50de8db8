"""Extreme parameters give finite draws, densities and gradients in float32."""

import itertools

import pytest
import torch
from pyro.distributions import constraints

from pyro_vae.families import registry
from pyro_vae.supports import inside

DRAWS = 100
# by name, else by constraint; a parameter that is no number of its own (a unit vector, a bound)
# keeps its standard value
RANGES = {
    "loc": (-50.0, 50.0),
    "predictor": (-50.0, 50.0),
    "logits": (-50.0, 50.0),
    "gate_logits": (-50.0, 50.0),
    "scale": (1e-6, 1e6),
    "scale_tril": (1e-6, 1e6),
    "cov_factor": (1e-3, 1e3),
    "cov_diag": (1e-6, 1e6),
    "temperature": (1e-2, 1e2),
}
POSITIVE = (1e-3, 1e6)  # concentrations, rates, df
POSITIVES = tuple(
    type(c)
    for c in (constraints.positive, constraints.softplus_positive, constraints.greater_than(0))
)


def range_of(name, parameter):
    if parameter.constraint.event_dim and name == "loc":
        return None
    if name in RANGES:
        return RANGES[name]
    return POSITIVE if isinstance(parameter.constraint, POSITIVES) else None


def corners(cls):
    """Every corner of the ranges of a family, then all corners in one batch of features."""
    names = [n for n, parameter in cls.spec.items() if range_of(n, parameter) is not None]
    ends = [range_of(name, cls.spec[name]) for name in names]
    return [dict(zip(names, corner, strict=True)) for corner in itertools.product(*ends)]


def leaves_of(cls, corner, mixed):
    """The family's standard values, extreme where the corner says so."""
    family = cls.example(3 if cls.min_features < 3 else cls.min_features)
    values = {name: family._standard(name) for name in cls.spec}
    for name, extreme in corner.items():
        value = values[name]
        if cls.spec[name].identity:
            values[name] = extreme * torch.eye(value.shape[-1])
        else:
            values[name] = torch.full_like(value, extreme)
            if mixed and value.dim():
                # one feature at the corner, the others as usual
                values[name] = torch.where(torch.arange(value.shape[-1]) == 0, extreme, value)
    return family, {n: v.clone().requires_grad_() for n, v in values.items()}


CASES = [
    pytest.param(
        name,
        corner,
        mixed,
        id=f"{name}-{'-'.join(f'{v:g}' for v in corner.values())}" + ("-mixed" if mixed else ""),
    )
    for name, cls in registry.items()
    if cls.spec
    for corner in corners(cls)
    for mixed in (False, True)
]


def finite(tensors):
    return all(t is None or bool(t.isfinite().all()) for t in tensors)


@pytest.mark.parametrize(("name", "corner", "mixed"), CASES)
def test_values_and_gradients_are_finite(name, corner, mixed):
    family, leaves = leaves_of(registry[name], corner, mixed)
    d = family.distribution(**leaves)
    x = d.rsample((DRAWS,)) if d.has_rsample else d.sample((DRAWS,))
    assert bool(x.isfinite().all()), "draws are not finite"
    assert inside(d.support, x), "draws leave the support"
    log_prob = d.log_prob(x)
    assert bool(log_prob.isfinite().all()), "the density of a draw is not finite"
    along = torch.autograd.grad(
        log_prob.sum(), list(leaves.values()), retain_graph=True, allow_unused=True
    )
    assert finite(along), "the gradient along the draws is not finite"
    fixed = d.log_prob(x.detach())
    held = torch.autograd.grad(fixed.sum(), list(leaves.values()), allow_unused=True)
    assert finite(held), "the gradient of the density is not finite"


def test_every_family_with_numbers_for_parameters_has_cases():
    covered = {case.values[0] for case in CASES}
    assert covered == {name for name, cls in registry.items() if cls.spec}
