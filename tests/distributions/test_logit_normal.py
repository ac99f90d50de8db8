"""The logit-normal against change of variables, quadrature and finite differences."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import TorchDistribution
from scipy import integrate, stats

from pyro_vae.distributions import LogitNormal

MEMBERS = [(0.0, 1.0), (1.5, 0.3), (-2.0, 2.5), (0.0, 8.0)]


def log_density(x, loc, scale):
    """The change of variables, by scipy."""
    return stats.norm.logpdf(np.log(x) - np.log1p(-x), loc, scale) - np.log(x) - np.log1p(-x)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("loc", "scale"), MEMBERS)
class TestDensity:
    def test_equals_the_change_of_variables(self, loc, scale):
        x = np.array([1e-12, 1e-3, 0.2, 0.5, 0.9, 1 - 1e-6])
        ours = LogitNormal(loc, scale).log_prob(torch.tensor(x))
        np.testing.assert_allclose(ours.numpy(), log_density(x, loc, scale), rtol=1e-9)

    def test_integrates_to_one(self, loc, scale):
        # in logit coordinates: dx = x (1 - x) dt
        def integrand(t):
            x = torch.sigmoid(torch.tensor(t))
            return (LogitNormal(loc, scale).log_prob(x).exp() * x * (1 - x)).item()

        # beyond |t| = 36 the double 1 - x loses its digits, which is a matter of x, not of p
        width = min(9 * scale, 30.0)
        inside, error = integrate.quad(integrand, loc - width, loc + width, epsabs=1e-11)
        truth = math.erf(width / scale / math.sqrt(2))
        assert abs(inside - truth) < 1e-8 + error

    def test_gradients_of_the_density(self, loc, scale):
        x = torch.tensor([0.1, 0.6, 0.93])
        parameters = [torch.tensor(v, requires_grad=True) for v in (loc, scale)]
        assert torch.autograd.gradcheck(lambda m, s: LogitNormal(m, s).log_prob(x), parameters)

    def test_draws_follow_it(self, loc, scale):
        x = LogitNormal(loc, scale).sample((20_000,)).numpy()
        inner = x[(x > 1e-300) & (x < 1 - 1e-15)]
        result = stats.kstest(inner, lambda v: stats.norm.cdf(np.log(v / (1 - v)), loc, scale))
        assert result.pvalue > 1e-6  # the probability with which a right sampler fails


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "function", [lambda x: x, lambda x: x**2, torch.log], ids=["x", "x2", "l"]
)
def test_pathwise_gradient_against_finite_differences_of_the_expectation(function):
    loc, scale, count, step = 0.4, 0.8, 200_000, 1e-4

    def expectation(loc, scale):
        def integrand(t):
            return function(torch.sigmoid(torch.tensor(t))).item() * stats.norm.pdf(t, loc, scale)

        return integrate.quad(integrand, loc - 10, loc + 10, epsabs=1e-12)[0]

    truth = [
        (expectation(loc + step, scale) - expectation(loc - step, scale)) / (2 * step),
        (expectation(loc, scale + step) - expectation(loc, scale - step)) / (2 * step),
    ]
    parameters = [torch.full((count,), v, requires_grad=True) for v in (loc, scale)]
    function(LogitNormal(*parameters).rsample()).sum().backward()
    for parameter, exact in zip(parameters, truth, strict=True):
        std_error = parameter.grad.std() / math.sqrt(count)
        assert abs(parameter.grad.mean() - exact) < 5 * std_error + 1e-7


def test_expand_keeps_the_density_and_the_class():
    d = LogitNormal(torch.tensor([0.0, 1.0]), 2.0)
    wide = d.expand((5, 2))
    assert type(wide) is LogitNormal
    assert isinstance(wide, TorchDistribution)
    assert wide.batch_shape == (5, 2)
    x = torch.rand(5, 2)
    torch.testing.assert_close(wide.log_prob(x), d.log_prob(x))
    assert wide.rsample((3,)).shape == (3, 5, 2)
    assert LogitNormal(0.0, 1.0).batch_shape == ()


@pytest.mark.parametrize("setting", [True, False])
def test_expand_keeps_the_validation_setting(setting):
    d = LogitNormal(torch.zeros(2), 1.0, validate_args=setting)
    assert d.expand((5, 2))._validate_args is setting


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loc", [-200.0, -30.0, 0.0, 30.0, 200.0])
def test_draws_lie_inside_and_have_a_finite_density(dtype, loc):
    d = LogitNormal(torch.tensor(loc, dtype=dtype), torch.tensor(9.0, dtype=dtype))
    x = d.rsample((10_000,))
    assert x.dtype == dtype
    assert bool(((x > 0) & (x < 1)).all())
    assert bool(d.log_prob(x).isfinite().all())


def test_gradients_stay_finite_where_float32_saturates():
    loc = torch.tensor([-200.0, 30.0], requires_grad=True)
    scale = torch.tensor(3.0, requires_grad=True)
    d = LogitNormal(loc, scale)
    d.log_prob(d.rsample((100,))).sum().backward()
    assert bool(loc.grad.isfinite().all())
    assert bool(scale.grad.isfinite().all())


def test_float32_density_near_the_ends_is_that_of_float64():
    x = torch.tensor([1e-30, 1e-6, 1 - 2**-20])
    single = LogitNormal(0.0, 3.0).log_prob(x)
    double = LogitNormal(torch.tensor(0.0).double(), 3.0).log_prob(x.double())
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_validation():
    with pytest.raises(ValueError, match="scale"):
        LogitNormal(0.0, -1.0, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        LogitNormal(0.0, 1.0, validate_args=True).log_prob(torch.tensor(1.5))
    assert LogitNormal(0.0, 1.0, validate_args=False).log_prob(torch.tensor(1.5)).isnan()


def test_in_a_pyro_plate():
    with pyro.plate("data", 7):
        assert pyro.sample("z", LogitNormal(torch.zeros(3), 1.0).to_event(1)).shape == (7, 3)
