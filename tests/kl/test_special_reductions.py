"""Reductions: maps that cancel or are absorbed, sticks, marginals, halves, mixtures, bounds."""

import itertools

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from pyro.distributions.transforms import LowerCholeskyAffine
from scipy import integrate
from special_cases import broken, exp, logistic_normal, mvn, normals, parameters, positive, tril
from torch.distributions import transforms

from pyro_vae import kl
from pyro_vae.distributions import LogitNormal, Sticks
from pyro_vae.kl.plan import reduction, reductions
from pyro_vae.kl.pushforwards import fold, same_map, unfold

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_a_reduction_is_registered_with_a_docstring():
    def silent(q, p):
        return None

    with pytest.raises(ValueError, match="silent has no docstring"):
        reduction(silent)
    assert len(reductions()) == len({r.__name__ for r in reductions()})


# ------------------------------------------------------------------------------------ absorption
A, S = 0.7, 1.6
POINTS = {
    "line": torch.linspace(-3, 3, 7, dtype=F64),
    "half-line": torch.linspace(0.1, 5, 7, dtype=F64),
}
ABSORBING = {
    "normal": (dist.Normal(0.3, 1.2), A, -S, "line"),
    "laplace": (dist.Laplace(0.3, 1.2), A, -S, "line"),
    "cauchy": (dist.Cauchy(0.3, 1.2), A, -S, "line"),
    "student": (dist.StudentT(3.0, 0.3, 1.2), A, -S, "line"),
    "logistic": (dist.Logistic(torch.tensor(0.3), torch.tensor(1.2)), A, -S, "line"),
    "gumbel": (dist.Gumbel(0.3, 1.2), A, S, "line"),
    "uniform": (dist.Uniform(-3.0, 3.0), 0.0, -S, "line"),
    "gamma": (dist.Gamma(2.0, 1.2), 0, S, "half-line"),
    "inverse_gamma": (dist.InverseGamma(2.0, 1.2), 0, S, "half-line"),
    "exponential": (dist.Exponential(1.2), 0, S, "half-line"),
    "weibull": (dist.Weibull(1.2, 2.0), 0, S, "half-line"),
    "pareto": (dist.Pareto(0.05, 2.0), 0, S, "half-line"),
    "log_normal": (dist.LogNormal(0.3, 1.2), 0, S, "half-line"),
    "half_normal": (dist.HalfNormal(1.2), 0, S, "half-line"),
    "half_cauchy": (dist.HalfCauchy(1.2), 0, S, "half-line"),
}


