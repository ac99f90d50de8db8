"""Beta, Dirichlet, Kumaraswamy and Uniform: torch's laws, right at any parameters."""

import itertools
import math

import mpmath as mp
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_vae.distributions import Beta, Dirichlet, Kumaraswamy, Uniform
from pyro_vae.distributions.unit import kept_within, log_shrunk

F64 = torch.float64
CORNERS = list(itertools.product([1e-3, 0.3, 1.0, 20.0, 1e6], repeat=2))
corners = pytest.mark.parametrize(("a", "b"), CORNERS)
both = pytest.mark.parametrize("cls", [Beta, Kumaraswamy])
precisions = pytest.mark.parametrize("dtype", [torch.float32, F64])


def tensors(*values, dtype=F64, grad=False):
    return [torch.tensor(v, dtype=dtype, requires_grad=grad) for v in values]


def log_density(cls, a, b, x):
    """In 60 digits, from the exact value of a float."""
    with mp.workdps(60):
        a, b, x = mp.mpf(a), mp.mpf(b), mp.mpf(x)
        if cls is Beta:
            return float((a - 1) * mp.log(x) + (b - 1) * mp.log(1 - x) - mp.log(mp.beta(a, b)))
        return float(mp.log(a * b) + (a - 1) * mp.log(x) + (b - 1) * mp.log(1 - x**a))


@both
@corners
def test_density_against_sixty_digits(cls, a, b):
    x = [1e-30, 1e-9, 0.01, 0.5, 0.9, 1 - 1e-6]
    ours = cls(*tensors(a, b)).log_prob(torch.tensor(x, dtype=F64))
    truth = [log_density(cls, a, b, v) for v in x]
    # log-gamma functions of 1e6 are 1e7, and good to 16 digits
    np.testing.assert_allclose(ours, truth, rtol=1e-12, atol=1e-8 if max(a, b) > 1e3 else 1e-10)


@both
@corners
def test_single_precision_is_double_precision_rounded(cls, a, b):
    x = torch.tensor([1e-30, 1e-6, 0.5, 0.999])
    single = cls(*tensors(a, b, dtype=torch.float32)).log_prob(x)
    double = cls(*(t.double() for t in tensors(a, b, dtype=torch.float32))).log_prob(x.double())
    torch.testing.assert_close(single, double.float(), rtol=1e-6, atol=1e-6)


@both
@corners
@precisions
def test_draws_lie_inside_with_finite_densities_and_gradients(cls, a, b, dtype):
    leaves = tensors(a, b, dtype=dtype, grad=True)
    d = cls(*leaves)
    x = d.rsample((500,))
    assert x.dtype == dtype
    assert bool(((x > 0) & (x < 1)).all())
    log_prob = d.log_prob(x)
    assert bool(log_prob.isfinite().all())
    for y in (log_prob.sum(), x.log().sum()):
        slopes = torch.autograd.grad(y, leaves, retain_graph=True)
        assert all(bool(s.isfinite()) for s in slopes)


def test_what_torch_does_instead():
    """Each of these is cured here; were it not, the tests above would catch it."""
    small = {"dtype": torch.float32}
    assert bool((dist.Kumaraswamy(*tensors(1.0, 0.1, **small)).sample((1000,)) == 1).any())
    leaves = [t.expand(20_000).requires_grad_() for t in tensors(1e6, 1e-2, **small)]
    slopes = torch.autograd.grad(dist.Beta(*leaves).rsample().log().sum(), leaves)
    assert bool(slopes[0].isnan().any())
    x, alpha = torch.full((10,), 0.1), torch.full((10,), 1e6)
    gap = dist.Dirichlet(alpha).log_prob(x) - dist.Dirichlet(alpha.double()).log_prob(x.double())
    assert abs(gap) > 1
    ours = Dirichlet(alpha).log_prob(x) - Dirichlet(alpha.double()).log_prob(x.double())
    assert abs(ours) < 1e-5


@both
@pytest.mark.parametrize(
    ("a", "b"), [(0.3, 0.3), (0.3, 20.0), (1.0, 1.0), (20.0, 0.3), (50, 70.0)]
)
def test_draws_follow_the_law(cls, a, b):
    x = cls(*tensors(a, b)).sample((5000,)).numpy()

    def cdf(v):
        return stats.beta.cdf(v, a, b) if cls is Beta else -np.expm1(b * np.log1p(-(v**a)))

    # the probability with which a right sampler fails
    assert stats.kstest(x, cdf).pvalue > 1e-6


