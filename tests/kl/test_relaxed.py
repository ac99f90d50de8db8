"""KLs of relaxed and of straight-through distributions, and what they may stand beside."""

import mpmath as mp
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td

from pyro_vae import kl
from pyro_vae.distributions import (
    LogitNormal,
    OneHotCategorical,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    StraightThroughBernoulli,
    StraightThroughOneHotCategorical,
)
from pyro_vae.kl.audit import pairs
from pyro_vae.kl.specimens import relaxed as specimens

F64 = torch.float64


def t(*values):
    return torch.tensor(values, dtype=F64)


# ------------------------------------------------------------------------------- relaxed bits
@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 100.0])
def test_bits_of_one_temperature_have_the_kl_of_logistics(temperature):
    # D coth(D / 2) - 2, whatever the temperature, D the difference of the logits
    a, b = t(0.0, -3.0, 50.0, 1.0).requires_grad_(), t(0.5, 4.0, -50.0, 1.0)
    value = kl.divergence(
        RelaxedBernoulli(temperature, logits=a), RelaxedBernoulli(temperature, logits=b)
    )
    gap = (a - b).detach()
    exact = torch.where(gap == 0, 0.0, gap / (gap / 2).tanh() - 2)
    torch.testing.assert_close(value.detach(), exact, rtol=1e-9, atol=1e-12)
    (slope,) = torch.autograd.grad(value.sum(), a)
    half = torch.where(gap == 0, 1.0, gap / 2)
    derivative = torch.where(gap == 0, 0.0, 1 / half.tanh() - half / half.sinh().square())
    torch.testing.assert_close(slope, derivative, rtol=1e-7, atol=1e-9)


def bits(y, temperature, logits):
    """The log density of logit x, in as many digits as asked for."""
    d = mp.mpf(logits) - mp.mpf(temperature) * y
    return mp.log(temperature) - mp.log1p(mp.exp(-d)) - mp.log1p(mp.exp(d))


def beta(y, a, b):
    return -a * mp.log1p(mp.exp(-y)) - b * mp.log1p(mp.exp(y)) - mp.log(mp.beta(a, b))


def integral(log_q, log_p, centre, width):
    with mp.workdps(30):
        edges = [centre + width * k for k in (-80, -20, -5, 0, 5, 20, 80)]
        return float(
            mp.quad(lambda y: mp.exp(log_q(y)) * (log_q(y) - log_p(y)), sorted({*edges, 0}))
        )


@pytest.mark.parametrize(
    ("q", "p"), [((0.5, 1.0), (0.2, -1.0)), ((0.1, 3.0), (2.0, 0.0)), ((20.0, -50.0), (1.0, 0.0))]
)
def test_bits_of_two_temperatures(q, p):
    exact = integral(lambda y: bits(y, *q), lambda y: bits(y, *p), q[1] / q[0], 1 / q[0])
    sides = [RelaxedBernoulli(warm, logits=t(logits)[0]) for warm, logits in (q, p)]
    assert kl.route(*sides).kind == "quadrature"
    assert kl.divergence(*sides).item() == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.5, 3.0)])
@pytest.mark.parametrize("q", [(0.5, 1.0), (0.05, -2.0), (50.0, 10.0)])
def test_bits_beside_a_beta(q, a, b):
    exact = integral(lambda y: bits(y, *q), lambda y: beta(y, a, b), q[1] / q[0], 1 / q[0])
    guide = RelaxedBernoulli(q[0], logits=t(q[1])[0])
    assert kl.divergence(guide, td.Beta(*t(a, b))).item() == pytest.approx(exact, rel=1e-9)


def test_what_lives_on_the_interval_may_meet_relaxed_bits():
    guide = RelaxedBernoulli(0.5, logits=t(1.0))
    for prior in (
        td.Beta(t(2.0), t(3.0)),
        td.Uniform(t(0.0), t(1.0)),
        td.Kumaraswamy(t(2.0), t(3.0)),
        LogitNormal(t(0.0), t(1.0)),
        td.Normal(t(0.0), t(1.0)),
    ):
        assert kl.route(guide, prior).kind in ("closed", "quadrature")
        found = kl.divergence(guide, prior)
        sampled = kl.estimate(guide, prior, 20_000)
        assert bool((abs(found - sampled.mean) < 5 * sampled.std_error).all())