@pytest.mark.parametrize("name", list(ABSORBING))
def test_a_family_absorbs_an_affine_map(name):
    base, loc, scale, space = ABSORBING[name]
    there = transforms.AffineTransform(loc, scale)
    back = transforms.AffineTransform(-loc / scale, 1 / scale).inv
    for t in (there, back):
        pushed, folded = td.TransformedDistribution(base, [t]), fold(base, [t])
        assert kl.same_class(folded, base)
        torch.testing.assert_close(
            folded.log_prob(POINTS[space]),
            pushed.log_prob(POINTS[space].float()).double(),
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize("kind", ["full", "low_rank", "student"])
def test_a_correlated_family_absorbs_an_affine_map(kind):
    m, low, scale = randn(3), tril(randn(3, 3)), torch.tensor([0.5, -2.0, 1.5], dtype=F64)
    base = {
        "full": dist.MultivariateNormal(m, scale_tril=low),
        "low_rank": dist.LowRankMultivariateNormal(m, low[:, :1], positive(m)),
        "student": dist.MultivariateStudentT(torch.tensor(3.0, dtype=F64), m, low),
    }[kind]
    t = transforms.AffineTransform(randn(3, seed=1), scale)
    pushed, folded, x = td.TransformedDistribution(base, [t]), fold(base, [t]), randn(5, 3)
    assert kl.same_class(folded, base)
    torch.testing.assert_close(folded.log_prob(x), pushed.log_prob(x))


def test_what_depends_on_a_sign_that_is_a_value_is_not_absorbed():
    t = transforms.AffineTransform(0, torch.tensor(2.0))
    for base in (dist.Gumbel(0.0, 1.0), dist.Gamma(1.0, 1.0)):
        assert isinstance(fold(base, [t]), td.TransformedDistribution)
    shift = transforms.AffineTransform(1.0, 2.0)
    assert isinstance(fold(dist.Gamma(1.0, 1.0), [shift]), td.TransformedDistribution)


def test_a_linear_map_of_independent_normals_is_a_full_gaussian():
    m, s, low, loc = randn(3), randn(3, seed=1), tril(randn(3, 3)), randn(3, seed=2)
    pushed = dist.TransformedDistribution(normals(m, s), [LowerCholeskyAffine(loc, low)])
    direct = mvn(randn(3, seed=3), randn(3, 3, seed=4))
    covariance = low @ torch.diag(positive(s) ** 2) @ low.T
    same = dist.MultivariateNormal(low @ m + loc, covariance)
    torch.testing.assert_close(kl.divergence(pushed, direct), kl.divergence(same, direct))
    torch.testing.assert_close(kl.divergence(direct, pushed), kl.divergence(direct, same))


# ------------------------------------------------------------------------------------ same maps
def test_maps_that_are_the_same():
    exp_, sigmoid = transforms.ExpTransform(), transforms.SigmoidTransform()
    affine = transforms.AffineTransform(torch.tensor(0.0), torch.tensor(2.0))
    fold_ = transforms.AbsTransform()
    reshape = [transforms.ReshapeTransform((4,), s) for s in ((2, 2), (2, 2), (4, 1))]
    assert same_map(exp_, transforms.ExpTransform(cache_size=1))
    assert same_map(sigmoid.inv, transforms.SigmoidTransform().inv)
    assert same_map(affine, affine)
    assert same_map(reshape[0], reshape[1])
    assert same_map(transforms.AffineTransform(1.0, 2.0), transforms.AffineTransform(1.0, 2.0))
    assert not same_map(reshape[0], reshape[2])
    assert not same_map(exp_, sigmoid)
    assert not same_map(exp_, exp_.inv)
    # equal in value is not the same by type and constants
    assert not same_map(affine, transforms.AffineTransform(torch.tensor(0.0), torch.tensor(2.0)))
    assert not same_map(fold_, fold_)


def test_a_map_and_its_inverse_are_none():
    base = dist.Normal(0.0, 1.0)
    sigmoid = transforms.SigmoidTransform()
    there_and_back = dist.TransformedDistribution(
        base, [transforms.ComposeTransform([sigmoid]), sigmoid.inv]
    )
    assert unfold(there_and_back) == (base, [])


SHARED = {
    "exp": [transforms.ExpTransform()],
    "reshape": [transforms.ReshapeTransform((4,), (2, 2))],
    "nested": [transforms.IndependentTransform(transforms.TanhTransform(), 1)],
}


@pytest.mark.parametrize("name", list(SHARED))
def test_shared_maps_cancel(name):
    q, p = normals(randn(4), randn(4, seed=1)), mvn(randn(4, seed=2), randn(4, 4, seed=3))
    pushed = [td.TransformedDistribution(d, SHARED[name]) for d in (q, p)]
    torch.testing.assert_close(kl.divergence(*pushed), kl.divergence(q, p))


def test_log_normals_against_the_exponential_of_a_gaussian():
    m, s, joint = randn(3), positive(randn(3, seed=1)), mvn(randn(3, seed=2), randn(3, 3))
    logs, whole = dist.LogNormal(m, s).to_event(1), exp(joint)
    plain = dist.Normal(m, s).to_event(1)
    torch.testing.assert_close(kl.divergence(logs, whole), kl.divergence(plain, joint))
    torch.testing.assert_close(kl.divergence(whole, logs), kl.divergence(joint, plain))
    logit = LogitNormal(m, s).to_event(1)
    squeezed = td.TransformedDistribution(joint, [transforms.SigmoidTransform()])
    torch.testing.assert_close(kl.divergence(squeezed, logit), kl.divergence(joint, plain))


def test_maps_on_one_side_alone_do_not_cancel():
    q = td.TransformedDistribution(dist.Normal(0.0, 1.0), [transforms.TanhTransform()])
    told = kl.route(q, dist.Normal(0.0, 1.0))
    assert told.kind != "closed"


# ---------------------------------------------------------------------------------------- halves
def test_a_half_normal_against_a_half_cauchy():
    q, p = td.HalfNormal(torch.tensor(1.3, dtype=F64)), td.HalfCauchy(torch.tensor(0.4).double())

    def integrand(x):
        x = torch.tensor(x, dtype=F64)
        return (q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x))).item()

    exact, _ = integrate.quad(integrand, 0, 14)
    assert kl.divergence(q, p).item() == pytest.approx(exact, rel=1e-9)
    assert kl.route(p, q).kind == "infinite"


# ---------------------------------------------------------------------------------------- sticks
def on_the_simplex(q, p):
    """KL by the trapezoidal rule over the plane that stick breaking maps to three parts."""
    y = torch.linspace(-45, 45, 900, dtype=F64)
    y = torch.cartesian_prod(y, y)
    step = (y[901, 0] - y[0, 0]) ** 2
    t = transforms.StickBreakingTransform()
    x = t(y)
    inside = (x > 1e-290).all(-1)
    y, x = y[inside], x[inside]
    log_q, log_p = q.log_prob(x), p.log_prob(x)
    weight = (log_q + t.log_abs_det_jacobian(y, x)).exp() * step
    return (weight * (log_q - log_p)).sum()


