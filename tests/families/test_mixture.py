"""Mixtures: joint over features, of any family, with a start that is not symmetric."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

from pyro_vae import distributions as own
from pyro_vae import families as fam
from pyro_vae.families import registry
from pyro_vae.supports import inside, space_of

WEIGHTS = torch.tensor([0.2, 0.5, 0.3])
LOC = torch.tensor([[-3.0, -3.0], [0.0, 2.0], [3.0, 1.0]])
COMPOSABLE = [
    cls
    for cls in registry.values()
    if cls.distribution is not fam.Family.distribution
    and set(cls.spec) - set(getattr(cls, "ends", {}))
    and not issubclass(cls, fam.Mixture)
]
every_family = pytest.mark.parametrize("family", COMPOSABLE, ids=lambda cls: cls.__name__)


def made(family, features=2, context=0, **options):
    return fam.Mixture(
        features, context, components=3, family=family, **family.example_options, **options
    )


# ---------------------------------------------------------------------- what the density is


def test_density_is_the_sum_of_joint_densities():
    prior = fam.Mixture(2, components=3, weights=WEIGHTS, loc=LOC, scale=0.5)
    x = prior().sample((50,))
    joint = sum(
        w * torch.exp(dist.Normal(m, 0.5).log_prob(x).sum(-1))
        for w, m in zip(WEIGHTS, LOC, strict=True)
    )
    torch.testing.assert_close(prior().log_prob(x), joint.log())


def test_a_mixture_of_each_feature_on_its_own_is_another_law():
    """The sum over features has to come before the logsumexp over components."""
    prior = fam.Mixture(2, components=2, loc=[[-4.0, -4.0], [4.0, 4.0]], scale=0.5)
    elementwise = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2, 2)),
        dist.Normal(torch.tensor([[-4.0, 4.0], [-4.0, 4.0]]), 0.5),
    ).to_event(1)
    between = torch.tensor([4.0, -4.0])
    assert elementwise.log_prob(between) > -2
    assert prior().log_prob(between) < -100
    x = prior().sample((200,))
    assert bool((x[:, 0].sign() == x[:, 1].sign()).all())
    # torch's own, of vectors, is the same law as ours
    joint = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)),
        dist.Normal(torch.tensor([[-4.0, -4.0], [4.0, 4.0]]), 0.5).to_event(1),
    )
    torch.testing.assert_close(prior().log_prob(x), joint.log_prob(x))


def test_draws_come_from_components_by_weight():
    d = fam.Mixture(2, components=3, weights=WEIGHTS, loc=10 * LOC, scale=0.1)()
    x = d.sample((5000,))
    nearest = torch.cdist(x, 10 * LOC).argmin(-1)
    share = torch.bincount(nearest, minlength=3) / 5000
    # five standard errors
    assert bool(((share - WEIGHTS).abs() < 5 * (WEIGHTS * (1 - WEIGHTS) / 5000).sqrt()).all())


def test_mean_and_variance_are_those_of_draws():
    d = fam.Mixture(2, components=3, weights=WEIGHTS, loc=LOC, scale=0.5)()
    mean = (WEIGHTS[:, None] * LOC).sum(0)
    second = (WEIGHTS[:, None] * (LOC**2 + 0.25)).sum(0)
    torch.testing.assert_close(d.mean, mean)
    torch.testing.assert_close(d.variance, second - mean**2)


@every_family
@pytest.mark.parametrize("state", ["fixed", "learnable", "amortized"])
def test_any_family_can_be_mixed(family, state):
    options = {"learnable": {"learnable": True}, "amortized": {"context": 4}}.get(state, {})
    mixture = made(family, (2, 3), **options)
    d = mixture(torch.randn(5, 4)) if mixture.context else mixture()
    plain = family((2, 3), **family.example_options)
    assert mixture.event_shape == plain.event_shape
    assert space_of(d.support) == space_of(plain.support)
    x = d.sample((20,))
    assert x.shape == (20, *d.batch_shape, *plain.event_shape)
    assert inside(d.support, x)
    # component by component, scored by the family itself with the k-th parameters
    values = mixture.values(torch.zeros(4) if mixture.context else None)
    weights = values.pop("weights")
    shared = {n for n in values if mixture._is_shared(n)}
    each = [
        plain.distribution(**{n: v if n in shared else v[k] for n, v in values.items()})
        for k in range(3)
    ]
    at = mixture(torch.zeros(4)) if mixture.context else d
    x = at.sample((20,))
    parts = torch.stack([e.log_prob(x) for e in each], -1)
    expected = (parts + weights.log()).logsumexp(-1)
    torch.testing.assert_close(at.log_prob(x), expected, rtol=1e-4, atol=1e-4)


@every_family
def test_one_component_is_the_family_itself(family):
    mixture = fam.Mixture(2, components=1, family=family, **family.example_options)
    plain = family(2, **family.example_options)()
    x = plain.sample((20,))
    torch.testing.assert_close(mixture().log_prob(x), plain.log_prob(x), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- components without mass


def test_a_weight_of_zero_is_kept():
    prior = fam.Mixture(2, components=2, weights=[1.0, 0.0], loc=[[0.0], [20.0]])
    far = torch.full((2,), 20.0)
    assert prior().log_prob(far) < -300  # torch gives it 1e-7, and here -20
    assert prior().mean.tolist() == [0.0, 0.0]
    assert prior().sample((100,)).max() < 10


def test_components_without_weight_or_density_give_no_nan():
    logits = torch.tensor([0.0, 0.0, -torch.inf], requires_grad=True)
    low = torch.tensor([[0.0], [1.0], [5.0]], requires_grad=True)
    d = own.MixtureSameFamily(
        dist.Categorical(logits=logits), own.Uniform(low, low + 1.0).to_event(1)
    )
    x = torch.tensor([[0.5], [1.5], [4.0]])
    inside_one = d.log_prob(x)
    assert inside_one[:2].exp().tolist() == pytest.approx([0.5, 0.5])
    assert inside_one[2] == -torch.inf
    for g in torch.autograd.grad(inside_one.sum(), (logits, low)):
        assert not bool(g.isnan().any())
    assert d.support.event_dim == 1
    element = d.support.base_constraint
    assert (element.lower_bound.item(), element.upper_bound.item()) == (0.0, 6.0)


def test_moments_ignore_components_without_weight():
    df = torch.tensor([5.0, 1.0])  # of one degree of freedom there is no mean
    weights = dist.Categorical(probs=torch.tensor([1.0, 0.0]))
    d = own.MixtureSameFamily(weights, own.StudentT(df))
    assert d.mean == 0.0
    torch.testing.assert_close(d.variance, torch.tensor(5 / 3))
    heavy = own.MixtureSameFamily(dist.Categorical(probs=torch.ones(2)), own.StudentT(df))
    assert not math.isfinite(heavy.variance)


# ---------------------------------------------------------------------- parameters


def test_components_start_apart_and_average_to_the_standard_member():
    prior = fam.Mixture(6, components=4)
    loc, log_scale = prior.loc, prior.scale.log()
    for raw in (loc, log_scale):
        torch.testing.assert_close(raw.mean(0), torch.zeros(6), atol=1e-6, rtol=0)
        assert raw.abs().max() < 0.2
        assert all(len(set(column)) == 4 for column in raw.T.tolist())
    assert prior.weights.eq(0.25).all()
    again = fam.Mixture(6, components=4)
    assert all(torch.equal(v, again.values()[n]) for n, v in prior.values().items())
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    fam.Mixture(6, components=4, learnable=True)
    assert torch.equal(torch.rand(1), expected)


def test_learned_components_part():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(200, 2) - 3, torch.randn(200, 2) + 3])
    prior = fam.Mixture(2, components=2, learnable=True)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss = -prior().log_prob(x).mean()
        loss.backward()
        optimizer.step()
    centres = prior.values()["loc"].sort(0).values
    torch.testing.assert_close(centres, torch.tensor([[-3.0, -3.0], [3.0, 3.0]]), atol=0.4, rtol=0)


def test_given_values_are_broadcast_start_and_stay():
    prior = fam.Mixture(2, components=3, loc=LOC, scale=0.5, learnable=True)
    assert prior.learned == ("weights", "loc", "scale")
    torch.testing.assert_close(prior.values()["loc"], LOC)
    assert prior.values()["scale"].shape == (3, 2)
    kept = fam.Mixture(2, components=3, loc=LOC, learnable=("weights",))
    assert [n for n, _ in kept.named_parameters()] == ["raw_weights"]
    decoder = fam.Mixture(2, context=5, components=3, scale=0.5)
    assert decoder.predicted == ("weights", "loc")
    assert decoder(torch.randn(7, 5)).batch_shape == (7,)
    only = fam.Mixture(2, context=5, components=3, loc=LOC, scale=0.5)
    assert only(torch.randn(7, 5)).sample().shape == (7, 2)


def test_structural_parameters_and_options_are_passed_on():
    t = fam.Mixture(2, components=3, family=fam.StudentT, df=[[3.0], [4.0], [5.0]], learnable=True)
    assert "df" not in t.learned
    assert t.values()["df"].shape == (3, 2)
    predicted = fam.Mixture(2, 5, components=3, family=fam.MultivariateStudentT, predict=("df",))
    assert predicted(torch.randn(7, 5)).sample().shape == (7, 2)
    groups = fam.Mixture(2, components=3, family=fam.OneHotCategorical, categories=5)
    assert groups.event_shape == (2, 5)
    assert "family=OneHotCategorical, categories=5" in repr(groups)
    bounded = fam.Mixture(2, components=3, family=fam.TruncatedNormal, low=-1.0, high=2.0)
    assert space_of(bounded.support)[1:3] == (-1.0, 2.0)


def test_it_is_copied_and_stored_whole():
    prior = fam.Mixture(2, components=3, family=fam.FullNormal, learnable=True)
    twin, fresh = (
        copy.deepcopy(prior),
        fam.Mixture(2, components=3, family=fam.FullNormal, learnable=True),
    )
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(torch.randn_like(p))
    assert not torch.equal(prior().mean, twin().mean)
    fresh.load_state_dict(prior.state_dict())
    assert torch.equal(prior().mean, fresh().mean)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, "Mixture needs components=, a whole number"),
        ({"components": 0}, ValueError, "components must be at least 1"),
        ({"components": 1.5}, ValueError, "components must be a whole number"),
        ({"components": 2, "family": "normal"}, TypeError, "a class such as fam.Normal"),
        ({"components": 2, "family": fam.Normal(2)}, TypeError, "a class such as fam.Normal"),
        ({"components": 2, "family": fam.Mixture}, TypeError, "a mixture of mixtures is a mixtur"),
        ({"components": 2, "family": fam.Transported}, TypeError, "not described by parameters"),
        ({"components": 2, "family": fam.Uniform}, ValueError, "no parameter in which"),
        ({"components": 2, "family": fam.SphericalUniform}, ValueError, "no parameter in which"),
        ({"components": 2, "family": fam.OneHotCategorical}, TypeError, "needs categories="),
        ({"components": 2, "df": 3.0}, TypeError, "no parameter 'df'"),
        ({"components": 2, "weights": [0.5, 0.6]}, ValueError, "weights must satisfy Simplex"),
        ({"components": 2, "loc": torch.zeros(3, 3)}, ValueError, r"broadcast to \(2, 3\)"),
        (
            {"components": 2, "weights": [1.0, 0.0], "learnable": True},
            ValueError,
            "trained weights must start above 0",
        ),
        (
            {"components": 2, "family": fam.TruncatedNormal, "learnable": ("low",)},
            ValueError,
            "'low' is an end of the support",
        ),
        (
            {"components": 2, "family": fam.TruncatedNormal, "low": 2.0},
            ValueError,
            "needs low < high",
        ),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        fam.Mixture(3, **options)


def test_expanded_mixtures_keep_their_support():
    d = own.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), own.TruncatedNormal(torch.zeros(2, 3), 1.0).to_event(1)
    ).expand((5,))
    assert d.support.event_dim == 1
    assert d.support.base_constraint.lower_bound.shape == (3,) or (
        d.support.base_constraint.lower_bound.shape == (5, 3)
    )
    assert inside(d.support, d.sample((4,)))
    assert isinstance(d.mask(torch.ones(5, dtype=torch.bool)).support, constraints.independent)
