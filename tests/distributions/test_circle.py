"""Distributions on the circle against mpmath, their draws against their own densities.

Statistical tests look at one seed: at 4.5 standard errors one of the checks below fails by chance
once in 150,000, and the smallest p-value allowed is 1e-5.
"""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import VonMises as TorchVonMises
from torch.distributions import biject_to, transform_to
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.distributions import CircularUniform, VonMises, WrappedNormal
from pyro_vae.distributions.circular import Direction, circle, wrapped
from pyro_vae.distributions.von_mises import _Distance
from pyro_vae.supports import interior_point, legal_point, lies_within, space_of

F64 = torch.float64
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
CONCENTRATIONS = [1e-3, 0.1, 1.0, 4.0, 7.0, 12.5, 100.0, 1e5]
SCALES = [1e-6, 1e-3, 0.3, 1.0, 2.0, 2.5, 2.51, 4.0, 20.0, 1e6]
DRAWS = 40_000
ERRORS = 4.5


def t(x, dtype=F64):
    return torch.tensor(x, dtype=dtype)


def resultant(k):
    """A(k) and its derivative, the mean and the variance of cos(x - loc)."""
    with mp.workdps(40):
        a = mp.besseli(1, k) / mp.besseli(0, k)
        return float(a), float(1 - a * a - a / k)


def assert_mean(x, mean, std_error=None):
    std_error = x.std() / math.sqrt(len(x)) if std_error is None else std_error
    assert abs(x.mean().item() - mean) < ERRORS * float(std_error) + 1e-12


# ------------------------------------------------------------------------------- von Mises draws
def tail(a, k):
    """P(|x - loc| > a) and the derivative of a in k at that probability, by quadrature."""
    with mp.workdps(30):
        a, k = mp.mpf(a), mp.mpf(k)
        end = min(mp.pi, a + 16 / mp.sqrt(k))
        places = mp.linspace(a, end, 9)
        whole = mp.pi * mp.besseli(0, k) * mp.exp(-k)
        mean = mp.besseli(1, k) / mp.besseli(0, k)
        mass = mp.quad(lambda x: mp.exp(k * (mp.cos(x) - 1)), places)
        slope = mp.quad(lambda x: mp.exp(k * (mp.cos(x) - mp.cos(a))) * (mp.cos(x) - mean), places)
        return float(mass / whole), float(slope)


@pytest.mark.parametrize("k", [1e-6, 1e-3, 0.5, 3.0, 6.3, 12.3, 40.0, 1e3, 1e6])
def test_distances_invert_the_distribution_function(k):
    tails = t([0.999, 0.7, 0.3, 0.05, 1e-3, 1e-6, 1e-10])
    found, slopes = _Distance.apply(tails, torch.full_like(tails, k))
    for wanted, a, slope in zip(tails.tolist(), found.tolist(), slopes.tolist(), strict=True):
        probability, derivative = tail(a, k)
        assert probability == pytest.approx(wanted, rel=1e-9)
        assert slope == pytest.approx(derivative, rel=1e-6, abs=1e-8 / (k + 1))


@DTYPES
@pytest.mark.parametrize("k", CONCENTRATIONS)
def test_mean_resultant_length_and_its_variance(k, dtype):
    x = VonMises(t(-3.0, dtype), t(k, dtype)).sample((DRAWS,)).double()
    # 1 - cos, which keeps its digits for large k
    versine = 2 * ((x + 3.0) / 2).sin().square()
    a, variance = resultant(k)
    rest = float(1 - mp.besseli(1, k) / mp.besseli(0, k)) if k > 1e4 else 1 - a
    assert_mean(versine, rest, math.sqrt(variance / DRAWS))
    assert_mean((versine - rest).square(), variance)
    assert_mean((x + 3.0).sin(), 0.0)


@pytest.mark.parametrize("k", CONCENTRATIONS)
def test_goodness_of_fit(k):
    x = VonMises(t(0.0), t(k)).sample((4000,))
    grid = torch.linspace(-1, 1, 20_001, dtype=F64) * min(math.pi, 12 / math.sqrt(k))
    density = VonMises(t(0.0), t(k)).log_prob(grid).exp()
    cumulative = torch.cumulative_trapezoid(density, grid).numpy()
    uniform = torch.from_numpy(np.interp(x, grid[1:], cumulative))
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-5


@DTYPES
@pytest.mark.parametrize("k", CONCENTRATIONS)
def test_pathwise_gradient_of_the_resultant_length(k, dtype):
    concentration = torch.full((DRAWS,), k, dtype=dtype, requires_grad=True)
    x = VonMises(torch.full_like(concentration, 0.4), concentration).rsample()
    (slopes,) = torch.autograd.grad((x - 0.4).cos().sum(), concentration)
    assert_mean(slopes.double(), resultant(k)[1])


