"""A real-line family carried onto the support of a prior."""

import copy
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from scipy import stats

from pyro_vae import families as fam
from pyro_vae import kl
from pyro_vae.supports import space_of


@pytest.mark.parametrize(
    ("base", "to", "event"),
    [
        (fam.Normal(3), fam.Beta(3), (3,)),
        (fam.StudentT((2, 3)), fam.Gamma((2, 3)), (2, 3)),
        (fam.FullNormal(3), fam.LogitNormal(3), (3,)),
        (fam.Normal(3), fam.Dirichlet(4), (4,)),
        (fam.Normal(3), dist.Uniform(-2.0, 5.0).expand([3]).to_event(1), (3,)),
        (fam.Normal(3), constraints.positive, (3,)),
    ],
    ids=["beta", "gamma", "full", "simplex", "distribution", "constraint"],
)
def test_transported_lands_on_the_support(base, to, event):
    family = fam.Transported(base, to=to)
    assert family.event_shape == event
    d = family()
    x = d.sample((100,))
    assert d.event_shape == event
    assert bool(family.support.check(x).all())
    assert bool((to if isinstance(to, constraints.Constraint) else to.support).check(x).all())
    assert bool(d.log_prob(x).isfinite().all())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("lower", "upper"), [(0.0, 1.0), (-2.0, 5.0), (0.0, math.inf), (2.0, math.inf)], ids=str
)
def test_transported_says_truly_where_it_leads(lower, upper):
    bounded = constraints.interval(lower, upper)
    support = bounded if upper < math.inf else constraints.greater_than(lower)
    family = fam.Transported(fam.Normal(3, scale=3.0), to=support)
    for where in (family.support, family().support):
        assert (space_of(where).lower, space_of(where).upper) == (lower, upper)
        assert where.event_dim == 1
    d = family()
    x = d.rsample((50,))
    fresh = x.detach().clone()  # not the cached draw: the inverse is really taken
    torch.testing.assert_close(d.log_prob(x), d.log_prob(fresh))


@pytest.mark.usefixtures("float64")
def test_transported_density_is_the_change_of_variables():
    d = fam.Transported(fam.Normal(3, loc=0.5, scale=2.0), to=fam.Gamma(3))()
    x = d.sample((20,))
    truth = stats.lognorm(2.0, scale=math.exp(0.5)).logpdf(x.numpy()).sum(-1)
    np.testing.assert_allclose(d.log_prob(x).numpy(), truth, rtol=1e-9)


def test_transported_to_the_line_is_the_base_itself():
    base = fam.Normal(3, context=4)
    family = fam.Transported(base, to=fam.StudentT(3))
    context = torch.randn(7, 4)
    d = family(context)
    assert type(d.base_dist) is dist.Normal
    assert torch.equal(d.mean, base(context).mean)
    assert family.support.event_dim == 1
    assert "to=real line" in repr(family)


def test_transported_shows_space_and_base():
    text = repr(fam.Transported(fam.Normal(3, context=4), to=fam.Beta(3)))
    assert "to=unit interval" in text
    assert "(base): Normal(" in text


def test_transported_fits_wherever_a_bijection_leads():
    assert fam.Transported.fits(constraints.simplex)
    assert fam.Transported.fits(constraints.independent(constraints.positive, 1))
    assert fam.Transported.fits(constraints.sphere)
    assert fam.Transported.fits(fam.Product(fam.Normal(2), fam.VonMises(1)).support)
    assert not fam.Transported.fits(constraints.one_hot)
    assert not fam.Transported.fits(constraints.nonnegative_integer)
    assert not fam.Transported.fits(constraints.lower_cholesky)


@pytest.mark.parametrize(
    "name", [n for n, cls in fam.registry.items() if "prior" in cls.roles and n != "transported"]
)
def test_a_normal_is_carried_onto_every_continuous_prior(name):
    prior = fam.registry[name].example(4)
    if space_of(prior.support).is_discrete:
        with pytest.raises(ValueError, match="use a guide that lives there .*or relax the prior"):
            fam.Transported.base_shape(prior)
        return
    base = fam.Normal(fam.Transported.base_shape(prior), context=5)
    guide = fam.Transported(base, to=prior)
    z = guide(torch.randn(7, 5)).rsample()
    assert guide.event_shape == prior.event_shape
    assert space_of(guide.support) == space_of(prior.support)
    assert bool(prior().log_prob(z).isfinite().all())
    assert kl.route(guide(torch.randn(7, 5)), prior()).kind in ("closed", "quadrature", "sampled")


def test_a_guide_of_the_wrong_size_is_told_the_right_one():
    with pytest.raises(ValueError, match=r"give the base family features=\(2,\)"):
        fam.Transported(fam.Normal(3), to=fam.VonMisesFisher(3))
    with pytest.raises(ValueError, match="onto LowerCholesky"):
        fam.Transported(fam.Normal(3), to=constraints.lower_cholesky)


@pytest.mark.usefixtures("float64")
def test_kl_of_a_guide_carried_to_a_product_goes_block_by_block():
    prior = fam.Product(fam.Laplace(2), fam.Gamma(2), fam.Beta(1, concentration1=2.0))
    guide = fam.Transported(fam.Normal(5, loc=0.3, scale=0.7), to=prior)
    route = kl.route(guide(), prior())
    assert route.kind == "quadrature"
    blocks = [
        (fam.Normal(2, loc=0.3, scale=0.7), fam.Laplace(2)),
        (fam.LogNormal(2, loc=0.3, scale=0.7), fam.Gamma(2)),
        (fam.LogitNormal(1, loc=0.3, scale=0.7), fam.Beta(1, concentration1=2.0)),
    ]
    truth = sum(kl.divergence(q(), p()) for q, p in blocks)
    torch.testing.assert_close(kl.divergence(guide(), prior()), truth)
    correlated = fam.Transported(fam.FullNormal(5), to=prior)
    assert kl.route(correlated(), prior()).kind == "sampled"


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "to", [fam.VonMisesFisher((2, 3)), fam.HyperbolicNormal(3), fam.VonMises(2)], ids=repr
)
def test_one_way_for_guide_and_prior_cancels(to):
    shape = fam.Transported.base_shape(to)
    bases = fam.Normal(shape, loc=0.5), fam.Normal(shape, scale=2.0)
    q, p = (fam.Transported(base, to=to)() for base in bases)
    assert kl.route(q, p).kind == "closed"
    truth = kl.divergence(bases[0](), bases[1]())
    torch.testing.assert_close(kl.divergence(q, p), truth)


def test_a_copy_leads_to_the_same_place():
    to = dist.Uniform(-2.0, 5.0).expand([3]).to_event(1)
    family = fam.Transported(fam.Normal(3, learnable=True), to=to)
    twin = copy.deepcopy(family)
    x = twin().rsample((20,))
    assert bool(to.support.check(x).all())
    torch.testing.assert_close(family().log_prob(x), twin().log_prob(x))
    twin().log_prob(x).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert all(p.grad is None for p in family.parameters())