# ---------------------------------------------------------------------- relaxed one-hot vectors
def test_vectors_of_two_are_bits_whatever_their_temperatures():
    q = RelaxedOneHotCategorical(t(0.3, 2.0), logits=torch.randn(2, 2, dtype=F64))
    p = RelaxedOneHotCategorical(t(1.0, 0.5), logits=torch.randn(2, dtype=F64))
    first = [
        RelaxedBernoulli(d.temperature, logits=d.logits[..., 0] - d.logits[..., 1]) for d in (q, p)
    ]
    torch.testing.assert_close(kl.divergence(q, p), kl.divergence(*first), rtol=1e-10, atol=0)


def test_vectors_of_one_temperature():
    logits, others = torch.randn(6, 4, dtype=F64), torch.randn(6, 4, dtype=F64)
    values = []
    for temperature in (0.5, 1.0, 5.0):
        q = RelaxedOneHotCategorical(temperature, logits=logits)
        p = RelaxedOneHotCategorical(temperature, logits=others)
        assert kl.route(q, p).kind == "closed"
        sampled = kl.estimate(q, p, 20_000)
        values.append(kl.divergence(q, p))
        assert bool((abs(values[-1] - sampled.mean) < 5 * sampled.std_error).all())
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    # more than that of the classes, by data processing
    categories = kl.divergence(td.Categorical(logits=logits), td.Categorical(logits=others))
    assert bool((categories < values[0]).all())


def test_vectors_of_two_temperatures_are_sampled_and_it_is_said():
    q = RelaxedOneHotCategorical(t(0.5, 1.0), logits=torch.zeros(4, dtype=F64))
    p = RelaxedOneHotCategorical(0.5, logits=torch.zeros(4, dtype=F64))
    told = kl.route(q, p)
    assert told.kind == "sampled"
    assert "1 of 2 elements" in told.reason
    with pytest.raises(kl.NoExactKL, match="equal temperatures"):
        kl.divergence(q, p)
    value, error = kl.divergence(q, p, with_error=True)
    assert value[0] == 0
    assert error.tolist() == [0.0, torch.inf]


def test_beside_a_dirichlet_nothing_exact_is_known():
    q = RelaxedOneHotCategorical(0.5, logits=torch.zeros(4))
    p = td.Dirichlet(torch.ones(4))
    assert [kl.route(*pair).kind for pair in ((q, p), (p, q))] == ["sampled"] * 2


# -------------------------------------------------------------------------- classes and twins
@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (RelaxedBernoulli, td.RelaxedBernoulli),
        (RelaxedOneHotCategorical, td.RelaxedOneHotCategorical),
    ],
)
def test_ours_and_those_of_torch_are_one_class(ours, torchs):
    warm, logits, others = torch.tensor(0.5), torch.randn(3, 3), torch.randn(3, 3)
    values = [
        kl.divergence(a(warm, logits=logits), b(warm, logits=others))
        for a in (ours, torchs)
        for b in (ours, torchs)
    ]
    assert all(torch.equal(values[0], value) for value in values)


class Louder(RelaxedBernoulli):
    """A subclass with another density."""

    def log_prob(self, value):
        return 2 * super().log_prob(value)


def test_a_subclass_inherits_nothing():
    q, p = Louder(0.5, logits=torch.zeros(1)), RelaxedBernoulli(0.5, logits=torch.ones(1))
    assert kl.route(q, p).kind == "sampled"


