"""A mixture prior wherever a prior goes: compare, the report, saved models, diagnostics, ArviZ."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import binary, small_vae, train
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_vae import compare, diagnose, kl, report, saved, to_arviz
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO
from pyro_vae.pairings import compare_pairings, members

LOC = [[-2.0, -2.0], [2.0, 2.0], [0.0, 3.0]]


def learned(loc=LOC, **options):
    torch.manual_seed(0)
    prior = fam.Mixture(2, components=3, loc=loc, learnable=True)
    vae = small_vae(prior, **options)
    train(vae, Trace_ELBO(), binary())
    return vae


def test_the_interval_stands_beside_the_sampled_kl():
    vae, x = learned(), binary()
    table = compare(vae.model, vae.guide, x, num_particles=200, elbos=[Trace_ELBO])
    assert table.kl_route.item() == "sampled"
    assert "kl.bounds" in table.kl_reason.item()
    assert np.isnan(table.kl_analytic).all()
    slack = 5 * table.kl_sampled_std_error
    assert (table.kl_lower <= table.kl_upper).all()
    assert (table.kl_lower - slack < table.kl_sampled).all()
    assert (table.kl_sampled < table.kl_upper + slack).all()
    lower, upper = kl.bounds(vae.guide.encoder.z(x), vae.model.prior.z())
    np.testing.assert_allclose(table.kl_lower[0], lower.detach(), rtol=1e-5)
    np.testing.assert_allclose(table.kl_upper[0], upper.detach(), rtol=1e-5)
    assert table.kl_upper_total.item() == pytest.approx(table.kl_upper.sum().item())
    parts = compare(vae.model, vae.guide, x, num_particles=3, elbos=[Trace_ELBO], batch_size=4)
    np.testing.assert_allclose(parts.kl_lower, table.kl_lower, rtol=1e-5)


@pytest.mark.parametrize(
    ("prior", "guide"),
    [
        (fam.Normal(2), None),
        (fam.Mixture(2, components=2, family=fam.Laplace), None),
        (fam.Mixture(1, components=2), fam.Normal(1, context=8)),
    ],
    ids=["closed", "no interval", "quadrature"],
)
def test_no_interval_where_none_is_known_or_needed(prior, guide):
    vae = small_vae(prior, guide)
    table = compare(vae.model, vae.guide, binary(), num_particles=3, elbos=[Trace_ELBO])
    assert np.isnan(table.kl_lower).all()
    assert math.isnan(table.kl_upper_total.item())


def test_a_mask_takes_data_out_of_the_interval():
    mask = torch.tensor([True, False, True])
    p, q = fam.Mixture(2, components=3, loc=LOC)(), dist.Normal(torch.ones(3, 2), 0.5).to_event(1)

    def model():
        with pyro.plate("data", 3):
            with poutine.mask(mask=mask):
                z = pyro.sample("z", p)
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.zeros(3))

    def guide():
        with pyro.plate("data", 3), poutine.mask(mask=mask):
            pyro.sample("z", q)

    table = compare(model, guide, num_particles=3, elbos=[Trace_ELBO])
    _, upper = kl.bounds(q, p)
    np.testing.assert_allclose(table.kl_upper[0], torch.where(mask, upper, 0.0), rtol=1e-6)
    assert upper[1] > 0.1


def test_pairings_by_name_and_their_report():
    table = compare_pairings(
        ["normal"],
        ["mixture", "learnable_mixture"],
        binary(30, 5),
        latent=2,
        hidden=8,
        epochs=1,
        num_particles=20,
        progress=False,
    )
    assert (table.admissible == 1).all()
    assert (table.kl_route == "sampled").all()
    slack = 5 * table.kl_sampled_std_error
    assert (table.kl_lower - slack < table.kl_sampled).all()
    assert (table.kl_sampled < table.kl_upper + slack).all()
    cell = table.isel(guide=0, prior=0)
    shown = f"in [{cell.kl_lower.item():.3f}, {cell.kl_upper.item():.3f}]"
    assert shown in report.table(table)
    assert "bounds that hold always" in report.table(table)
    assert shown in report.page(table)
    made = members(["learnable_mixture"], "prior", components=7)
    prior = made["learnable_mixture"](4, 0, None)
    assert (prior.components, prior.learned) == (7, ("weights", "loc", "scale"))


def test_a_report_without_mixtures_speaks_of_no_bounds():
    table = compare_pairings(
        ["normal"],
        ["laplace"],
        binary(20, 4),
        latent=2,
        hidden=8,
        epochs=1,
        num_particles=3,
        progress=False,
    )
    assert " in [" not in report.table(table)


def test_it_is_saved_and_read(tmp_path):
    recipe = saved.Recipe("normal", "learnable_mixture", "bernoulli", (6,), latent=2, hidden=8)
    vae = saved.build(recipe)
    train(vae, Trace_ELBO(), binary())
    back, found = saved.load(saved.save(tmp_path / "model", vae, recipe))
    assert found == recipe
    z = torch.randn(5, 2)
    assert torch.equal(back.model.prior.z().log_prob(z), vae.model.prior.z().log_prob(z))


def test_it_is_diagnosed_and_exported():
    vae, x = learned(loc=[[-0.5], [0.0], [0.5]]), binary(8)
    found = diagnose(vae.model, vae.guide, x, num_samples=50, show=False, progress=False)
    assert bool(np.isfinite(found.elbo).all())
    data = to_arviz(vae.model, vae.guide, x, num_samples=100)
    assert data["prior"]["z"].shape[-1] == 2
    assert bool(np.isfinite(data["posterior"]["z"]).all())


def test_exact_kl_elbo_samples_it_and_says_so():
    vae, x = learned(), binary()
    assert math.isfinite(TraceExactKL_ELBO().loss(vae.model, vae.guide, x))
    with pytest.raises(kl.NoExactKL, match=r"kl\.bounds"):
        TraceExactKL_ELBO(strict=True).loss(vae.model, vae.guide, x)


def test_single_entries_of_joint_components_cannot_be_masked():
    joint = fam.Mixture(3, context=8, components=2, family=fam.FullNormal)
    vae = small_vae(likelihood=joint)
    x, mask = torch.randn(5, 3), torch.ones(5, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="MultivariateNormal does not factorise"):
        vae.model(x, mask=mask)
    vae.model(x, mask=mask[:, 0])


def test_a_mixture_density_network_learns_two_branches():
    """x is +2 or -2, by the toss of a coin: one Normal would put its mass between."""
    torch.manual_seed(0)
    sign = torch.sign(torch.randn(100, 1))
    x = 2 * sign + 0.1 * torch.randn(100, 2)
    vae = small_vae(likelihood=fam.Mixture(2, context=8, components=2))
    losses = train(vae, Trace_ELBO(), x, steps=150, lr=0.03)
    assert losses[-1] < losses[0]
    pyro.clear_param_store()
    draws = vae.model(size=200)
    assert (draws.abs().mean() - 2).abs() < 0.4
    assert bool((draws[:, 0].sign() == draws[:, 1].sign()).float().mean() > 0.95)
