"""Families on the simplex: shapes of sticks, standard members, draws under other densities."""

import pytest
import torch

from pyro_vae import families as fam
from pyro_vae.supports import space_of

SIMPLEX = ("dirichlet", "logistic_normal", "stick_breaking", "gem")
families = pytest.mark.parametrize("name", SIMPLEX)


@families
@pytest.mark.parametrize("features", [2, 5, (3, 4), (2, 4, 4)], ids=str)
def test_lives_on_the_simplex(name, features):
    family = fam.registry[name](features)
    assert space_of(family.support).kind == "simplex"
    z = family().sample((7,))
    assert z.shape == (7, *family.event_shape)
    torch.testing.assert_close(z.sum(-1), torch.ones(z.shape[:-1]))


@families
def test_one_part_is_refused(name):
    with pytest.raises(ValueError, match="needs at least 2 features in its last dimension"):
        fam.registry[name]((3, 1))


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        (fam.LogisticNormal((2, 5), loc=1.0), (2, 4)),
        (fam.StickBreaking((2, 5)), (2, 4)),
        (fam.GEM((2, 5)), (2,)),
        (fam.Dirichlet((2, 5)), (2, 5)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, fam.Family) else str(v),
)
def test_sticks_are_one_less_than_parts(family, shape):
    assert {tuple(v.shape) for v in family.values().values()} == {shape}


def test_standard_sticks_are_those_of_gem():
    x = fam.Dirichlet(4)().sample((9,))
    torch.testing.assert_close(fam.StickBreaking(4)().log_prob(x), fam.GEM(4)().log_prob(x))


def test_of_two_parts_sticks_are_numbers():
    x = torch.rand(9)
    both = torch.stack([x, 1 - x], -1)
    pairs = [
        (fam.StickBreaking(2, concentration1=2.0), fam.Kumaraswamy(1, concentration1=2.0)),
        (fam.LogisticNormal(2, loc=0.3, scale=0.7), fam.LogitNormal(1, loc=0.3, scale=0.7)),
        (fam.GEM(2, concentration=3.0), fam.Beta(1, concentration0=3.0)),
        (fam.Dirichlet(2, concentration=3.0), fam.Beta(1, concentration1=3.0, concentration0=3.0)),
    ]
    for vector, number in pairs:
        torch.testing.assert_close(
            vector().log_prob(both), number().log_prob(x.unsqueeze(-1)), atol=1e-4, rtol=1e-5
        )


@families
@pytest.mark.parametrize("prior", SIMPLEX)
def test_draws_have_a_finite_density_under_every_prior(name, prior):
    guide = fam.registry[name](5, context=4)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(2 * torch.randn_like(parameter))
    z = guide(2 * torch.randn(500, 4)).rsample()
    log_prob = fam.registry[prior](5)().log_prob(z)
    assert bool(log_prob.isfinite().all())
    (log_prob.sum() + z.log().sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in guide.parameters())


def test_more_concentration_shares_the_whole_among_more_parts():
    few, many = (fam.GEM(10, concentration=c)().mean for c in (0.5, 5.0))
    assert few[0] > many[0]
    assert few[-1] < many[-1]
