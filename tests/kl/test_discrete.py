"""Discrete pairs: exact against sums of 40 digits, at their edges, and by enumeration."""

import random

import mpmath as mp
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from pyro.distributions import BetaBinomial, GammaPoisson, ZeroInflatedPoisson

from pyro_vae import kl

F64 = torch.float64


def num(*values):
    return [torch.tensor(v, dtype=F64) for v in values]


def _poisson(x, rate):
    return x * mp.log(rate) - rate - mp.loggamma(x + 1)


def _polya(x, r, p):
    choices = mp.loggamma(x + r) - mp.loggamma(x + 1) - mp.loggamma(r)
    return choices + r * mp.log(1 - p) + x * mp.log(p)


def _binomial(x, n, p):
    choices = mp.loggamma(n + 1) - mp.loggamma(x + 1) - mp.loggamma(n - x + 1)
    return choices + x * mp.log(p) + (n - x) * mp.log(1 - p)


def _zero_inflated(x, rate, gate):
    inflated = mp.log(gate + (1 - gate) * mp.exp(-rate))
    return inflated if x == 0 else mp.log(1 - gate) + _poisson(x, rate)


def _beta_binomial(x, a, b, n):
    def beta(u, v):
        return mp.loggamma(u) + mp.loggamma(v) - mp.loggamma(u + v)

    choices = mp.loggamma(n + 1) - mp.loggamma(x + 1) - mp.loggamma(n - x + 1)
    return choices + beta(x + a, n - x + b) - beta(a, b)


# class -> (log mass in mpmath, random parameters, how torch is given them)
COUNTS = {
    "Poisson": (_poisson, lambda u: [10 ** u(-1.5, 1.7)], td.Poisson),
    "NegativeBinomial": (
        _polya,
        lambda u: [10 ** u(-1, 1.4), u(0.05, 0.75)],
        lambda r, p: td.NegativeBinomial(r, p),
    ),
    "Geometric": (
        lambda x, p: mp.log(p) + x * mp.log(1 - p),
        lambda u: [u(0.15, 0.95)],
        lambda p: td.Geometric(p),
    ),
    "GammaPoisson": (
        lambda x, c, b: _polya(x, c, 1 / (1 + b)),
        lambda u: [10 ** u(-1, 1.4), 10 ** u(-0.3, 1)],
        GammaPoisson,
    ),
    "Binomial": (
        _binomial,
        lambda u: [float(int(u(1, 30))), u(0.02, 0.98)],
        lambda n, p: td.Binomial(n, p),
    ),
}
PAIRS = [(a, b) for a in COUNTS for b in COUNTS if b != "Binomial"]


def summed(q, p, pair, top):
    """The KL, and one derivative for each parameter of both sides, by a sum of 40 digits."""
    with mp.workdps(40):

        def total(left, right):
            logs = ((q(x, *left), p(x, *right)) for x in range(top))
            return mp.fsum(mp.exp(a) * (a - b) for a, b in logs)

        left, right = ([mp.mpf(v) for v in side] for side in pair)
        return float(total(left, right))


def slope(q, p, pair, top, side, i):
    with mp.workdps(40):
        step = mp.mpf(10) ** -12 * pair[side][i]
        ends = []
        for sign in (1, -1):
            moved = [[mp.mpf(v) for v in s] for s in pair]
            moved[side][i] += sign * step
            logs = ((q(x, *moved[0]), p(x, *moved[1])) for x in range(top))
            ends.append(mp.fsum(mp.exp(a) * (a - b) for a, b in logs))
        return float((ends[0] - ends[1]) / (2 * step))


