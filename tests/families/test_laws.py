"""Laws that hold for every registered family, built through `Family.example` alone."""

import copy
import math

import pyro
import pytest
import torch
from builders import trains
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions import biject_to

from pyro_vae.families import registry
from pyro_vae.supports import inside, space_of

CONTEXT = 5
STATES = ("fixed", "learnable", "amortized")
BATCHES = [(), (7,), (2, 7)]


def shape_of(cls, features):
    return max(features, cls.min_features) if isinstance(features, int) else features


def build(cls, features=3, state="fixed"):
    options = {"learnable": {"learnable": True}, "amortized": {"context": CONTEXT}}
    return cls.example(shape_of(cls, features), **options.get(state, {}))


def at(family, batch=(), *, scale=1.0):
    """The distribution over a batch: of contexts if it looks at any, otherwise expanded."""
    if family.context:
        return family(scale * torch.randn(*batch, family.context))
    return family().expand(batch)


def shake(module, size=0.3):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


families = pytest.mark.parametrize("cls", registry.values(), ids=registry)
sizes = pytest.mark.parametrize("features", [1, 3, (2, 4, 4)], ids=str)


def in_states(states):
    """Each family in those of the states that it can be in."""
    cases = [
        pytest.param(cls, state, id=f"{name}-{state}")
        for state in states
        for name, cls in registry.items()
        if state in cls.states()
    ]
    return pytest.mark.parametrize(("cls", "state"), cases)


members, trained = in_states(STATES), in_states(STATES[1:])


@members
@sizes
def test_shapes_and_own_draws(cls, features, state):
    family = build(cls, features, state)
    shape = shape_of(cls, features)
    assert family.features == ((shape,) if isinstance(shape, int) else shape)
    for batch in BATCHES:
        d = at(family, batch)
        assert isinstance(d, TorchDistributionMixin)
        assert d.batch_shape == batch
        assert d.event_shape == family.event_shape
        x = d.sample((4,))
        assert x.shape == (4, *batch, *family.event_shape)
        assert inside(d.support, x)
        log_prob = d.log_prob(x)
        assert log_prob.shape == (4, *batch)
        assert bool(log_prob.isfinite().all())


@members
def test_extreme_members_still_draw_inside_with_finite_density(cls, state):
    family = shake(build(cls, 3, state), 2.0)
    d = at(family, (50,), scale=2.0)
    x = d.sample((20,))
    assert inside(d.support, x)
    assert bool(d.log_prob(x).isfinite().all())


def total_mass(d, support):
    """The integral or sum of a density with one free dimension, by an independent rule."""
    space = space_of(support)
    if space.kind == "one_hot":
        return d.log_prob(torch.eye(d.event_shape[-1]).unsqueeze(-2)).exp().sum()
    if space.kind == "integer":
        values = torch.arange(space.lower, min(space.upper, 20_000.0) + 1)
        return d.log_prob(values.unsqueeze(-1)).exp().sum()
    if space.kind == "sphere":
        angle = torch.linspace(0, 2 * math.pi, 4001)[:-1]
        points = torch.stack([angle.cos(), angle.sin()], -1)
        return d.log_prob(points).exp().sum() * 2 * math.pi / 4000
    if space.kind == "hyperboloid":  # H^1 is a line, by the distance along it
        t = torch.linspace(-20, 20, 8001)
        points = torch.stack([t.cosh(), t.sinh()], -1)
        return torch.trapezoid(d.log_prob(points).exp(), t)
    # in the coordinate of the bijection; on the line stretched for the tails
    whole_line = math.isinf(space.lower) and math.isinf(space.upper) and space.kind == "real"
    bijection = biject_to(support)

    def density(u):
        t, stretch = (80 * u, torch.full_like(u, 80.0))
        if whole_line:
            t, stretch = torch.sinh(40 * u), 40 * torch.cosh(40 * u)
        t = t.reshape(-1, *[1] * len(d.event_shape))
        x = bijection(t)
        log_jacobian = bijection.log_abs_det_jacobian(t, x).reshape(len(u))
        return (d.log_prob(x) + log_jacobian).exp() * stretch

    return adaptive(density, torch.linspace(-1, 1, 15_001))


def adaptive(density, edges, tolerance=1e-12):
    """Simpson's rule, in halves where halves differ: densities may have kinks and narrow peaks."""
    points = torch.stack([edges[:-1], (edges[:-1] + edges[1:]) / 2, edges[1:]])
    values, total = density(points.flatten()).reshape(3, -1), 0.0
    for _ in range(40):
        middles = (points[:-1] + points[1:]) / 2
        between = density(middles.flatten()).reshape(2, -1)
        size = points[2] - points[0]
        whole = size / 6 * (values[0] + 4 * values[1] + values[2])
        halves = size / 12 * (values[0] + 2 * values[1] + values[2] + 4 * between.sum(0))
        settled = (halves - whole).abs() < 15 * tolerance
        total = total + (halves + (halves - whole) / 15)[settled].sum()
        if bool(settled.all()):
            return total
        p, m, v, b = (
            points[:, ~settled],
            middles[:, ~settled],
            values[:, ~settled],
            between[:, ~settled],
        )
        points = torch.cat([torch.stack([p[0], m[0], p[1]]), torch.stack([p[1], m[1], p[2]])], 1)
        values = torch.cat([torch.stack([v[0], b[0], v[1]]), torch.stack([v[1], b[1], v[2]])], 1)
    raise AssertionError("the density is too rough for this rule")