@both
@pytest.mark.parametrize(("a", "b"), [(0.02, 0.5), (0.6, 2.0), (5.0, 3.0)])
def test_gradients_of_draws(cls, a, b):
    """dE[x] / dtheta by draws, against finite differences of the mean."""

    def mean(a, b):
        if cls is Beta:
            return a / (a + b)
        return b * math.exp(math.lgamma(1 + 1 / a) + math.lgamma(b) - math.lgamma(1 + 1 / a + b))

    count, step = 100_000, 1e-6
    leaves = [torch.full((count,), v, dtype=F64, requires_grad=True) for v in (a, b)]
    cls(*leaves).rsample().sum().backward()
    truth = [
        (mean(a + step, b) - mean(a - step, b)) / (2 * step),
        (mean(a, b + step) - mean(a, b - step)) / (2 * step),
    ]
    for leaf, slope in zip(leaves, truth, strict=True):
        error = leaf.grad.std() / math.sqrt(count)
        assert abs(leaf.grad.mean() - slope) < 5 * error


@precisions
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e6])
def test_dirichlet_draws_lie_inside(alpha, dtype):
    for others in (alpha, 1.0):
        leaf = torch.tensor([alpha] + 9 * [others], dtype=dtype, requires_grad=True)
        d = Dirichlet(leaf)
        x = d.rsample((300,))
        assert bool(((x > 0) & (x < 1)).all())
        assert bool(d.support.check(x).all())
        log_prob = d.log_prob(x)
        assert bool(log_prob.isfinite().all())
        assert bool(torch.autograd.grad(log_prob.sum(), leaf)[0].isfinite().all())


def test_dirichlet_density_draws_and_gradient():
    alpha = torch.tensor([0.4, 3.0, 1.5], dtype=F64)
    x = Dirichlet(alpha).sample((4000,))
    truth = stats.dirichlet(alpha.numpy())
    ours = Dirichlet(alpha).log_prob(x[:9])
    np.testing.assert_allclose(ours, [truth.logpdf(v / v.sum()) for v in x[:9].numpy()], rtol=1e-9)
    for k in range(3):
        p = stats.kstest(x[:, k].numpy(), stats.beta(alpha[k], alpha.sum() - alpha[k]).cdf).pvalue
        assert p > 1e-6
    leaf = alpha.expand(50_000, 3).clone().requires_grad_()
    Dirichlet(leaf).rsample()[:, 0].sum().backward()
    total = alpha.sum()
    slopes = torch.stack([(total - alpha[0]) / total**2, *[-alpha[0] / total**2] * 2])
    error = leaf.grad.std(0) / math.sqrt(len(leaf))
    assert bool(((leaf.grad.mean(0) - slopes).abs() < 5 * error).all())


@precisions
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-2.0, 3.0), (1e6, 1e6 + 1)])
def test_uniform_draws_lie_strictly_inside(low, high, dtype):
    d = Uniform(*tensors(low, high, dtype=dtype))
    x = d.sample((10_000,))
    assert bool(((x > low) & (x < high)).all())
    ends = torch.tensor([low, high], dtype=dtype)
    torch.testing.assert_close(
        d.log_prob(ends), torch.full((2,), -math.log(high - low), dtype=dtype)
    )
    outside = Uniform(d.low, d.high, validate_args=False).log_prob(
        ends + torch.tensor([-1.0, 1.0])
    )
    assert bool((outside == -math.inf).all())


@pytest.mark.parametrize("cls", [Beta, Dirichlet, Kumaraswamy])
def test_outside_the_support_the_density_is_zero_and_its_gradient_not_nan(cls):
    parameters = [torch.full((3,), 2.0, requires_grad=True)] * (1 if cls is Dirichlet else 2)
    x = torch.tensor([1.5, -0.3, 0.2])
    log_prob = cls(*parameters, validate_args=False).log_prob(x)
    assert log_prob.isfinite().tolist() == (False if cls is Dirichlet else [False, False, True])
    torch.where(log_prob.isfinite(), log_prob, 0.0).sum().backward()
    assert bool(parameters[0].grad.isfinite().all())


@pytest.mark.parametrize("cls", [Beta, Kumaraswamy, Uniform])
def test_expansion_keeps_the_class(cls):
    d = cls(torch.zeros(3) + 0.5, torch.ones(3)).expand((2, 3))
    assert type(d) is cls
    assert d.rsample((4,)).shape == (4, 2, 3)
    assert cls(0.5, 1.0).to_event(0).batch_shape == ()


def test_the_logarithm_of_what_is_left():
    log_x = np.array([-1e4, -700, -37, -35, -5, -0.41, -0.39, 0, 2, 3.5, 9, 700])
    with mp.workdps(400):
        exact = [
            float(mp.log(-mp.expm1(-mp.exp(mp.mpf(v))))) if -600 < v < 6 else min(v, 0.0)
            for v in log_x
        ]
    ours = torch.tensor(log_x, requires_grad=True)
    value = log_shrunk(ours)
    np.testing.assert_allclose(value.detach(), exact, rtol=1e-14, atol=1e-300)
    value.sum().backward()
    assert bool(ours.grad.isfinite().all())


def test_what_is_kept_inside_has_no_gradient_and_the_rest_has():
    x = torch.tensor([0.0, 0.25, 1.0], dtype=F64, requires_grad=True)
    kept = kept_within(x, torch.tensor(0.0), 1.0)
    kept.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]
    assert kept[1].item() == 0.25