@pytest.mark.parametrize(("a", "b"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_counts_against_sums(a, b):
    (q, draw_q, make_q), (p, draw_p, make_p) = COUNTS[a], COUNTS[b]
    rng = random.Random(0)
    for trial in range(2):
        pair = draw_q(rng.uniform), draw_p(rng.uniform)
        top = int(pair[0][0]) + 1 if a == "Binomial" else 330
        left, right = ([t.requires_grad_() for t in num(*side)] for side in pair)
        guide, prior = make_q(*left), make_p(*right)
        assert kl.route(guide, prior).kind == "closed"
        value = kl.divergence(guide, prior)
        assert value.item() == pytest.approx(summed(q, p, pair, top), rel=1e-12)
        if trial:
            continue
        leaves = [(s, i, t) for s, side in enumerate((left, right)) for i, t in enumerate(side)]
        skipped = [(0, 0)] if a == "Binomial" else []
        leaves = [leaf for leaf in leaves if leaf[:2] not in skipped]
        grads = torch.autograd.grad(value, [t for *_, t in leaves])
        for (side, i, _), g in zip(leaves, grads, strict=True):
            expected = slope(q, p, pair, top, side, i)
            assert g.item() == pytest.approx(expected, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("mean", [1e3, 1e5])
def test_large_counts_need_no_sum(mean):
    # against a Poisson of the same mean, a negative binomial of count r adds about m / 2r
    # of its variance: log(1 + m / r) / 2 is what both Gaussians would give
    r = mean * 100
    q, p = td.Poisson(*num(mean)), td.NegativeBinomial(*num(r, mean / (mean + r)))
    x = mean / r
    gaussian = 0.5 * (torch.log1p(torch.tensor(x)) + 1 / (1 + x) - 1)
    assert kl.divergence(q, p).item() == pytest.approx(gaussian.item(), rel=0.01)


def test_unequal_counts_near_equality():
    r, logits = num(2.5, -0.3)
    for step in (1e-3, 1e-5):
        q, p = td.NegativeBinomial(r, logits=logits), td.NegativeBinomial(r + step, logits=logits)
        chance = logits.sigmoid().item()
        pair = [2.5, chance], [(r + step).item(), chance]
        exact = summed(_polya, _polya, pair, 300)
        assert kl.divergence(q, p).item() == pytest.approx(exact, rel=1e-9)
    q = td.NegativeBinomial(r.requires_grad_(), logits=logits.requires_grad_())
    value = kl.divergence(q, td.NegativeBinomial(r.detach(), logits=logits.detach()))
    assert value == 0
    assert all((g == 0).all() for g in torch.autograd.grad(value, [r, logits]))


def test_zero_inflated():
    rng = random.Random(1)
    for _ in range(4):
        pair = [[10 ** rng.uniform(-1, 1.3), rng.uniform(0.05, 0.9)] for _ in range(2)]
        q, p = (ZeroInflatedPoisson(rate, gate=gate) for rate, gate in (num(*s) for s in pair))
        exact = summed(_zero_inflated, _zero_inflated, pair, 150)
        assert kl.divergence(q, p).item() == pytest.approx(exact, rel=1e-12)
    q = ZeroInflatedPoisson(num(2.0)[0], gate_logits=num(0.3)[0])
    assert kl.divergence(q, q) == 0
    p = ZeroInflatedPoisson(num(2.0)[0] + 1e-5, gate_logits=num(0.3)[0])
    gate = q.gate.item()
    exact = summed(_zero_inflated, _zero_inflated, ([2.0, gate], [p.rate.item(), gate]), 100)
    assert kl.divergence(q, p).item() == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("other", [7.0, 12.0], ids=["same count", "larger count"])
def test_binomial_and_beta_binomial(other):
    pair = [7.0, 0.3], [other, 0.45]
    q, p = (td.Binomial(*num(*side)) for side in pair)
    assert kl.divergence(q, p).item() == pytest.approx(
        summed(_binomial, _binomial, pair, 8), rel=1e-12
    )
    assert kl.divergence(p, q).item() == (
        torch.inf
        if other > 7
        else pytest.approx(summed(_binomial, _binomial, pair[::-1], 8), rel=1e-12)
    )
    betas = [0.7, 2.0, 7.0], [1.9, 0.4, other]
    a, b = (BetaBinomial(*num(*side)) for side in betas)
    for left, right, f, g, params in (
        (a, b, _beta_binomial, _beta_binomial, betas),
        (q, b, _binomial, _beta_binomial, (pair[0], betas[1])),
        (a, p, _beta_binomial, _binomial, (betas[0], pair[1])),
    ):
        assert kl.route(left, right).kind == "closed"
        assert kl.divergence(left, right).item() == pytest.approx(
            summed(f, g, params, 8), rel=1e-12
        )
    assert kl.divergence(a, a) == 0


def test_counts_that_differ_between_elements():
    n = torch.tensor([3.0, 5.0, 9.0])
    q, p = td.Binomial(n, torch.tensor(0.3)), td.Binomial(torch.tensor(5.0), torch.tensor(0.5))
    assert kl.route(q, p).finite.tolist() == [True, True, False]
    value = kl.divergence(q, p)
    assert value[2] == torch.inf
    each = [kl.divergence(td.Binomial(int(k), 0.3), td.Binomial(5, 0.5)) for k in n[:2]]
    torch.testing.assert_close(value[:2], torch.stack(each))


def test_multinomials():
    mass, prior = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.5, 0.25, 0.25])
    q, p = dist.Multinomial(4, mass), dist.Multinomial(4, prior)
    exact = 4 * (mass * (mass / prior).log()).sum()
    torch.testing.assert_close(kl.divergence(q, p), exact)
    told = kl.route(q, dist.Multinomial(5, prior))
    assert told.kind == "infinite"
    assert "Multinomial" in told.reason


# -------------------------------------------------------------------------------- edges
@pytest.mark.parametrize(
    ("q", "p", "exact"),
    [
        (td.Poisson(0.0), td.Poisson(1.7), 1.7),
        (td.Poisson(0.0), td.Poisson(0.0), 0.0),
        (td.Poisson(1.0), td.Poisson(0.0), torch.inf),
        (td.Binomial(3, torch.tensor(1.0)), td.Binomial(3, torch.tensor(0.5)), 2.0794415),
        (td.Binomial(3, torch.tensor(0.5)), td.Binomial(3, torch.tensor(1.0)), torch.inf),
        (td.Binomial(3, torch.tensor(0.5)), td.Binomial(5, torch.tensor(1.0)), torch.inf),
        (td.Binomial(3, torch.tensor(1.0)), td.Binomial(5, torch.tensor(1.0)), torch.inf),
        (td.Geometric(torch.tensor(0.5)), td.Geometric(torch.tensor(1.0)), torch.inf),
        (td.Geometric(torch.tensor(1.0)), td.Geometric(torch.tensor(0.5)), 0.6931472),
        (td.Bernoulli(0.0), td.Bernoulli(0.0), 0.0),
        (
            td.Bernoulli(logits=torch.tensor(0.0)),
            td.Bernoulli(logits=torch.tensor(200.0)),
            99.30685,
        ),
        (td.Categorical(torch.tensor([0.5, 0.5, 0.0])), td.Binomial(1, torch.tensor(0.5)), 0.0),
        (
            td.Categorical(torch.tensor([0.5, 0.4, 0.1])),
            td.Binomial(1, torch.tensor(0.5)),
            torch.inf,
        ),
        (td.Bernoulli(0.5), td.Poisson(0.0), torch.inf),
        (td.Bernoulli(0.0), td.Poisson(1.0), 1.0),
        (td.Poisson(1.0), td.Bernoulli(0.5), torch.inf),
    ],
    ids=str,
)
def test_edges(q, p, exact):
    value = kl.divergence(q, p)
    assert value.item() == pytest.approx(exact, rel=1e-6, abs=1e-7)
    assert bool(kl.route(q, p).finite) == (exact < torch.inf)


def test_extreme_logits_have_finite_values_and_gradients():
    a = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], requires_grad=True)
    for family in (td.Bernoulli, lambda logits: td.Categorical(logits=logits)):
        logits = a if family is td.Bernoulli else torch.stack([a, torch.zeros(5)], -1)
        q = family(logits=logits)
        p = family(logits=-logits.detach())
        value = kl.divergence(q, p)
        assert value.isfinite().all()
        assert (value >= 0).all()
        assert torch.autograd.grad(value.sum(), a)[0].isfinite().all()


