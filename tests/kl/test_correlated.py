"""Independent elements against correlated Gaussians, from scipy's entropies and moments."""

import math

import numpy as np
import pytest
import torch
import torch.distributions as td
from scipy import stats
from torch import tensor

from pyro_vae import distributions as own
from pyro_vae import kl

A, B = tensor([0.5, -1.0, 2.0]), tensor([0.7, 1.5, 3.5])
GUIDES = {
    "laplace": (td.Laplace(A, B), stats.laplace(A, B)),
    "logistic": (own.Logistic(A, B), stats.logistic(A, B)),
    "gumbel": (own.Gumbel(A, B), stats.gumbel_r(A, B)),
    "student_t": (own.StudentT(2 + B, A, B), stats.t(2 + B.double(), A, B)),
    "gamma": (own.Gamma(B, B.flip(0)), stats.gamma(B, scale=1 / B.flip(0))),
    "weibull": (own.Weibull(B.flip(0), B), stats.weibull_min(B, scale=B.flip(0))),
    "beta": (td.Beta(B, B.flip(0)), stats.beta(B, B.flip(0))),
}


def covariance(kind):
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    if kind == "low rank":
        factor, diag = root[:, :2], tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        return own.LowRankMultivariateNormal(root[:, 2], factor, diag)
    tril = root.tril(-1) + torch.diag_embed(root.diagonal().exp())
    return td.MultivariateNormal(root[:, 2], scale_tril=tril)


def by_hand(law, p):
    """-H(q) - E_q log p from entropies, means and variances."""
    covariance = p.covariance_matrix.numpy()
    precision = np.linalg.inv(covariance)
    away = law.mean() - p.loc.numpy()
    second = np.trace(precision @ np.diag(law.var())) + away @ precision @ away
    log_det = np.linalg.slogdet(covariance)[1]
    return (second + log_det + 3 * math.log(2 * math.pi)) / 2 - law.entropy().sum()


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("kind", ["full", "low rank"])
def test_kl_is_that_of_the_moments(name, kind):
    guide, law = GUIDES[name]
    q, p = td.Independent(guide, 1), covariance(kind)
    route = kl.route(q, p)
    assert route.kind == "closed"
    assert "correlations" in route.reason
    assert kl.divergence(q, p).item() == pytest.approx(by_hand(law, p), rel=1e-6)


@pytest.mark.parametrize("cls", [td.Normal, td.Laplace], ids=lambda cls: cls.__name__)
def test_reshaped_vectors_are_vectors(cls):
    p = covariance("full")
    reshape = td.transforms.ReshapeTransform(torch.Size([3]), torch.Size([3, 1]))
    shaped = td.TransformedDistribution(p, [reshape])
    loc, scale = A.expand(5, 3), B.double()
    flat = kl.divergence(td.Independent(cls(loc, scale), 1), p)
    q = td.Independent(cls(loc.unsqueeze(-1), scale.unsqueeze(-1)), 2)
    assert kl.route(q, shaped).kind == "closed"
    torch.testing.assert_close(kl.divergence(q, shaped), flat)


def test_batches_broadcast():
    q = td.Independent(td.Laplace(A.expand(5, 1, 3), B), 1)
    p = td.MultivariateNormal(torch.zeros(4, 3), scale_tril=torch.eye(3))
    assert kl.divergence(q, p).shape == (5, 4)
    plain = kl.divergence(q, td.Independent(td.Normal(torch.zeros(4, 3), 1.0), 1))
    torch.testing.assert_close(kl.divergence(q, p), plain)


@pytest.mark.parametrize("kind", ["full", "low rank"])
def test_gradients_are_those_of_differences(kind):
    p = covariance(kind)
    matrix = p.scale_tril if kind == "full" else p.cov_factor

    def divergence(loc, scale, mean, matrix):
        q = td.Independent(own.Gumbel(loc, scale), 1)
        if kind == "full":
            return kl.divergence(q, td.MultivariateNormal(mean, scale_tril=matrix.tril()))
        return kl.divergence(q, own.LowRankMultivariateNormal(mean, matrix, p.cov_diag))

    leaves = [t.detach().double().clone().requires_grad_() for t in (A, B, p.loc, matrix)]
    assert torch.autograd.gradcheck(divergence, leaves)


def test_infinite_elements_are_infinite_with_zero_gradient():
    df = tensor([[3.0, 1.5, 4.0], [3.0, 5.0, 4.0]], requires_grad=True)
    tril = torch.eye(3).requires_grad_()
    q = td.Independent(own.StudentT(df, 0.0, 1.0), 1)
    p = td.MultivariateNormal(torch.ones(3), scale_tril=tril)
    assert kl.route(q, p).finite.tolist() == [False, True]
    value = kl.divergence(q, p)
    assert value.isinf().tolist() == [True, False]
    value[0].backward()
    assert df.grad.eq(0).all()
    assert tril.grad.eq(0).all()


def test_without_a_mean_it_is_not_exact():
    q = td.Independent(own.LogitNormal(A, B), 1)
    assert kl.route(q, covariance("full")).kind == "sampled"
    q = td.Independent(own.HalfCauchy(B), 1)
    assert kl.route(q, covariance("full")).kind == "infinite"
