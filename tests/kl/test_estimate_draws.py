"""Antithetic and quasi-random draws: which guides have them, what they gain, honest errors."""

from importlib import import_module

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from scipy.stats import binom
from scipy.stats import t as student

from pyro_vae import kl
from pyro_vae.distributions import LogitNormal
from pyro_vae.kl.draws import REPLICATES, draws

FAILURE = 1e-6

LOC = torch.tensor([0.25, -1.0], dtype=torch.float64)
ONE = torch.ones((), dtype=torch.float64)
NORMAL, LAPLACE = td.Normal(LOC, 0.75 * ONE), td.Laplace(0 * ONE, ONE)

# guide, prior, and the kinds of draws that it has
PAIRS = {
    "Normal": (NORMAL, LAPLACE, "random antithetic quasi"),
    "LogNormal": (td.LogNormal(LOC, ONE), td.Weibull(ONE, ONE), "random antithetic quasi"),
    "LogitNormal": (LogitNormal(LOC, ONE), td.Beta(ONE, ONE), "random antithetic quasi"),
    "Gumbel": (td.Gumbel(LOC, ONE), LAPLACE, "random antithetic quasi"),
    "Kumaraswamy": (td.Kumaraswamy(ONE, 2 * ONE), td.Beta(ONE, ONE), "random antithetic quasi"),
    "StudentT": (td.StudentT(9 * ONE, LOC, ONE), LAPLACE, "random antithetic"),
    "Gamma": (td.Gamma(2 * ONE, ONE), td.Exponential(ONE), "random"),
    "VonMises": (td.VonMises(LOC, ONE), td.VonMises(0 * ONE, ONE), "random"),
    "Poisson": (td.Poisson(ONE), td.Poisson(2 * ONE), "random"),
    "mixture": (
        td.MixtureSameFamily(td.Categorical(torch.ones(2).double()), td.Normal(LOC, ONE)),
        LAPLACE,
        "random",
    ),
    "independent Normals": (
        td.Independent(td.Normal(LOC, ONE), 1),
        td.MultivariateNormal(0 * LOC, 2 * torch.eye(2).double()),
        "random antithetic quasi",
    ),
    "MultivariateNormal": (
        td.MultivariateNormal(LOC, torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()),
        td.Independent(td.Laplace(0 * LOC, ONE), 1),
        "random antithetic quasi",
    ),
    "expanded and masked": (
        dist.Normal(0 * ONE, ONE).expand([3]).mask(torch.tensor([True, False, True])),
        dist.Laplace(ONE, ONE),
        "random antithetic quasi",
    ),
    "affine": (
        td.TransformedDistribution(NORMAL, [td.transforms.AffineTransform(ONE, 2 * ONE)]),
        LAPLACE,
        "random antithetic quasi",
    ),
    "softmax of Normals": (
        td.TransformedDistribution(
            td.Independent(td.Normal(LOC, ONE), 1), [td.transforms.StickBreakingTransform()]
        ),
        td.Dirichlet(torch.ones(3).double()),
        "random antithetic quasi",
    ),
}


def repeats(q, p, kind, count, num_samples):
    """Estimates of `count` independent repeats, which are one batch."""
    wide = q.expand((count, *torch.broadcast_shapes(q.batch_shape, p.batch_shape)))
    return kl.estimate(wide, p, num_samples, draws=kind)


@pytest.mark.parametrize("kind", list(draws))
@pytest.mark.parametrize("name", PAIRS)
def test_each_guide_has_its_kinds_of_draws_and_names_the_others(name, kind):
    q, p, known = PAIRS[name]
    if kind in known.split():
        assert kl.estimate(q, p, 64, draws=kind).mean.isfinite().all()
        return
    with pytest.raises(kl.NoEstimate, match=f"has no {kind} draws") as refused:
        kl.estimate(q, p, 64, draws=kind)
    for other in known.split():
        assert f"draws={other!r}" in str(refused.value)
    assert type(q).__name__ in str(refused.value)


