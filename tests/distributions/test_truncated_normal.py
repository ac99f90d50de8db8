"""The truncated normal against mpmath's error function, wherever its interval lies."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.distributions import TruncatedNormal

F64 = torch.float64
# loc, scale, low, high: inside, at an end, tails of both sides, narrow, wide, far out
MEMBERS = [
    (0.5, 1.0, 0.0, 1.0),
    (0.0, 1.0, -1.0, 1.0),
    (0.3, 0.01, 0.0, 1.0),
    (0.0, 1e-6, 0.0, 1.0),
    (-3.0, 0.7, 0.0, 1.0),
    (5.0, 0.05, 0.0, 1.0),
    (-1e3, 1.0, 0.0, 1.0),
    (1e3, 1.0, 0.0, 1.0),
    (0.2, 1e6, 0.0, 1.0),
    (-30.0, 8.0, 2.0, 3.0),
    (0.0, 1.0, -9.0, 1000.0),
    (-1.0, 0.2, -40.0, 50.0),
]
members = pytest.mark.parametrize("member", MEMBERS, ids=str)
SHARES = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.9, 0.999, 1 - 1e-6], dtype=F64)


def made(member, **options):
    return TruncatedNormal(*(torch.tensor(v, dtype=F64) for v in member), **options)


class Exact:
    """The same law by its textbook formulas, in 60 digits, where they cancel to none in 16."""

    def __init__(self, loc, scale, low, high):
        self.loc, self.scale = mp.mpf(loc), mp.mpf(scale)
        self.ends = [(mp.mpf(v) - self.loc) / self.scale for v in (low, high)]
        self.mass = self.between(*self.ends)

    def between(self, a, b):
        root = mp.sqrt(2)
        if a > 0:
            return (mp.erfc(a / root) - mp.erfc(b / root)) / 2
        if b < 0:
            return (mp.erfc(-b / root) - mp.erfc(-a / root)) / 2
        return (mp.erf(b / root) - mp.erf(a / root)) / 2

    def log_prob(self, x):
        z = (mp.mpf(x) - self.loc) / self.scale
        return -z * z / 2 - mp.log(self.scale * mp.sqrt(2 * mp.pi) * self.mass)

    def cdf(self, x):
        return self.between(self.ends[0], (mp.mpf(x) - self.loc) / self.scale) / self.mass

    def moments(self):
        (a, b), (pa, pb) = self.ends, [mp.npdf(e) for e in self.ends]
        shift = (pa - pb) / self.mass
        mean = self.loc + self.scale * shift
        return mean, self.scale**2 * (1 + (a * pa - b * pb) / self.mass - shift**2)


@pytest.fixture(autouse=True)
def digits():
    with mp.workdps(60):
        yield


@members
def test_density_and_distribution_function(member):
    d, exact = made(member), Exact(*member)
    x = d.icdf(SHARES)
    truth = [float(exact.log_prob(v)) for v in x.tolist()]
    np.testing.assert_allclose(d.log_prob(x), truth, rtol=1e-13, atol=1e-10)
    truth = [float(exact.cdf(v)) for v in x.tolist()]
    np.testing.assert_allclose(d.cdf(x), truth, rtol=1e-9)


@members
def test_moments_and_entropy(member):
    d, exact = made(member), Exact(*member)
    mean, variance = exact.moments()
    width = math.sqrt(variance)
    assert abs(d.mean.item() - float(mean)) < 1e-10 * width + 1e-15 * abs(float(mean))
    assert d.variance.item() == pytest.approx(float(variance), rel=1e-10)
    # -E log p is a combination of the two moments
    square = (variance + (mean - exact.loc) ** 2) / (2 * exact.scale**2)
    entropy = square + mp.log(exact.scale * mp.sqrt(2 * mp.pi) * exact.mass)
    assert d.entropy().item() == pytest.approx(float(entropy), abs=1e-10)


@members
def test_quantiles_invert_the_distribution_function(member):
    x, exact = made(member).icdf(SHARES), Exact(*member)
    shares = [float(exact.cdf(v)) for v in x.tolist()]
    np.testing.assert_allclose(shares, SHARES, atol=1e-9)


@members
def test_derivatives_of_quantiles_are_those_of_finite_differences(member):
    leaves = [torch.tensor(v, dtype=F64, requires_grad=True) for v in member]
    x = TruncatedNormal(*leaves).icdf(SHARES)
    exact = Exact(*member)
    # of the distribution function, at fixed x: dx/dtheta = -(dF/dtheta) / p
    for i in (1, 3, 5):
        ours = torch.autograd.grad(x[i], leaves, retain_graph=True)
        place = x[i].item()
        density = mp.exp(exact.log_prob(place))
        for k, (slope, value) in enumerate(zip(ours, member, strict=True)):

            def shifted(step, k=k, place=place):
                moved = [mp.mpf(v) for v in member]
                moved[k] += step
                return Exact(*moved).cdf(place)

            step = mp.mpf(10) ** -20 * max(1, abs(value))
            truth = -(shifted(step) - shifted(-step)) / (2 * step) / density
            assert slope.item() == pytest.approx(float(truth), rel=1e-6, abs=1e-14)


def test_scipy_agrees():
    loc, scale, low, high = MEMBERS[4]
    other = stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)
    x = np.linspace(0.01, 0.99, 9)
    np.testing.assert_allclose(made(MEMBERS[4]).log_prob(torch.tensor(x)), other.logpdf(x), 1e-10)


@pytest.mark.parametrize("member", MEMBERS[:6] + MEMBERS[9:], ids=str)
def test_draws_follow_it(member):
    d = made(member)
    u = d.cdf(d.sample((5000,)))
    # the probability with which a right sampler fails
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-6


def test_gradients_of_the_density():
    x = torch.tensor([0.1, 0.6, 0.93], dtype=F64)
    for member in (MEMBERS[0], MEMBERS[4], MEMBERS[5], MEMBERS[8]):
        leaves = [torch.tensor(v, dtype=F64, requires_grad=True) for v in member]
        assert torch.autograd.gradcheck(
            lambda *p: TruncatedNormal(*p, validate_args=False).log_prob(x), leaves
        )


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("loc", [-1e6, -50.0, 0.0, 0.5, 1.0, 50.0, 1e6])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e6])
def test_extreme_members_have_finite_draws_densities_and_gradients(dtype, loc, scale):
    leaves = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in (loc, scale)]
    d = TruncatedNormal(*leaves)
    x = d.rsample((200,))
    assert x.dtype == dtype
    assert bool(((x > 0) & (x < 1)).all())
    log_prob = d.log_prob(x)
    assert bool(log_prob.isfinite().all())
    slopes = torch.autograd.grad(log_prob.sum(), leaves)
    assert all(bool(s.isfinite()) for s in slopes)


def test_far_out_it_is_exponential():
    d = TruncatedNormal(torch.tensor(-1e9, dtype=F64), 1.0)
    assert d.mean.item() == pytest.approx(1e-9, rel=1e-12)
    assert d.variance.item() == pytest.approx(1e-18, rel=1e-12)


def test_shapes_and_expansion():
    d = TruncatedNormal(torch.zeros(4, 1), torch.ones(3), -1.0, 2.0)
    assert d.batch_shape == (4, 3)
    assert d.rsample((5,)).shape == (5, 4, 3)
    wide = d.expand((2, 4, 3))
    x = d.sample()
    torch.testing.assert_close(wide.log_prob(x), d.log_prob(x).expand(2, 4, 3))
    assert wide.support.lower_bound.shape == (2, 4, 3)


def test_validation():
    with pytest.raises(ValueError, match="low < high"):
        TruncatedNormal(0.0, 1.0, 1.0, 1.0, validate_args=True)
    with pytest.raises(ValueError, match="scale"):
        TruncatedNormal(0.0, -1.0, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        made(MEMBERS[0], validate_args=True).log_prob(torch.tensor(1.5))
    outside = made(MEMBERS[0], validate_args=False).log_prob(torch.tensor([-0.1, 0.5, 1.5]))
    assert outside.isfinite().tolist() == [False, True, False]