SIMPLEX = {
    "dirichlet": dist.Dirichlet(torch.tensor([1.5, 0.8, 2.5], dtype=F64)),
    "logistic_normal": logistic_normal(randn(2), randn(2, seed=1)),
    "beta_sticks": broken(dist.Beta(torch.tensor([1.2, 2.0]).double(), 1.7)),
    "gem": broken(dist.Beta(torch.ones(2, dtype=F64), 1.5)),
}


@pytest.mark.parametrize(("a", "b"), [(a, b) for a, b in itertools.permutations(SIMPLEX, 2)])
def test_sticks_by_a_rule_over_the_simplex(a, b):
    q, p = SIMPLEX[a], SIMPLEX[b]
    assert kl.route(q, p).kind in ("closed", "quadrature")
    with dist.validation_enabled(False):
        exact = on_the_simplex(q, p)
    torch.testing.assert_close(kl.divergence(q, p), exact, rtol=1e-6, atol=1e-9)


def test_beta_sticks_can_be_a_dirichlet():
    alpha = torch.tensor([1.5, 0.8, 2.5], dtype=F64)
    q = broken(dist.Beta(alpha[:2], torch.tensor([3.3, 2.5], dtype=F64)))
    x = SIMPLEX["dirichlet"].sample((7,))
    torch.testing.assert_close(q.log_prob(x), SIMPLEX["dirichlet"].log_prob(x))
    assert kl.divergence(q, SIMPLEX["dirichlet"]).abs() < 1e-12


def test_sticks_is_a_bijection_with_its_jacobian():
    t, v = Sticks(), torch.rand(5, 3, dtype=F64)
    x = t(v)
    torch.testing.assert_close(x.sum(-1), torch.ones(5, dtype=F64))
    torch.testing.assert_close(t.inv(x), v)
    assert t.forward_shape((5, 3)) == (5, 4)
    assert t.inverse_shape((5, 4)) == (5, 3)
    jacobian = torch.autograd.functional.jacobian(lambda a: t(a)[:-1], v[0])
    torch.testing.assert_close(t.log_abs_det_jacobian(v, x)[0], torch.logdet(jacobian))
    assert Sticks() == Sticks()
    assert len({Sticks(), Sticks()}) == 1


# ------------------------------------------------------------------------------------- marginals
def test_marginals_compose_with_quadrature_and_its_error():
    m, r, a, b = parameters("full-students")
    q, p = mvn(m, r), dist.StudentT(4.0, a, positive(b)).to_event(1)
    told = kl.route(q, p)
    value, error = kl.divergence(q, p, with_error=True)
    assert told.kind == "quadrature"
    assert told.error.shape == error.shape == (3,)
    assert (error < 1e-7).all()
    elements = dist.Normal(m, q.variance.sqrt()).to_event(1)
    correlation = elements.entropy() - q.entropy()
    torch.testing.assert_close(value, kl.divergence(elements, p) + correlation)
    torch.testing.assert_close(error, kl.divergence(elements, p, with_error=True)[1])


def test_a_mask_on_elements_of_the_prior_masks_its_density_alone():
    m, r, a, b = parameters("full-masked")
    mask = torch.tensor([True, False, True])
    q, p = mvn(m, r), dist.Laplace(a, positive(b)).to_event(1)
    masked = dist.Laplace(a, positive(b)).mask(mask).to_event(1)
    third = dist.Laplace(a, positive(b)).mask(~mask).to_event(1)
    # the two halves of E log p make up the whole, and the entropy is counted twice
    both = kl.divergence(q, masked) + kl.divergence(q, third)
    torch.testing.assert_close(both, kl.divergence(q, p) - q.entropy())
    assert kl.route(exp(q), dist.Gamma(1.0, 1.0).mask(mask).to_event(1)).kind == "sampled"


def test_marginals_that_are_infinite():
    q = dist.MultivariateStudentT(torch.tensor(1.5), torch.zeros(2), torch.eye(2))
    told = kl.route(q, dist.Normal(torch.zeros(2), 1.0).to_event(1))
    assert told.kind == "infinite"
    assert "no variance" in told.reason