def test_impossible_logits():
    q = td.Categorical(logits=torch.tensor([[0.0, -torch.inf, 1.0], [0.0, 0.5, 1.0]]))
    p = td.Categorical(logits=torch.tensor([0.0, -torch.inf, 0.0]))
    assert kl.route(q, p).finite.tolist() == [True, False]
    value = kl.divergence(q, p)
    assert value[0] == pytest.approx(0.1109, abs=1e-4)
    assert value[1] == torch.inf


# --------------------------------------------------------------------- enumeration
def test_classes_that_never_met():
    q = dist.Binomial(3, torch.tensor([0.2, 0.7], dtype=F64))
    mass = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    p = dist.Categorical(mass)
    assert kl.route(q, p).kind == "closed"
    x = torch.arange(4.0, dtype=F64)
    masses = td.Binomial(3, torch.tensor([[0.2], [0.7]], dtype=F64)).log_prob(x).exp()
    torch.testing.assert_close(kl.divergence(q, p), (masses * (masses / mass).log()).sum(-1))
    backwards = (mass * (mass / masses).log()).sum(-1)
    torch.testing.assert_close(kl.divergence(p, q), backwards)
    # a larger prior, and one that is too small
    assert kl.divergence(q, td.Poisson(torch.tensor(1.0, dtype=F64))).shape == (2,)
    assert kl.route(q, dist.Categorical(mass[:3])).kind == "infinite"


