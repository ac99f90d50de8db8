"""Maps from real numbers onto every support: their Jacobians, their mass, their edges."""

import math

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

from pyro_vae import distributions as own
from pyro_vae.distributions.circular import circle
from pyro_vae.distributions.hyperbolic import hyperboloid
from pyro_vae.distributions.product import Blocks
from pyro_vae.supports import inside, space_of

# by name: a support, and the shape of events to ask for
SUPPORTS = {
    "real": (constraints.real_vector, (3,)),
    "positive": (constraints.independent(constraints.positive, 1), (3,)),
    "nonnegative": (constraints.independent(constraints.nonnegative, 1), (3,)),
    "unit": (constraints.independent(constraints.unit_interval, 1), (3,)),
    "interval": (constraints.independent(constraints.interval(-2.0, 5.0), 1), (3,)),
    "above": (constraints.independent(constraints.greater_than(2.0), 1), (3,)),
    "below": (constraints.independent(constraints.less_than(-3.0), 1), (3,)),
    "simplex": (constraints.simplex, (4,)),
    "circle": (constraints.independent(circle, 1), (3,)),
    "sphere": (constraints.sphere, (4,)),
    "points of the circle": (constraints.sphere, (2,)),
    "spheres": (constraints.independent(constraints.sphere, 1), (2, 3)),
    "hyperboloid": (hyperboloid, (4,)),
    "product": (
        Blocks([constraints.real, constraints.sphere, hyperboloid], [(2,), (2, 3), (3,)]),
        (11,),
    ),
}
cases = pytest.mark.parametrize("name", SUPPORTS)


def carried(support, shape, loc=0.3, scale=0.8, dtype=torch.float64):
    """Normals of unlike locations and scales, carried onto a support; and their parameters."""
    way = own.onto(support)
    free = way.inverse_shape(torch.Size(shape))
    steps = torch.linspace(-1, 1, math.prod(free), dtype=dtype).reshape(free)
    parameters = [(loc + 0.4 * steps).requires_grad_(), (scale * (1 + steps / 3)).requires_grad_()]
    base = dist.Normal(*parameters).to_event(len(free))
    return dist.TransformedDistribution(base, [way.with_cache(1)]), parameters


@cases
def test_shapes_supports_and_round_trips(name):
    support, shape = SUPPORTS[name]
    way = own.onto(support)
    d, _ = carried(support, shape)
    z = d.sample((50,))
    assert z.shape == (50, *shape)
    assert inside(support, z)
    assert space_of(d.support) == space_of(support)
    assert d.support.event_dim == len(shape)
    y = way.inv(z)
    torch.testing.assert_close(way(y), z)
    assert way.forward_shape(y.shape) == z.shape
    # a draw, whose vector is remembered, and a stranger
    torch.testing.assert_close(d.log_prob(z), d.log_prob(z.clone()))


def volume(way, y):
    """log |det| of a map from R^n into a Euclidean space, by Gram's determinant."""
    jacobian = torch.autograd.functional.jacobian(way, y)
    return (jacobian.T @ jacobian).logdet() / 2


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-3, 0.3, 1.0, 4.0, 20.0])
def test_area_of_the_sphere_is_that_of_the_map(dim, size):
    torch.manual_seed(dim)
    way, y = own.SphericalMap(), torch.randn(dim, dtype=torch.float64)
    y = size * y / y.norm()
    # in many dimensions the Gram determinant of 20 is too small for double precision
    if size < 20 or dim == 1:
        expected = volume(way, y)
        torch.testing.assert_close(
            way.log_abs_det_jacobian(y, way(y)), expected, rtol=1e-8, atol=1e-8
        )
    torch.testing.assert_close(way.inv(way(y)), y, rtol=1e-9, atol=1e-12)
    y.requires_grad_()
    (slope,) = torch.autograd.grad(way.log_abs_det_jacobian(y, way(y)), y)
    assert bool(slope.isfinite().all())


@pytest.mark.usefixtures("float64")
def test_mass_on_the_circle_of_points_and_of_angles_is_one():
    angle = torch.linspace(-math.pi, math.pi, 4001)[:-1] + math.pi / 4001
    d, _ = carried(constraints.sphere, (2,))
    points = torch.stack([angle.cos(), angle.sin()], -1)
    assert d.log_prob(points).exp().mean().item() * 2 * math.pi == pytest.approx(1, abs=1e-9)
    e, _ = carried(constraints.independent(circle, 1), (1,))
    density = e.log_prob(angle.unsqueeze(-1))
    assert density.exp().mean().item() * 2 * math.pi == pytest.approx(1, abs=1e-9)
    # one map, seen as angles and as points
    torch.testing.assert_close(density, d.log_prob(points))


