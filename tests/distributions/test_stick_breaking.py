"""Simplices of broken sticks: LogisticNormal, StickBreaking, GEM."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from scipy import integrate, stats

from pyro_vae.distributions import GEM, LogisticNormal, StickBreaking, Sticks
from pyro_vae.distributions.sticks import log_parts, log_sticks

F64 = torch.float64


def logistic_normal(dtype=F64, *, size=1.0):
    return LogisticNormal(
        torch.tensor([0.5, -1.0, 0.25], dtype=dtype) * size,
        torch.tensor([0.75, 1.0, 0.5], dtype=dtype),
    )


def stick_breaking(dtype=F64):
    return StickBreaking(
        torch.tensor([0.5, 1.0, 3.0], dtype=dtype), torch.tensor([2.0, 1.5, 0.7], dtype=dtype)
    )


def gem(dtype=F64):
    return GEM(torch.tensor(1.7, dtype=dtype), 4)


MAKERS = {"logistic normal": logistic_normal, "sticks": stick_breaking, "gem": gem}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)

INNER = torch.tensor(
    [[0.1, 0.2, 0.3, 0.4], [0.7, 0.05, 0.05, 0.2], [0.02, 0.9, 0.04, 0.04]], dtype=F64
)


def of_sticks(elements):
    return td.TransformedDistribution(td.Independent(elements, 1), [Sticks()])


def composed(d):
    """The same law, put together from torch's densities."""
    if isinstance(d, LogisticNormal):
        return td.LogisticNormal(d.loc, d.scale)
    if isinstance(d, GEM):
        alpha = d.concentration.unsqueeze(-1).expand(*d.batch_shape, d.event_shape[0] - 1)
        return of_sticks(td.Beta(torch.ones_like(alpha), alpha))
    return of_sticks(td.Kumaraswamy(d.concentration1, d.concentration0))


@makers
def test_density_is_the_change_of_variables(make):
    x = INNER
    torch.testing.assert_close(
        make().log_prob(x), composed(make()).log_prob(x), atol=1e-10, rtol=0
    )


@makers
def test_density_integrates_to_one_over_three_parts(make):
    d = make()
    two = {
        LogisticNormal: lambda: LogisticNormal(d.loc[:2], d.scale[:2]),
        StickBreaking: lambda: StickBreaking(d.concentration1[1:], d.concentration0[:2]),
        GEM: lambda: GEM(d.concentration, 3),
    }[type(d)]()
    n = 400
    t, w = np.polynomial.legendre.leggauss(n)
    t, w = (t + 1) / 2, w / 2
    # the square stretched towards its edges: v = 3 t^2 - 2 t^3
    v, dv = t * t * (3 - 2 * t), 6 * t * (1 - t) * w
    a, b = torch.tensor(np.stack(np.meshgrid(v, v, indexing="ij")))
    x = torch.stack([a, (1 - a) * b, (1 - a) * (1 - b)], -1)
    weights = torch.tensor(np.multiply.outer(dv, dv)) * (1 - a)
    mass = (two.log_prob(x).exp() * weights).sum().item()
    assert mass == pytest.approx(1.0, abs=1e-6)


@makers
def test_draws_follow_their_sticks(make):
    d = make()
    x = d.sample((5000,))
    log_stick, _, _ = log_sticks(x)
    v = log_stick.exp().numpy()
    for k in range(3):
        if isinstance(d, LogisticNormal):
            shift, loc, scale = math.log(3 - k), d.loc[k].item(), d.scale[k].item()

            def cdf(u, shift=shift, loc=loc, scale=scale):
                return stats.norm.cdf(np.log(u / (1 - u)) + shift, loc, scale)
        elif isinstance(d, GEM):
            cdf = stats.beta(1, d.concentration.item()).cdf
        else:
            a, b = d.concentration1[k].item(), d.concentration0[k].item()

            def cdf(u, a=a, b=b):
                return 1 - (1 - u**a) ** b

        # the probability with which a right sampler fails
        assert stats.kstest(v[:, k], cdf).pvalue > 1e-6


@pytest.mark.parametrize("make", [stick_breaking, gem], ids=["sticks", "gem"])
def test_mean(make):
    d = make()
    x = d.sample((20_000,))
    error = x.std(0) / math.sqrt(len(x))
    assert bool(((x.mean(0) - d.mean).abs() < 5 * error).all())
    assert d.mean.sum().item() == pytest.approx(1.0)


@makers
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_draws_are_on_the_open_simplex(make, dtype):
    d = make(dtype)
    x = d.rsample((2000,))
    assert x.dtype == dtype
    assert bool(((x > 0) & (x < 1)).all())
    assert bool(d.support.check(x).all())
    assert bool(d.log_prob(x).isfinite().all())


