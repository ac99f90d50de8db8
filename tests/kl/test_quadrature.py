"""The quadrature of every pair of lines: values, gradients, refusals, graphs."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from kl_examples import CONTINUOUS, example
from kl_examples import quadrature as composite
from mp_lines import divergence as by_mpmath
from random_lines import RANGES, attempt, build, draw, parameter, possible

from pyro_vae import kl
from pyro_vae.distributions import LogitNormal, TruncatedNormal
from pyro_vae.kl import quadrature as kl_quadrature
from pyro_vae.kl.finiteness import finiteness
from pyro_vae.kl.forms import find
from pyro_vae.kl.lines import Frame, line_of, lines
from pyro_vae.kl.parameters import prepared
from pyro_vae.kl.quadrature import accepted, integral
from tests.benchmarks.quadrature_stress import marks, oracle, run

F64 = torch.float64


def named(pairs):
    return [pytest.param(a, b, id=f"{a.__name__}-{b.__name__}") for a, b in pairs]


def real(*values):
    return torch.tensor(values if len(values) > 1 else values[0], dtype=F64)


def rule(q, p, **options):
    """The quadrature, whether or not there is a closed form."""
    batch = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    finite = torch.as_tensor(finiteness(q, p).finite).expand(batch)
    return integral(line_of(q), line_of(p), batch, finite=finite, **options)


def gradient(value, leaves, **options):
    return torch.autograd.grad(
        value, leaves, allow_unused=True, materialize_grads=True, retain_graph=True, **options
    )


# ------------------------------------------------------------------------------- right values
def test_every_class_with_a_line_is_drawn_at_random():
    composite_classes = {td.TransformedDistribution, dist.AffineBeta, td.MixtureSameFamily}
    # these two have parameters that limit one another, and tests of their own
    assert set(lines()) == {*RANGES, *composite_classes, TruncatedNormal}


THIRD = [pair for i, pair in enumerate(possible()) if i % 3 == 0]


@pytest.mark.parametrize(("a", "b"), named(THIRD))
def test_a_random_member_against_mpmath(a, b):
    g = torch.Generator().manual_seed(len(a.__name__) + 31 * len(b.__name__))
    q, p = draw(a, 64, g), draw(b, 64, g)
    got = attempt(q, p)
    good = accepted(got.value, got.error).nonzero().squeeze(-1)
    assert len(good) >= 0.5 * len(got.value)
    value, mass = oracle(q, p, int(got.index[good[0]]))
    assert abs(mass - 1) < 1e-10
    assert got.value[good[0]].item() == pytest.approx(value, rel=1e-9, abs=1e-9)


# the oracle has no panels for a kink there, and at a common end the derivative has one side only
BEYOND = [(td.Uniform, td.Laplace), (td.Pareto, td.Laplace), (td.Uniform,) * 2, (td.Pareto,) * 2]


def continuous():
    """The pairs of example classes whose KL is defined and finite somewhere."""
    for a, b in itertools.product(CONTINUOUS, repeat=2):
        if (a, b) in BEYOND:
            continue
        verdict = finiteness(example(a, column=True)[0], example(b)[0])
        if verdict.defined and bool(torch.as_tensor(verdict.finite).any()):
            yield a, b


@pytest.mark.parametrize(("a", "b"), named(continuous()))
def test_values_and_gradients_against_composite_gauss_legendre(a, b):
    (q, q_leaves), (p, p_leaves) = example(a, column=True), example(b)
    finite = torch.as_tensor(finiteness(q, p).finite).expand(3, 3)
    value, error = rule(q, p)
    exact = composite(q, p)
    # the other oracle gives up where a power of its coordinate overflows
    both = finite & accepted(value, error)
    assert both.sum() >= finite.sum() - 1
    torch.testing.assert_close(value[both], exact[both], rtol=1e-9, atol=1e-9)
    leaves = [*q_leaves, *p_leaves]
    ours, theirs = gradient(value[both].sum(), leaves), gradient(exact[both].sum(), leaves)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-8)
    # and whatever is not finite passes nothing on
    for mine, every in zip(ours, gradient(value.sum(), leaves), strict=True):
        torch.testing.assert_close(mine, every, rtol=1e-12, atol=1e-12)


def closed():
    """The pairs that a closed form serves too."""
    g = torch.Generator().manual_seed(0)
    return [(a, b) for a, b in possible() if find(draw(a, 1, g), draw(b, 1, g)) is not None]


@pytest.mark.parametrize(("a", "b"), named(closed()))
def test_values_and_gradients_against_closed_forms(a, b):
    g = torch.Generator().manual_seed(7)
    q, p = draw(a, 30, g), draw(b, 30, g)
    leaves = [parameter(d, n).requires_grad_() for d in (q, p) for n in primary(d)]
    q, p = rebuilt(q, leaves[: len(primary(q))]), rebuilt(p, leaves[len(primary(q)) :])
    value, error = rule(q, p)
    batch = torch.Size([30])
    exact = find(q, p).form(prepared(q, batch, None), prepared(p, batch, None)).expand(batch)
    finite = torch.as_tensor(finiteness(q, p).finite).expand(30)
    good = finite & accepted(value, error)
    assert good.any()
    apart = good & ((value - exact).abs() > 1e-9 * value.abs().clamp(min=1))
    for i in apart.nonzero().squeeze(-1).tolist()[:3]:
        # closed forms cancel too: mpmath decides
        truth, mass = oracle(q, p, i)
        assert abs(mass - 1) < 1e-10
        assert value[i].item() == pytest.approx(truth, rel=1e-9, abs=1e-9)
    assert all(g.isfinite().all() for g in gradient(value.sum(), leaves))
    same = good & ~apart & (value < 1e3)
    exact = find(q, p).form(prepared(q, batch, same), prepared(p, batch, same)).expand(batch)
    ours, theirs = (gradient(v[same].sum(), leaves) for v in (value, exact))
    for mine, other, x in zip(ours, theirs, leaves, strict=True):
        # in units of the parameter: a derivative of log x
        unit = x.detach().abs()
        torch.testing.assert_close(mine * unit, other * unit, rtol=1e-6, atol=1e-6)


def primary(d):
    return list(RANGES[next(c for c in RANGES if type(d) is c)])


def rebuilt(d, leaves):
    cls = next(c for c in RANGES if type(d) is c)
    return build(cls, **dict(zip(RANGES[cls], leaves, strict=True)))


def test_a_sample_of_the_stress_run():
    """tests/benchmarks/quadrature_stress.py runs all 10,000."""
    told = run(4, exact=0, seed=3, pairs=possible()[::12], progress=False)
    assert sum(told.total.values()) > 100
    assert told.share(told.near()) >= 0.95
    assert sum(told.beyond.values()) < 0.1 * sum(told.total.values())
    assert told.errors[0][0] < 1e-7
    assert told.gradients[0][0] < 1e-6


# ----------------------------------------------------------------------------- refused, not wrong
def test_mass_outside_the_range_is_noticed(monkeypatch):
    q, p = td.Normal(real(0.0), real(1.0)), td.StudentT(real(3.0))
    assert accepted(*rule(q, p))

    def short(pair):
        zero = torch.zeros_like(pair.q.frame().centre)
        return zero - 4, zero + 40, zero == 0

    monkeypatch.setattr(kl_quadrature, "extent", short)
    assert not accepted(*rule(q, p))
    with pytest.raises(kl.NoExactKL, match="1 of 1 elements"):
        kl.divergence(q, p)


def test_a_frame_in_the_wrong_place_costs_accuracy_but_no_correctness(monkeypatch):
    q, p = td.Normal(real(0.0), real(1.0)), td.StudentT(real(3.0))
    value, line = rule(q, p).value, type(line_of(q))
    for far, narrow in itertools.product((1e-2, 1.0, 30.0, 1e3, 1e9), (1e-6, 1e-2, 1.0, 1e2, 1e5)):
        monkeypatch.setattr(line, "frame", lambda self: Frame(self.loc + far, narrow * self.scale))  # noqa: B023
        moved, error = rule(q, p)
        assert not accepted(moved, error) or abs(moved - value) < 1e-7


def test_a_spike_between_the_nodes_is_refused_or_right():
    weights = td.Categorical(probs=real(0.99, 0.01))
    for width in (1e-1, 1e-3, 1e-5, 1e-8):
        q = td.MixtureSameFamily(weights, td.Normal(real(0.0, 1.7), real(1.0, width)))
        p = td.Normal(real(0.0), real(1.0))
        value, error = rule(q, p)
        # the entropy of parts that hardly overlap
        if accepted(value, error) and width <= 1e-5:
            parts = kl.divergence(q.component_distribution, p) + weights.probs.log()
            assert value.item() == pytest.approx((weights.probs * parts).sum().item(), abs=1e-3)
        # a frame that knows nothing of the spike cannot see it
        blind = line_of(q)
        blind.frames = lambda blind=blind: [Frame(real(0.0), real(1.0))]
        blind.mapped = lambda change, blind=blind: blind
        value, error = integral(blind, line_of(p), torch.Size(), fixed_nodes=True)
        assert not accepted(value, error) or width > 1e-2


def test_a_value_beyond_float64_is_refused():
    q, p = td.Normal(real(0.0, 0.0), 1.0), td.Gumbel(real(0.0), real(1e-4, 1.0))
    value, error = rule(q, p)
    assert value.isnan().tolist() == [True, False]
    assert error[0] == torch.inf


@pytest.mark.parametrize(
    ("q", "p"),
    [
        # nothing is left at 10 scales of q, and from 20 on it rises to exp(500,000)
        (td.Normal(real(0.0), real(1.0)), td.Gumbel(real(-20.0), real(1e-3))),
        (td.Normal(real(0.0), real(1.0)), td.Gumbel(real(-30.0), real(1 / 60))),
        (td.HalfNormal(real(1.0)), td.Weibull(real(40.0), real(4000.0))),
    ],
    ids=["gumbel", "gumbel-by-a-hair", "weibull"],
)
def test_what_rises_again_far_out_is_refused(q, p):
    value, error = rule(q, p)
    assert error == torch.inf
    assert value.isnan()


@pytest.mark.parametrize(
    ("alpha", "scale"), [(0.02, 1.0), (0.05, 1e4), (0.2, 1e-4)], ids=["far", "farther", "near"]
)
@pytest.mark.parametrize("heavy", [td.Cauchy, td.StudentT], ids=["cauchy", "student"])
def test_tails_beyond_float64_on_the_line_of_the_prior(alpha, scale, heavy):
    """log x reaches 46 / 0.02 = 2,300, exp of which is no float64."""
    q = td.Pareto(real(scale).requires_grad_(), real(alpha).requires_grad_())
    p_scale = real(3.0).requires_grad_()
    p = heavy(real(0.5), p_scale) if heavy is td.Cauchy else heavy(real(1.0), real(0.5), p_scale)
    value, error = rule(q, p)
    assert accepted(value, error)
    # log x - log scale is exponential: E log(1 + z^2) by its own substitution
    u = torch.linspace(0, 46, 400_001, dtype=F64) / alpha
    z = (q.scale.detach() * u.clamp(max=300).exp() - 0.5) / 3.0
    log = torch.where(u < 300, torch.log1p(z.square()), 2 * (u + (q.scale.detach() / 3).log()))
    mean = torch.trapezoid(alpha * (-alpha * u).exp() * log, u)
    exact = math.log(alpha / scale) - (1 + alpha) / alpha + math.log(3 * math.pi) + mean
    assert value.item() == pytest.approx(exact.item(), rel=1e-7, abs=1e-7)
    assert all(g.isfinite() for g in gradient(value, [q.scale, q.alpha, p_scale]))


def test_an_infinite_mixture_is_refused():
    heavy = td.MixtureSameFamily(td.Categorical(real(0.5, 0.5)), td.StudentT(real(1.5, 3.0)))
    p = td.Normal(real(0.0), real(1.0))
    assert kl.route(heavy, p).kind == "infinite"
    # asked without the rule for tails, the quadrature finds no end
    assert not accepted(*integral(line_of(heavy), line_of(p), torch.Size()))


def test_what_is_refused_and_what_is_infinite_pass_no_gradient():
    df, scale = real(1.5, 3.0, 3.0).requires_grad_(), real(1.0, 1.0, 1.0).requires_grad_()
    q = td.StudentT(df, 0.0, scale)
    p_scale = real(1.0, 1e-3, 1.0).requires_grad_()
    p = td.MixtureSameFamily(
        td.Categorical(logits=torch.zeros(3, 2, dtype=F64)),
        td.Normal(real(0.0, 1.0).expand(3, 2), p_scale.unsqueeze(-1)),
    )
    value, error = kl.divergence(q, p, with_error=True)
    refused = ~accepted(value, error)
    grads = gradient(value.sum(), [df, scale, p_scale])
    assert all(g.isfinite().all() for g in grads)
    assert (refused & value.isnan() == value.isnan()).all()
    lomax = td.InverseGamma(real(0.8, 3.0).requires_grad_(), real(1.0))
    value = kl.divergence(lomax, dist.SoftLaplace(real(0.0), real(1.0)))
    assert value.isfinite().tolist() == [False, True]
    (g,) = gradient(value.sum(), [lomax.base_dist.concentration])
    assert g[0] == 0
    assert g[1] != 0


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (td.Cauchy(real(0.0, 0.0), 1.0), lambda: dist.SoftLaplace(real(0.0), real(1.0))),
        (dist.SoftLaplace(real(0.0), real(1.1, 0.9)), lambda: td.Gumbel(real(0.0), real(1.0))),
        (
            dist.AsymmetricLaplace(real(0.0), real(1.0), real(1.1, 0.9)),
            lambda: td.Gumbel(real(0.0), real(1.0)),
        ),
        (
            dist.SkewLogistic(real(0.0), real(1.0), real(0.7, 1.5)),
            lambda: td.Gumbel(real(0.0), real(1.0)),
        ),
        (td.FisherSnedecor(real(3.0), real(1.9, 2.3)), lambda: td.Exponential(real(1.0))),
        (
            td.RelaxedBernoulli(real(0.9), logits=real(0.0, 0.0)),
            lambda: td.InverseGamma(real(1.0), real(1.0)),
        ),
        (
            td.RelaxedBernoulli(real(1.5), logits=real(0.0, 0.0)),
            lambda: td.InverseGamma(real(1.0), real(1.0)),
        ),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, td.Distribution) else "",
)
def test_the_tails_of_classes_with_a_line_only(q, p):
    prior = p()
    finite = torch.as_tensor(finiteness(q, prior).finite).expand(q.batch_shape)
    # asked without the rule, the quadrature finds no end to an integrand that does not die away
    value, error = integral(line_of(q), line_of(prior), q.batch_shape)
    assert (accepted(value, error) == finite).all()


def test_no_exact_kl_counts_its_elements():
    q = td.Normal(torch.zeros(4, dtype=F64), 1.0)
    spikes = td.Normal(
        real(0.0, 1.0).expand(4, 2), real(1e-7, 1.0, 1e-7, 1.0)[:, None].expand(4, 2)
    )
    p = td.MixtureSameFamily(td.Categorical(torch.ones(4, 2, dtype=F64)), spikes)
    told = kl.route(q, p)
    assert told.kind == "sampled"
    refused = int((~accepted(*kl.divergence(q, p, with_error=True))).sum())
    assert 0 < refused < 4
    assert f"{refused} of 4 elements" in told.reason
    with pytest.raises(kl.NoExactKL, match=f"{refused} of 4 elements"):
        kl.divergence(q, p)
    assert kl.route(q, p, with_error=False).kind == "quadrature"
    assert told.error.shape == (4,)


# ------------------------------------------------------------------------------ kinks and dtypes
@pytest.mark.parametrize("at", [0.0, 0.3, 40.0])
def test_first_and_second_derivatives_at_a_kink(at):
    loc, place = real(0.0).requires_grad_(), real(at).requires_grad_()

    def both(value):
        first = torch.autograd.grad(value, [loc, place], create_graph=True)
        second = [torch.autograd.grad(g, [loc, place], retain_graph=True) for g in first]
        return torch.stack([*first, *itertools.chain(*second)])

    q, p = td.Normal(loc, real(0.8)), td.Laplace(place, real(1.3))
    torch.testing.assert_close(
        both(rule(q, p).value), both(kl.divergence(q, p)), rtol=1e-8, atol=1e-8
    )
    q = td.Laplace(loc, real(0.8))
    torch.testing.assert_close(
        both(rule(q, p).value)[:2], both(kl.divergence(q, p))[:2], rtol=1e-8, atol=1e-8
    )


def test_a_kink_that_q_does_not_reach():
    place = real(-1.0, 0.7, 1e9).requires_grad_()
    q, p = td.Gamma(real(2.0), real(1.5)), td.Laplace(place, real(1.0))
    value = kl.divergence(q, p)
    assert value.isfinite().all()
    (g,) = gradient(value.sum(), [place])
    # from below and from above every x pulls the same way
    assert g[0].item() == pytest.approx(-1.0, abs=1e-9)
    assert g[2].item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (lambda a: td.Normal(a, 0.5 + a**2), lambda a: td.StudentT(4.0, -a, 1.0)),
        (lambda a: LogitNormal(a, 0.7), lambda a: td.Beta(1 + a**2, 2.0)),
        (lambda a: td.Gamma(1 + a**2, 2.0), lambda a: td.HalfCauchy(1 + a**2)),
        (lambda a: td.Kumaraswamy(1 + a**2, 2.0), lambda a: td.Beta(2.0, 1 + a**2)),
        (lambda a: dist.AsymmetricLaplace(a, 1.0, 1.5), lambda a: td.StudentT(4.0, -a, 1.0)),
        (lambda a: td.Uniform(a, a**2 + 2), lambda a: td.Laplace(a + 0.7, 1.0)),
        (lambda a: td.Pareto(1 + a**2, 3.0), lambda a: td.Laplace(a + 2.5, 1.0)),
    ],
    ids=["normal", "logit-normal", "gamma", "kumaraswamy", "kinked", "uniform", "pareto"],
)
def test_derivatives_of_both_orders_against_differences(q, p):
    a = real(0.4, -0.9).requires_grad_()

    def of(x):
        return rule(q(x), p(x)).value

    assert torch.autograd.gradcheck(of, a, eps=1e-5, atol=1e-7)
    assert torch.autograd.gradgradcheck(of, a, eps=1e-4, atol=1e-5)


def test_float32_is_computed_in_float64():
    loc = torch.tensor([0.3, -1.0], requires_grad=True)
    value, error = kl.divergence(td.Normal(loc, 0.01), td.StudentT(3.0), with_error=True)
    assert value.dtype == error.dtype == torch.float32
    wide = kl.divergence(
        td.Normal(loc.double(), torch.tensor(0.01).double()), td.StudentT(real(3.0))
    )
    assert (value == wide.float()).all()
    (g,) = gradient(value.sum(), [loc])
    assert g.dtype == torch.float32
    assert kl.divergence(td.Normal(0.0, 1.0), td.StudentT(3.0)).dtype == torch.float32


def test_the_oracle_sees_a_kink_and_a_mass():
    q, p = td.Laplace(real(0.0), real(1.0)), td.Laplace(real(1.0), real(2.0))
    at = marks(td.Laplace(q.loc[None], q.scale), td.Laplace(p.loc[None], p.scale), 0)
    parameters = ({"loc": 0.0, "scale": 1.0}, {"loc": 1.0, "scale": 2.0})
    value, mass = by_mpmath(td.Laplace, td.Laplace, *parameters, at)
    assert value == pytest.approx(kl.divergence(q, p).item(), abs=1e-13)
    assert mass == pytest.approx(1.0, abs=1e-13)


# ------------------------------------------------------------------- folded, and bounds that round
def folded(loc, scale):
    return dist.FoldedDistribution(dist.Normal(loc, scale))


def test_a_folded_normal_at_zero_is_a_half_normal():
    loc, scale = real(0.0).requires_grad_(), real(1.3)
    value = kl.divergence(folded(loc, scale), td.HalfNormal(scale))
    assert abs(value) < 1e-12
    (first,) = torch.autograd.grad(value, loc, create_graph=True)
    (second,) = torch.autograd.grad(first, loc)
    assert first == 0
    # of the fourth order in loc: to the second both folds cancel
    assert second.abs() < 1e-9
    for other in (td.Gamma(real(2.0), real(1.0)), td.HalfCauchy(real(0.7))):
        expected = kl.divergence(td.HalfNormal(scale), other)
        torch.testing.assert_close(kl.divergence(folded(loc, scale), other), expected)


def test_a_folded_normal_far_from_zero_is_a_normal():
    q, p = folded(real(-30.0), real(1.0)), folded(real(33.0), real(2.0))
    expected = kl.divergence(td.Normal(real(30.0), real(1.0)), td.Normal(real(33.0), real(2.0)))
    torch.testing.assert_close(kl.divergence(q, p), expected, rtol=1e-9, atol=1e-9)
    assert kl.route(q, p).kind == "quadrature"


def test_only_a_normal_is_unfolded():
    other = dist.FoldedDistribution(dist.Laplace(real(1.0), real(1.0)))
    assert line_of(other) is None
    assert kl.route(other, td.HalfNormal(real(1.0))).kind == "sampled"
    assert kl.route(folded(real(1.0), real(1.0)), td.InverseGamma(real(1.0), real(1.0))).kind == (
        "infinite"
    )


PI = torch.tensor(math.pi)


@pytest.mark.parametrize(
    "bound", [PI, PI.double(), PI.expand(3), real(math.pi)], ids=["f32", "wide", "batch", "f64"]
)
def test_pi_rounded_up_is_no_wider_circle(bound):
    circle = td.VonMises(real(0.3), real(1.5))
    uniform = td.Uniform(-bound, bound, validate_args=False)
    told = kl.route(uniform, circle)
    assert told.kind != "infinite"
    assert told.finite.all()
    # - log 2 pi - E log q = log I_0(k), for the mean of the cosine is 0
    exact = math.log(torch.special.i0(real(1.5)).item())
    value = kl.divergence(uniform, circle).double()
    torch.testing.assert_close(value, torch.full_like(value, exact), rtol=1e-6, atol=1e-6)
    sharp = td.Uniform(real(-math.pi), real(math.pi))
    assert kl.divergence(td.Uniform(-PI, PI), sharp).abs() < 1e-6


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (td.Uniform(-PI * (1 + 1e-6), PI), td.VonMises(real(0.0), real(1.0))),
        (td.Uniform(real(-3.2), real(3.2)), td.VonMises(real(0.0), real(1.0))),
        (td.Uniform(-PI, PI * (1 + 1e-6)), td.Uniform(real(-math.pi), real(math.pi))),
        # two bounds in float64 are meant to their last digit
        (td.Uniform(real(0.0), real(1.0 + 1e-12)), td.Uniform(real(0.0), real(1.0))),
    ],
    ids=["left", "both", "right", "f64"],
)
def test_a_support_that_is_wider_is_still_infinite(q, p):
    assert kl.route(q, p).kind == "infinite"
