"""Routes, wrappers, refusals, infinities and the table of forms."""

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from torch.distributions import transforms

from pyro_vae import kl
from pyro_vae.kl import statistics, table


# ------------------------------------------------------------------------- classes and the table
class Loaded(dist.Normal):
    """A user's Normal with a density of its own."""

    def log_prob(self, value):
        return super().log_prob(value) + value.cos()


def test_a_subclass_inherits_nothing():
    q, p = Loaded(0.0, 1.0), dist.Normal(0.5, 2.0)
    for pair in ((q, p), (p, q), (q, q), (q.expand([3]).to_event(1), p.expand([3]).to_event(1))):
        assert kl.route(*pair).kind == "sampled"
        with pytest.raises(kl.NoExactKL):
            kl.divergence(*pair)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (dist.Normal, td.Normal, True),
        (dist.Normal(0.0, 1.0), td.Normal, True),
        (dist.OMTMultivariateNormal, td.MultivariateNormal, True),
        (dist.inverse_gamma.InverseGamma, td.InverseGamma, True),
        (Loaded, td.Normal, False),
        (td.Chi2, td.Gamma, False),
        (dist.FoldedDistribution, td.TransformedDistribution, False),
    ],
)
def test_same_class(a, b, same):
    assert kl.same_class(a, b) is same


def test_register_serves_a_third_party(monkeypatch):
    monkeypatch.setattr(table, "_FORMS", dict(table._FORMS))

    @kl.register(Loaded, td.Normal)
    def mine(q, p):
        """Whatever the user knows."""
        return torch.full(q.batch_shape, 7.0)

    q, p = Loaded(torch.zeros(3), 1.0), dist.Normal(0.0, 1.0)
    assert kl.divergence(q, p).tolist() == [7.0] * 3
    assert kl.route(q, p).source == "test_kl_routes, in place of torch's"


def test_register_refuses_a_second_form(monkeypatch):
    monkeypatch.setattr(table, "_FORMS", dict(table._FORMS))
    with pytest.raises(ValueError, match=r"HalfCauchy.*registered already.*pushforward"):

        @kl.register(dist.HalfCauchy, td.HalfCauchy)
        def second(q, p):
            """A second opinion."""


def test_register_refuses_a_form_without_docstring():
    with pytest.raises(ValueError, match="no docstring"):
        kl.register(Loaded, Loaded)(lambda q, p: q)


def test_the_statistics_table_refuses_likewise():
    class Silent(statistics.Statistics):
        pass

    with pytest.raises(ValueError, match="no docstring"):
        statistics.row(Loaded)(Silent)
    with pytest.raises(ValueError, match="has a row of statistics already"):
        statistics.row(dist.Normal)(statistics.rows()[td.Normal])
    with pytest.raises(ValueError, match="'median' is not a statistic"):
        statistics.column(Loaded, needs=("median",))(statistics.columns()[td.Normal][0])


def test_a_form_that_others_gave_to_torch_is_used_for_exactly_its_classes(monkeypatch):
    from torch.distributions import kl as torch_kl

    monkeypatch.setattr(torch_kl, "_KL_REGISTRY", torch_kl._KL_REGISTRY)
    monkeypatch.setitem(torch_kl._KL_REGISTRY, (Loaded, td.Normal), lambda q, p: q.loc + 3)
    assert kl.divergence(Loaded(0.0, 1.0), dist.Normal(0.0, 1.0)).item() == 3


# ------------------------------------------------------------------------------- infinities
def test_student_t_of_two_degrees_has_no_finite_kl_from_a_normal():
    df = torch.tensor([2.0, 2.1], requires_grad=True)
    loc = torch.tensor(0.0, requires_grad=True)
    q, p = td.StudentT(df, loc, 1.0), dist.Normal(0.3, 1.0)
    told = kl.route(q, p)
    assert told.kind == "closed"
    assert told.finite.tolist() == [False, True]
    assert "df = 2 has no variance, and -log p of Normal grows quadratically" in told.reason
    value = kl.divergence(q, p)
    assert value[0] == torch.inf
    value.sum().backward()
    assert df.grad[0] == 0
    assert df.grad[1] < 0
    assert loc.grad.isfinite()


