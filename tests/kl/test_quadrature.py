"""The quadrature of every pair of lines: values, gradients, refusals, graphs."""

import itertools

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from kl_examples import CONTINUOUS, example
from kl_examples import quadrature as composite
from mp_lines import divergence as by_mpmath
from random_lines import RANGES, attempt, draw, possible

from pyro_vae import kl
from pyro_vae.distributions import LogitNormal
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
    assert set(lines()) == {*RANGES, *composite_classes, td.VonMises}


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
    leaves = [getattr(d, n).requires_grad_() for d in (q, p) for n in primary(d)]
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
    return cls(**dict(zip(RANGES[cls], leaves, strict=True)), validate_args=False)


def test_a_sample_of_the_stress_run():
    """tests/benchmarks/quadrature_stress.py runs all 10,000."""
    total, taken, _, worst, _ = run(4, exact=0, seed=3, pairs=possible()[::12], progress=False)
    near = [d for d in total if abs(d) <= 3]
    assert sum(total.values()) > 100
    assert sum(taken[d] for d in near) >= 0.95 * sum(total[d] for d in near)
    assert worst[0][0] < 1e-7


# ----------------------------------------------------------------------------- refused, not wrong
def test_mass_outside_the_range_is_noticed(monkeypatch):
    q, p = td.Normal(real(0.0), real(1.0)), td.StudentT(real(3.0))
    assert accepted(*rule(q, p))

    def short(pair, frames):
        zero = torch.zeros_like(frames[0].centre)
        return zero - 4, zero + 40, zero == 0

    monkeypatch.setattr(kl_quadrature, "_range", short)
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


def test_an_infinite_mixture_is_refused():
    heavy = td.MixtureSameFamily(td.Categorical(real(0.5, 0.5)), td.StudentT(real(1.5, 3.0)))
    told = kl.route(heavy, td.Normal(real(0.0), real(1.0)))
    assert told.kind == "sampled"
    assert "1 of 1 elements" in told.reason


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
