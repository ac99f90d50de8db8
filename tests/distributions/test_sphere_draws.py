"""Draws on the sphere, whatever the family: directions, shapes of draws, transforms, edges."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from pyro_vae.distributions import PowerSpherical, VonMisesFisher, quantiles
from tests.distributions.sphere_laws import F64, axis

families = pytest.mark.parametrize("cls", [VonMisesFisher, PowerSpherical])


@families
@pytest.mark.parametrize("m", [2, 3, 4, 5, 15, 16, 64])
@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_directions_are_uniform_about_the_axis(cls, m, end):
    """E x x' = E[t^2] mu mu' + E[1 - t^2] (1 - mu mu') / (m - 1), as seen along ten directions."""
    count, mu = 20_000, axis(m)
    mu[-1] = mu[-1].abs() * end
    x = cls(mu, torch.tensor(2.0, dtype=F64)).sample((count,))
    mean, variance = cls(mu, torch.tensor(2.0, dtype=F64)).cosine_moments()
    square = mean**2 + variance
    ways = normalize(torch.randn(10, m, dtype=F64), dim=-1)
    along = (ways @ mu).square()
    truth = square * along + (1 - square) * (1 - along) / (m - 1)
    seen = (x @ ways.T).square()
    error = seen.std(0) / math.sqrt(count)
    # 280 comparisons: at 5.5 standard errors all are right but once in 1e5 runs
    assert bool(((seen.mean(0) - truth).abs() < 5.5 * error).all())


@families
@pytest.mark.parametrize("m", [2, 3, 5, 16])
@pytest.mark.parametrize("draws", [3, 900], ids=["few", "in blocks"])
def test_some_draws_of_each_of_many_laws(cls, m, draws):
    """They are those of as many laws, and so is their gradient."""
    loc = normalize(torch.randn(7, m, dtype=F64), dim=-1).requires_grad_()
    k = (1 + torch.rand(7, dtype=F64)).requires_grad_()
    weight = torch.randn(draws, 7, m, dtype=F64)

    def drawn(loc, k, shape):
        torch.manual_seed(2)
        x = cls(loc, k).rsample(shape)
        return x, torch.autograd.grad((x.reshape(weight.shape) * weight).sum(), leaves)

    leaves = [loc, k]
    x, grads = drawn(loc, k, (draws,))
    if draws * 7 < 4096:  # blocks are cut elsewhere, and so the noise comes in another order
        flat = drawn(loc.expand(draws, 7, m).reshape(-1, m), k.expand(draws, 7).reshape(-1), ())
        torch.testing.assert_close(flat[0].reshape(x.shape), x)
        torch.testing.assert_close(flat[1], grads)
    assert bool((x.norm(dim=-1) - 1).abs().max() < 1e-12)
    # turning all with the axis: the gradient is at right angles to it
    assert bool(((grads[0] * loc).sum(-1).abs() < 1e-9 * draws).all())


@families
@pytest.mark.parametrize("m", [2, 3, 16])
def test_function_transforms_give_the_same_gradient(cls, m):
    loc = normalize(torch.randn(4, m), dim=-1)
    k = 1 + torch.rand(4)

    def objective(loc, k):
        return cls(loc, k, validate_args=False).rsample().square()[..., 0].sum()

    torch.manual_seed(4)
    there = torch.func.grad(objective, argnums=(0, 1))(loc, k)
    leaves = [loc.requires_grad_(), k.requires_grad_()]
    torch.manual_seed(4)
    torch.testing.assert_close(torch.autograd.grad(objective(*leaves), leaves), there)


@families
@pytest.mark.parametrize("m", [2, 3, 5, 16, 300])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_what_is_no_number_stays_none(cls, m, count):
    """A concentration that is NaN is no place in a table."""
    k = torch.tensor([1.0, math.nan])
    x = cls(axis(m, torch.float32).expand(2, m), k, validate_args=False).sample((count,))
    assert bool(x[:, 0].isfinite().all())
    assert bool(x[:, 1].isnan().any(-1).all())
    shared = cls(axis(m, torch.float32), k[1], validate_args=False).sample((count,))
    assert bool(shared.isnan().any(-1).all())


@families
@pytest.mark.parametrize("m", [2, 3, 5, 16, 300])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_limits_of_the_concentration(cls, m, dtype):
    """0 is uniform; near the largest number all of it is at the axis."""
    loc = axis(m, dtype).expand(2, m).clone().requires_grad_()
    k = torch.tensor([0.0, 1e30], dtype=dtype, requires_grad=True)
    x = cls(loc, k, validate_args=False).rsample((2000,))
    grads = torch.autograd.grad((x * torch.randn_like(x)).sum(), [loc, k])
    assert all(bool(g.isfinite().all()) for g in grads)
    torch.testing.assert_close(x[:, 1], loc[1].expand(2000, m), rtol=0, atol=1e-6)
    t = (x[:, 0] @ loc[0]).detach()
    assert abs(t.mean().item()) < 5 * t.std().item() / math.sqrt(2000)
    assert t.square().mean().item() == pytest.approx(1 / m, rel=5 * math.sqrt(2 / 2000))


@pytest.mark.parametrize("m", [2, 4, 7, 8, 16, 129])
@pytest.mark.parametrize("tilted", [True, False], ids=["von Mises-Fisher", "power spherical"])
def test_a_table_tells_the_quantiles_between_its_knots(m, tilted):
    """Against those from which it is made, which the oracles of the families check."""
    g = torch.Generator().manual_seed(0)
    z = 9 * torch.rand(150, generator=g, dtype=F64) - 4.5
    k = torch.logspace(-4, 6, 150, dtype=F64)
    a = (m - 1) / 2
    y = torch.asinh(k / a) if tilted else torch.log1p(k / a)
    v, slope = quantiles._quantiles(a, tilted, y.numpy(), z.numpy())
    u = torch.from_numpy(v.diagonal().copy()) - y
    made = quantiles.points(m, tilted, z, k, F64)
    # the log density of u at the normal score z, from a small step of z
    near = quantiles._quantiles(a, tilted, y.numpy(), z.numpy() + 1e-5)[0]
    speed = torch.from_numpy((near - v).diagonal().copy()) / 1e-5
    missed = (-made.ratio.log() - u) / speed * (-z * z / 2).exp() / math.sqrt(2 * math.pi)
    assert missed.abs().max() < (2e-7 if m < 4 else 1e-7)
    root = (1 + (k / a).square()).sqrt() if tilted else 1 + k / a
    rate = torch.from_numpy(slope.diagonal().copy()) / (2 * a * root)
    spread = made.fall * (2 - made.fall)
    gap = (made.rate - rate) * spread * (-z * z / 2).exp()
    assert gap.abs().max() < 1e-5 * (rate * spread).abs().max()
