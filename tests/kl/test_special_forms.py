"""Special forms against oracles that know nothing of them."""

import math

import mpmath as mp
import numpy as np
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from scipy import integrate
from special_cases import concrete, mvn, mvt, parameters, positive, tril, wishart
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_vae import kl
from pyro_vae.kl.closed_forms.concrete import log_sum
from pyro_vae.kl.closed_forms.frullani import log_quadratic
from pyro_vae.kl.closed_forms.von_mises import mean_cosine, mean_cosine_slope
from pyro_vae.kl.special import digamma, trigamma

F64 = torch.float64


def t(*values):
    return torch.tensor(values, dtype=F64)


@pytest.fixture(autouse=True)
def digits():
    before, mp.mp.dps = mp.mp.dps, 30
    yield
    mp.mp.dps = before


# ------------------------------------------------------------------------ multivariate Student-t
def log_student(x, df, loc, scale):
    df, x = mp.mpf(df), (x - mp.mpf(loc)) / mp.mpf(scale)
    constant = mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2) - mp.log(df * mp.pi) / 2
    return constant - mp.log(mp.mpf(scale)) - (df + 1) / 2 * mp.log1p(x * x / df)


def log_normal(x, loc, scale):
    x = (x - mp.mpf(loc)) / mp.mpf(scale)
    return -x * x / 2 - mp.log(2 * mp.pi) / 2 - mp.log(mp.mpf(scale))


def line_integral(log_q, log_p, loc, scale, other, reach):
    """KL on the line, in the coordinate asinh of q's own."""

    def integrand(y):
        x = mp.mpf(loc) + mp.mpf(scale) * mp.sinh(y)
        return mp.exp(log_q(x)) * (log_q(x) - log_p(x)) * mp.mpf(scale) * mp.cosh(y)

    (m, s) = other
    at = [float(mp.asinh((mp.mpf(m) - loc + k * s) / scale)) for k in (-30, -3, 0, 3, 30)]
    points = sorted({-reach, -3.0, 0.0, 3.0, reach, *(x for x in at if abs(x) < reach)})
    return mp.quad(integrand, points)


@pytest.mark.parametrize(
    ("loc", "scale", "df", "m", "s"),
    [(0.0, 1.0, 1.0, 0.0, 1.0), (0.5, 1e-3, 3.0, 0.2, 1.0), (0.5, 2.0, 0.4, 1.0, 1e-2)]
    + [(0.0, 1.0, 1e4, 0.1, 1.1), (30.0, 0.2, 2.0, 0.0, 1.0)],
)
def test_gaussian_against_student_in_one_dimension(loc, scale, df, m, s):
    q = dist.MultivariateNormal(t(loc), scale_tril=t(scale).reshape(1, 1))
    p = dist.MultivariateStudentT(t(df)[0], t(m), t(s).reshape(1, 1))
    exact = line_integral(
        lambda x: log_normal(x, loc, scale),
        lambda x: log_student(x, df, m, s),
        loc,
        scale,
        (m, s),
        4.0,
    )
    assert kl.divergence(q, p).item() == pytest.approx(float(exact), rel=1e-11, abs=1e-13)


@pytest.mark.parametrize(
    ("df", "scale", "nu", "m", "s"),
    [(0.5, 1.0, 3.0, 0.4, 2.0), (5.0, 1e-4, 2.0, 0.0, 1.0), (5.0, 1.0, 2.0, 30.0, 1e-2)]
    + [(1e3, 1.0, 1.0, 1.0, 1.0), (3.0, 1.0, 3.0, 0.0, 1.00001), (3.0, 1.0, 3.0001, 0.0, 1.0)],
)
def test_student_against_student_in_one_dimension(df, scale, nu, m, s):
    q, p = td.StudentT(t(df), 0.0, t(scale)), td.StudentT(t(nu), t(m), t(s))
    exact = line_integral(
        lambda x: log_student(x, df, 0, scale),
        lambda x: log_student(x, nu, m, s),
        0,
        scale,
        (m, s),
        80 / min(df, 2.0),
    )
    # down to 5e-11, where a difference of entropies would have no digit left
    assert kl.divergence(q, p).item() == pytest.approx(
        float(exact), rel=1e-6 if exact < 1e-9 else 1e-11
    )