def test_the_audit_finds_nothing_wrong():
    made = {row[0] for _, row in (*specimens._RELAXED, *specimens._STRAIGHT)}
    found = kl.audit(pairs=[p for p in pairs() if {p.q.name, p.p.name} <= made], progress=False)
    assert set(found["verdict"].values.flat) == {"right", "refused"}
    refused = [
        n for n in found["pair"].values if (found.sel(pair=n)["verdict"] == "refused").any()
    ]
    # of three classes, at unequal temperatures
    one = "RelaxedOneHotCategorical of our own"
    several = "RelaxedOneHotCategorical of several temperatures"
    assert set(refused) == {
        f"{one} || {several}",
        f"{several} || {one}",
        f"{several} || {several}",
    }


# ------------------------------------------------------------------------- straight-through
ONE_HOTS = [OneHotCategorical, StraightThroughOneHotCategorical, dist.OneHotCategorical]
BITS = [StraightThroughBernoulli, dist.Bernoulli]


@pytest.mark.parametrize("p_class", ONE_HOTS)
@pytest.mark.parametrize("q_class", ONE_HOTS)
def test_vectors_have_the_kl_of_their_classes(q_class, p_class):
    logits, others = torch.randn(5, 4, dtype=F64), torch.randn(4, dtype=F64)
    q, p = q_class(logits=logits), p_class(logits=others)
    mass = logits.softmax(-1)
    exact = (mass * (logits.log_softmax(-1) - others.log_softmax(-1))).sum(-1)
    assert kl.route(q, p).kind == "closed"
    torch.testing.assert_close(kl.divergence(q, p), exact, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(td.kl_divergence(q, p), exact, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("p_class", BITS)
@pytest.mark.parametrize("q_class", BITS)
def test_bits_have_the_kl_of_bernoullis(q_class, p_class):
    logits, others = torch.randn(5, dtype=F64), torch.randn(5, dtype=F64)
    q, p = q_class(logits=logits), p_class(logits=others)
    exact = sum(
        mass * (a - b)
        for mass, a, b in (
            (logits.sigmoid(), q.log_prob(t(1.0)), p.log_prob(t(1.0))),
            ((-logits).sigmoid(), q.log_prob(t(0.0)), p.log_prob(t(0.0))),
        )
    )
    assert kl.route(q, p).kind == "closed"
    torch.testing.assert_close(kl.divergence(q, p), exact, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(td.kl_divergence(q, p), exact, rtol=1e-12, atol=1e-14)


def test_bits_of_large_logits_are_finite_where_those_of_torch_are_not():
    q = StraightThroughBernoulli(logits=torch.tensor([50.0, -50.0, 200.0]))
    p = dist.Bernoulli(logits=torch.tensor([-50.0, 50.0, -200.0]))
    torch.testing.assert_close(kl.divergence(q, p), torch.tensor([50.0, 50.0, 200.0]))
    assert bool(td.kl_divergence(q, p).isinf().any())


def test_a_prior_that_lacks_a_class_is_infinite():
    q = StraightThroughOneHotCategorical(logits=torch.zeros(2, 3))
    p = OneHotCategorical(logits=torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, -torch.inf]]))
    assert kl.route(q, p).finite.tolist() == [True, False]
    assert kl.divergence(q, p)[1] == torch.inf


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (RelaxedBernoulli(0.5, logits=0.0), td.Bernoulli(logits=torch.tensor(0.0))),
        (StraightThroughBernoulli(logits=torch.tensor(0.0)), RelaxedBernoulli(0.5, logits=0.0)),
        (
            RelaxedOneHotCategorical(0.5, logits=torch.zeros(3)),
            td.OneHotCategorical(logits=torch.zeros(3)),
        ),
        (
            StraightThroughOneHotCategorical(logits=torch.zeros(3)),
            td.Dirichlet(torch.ones(3)),
        ),
    ],
    ids=lambda d: type(d).__name__,
)
def test_a_density_and_a_mass_have_no_kl(q, p):
    told = kl.route(q, p)
    assert told.kind == "undefined"
    assert "different measures" in told.reason
    with pytest.raises(ValueError, match="different measures"):
        kl.divergence(q, p)
