"""KL of blocks side by side: the sum of the blocks' KLs, by whatever way each has."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import distributions as own
from pyro_vae import families as fam
from pyro_vae import kl
from pyro_vae.kl.products import _cut

C = 4


def guide(*blocks):
    torch.manual_seed(0)
    return fam.Product(*blocks)(2 * torch.randn(3, C))


def of(family, *shape):
    return family(*shape, context=C)


# ways of the blocks of (guide, prior), and what the whole then is
PAIRS = {
    "closed": (
        [of(fam.Normal, 2), of(fam.Gamma, 3)],
        [fam.Laplace(2), fam.LogNormal(3)],
        "closed",
    ),
    "quadrature": (
        [of(fam.Normal, 2), of(fam.Gamma, 3)],
        [fam.StudentT(2), fam.Gamma(3)],
        "quadrature",
    ),
    "spheres, flattened": (
        [of(fam.Normal, (2, 2)), of(fam.VonMisesFisher, (2, 3)), of(fam.Dirichlet, 3)],
        [fam.Normal((2, 2)), fam.SphericalUniform((2, 3)), fam.Dirichlet(3)],
        "closed",
    ),
    "correlated": (
        [of(fam.FullNormal, 2), of(fam.VonMises, 1)],
        [fam.Normal(2), fam.CircularUniform(1)],
        "closed",
    ),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", PAIRS)
def test_kl_of_a_product_is_the_sum_over_blocks(name):
    guides, priors, kind = PAIRS[name]
    q, p = guide(*(g.double() for g in guides)), fam.Product(*(f.double() for f in priors))()
    route = kl.route(q, p)
    assert route.kind == kind
    assert route.source == "pyro_vae, given to torch" if kind == "closed" else "pyro_vae"
    assert all(f"block {i} (" in route.reason for i in range(1, len(guides) + 1))
    blocks = [kl.divergence(a, b) for a, b in zip(q.blocks, p.blocks, strict=True)]
    parameters = [t for g in guides for t in g.parameters()]
    value, truth = kl.divergence(q, p), sum(blocks)
    torch.testing.assert_close(value, truth)
    found = torch.autograd.grad(value.sum(), parameters, retain_graph=True)
    for gradient, true in zip(found, torch.autograd.grad(truth.sum(), parameters), strict=True):
        torch.testing.assert_close(gradient, true)
    estimate = kl.estimate(q, p, num_samples=20_000)
    # three elements: a false alarm in 1e-5 of runs
    assert bool(((value - estimate.mean).abs() < 4.7 * estimate.std_error).all())


SPLIT = {
    "a Normal into two": (
        lambda: guide(of(fam.Normal, 2), of(fam.Gamma, 3)),
        lambda: fam.Normal(5, loc=[1.0, 2.0, 3.0, 4.0, 5.0], scale=[1.0, 2.0, 1.0, 2.0, 1.0])(),
    ),
    "the prior is the product": (
        lambda: of(fam.Gamma, 5)(torch.randn(3, C)),
        lambda: fam.Product(fam.Laplace(1), fam.Normal(1), fam.LogNormal(3))(),
    ),
    "other blocks": (
        lambda: guide(of(fam.Normal, 3), of(fam.Gamma, 3)),
        lambda: fam.Product(fam.Laplace(2), fam.Normal(2), fam.Gamma(2))(),
    ),
    "rows": (
        lambda: guide(of(fam.Normal, (2, 3)), of(fam.Gamma, (2, 1))),
        lambda: fam.Normal((2, 4), loc=torch.arange(8.0).reshape(2, 4))(),
    ),
    "flattened": (
        lambda: guide(of(fam.Normal, (2, 2)), of(fam.Gamma, 1)),
        lambda: fam.Product(fam.Laplace(3), fam.StudentT(2, loc=[1.0, 2.0]))(),
    ),
    "carried": (
        lambda: guide(of(fam.LogitNormal, 2), of(fam.LogNormal, 2)),
        lambda: fam.HalfCauchy(4, scale=[1.0, 2.0, 3.0, 4.0])(),
    ),
    "relaxed": (
        lambda: fam.RelaxedBernoulli(3, context=C)(torch.randn(3, C)),
        lambda: fam.Product(fam.Normal(2), fam.Gamma(1))(),
    ),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", SPLIT)
def test_a_side_of_independent_elements_is_cut_into_blocks(name):
    q, p = (make() for make in SPLIT[name])
    assert kl.route(q, p).kind in ("closed", "quadrature")
    value, estimate = kl.divergence(q, p), kl.estimate(q, p, num_samples=40_000)
    assert value.shape == estimate.mean.shape == (3,)
    assert bool(((value - estimate.mean).abs() < 4.7 * estimate.std_error).all())


@pytest.mark.usefixtures("float64")
def test_cuts_agree_with_the_whole():
    """A prior that is one Normal, written as one, and as blocks of which none fits the guide's."""
    q = guide(of(fam.Laplace, 2), of(fam.Normal, 4))
    loc, scale = torch.arange(6.0), 1 + torch.arange(6.0)
    whole = dist.Normal(loc, scale).to_event(1)
    blocks = own.Product(
        [dist.Normal(loc[a:b], scale[a:b]).to_event(1) for a, b in ((0, 1), (1, 3), (3, 6))]
    )
    one = sum(
        kl.divergence(block, dist.Normal(loc[a:b], scale[a:b]).to_event(1))
        for block, (a, b) in zip(q.blocks, ((0, 2), (2, 6)), strict=True)
    )
    torch.testing.assert_close(kl.divergence(q, whole), one)
    torch.testing.assert_close(kl.divergence(q, blocks), one)
    # a mistaken cut would be seen: the elements differ
    back = dist.Normal(loc.flip(0), scale.flip(0)).to_event(1)
    assert bool(((kl.divergence(q, back) - one).abs() > 0.1).all())


