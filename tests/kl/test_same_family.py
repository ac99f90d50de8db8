"""Two of one family: exact far from q = p, near it and at it, with two derivatives."""

import math
import random

import mpmath as mp
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from same_families import CASES, DIGITS, F64
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import kl
from pyro_vae.kl import remainders

EVERY = pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
INNER = [c for c in CASES if not c.nested]
SMOOTH = pytest.mark.parametrize("case", INNER, ids=[c.name for c in INNER])


def nested(case, rng):
    """Parameters of a q whose support lies within that of p."""
    q, p = case.draw(rng)
    if case.name == "Pareto":
        return q, [q[0] * min(1.0, p[0] / q[0]), p[1]]
    low, width = q
    return [low, low + width], [low - abs(p[0]), low + width + p[1]]


def draws(case, rng, count):
    return [nested(case, rng) if case.nested else case.draw(rng) for _ in range(count)]


def near(case, rng, size, count):
    if not case.nested:
        return [case.near(rng, size) for _ in range(count)]
    # at the end of a support the KL is of first order
    pairs = []
    for _ in range(count):
        q = nested(case, rng)[0]
        step = size * rng.uniform(0.5, 2)
        p = [q[0] * (1 - step), q[1]]
        if case.name == "Uniform":
            p = [q[0] - step * (q[1] - q[0]), q[1]]
        pairs.append((q, p))
    return pairs


def tensors(pairs, side, dtype=F64):
    columns = zip(*(pair[side] for pair in pairs), strict=True)
    return [torch.tensor(c, dtype=dtype) for c in columns]


def divergence(case, pairs, dtype=F64):
    return kl.divergence(*(case.build(*tensors(pairs, side, dtype)) for side in (0, 1)))


def exact(case, pairs):
    with mp.workdps(DIGITS):
        return [case.exact(*pair) for pair in pairs]


def relative(value, oracle):
    """The largest relative error, judged where a double can hold the value at all."""
    with mp.workdps(DIGITS):
        return max(
            float(abs(mp.mpf(v.item()) - e) / e) if e < mp.mpf(10) ** 300 else float(v.isfinite())
            for v, e in zip(value, oracle, strict=True)
        )


@EVERY
def test_it_is_ours(case):
    q, p = (case.build(*tensors(draws(case, random.Random(0), 1), side)) for side in (0, 1))
    told = kl.route(q, p)
    assert told.kind == "closed"
    assert told.source.startswith("pyro_vae")


@EVERY
def test_far_away(case):
    pairs = draws(case, random.Random(1), 30)
    assert relative(divergence(case, pairs), exact(case, pairs)) < 1e-10


@EVERY
@pytest.mark.parametrize("size", [1e-6, 1e-10])
def test_nearby(case, size):
    pairs = near(case, random.Random(2), size, 8)
    oracle = exact(case, pairs)
    assert case.nested or all(size / 2 < float(e) < 2 * size for e in oracle)
    assert relative(divergence(case, pairs), oracle) < 1e-7


@EVERY
def test_float32_parameters(case):
    rng = random.Random(3)
    for pairs in (draws(case, rng, 10), near(case, rng, 1e-3, 5)):
        # the oracle sees what float32 has kept
        kept = [tuple([torch.tensor(v).item() for v in side] for side in pair) for pair in pairs]
        oracle = exact(case, kept)
        value = divergence(case, kept, torch.float32)
        assert value.dtype == torch.float32
        fits = [i for i, e in enumerate(oracle) if e < mp.mpf(10) ** 38]
        given = [oracle[i] for i in fits]
        if case.name not in {"Categorical", "OneHotCategorical", "Multinomial"}:
            assert relative(value[fits], given) < 1e-6
            continue
        # these normalise their logits in float32 before anybody else sees them, and what they
        # keep is what they are: normalised anew in float64 it loses nothing further
        stored = [case.build(*tensors(kept, side, torch.float32)).logits for side in (0, 1)]
        seen = list(zip(*(t.double().tolist() for t in stored), strict=True))
        assert relative(value[fits], exact(case, seen)) < 1e-6
        # rounding of logits, up to 1e-6, is no small part of a step of 0.04
        assert relative(value[fits], given) < 1e-4


@SMOOTH
def test_nothing_at_q_equals_p(case):
    rng = random.Random(4)
    pairs = [(q, q) for q, _ in draws(case, rng, 20)]
    q, p = ([t.requires_grad_() for t in tensors(pairs, side)] for side in (0, 1))
    value = kl.divergence(case.build(*q), case.build(*p))
    assert (value == 0).all()
    for g in torch.autograd.grad(value.sum(), [*q, *p], allow_unused=True):
        assert g is None or (g == 0).all()