@pytest.mark.usefixtures("float64")
def test_mass_on_the_sphere_is_one():
    d, _ = carried(constraints.sphere, (3,))
    t, s = torch.meshgrid(
        (torch.arange(1000) + 0.5) * math.pi / 1000,
        torch.arange(400) * 2 * math.pi / 400,
        indexing="ij",
    )
    points = torch.stack([t.cos(), t.sin() * s.cos(), t.sin() * s.sin()], -1)
    mass = (d.log_prob(points).exp() * t.sin()).mean() * 2 * math.pi**2
    assert mass.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("float64")
def test_mass_on_hyperbolic_space_is_one():
    t = torch.linspace(-15, 15, 6001)
    line, _ = carried(hyperboloid, (2,))
    points = torch.stack([t.cosh(), t.sinh()], -1)
    assert torch.trapezoid(line.log_prob(points).exp(), t).item() == pytest.approx(1, abs=1e-9)
    plane, _ = carried(hyperboloid, (3,))
    r, s = torch.meshgrid(
        torch.linspace(0, 12, 4801), torch.arange(100) * 2 * math.pi / 100, indexing="ij"
    )
    points = torch.stack([r.cosh(), r.sinh() * s.cos(), r.sinh() * s.sin()], -1)
    around = (plane.log_prob(points).exp() * r.sinh()).mean(1) * 2 * math.pi
    assert torch.trapezoid(around, r[:, 0]).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("float64")
def test_a_normal_carried_to_hyperbolic_space_is_the_wrapped_normal_about_the_origin():
    scale = torch.tensor([0.5, 2.0])
    base = dist.Normal(torch.zeros(2), scale).to_event(1)
    d = dist.TransformedDistribution(base, [own.onto(hyperboloid)])
    wrapped = own.HyperbolicNormal(torch.tensor([1.0, 0.0, 0.0]), scale)
    z = wrapped.sample((20,))
    torch.testing.assert_close(d.log_prob(z), wrapped.log_prob(z))


@cases
def test_gradients_of_draws_are_those_of_differences(name):
    support, shape = SUPPORTS[name]
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)

    def value(loc_step=0.0, scale_step=0.0):
        d, (loc, scale) = carried(support, shape, 0.3 + loc_step, 0.8 + scale_step)
        torch.manual_seed(1)
        z = d.rsample((3,))
        return (weight * z.sin()).sum() + d.log_prob(z).sum(), loc, scale

    total, loc, scale = value()
    by_loc, by_scale = torch.autograd.grad(total, [loc, scale])
    h = 1e-5
    for found, step in ((by_loc, (h, 0.0)), (by_scale, (0.0, h))):
        up, down = value(*step)[0], value(*(-s for s in step))[0]
        # all locations move by the step, all scales in proportion to the first factor
        factor = 1.0 if step[0] else (scale / 0.8).detach()
        difference = ((up - down) / (2 * h)).item()
        assert (found * factor).sum().item() == pytest.approx(difference, rel=1e-6, abs=1e-6)


EXTREMES = [(loc, scale) for loc in (-50.0, 0.0, 50.0) for scale in (1e-6, 30.0, 1e6)]


@pytest.mark.parametrize("name", [n for n in SUPPORTS if n != "real"])
def test_edges_stay_finite_and_inside_in_single_precision(name):
    support, shape = SUPPORTS[name]
    for loc, scale in EXTREMES:
        d, parameters = carried(support, shape, loc, scale, torch.float32)
        z = d.rsample((100,))
        assert inside(support, z), "draws leave the support"
        assert bool(z.isfinite().all())
        stranger = z.detach().clone()
        for what in (z.mean(), d.log_prob(z).mean(), d.log_prob(stranger).mean()):
            assert bool(what.isfinite()), (loc, scale)
            found = torch.autograd.grad(what, parameters, retain_graph=True)
            assert all(bool(g.isfinite().all()) for g in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_missed_point_of_a_sphere_has_a_small_but_finite_density(dtype):
    d, _ = carried(constraints.sphere, (3,), dtype=dtype)
    antipode = torch.tensor([-1.0, 0.0, 0.0], dtype=dtype)
    assert -1e5 < d.log_prob(antipode).item() < -1e3
    assert d.log_prob(-antipode).item() > -5


def test_what_has_no_map_is_said():
    for support in (constraints.nonnegative_integer, constraints.one_hot, constraints.boolean):
        with pytest.raises(NotImplementedError):
            own.onto(support)
