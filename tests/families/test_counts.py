"""Counts: the limits of their masses, and means that are known up to an exposure."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_vae import VAE, distributions, networks
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, capture
from pyro_vae.supports import space_of

PIXELS, ROWS = 6, 10
COUNTS = {
    name: cls
    for name, cls in fam.registry.items()
    if "likelihood" in cls.roles and space_of(cls.example(1).support).name == "counts"
}
counted = pytest.mark.parametrize("name", COUNTS)
MASK = torch.rand(ROWS, PIXELS, generator=torch.Generator().manual_seed(1)) > 0.3


@pytest.mark.parametrize("name", ["negative_binomial", "zero_inflated_negative_binomial"])
def test_large_total_count_is_the_poisson(name):
    x, rate = torch.arange(60.0).double(), torch.tensor(12.0).double()
    options = {"gate_logits": torch.tensor(-50.0).double()} if name.startswith("zero") else {}
    law = type(COUNTS[name].example(1)().base_dist)
    found = law(rate=rate, total_count=torch.tensor(1e15).double(), **options).log_prob(x)
    np.testing.assert_allclose(found, stats.poisson(12.0).logpmf(x.numpy()), rtol=1e-10)


@counted
def test_a_prediction_far_below_zero_is_a_rate_of_zero(name):
    raw = torch.tensor([-120.0], requires_grad=True)
    standard = COUNTS[name](1)
    d = standard.distribution(**{**standard.values(), "rate": raw.exp()})
    assert d.sample().item() == 0
    for x in (0.0, 3.0):
        log_mass = d.log_prob(torch.tensor([x]))
        assert bool(log_mass.isfinite())
        assert bool(torch.autograd.grad(log_mass, raw, retain_graph=True)[0].isfinite())


@pytest.mark.usefixtures("float64")
def test_negative_binomial_is_that_of_torch_by_its_odds():
    rate, r = torch.tensor([0.3, 4.0, 90.0]), torch.tensor([2.0, 0.5, 70.0])
    theirs = dist.NegativeBinomial(r, logits=(rate / r).log())
    ours = distributions.NegativeBinomial(rate, r)
    x = torch.arange(200.0)[:, None]
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)


# ---------------------------------------------------------------------- exposures


def exposed(name="negative_binomial"):
    torch.manual_seed(3)
    encoder = torch.nn.Sequential(
        networks.Log1p(PIXELS), networks.MLP(PIXELS + 1, 8), fam.Normal(2, context=8)
    )
    family = COUNTS[name](PIXELS, context=8)
    return VAE(fam.Normal(2), encoder, fam.WithOffset(networks.MLP(2, 8), family))


@counted
def test_an_exposure_multiplies_the_mean_and_nothing_else(name):
    decoder = exposed(name).model.decoder
    z, offset = torch.randn(4, 7, 2), torch.randn(7, 1)
    found = decoder(torch.cat([z, offset.expand(4, 7, 1)], -1)).base_dist
    plain = decoder.family(decoder.net(z)).base_dist
    assert found.batch_shape == (4, 7, PIXELS)
    for parameter in found.arg_constraints:
        factor = offset.exp() if parameter == "rate" else 1.0
        torch.testing.assert_close(getattr(found, parameter), factor * getattr(plain, parameter))


@counted
def test_a_vae_with_an_exposure_trains_and_draws_at_it(name):
    vae, y = exposed(name), torch.linspace(-1.0, 1.0, ROWS)[:, None]
    with torch.no_grad():
        x = vae.model(y=y)
    assert x.shape == (ROWS, PIXELS)
    options = {"num_particles": 3, "vectorize_particles": True}
    loss = TraceExactKL_ELBO(**options)(vae.model, vae.guide)(x, y=y, mask=MASK)
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in vae.parameters())
    pyro.set_rng_seed(1)
    with torch.no_grad():
        means = [vae.model(y=torch.full((4000, 1), e)).mean() for e in (0.0, math.log(20.0))]
    assert 10 < means[1] / means[0] < 40


def test_events_of_several_dimensions_take_an_exposure():
    decoder = fam.WithOffset(torch.nn.Identity(), fam.Poisson((2, 3), context=4))
    assert decoder(torch.randn(5, 5)).mean.shape == (5, 2, 3)


def test_offsets_without_counts_or_context_are_refused():
    with pytest.raises(TypeError, match=r"WithOffset: Normal has no mean count .* fam.Poisson"):
        fam.WithOffset(torch.nn.Identity(), fam.Normal(3, context=2))
    decoder = fam.WithOffset(torch.nn.Identity(), fam.Poisson(3, context=2))
    with pytest.raises(
        ValueError, match=r"shape \(5, 1\), of which .* offset .* as y=, with shape"
    ):
        decoder(torch.zeros(5, 1))


@pytest.mark.parametrize("wrong", [1e4, -math.inf], ids=["no logarithm", "no exposure"])
def test_exposures_in_the_place_of_offsets_are_refused(wrong):
    decoder = fam.WithOffset(torch.nn.Identity(), fam.Poisson(3, context=2))
    context = torch.zeros(5, 3)
    context[1, -1] = wrong
    with pytest.raises(
        ValueError, match=r"last column of y, ranges over .* y=torch.log\(exposure"
    ):
        decoder(context)


def test_a_captured_step_takes_an_offset():
    vae, y = exposed(), torch.linspace(-1.0, 1.0, ROWS)[:, None]
    with torch.no_grad():
        x = vae.model(y=y)
    captured = capture(TraceExactKL_ELBO(), vae.model, vae.guide, x, kwargs={"y": y})
    for offset in (y, y + 1):
        torch.manual_seed(4)
        found = captured(x, y=offset)
        torch.manual_seed(4)
        assert found.item() == pytest.approx(
            TraceExactKL_ELBO().loss(vae.model, vae.guide, x, y=offset), rel=1e-5
        )
    with pytest.raises(ValueError, match="last column of y"):
        captured(x, y=y + 95)