@pytest.mark.parametrize("kind", list(draws))
@pytest.mark.parametrize("name", PAIRS)
def test_standard_errors_are_honest(name, kind):
    """Intervals of 90 % hold the exact value as often as they say, at 1e-6 for each case."""
    q, p, known = PAIRS[name]
    if kind not in known.split():
        return
    exact, count = kl.divergence(q, p), 400
    mean, error, _ = repeats(q, p, kind, count, 256)
    reach = student.isf(0.05, 256 // draws[kind].group_size(256) - 1)
    some = error.reshape(count, -1)[0] > 0  # a masked element has no error
    held = ((mean - exact).abs() <= reach * error).reshape(count, -1)[:, some].sum(0)
    # elements are judged one by one; skewed values at 256 draws may cost 4 %
    low, high = binom.ppf(FAILURE, count, 0.86), binom.isf(FAILURE, count, 0.93)
    assert ((low <= held) & (held <= high)).all(), held


def test_an_error_that_ignored_the_pairs_would_be_caught():
    """Must catch: antithetic draws of something even are half as many as they seem."""
    q, p = td.Normal(0 * ONE, ONE), td.Normal(0 * ONE, 2 * ONE)
    mean, error, _ = repeats(q, p, "antithetic", 400, 256)
    naive = error / 2**0.5
    held = ((mean - kl.divergence(q, p)).abs() <= student.isf(0.05, 255) * naive).sum()
    assert held < binom.ppf(FAILURE, 400, 0.86)


def test_what_is_odd_cancels_in_pairs():
    q, p = td.Normal(ONE, ONE), td.Normal(0 * ONE, ONE)
    mean, error, _ = kl.estimate(q, p, 64, draws="antithetic")
    assert mean == pytest.approx(0.5, abs=1e-12)
    assert error < 1e-12


@pytest.mark.parametrize("name", ["Normal", "LogitNormal", "Kumaraswamy"])
def test_nets_err_much_less_than_independent_draws(name):
    """The spread of 100 repeats at 4,096 draws, in place of their standard errors."""
    q, p, _ = PAIRS[name]
    spread = {
        kind: (repeats(q, p, kind, 100, 4096).mean - kl.divergence(q, p)).std(0)
        for kind in ("random", "quasi")
    }
    assert (spread["quasi"] < spread["random"] / 5).all()


def test_nets_gain_with_their_size():
    q, p, _ = PAIRS["Normal"]
    few, many = (repeats(q, p, "quasi", 100, n).mean.std(0) for n in (256, 4096))
    # independent draws would gain a factor of 4
    assert (few / many > 8).all()


@pytest.mark.parametrize(
    ("kind", "count"), [("antithetic", 7), ("antithetic", 2), ("quasi", 100), ("quasi", 4)]
)
def test_counts_that_do_not_suit_are_refused(kind, count):
    with pytest.raises(ValueError, match=f"num_samples={count}"):
        kl.estimate(NORMAL, LAPLACE, count, draws=kind)


def test_too_large_an_event_has_no_net():
    wide = td.Independent(td.Normal(torch.zeros(30_000), 1.0), 1)
    joint = td.TransformedDistribution(
        wide, [td.transforms.ReshapeTransform((30_000,), (300, 100))]
    )
    with pytest.raises(kl.NoEstimate, match="at most 21201 dimensions"):
        kl.estimate(joint, joint, REPLICATES * 2, draws="quasi")


@pytest.mark.parametrize("kind", list(draws))
def test_draws_are_a_function_of_torchs_random_state(kind):
    q, p, _ = PAIRS["Normal"]
    torch.manual_seed(3)
    first, after = kl.estimate(q, p, 64, draws=kind).mean, torch.rand(())
    torch.manual_seed(3)
    again = kl.estimate(q, p, 64, draws=kind).mean
    assert torch.equal(first, again)
    assert torch.rand(()) == after
    assert not torch.equal(first, kl.estimate(q, p, 64, draws=kind).mean)


@pytest.mark.parametrize("kind", list(draws))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_precision_are_those_of_the_pair(kind, dtype):
    q = td.Normal(torch.zeros(5, 1, 3, dtype=dtype), 1.0).expand([5, 1, 3])
    p = td.Laplace(torch.zeros(4, 3, dtype=dtype), 1.0)
    for dims, shape in ((0, (5, 4, 3)), (1, (5, 4)), (2, (5,))):
        wide = p.expand([5, 4, 3]) if dims == 2 else p
        pair = [td.Independent(d, dims) for d in (q.expand([5, 4, 3]), wide)]
        found = kl.estimate(*pair, 32, draws=kind)
        for field in (*found, found.edge):
            assert field.shape == shape
            assert field.dtype == dtype


def test_elements_of_a_batch_have_draws_of_their_own():
    found = kl.estimate(
        dist.Normal(0.0, 1.0).expand([50]), td.Laplace(0.0, 1.0), 64, draws="quasi"
    )
    assert len(found.mean.unique()) == 50


@pytest.mark.parametrize("kind", list(draws))
def test_chunks_change_nothing_but_the_memory(kind, monkeypatch):
    q, p, _ = PAIRS["MultivariateNormal"]
    exact = kl.divergence(q, p)
    monkeypatch.setattr(import_module("pyro_vae.kl.estimate"), "_CHUNK", 100)
    mean, error, k = kl.estimate(q, p, 4096, draws=kind)
    assert (mean - exact).abs() < 8 * error
    assert k.isfinite()
    assert error < 0.05