@pytest.mark.usefixtures("float64")
@members
@pytest.mark.parametrize("size", [0.0, 0.5])
def test_one_dimensional_densities_have_mass_one(cls, state, size, monkeypatch):
    if "categories" in cls.options:  # of two classes, a point of a simplex is one number
        monkeypatch.setattr(cls, "example_options", {**cls.example_options, "categories": 2})
    family = shake(build(cls, 1, state), size)
    mass = total_mass(at(family), family.support)
    assert mass.item() == pytest.approx(1.0, abs=1e-6)


def live(family, name, p):
    """Which elements have a say: all, but for those that the family itself names as silent."""
    return ~family.silent().get(name, torch.zeros_like(p, dtype=torch.bool))


def assert_every_element_has_a_gradient(family):
    assert list(family.parameters())
    assert family.silent().keys() <= dict(family.named_parameters()).keys()
    for name, p in family.named_parameters():
        assert p.grad is not None, f"{name} has no gradient"
        assert bool(p.grad.isfinite().all())
        assert torch.equal(p.grad != 0, live(family, name, p)), f"{name}: elements without one"


@trained
@sizes
def test_gradient_of_the_density_reaches_every_element(cls, features, state):
    family = shake(build(cls, features, state), 0.1)
    # so many draws that there are some in each piece of a spline
    d = at(family, (40,))
    x = d.sample()
    (torch.randn(40) * d.log_prob(x)).sum().backward()
    assert_every_element_has_a_gradient(family)


@trained
def test_gradient_of_reparameterised_draws_reaches_every_element(cls, state):
    family = shake(build(cls, 3, state), 0.1)
    d = at(family, (40,))
    if not d.has_rsample:
        assert not d.sample().requires_grad
        return
    if "guide" not in cls.roles:
        return  # a likelihood is scored, never differentiated through its draws
    x = d.rsample()
    # a function that no symmetry or constraint of the draws makes constant
    (torch.randn_like(x) * x.square() + torch.randn_like(x) * x).sum().backward()
    assert_every_element_has_a_gradient(family)


@trained
def test_one_step_moves_every_element(cls, state):
    family = shake(build(cls, 3, state), 0.1)
    before = {name: p.detach().clone() for name, p in family.named_parameters()}
    optimizer = torch.optim.SGD(family.parameters(), lr=0.1)
    d = at(family, (40,))
    (torch.randn(40) * d.log_prob(d.sample())).sum().backward()
    optimizer.step()
    for name, p in family.named_parameters():
        assert torch.equal(p != before[name], live(family, name, p))


@families
def test_what_is_fixed_has_no_parameters(cls):
    assert not [p for p in build(cls).parameters() if p.requires_grad]


@pytest.mark.parametrize("cls", [c for c in registry.values() if not trains(c)])
def test_what_cannot_be_trained_says_so(cls):
    assert cls.roles == {"prior"}
    with pytest.raises(ValueError, match="has no parameter to train"):
        build(cls, 3, "learnable")


@members
def test_expand(cls, state):
    d = at(build(cls, 3, state), (7,))
    x = d.sample()
    wide = d.expand((4, 7))
    assert wide.batch_shape == (4, 7)
    assert wide.event_shape == d.event_shape
    assert wide.sample().shape == (4, 7, *d.event_shape)
    torch.testing.assert_close(wide.log_prob(x), d.log_prob(x).expand(4, 7))


@members
def test_mask(cls, state):
    d = at(build(cls, 3, state), (7,))
    x = d.sample()
    mask = torch.tensor([True, False, True, True, False, True, True])
    masked = d.mask(mask).log_prob(x)
    torch.testing.assert_close(masked, torch.where(mask, d.log_prob(x), torch.zeros(7)))
    assert d.mask(mask).sample().shape == x.shape


@members
def test_plate_and_handlers(cls, state):
    family = build(cls, 3, state)
    context = torch.randn(7, CONTEXT) if family.context else None

    def model():
        with pyro.plate("data", 7, dim=-1):
            return pyro.sample("z", family(context))

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    z = trace.nodes["z"]["value"]
    assert z.shape == (7, *family.event_shape)
    assert trace.nodes["z"]["log_prob"].shape == (7,)
    replayed = poutine.trace(poutine.replay(model, trace)).get_trace()
    assert replayed.nodes["z"]["value"] is z
    scaled = poutine.trace(poutine.scale(poutine.condition(model, {"z": z}), 3.0)).get_trace()
    torch.testing.assert_close(scaled.log_prob_sum(), 3 * trace.log_prob_sum())
    with pyro.plate("particles", 4, dim=-2):
        assert model().shape == (4, 7, *family.event_shape)