@pytest.mark.parametrize(
    ("q", "p", "words"),
    [
        (td.Cauchy(0.0, 1.0), td.Normal(0.0, 1.0), "has no variance"),
        (td.Cauchy(0.0, 1.0), td.Laplace(0.0, 1.0), "has no mean"),
        (td.StudentT(5.0), td.Gumbel(0.0, 1.0), "too heavy"),
        (td.Gamma(1.0, 1.0), td.InverseGamma(1.0, 1.0), "concentration = 1 has tails too heavy"),
        (td.Laplace(0.0, 1.0), td.Gumbel(0.0, 1.0), "scale = 1 has tails too heavy"),
        (td.InverseGamma(2.0, 1.0), td.HalfNormal(1.0), "concentration = 2 has no variance"),
        (td.HalfNormal(1.0), td.InverseGamma(1.0, 1.0), "too heavy"),
        (td.HalfCauchy(1.0), td.Gamma(2.0, 1.0), "has no mean"),
        (td.Beta(1.0, 2.0), td.InverseGamma(1.0, 1.0), "too heavy"),
        (td.Normal(0.0, 1.0), td.Gamma(1.0, 1.0), "positive half-line"),
        (td.Uniform(0.0, 2.0), td.Uniform(0.0, 1.0), "interval set by its parameters"),
        (td.Poisson(1.0), td.Bernoulli(0.5), "{0, 1}"),
        (td.Bernoulli(0.5), td.Bernoulli(0.0), "probability 0"),
        (td.Categorical(torch.ones(3)), td.Categorical(torch.ones(2)), "integers in [0, 2]"),
        (dist.Delta(torch.tensor(-1.0)), td.Gamma(1.0, 1.0), "outside the support"),
    ],
)
def test_infinite_with_a_reason_for_people(q, p, words):
    told = kl.route(q, p)
    assert told.kind == "infinite"
    assert words in told.reason
    assert kl.divergence(q, p).item() == torch.inf
    if not isinstance(q, dist.Delta):
        mean, std_error, _ = kl.estimate(q, p)
        assert mean == torch.inf
        assert std_error.isnan()


def test_support_infinities_pass_a_zero_gradient():
    loc = torch.zeros(2, requires_grad=True)
    kl.divergence(td.Normal(loc, 1.0), td.Uniform(torch.tensor([0.0, 1.0]), 2.0)).sum().backward()
    assert loc.grad.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("q", "p", "words"),
    [
        (td.Normal(0.0, 1.0), td.Bernoulli(0.5), "different measures"),
        (td.RelaxedBernoulli(torch.tensor(1.0), 0.5), td.Bernoulli(0.5), "different measures"),
        (td.Normal(0.0, 1.0), dist.Normal(torch.zeros(3), 1.0).to_event(1), "event shapes"),
        (td.Dirichlet(torch.ones(3)), dist.Normal(torch.zeros(3), 1.0).to_event(1), "measures"),
    ],
)
def test_undefined(q, p, words):
    told = kl.route(q, p)
    assert told.kind == "undefined"
    assert words in told.reason
    assert not told.finite.any()
    for ask in (kl.divergence, kl.estimate):
        with pytest.raises(ValueError, match=words):
            ask(q, p)


def test_batch_shapes_that_do_not_broadcast():
    with pytest.raises(ValueError, match=r"do not broadcast"):
        kl.divergence(td.Normal(torch.zeros(3), 1.0), td.Normal(torch.zeros(2), 1.0))


def test_no_exact_kl_names_what_is_left():
    q = td.Dirichlet(torch.ones(3))
    p = td.RelaxedOneHotCategorical(torch.tensor(1.0), torch.ones(3))
    told = kl.route(q, p)
    assert (told.kind, told.source, told.finite.item()) == ("sampled", "none", True)
    message = r"Dirichlet.*kl\.estimate.*@kl\.register\(Dirichlet, RelaxedOneHotCategorical\)"
    with pytest.raises(NotImplementedError, match=message):
        kl.divergence(q, p)


def test_a_finite_element_without_a_form_is_refused_even_beside_infinite_ones(monkeypatch):
    monkeypatch.setattr("pyro_vae.kl.plan.element_of", lambda d: None)
    q = td.StudentT(torch.tensor([0.5, 3.0]))
    with pytest.raises(kl.NoExactKL):
        kl.divergence(q, td.Laplace(0.0, 1.0))
    assert kl.route(q, td.Laplace(0.0, 1.0)).finite.tolist() == [False, True]
    assert kl.divergence(td.StudentT(0.5), td.Laplace(0.0, 1.0)) == torch.inf