def grid(reach, n):
    x = torch.linspace(-reach, reach, n, dtype=F64)
    return torch.cartesian_prod(x, x), (x[1] - x[0]) ** 2


def test_gaussian_against_student_in_two_dimensions():
    q = dist.MultivariateNormal(
        t(0.3, -0.4), scale_tril=torch.tensor([[0.9, 0.0], [0.5, 0.7]]).double()
    )
    p = dist.MultivariateStudentT(
        t(2.5)[0], t(0.0, 0.5), torch.tensor([[1.2, 0.0], [-0.4, 1.0]]).double()
    )
    z, area = grid(9.0, 300)
    x = q.loc + z @ q.scale_tril.T
    weight = (-(z**2).sum(-1) / 2).exp() / (2 * math.pi) * area
    exact = (weight * (q.log_prob(x) - p.log_prob(x))).sum()
    torch.testing.assert_close(kl.divergence(q, p), exact, rtol=1e-11, atol=0.0)


def test_student_against_student_in_two_dimensions():
    low = torch.tensor([[0.9, 0.0], [0.5, 0.7]], dtype=F64)
    q = dist.MultivariateStudentT(t(3.0)[0], t(0.3, -0.4), low)
    p = dist.MultivariateStudentT(
        t(1.5)[0], t(0.0, 0.5), torch.tensor([[1.2, 0.0], [-0.4, 1.0]]).double()
    )
    y, area = grid(14.0, 560)
    z = y.sinh()
    x = q.loc + z @ low.T
    weight = q.log_prob(x).exp() * y.cosh().prod(-1) * area * low.diagonal().prod()
    exact = (weight * (q.log_prob(x) - p.log_prob(x))).sum()
    torch.testing.assert_close(kl.divergence(q, p), exact, rtol=1e-7, atol=0.0)


def test_student_at_one_axis_is_a_radius():
    # with one location and one shape only |x|^2 is left, a multiple of Fisher's F
    q = dist.MultivariateStudentT(t(4.0), torch.zeros(1, 5, dtype=F64), torch.eye(5).double())
    p = dist.MultivariateStudentT(t(9.0), torch.zeros(1, 5, dtype=F64), torch.eye(5).double())
    radial = kl.divergence(td.FisherSnedecor(t(5.0), t(4.0)), td.FisherSnedecor(t(5.0), t(9.0)))
    torch.testing.assert_close(kl.divergence(q, p), radial, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("dim", [1, 3, 40])
def test_no_derivative_is_lost_where_eigenvalues_coincide(dim):
    loc = torch.zeros(dim, dtype=F64, requires_grad=True)
    low = torch.eye(dim, dtype=F64).requires_grad_()
    other = torch.eye(dim, dtype=F64).requires_grad_()
    p = dist.MultivariateStudentT(t(5.0)[0], torch.zeros(dim, dtype=F64), other)
    value = kl.divergence(dist.MultivariateNormal(loc, scale_tril=low), p)
    first = torch.autograd.grad(value, (loc, low, other), create_graph=True)
    total = sum((g**2).sum() for g in first)
    second = torch.autograd.grad(total, (loc, low, other))
    assert all(g.isfinite().all() for g in (*first, *second))


def test_log_quadratic_is_right_to_the_second_derivative_at_equal_eigenvalues():
    m = torch.eye(3, dtype=F64).requires_grad_()
    delta = t(0.3, -0.2, 0.5).requires_grad_()
    even = lambda a: (a + a.mT) / 2  # noqa: E731 a finite step has to stay symmetric
    assert torch.autograd.gradcheck(lambda a, d: log_quadratic(even(a), d), (m, delta))
    assert torch.autograd.gradgradcheck(
        lambda a, d: log_quadratic(even(a), d), (m, delta), atol=1e-6
    )


def test_two_degrees_of_freedom_have_no_finite_kl_from_a_gaussian():
    df = t(2.0, 2.5).requires_grad_()
    q = dist.MultivariateStudentT(df, torch.zeros(2, 3, dtype=F64), torch.eye(3).double())
    p = mvn(torch.zeros(3, dtype=F64), torch.zeros(3, 3, dtype=F64))
    assert kl.route(q, p).finite.tolist() == [False, True]
    assert "no variance" in kl.route(q, p).reason
    kl.divergence(q, p).sum().backward()
    assert df.grad[0] == 0
    assert df.grad[1] < 0


# --------------------------------------------------------------------------------------- matrices
def test_wishart_has_the_value_and_the_gradient_that_torch_lacks():
    leaves = parameters("wishart-wishart")
    q, p = wishart(*leaves[:2]), wishart(*leaves[2:])
    value = kl.divergence(q, p)
    for i in range(3):
        one, other = wishart(*(x[i] for x in leaves[:2])), wishart(*(x[i] for x in leaves[2:]))
        theirs = td.kl_divergence(one, other)
        torch.testing.assert_close(value[i], theirs, rtol=1e-10, atol=1e-10)
        lacking = torch.autograd.grad(theirs, leaves[:2], allow_unused=True)
        assert lacking == (None, None)
    # and in a batch torch adds up a term over its elements
    assert not torch.allclose(td.kl_divergence(q, p), value, rtol=1e-2)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(value.sum(), leaves[:2]))


