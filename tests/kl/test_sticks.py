"""KLs on the simplex: sums over sticks, told by their route, held against draws."""

import itertools

import pytest
import torch
import torch.distributions as td

from pyro_vae import kl
from pyro_vae.distributions import GEM, Dirichlet, Kumaraswamy, LogisticNormal, StickBreaking

F64 = torch.float64


def t(*values):
    return torch.tensor(values, dtype=F64)


MEMBERS = {
    "Dirichlet": Dirichlet(t(0.8, 2.0, 1.5, 3.0)),
    "LogisticNormal": LogisticNormal(t(0.3, -0.5, 0.2), t(0.7, 1.2, 0.5)),
    "StickBreaking": StickBreaking(t(1.5, 0.8, 2.0), t(2.0, 3.0, 1.2)),
    "GEM": GEM(torch.tensor(1.7, dtype=F64), 4),
}
CLOSED = {
    ("Dirichlet", "Dirichlet"),
    ("Dirichlet", "LogisticNormal"),
    ("Dirichlet", "GEM"),
    ("GEM", "Dirichlet"),
    ("GEM", "LogisticNormal"),
    ("GEM", "GEM"),
    ("LogisticNormal", "LogisticNormal"),
}
PAIRS = list(itertools.product(MEMBERS, MEMBERS))
pairs = pytest.mark.parametrize(("q", "p"), PAIRS)


@pairs
def test_route(q, p):
    told = kl.route(MEMBERS[q], MEMBERS[p])
    # of Kumaraswamys alone that of equal sticks is closed, which no class can tell
    assert told.kind == ("closed" if (q, p) in CLOSED else "quadrature")
    assert bool(told.finite)


@pairs
def test_value_against_draws(q, p):
    guide, prior = MEMBERS[q], MEMBERS[p]
    x = guide.sample((20_000,))
    terms = guide.log_prob(x) - prior.log_prob(x)
    error = terms.std() / len(x) ** 0.5
    assert abs(terms.mean() - kl.divergence(guide, prior)) < 5 * error + 1e-12


def test_sticks_add_up():
    q, p = MEMBERS["StickBreaking"], MEMBERS["GEM"]
    each = kl.divergence(Kumaraswamy(q.concentration1, q.concentration0), td.Beta(t(1.0), 1.7))
    torch.testing.assert_close(kl.divergence(q, p), each.sum())


def test_uniform_sticks_are_gem_of_one():
    q = StickBreaking(torch.ones(3, dtype=F64), torch.ones(3, dtype=F64))
    assert kl.divergence(q, GEM(torch.ones((), dtype=F64), 4)).abs() < 1e-12


def test_of_two_parts_it_is_that_of_numbers():
    a, b = torch.rand(2, 5, 1, dtype=F64) + 0.5
    q = kl.divergence(StickBreaking(a, b), Dirichlet(torch.full((2,), 2.0, dtype=F64)))
    number = kl.divergence(Kumaraswamy(a[:, 0], b[:, 0]), td.Beta(t(2.0), 2.0))
    torch.testing.assert_close(q, number)


def test_both_logistic_normals_are_one():
    loc, scale = t(0.1, 0.2), t(0.5, 1.0)
    ours, torchs = LogisticNormal(loc, scale), td.LogisticNormal(loc, scale)
    prior = Dirichlet(torch.ones(3, dtype=F64))
    torch.testing.assert_close(kl.divergence(ours, prior), kl.divergence(torchs, prior))
    assert kl.divergence(ours, torchs).abs() < 1e-14


def test_batches_and_gradients():
    a = (torch.rand(7, 2, 3, dtype=F64) + 0.5).requires_grad_()
    alpha = torch.rand(2, dtype=F64).add(0.5).requires_grad_()
    value = kl.divergence(StickBreaking(a, 2 * a), GEM(alpha, 4))
    assert value.shape == (7, 2)
    value.sum().backward()
    assert bool((a.grad != 0).all())
    assert bool((alpha.grad != 0).all())

    def small(a, alpha):
        return kl.divergence(StickBreaking(a, 2 * a), GEM(alpha, 4))

    assert torch.autograd.gradcheck(small, (a[0].detach().requires_grad_(), alpha), atol=1e-6)