# --------------------------------------------------------------------------------- wrappers
LOC, OTHER = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(3)
ELEMENTS = td.kl_divergence(td.Normal(LOC, 1.0), td.Laplace(OTHER, 2.0))


def test_independent_sums():
    q, p = dist.Normal(LOC, 1.0).to_event(1), dist.Laplace(OTHER, 2.0).to_event(1)
    torch.testing.assert_close(kl.divergence(q, p), ELEMENTS.sum(-1))
    torch.testing.assert_close(
        kl.divergence(td.Independent(q, 1), p.expand([4]).to_event(1)), ELEMENTS.sum()
    )


def test_independent_of_unequal_depth():
    normal = dist.Normal(torch.zeros(4, 3), 1.0)
    full = dist.MultivariateNormal(torch.zeros(3), 2 * torch.eye(3))
    q, p = normal.to_event(2), full.expand([4]).to_event(1)
    torch.testing.assert_close(
        kl.divergence(q, p), td.kl_divergence(normal.to_event(1), full).sum()
    )
    assert kl.divergence(td.Independent(normal, 0), normal).shape == (4, 3)


def test_batch_shapes_that_merely_broadcast():
    q, p = td.Beta(torch.ones(4, 3), 2.0), td.Uniform(torch.zeros(3), 1.0)
    assert kl.divergence(q, p).shape == (4, 3)
    q, p = td.Bernoulli(torch.full((3,), 0.2)), td.Bernoulli(torch.full((4, 1), 0.5))
    assert kl.divergence(q, p).shape == (4, 3)


def test_expanded():
    base = dist.Gumbel(torch.zeros(3), 1.0)
    expanded = dist.torch_distribution.ExpandedDistribution(base, torch.Size([4, 3]))
    p = dist.Normal(torch.zeros(3), 2.0)
    value = kl.divergence(expanded.to_event(1), p.to_event(1))
    assert value.shape == (4,)
    torch.testing.assert_close(value, td.kl_divergence(base, p).sum().expand(4))


MASK = torch.tensor([True, False, True])


@pytest.mark.parametrize(("left", "right"), [(True, False), (False, True), (True, True)])
def test_masks_multiply(left, right):
    q, p = dist.Normal(LOC, 1.0), dist.Laplace(OTHER, 2.0)
    q, p = q.mask(MASK) if left else q, p.mask(MASK) if right else p
    torch.testing.assert_close(kl.divergence(q, p), ELEMENTS * MASK)
    torch.testing.assert_close(
        kl.divergence(q.to_event(1), p.to_event(1)), (ELEMENTS * MASK).sum(-1)
    )
    mean, std_error, _ = kl.estimate(q.to_event(1), p.to_event(1), 4000)
    assert ((mean - (ELEMENTS * MASK).sum(-1)).abs() < 5 * std_error).all()


def test_a_mask_hides_an_infinity():
    df = torch.tensor([1.0, 3.0], requires_grad=True)
    q = dist.StudentT(df, torch.zeros(2), 1.0).mask(torch.tensor([False, True]))
    p = dist.Normal(0.0, 1.0)
    assert kl.route(q, p).finite.all()
    value = kl.divergence(q, p)
    assert value[0] == 0
    value.sum().backward()
    assert df.grad[0] == 0
    assert kl.divergence(dist.Normal(0.0, 1.0).mask(False), p).item() == 0
    assert kl.estimate(dist.Normal(0.0, 1.0).mask(True), p).mean.abs() < 1e-6


EXP = transforms.ExpTransform()


def test_shared_bijections_cancel():
    q, p = dist.Normal(LOC, 1.0), dist.Laplace(OTHER, 2.0)
    affine = transforms.AffineTransform(1.0, torch.tensor(3.0))
    pushed = [dist.TransformedDistribution(d, [affine, EXP]) for d in (q, p)]
    torch.testing.assert_close(kl.divergence(*pushed), ELEMENTS)
    # an affine map of a Normal is a Normal, whether or not the other side shares it
    other = dist.TransformedDistribution(p, [transforms.AffineTransform(1.0, 3.0), EXP])
    torch.testing.assert_close(kl.divergence(pushed[0], other), ELEMENTS)
    # equal in value is not the same object
    power = [transforms.PowerTransform(torch.tensor(2.0)) for _ in range(2)]
    whole = dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
    one, other, twin = (dist.TransformedDistribution(whole, [EXP, power[i]]) for i in (0, 0, 1))
    assert kl.route(one, other).kind == "closed"
    assert kl.route(one, twin).kind == "sampled"