def test_wishart_of_one_dimension_is_a_gamma():
    n, v, m, w = t(3.0, 5.0), t(0.7, 1.3), t(4.0, 2.5), t(1.1, 0.6)
    q, p = (td.Wishart(df, x.reshape(2, 1, 1)) for df, x in ((n, v), (m, w)))
    gammas = kl.divergence(td.Gamma(n / 2, 1 / (2 * v)), td.Gamma(m / 2, 1 / (2 * w)))
    torch.testing.assert_close(kl.divergence(q, p), gammas, rtol=1e-12, atol=0.0)


def test_wishart_keeps_its_digits_near_q_is_p():
    step = 1e-6
    n, low = t(5.0), torch.eye(2, dtype=F64).expand(1, 2, 2)
    q, p = td.Wishart(n, scale_tril=low), td.Wishart(n, scale_tril=low * (1 + step))
    # D n / 2 (r - 1 - log r), r the squared ratio of the scales
    r = mp.mpf(1) / (1 + mp.mpf(step)) ** 2
    assert kl.divergence(q, p).item() == pytest.approx(float(5 * (r - 1 - mp.log(r))), rel=1e-9)


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_lkj_is_a_vine_of_beta_partial_correlations(dim):
    eta, other = t(0.6, 1.0, 4.0), t(1.3, 2.0, 3.9)
    exact = 0.0
    for k in range(1, dim):
        a, b = eta + (dim - 1 - k) / 2, other + (dim - 1 - k) / 2
        exact = exact + (dim - k) * kl.divergence(td.Beta(a, a), td.Beta(b, b))
    value = kl.divergence(td.LKJCholesky(dim, eta), td.LKJCholesky(dim, other))
    torch.testing.assert_close(value, exact, rtol=1e-10, atol=1e-14)
    whole = kl.divergence(dist.LKJ(dim, eta[1]), dist.LKJ(dim, other[1]))
    torch.testing.assert_close(whole, value[1])


def test_lkj_of_two_dimensions_by_quadrature():
    def log_density(r, eta):
        return (eta - 1) * math.log1p(-r * r) - (
            (2 * eta - 1) * math.log(2) + 2 * math.lgamma(eta) - math.lgamma(2 * eta)
        )

    exact, _ = integrate.quad(
        lambda r: math.exp(log_density(r, 2.5)) * (log_density(r, 2.5) - log_density(r, 0.7)),
        -1,
        1,
    )
    value = kl.divergence(td.LKJCholesky(2, t(2.5)), td.LKJCholesky(2, t(0.7)))
    assert value.item() == pytest.approx(exact, rel=1e-8)


