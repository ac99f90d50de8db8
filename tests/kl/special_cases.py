"""Pairs that need a form or a reduction of their own, each a function of its parameters.

A case builds (q, p) from float64 tensors whose leading dimension is the batch of three; the laws
of `test_special_laws.py` range over all of them.
"""

from typing import NamedTuple

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch.distributions import transforms

from pyro_vae.distributions import (
    CircularUniform,
    LogitNormal,
    Sticks,
    VonMises,
    WrappedNormal,
)


class Case(NamedTuple):
    make: object  # (*parameters) -> (q, p)
    shapes: tuple  # of the parameters, without the batch
    # Wishart reads its parameters when it is built, which no graph allows
    capturable: bool = True
    # torch's LKJCholesky.sample draws from another distribution than its log_prob
    samples: bool = True


def tril(raw):
    """A Cholesky factor from any matrix."""
    return (0.3 * raw).tril(-1) + torch.diag_embed((0.3 * raw.diagonal(dim1=-2, dim2=-1)).exp())


def positive(raw):
    return (0.4 * raw).exp()


def mvn(m, r):
    return dist.MultivariateNormal(m, scale_tril=tril(r))


def mvt(v, m, r, least=3.0):
    return dist.MultivariateStudentT(least + positive(v), m, tril(r))


def low_rank(m, w, c):
    return dist.LowRankMultivariateNormal(m, w, positive(c))


def normals(m, s):
    return dist.Normal(m, positive(s)).to_event(1)


def wishart(v, r):
    return dist.Wishart(4.0 + positive(v), scale_tril=tril(r))


def concrete(logits, tau=0.5, cls=dist.RelaxedOneHotCategorical):
    return cls(torch.tensor(tau, dtype=logits.dtype), logits=logits)


def logistic_normal(m, s):
    return dist.LogisticNormal(m, positive(s))


def broken(elements):
    return dist.TransformedDistribution(elements.to_event(1), [Sticks()])


def kumaraswamy(a, b):
    return dist.Kumaraswamy(1.0 + positive(a), 1.0 + positive(b))


def exp(base):
    return dist.TransformedDistribution(base, [transforms.ExpTransform()])


def affine(base, loc, scale):
    return dist.TransformedDistribution(base, [transforms.AffineTransform(loc, scale)])


V, M, F = (), (3,), (3, 3)