@pytest.mark.parametrize("size", [1e-3, 1e-1, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("other", [1e-3, 1.0, 1e6])
def test_extreme_sticks_are_finite_in_single_precision(size, other):
    for make, count in ((lambda a, b: StickBreaking(a, b), 5), (lambda a, _: GEM(a[0], 6), 5)):
        leaves = [torch.full((count,), v, requires_grad=True) for v in (size, other)]
        d = make(*leaves)
        x = d.rsample((200,))
        assert bool(((x > 0) & (x < 1)).all())
        log_prob = d.log_prob(x)
        assert bool(log_prob.isfinite().all())
        log_prob.sum().backward()
        assert all(t.grad is None or bool(t.grad.isfinite().all()) for t in leaves)


@pytest.mark.parametrize("loc", [-50.0, 0.0, 50.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_extreme_logistic_normals_are_finite_in_single_precision(loc, scale):
    leaves = [torch.full((5,), v, requires_grad=True) for v in (loc, scale)]
    d = LogisticNormal(*leaves)
    x = d.rsample((200,))
    assert bool(((x > 0) & (x < 1)).all())
    log_prob = d.log_prob(x)
    assert bool(log_prob.isfinite().all())
    log_prob.sum().backward()
    assert all(bool(t.grad.isfinite().all()) for t in leaves)


def test_torchs_logistic_normal_draws_zeros():
    """What is cured: must it be caught, this is how."""
    theirs = dist.LogisticNormal(torch.full((7,), 50.0), torch.ones(7))
    assert bool((theirs.sample((200,)) == 0).any())


def gradient_of_mean(d, k, name):
    """dE[x_0] / dtheta_k of the first stick, by quadrature."""

    def mean(step):
        if isinstance(d, LogisticNormal):
            loc, scale = d.loc[0].item(), d.scale[0].item()
            loc, scale = (loc + step, scale) if name == "loc" else (loc, scale + step)
            return integrate.quad(
                lambda t: stats.norm.pdf(t) / (1 + math.exp(math.log(3) - loc - scale * t)), -9, 9
            )[0]
        a = d.concentration1[0].item() + (step if name == "concentration1" else 0.0)
        b = d.concentration0[0].item() + (step if name == "concentration0" else 0.0)
        return b * math.exp(math.lgamma(1 + 1 / a) + math.lgamma(b) - math.lgamma(1 + 1 / a + b))

    return (mean(1e-4) - mean(-1e-4)) / 2e-4


@pytest.mark.parametrize("make", [logistic_normal, stick_breaking], ids=["normal", "sticks"])
def test_gradients_of_draws(make):
    d, count = make(), 50_000
    names = list(type(d).arg_constraints)
    leaves = [getattr(d, n).expand(count, 3).clone().requires_grad_() for n in names]
    type(d)(*leaves).rsample()[:, 0].sum().backward()
    for name, leaf in zip(names, leaves, strict=True):
        slope = leaf.grad[:, 0]
        error = slope.std() / math.sqrt(count)
        assert abs(slope.mean() - gradient_of_mean(d, 0, name)) < 5 * error + 1e-6
        assert bool((leaf.grad[:, 1:] == 0).all())  # later sticks do not touch the first part


@makers
def test_gradients_of_the_density(make):
    d, x = make(), INNER
    leaves = [getattr(d, n).clone().requires_grad_() for n in type(d).arg_constraints]
    rebuilt = (lambda c: GEM(c, 4)) if isinstance(d, GEM) else type(d)
    assert torch.autograd.gradcheck(lambda *p: rebuilt(*p).log_prob(x), leaves)


def test_sticks_and_parts_are_each_others_inverse_down_to_the_last_crumb():
    log_stick = torch.tensor([[-1e-9, -200.0, -0.5], [-3.0, -1e-12, -100.0]], dtype=F64)
    log_rest = torch.log(-torch.expm1(log_stick))
    parts = log_parts(log_stick, log_rest).exp()
    again, rest, _ = log_sticks(parts)
    torch.testing.assert_close(again, log_stick, rtol=1e-6, atol=1e-13)
    torch.testing.assert_close(rest, log_rest, rtol=1e-12, atol=1e-12)


@makers
def test_expansion(make):
    d = make()
    wide = d.expand((2, 3))
    assert type(wide) is type(d)
    assert wide.batch_shape == (2, 3)
    assert wide.sample((5,)).shape == (5, 2, 3, 4)
    x = d.sample()
    torch.testing.assert_close(wide.log_prob(x), d.log_prob(x).expand(2, 3))


def test_validation():
    with pytest.raises(ValueError, match="one concentration for each stick"):
        StickBreaking(1.0, 1.0)
    with pytest.raises(ValueError, match="at least 2 parts, not 1"):
        GEM(1.0, 1)
    with pytest.raises(ValueError, match="concentration0"):
        StickBreaking(torch.ones(2), -torch.ones(2), validate_args=True)
    with pytest.raises(ValueError, match="concentration"):
        GEM(0.0, 3, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        gem().log_prob(torch.tensor([0.5, 0.6, 0.1, 0.1], dtype=F64))