def test_closed_sums_are_given_to_torch():
    q = guide(of(fam.Normal, 2), of(fam.Gamma, 3))
    for p in (fam.Product(fam.Laplace(2), fam.LogNormal(3))(), fam.Normal(5)()):
        torch.testing.assert_close(torch.distributions.kl_divergence(q, p), kl.divergence(q, p))
    with pytest.raises(NotImplementedError):  # a quadrature
        torch.distributions.kl_divergence(q, fam.Product(fam.StudentT(2), fam.Gamma(3))())
    one = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    heavy = own.Product([one, dist.StudentT(torch.full((1,), 1.5), 0.0, 1.0).to_event(1)])
    with pytest.raises(NotImplementedError, match="not finite everywhere"):
        torch.distributions.kl_divergence(heavy, fam.Normal(3)())


def test_what_cannot_be_cut_is_not_added_up():
    full = fam.FullNormal(5)()
    q = guide(of(fam.Normal, 2), of(fam.Gamma, 3))
    assert kl.route(q, full).kind == "sampled"
    with pytest.raises(kl.NoExactKL):
        kl.divergence(q, full)
    cut = fam.Product(fam.FullNormal(3), fam.Normal(2))()
    assert kl.route(fam.Product(fam.Normal(2), fam.FullNormal(3))(), cut).kind == "sampled"
    simplex = fam.Product(fam.Normal(2), fam.Dirichlet(3))()
    assert kl.route(q, simplex).kind == "undefined"
    other = fam.Product(fam.Normal(2), fam.Dirichlet(2), fam.Normal(1))()
    assert kl.route(simplex, other).kind == "undefined"
    with pytest.raises(ValueError, match="undefined"):
        kl.divergence(simplex, other)
    assert kl.route(fam.Normal(5)(), fam.Product(fam.Normal(2), fam.Gamma(3))()).kind == "infinite"


def test_the_worst_block_names_the_way():
    q = fam.Product(fam.Normal(2), fam.Transported(fam.Normal(2), to=fam.VonMises(2)))
    route = kl.route(q(), fam.Product(fam.Normal(2), fam.VonMises(2))())
    assert route.kind == "sampled"
    assert "block 1 (Independent(Normal) || Independent(Normal)): closed form" in route.reason
    assert "block 2 (TransformedDistribution || Independent(VonMises)): KL" in route.reason