def test_a_shared_map_that_is_not_bijective_does_not_cancel():
    fold = transforms.AbsTransform()
    q, p = (dist.TransformedDistribution(dist.Normal(m, 1.0), [fold]) for m in (1.0, 0.0))
    assert kl.route(q, p).kind == "sampled"


def test_delta_keeps_its_log_density():
    v = torch.tensor([0.5, -1.0], requires_grad=True)
    q = dist.Delta(v, log_density=torch.tensor(2.0)).expand([2])
    p = dist.Gamma(2.0, 1.0)
    value = kl.divergence(q, p)
    torch.testing.assert_close(value, torch.stack([2 - p.log_prob(v[0]), torch.tensor(torch.inf)]))
    value.sum().backward()
    assert v.grad.isfinite().all()
    point = dist.Delta(torch.zeros(4, 3)).to_event(1)
    full = dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
    torch.testing.assert_close(
        kl.divergence(point, full), -full.log_prob(torch.zeros(3)).expand(4)
    )
    assert kl.divergence(dist.Delta(torch.tensor(1.0)), dist.Poisson(2.0)).isfinite()


# ------------------------------------------------------------------------- dtypes and estimates
def test_dtype_device_and_error():
    value, error = kl.divergence(td.Normal(0.0, 1.0), td.Laplace(0.0, 1.0), with_error=True)
    assert value.dtype == error.dtype == torch.float32
    assert error == 0
    mixed = td.Laplace(torch.tensor(0.0, dtype=torch.float64), 1.0)
    assert kl.divergence(td.Normal(0.0, 1.0), mixed).dtype == torch.float64


def test_nothing_of_the_callers_changes():
    q, p = dist.Normal(LOC, 1.0).to_event(1), dist.Normal(OTHER, 2.0).to_event(1)
    kl.divergence(q, p)
    kl.estimate(q, p)
    assert q.base_dist._validate_args
    assert q.base_dist.loc is not None
    with pytest.raises(ValueError, match="GreaterThan"):
        dist.Exponential(-1.0)


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (td.Normal(LOC, 0.7), td.Laplace(OTHER, 2.0)),
        (td.Gamma(LOC.exp() + 0.5, 1.0), td.LogNormal(OTHER, 1.0)),
        (td.Beta(LOC.exp() + 1, 2.0), dist.ContinuousBernoulli(torch.full((3,), 0.3))),
        (td.Poisson(LOC.exp()), td.Poisson(1.0)),
    ],
    ids=["normal", "gamma", "beta", "poisson"],
)
def test_estimates_are_within_five_standard_errors(q, p):
    mean, std_error, k = kl.estimate(q, p, 5000)
    exact = kl.divergence(q, p)
    believed = k < 0.5
    assert believed.any()
    assert ((mean - exact).abs() < 5 * std_error)[believed].all()
    assert mean.shape == std_error.shape == k.shape == exact.shape
    assert not mean.requires_grad


def test_estimate_measures_the_tail():
    q, p = td.StudentT(torch.tensor([1.5, 3.0])), td.Normal(0.0, 1.0)
    mean, std_error, k = kl.estimate(q, p, 20_000)
    assert mean[0] == torch.inf
    assert std_error[0].isnan()
    assert 1 < k[0] < 1.7
    assert 0.5 < k[1] < 1
    assert kl.estimate(td.Normal(0.0, 1.0), td.Gamma(1.0, 1.0)).pareto_k == torch.inf


def test_estimate_wants_two_draws():
    with pytest.raises(ValueError, match="num_samples=1"):
        kl.estimate(td.Normal(0.0, 1.0), td.Normal(0.0, 1.0), 1)


# ----------------------------------------------------------------------- discrete masses
def test_probabilities_of_zero():
    mass = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], requires_grad=True)
    prior = torch.tensor([0.25, 0.75, 0.0], requires_grad=True)
    q, p = dist.Categorical(mass), dist.Categorical(prior)
    assert kl.route(q, p).finite.tolist() == [True, False]
    value = kl.divergence(q, p)
    exact = 0.5 * torch.tensor([2.0, 2 / 3]).log().sum()
    torch.testing.assert_close(value, torch.stack([exact, torch.tensor(torch.inf)]))
    value.sum().backward()
    assert mass.grad.isfinite().all()
    assert (mass.grad[1] == 0).all()
    assert prior.grad.isfinite().all()
    logits = dist.Categorical(logits=torch.zeros(3))
    assert kl.divergence(logits, p) == torch.inf
    one_hot = dist.OneHotCategorical(mass), dist.OneHotCategorical(prior)
    torch.testing.assert_close(kl.divergence(*one_hot), value)