def test_torch_has_no_such_gradient():
    assert not TorchVonMises.has_rsample


@pytest.mark.parametrize("cls", [VonMises, WrappedNormal])
@pytest.mark.parametrize("loc", [0.3, 3.1, -math.pi, 7.0])
def test_gradient_in_the_mean_across_the_cut(cls, loc):
    mean = torch.full((DRAWS,), loc, dtype=F64, requires_grad=True)
    x = cls(mean, torch.full_like(mean, 0.8)).rsample()
    assert bool((x.abs() < math.pi).all())
    (slopes,) = torch.autograd.grad((x - 1.0).cos().sum(), mean)
    length = resultant(0.8)[0] if cls is VonMises else math.exp(-0.32)
    assert_mean(slopes, -length * math.sin(loc - 1.0))


def test_draws_are_smooth_in_the_concentration():
    k = t([0.01, 1.0, 6.3, 50.0]).requires_grad_()
    probability = t([0.9, 1e-3, 1e-4, 0.2])
    assert torch.autograd.gradcheck(lambda k: _Distance.apply(probability, k)[0], (k,))


def test_a_second_derivative_through_draws_is_refused():
    k = t(2.0).requires_grad_()
    x = VonMises(t(0.0), k).rsample()
    (slope,) = torch.autograd.grad(x.square(), k, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.backward()


def test_draws_can_be_captured():
    def step(loc, k):
        x = VonMises(loc, k, validate_args=False).rsample((5,))
        return x.detach(), *torch.autograd.grad((x.sin() + x.cos()).sum(), (loc, k))

    loc, k = t([0.1, 3.0]).requires_grad_(), t([0.5, 90.0]).requires_grad_()
    graph = make_fx(step)(loc, k)
    for leaves in ((loc, k), (loc.detach() + 1, 3 * k.detach())):
        leaves = [x.requires_grad_() for x in leaves]
        torch.manual_seed(3)
        captured = graph(*leaves)
        torch.manual_seed(3)
        for a, b in zip(captured, step(*leaves), strict=True):
            torch.testing.assert_close(a, b)


# ------------------------------------------------------------------------------- extremes, edges
@pytest.mark.parametrize("cls", [VonMises, WrappedNormal])
@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("loc", [0.0, math.pi, -50.0])
def test_extremes_are_finite_in_single_precision(cls, size, loc):
    loc, size = torch.full((2000,), loc), torch.full((2000,), size)
    leaves = [loc.requires_grad_(), size.requires_grad_()]
    d = cls(*leaves)
    x = d.rsample()
    assert bool(circle.check(x.detach().double()).all()), "draws leave the circle"
    log_prob = d.log_prob(x)
    assert bool(log_prob.isfinite().all())
    for total in (log_prob.sum(), d.log_prob(x.detach()).sum(), x.sum()):
        for g in torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True):
            assert g is None or bool(g.isfinite().all())


@DTYPES
def test_wrapping_keeps_the_point_and_stays_inside(dtype):
    x = t([0.0, math.pi, -math.pi, 3.5, -40.0, 1e5], dtype)
    y = wrapped(x)
    assert bool((y.double().abs() < math.pi).all())
    small = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(y[:5].cos(), x[:5].cos(), rtol=0, atol=40 * small)
    torch.testing.assert_close(y[:5].sin(), x[:5].sin(), rtol=0, atol=40 * small)


@pytest.mark.parametrize("name", ["concentration", "scale"])
def test_a_bad_parameter_is_refused(name):
    cls = VonMises if name == "concentration" else WrappedNormal
    with pytest.raises(ValueError, match=name):
        cls(torch.zeros(2), torch.tensor([1.0, -1.0]), validate_args=True)


def test_an_angle_beyond_the_circle_is_refused():
    zero, one = torch.zeros(()), torch.ones(())
    for d in (
        VonMises(zero, one, validate_args=True),
        WrappedNormal(zero, one, validate_args=True),
        CircularUniform((), zero, validate_args=True),
    ):
        with pytest.raises(ValueError, match="circle"):
            d.log_prob(torch.tensor(4.0))


# ------------------------------------------------------------------------------- densities
@pytest.mark.parametrize("k", [1e-6, *CONCENTRATIONS, 1e6])
def test_von_mises_density(k):
    x = t([-3.1, -0.5, 0.3, 1.0, 3.0])
    found = VonMises(t(0.3), t(k)).log_prob(x)
    for at, value in zip(x.tolist(), found.tolist(), strict=True):
        with mp.workdps(40):
            exact = mp.mpf(k) * mp.cos(mp.mpf(at) - mp.mpf(0.3)) - mp.log(
                2 * mp.pi * mp.besseli(0, k)
            )
        assert value == pytest.approx(float(exact), rel=1e-12, abs=1e-12)