# --------------------------------------------------------------------------------------- concrete
@pytest.mark.parametrize("gap", [1e-3, 0.5, 3.0, 12.0, 30.0, 60.0, 700.0])
def test_a_concrete_of_two_classes_is_a_logistic(gap):
    v = t(gap / 2, -gap / 2)
    g = mp.mpf(gap)
    exact = g * mp.coth(g / 2) - 2
    assert (2 * log_sum(v)).item() == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("spread", [1e-2, 0.7, 4.0, 9.0, 25.0])
@pytest.mark.parametrize("count", [3, 5])
def test_a_concrete_by_partial_fractions(count, spread):
    mp.mp.dps = 60
    v = torch.randn(count, dtype=F64, generator=torch.Generator().manual_seed(count)) * spread
    v = v - v.mean()
    r = [mp.e ** mp.mpf(x) for x in v.tolist()]
    parts = (
        mp.log(a) * mp.fprod(a / (a - b) for j, b in enumerate(r) if j != i)
        for i, a in enumerate(r)
    )
    exact = -mp.euler + mp.fsum(parts) - mp.digamma(count)
    assert log_sum(v).item() == pytest.approx(float(exact), rel=1e-10)


def test_a_concrete_does_not_depend_on_the_temperature_and_exceeds_the_categorical():
    a, b = parameters("concrete-concrete")
    cool, warm = (kl.divergence(concrete(a, tau), concrete(b, tau)) for tau in (0.1, 2.0))
    assert torch.equal(cool, warm)
    discrete = kl.divergence(td.Categorical(logits=a), td.Categorical(logits=b))
    assert (cool > discrete).all()
    for tau in (0.8, 2.0):  # draws of colder ones lie at the ends of the simplex
        mean, std_error, _ = kl.estimate(concrete(a, tau), concrete(b, tau), 20_000)
        assert ((mean - cool).abs() < 5 * std_error).all()


def test_unequal_temperatures_of_three_classes_are_sampled_and_said_so():
    a, b = parameters("concrete-concrete")
    q, p = concrete(a, 0.5), concrete(b, 0.7)
    told = kl.route(q, p)
    assert told.kind == "sampled"
    assert "equal temperatures" in told.reason
    with pytest.raises(kl.NoExactKL, match="equal temperatures"):
        kl.divergence(q, p)
    assert kl.divergence(q, p, with_error=True)[1].isinf().all()
    # of two classes, any temperatures will do
    assert kl.route(concrete(a[:, :2], 0.5), concrete(b[:, :2], 0.7)).kind == "quadrature"


def test_the_log_of_a_concrete_has_its_kl_and_is_no_density_on_the_line():
    a, b = parameters("concrete-concrete")
    q, p = (concrete(x, cls=ExpRelaxedCategorical) for x in (a, b))
    torch.testing.assert_close(kl.divergence(q, p), kl.divergence(concrete(a), concrete(b)))
    assert kl.route(q, dist.Normal(torch.zeros(3), 1.0).to_event(1)).kind == "undefined"


def test_a_shift_of_all_logits_is_nothing():
    logits = torch.randn(2, 4, dtype=F64)
    shifted = kl.divergence(concrete(logits), concrete(logits + 1.7))
    assert shifted.abs().max() < 1e-14


# ------------------------------------------------------------------------------------- von Mises
@pytest.mark.parametrize("k", [1e-8, 1e-3, 0.5, 5.0, 24.9, 25.1, 80.0, 1e3, 1e6])
def test_the_mean_cosine(k):
    a = mp.besseli(1, k) / mp.besseli(0, k)
    assert mean_cosine(t(k)).item() == pytest.approx(float(a), rel=1e-14)
    slope = float(1 - a**2 - a / mp.mpf(k))
    assert mean_cosine_slope(t(k)).item() == pytest.approx(slope, rel=1e-11)
    leaf = t(k).requires_grad_()
    assert torch.autograd.grad(mean_cosine(leaf), leaf)[0].item() == pytest.approx(slope, rel=1e-7)