def test_logits_are_read_as_logits_even_after_probs_were_looked_at():
    q, p = td.Bernoulli(logits=torch.tensor(0.0)), td.Bernoulli(logits=torch.tensor(30.0))
    before = kl.divergence(q, p)
    assert p.probs == 1
    assert kl.divergence(q, p) == before
    assert kl.route(q, p).kind == "closed"


def test_fewer_categories_than_the_prior():
    q, p = dist.Categorical(torch.ones(2)), dist.Categorical(torch.ones(4))
    assert kl.divergence(q, p).item() == pytest.approx(0.693147, abs=1e-5)


# ------------------------------------------------------------------------------ odds and ends
def test_a_class_without_a_support_is_sampled():
    class Nowhere(dist.Normal):
        @property
        def support(self):
            raise NotImplementedError

    told = kl.route(Nowhere(0.0, 1.0), dist.Normal(0.0, 1.0))
    assert told.kind == "sampled"
    assert told.finite.all()


def test_a_prior_on_a_part_of_the_line_by_parameters():
    q = td.Uniform(torch.tensor([0.2, -0.5]), 0.8)
    told = kl.route(q, td.Beta(2.0, 3.0))
    assert told.finite.tolist() == [True, False]
    assert "interval set by its parameters" in told.reason
    pareto = td.Pareto(torch.tensor([1.0, 1.0, 0.5]), torch.tensor([3.0, 1.5, 3.0]))
    told = kl.route(pareto, td.Pareto(torch.tensor(0.8), 2.0))
    assert told.finite.tolist() == [True, True, False]
    # tails speak where supports are in order
    assert "alpha = 1.5" in kl.route(pareto, td.HalfNormal(1.0)).reason


def test_point_masses_of_vectors_outside_the_support():
    points = torch.tensor([[0.2, 0.8], [0.5, 0.9]], requires_grad=True)
    value = kl.divergence(dist.Delta(points, event_dim=1), dist.Dirichlet(torch.ones(2) * 2))
    assert value.isfinite().tolist() == [True, False]
    value.sum().backward()
    assert points.grad.isfinite().all()
    assert kl.divergence(dist.Delta(torch.tensor(1.0)), dist.Delta(torch.tensor(1.0))) == 0


def test_transformed_classes_of_other_people_are_passed_as_they_are():
    affine = transforms.AffineTransform(torch.tensor(0.0), torch.tensor(2.0))
    q = dist.TransformedDistribution(Loaded(0.0, 1.0), [affine])
    with pytest.raises(kl.NoExactKL):
        kl.divergence(q, dist.TransformedDistribution(Loaded(0.0, 1.0), [affine]))


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (lambda a: td.StudentT(a), lambda a: td.Normal(0.0, a)),
        (lambda a: dist.Normal(a, 1.0).to_event(1), lambda a: dist.Laplace(a * 0, a).to_event(1)),
        (lambda a: dist.Bernoulli(logits=a), lambda a: dist.Bernoulli(logits=-a)),
        (lambda a: dist.Uniform(a, a + 1), lambda a: dist.Gamma(a, a)),
        (
            lambda a: dist.MultivariateNormal(a, torch.eye(2)),
            lambda a: dist.Gumbel(a, 1.0).to_event(1),
        ),
    ],
    ids=["student", "independent", "bernoulli", "uniform", "marginals"],
)
def test_nothing_reads_a_value_so_that_it_can_be_captured(q, p):
    from torch.fx.experimental.proxy_tensor import make_fx

    def both(a):
        value = kl.divergence(q(a), p(a)).sum()
        return value, torch.autograd.grad(value, a)[0]

    a = torch.tensor([1.5, 3.0], requires_grad=True)
    other = torch.tensor([4.0, 2.5], requires_grad=True)
    with dist.validation_enabled(False):
        graph = make_fx(both)(a)
        for x in (a, other):
            for ours, captured in zip(both(x), graph(x), strict=True):
                torch.testing.assert_close(ours, captured)
