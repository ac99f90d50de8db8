"""Families on intervals: their ends, their draws beside each other's densities, their starts."""

import math

import pytest
import torch
from torch import nn

from pyro_vae import VAE
from pyro_vae import families as fam
from pyro_vae.supports import Space, inside, lies_within, space_of

UNIT = ("beta", "kumaraswamy", "logit_normal", "continuous_bernoulli", "truncated_normal")
UNIFORM = ("beta", "kumaraswamy", "continuous_bernoulli", "uniform")
units = pytest.mark.parametrize("name", UNIT)


@pytest.mark.parametrize("name", [*UNIT, "uniform"])
def test_lives_on_the_unit_interval(name):
    assert space_of(fam.registry[name].example().support) == Space("real", 0.0, 1.0)
    assert fam.registry[name].__name__ in fam.fitting(fam.Beta(3).support, "prior")


@pytest.mark.parametrize("name", UNIFORM)
def test_the_standard_member_is_uniform(name):
    log_prob = fam.registry[name].example(4)().log_prob(torch.rand(9, 4))
    torch.testing.assert_close(log_prob, torch.zeros(9), atol=1e-5, rtol=0)


@units
@pytest.mark.parametrize("prior", [*UNIT, "uniform", "gamma", "normal"])
def test_draws_have_a_finite_density_under_every_prior(name, prior):
    guide = fam.registry[name].example(3, context=4)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(2 * torch.randn_like(parameter))
    z = guide(2 * torch.randn(500, 4)).rsample()
    log_prob = fam.registry[prior].example(3)().log_prob(z)
    assert bool(log_prob.isfinite().all())
    (log_prob.sum() + z.log().sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in guide.parameters())


@pytest.mark.parametrize("cls", [fam.TruncatedNormal, fam.Uniform])
def test_other_ends(cls):
    family = cls(3, low=-2.0, high=5.0)
    assert space_of(family.support) == Space("real", -2.0, 5.0)
    z = family().sample((200,))
    assert inside(family.support, z)
    assert bool((z < 0).any())
    assert bool((z > 1).any())
    assert lies_within(fam.Beta(3).support, family.support)
    assert not lies_within(family.support, fam.Beta(3).support)


@pytest.mark.parametrize("cls", [fam.TruncatedNormal, fam.Uniform])
@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0)])
def test_ends_in_the_wrong_order_are_refused(cls, low, high):
    with pytest.raises(ValueError, match=f"needs low < high, but low={low:g} and high={high:g}"):
        cls(3, low=low, high=high)


@pytest.mark.parametrize("cls", [fam.TruncatedNormal, fam.Uniform])
def test_ends_are_one_number_each(cls):
    with pytest.raises(ValueError, match=r"low has shape \(3,\)"):
        cls(3, low=torch.tensor([0.0, 0.1, 0.2]))


@pytest.mark.parametrize("options", [{"learnable": ("low",)}, {"learnable": ("loc", "high")},
                                     {"context": 4, "predict": ("high",)}])  # fmt: skip
def test_ends_never_move(options):
    with pytest.raises(ValueError, match="is an end of the support, which is never trained"):
        fam.TruncatedNormal(3, **options)


def test_a_uniform_has_nothing_to_train_or_to_predict():
    with pytest.raises(ValueError, match="no parameter to train"):
        fam.Uniform(3, learnable=True)
    with pytest.raises(ValueError, match="nothing to predict"):
        fam.Uniform(3, context=4)
    with pytest.raises(ValueError, match="is an end of the support"):
        fam.Uniform(3, learnable=("low",))
    assert fam.Uniform.roles == {"prior"}


def test_a_truncated_normal_learns_a_loc_outside_its_interval():
    """Of data that crowd at 0 the likelihood has its maximum at an exponential."""
    x = 0.05 * torch.empty(400, 1).exponential_().clamp(1e-6, 19.9)
    family = fam.TruncatedNormal(1, learnable=True)
    optimizer = torch.optim.Adam(family.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss = -family().log_prob(x).mean()
        loss.backward()
        optimizer.step()
    assert family.values()["loc"].item() < 0
    # the entropy of an exponential
    assert loss.item() == pytest.approx(1 + math.log(x.mean().item()), abs=0.1)


def test_grey_values_train_a_continuous_bernoulli_from_its_start():
    vae = VAE(
        prior=fam.Uniform(2),
        encoder=nn.Sequential(nn.Linear(5, 8), nn.Tanh(), fam.ContinuousBernoulli(2, context=8)),
        decoder=nn.Sequential(nn.Linear(2, 8), nn.Tanh(), fam.ContinuousBernoulli(5, context=8)),
    )
    from pyro.infer import Trace_ELBO

    loss = Trace_ELBO()(vae.model, vae.guide)(torch.rand(7, 5))
    loss.backward()
    assert all(bool((p.grad != 0).all()) for p in vae.parameters())