class Loaded(dist.Bernoulli):
    """A coin of another law: heads twice as likely as it says."""

    def log_prob(self, value):
        heads = 2 * self.probs
        return torch.where(value > 0, heads, 1 - heads).log()


def test_a_class_of_somebody_elses_is_read_by_its_own_density():
    q, p = Loaded(torch.tensor([0.2, 0.3])), dist.Bernoulli(torch.tensor(0.4))
    exact = kl.divergence(dist.Bernoulli(torch.tensor([0.4, 0.6])), p)
    torch.testing.assert_close(kl.divergence(q, p), exact, rtol=1e-5, atol=1e-7)
    # what its parent's form would have said
    assert (td.kl_divergence(q, p) - exact).abs().min() > 0.01
    torch.testing.assert_close(kl.divergence(q, q), torch.zeros(2))


def test_too_many_values_are_not_enumerated():
    q = dist.Binomial(5000, torch.tensor(0.5))
    assert kl.route(q, dist.Categorical(torch.ones(5001))).kind == "sampled"


def test_enumeration_has_gradients_and_can_be_mapped():
    probs = torch.tensor([0.3, 0.6], dtype=F64, requires_grad=True)
    value = kl.divergence(dist.Binomial(2, probs), dist.Categorical(torch.ones(3, dtype=F64)))
    (g,) = torch.autograd.grad(value.sum(), probs, create_graph=True)
    (second,) = torch.autograd.grad(g.sum(), probs)
    assert g.isfinite().all()
    assert second.isfinite().all()
    step = 1e-6
    up, down = (
        kl.divergence(
            dist.Binomial(2, probs.detach() + s), dist.Categorical(torch.ones(3, dtype=F64))
        )
        for s in (step, -step)
    )
    torch.testing.assert_close(g.detach(), (up - down) / (2 * step), rtol=1e-7, atol=1e-8)
    with dist.validation_enabled(False):
        mapped = torch.func.vmap(
            lambda t: kl.divergence(dist.Bernoulli(t), dist.Categorical(torch.ones(2, dtype=F64)))
        )(probs.detach())
    exact = kl.divergence(dist.Bernoulli(probs), dist.Bernoulli(torch.tensor(0.5, dtype=F64)))
    torch.testing.assert_close(mapped, exact.detach())
