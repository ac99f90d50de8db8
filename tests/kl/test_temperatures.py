"""Concrete distributions: gradients in either temperature, and temperatures that differ."""

import pytest
import torch
import torch.distributions as td
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_vae import kl
from pyro_vae.kl.oracle import truth

D = torch.float64
LOGITS = torch.tensor([[0.3, -0.5, 0.9], [1.0, 0.5, -1.0]], dtype=D)
PRIOR = torch.tensor([[0.0, 1.0, -0.2], [1.0, 0.5, -1.0]], dtype=D)


def both(cls, left, right, q_logits, p_logits):
    return cls(left, logits=q_logits), cls(right, logits=p_logits)


def derivatives(value, leaves):
    """All first derivatives, and the second ones that have a temperature in them."""
    first = torch.autograd.grad(value.sum(), leaves, create_graph=True)
    second = [torch.autograd.grad(g.sum(), leaves, retain_graph=True) for g in first[:2]]
    return [*first, *(g for row in second for g in row)]


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_derivatives_in_each_temperature(temperature):
    leaves = [torch.tensor(temperature, dtype=D, requires_grad=True) for _ in range(2)]
    leaves += [t.clone().requires_grad_() for t in (LOGITS, PRIOR)]
    q, p = both(td.RelaxedOneHotCategorical, *leaves)
    exact, error, _ = truth(q, p)
    value = kl.divergence(q, p)
    assert (error < 1e-7).all()
    torch.testing.assert_close(value, exact, rtol=1e-7, atol=1e-8)
    found, known = derivatives(value, leaves), derivatives(exact, leaves)
    assert known[0].abs() > 0.1  # what a form that knows no temperature takes for 0
    for ours, theirs in zip(found, known, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    slopes = torch.autograd.grad(kl.divergence(q, q).sum(), leaves[::2])
    assert all(g.abs().max() < 1e-12 for g in slopes)


@pytest.mark.parametrize("side", [0, 1], ids=["guide", "prior"])
def test_the_gradient_is_the_slope_of_the_sum_at_unequal_temperatures(side):
    """Finite differences of the oracle's value, which no gradient of anybody's enters."""
    step = 1e-3

    def exact(change):
        t = [torch.tensor([0.8], dtype=D) + change * (i == side) for i in range(2)]
        return truth(*both(td.RelaxedOneHotCategorical, *t, LOGITS[:1], PRIOR[:1])).value.item()

    slope = (8 * (exact(step) - exact(-step)) - exact(2 * step) + exact(-2 * step)) / (12 * step)
    t = [torch.tensor(0.8, dtype=D, requires_grad=True) for _ in range(2)]
    value = kl.divergence(*both(td.RelaxedOneHotCategorical, *t, LOGITS[:1], PRIOR[:1]))
    assert torch.autograd.grad(value.sum(), t[side])[0].item() == pytest.approx(slope, rel=1e-6)


def test_one_temperature_for_both_sides_has_no_gradient():
    t = torch.tensor(0.8, dtype=D, requires_grad=True)
    value = kl.divergence(*both(td.RelaxedOneHotCategorical, t, t, LOGITS, PRIOR))
    (slope,) = torch.autograd.grad(value.sum(), t)
    assert slope.abs() < 1e-12


@pytest.mark.parametrize("cls", [td.RelaxedOneHotCategorical, ExpRelaxedCategorical])
def test_temperatures_that_differ_are_told(cls):
    q, p = both(cls, torch.tensor(0.5), torch.tensor([0.5, 0.7]), LOGITS, PRIOR)
    told = kl.route(q, p)
    assert told.kind == "sampled"
    words = "does not hold where temperatures differ, as they do in 1 of 2 elements"
    assert words in told.reason
    with pytest.raises(kl.NoExactKL, match=words):
        kl.divergence(q, p)
    value, error = kl.divergence(q, p, with_error=True)
    assert value[0].isfinite()
    assert error.tolist() == [0, torch.inf]


def test_two_classes_of_unequal_temperatures_are_exact():
    t = [torch.tensor([v], dtype=D, requires_grad=True) for v in (0.6, 1.3)]
    logits = [torch.tensor([v], dtype=D) for v in ([0.5, 0.0], [-1.0, 0.25])]
    q, p = both(td.RelaxedOneHotCategorical, *t, *logits)
    exact, value = truth(q, p).value, kl.divergence(q, p)
    assert kl.route(q, p).kind == "quadrature"
    torch.testing.assert_close(value, exact, rtol=1e-7, atol=1e-8)
    slopes = [torch.autograd.grad(v.sum(), t) for v in (value, exact)]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