def numeric(case, pair, side, i, order):
    """A derivative of the oracle with respect to one parameter, by differences in 60 digits."""
    with mp.workdps(DIGITS):
        step = mp.mpf(10) ** -16 * max(abs(pair[side][i]), mp.mpf(10) ** -3)

        def at(k):
            moved = [[mp.mpf(v) for v in w] for w in pair]
            moved[side][i] += k * step
            return case.kl(*moved)

        if order == 1:
            return float((at(1) - at(-1)) / (2 * step))
        return float((at(1) - 2 * at(0) + at(-1)) / step**2)


@EVERY
@pytest.mark.parametrize("close", [False, True], ids=["far", "near"])
def test_two_derivatives_in_every_parameter(case, close):
    rng = random.Random(5)
    pairs = near(case, rng, 1e-8, 2) if close else draws(case, rng, 2)
    # what no double can hold has no derivative to speak of
    pairs = [pair for pair, e in zip(pairs, exact(case, pairs), strict=True) if e < 1e30]
    leaves = [[t.requires_grad_() for t in tensors(pairs, side)] for side in (0, 1)]
    value = kl.divergence(*(case.build(*side) for side in leaves))
    firsts = torch.autograd.grad(
        value.sum(), leaves[0] + leaves[1], create_graph=True, materialize_grads=True
    )
    for index, (leaf, first) in enumerate(zip(leaves[0] + leaves[1], firsts, strict=True)):
        side, i = divmod(index, len(case.kinds))
        second = torch.zeros_like(leaf)
        if first.requires_grad:
            (second,) = torch.autograd.grad(
                first.sum(), leaf, retain_graph=True, materialize_grads=True
            )
        for n, pair in enumerate(pairs):
            # a derivative counts in units of its parameter
            unit = max(abs(leaf[n].item()), 1e-3)
            for order, got in ((1, first[n]), (2, second[n])):
                expected = numeric(case, pair, side, i, order) * unit**order
                floor = 1e-6 * max(1.0, value[n].item()) if not close else 1e-8
                assert got.item() * unit**order == pytest.approx(expected, rel=1e-6, abs=floor)


@EVERY
def test_vmap_and_capture(case):
    pairs = draws(case, random.Random(6), 4)
    pairs = [pair for pair, e in zip(pairs, exact(case, pairs), strict=True) if e < 1e30]
    others = near(case, random.Random(7), 1e-3, len(pairs))
    q, p = tensors(pairs, 0), tensors(pairs, 1)
    value = divergence(case, pairs)
    mapped = torch.func.vmap(lambda a, b: kl.divergence(case.build(*a), case.build(*b)))(q, p)
    torch.testing.assert_close(mapped, value, rtol=1e-12, atol=1e-14)

    def both(a, b):
        of = kl.divergence(case.build(*a), case.build(*b))
        return of, torch.autograd.grad(of.sum(), a, materialize_grads=True)

    live = ([t.clone().requires_grad_() for t in side] for side in (q, p))
    with dist.validation_enabled(False):
        graph = make_fx(both)(*live)
    for chosen in (pairs, others):
        a, b = ([t.requires_grad_() for t in tensors(chosen, side)] for side in (0, 1))
        (ours, gradients), (replayed, again) = both(a, b), graph(a, b)
        torch.testing.assert_close(replayed, ours)
        torch.testing.assert_close(again, gradients)


def test_batch_shapes_broadcast():
    q = td.Gamma(torch.rand(4, 1) + 1, 1.0)
    p = td.Gamma(torch.rand(3) + 1, 1.0)
    assert kl.divergence(q, p).shape == (4, 3)
    q, p = (td.Dirichlet(torch.rand(*s, 5) + 1) for s in ((2, 1), (3,)))
    assert kl.divergence(q, p).shape == (2, 3)


# ------------------------------------------------------------------------------ what torch loses
def double(*values):
    return [torch.tensor(v, dtype=F64) for v in values]


