"""The projected normal in every dimension: density against mpmath and Pyro, draws against it.

At 4.5 standard errors a statistical check fails by chance once in 150,000.
"""

import math

import mpmath as mp
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate

from pyro_vae.distributions import ProjectedNormal
from pyro_vae.distributions.projected_normal import log_radial
from pyro_vae.supports import inside

F64 = torch.float64
DIMENSIONS = [2, 3, 4, 10, 64, 1000]
DRAWS = 40_000


def t(x):
    return torch.tensor(x, dtype=F64)


def radial(s, m):
    """Log of the radial integral in 25 digits."""
    with mp.workdps(25):
        s = mp.mpf(s)
        root = mp.sqrt(s * s + 4 * m)
        peak = (s + root) / 2 if s > 0 else 2 * m / (root - s)
        width, top = 1 / mp.sqrt(peak**2 + m), m * mp.log(peak) - (peak - s) ** 2 / 2
        places = mp.linspace(mp.log(peak) - 70 * width, mp.log(peak) + 12 * width, 30)
        whole = mp.quad(lambda u: mp.exp(m * u - (mp.exp(u) - s) ** 2 / 2 - top), places)
        return float(mp.log(whole) + top)


@pytest.mark.parametrize("m", DIMENSIONS)
def test_radial_integral(m):
    at = t([-1e3, -20.0, -3.0, -0.1, 0.0, 0.5, 3.0, 6.0, 20.0, 1e3])
    for s, found in zip(at.tolist(), log_radial(at, m).tolist(), strict=True):
        assert found == pytest.approx(radial(s, m), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("m", [2, 5, 100])
def test_radial_integral_has_the_right_slope(m):
    s = t([-50.0, -3.0, 0.0, 2.0, 7.0, 300.0]).requires_grad_()
    (slope,) = torch.autograd.grad(log_radial(s, m).sum(), s)
    # d log K_m / ds = K_(m + 1) / K_m - s
    there = (log_radial(s, m + 1) - log_radial(s, m)).exp() - s
    torch.testing.assert_close(slope, there.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_density_is_pyros_where_pyro_has_one(m):
    c = torch.randn(50, m, dtype=F64)
    u = ProjectedNormal(c).sample()
    theirs = dist.ProjectedNormal(c).log_prob(u)
    torch.testing.assert_close(ProjectedNormal(c).log_prob(u), theirs)


def test_what_pyro_clamps_is_right_here():
    c, behind = t([10.0, 0.0]), t([-1.0, 0.0])
    exact = radial(-10.0, 2) - math.log(2 * math.pi)
    assert ProjectedNormal(c).log_prob(behind).item() == pytest.approx(exact, rel=1e-12)
    assert dist.ProjectedNormal(c).log_prob(behind).item() > exact + 15
    with pytest.raises(NotImplementedError):
        dist.ProjectedNormal(torch.zeros(5)).log_prob(torch.eye(5)[0])


@pytest.mark.parametrize("m", DIMENSIONS)
def test_concentration_zero_is_uniform(m):
    area = math.log(2) + m / 2 * math.log(math.pi) - math.lgamma(m / 2)
    d = ProjectedNormal(torch.zeros(m, dtype=F64))
    torch.testing.assert_close(d.log_prob(d.sample((5,))), t([-area] * 5), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("m", [2, 3, 8, 100])
@pytest.mark.parametrize("length", [0.0, 1.0, 9.0, 100.0])
def test_density_has_mass_one(m, length):
    # a circle through the axis; Simpson's rule over the angle to it
    angle = torch.linspace(0, math.pi, 20_001, dtype=F64)
    u = torch.zeros(len(angle), m, dtype=F64)
    u[:, 0], u[:, 1] = angle.cos(), angle.sin()
    c = torch.zeros(m, dtype=F64)
    c[0] = length
    ring = math.log(2) + (m - 1) / 2 * math.log(math.pi) - math.lgamma((m - 1) / 2)
    density = (ProjectedNormal(c).log_prob(u) + ring).exp() * angle.sin() ** (m - 2)
    assert integrate.simpson(density.numpy(), x=angle.numpy()) == pytest.approx(1.0, abs=1e-8)


def mean_length(length, m):
    """|E u|."""
    half = mp.mpf(m) / 2
    ratio = mp.gamma(half + 0.5) / (mp.sqrt(2) * mp.gamma(half + 1))
    return float(ratio * length * mp.hyp1f1(0.5, half + 1, -(mp.mpf(length) ** 2) / 2))


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("m", [2, 3, 16, 200])
@pytest.mark.parametrize("length", [0.5, 5.0])
def test_draws_have_the_right_mean(m, length, dtype):
    c = torch.zeros(m, dtype=dtype)
    c[-1] = length
    d = ProjectedNormal(c)
    u = d.sample((DRAWS,))
    assert u.dtype == dtype
    assert inside(d.support, u)
    along = u[:, -1].double()
    error = along.std().item() / math.sqrt(DRAWS)
    assert abs(along.mean().item() - mean_length(length, m)) < 4.5 * error
    assert abs(u[:, 0].double().mean().item()) < 4.5 / math.sqrt(DRAWS)


@pytest.mark.parametrize("m", [3, 16])
def test_pathwise_gradient_is_that_of_the_mean(m):
    length = torch.full((DRAWS, 1), 2.0, dtype=F64, requires_grad=True)
    axis = torch.eye(m, dtype=F64)[0]
    u = ProjectedNormal(length * axis).rsample()
    (slopes,) = torch.autograd.grad(u[:, 0].sum(), length)
    exact = (mean_length(2.0005, m) - mean_length(1.9995, m)) / 1e-3
    assert abs(slopes.mean().item() - exact) < 4.5 * slopes.std().item() / math.sqrt(DRAWS)


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("m", [2, 50])
def test_extremes_are_finite_in_single_precision(length, m):
    c = torch.full((100, m), length, requires_grad=True)
    d = ProjectedNormal(c)
    u = d.rsample()
    assert inside(d.support, u)
    opposite = -d.mode.detach()
    for total in (d.log_prob(u).sum(), d.log_prob(opposite).sum()):
        assert bool(total.isfinite())
        (g,) = torch.autograd.grad(total, c, retain_graph=True)
        assert bool(g.isfinite().all())


def test_a_sphere_of_one_dimension_is_refused():
    with pytest.raises(ValueError, match="only a sign"):
        ProjectedNormal(torch.zeros(4, 1))


def test_expanding_keeps_the_density():
    d = ProjectedNormal(torch.randn(3, 4))
    u = d.sample()
    assert d.expand((2, 3)).sample().shape == (2, 3, 4)
    torch.testing.assert_close(d.expand((2, 3)).log_prob(u), d.log_prob(u).expand(2, 3))
