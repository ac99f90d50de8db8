"""The continuous Bernoulli against mpmath, at and around p = 1/2 as well as far out."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
import torch.distributions as td
from scipy import stats

from pyro_vae.distributions import ContinuousBernoulli
from pyro_vae.distributions.continuous_bernoulli import log_partition

F64 = torch.float64
LOGITS = [0.0, 1e-12, -1e-5, 0.004, 0.0099, -0.0101, 0.29, 0.31, 1.0, -7.0, 50.0, -50.0, 1e4]
all_logits = pytest.mark.parametrize("eta", LOGITS)
X = torch.tensor([1e-9, 0.01, 0.3, 0.5, 0.9, 1 - 1e-9], dtype=F64)


def exact(function, *orders):
    """A function of eta in 150 digits, through a removable singularity at 0."""
    with mp.workdps(150):
        return float(function(*(mp.mpf(o) + mp.mpf(10) ** -25 for o in orders)))


def log_norm(eta):
    return mp.log(mp.expm1(eta) / eta)


@all_logits
def test_density(eta):
    ours = ContinuousBernoulli(torch.tensor(eta, dtype=F64)).log_prob(X)
    truth = [exact(lambda t, x=x: t * x - log_norm(t), eta) for x in X.tolist()]
    np.testing.assert_allclose(ours, truth, rtol=1e-13, atol=1e-10)


@all_logits
@pytest.mark.parametrize("order", [0, 1, 2])
def test_normaliser_mean_and_variance(eta, order):
    def derivative(t):
        e = mp.exp(t)
        if order == 0:
            return log_norm(t)
        return e / (e - 1) - 1 / t if order == 1 else 1 / t**2 - e / (e - 1) ** 2

    value = log_partition(torch.tensor(eta, dtype=F64), order).item()
    assert value == pytest.approx(exact(derivative, eta), rel=1e-12, abs=1e-13)


@all_logits
def test_quantiles_and_their_derivative(eta):
    u = torch.tensor([1e-6, 0.1, 0.5, 0.8, 1 - 1e-6], dtype=F64)
    leaf = torch.full_like(u, eta, requires_grad=True)
    x = ContinuousBernoulli(leaf).icdf(u)
    x.sum().backward()

    def quantile(t, share):
        return mp.log(1 + share * mp.expm1(t)) / t

    with mp.workdps(400 if abs(eta) < 100 else 9000):
        start, step = mp.mpf(eta) + mp.mpf(10) ** -25, mp.mpf(10) ** -30
        for share, place, slope in zip(u.tolist(), x.tolist(), leaf.grad.tolist(), strict=True):
            share = mp.mpf(share)
            assert place == pytest.approx(float(quantile(start, share)), rel=1e-10, abs=1e-15)
            change = quantile(start + step, share) - quantile(start - step, share)
            assert slope == pytest.approx(float(change / (2 * step)), rel=1e-7, abs=1e-14)


@all_logits
def test_quantiles_invert_the_distribution_function(eta):
    d = ContinuousBernoulli(torch.tensor(eta, dtype=F64))
    u = torch.tensor([0.001, 0.1, 0.5, 0.9, 0.999], dtype=F64)
    torch.testing.assert_close(d.cdf(d.icdf(u)), u, rtol=1e-10, atol=1e-10)


def test_entropy_is_that_of_an_exponential_far_out():
    d = ContinuousBernoulli(torch.tensor([0.0, 1e4, -1e4], dtype=F64))
    truth = torch.tensor([0.0, 1 - math.log(1e4), 1 - math.log(1e4)], dtype=F64)
    torch.testing.assert_close(d.entropy(), truth, atol=1e-10, rtol=1e-10)


def test_draws_have_a_gradient_at_one_half_where_torchs_have_none():
    grads = []
    for cls in (td.ContinuousBernoulli, ContinuousBernoulli):
        eta = torch.zeros(20_000, dtype=F64, requires_grad=True)
        cls(logits=eta).rsample().tanh().sum().backward()
        grads.append(eta.grad)
    assert bool((grads[0] == 0).all())
    # dE[tanh x] / deta = Cov(tanh x, x), x uniform
    x = np.linspace(0, 1, 200_001)
    t = np.tanh(x)
    truth = np.trapezoid(t * x, x) - np.trapezoid(t, x) / 2
    error = grads[1].std() / math.sqrt(len(grads[1]))
    assert abs(grads[1].mean() - truth) < 5 * error


@all_logits
def test_draws_follow_it(eta):
    d = ContinuousBernoulli(torch.tensor(eta, dtype=F64))
    u = d.cdf(d.sample((4000,)))
    # the probability with which a right sampler fails
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-6


@all_logits
def test_single_precision_is_double_precision_rounded(eta):
    single = ContinuousBernoulli(torch.tensor(eta))
    double = ContinuousBernoulli(torch.tensor(eta).double())
    x = X.float()
    torch.testing.assert_close(single.log_prob(x), double.log_prob(x.double()).float())
    drawn = single.sample((1000,))
    assert bool(((drawn > 0) & (drawn < 1)).all())
    assert bool(single.log_prob(drawn).isfinite().all())


def test_shapes_and_validation():
    d = ContinuousBernoulli(torch.zeros(3))
    assert d.expand((2, 3)).rsample((5,)).shape == (5, 2, 3)
    assert ContinuousBernoulli(0.0).batch_shape == ()
    torch.testing.assert_close(d.probs, torch.full((3,), 0.5))
    torch.testing.assert_close(d.mean, torch.full((3,), 0.5))
    torch.testing.assert_close(d.variance, torch.full((3,), 1 / 12))
    with pytest.raises(ValueError, match="logits"):
        ContinuousBernoulli(torch.tensor(math.nan), validate_args=True)
