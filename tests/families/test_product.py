"""Blocks of different families in one site: the distribution, its space, its family, its pairs."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import WIDTH, binary, small_vae
from pyro.distributions import constraints
from scipy import stats
from torch.distributions import biject_to, transform_to

from pyro_vae import compare, diagnose, diagnostics, to_arviz
from pyro_vae import distributions as own
from pyro_vae import families as fam
from pyro_vae.diagnostics.moves import moves_of
from pyro_vae.distributions.product import Blocks
from pyro_vae.supports import (
    Part,
    Space,
    inside,
    interior_point,
    legal_point,
    lies_within,
    space_of,
)

REAL, HALF = Space("real"), Space("real", 0.0)


def mixed(context=0):
    """Blocks of other shapes: a matrix, spheres and a simplex, flattened."""
    shapes = {"context": context}
    return fam.Product(
        fam.Normal((2, 3), **shapes), fam.VonMisesFisher((2, 4), **shapes), fam.Dirichlet(3)
    )


# --------------------------------------------------------------------------- the distribution
@pytest.mark.usefixtures("float64")
def test_density_is_the_product_of_the_blocks():
    d = fam.Product(fam.Normal(2, loc=1.0), fam.Gamma(2, concentration=3.0), fam.Dirichlet(3))()
    z = d.sample((20,))
    x = z.numpy()
    truth = stats.norm(1.0, 1.0).logpdf(x[:, :2]).sum(-1)
    truth += stats.gamma(3.0).logpdf(x[:, 2:4]).sum(-1)
    truth += math.log(2)  # Dirichlet(1, 1, 1)
    for value in (z, z.clone()):  # the draw itself, whose pieces are remembered, and a stranger
        np.testing.assert_allclose(d.log_prob(value).numpy(), truth, rtol=1e-10)


def test_blocks_are_joined_along_the_last_dimension_or_flattened():
    joined = fam.Product(fam.Normal((2, 3), loc=5.0, scale=0.01), fam.Gamma((2, 1)))
    assert joined.event_shape == (2, 4)
    assert bool((joined().sample()[:, :3] > 4).all())
    flat = fam.Product(fam.Normal((2, 3), loc=5.0, scale=0.01), fam.Gamma(1))
    assert flat.event_shape == (7,)
    assert bool((flat().sample()[:6] > 4).all())


@pytest.mark.usefixtures("float64")
def test_moments_and_entropy_are_those_of_the_blocks():
    d = fam.Product(fam.Normal(2, loc=[1.0, 2.0], scale=3.0), fam.Gamma(1, rate=0.5))()
    assert d.mean.tolist() == [1.0, 2.0, 2.0]
    assert d.variance.tolist() == [9.0, 9.0, 4.0]
    truth = 2 * stats.norm(0, 3).entropy() + stats.gamma(1, scale=2).entropy()
    assert d.entropy().item() == pytest.approx(truth)
    assert d.expand([4]).mean.shape == (4, 3)
    with pytest.raises(NotImplementedError, match="LogisticNormal, a block .* states no entropy"):
        fam.Product(fam.Normal(1), fam.LogisticNormal(3))().entropy()


def test_a_block_that_is_not_reparameterised_makes_the_product_so():
    plain = own.Product([dist.Normal(torch.zeros(2), 1.0).to_event(1)])
    assert plain.has_rsample
    assert not plain.sample().requires_grad

    class Drawn(dist.Normal):
        has_rsample = False

    assert not own.Product([Drawn(torch.zeros(2), torch.ones(2)).to_event(1)]).has_rsample


def test_a_block_remembers_its_own_draws():
    """A point of hyperbolic space far out is known from the vector that it was made of alone."""
    far = own.HyperbolicNormal(torch.tensor([1.0, 0.0, 0.0]), torch.full((2,), 9.0))
    d = own.Product([far, dist.Normal(torch.zeros(1), 1.0).to_event(1)])
    torch.manual_seed(0)
    z = d.rsample((50,))
    torch.manual_seed(0)
    twin = own.HyperbolicNormal(far.loc, far.scale)
    truth = twin.log_prob(twin.rsample((50,))) + d.blocks[1].log_prob(d.blocks[1].rsample((50,)))
    torch.testing.assert_close(d.log_prob(z), truth)
    assert not torch.allclose(d.log_prob(z), d.log_prob(z.detach().clone()), rtol=1e-4)


def test_bad_blocks_are_refused():
    with pytest.raises(ValueError, match="at least one block"):
        own.Product([])
    with pytest.raises(ValueError, match="Bernoulli is discrete; draw it at a site of its own"):
        own.Product([dist.Bernoulli(torch.tensor(0.5))])
    with pytest.raises(ValueError, match=r"batch shapes of the blocks, \(2,\), \(3,\)"):
        own.Product([dist.Normal(torch.zeros(n, 1), 1.0).to_event(1) for n in (2, 3)])
    d = fam.Product(fam.Normal(1), fam.Gamma(1))()
    d._validate_args = True
    with pytest.raises(ValueError, match="within the support"):
        d.log_prob(torch.tensor([0.0, -1.0]))


# ---------------------------------------------------------------------------------- the space
def test_space_names_its_parts():
    space = space_of(mixed().support)
    assert space.name == "real line x sphere x simplex"
    assert [part.length for part in space.parts] == [6, 8, 3]
    assert not space.is_discrete
    assert repr(mixed().support).startswith("Blocks(")
    assert Blocks([constraints.boolean], [()]).is_discrete


def test_neighbours_of_one_space_are_one_part():
    pair = fam.Product(fam.Normal(2), fam.StudentT(3))
    assert space_of(pair.support) == REAL
    three = fam.Product(fam.Normal(2), fam.Gamma(1), fam.Exponential(2))
    assert space_of(three.support).parts == (Part(REAL, 2), Part(HALF, 3))
    spheres = fam.Product(fam.VonMisesFisher(3), fam.VonMisesFisher(3))
    assert len(space_of(spheres.support).parts) == 2
    assert space_of(fam.Product(fam.VonMisesFisher(3)).support) == Space("sphere")


WITHIN = [
    (fam.Product(fam.Normal(2), fam.Gamma(2)), fam.Normal(4), True),
    (fam.Normal(4), fam.Product(fam.Normal(2), fam.Gamma(2)), False),
    (fam.Beta(4), fam.Product(fam.Normal(2), fam.Gamma(2)), True),
    (fam.Product(fam.Beta(1), fam.Gamma(3)), fam.Product(fam.Normal(2), fam.Gamma(2)), True),
    (fam.Product(fam.Normal(3), fam.Gamma(1)), fam.Product(fam.Normal(2), fam.Gamma(2)), False),
    (fam.Product(fam.Gamma(2), fam.Normal(2)), fam.Product(fam.Normal(2), fam.Gamma(2)), False),
    (fam.Product(fam.Normal(1), fam.Dirichlet(3)), fam.Normal(4), False),
    (
        fam.Product(fam.Beta(1), fam.Dirichlet(3)),
        fam.Product(fam.Gamma(1), fam.Dirichlet(3)),
        True,
    ),
    (
        fam.Product(fam.Normal(1), fam.Dirichlet(3)),
        fam.Product(fam.Normal(1), fam.Dirichlet(2), fam.Normal(1)),
        False,
    ),
    # as many numbers, but two circles in the plane are no sphere in R^4
    (
        fam.Product(fam.Normal(1), fam.VonMisesFisher((2, 2))),
        fam.Product(fam.Normal(1), fam.VonMisesFisher(4)),
        False,
    ),
]


@pytest.mark.parametrize(("inner", "outer", "expected"), WITHIN)
def test_products_lie_within_each_other_part_by_part(inner, outer, expected):
    assert lies_within(inner.support, outer.support) is expected
    assert lies_within(inner.support, inner.support) is True


def test_points_of_a_product():
    support = mixed().support
    point = legal_point(support, torch.zeros(5, 17))
    assert point.shape == (17,)
    assert inside(support, point)
    with pytest.raises(ValueError, match=r"\(real line x sphere x simplex\).*whole data points"):
        interior_point(support)


@pytest.mark.usefixtures("float64")
def test_bijection_onto_a_product_goes_block_by_block():
    support = fam.Product(fam.Normal((2, 2)), fam.Gamma(2), fam.Dirichlet(3)).support
    bijection = biject_to(support)
    u = torch.randn(7, 8)
    z = bijection(u)
    assert bijection.inverse_shape(z.shape) == u.shape
    assert bijection.forward_shape(u.shape) == z.shape
    assert inside(support, z)
    torch.testing.assert_close(bijection.inv(z), u)
    # of the simplex two coordinates are free
    free = [0, 1, 2, 3, 4, 5, 6, 7]
    jacobian = torch.stack([torch.autograd.functional.jacobian(bijection, v)[free] for v in u])
    truth = jacobian.det().abs().log()
    torch.testing.assert_close(bijection.log_abs_det_jacobian(u, z), truth)
    circles = fam.Product(fam.VonMises((2, 2)), fam.Gamma((2, 1))).support
    into = transform_to(circles)
    assert inside(circles, into(torch.zeros(into.inverse_shape(torch.Size([2, 3])))))


# --------------------------------------------------------------------------------- the family
def test_a_product_of_products_is_one_of_all_their_blocks():
    nested = fam.Product(fam.Product(fam.Normal(2), fam.Gamma(1)), fam.Beta(2))
    assert [type(b).__name__ for b in nested.blocks] == ["Normal", "Gamma", "Beta"]
    assert nested.event_shape == (5,)


def test_blocks_without_context_stay_as_they_are():
    guide = fam.Product(fam.Normal(2, context=4), fam.Gamma(3))
    d = guide(torch.randn(7, 4))
    assert d.batch_shape == (7,)
    assert torch.equal(d.blocks[1].base_dist.rate, torch.ones(7, 3))
    assert guide.context == 4


def test_what_cannot_be_a_block_is_refused():
    with pytest.raises(ValueError, match="needs blocks, such as"):
        fam.Product()
    with pytest.raises(TypeError, match="made of families.*not of a Linear"):
        fam.Product(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="one context, but were built with context=3 and con"):
        fam.Product(fam.Normal(2, context=3), fam.Normal(2, context=4))
    with pytest.raises(ValueError, match=r"OneHotCategorical is discrete.*VAE\(prior=\{\"c\""):
        fam.Product(fam.Normal(2), fam.OneHotCategorical(2, categories=3))


def test_a_pair_that_does_not_fit_is_refused_at_its_block():
    prior = fam.Product(fam.Normal(2), fam.Gamma(3))
    with pytest.raises(ValueError, match="cannot stand beside") as refusal:
        small_vae(prior, fam.Product(fam.StudentT(3, context=WIDTH), fam.Gamma(2, context=WIDTH)))
    message = str(refusal.value)
    assert "a Product guide (on the real line x positive half-line)" in message
    assert "in elements 2 to 2 of the last dimension the prior lives on the positive" in message
    assert "KL(q || p) is infinite (there fam.Beta" in message
    assert "fam.Product" in message
    assert "fam.Transported" in message
    simplex = fam.Product(fam.Normal(2), fam.Dirichlet(3))
    with pytest.raises(ValueError, match=r"in elements 2 to 4 .*undefined \(there fam.Dirichlet"):
        small_vae(simplex, fam.Product(fam.Normal(2, context=WIDTH), fam.Gamma(3, context=WIDTH)))
    with pytest.raises(ValueError, match="do not end at the same elements"):
        small_vae(simplex, fam.Product(fam.Normal(3, context=WIDTH), fam.Dirichlet(2, WIDTH)))
    with pytest.raises(ValueError, match=r"has shape \(4,\), one of the prior Product has shape"):
        small_vae(prior, fam.Normal(4, context=WIDTH))


# ------------------------------------------------------------------------------ in use elsewhere
def small():
    prior = fam.Product(fam.Normal(2), fam.Gamma(1), fam.VonMisesFisher(3))
    names = (fam.Normal(2, WIDTH), fam.Gamma(1, WIDTH), fam.VonMisesFisher(3, WIDTH))
    return small_vae(prior, fam.Product(*names)), binary(20)


@pytest.mark.filterwarnings("ignore:k-hat is above:pyro_vae.diagnostics.DiagnosticWarning")
def test_a_vae_of_products_is_compared_diagnosed_and_exported():
    vae, x = small()
    table = compare(vae.model, vae.guide, x, num_particles=50).sel(site="z")
    assert str(table.kl_route.item()) == "closed"
    assert str(table.mean_field_route.item()) == "analytic"
    off = float(table.kl_sampled_total) - float(table.kl_analytic_total)
    assert abs(off) < 4.5 * float(table.kl_sampled_total_std_error)
    told = diagnose(
        vae.model, vae.guide, x, num_samples=200, steps=["pareto_k"], show=False, progress=False
    )
    assert bool(np.isfinite(told.khat).all())
    data = to_arviz(vae.model, vae.guide, x, num_samples=100)
    assert data["posterior"]["z"].shape == (1, 100, 20, 6)


def test_chains_move_by_real_numbers_where_all_blocks_have_them():
    flat = fam.Product(fam.Normal(2), fam.Gamma(1), fam.Dirichlet(3))
    found = moves_of({"a": {"fn": flat()}, "b": {"fn": mixed()()}}, ["a", "b"])
    assert found == {"a": "HMC", "b": "independence Metropolis"}


def test_ais_of_a_product_finds_the_evidence():
    """x = z_1 + noise, the Gamma block being no part of it: log p(x) = log N(x; 0, 2)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", fam.Product(fam.Normal(1), fam.Gamma(1))())
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    def guide(x):
        half = dist.Normal((x / 2).unsqueeze(-1), 0.8).to_event(1)
        rest = dist.Gamma(torch.full((len(x), 1), 1.5), 1.2).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", own.Product([half, rest]))

    x = torch.tensor([0.3, -1.0, 2.0])
    found = diagnostics.ais(model, guide, x, num_steps=15, progress=False)
    truth = stats.norm(0, math.sqrt(2)).logpdf(x.numpy())
    assert np.abs(found.ais_log_px.values - truth).max() < 0.2
    assert "HMC" in str(found.attrs)