@pytest.mark.parametrize(
    ("name", "q", "p", "loss"),
    [
        ("Normal", [0.3, 1e3], [0.3 + 1e-2, 1e3 * (1 + 1e-5)], 1e-8),
        ("Laplace", [0.3, 1.0], [0.3 + 1e-5, 1 + 1e-5], 1e-8),
        ("Gumbel", [0.3, 1.0], [0.3 + 1e-5, 1 + 1e-5], 1e-7),
        ("Gamma", [1e4, 2.0], [1e4 + 1e-3, 2.0], 1e-1),
        ("Beta", [1e4, 1e4], [1e4 + 0.1, 1e4 + 0.1], 1e-1),
        ("Dirichlet", [1e4] * 4, [1e4 + 0.1] * 4, 1e-2),
        ("Bernoulli", [3.0], [3.0 + 1e-4], 1e-8),
        ("Poisson", [5.0], [5.0 + 1e-4], 1e-8),
        ("MultivariateNormal", [0.0] * 3 + [1.0, 0, 0, 0.5, 1.0, 0, 0, 0, 1.0], None, 1e-7),
    ],
)
def test_torch_loses_what_we_keep(name, q, p, loss):
    case = next(c for c in CASES if c.name == name)
    p = p or [v + 1e-5 for v in q]
    oracle = exact(case, [(q, p)])
    guide, prior = case.build(*double(*q)), case.build(*double(*p))
    assert relative(kl.divergence(guide, prior).reshape(1), oracle) < 1e-9
    torchs = td.kl_divergence(guide, prior).reshape(1)
    assert relative(torchs, oracle) > loss


def test_torch_in_float32_against_ours():
    q, p = (td.Dirichlet(torch.full((100,), v)) for v in (10.0, 10.1))
    with mp.workdps(DIGITS):
        a, c = mp.mpf(10), mp.mpf(torch.tensor(10.1).item())
        case = next(c for c in CASES if c.name == "Dirichlet")
        true = float(case.kl([a] * 100, [c] * 100))
    assert kl.divergence(q, p).item() == pytest.approx(true, rel=1e-6)
    assert td.kl_divergence(q, p).item() != pytest.approx(true, rel=0.01)
    w, one = torch.randn(50, 3), torch.ones(50)
    q = td.LowRankMultivariateNormal(torch.zeros(50), w, one)
    p = td.LowRankMultivariateNormal(torch.zeros(50), w, one * (1 + 1e-4))
    reference = kl.divergence(
        *(d.__class__(d.loc.double(), w.double(), d.cov_diag.double()) for d in (q, p))
    )
    assert kl.divergence(q, p).item() == pytest.approx(reference.item(), rel=1e-6)
    assert td.kl_divergence(q, p).item() != pytest.approx(reference.item(), rel=0.1)
    extreme = [dist.ContinuousBernoulli(logits=torch.tensor(v)) for v in (-500.0, 20.0)]
    assert td.kl_divergence(*extreme) < 0 < kl.divergence(*extreme)


# ---------------------------------------------------------------------------------- the primitives
@pytest.mark.parametrize("seed", range(3))
def test_the_remainder_of_log_gamma(seed):
    rng = random.Random(seed)
    a = [10 ** rng.uniform(-2, 6) for _ in range(40)]
    steps = [10 ** rng.uniform(-9, -0.1) * rng.choice((1, -1)) for _ in a]
    d = [x * s for x, s in zip(a, steps, strict=True)]
    value = remainders.lgamma_remainder(*double(a, d))
    with mp.workdps(DIGITS):
        oracle = [
            mp.loggamma(mp.mpf(x) + y) - mp.loggamma(x) - y * mp.digamma(x)
            for x, y in zip(a, map(mp.mpf, d), strict=True)
        ]
    assert relative(value, oracle) < 1e-13


def test_the_branches_meet():
    for function, edges in (
        (lambda x: remainders.exp_remainder(x), (-1.0, 1.0)),
        (lambda x: remainders.log1p_excess(x), (-0.25, 0.25)),
    ):
        for edge in edges:
            x = torch.tensor([edge * (1 - 1e-12), edge * (1 + 1e-12)], dtype=F64)
            x.requires_grad_()
            value = function(x)
            (slope,) = torch.autograd.grad(value.sum(), x)
            for t in (value, slope):
                assert t[0].item() == pytest.approx(t[1].item(), rel=1e-10)


def test_no_value_is_clamped():
    # a remainder is positive by its form: ulps to either side of q = p
    one = torch.ones((), dtype=F64)
    for k in range(1, 6):
        p = one + k * math.ulp(1.0)
        for value in (
            kl.divergence(td.Exponential(one), td.Exponential(p)),
            kl.divergence(td.Gamma(one, one), td.Gamma(p, one)),
            kl.divergence(td.Normal(one, one), td.Normal(one, p)),
        ):
            assert 0 < value.item() < 1e-28
