"""Fast log densities against torch's in float64."""

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.diagnostics.densities import (
    accurate_sum,
    bernoulli_log_density,
    log_density,
    normal_log_density,
)

F64 = torch.float64


def bits(*shape):
    return (torch.rand(shape) < 0.5).float()


def truth(logits, x, dims):
    return dist.Bernoulli(logits=logits.double()).to_event(dims).log_prob(x.double())


@pytest.mark.parametrize("shape", [(1,), (31,), (32,), (33,), (64,), (784,), (3, 8, 8)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_bernoulli(shape, scale):
    logits, x = scale * torch.randn(6, 4, *shape), bits(4, *shape)
    fn = dist.Bernoulli(logits=logits).to_event(len(shape))
    found = log_density(fn, x)
    assert found.shape == (6, 4)
    exact = truth(logits, x, len(shape))
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("logits", "x"),
    [
        ((500, 9, 64), (64,)),
        ((500, 9, 64), (9, 64)),
        ((500, 9, 64), (1, 9, 64)),
        ((500, 9, 64), (500, 1, 64)),
        ((4500, 64), (4500, 64)),
        ((1, 64), (4500, 64)),
        ((64,), (4500, 64)),
        ((2, 300, 300), (300, 300)),
        ((300, 600), (300, 600)),
    ],
)
def test_bernoulli_in_pieces(logits, x):
    """More numbers than are worked on at once; values that some share, or all, or none."""
    dims = 2 if x[-1] != 64 else 1
    logits, x = torch.randn(logits), bits(*x)
    found = bernoulli_log_density(logits, x, dims)
    assert found is not None
    torch.testing.assert_close(found, truth(logits, x, dims), rtol=1e-6, atol=1e-5)


def test_bernoulli_takes_the_fast_way():
    logits, x = torch.randn(6, 4, 100), bits(4, 100)
    before = logits.clone()
    found = bernoulli_log_density(logits, x, 1)
    torch.testing.assert_close(found, truth(logits, x, 1), rtol=1e-6, atol=1e-5)
    error = (found - truth(logits, x, 1)).abs().max()
    own = (dist.Bernoulli(logits=logits).log_prob(x).sum(-1) - truth(logits, x, 1)).abs().max()
    assert error < 3 * own
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("logits", "value"),
    [
        (torch.full((3, 64), -50.0), torch.ones(64)),
        (torch.full((3, 64), 500.0), torch.zeros(64)),
        (torch.randn(3, 64), torch.rand(64)),
        (torch.randn(3, 64), torch.ones(64, dtype=F64)),
    ],
    ids=["unlikely", "impossible", "grey", "mixed precision"],
)
def test_where_the_fast_way_is_closed_the_other_is_taken(logits, value):
    assert bernoulli_log_density(logits, value, 1) is None
    with_own = dist.Bernoulli(logits=logits, validate_args=False).to_event(1)
    torch.testing.assert_close(
        log_density(with_own, value).double(), truth_of(logits, value), rtol=1e-6, atol=1e-5
    )


def truth_of(logits, value):
    softplus = torch.nn.functional.softplus
    return (value.double() * logits.double() - softplus(logits.double())).sum(-1)


def test_nan_stays_nan():
    logits = torch.randn(3, 64)
    logits[1, 5] = torch.nan
    fn = dist.Bernoulli(logits=logits, validate_args=False).to_event(1)
    assert log_density(fn, bits(64)).isnan().tolist() == [False, True, False]


def test_impossible_is_minus_infinity_or_large():
    certain = dist.Bernoulli(probs=torch.ones(2, 64)).to_event(1)
    assert (log_density(certain, torch.zeros(64)) < -900).all()


def test_subclasses_keep_their_own_density():
    class Shifted(dist.Bernoulli):
        def log_prob(self, value):
            return super().log_prob(value) + 1

    fn = Shifted(logits=torch.zeros(3, 10)).to_event(1)
    torch.testing.assert_close(
        log_density(fn, torch.ones(10)), fn.log_prob(torch.ones(10)).double()
    )


@pytest.mark.parametrize("count", [1, 127, 128, 129, 1000])
def test_accurate_sum(count):
    values = torch.randn(5, count) - 100
    exact = values.double().sum(-1)
    torch.testing.assert_close(accurate_sum(values), exact, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(accurate_sum(values.double()), exact)


def test_gradients_are_those_of_the_sum_of_terms():
    logits = torch.randn(4, 70, dtype=torch.float64, requires_grad=True)
    bits = (torch.rand(4, 70, dtype=torch.float64) < 0.5).double().requires_grad_()
    fn = dist.Bernoulli(logits=logits, validate_args=False).to_event(1)
    for value, leaves in ((bits.detach(), [logits]), (bits, [logits, bits])):
        found = torch.autograd.grad(log_density(fn, value).sum(), leaves, retain_graph=True)
        right = torch.autograd.grad(fn.log_prob(value).sum(), leaves, retain_graph=True)
        for a, b in zip(found, right, strict=True):
            torch.testing.assert_close(a, b)


# ----------------------------------------------------------------------------------- of normals
@pytest.mark.parametrize("shape", [(1,), (8,), (200,), (3, 2, 40)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_normal(shape, offset):
    """Far from the origin and close together, where a product with 1 / s first would cancel."""
    loc, scale = offset + torch.randn(4, *shape), torch.rand(4, *shape) + 0.1
    x = loc + scale * torch.randn(6, 4, *shape)
    fn = dist.Normal(loc, scale).to_event(len(shape))
    found, own = log_density(fn, x), fn.log_prob(x)
    exact = dist.Normal(loc.double(), scale.double()).to_event(len(shape)).log_prob(x.double())
    assert found.dtype == F64
    assert found.shape == (6, 4)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-5)
    assert (found - exact).abs().max() <= 3 * (own - exact).abs().max() + 1e-5


def test_normal_of_shared_parameters_and_values():
    """Parameters that all data share, and one value for many parameters."""
    x = torch.randn(5, 4, 3)
    unit = dist.Normal(0.0, 2.0).expand([3]).to_event(1)
    torch.testing.assert_close(log_density(unit, x).float(), unit.log_prob(x))
    many = dist.Normal(torch.randn(5, 4, 3), torch.rand(3) + 0.1).to_event(1)
    torch.testing.assert_close(log_density(many, x[0, 0]).float(), many.log_prob(x[0, 0]))


def test_normal_has_the_gradients_of_its_log_prob():
    loc, scale, x = (
        torch.randn(4, 3, dtype=F64),
        torch.rand(4, 3, dtype=F64) + 0.1,
        torch.randn(6, 4, 3, dtype=F64),
    )
    given = [t.requires_grad_() for t in (loc, scale, x)]
    ours = torch.autograd.grad(normal_log_density(loc, scale, x, 1).sum(), given)
    own = torch.autograd.grad(dist.Normal(loc, scale).log_prob(x).sum(), given)
    for a, b in zip(ours, own, strict=True):
        torch.testing.assert_close(a, b)


def test_normal_values_are_validated_where_the_program_asks():
    fn = dist.Normal(torch.zeros(3), 1.0, validate_args=True).to_event(1)
    with pytest.raises(ValueError, match="within the support"):
        log_density(fn, torch.tensor([0.0, torch.nan, 0.0]))