def theta(d, s):
    """The log density of a wrapped normal, 60 windings or frequencies in 60 digits."""
    with mp.workdps(60):
        d, s = mp.mpf(d), mp.mpf(s)
        if s < 30:
            around = range(-60, 61)
            total = mp.fsum(mp.exp(-((d + 2 * mp.pi * k) ** 2) / (2 * s * s)) for k in around)
            return float(mp.log(total) - mp.log(s * mp.sqrt(2 * mp.pi)))
        waves = mp.fsum(mp.exp(-n * n * s * s / 2) * mp.cos(n * d) for n in range(1, 60))
        return float(mp.log(1 + 2 * waves) - mp.log(2 * mp.pi))


@pytest.mark.parametrize("s", SCALES)
def test_wrapped_normal_density(s):
    x = t([-3.1, -0.5, 0.25, 0.250001, 1.0, 3.0])
    scale = t(s).requires_grad_()
    found = WrappedNormal(t(0.25), scale).log_prob(x)
    for at, value in zip(x.tolist(), found.tolist(), strict=True):
        assert value == pytest.approx(theta(at - 0.25, s), rel=1e-12, abs=1e-12)
    if 0.1 < s < 10:
        (slope,) = torch.autograd.grad(found[3], scale)
        there = mp.diff(lambda y: theta(x[3].item() - 0.25, y), s, h=1e-5)
        assert slope.item() == pytest.approx(float(there), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("s", [1e-3, 0.5, 2.5, 4.0])
def test_wrapped_normal_draws(s):
    scale = torch.full((DRAWS,), s, dtype=F64, requires_grad=True)
    x = WrappedNormal(torch.full_like(scale, -2.0), scale).rsample()
    (slopes,) = torch.autograd.grad((x + 2.0).cos().sum(), scale)
    assert_mean(2 * ((x.detach() + 2.0) / 2).sin().square(), -math.expm1(-s * s / 2))
    assert_mean(slopes, -s * math.exp(-s * s / 2))


@pytest.mark.parametrize(
    "d",
    [VonMises(t(1.0), t(3.0)), WrappedNormal(t(1.0), t(0.5)), CircularUniform((), t(0.0))],
    ids=lambda d: type(d).__name__,
)
def test_density_has_mass_one_and_the_circular_variance_stated(d):
    x = torch.arange(1024, dtype=F64) * (2 * math.pi / 1024) - math.pi
    density = d.log_prob(x).exp() * (2 * math.pi / 1024)
    assert density.sum().item() == pytest.approx(1.0, abs=1e-12)
    if not isinstance(d, CircularUniform):
        length = (density * (x - d.mean).cos()).sum()
        assert length.item() == pytest.approx(1 - d.variance.item(), abs=1e-12)
        assert d.mean == 1.0


@DTYPES
def test_circular_uniform_draws(dtype):
    d = CircularUniform((3,), torch.zeros((), dtype=dtype)).to_event(1)
    x = d.sample((5000,))
    assert x.dtype == dtype
    assert d.expand((4,)).sample().shape == (4, 3)
    for p in stats.kstest(((x.double() + math.pi) / (2 * math.pi)).numpy(), "uniform").pvalue:
        assert p > 1e-5


# ------------------------------------------------------------------------------- the space
def test_the_circle_is_a_space_of_its_own():
    assert space_of(circle).name == "circle"
    assert lies_within(circle, circle)
    for d in (torch.distributions.Normal(0.0, 1.0), torch.distributions.Uniform(-4.0, 4.0)):
        assert lies_within(circle, d.support) is False
        assert lies_within(d.support, circle) is False
    assert interior_point(circle) == 0.0
    assert circle.check(legal_point(circle, torch.zeros(3)))


def test_cutting_the_circle_open():
    cut = biject_to(circle)
    y = torch.linspace(-8, 8, 9, dtype=F64)
    torch.testing.assert_close(cut.inv(cut(y)), y)
    assert bool(circle.check(cut(y)).all())


def test_directions_follow_a_loop_with_a_gradient_that_never_dies():
    angle = torch.linspace(-3.14, 3.14, 101, dtype=F64)
    for length in (1e-30, 1e-3, 1.0, 1e3, 1e30):
        raw = (length * torch.stack([angle.cos(), angle.sin()], -1)).requires_grad_()
        found = transform_to(circle)(raw)
        torch.testing.assert_close(found, angle)
        (g,) = torch.autograd.grad(found.sum(), raw)
        torch.testing.assert_close(g.norm(dim=-1) * length, torch.ones_like(angle))


def test_the_vector_without_direction_is_taken_for_the_first_axis():
    nowhere = torch.zeros(2, requires_grad=True)
    angle = Direction()(nowhere)
    assert angle == 0
    (g,) = torch.autograd.grad(angle, nowhere)
    assert bool(g.isfinite().all())
    assert Direction().inverse_shape((3,)) == (3, 2)
