"""What torch has from this package: the pairs it lacked, exactly their classes, and no more."""

import importlib
import itertools
import subprocess
import sys
import textwrap
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from kl_examples import CONTINUOUS, DISCRETE, example
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions.kl import _KL_REGISTRY
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import kl
from pyro_vae.kl import given, table

F64 = torch.float64
LOC, OTHER = torch.tensor([0.3, -1.0, 0.8]), torch.tensor([0.0, 0.5, 1.0])


def script(text):
    """Run a program in a process of its own, where nothing was imported before."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ------------------------------------------------------------------------------- what is given
def pairs():
    known = {**CONTINUOUS, **DISCRETE}
    for a, b in itertools.product(known, repeat=2):
        if table.given(table.canonical(a), table.canonical(b)):
            yield pytest.param(a, b, id=f"{a.__name__}-{b.__name__}")


@pytest.mark.parametrize(("a", "b"), list(pairs()))
def test_torch_has_our_value_or_declines(a, b):
    q, p = example(a)[0], example(b)[0]
    told = kl.route(q, p)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if told.kind == "closed" and bool(told.finite.all()):
            value = td.kl_divergence(q, p)
            assert value.dtype == F64
            torch.testing.assert_close(value, kl.divergence(q, p))
            assert told.source == "pyro_vae, given to torch"
        else:
            with pytest.raises(NotImplementedError):
                td.kl_divergence(q, p)


def test_many_are_given():
    assert len(list(pairs())) > 100


GAUSSIANS = {
    "full": lambda loc, s: dist.MultivariateNormal(loc, torch.eye(3) * s + 0.3),
    "low rank": lambda loc, s: dist.LowRankMultivariateNormal(
        loc, torch.tensor([[1.0], [0.5], [-0.3]]), torch.full((3,), s)
    ),
    "independent": lambda loc, s: dist.Normal(loc, s).to_event(1),
}


@pytest.mark.parametrize(("a", "b"), list(itertools.product(GAUSSIANS, repeat=2)))
@pytest.mark.parametrize("batch", [(), (4,)], ids=["one", "batch"])
def test_every_pair_of_gaussians_is_analytic(a, b, batch):
    q = GAUSSIANS[a](LOC, 0.7).expand(batch)
    p = GAUSSIANS[b](OTHER, 1.4).expand(batch)
    value = td.kl_divergence(q, p)
    assert value.shape == batch
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, kl.divergence(q, p), rtol=1e-5, atol=1e-6)


def test_a_gaussian_against_any_elements_with_a_form():
    q = GAUSSIANS["full"](LOC, 0.7)
    for p in (dist.Laplace(OTHER, 1.0), dist.Gumbel(OTHER, 2.0)):
        torch.testing.assert_close(
            td.kl_divergence(q, p.to_event(1)), kl.divergence(q, p.to_event(1))
        )
    # no closed form: quadrature is not given
    with pytest.raises(NotImplementedError):
        td.kl_divergence(q, dist.StudentT(3.0, OTHER, 1.0).to_event(1))


def test_a_multivariate_student_against_independent_normals():
    p = dist.Normal(OTHER, 1.0).to_event(1)
    q = dist.MultivariateStudentT(torch.tensor(5.0), LOC, torch.eye(3))
    torch.testing.assert_close(td.kl_divergence(q, p), kl.divergence(q, p))
    with pytest.raises(NotImplementedError):
        td.kl_divergence(dist.MultivariateStudentT(torch.tensor(2.0), LOC, torch.eye(3)), p)


def test_dtypes_and_shapes_are_torchs():
    q, p = td.StudentT(torch.full((4, 1), 3.0)), td.Normal(torch.zeros(3), 1.0)
    value = td.kl_divergence(q, p)
    assert value.shape == (4, 3)
    assert value.dtype == torch.float32
    wide = td.kl_divergence(q, td.Normal(torch.zeros(3, dtype=F64), 1.0))
    assert wide.dtype == F64


def test_pyros_own_classes_and_twins():
    q, p = dist.InverseGamma(3.0, 1.0), dist.LogNormal(0.0, 1.0)
    for left in (q, td.InverseGamma(torch.tensor(3.0), torch.tensor(1.0))):
        torch.testing.assert_close(td.kl_divergence(left, p), kl.divergence(q, p))
    omt = dist.OMTMultivariateNormal(LOC, torch.eye(3))
    value = td.kl_divergence(omt, dist.Normal(OTHER, 1.0).to_event(1))
    torch.testing.assert_close(value, (LOC - OTHER).square().sum() / 2)


# ------------------------------------------------------------------------------- the guards
class Doubled(dist.StudentT):
    """Another law than that of its parent."""

    def log_prob(self, value):
        return super().log_prob(value / 2) - 0.6931


class Shifted(dist.Normal):
    def log_prob(self, value):
        return super().log_prob(value - 1)


class OwnWeibull(dist.Weibull):
    def log_prob(self, value):
        return super().log_prob(value) - 1


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (Doubled(3.0), td.Normal(0.0, 1.0)),
        (td.StudentT(3.0), Shifted(0.0, 1.0)),
        (Doubled(3.0), Shifted(0.0, 1.0)),
        (dist.MultivariateNormal(LOC, torch.eye(3)), Shifted(LOC, 1.0).to_event(1)),
        (Shifted(LOC, 1.0).to_event(1), dist.LowRankMultivariateNormal(LOC, LOC[:, None], LOC**2)),
        (OwnWeibull(1.0, 2.0), td.Weibull(1.0, 3.0)),
        (OwnWeibull(1.0, 2.0), td.Gamma(1.0, 3.0)),
    ],
    ids=["guide", "prior", "both", "inside a prior", "inside a guide", "rule", "Weibull"],
)
def test_a_subclass_with_another_density_gets_no_form_of_ours(q, p):
    with pytest.raises(NotImplementedError):
        td.kl_divergence(q, p)


def test_a_generic_rule_serves_subclasses_as_it_did():
    # torch's rule of equal transforms; its answer is for torch to give
    q, p = OwnWeibull(1.0, 2.0), td.Weibull(1.0, 2.0)
    assert td.kl_divergence(q, p) == 0


def test_an_infinite_element_makes_it_decline():
    normal = td.Normal(0.0, 1.0)
    for df in (2.0, 1.0, torch.tensor([3.0, 2.0])):
        with pytest.raises(NotImplementedError, match="no variance"):
            td.kl_divergence(td.StudentT(df), normal)
    assert td.kl_divergence(td.StudentT(2.5), normal).isfinite()
    with pytest.raises(NotImplementedError):
        td.kl_divergence(td.InverseGamma(0.5, 1.0), td.Gamma(1.0, 1.0))


def test_inside_a_graph_it_is_the_same_or_infinite():
    df = torch.tensor([3.0, 5.0])

    def value(df, scale):
        return td.kl_divergence(td.StudentT(df, 0.0, scale), td.Normal(0.0, 1.0))

    scale = torch.tensor([0.5, 1.5])
    with dist.validation_enabled(False):
        graph = make_fx(value)(df, scale)
        torch.testing.assert_close(graph(df, scale), value(df, scale))
    assert graph(torch.tensor([1.5, 5.0]), scale).isinf().tolist() == [True, False]


def test_what_torch_pyro_or_a_user_has_is_left_alone():
    for q, p in ((td.Normal, td.Normal), (td.Beta, td.Beta), (td.Laplace, td.Normal)):
        assert not given.offer(q, p)
        assert _KL_REGISTRY[q, p].__module__ == "torch.distributions.kl"
    assert _KL_REGISTRY[td.Independent, td.MultivariateNormal].__module__.startswith("pyro.")
    # inherited forms serve as well, right or wrong: two transformed, two of one family
    for q, p in ((td.LogNormal, td.LogNormal), (td.Chi2, td.Chi2), (td.Wishart, td.Wishart)):
        assert (q, p) not in table._GIVEN


def test_a_form_of_the_users_survives_our_import_which_warns_of_nothing():
    out = script("""
        import torch, torch.distributions as td
        from torch.distributions.kl import register_kl
        @register_kl(td.StudentT, td.Normal)
        def mine(q, p):
            return torch.tensor(42.0)
        class Base(td.Normal): pass
        @register_kl(td.Gumbel, td.Distribution)
        def wide(q, p):
            return torch.tensor(7.0)
        import pyro_vae.kl
        print(td.kl_divergence(td.StudentT(3.0), td.Normal(0.0, 1.0)).item())
        print(td.kl_divergence(td.Gumbel(0.0, 1.0), td.Laplace(0.0, 1.0)).item())
        print(pyro_vae.kl.route(td.StudentT(3.0), td.Normal(0.0, 1.0)).source)
    """)
    assert out.splitlines() == ["42.0", "7.0", "pyro_vae, in place of __main__'s"]


def test_a_form_of_the_users_after_our_import_replaces_ours():
    key = (td.Laplace, td.Gumbel)
    ours = _KL_REGISTRY[key]
    q, p = td.Laplace(0.0, 1.0), td.Gumbel(0.0, 2.0)
    assert kl.route(q, p).source == "pyro_vae, given to torch"
    try:
        td.register_kl(*key)(lambda q, p: torch.tensor(42.0))
        assert td.kl_divergence(q, p) == 42
        assert kl.route(q, p).source == f"pyro_vae, in place of {__name__}'s"
        assert kl.divergence(q, p) < 1
    finally:
        td.register_kl(*key)(ours)


def test_importing_twice_is_harmless():
    before = dict(_KL_REGISTRY)
    watchers = list(table._WATCHERS)
    try:
        importlib.reload(given)
        assert before == _KL_REGISTRY
    finally:
        table._WATCHERS[:] = watchers


def test_a_form_that_is_registered_is_given():
    class Here(dist.Normal):
        pass

    class There(dist.Laplace):
        pass

    class Anything(td.Distribution):
        pass

    class Point(td.Distribution):
        arg_constraints = {}
        support = td.constraints.real

        def __init__(self, at):
            self.at = at
            super().__init__(at.shape, validate_args=False)

    @kl.register(Point, Point)
    def points(q, p):
        """The distance."""
        return (q.at - p.at).abs()

    q, p = Point(torch.tensor(1.0)), Point(torch.tensor(3.0))
    assert td.kl_divergence(q, p) == 2
    assert kl.route(q, p).source == f"{__name__}, given to torch"

    # torch dispatches a pair of subclasses to its parents' form, so it lacks nothing
    @kl.register(Here, There)
    def shifted(q, p):
        """Not what their parents have."""
        return q.loc * 0 + 5.0

    assert kl.divergence(Here(0.0, 1.0), There(0.0, 1.0)) == 5
    assert td.kl_divergence(Here(0.0, 1.0), There(0.0, 1.0)) < 1


def test_no_dispatch_became_ambiguous():
    classes = {c for pair in _KL_REGISTRY for c in pair if c.__module__.startswith("torch.")}
    classes |= {getattr(dist, c.__name__, c) for c in classes}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for a, b in itertools.product(classes, repeat=2):
            td.kl._dispatch_kl(a, b)


def test_the_source_tells_who_has_what():
    normal, student = td.Normal(0.0, 1.0), td.StudentT(3.0)
    assert kl.route(normal, normal).source == "pyro_vae, in place of torch's"
    assert kl.route(student, normal).source == "pyro_vae, given to torch"
    assert kl.route(td.Bernoulli(0.5), td.Poisson(1.0)).source == "torch"
    assert kl.route(td.Binomial(2, torch.tensor(0.5)), td.Bernoulli(0.5)).source == "pyro_vae"
    diagonal = dist.Normal(LOC, 1.0).to_event(1)
    full = dist.MultivariateNormal(LOC, torch.eye(3))
    assert kl.route(diagonal, full).source == "pyro_vae, in place of pyro's"


# ------------------------------------------------------------------------------- in Pyro
def elbos(guide_of, prior_of, *values):
    """Loss and gradients of TraceMeanField_ELBO, and 20 times those of Trace_ELBO, as rows."""

    def model(*_):
        with pyro.plate("data", 2):
            pyro.sample("z", prior_of())

    def guide(*leaves):
        with pyro.plate("data", 2):
            pyro.sample("z", guide_of(*leaves))

    def row(elbo):
        leaves = [v.clone().requires_grad_() for v in values]
        loss = elbo.differentiable_loss(model, guide, *leaves)
        grads = torch.autograd.grad(loss, leaves)
        # what is above the diagonal of a Cholesky factor is no parameter
        return torch.cat(
            [loss.reshape(1), *(g.tril().flatten() if g.dim() > 1 else g for g in grads)]
        )

    analytic = TraceMeanField_ELBO()
    sampled = Trace_ELBO(num_particles=300, vectorize_particles=True, max_plate_nesting=1)
    exact = row(analytic)
    assert torch.equal(exact, row(analytic)), "it has drawn samples"
    return exact, torch.stack([row(sampled) for _ in range(20)])


@pytest.mark.parametrize(
    ("guide_of", "prior_of", "values"),
    [
        (
            lambda m, t: dist.MultivariateNormal(m, scale_tril=t),
            lambda: dist.Normal(torch.zeros(3), 1.0).to_event(1),
            (LOC, torch.eye(3) + 0.3 * torch.ones(3, 3).tril(-1)),
        ),
        (
            lambda m, w: dist.LowRankMultivariateNormal(m, w[:, None], torch.ones(3)),
            lambda: dist.Normal(torch.zeros(3), 2.0).to_event(1),
            (LOC, OTHER),
        ),
        (
            lambda m, s: dist.Normal(m, s).to_event(1),
            lambda: dist.LowRankMultivariateNormal(OTHER, OTHER[:, None], torch.ones(3)),
            (LOC, torch.full((3,), 0.5)),
        ),
        (
            lambda m, s: dist.StudentT(8.0, m, s).to_event(1),
            lambda: dist.Normal(torch.zeros(3), 1.0).to_event(1),
            (LOC, torch.full((3,), 0.5)),
        ),
        (
            lambda a, b: dist.Gamma(a, b).to_event(1),
            lambda: dist.LogNormal(torch.zeros(3), 1.0).to_event(1),
            (torch.full((3,), 4.0), torch.full((3,), 2.0)),
        ),
    ],
    ids=["full", "low rank guide", "low rank prior", "Student-t", "Gamma-LogNormal"],
)
def test_the_mean_field_elbo_is_analytic_with_the_same_expectation(guide_of, prior_of, values):
    exact, rows = elbos(guide_of, prior_of, *values)
    std_error = rows.std(0) / 20**0.5
    # |t| > 6 of 19 degrees of freedom has probability 1e-5
    assert ((rows.mean(0) - exact).abs() <= 6 * std_error + 1e-5).all()


def test_the_mean_field_elbo_still_samples_what_it_has_to():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        pyro.sample("z", dist.StudentT(2.0, 0.0, 1.0))

    losses = {TraceMeanField_ELBO().loss(model, guide) for _ in range(5)}
    assert len(losses) == 5