CASES = {
    "diagonal-student": Case(lambda m, s, *t: (normals(m, s), mvt(*t)), (M, M, V, M, F)),
    "full-student": Case(lambda m, r, *t: (mvn(m, r), mvt(*t)), (M, F, V, M, F)),
    "low_rank-student": Case(
        lambda m, w, c, *t: (low_rank(m, w, c), mvt(*t)), (M, (3, 1), M, V, M, F)
    ),
    "student-full": Case(lambda v, m, r, *n: (mvt(v, m, r, 6.0), mvn(*n)), (V, M, F, M, F)),
    "student-low_rank": Case(
        lambda v, m, r, *n: (mvt(v, m, r, 6.0), low_rank(*n)), (V, M, F, M, (3, 1), M)
    ),
    "student-student": Case(lambda v, m, r, *t: (mvt(v, m, r, 1.0), mvt(*t)), (V, M, F, V, M, F)),
    "student_t-student_t": Case(
        lambda v, m, s, u, a, b: (
            dist.StudentT(1 + positive(v), m, positive(s)),
            dist.StudentT(1 + positive(u), a, positive(b)),
        ),
        (V,) * 6,
    ),
    "student-independent": Case(
        lambda v, m, r, *n: (mvt(v, m, r, 6.0), normals(*n)), (V, M, F, M, M)
    ),
    "student-laplaces": Case(
        lambda v, m, r, a, b: (mvt(v, m, r), dist.Laplace(a, positive(b)).to_event(1)),
        (V, M, F, M, M),
    ),
    "full-students": Case(
        lambda m, r, a, b: (mvn(m, r), dist.StudentT(4.0, a, positive(b)).to_event(1)),
        (M, F, M, M),
    ),
    "exp_full-gammas": Case(
        lambda m, r, a, b: (
            exp(mvn(m, 0.5 * r)),
            dist.Gamma(positive(a), positive(b)).to_event(1),
        ),
        (M, F, M, M),
    ),
    "full-masked": Case(
        lambda m, r, a, b: (
            mvn(m, r),
            dist.Laplace(a, positive(b)).mask(torch.tensor([True, False, True])).to_event(1),
        ),
        (M, F, M, M),
    ),
    "wishart-wishart": Case(
        lambda v, r, u, s: (wishart(v, r), wishart(u, s)), (V, F, V, F), capturable=False
    ),
    "lkj-lkj": Case(
        lambda a, b: (dist.LKJCholesky(4, positive(a)), dist.LKJCholesky(4, positive(b))),
        (V, V),
        samples=False,
    ),
    "concrete-concrete": Case(lambda a, b: (concrete(a), concrete(b)), (M, M)),
    "log_concrete-log_concrete": Case(
        lambda a, b: tuple(
            concrete(x, cls=td.relaxed_categorical.ExpRelaxedCategorical) for x in (a, b)
        ),
        (M, M),
    ),
    "concrete_of_two": Case(lambda a, b: (concrete(a), concrete(b, 0.7)), ((2,), (2,))),
    "relaxed_bernoulli": Case(
        lambda a, b: (
            dist.RelaxedBernoulli(torch.tensor(0.5, dtype=a.dtype), logits=a),
            dist.RelaxedBernoulli(torch.tensor(0.8, dtype=a.dtype), logits=b),
        ),
        (V, V),
    ),
    "relaxed_bernoulli-logit_normal": Case(
        lambda a, b, c: (
            dist.RelaxedBernoulli(torch.tensor(0.5, dtype=a.dtype), logits=a),
            LogitNormal(b, positive(c)),
        ),
        (V, V, V),
    ),
    "von_mises": Case(
        lambda a, k, b, c: (dist.VonMises(a, positive(k)), dist.VonMises(b, positive(c))),
        (V, V, V, V),
    ),
    "von_mises-uniform": Case(
        lambda a, k: (dist.VonMises(a, positive(k)), dist.Uniform(-torch.pi, torch.pi)), (V, V)
    ),
    "uniform-von_mises": Case(
        lambda a, k, b: (dist.Uniform(-1.0, positive(b)), dist.VonMises(a, positive(k))),
        (V, V, V),
    ),
    "von_mises-circular": Case(
        lambda a, k: (VonMises(a, positive(k)), CircularUniform(a.shape, a.detach())), (V, V)
    ),
    "circular-von_mises": Case(
        lambda a, k: (CircularUniform(a.shape, a.detach()), VonMises(a, positive(k))), (V, V)
    ),
    "von_mises-wrapped": Case(
        lambda a, k, b, s: (VonMises(a, positive(k)), WrappedNormal(b, positive(s))),
        (V, V, V, V),
    ),
    "wrapped-von_mises": Case(
        lambda b, s, a, k: (WrappedNormal(b, positive(s)), VonMises(a, positive(k))),
        (V, V, V, V),
    ),
    "wrapped-wrapped": Case(
        lambda a, k, b, s: (WrappedNormal(a, positive(k)), WrappedNormal(b, positive(s))),
        (V, V, V, V),
    ),
    "wrapped-circular": Case(
        lambda a, s: (WrappedNormal(a, positive(s)), CircularUniform(a.shape, a.detach())), (V, V)
    ),
    "circular-wrapped": Case(
        lambda a, s: (CircularUniform(a.shape, a.detach()), WrappedNormal(a, positive(s))), (V, V)
    ),
    "wrapped-uniform": Case(
        lambda a, s: (WrappedNormal(a, positive(s)), dist.Uniform(-torch.pi, torch.pi)), (V, V)
    ),
    "dirichlet-logistic_normal": Case(
        lambda a, m, s: (dist.Dirichlet(1 + positive(a)), logistic_normal(m, s)), ((4,), M, M)
    ),
    "logistic_normal-dirichlet": Case(
        lambda a, m, s: (logistic_normal(m, s), dist.Dirichlet(1 + positive(a))), ((4,), M, M)
    ),
    "kumaraswamy_sticks-dirichlet": Case(
        lambda a, b, c: (broken(kumaraswamy(a, b)), dist.Dirichlet(positive(c))), (M, M, (4,))
    ),
    "dirichlet-beta_sticks": Case(
        lambda c, a, b: (
            dist.Dirichlet(1 + positive(c)),
            broken(dist.Beta(positive(a), positive(b))),
        ),
        ((4,), M, M),
    ),
    "half_normal-half_cauchy": Case(
        lambda a, b: (dist.HalfNormal(positive(a)), dist.HalfCauchy(positive(b))), (V, V)
    ),
    "affine-of-laplace": Case(
        lambda a, b, c, s: (affine(dist.Laplace(a, 1.0), b, 0.2 - c**2), dist.Normal(s, 2.0)),
        (V, V, V, V),
    ),
    "affine-of-full": Case(
        lambda m, r, a, b, n, s: (affine(mvn(m, r), a, -positive(b)), mvn(n, s)),
        (M, F, M, M, M, F),
    ),
    "mixed_coins": Case(
        lambda w, a, b: (
            dist.MixtureSameFamily(dist.Categorical(logits=w), dist.Bernoulli(logits=a)),
            dist.Bernoulli(logits=b),
        ),
        ((2,), (2,), V),
    ),
}


def parameters(name, seed=0, dtype=torch.float64):
    """Random leaves of a case, of batch shape (3,)."""
    g = torch.Generator().manual_seed(seed)
    shapes = CASES[name].shapes
    return [
        torch.randn(3, *s, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
        for s in shapes
    ]