# --------------------------------------------------------------------------------------- mixtures
def test_discrete_mixtures_are_enumerated():
    w, a, b = randn(4, 2), randn(4, 2, 5, seed=1), randn(5, seed=2)
    q = td.MixtureSameFamily(td.Categorical(logits=w), td.Categorical(logits=a))
    p = td.Categorical(logits=b)
    mass = (w.softmax(-1).unsqueeze(-1) * a.softmax(-1)).sum(-2)
    exact = (mass * (mass.log() - b.log_softmax(-1))).sum(-1)
    back = (b.softmax(-1) * (b.log_softmax(-1) - mass.log())).sum(-1)
    torch.testing.assert_close(kl.divergence(q, p), exact)
    torch.testing.assert_close(kl.divergence(p, q), back)
    assert kl.route(q, p).kind == "closed"
    assert (kl.divergence(q, q) == 0).all()
    one_hot = td.MixtureSameFamily(td.Categorical(logits=w[0]), td.OneHotCategorical(logits=a[0]))
    torch.testing.assert_close(kl.divergence(one_hot, td.OneHotCategorical(logits=b)), exact[0])


def test_a_mixture_that_may_not_be_what_q_is():
    q = td.Categorical(torch.tensor([0.5, 0.5, 0.0]))
    p = td.MixtureSameFamily(
        td.Categorical(torch.ones(2)), td.Categorical(torch.tensor([[1.0, 0, 0], [0.5, 0, 0.5]]))
    )
    assert kl.route(q, p).kind == "infinite"


def mixture(batch, count, dim, seed):
    low = tril(randn(*batch, count, dim, dim, seed=seed))
    loc = randn(*batch, count, dim, seed=seed + 1)
    weights = td.Categorical(logits=randn(*batch, count, seed=seed + 2))
    return td.MixtureSameFamily(weights, td.MultivariateNormal(loc, scale_tril=low))


@pytest.mark.parametrize("dim", [1, 2, 8])
@pytest.mark.parametrize(("of_q", "of_p"), [(1, 3), (3, 1), (3, 3), (2, 5)])
def test_bounds_hold(dim, of_q, of_p):
    q, p = mixture((20,), of_q, dim, 0), mixture((20,), of_p, dim, 10)
    lower, upper = kl.bounds(q, p)
    mean, std_error, _ = kl.estimate(q, p, 4000)
    assert lower.shape == upper.shape == (20,)
    assert ((lower - mean) < 5 * std_error).all()
    assert ((mean - upper) < 5 * std_error).all()
    assert (lower > 0).any()


def test_bounds_are_tight_where_there_is_one_component_and_where_q_is_p():
    q, p = mixture((4,), 1, 3, 0), mixture((4,), 1, 3, 10)
    one, other = (
        td.MultivariateNormal(
            d.component_distribution.loc[:, 0],
            scale_tril=d.component_distribution.scale_tril[:, 0],
        )
        for d in (q, p)
    )
    lower, upper = kl.bounds(q, p)
    torch.testing.assert_close(upper, kl.divergence(one, other))
    assert (lower <= upper).all()
    for a, b in zip(kl.bounds(one, p), (lower, upper), strict=True):
        torch.testing.assert_close(a, b)
    same = mixture((4,), 3, 2, 0)
    assert all((b == 0).all() for b in kl.bounds(same, same))


def test_bounds_of_numbers_and_of_flattened_events():
    q = td.Normal(torch.tensor(0.3, dtype=F64), 1.2)
    p = td.MixtureSameFamily(
        td.Categorical(torch.ones(2)), td.Normal(torch.tensor([-1.0, 1.0]), 0.5)
    )
    lower, upper = kl.bounds(q, p)
    exact = kl.divergence(q, p)
    assert kl.route(q, p).kind == "quadrature"
    assert lower <= exact <= upper
    square = td.Independent(td.Normal(randn(2, 3), 1.0), 2)
    flat = td.Independent(td.Normal(randn(2, 3).reshape(6), 1.0), 1)
    prior = td.Normal(torch.zeros(6, dtype=F64), 2.0)
    for a, b in zip(
        kl.bounds(square, td.Independent(td.Normal(torch.zeros(2, 3).double(), 2.0), 2)),
        kl.bounds(flat, td.Independent(prior, 1)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_bounds_are_never_called_exact():
    q, p = mixture((), 2, 3, 0), mixture((), 3, 3, 10)
    told = kl.route(q, p)
    assert told.kind == "sampled"
    assert "kl.bounds" in told.reason
    with pytest.raises(kl.NoExactKL, match=r"kl\.bounds"):
        kl.divergence(q, p)


@pytest.mark.parametrize(
    "p",
    [td.Laplace(0.0, 1.0), td.Independent(td.Normal(torch.zeros(2), 1.0), 1)],
    ids=["family", "shape"],
)
def test_bounds_refuse_what_they_do_not_know(p):
    with pytest.raises(ValueError, match=r"Gaussians and mixtures of Gaussians.*kl\.route"):
        kl.bounds(td.Normal(0.0, 1.0), p)
