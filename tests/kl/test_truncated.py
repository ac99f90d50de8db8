"""KLs of truncated normals and continuous Bernoullis against independent integrals."""

import mpmath as mp
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td

from pyro_vae import distributions, kl
from pyro_vae.distributions import ContinuousBernoulli, LogitNormal, TruncatedNormal

F64 = torch.float64


def at(cls, *parameters):
    return cls(*(torch.tensor(float(p), dtype=F64) for p in parameters))


def log_truncated(loc, scale, low=0, high=1):
    """The log density, normalised by mpmath's own quadrature."""
    loc, scale = mp.mpf(loc), mp.mpf(scale)

    def log(x):
        return -(((x - loc) / scale) ** 2) / 2

    place = min(max(loc, mp.mpf(low)), mp.mpf(high))
    peak = log(place)
    mass = mp.quad(lambda x: mp.exp(log(x) - peak), marks(loc, scale, low, high))
    return lambda x: log(x) - peak - mp.log(mass)


def marks(loc, scale, low, high):
    """Ends, and places within where the density changes."""
    place = min(max(loc, low), high)
    slope = abs(loc - place) / scale**2
    step = min(scale, 1 / slope) if slope else scale
    inner = {place + k * step * side for k in (1, 4, 16, 40) for side in (-1, 1)}
    return [low, *sorted(v for v in inner if low < v < high), high]


def log_normal(m, s):
    return lambda x: -(((x - m) / s) ** 2) / 2 - mp.log(s) - mp.log(2 * mp.pi) / 2


def log_beta(a, b):
    return lambda x: (a - 1) * mp.log(x) + (b - 1) * mp.log(1 - x) - mp.log(mp.beta(a, b))


GUIDES = [(0.3, 0.4), (0.5, 0.02), (-2.0, 0.5), (3.0, 0.3), (-1000.0, 5.0), (0.5, 1e4)]
PRIORS = {
    "Normal": (at(td.Normal, 0.2, 0.7), log_normal(0.2, 0.7)),
    "Beta": (at(td.Beta, 2.5, 1.5), log_beta(2.5, 1.5)),
    "Uniform": (at(td.Uniform, -1, 3), lambda x: -mp.log(4)),
    "TruncatedNormal": (at(TruncatedNormal, 1.2, 0.3, -0.5, 1), log_truncated(1.2, 0.3, -0.5, 1)),
    "far TruncatedNormal": (at(TruncatedNormal, -40, 6), log_truncated(-40, 6)),
    "Exponential": (at(td.Exponential, 2.0), lambda x: mp.log(2) - 2 * x),
    "Logistic": (
        at(dist.Logistic, 0.5, 0.2),
        lambda x: -(x - 0.5) / 0.2 - mp.log(0.2) - 2 * mp.log(1 + mp.exp(-(x - 0.5) / 0.2)),
    ),
    "StudentT": (
        at(td.StudentT, 1, 0.1, 2.0),
        lambda x: -mp.log(2 * mp.pi * (1 + ((x - 0.1) / 2) ** 2)),
    ),
}


@pytest.mark.parametrize("guide", GUIDES, ids=str)
@pytest.mark.parametrize("prior", PRIORS)
def test_value_against_mpmath(guide, prior):
    p, log_p = PRIORS[prior]
    q = at(TruncatedNormal, *guide)
    log_q = log_truncated(*guide)
    truth = mp.quad(lambda x: mp.exp(log_q(x)) * (log_q(x) - log_p(x)), marks(*guide, 0, 1))
    told = kl.route(q, p)
    assert told.kind in ("closed", "quadrature")
    assert kl.divergence(q, p).item() == pytest.approx(float(truth), rel=1e-8, abs=1e-10)


CLOSED = [td.Normal(0.0, 1.0), td.Uniform(0.0, 1.0), td.Exponential(1.0), td.HalfNormal(1.0)]


@pytest.mark.parametrize(
    "p", [*CLOSED, ContinuousBernoulli(1.0), TruncatedNormal(0.0, 1.0)], ids=str
)
def test_closed_routes(p):
    assert kl.route(TruncatedNormal(0.5, 0.5), p).kind == "closed"


UNIT = [
    distributions.Beta(torch.tensor(2.0), 3.0),
    distributions.Kumaraswamy(torch.tensor(2.0), 3.0),
    distributions.Uniform(0.0, 1.0),
    LogitNormal(0.0, 1.0),
    ContinuousBernoulli(2.0),
    TruncatedNormal(0.2, 0.5),
    dist.RelaxedBernoulli(torch.tensor(0.5), logits=torch.tensor(0.0)),
]


@pytest.mark.parametrize("q", UNIT, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("p", UNIT, ids=lambda d: type(d).__name__)
def test_every_pair_on_the_unit_interval_is_exact_but_for_edges_that_are_too_thick(q, p):
    # -log p of a logit-normal grows like the square of a logarithm, which every edge carries
    told = kl.route(q, p)
    assert told.kind in ("closed", "quadrature")
    assert kl.divergence(q, p).item() > -1e-6


def test_both_spellings_of_the_continuous_bernoulli_are_one():
    ours, torchs = (
        ContinuousBernoulli(torch.tensor(1.5)),
        td.ContinuousBernoulli(logits=torch.tensor(1.5)),
    )
    other = td.Beta(2.0, 3.0)
    for pair in ((ours, other), (other, ours)):
        swapped = [torchs if d is ours else d for d in pair]
        assert kl.divergence(*pair) == kl.divergence(*swapped)
    assert kl.divergence(ours, torchs) == 0
    assert kl.same_class(ours, torchs)


def test_an_interval_that_sticks_out_is_infinite_and_one_end_alone_may_be():
    q = TruncatedNormal(torch.tensor([0.5, 0.5]), 1.0, torch.tensor([-0.5, 0.0]), 1.0)
    told = kl.route(q, td.Beta(2.0, 2.0))
    assert told.finite.tolist() == [False, True]
    inner = TruncatedNormal(torch.tensor([0.5, 0.5]), 1.0, torch.tensor([0.0, 0.25]), 1.0)
    # 1 / x is not integrable at an end where the density is positive
    assert kl.route(inner, td.InverseGamma(2.0, 1.0)).finite.tolist() == [False, True]


def test_gradients_against_finite_differences():
    def loss(loc, scale, m):
        q = TruncatedNormal(loc, scale)
        return kl.divergence(q, td.Beta(m, m + 1)) + kl.divergence(
            q, TruncatedNormal(m, scale * m)
        )

    for loc in (0.3, -1.5, 2.0):
        leaves = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (loc, 0.6, 1.4)]
        assert torch.autograd.gradcheck(loss, leaves, atol=1e-6)


def test_single_precision_stays_finite_far_out():
    leaves = [
        torch.tensor(v, requires_grad=True)
        for v in ([-1e6, 1e6, 0.5, 50.0], [1e-6, 1.0, 1e6, 1e-3])
    ]
    q = TruncatedNormal(*leaves)
    for p in (td.Uniform(0.0, 1.0), td.Normal(0.0, 1.0), td.Exponential(1.0)):
        value = kl.divergence(q, p)
        assert bool(value.isfinite().all())
        assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(value.sum(), leaves))