@pytest.mark.usefixtures("float64")
def test_a_block_with_an_infinite_kl_makes_the_whole_infinite_there():
    df = torch.tensor([[1.5], [3.0]], requires_grad=True)
    scale = torch.ones(2, 2, requires_grad=True)
    heavy, light = dist.StudentT(df, 0.0, scale).to_event(1), dist.Gamma(scale, 1.0).to_event(1)
    q = own.Product([light, heavy])
    p = fam.Product(fam.Exponential(2), fam.Normal(2))()
    route = kl.route(q, p)
    assert route.finite.tolist() == [False, True]
    assert "infinite in 1 of 2 elements: block 2 (" in route.reason
    assert "StudentT with df = 1.5 has no variance" in route.reason
    value = kl.divergence(q, p)
    assert value[0] == math.inf
    assert value[1].isfinite()
    value[1].backward(retain_graph=True)
    assert bool(scale.grad.isfinite().all())
    assert bool((scale.grad[0] == 0).all())
    assert bool((scale.grad[1] != 0).all())


def test_masks_and_expansions_are_looked_through():
    q = guide(of(fam.Normal, 2), of(fam.Gamma, 3))
    p = fam.Product(fam.Normal(2), fam.Gamma(3))()
    whole = kl.divergence(q, p)
    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(kl.divergence(q.mask(mask), p), whole * mask)
    wide = kl.divergence(q.expand([2, 3]), p.expand([2, 3]))
    torch.testing.assert_close(wide, whole.expand(2, 3))


def test_estimates_of_points_in_single_precision():
    """Of unit length in single precision, a prior's sphere must hold them in double."""
    torch.manual_seed(0)
    q = fam.VonMisesFisher(3, context=C)(torch.randn(20, C))
    estimate = kl.estimate(q, fam.VonMisesFisher(3)(), num_samples=1000)
    assert bool(estimate.mean.isfinite().all())


# what has no elements that are independent of each other
WHOLE = {
    "hyperbolic_normal",
    "one_hot_categorical",
    "full_normal",
    "low_rank_normal",
    "multivariate_student_t",
    "projected_normal",
    "relaxed_one_hot_categorical",
    "dirichlet",
    "logistic_normal",
    "stick_breaking",
    "gem",
    "von_mises_fisher",
    "power_spherical",
    "spherical_uniform",
}
ELEMENTS = {
    "normal",
    "laplace",
    "student_t",
    "cauchy",
    "logistic",
    "gumbel",
    "gamma",
    "inverse_gamma",
    "weibull",
    "log_normal",
    "exponential",
    "half_normal",
    "half_cauchy",
    "beta",
    "kumaraswamy",
    "logit_normal",
    "continuous_bernoulli",
    "truncated_normal",
    "uniform",
    "relaxed_bernoulli",
    "von_mises",
    "wrapped_normal",
    "circular_uniform",
}


@pytest.mark.parametrize("name", sorted(ELEMENTS | WHOLE))
def test_elements_that_are_cut_out_keep_their_density(name):
    torch.manual_seed(0)
    cls = fam.registry[name]
    trained = {"context": C} if "guide" in cls.roles else {}
    family = cls.example(4, **trained)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    p = family(torch.randn(3, C)) if family.context else family().expand([3])
    pieces = [_cut(p, 0, 1, (1,)), _cut(p, 1, 4, (3,))]
    if name in WHOLE:
        assert pieces == [None, None]
        return
    x = p.sample((5,))
    parts = pieces[0].log_prob(x[..., :1]) + pieces[1].log_prob(x[..., 1:])
    torch.testing.assert_close(parts, p.log_prob(x), rtol=1e-4, atol=1e-4)
    assert (pieces[1].batch_shape, pieces[1].event_shape) == ((3,), (3,))
    assert pieces[1].sample().shape == (3, 3)