def von_mises(m, k, n, k_p):
    a = mp.besseli(1, k) / mp.besseli(0, k)
    ratio = mp.log(mp.besseli(0, k_p) / mp.besseli(0, k))
    return a * (k - k_p * mp.cos(mp.mpf(m) - mp.mpf(n))) + ratio


VON_MISES = [
    (0.1, 1.0, 0.5, 2.0),
    (0.0, 1e-2, 0.0, 1e4),
    (0.0, 1e4, 0.0, 1e-2),
    (3.0, 0.5, -3.0, 0.5),
    (0.3, 50.0, 0.3, 50.0001),
    (2.0, 1e4, 2.0001, 1.0001e4),
]


@pytest.mark.parametrize("given", VON_MISES, ids=str)
def test_von_mises_and_its_gradient(given):
    leaves = [t(x).requires_grad_() for x in given]
    value = kl.divergence(td.VonMises(*leaves[:2]), td.VonMises(*leaves[2:]))
    exact = von_mises(*map(mp.mpf, given))
    assert value.item() == pytest.approx(float(exact), rel=1e-9)
    for i, g in enumerate(torch.autograd.grad(value, leaves)):
        order = tuple(int(i == j) for j in range(4))
        expected = float(mp.diff(von_mises, tuple(map(mp.mpf, given)), order))
        assert g.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_von_mises_and_the_uniform_circle():
    m, k = 0.4, 3.0
    q, p = td.VonMises(t(m), t(k)), td.Uniform(-math.pi, t(math.pi))
    density = lambda x: math.exp(k * math.cos(x - m)) / (2 * math.pi * np.i0(k))  # noqa: E731
    exact, _ = integrate.quad(
        lambda x: density(x) * math.log(density(x) * 2 * math.pi), -math.pi, math.pi
    )
    assert kl.divergence(q, p).item() == pytest.approx(exact, rel=1e-10)
    back, _ = integrate.quad(
        lambda x: -math.log(density(x) * 2 * math.pi) / (2 * math.pi), -math.pi, math.pi
    )
    assert kl.divergence(p, q).item() == pytest.approx(back, rel=1e-10)
    assert kl.divergence(td.VonMises(t(m), t(500.0)), p).isfinite()
    arc = td.Uniform(t(-1.0), 1.0)
    assert kl.route(q, arc).kind == "infinite"
    assert kl.route(td.Uniform(-4.0, 4.0), q).kind == "infinite"


# ---------------------------------------------------------------------------------- entropy terms
@pytest.mark.parametrize("least", [1.0, 7.0])
def test_the_total_correlation_of_a_student(least):
    v, m, r, *_ = parameters("student-independent")
    q = mvt(v, m, r, least)
    p = dist.StudentT(2.0 * torch.ones(3, dtype=F64), m, positive(m)).to_event(1)
    value = kl.divergence(q, p)
    assert kl.route(q, p).kind in ("closed", "quadrature")
    mean, std_error, _ = kl.estimate(q, p, 40_000)
    assert ((mean - value).abs() < 5 * std_error).all()
    # without correlations among the elements of a Gaussian there is none
    plain = dist.MultivariateNormal(
        m, scale_tril=torch.diag_embed(tril(r).diagonal(dim1=-2, dim2=-1))
    )
    elements = dist.Normal(m, plain.variance.sqrt()).to_event(1)
    torch.testing.assert_close(kl.divergence(plain, p), kl.divergence(elements, p))


@pytest.mark.parametrize("x", [1e-3, 0.1, 0.5, 1.0, 1.4616, 3.0, 20.0, 1e4])
def test_digamma_and_its_derivatives_to_all_digits(x):
    at = torch.tensor(x, dtype=F64, requires_grad=True)
    value = digamma(at)
    (first,) = torch.autograd.grad(value, at, create_graph=True)
    (second,) = torch.autograd.grad(first, at)
    found = [value, first, second, trigamma(at)]
    for got, order in zip(found, (0, 1, 2, 1), strict=True):
        exact = float(mp.polygamma(order, mp.mpf(x)))
        assert got.item() == pytest.approx(exact, rel=5e-14, abs=5e-15)
