"""No family can be trained to where floats end, and a guide that is there all the same is told.

Draws beyond the last float before 0 or 1 are moved to it, where a density says less than there is
mass. A sampled KL is then too low, by as much as one likes if concentrations may fall freely.
"""

import copy

import pyro.distributions as dist
import pytest
import torch
from builders import WIDTH, binary, small_vae
from torch import nn

from pyro_vae import VAE, datasets, fit, kl, networks, training
from pyro_vae import families as fam
from pyro_vae.diagnostics import elbo
from pyro_vae.families import registry
from pyro_vae.families.parameters import SoftplusAbove
from pyro_vae.supports import space_of

SIZES = 4.75  # of a standard error: 2e-6 of normal ones are off by more
BOUNDED = [
    (name, parameter)
    for name, cls in registry.items()
    for parameter, spec in cls.spec.items()
    if isinstance(spec.admissible, SoftplusAbove) and not spec.structural
]


def lowest(name, parameter):
    """The lowest value of a parameter that training can reach."""
    spec = registry[name].spec[parameter]
    return float(spec.transform(torch.tensor(-60.0)))


def member(name, dtype, **parameters):
    example = registry[name].example(3)
    values = {
        n: torch.full(tuple(example._shape(n)), v, dtype=dtype) for n, v in parameters.items()
    }
    return registry[name](example.features, **values).to(dtype)()


def sampled_and_exact(name, parameter, value, other):
    """KL of two members that differ in one parameter: drawn in float32, and as it is."""
    torch.manual_seed(0)
    q, p = (member(name, torch.float32, **{parameter: v}) for v in (value, other))
    z = q.sample((100_000,))
    ratio = (q.log_prob(z) - p.log_prob(z)).double()
    wide = [member(name, torch.float64, **{parameter: v}) for v in (value, other)]
    return ratio.mean().item(), ratio.std().item() / len(z) ** 0.5, kl.divergence(*wide).item()


@pytest.mark.parametrize("times", [2.0, 8.0])
@pytest.mark.parametrize(("name", "parameter"), BOUNDED)
def test_no_kl_is_too_low_where_training_can_go(name, parameter, times):
    least = lowest(name, parameter)
    sampled, error, exact = sampled_and_exact(name, parameter, least, times * least)
    assert sampled > 0.9 * exact - SIZES * error


@pytest.mark.parametrize(
    ("name", "parameter"), [("dirichlet", "concentration"), ("beta", "concentration0")]
)
def test_below_it_would_be(name, parameter):
    """Must catch: a thirtieth of the bound."""
    least = lowest(name, parameter) / 30
    sampled, error, exact = sampled_and_exact(name, parameter, least, 8 * least)
    assert sampled < 0.5 * exact - SIZES * error


def test_families_with_ends_that_draws_come_near_are_bounded():
    """By their names: whoever adds a family with concentrations thinks of it."""
    free = {
        (name, parameter)
        for name, cls in registry.items()
        for parameter, spec in cls.spec.items()
        if parameter.startswith("concentration")
        and not spec.constraint.check(torch.full((3,), -1.0)).any()
        and space_of(cls.where()).name not in ("sphere", "circle")
    }
    assert free == set(BOUNDED)


def test_a_start_below_the_bound_is_refused():
    with pytest.raises(ValueError, match="concentration must start where"):
        fam.Dirichlet(3, concentration=0.01, learnable=True)
    assert fam.Dirichlet(3, concentration=0.01)().concentration[0] == pytest.approx(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dirichlet", "gem", "beta"])
def test_training_beside_a_prior_that_follows_finds_no_bound_that_float64_denies(name):
    x = datasets.load("digits").train
    encoder = nn.Sequential(networks.MLP(64, 64), registry[name](8, context=64))
    prior = fam.VampPrior(encoder, components=20, inputs=x[:20])
    decoder = nn.Sequential(networks.MLP(8, 64), fam.Bernoulli(64, context=64))
    vae = VAE(prior=prior, encoder=encoder, decoder=decoder)
    fit(vae, x, epochs=20, progress=False, seed=0)
    (low, noise), (high, other) = (
        (found.attrs["elbo_mean"], found.attrs["elbo_mean_std_error"])
        for found in (
            elbo(v.model, v.guide, x[:200].to(t), num_samples=200, progress=False)
            for t, v in ((t, copy.deepcopy(vae).to(t)) for t in (torch.float64, torch.float32))
        )
    )
    assert high < low + 0.02 + SIZES * (noise**2 + other**2) ** 0.5


# ------------------------------------------------------------------------------------ it is told
class Free(nn.Module):
    """A guide by hand, whose concentrations may be anything."""

    def __init__(self, concentration):
        super().__init__()
        self.concentration, self.layer = concentration, nn.Linear(6, 2)

    def forward(self, x):
        rate = self.layer(x).exp()
        return dist.Gamma(self.concentration * torch.ones_like(rate), rate).to_event(1)


def vae_of(concentration):
    prior = fam.Gamma(2, concentration=concentration)
    decoder = nn.Sequential(networks.MLP(2, WIDTH), fam.Bernoulli(6, context=WIDTH))
    return VAE(prior=prior, encoder=Free(concentration), decoder=decoder)


@pytest.mark.parametrize(
    ("concentration", "level", "low", "high"),
    [(1.0, "good", 0, 0), (0.03, "care", 0.1, 0.4), (0.001, "bad", 0.9, 1)],
)
def test_a_guide_at_the_end_of_floats_is_told(concentration, level, low, high):
    vae = vae_of(concentration)
    found = elbo(vae.model, vae.guide, binary(70), num_samples=150, progress=False)
    assert low <= found.attrs["at_edge_share"] <= high
    assert found.site_at_edge.shape == (1, 70)
    findings = elbo.step.judge(found)
    assert [f.level for f in findings] == [level]
    assert ("where floats end" in findings[0].text) == (level != "good")
    assert ("float64" in findings[0].advice) == (level != "good")


def test_training_says_so():
    vae = vae_of(0.001)
    with pytest.warns(
        UserWarning, match="of draws of site 'z' hold a number where floats end"
    ) as told:
        history = fit(vae, binary(50), epochs=1, progress=False, seed=0)
    assert told[0].filename == __file__
    assert history.attrs["at_edge_share"] > 0.9
    quiet = fit(small_vae(), binary(50), epochs=1, progress=False, seed=0)
    assert quiet.attrs["at_edge_share"] == 0.0


def test_looking_changes_no_random_number(monkeypatch):
    states = []
    for look in (training._share_at_edge, lambda vae, x: 0.0):
        monkeypatch.setattr(training, "_share_at_edge", look)
        torch.manual_seed(0)
        fit(small_vae(), binary(50), epochs=1, progress=False)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