@members
@sizes
def test_repr_is_stable_and_says_what_matters(cls, features, state):
    family, twin = build(cls, features, state), build(cls, features, state)
    text = repr(family)
    assert text == repr(twin)
    assert text.startswith(f"{cls.__name__}(")
    shape = family.features
    assert str(shape[0] if len(shape) == 1 else shape) in text
    assert (f"context={CONTEXT}" in text) is (state == "amortized")
    assert ("learnable=" in text) is (state == "learnable")
    assert ("predicted=" in text) is (state == "amortized")
    for eyesore in ("tensor", "0x", "object at", "device"):
        assert eyesore not in text
    assert max(map(len, text.splitlines())) < 120


@members
def test_state_dict_round_trip_gives_the_same_density(cls, state):
    family, fresh = shake(build(cls, 3, state)), build(cls, 3, state)
    fresh.load_state_dict(family.state_dict())
    context = torch.randn(7, CONTEXT) if family.context else None
    x = family(context).sample()
    assert torch.equal(family(context).log_prob(x), fresh(context).log_prob(x))


@members
def test_deep_copy_is_equal_and_apart(cls, state):
    family = shake(build(cls, 3, state))
    twin = copy.deepcopy(family)
    context = torch.randn(7, CONTEXT) if family.context else None
    x = family(context).sample()
    before = family(context).log_prob(x)
    assert torch.equal(before, twin(context).log_prob(x))
    shake(twin)
    assert torch.equal(before, family(context).log_prob(x))


@members
@sizes
def test_support_is_that_of_the_distribution_and_does_not_move(cls, features, state):
    family = build(cls, features, state)
    space, event_dim = space_of(family.support), family.support.event_dim
    assert space.kind != "unknown"
    assert event_dim == len(family.event_shape)
    for size in (0.0, 1.0):
        d = at(shake(family, size), (7,), scale=2.0)
        assert space_of(d.support) == space_of(family.support) == space
        assert d.support.event_dim == event_dim
    assert cls.fits(family.support)


@trained
@sizes
def test_begins_near_the_standard_member(cls, features, state):
    family, standard = build(cls, features, state), build(cls, features)()
    x = standard.sample((200,))
    truth = standard.log_prob(x)
    # at the origin of the context the head is its bias alone: the standard member itself
    start = family(torch.zeros(CONTEXT)) if family.context else family()
    torch.testing.assert_close(start.log_prob(x), truth, rtol=1e-4, atol=1e-4)
    near = at(family, (200,)).log_prob(x)
    free = math.prod(family.event_shape)
    assert (near - truth).abs().mean() < 0.3 * free


@members
def test_draws_are_reproducible(cls, state):
    d = at(build(cls, 3, state), (7,))
    torch.manual_seed(1)
    x = d.sample((3,))
    torch.manual_seed(1)
    assert torch.equal(x, d.sample((3,)))
    assert not torch.equal(x, d.sample((3,)))


@members
def test_double_precision_throughout(cls, state):
    family = build(cls, 3, state).double()
    d = family(torch.randn(7, CONTEXT).double()) if family.context else family()
    x = d.sample((50,))
    log_prob = d.log_prob(x)
    assert log_prob.dtype == torch.float64
    assert bool(log_prob.isfinite().all())
    if not space_of(d.support).is_discrete:
        assert x.dtype == torch.float64


@pytest.mark.parametrize("cls", [c for c in registry.values() if "amortized" not in c.states()])
def test_what_cannot_look_at_a_context_says_so(cls):
    assert cls.roles == {"prior"}
    with pytest.raises(ValueError, match="nothing to predict"):
        build(cls, 3, "amortized")
    with pytest.raises(ValueError, match="looks at nothing.*never conditional"):
        build(cls)(torch.zeros(7, 4))


@members
def test_context_is_checked(cls, state):
    family = build(cls, 3, state)
    if family.context:
        with pytest.raises(ValueError, match=rf"predicts from a context of shape .*{CONTEXT}"):
            family()
        with pytest.raises(ValueError, match=rf"built with context={CONTEXT}, but received"):
            family(torch.zeros(7, CONTEXT + 1))
    else:
        cure = r"context=4\)" if "amortized" in cls.states() else "never conditional"
        with pytest.raises(ValueError, match=rf"context=0 and looks at nothing.*{cure}"):
            family(torch.zeros(7, 4))


@families
def test_class_says_what_it_is(cls):
    assert cls.roles
    assert cls.roles <= {"prior", "guide", "likelihood"}
    assert "Example:" in cls.__doc__
    assert set(cls.example_options) == set(cls.options)
    for parameter in cls.spec.values():
        assert parameter.default is not None
