"""Random members of every class with a line, over the ranges a training run can reach."""

from typing import NamedTuple

import pyro.distributions as dist
import torch
import torch.distributions as td

from pyro_vae.distributions import LogitNormal
from pyro_vae.kl.finiteness import finiteness
from pyro_vae.kl.lines import line_of
from pyro_vae.kl.quadrature import TOLERANCE, accepted, integral

F64 = torch.float64


def log_uniform(low, high):
    """10^U(low, high)."""
    return lambda g, n: 10 ** (low + (high - low) * torch.rand(n, generator=g, dtype=F64))


def normal(spread):
    """N(0, spread^2)."""
    return lambda g, n: spread * torch.randn(n, generator=g, dtype=F64)


def signed(g, n):
    """10^U(-4, 4), of either sign."""
    return SCALE(g, n) * torch.randn(n, generator=g, dtype=F64).sign()


SCALE, SHAPE = log_uniform(-4, 4), log_uniform(-2, 4)
# class -> parameters; "loc" of the line is in units of the scale in half of the draws
RANGES = {
    td.Normal: {"loc": normal(3), "scale": SCALE},
    td.StudentT: {"df": log_uniform(-1, 4), "loc": normal(3), "scale": SCALE},
    td.Cauchy: {"loc": normal(3), "scale": SCALE},
    td.Laplace: {"loc": normal(3), "scale": SCALE},
    dist.AsymmetricLaplace: {"loc": normal(3), "scale": SCALE, "asymmetry": log_uniform(-2, 2)},
    dist.SoftLaplace: {"loc": normal(3), "scale": SCALE},
    dist.Logistic: {"loc": normal(3), "scale": SCALE},
    dist.SkewLogistic: {"loc": normal(3), "scale": SCALE, "asymmetry": log_uniform(-2, 2)},
    td.Gumbel: {"loc": normal(3), "scale": SCALE},
    td.LogNormal: {"loc": normal(3), "scale": SCALE},
    td.Gamma: {"concentration": SHAPE, "rate": SCALE},
    td.Chi2: {"df": SHAPE},
    td.Exponential: {"rate": SCALE},
    td.InverseGamma: {"concentration": SHAPE, "rate": SCALE},
    td.Weibull: {"scale": SCALE, "concentration": SHAPE},
    td.HalfNormal: {"scale": SCALE},
    td.HalfCauchy: {"scale": SCALE},
    dist.FoldedDistribution: {"loc": normal(3), "scale": SCALE},
    td.Pareto: {"scale": SCALE, "alpha": SHAPE},
    td.FisherSnedecor: {"df1": SHAPE, "df2": SHAPE},
    LogitNormal: {"loc": normal(3), "scale": SCALE},
    td.Beta: {"concentration1": SHAPE, "concentration0": SHAPE},
    td.Kumaraswamy: {"concentration1": SHAPE, "concentration0": SHAPE},
    td.ContinuousBernoulli: {"logits": signed},
    td.RelaxedBernoulli: {"temperature": SCALE, "logits": normal(10)},
    td.Uniform: {"low": SCALE, "high": SCALE},
}


def draw(cls, n, generator):
    """n random members of a class, as one batch."""
    values = {name: sample(generator, n) for name, sample in RANGES[cls].items()}
    if {"loc", "scale"} <= set(values) and cls not in (td.LogNormal, LogitNormal):
        near = torch.rand(n, generator=generator) < 0.5
        values["loc"] = torch.where(near, values["loc"] * values["scale"], values["loc"])
    if cls is td.Uniform:
        values["high"] = values["low"] + values["high"]
    return build(cls, **values)


def build(cls, **values):
    """A member of a class."""
    if cls is dist.FoldedDistribution:
        return cls(td.Normal(**values, validate_args=False), validate_args=False)
    if cls is td.RelaxedBernoulli:
        return cls(values["temperature"], logits=values["logits"], validate_args=False)
    return cls(**values, validate_args=False)


def parameter(d, name):
    """A parameter of a member of a class."""
    return getattr(d if hasattr(d, name) else d.base_dist, name)


def possible():
    """The pairs of classes whose KL is defined and not infinite by their supports alone."""
    pairs = []
    for q in RANGES:
        for p in RANGES:
            g = torch.Generator().manual_seed(0)
            verdict = finiteness(draw(q, 50, g), draw(p, 50, g))
            if verdict.defined and bool(torch.as_tensor(verdict.finite).any()):
                pairs.append((q, p))
    return pairs


class Outcome(NamedTuple):
    """What came of the draws of one pair, for the elements whose KL is finite."""

    value: torch.Tensor
    error: torch.Tensor
    decade: torch.Tensor
    index: torch.Tensor


def attempt(q, p):
    """The quadrature of all elements that are finite, and the decade of their scale ratio."""
    batch = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    finite = torch.as_tensor(finiteness(q, p).finite).expand(batch)
    value, error = integral(line_of(q), line_of(p), batch, finite=finite)
    ratio = line_of(p).frame().scale / line_of(q).frame().scale
    decade = ratio.log10().expand(batch).round()
    keep = finite.nonzero().squeeze(-1)
    return Outcome(value[keep], error[keep], decade[keep], keep)


__all__ = [
    "RANGES",
    "TOLERANCE",
    "accepted",
    "attempt",
    "build",
    "draw",
    "parameter",
    "possible",
]
