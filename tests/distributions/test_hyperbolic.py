"""The wrapped normal on hyperbolic space against lines, integrals and finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.distributions import HyperbolicNormal
from pyro_vae.distributions.hyperbolic import ExponentialMap, hyperboloid

FAILURE = 1e-6
F64 = torch.float64


def point(*v):
    """The point that a vector of the plane at the origin leads to."""
    return ExponentialMap()(torch.tensor(v, dtype=F64))


def distance(x, y):
    away = x - y
    square = (away[..., 1:] ** 2).sum(-1) - away[..., 0] ** 2
    return 2 * torch.asinh(square.clamp(min=0).sqrt() / 2)


def members():
    return {
        "standard": HyperbolicNormal(point(0.0, 0.0), torch.ones(2, dtype=F64)),
        "away": HyperbolicNormal(point(0.8, -1.1), torch.tensor([0.3, 0.9], dtype=F64)),
        "narrow": HyperbolicNormal(point(-2.0, 0.5), torch.tensor([0.02, 0.01], dtype=F64)),
    }


named = pytest.mark.parametrize("name", members())


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (1.3, 0.4), (-3.0, 2.0)])
def test_of_one_dimension_it_is_a_normal_along_the_line(loc, scale):
    t = torch.linspace(-6, 6, 41, dtype=F64)
    d = HyperbolicNormal(point(loc), torch.tensor([scale], dtype=F64))
    found = d.log_prob(torch.stack([t.cosh(), t.sinh()], -1))
    expected = torch.distributions.Normal(loc, scale).log_prob(t)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@named
def test_the_plane_holds_mass_one(name):
    """Gauss-Legendre in polar coordinates about loc: the area is sinh r dr dphi."""
    d = members()[name]
    far = 9 * d.scale.max().item()
    nodes, weights = map(torch.as_tensor, np.polynomial.legendre.leggauss(200))
    r, w = far * (nodes + 1) / 2, far * weights / 2
    phi = torch.arange(256, dtype=F64) * 2 * math.pi / 256
    v = r[:, None, None] * torch.stack([phi.cos(), phi.sin()], -1)
    # geodesics from loc are those from the origin, carried: draw with unit scale and given noise
    z = carried(d.loc, v)
    mass = (d.log_prob(z).exp() * (r.sinh() * w)[:, None]).sum() * 2 * math.pi / 256
    assert mass.item() == pytest.approx(1.0, abs=1e-9)


def carried(loc, v):
    """By the Lorentz boost that takes the origin to loc, which is an isometry."""
    head, tail = loc[0], loc[1:]
    boost = torch.eye(len(loc), dtype=F64)
    boost[0, 0], boost[0, 1:], boost[1:, 0] = head, tail, tail
    boost[1:, 1:] += torch.outer(tail, tail) / (1 + head)
    return ExponentialMap()(v) @ boost.T


@named
def test_draws_are_normal_in_the_plane_and_at_their_distance(name):
    d = members()[name]
    torch.manual_seed(1)
    z = d.sample((20_000,))
    assert bool(hyperboloid.check(z).all())
    v = d._plane(z.clone())
    for i in range(2):
        assert stats.kstest((v[:, i] / d.scale[i]).numpy(), "norm").pvalue > FAILURE
    torch.testing.assert_close(distance(z, d.loc), v.square().sum(-1).sqrt(), rtol=1e-6, atol=1e-8)


@named
def test_a_density_is_that_of_the_coordinates_also_for_remembered_draws(name):
    d = members()[name]
    z = d.rsample((500,))
    torch.testing.assert_close(d.log_prob(z), d.log_prob(z.clone()), rtol=1e-7, atol=1e-7)


def test_boosting_draw_and_location_changes_nothing():
    d, at = members()["away"], torch.tensor([1.0, 2.0], dtype=F64)
    isotropic = HyperbolicNormal(d.loc, torch.full((2,), 0.7, dtype=F64))
    z = isotropic.sample((50,))
    there = ExponentialMap()(at)
    boost = torch.stack([carried(there, ExponentialMap()._inverse(p)) for p in (*z, d.loc)])
    moved = HyperbolicNormal(boost[-1], isotropic.scale)
    torch.testing.assert_close(moved.log_prob(boost[:-1]), isotropic.log_prob(z))


@pytest.mark.parametrize("which", ["loc", "scale"])
def test_gradients_of_draws_and_densities_are_finite_differences(which):
    direction = torch.tensor([0.4, -0.3], dtype=F64)
    z = members()["away"].sample((30,))

    def made(t):
        loc = ExponentialMap()(
            torch.tensor([0.8, -1.1], dtype=F64) + (which == "loc") * t * direction
        )
        scale = torch.tensor([0.3, 0.9], dtype=F64) + (which == "scale") * t * direction
        return HyperbolicNormal(loc, scale)

    def drawn(t):
        torch.manual_seed(0)
        return made(t).rsample((30,))

    for function in (lambda t: made(t).log_prob(z), lambda t: made(t).log_prob(z.clone()), drawn):
        t = torch.zeros((), dtype=F64, requires_grad=True)
        value = function(t)
        weights = torch.randn(value.shape, dtype=F64)
        (found,) = torch.autograd.grad((value * weights).sum(), t)
        with torch.no_grad():
            up, down = (function(torch.tensor(s, dtype=F64)) for s in (1e-5, -1e-5))
        expected = ((up - down) * weights).sum() / 2e-5
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_a_score_has_mean_zero_and_a_path_forgets_the_location():
    """log q of a draw does not depend on loc through the draw; at a fixed point it does."""
    start = torch.tensor([0.8, -1.1], dtype=F64, requires_grad=True)
    d = HyperbolicNormal(ExponentialMap()(start), torch.tensor([0.3, 0.9], dtype=F64))
    z = d.rsample((4000,))
    assert z.requires_grad
    assert not d.log_prob(z).requires_grad
    d = HyperbolicNormal(ExponentialMap()(start), torch.tensor([0.3, 0.9], dtype=F64))
    with torch.no_grad():
        z = d.sample((4000,))
    jacobian = torch.autograd.functional.jacobian(
        lambda s: HyperbolicNormal(
            ExponentialMap()(s), torch.tensor([0.3, 0.9], dtype=F64)
        ).log_prob(z),
        start,
    )
    mean, error = jacobian.mean(0), jacobian.std(0) / 4000**0.5
    assert bool((mean.abs() < 5 * error).all())
    assert bool((jacobian.std(0) > 0.5).all())


def test_single_precision_keeps_the_density_of_a_narrow_draw_far_out():
    loc = ExponentialMap()(torch.tensor([4.0, 0.0]))
    d = HyperbolicNormal(loc, torch.tensor([1e-3, 1e-3]))
    z = d.rsample((2000,))
    mean = d.log_prob(z).mean().item()
    truth = -2 * math.log(1e-3 * math.sqrt(2 * math.pi * math.e))
    assert mean == pytest.approx(truth, abs=0.15)


def test_the_volume_of_the_map_and_its_inverse():
    v = torch.randn(6, 2, dtype=F64)
    onto = ExponentialMap()
    torch.testing.assert_close(onto._inverse(onto(v)), v)
    r = v.square().sum(-1).sqrt()
    torch.testing.assert_close(onto.log_abs_det_jacobian(v, onto(v)), (r.sinh() / r).log())
    near = ExponentialMap(5.0)
    torch.testing.assert_close(near._inverse(near(v)), v)
    assert distance(near(100 * v), point(0.0, 0.0)).max() <= 5.0 + 1e-9
    with pytest.raises(NotImplementedError, match="bounded reach"):
        near.log_abs_det_jacobian(v, near(v))


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="one coordinate more"):
        HyperbolicNormal(torch.tensor([1.0, 0.0]), torch.ones(2))
    with pytest.raises(ValueError, match="loc"):
        HyperbolicNormal(torch.tensor([1.0, 1.0]), torch.ones(1), validate_args=True)
    d = HyperbolicNormal(torch.tensor([1.0, 0.0]), torch.ones(1), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        d.log_prob(torch.tensor([1.0, 2.0]))
