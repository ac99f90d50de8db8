"""Whole training steps, and lifted noise: common, antithetic and quasi-random draws."""

import copy

import pyro
import pytest
import torch
from builders import binary, copies, small_vae, unmoved
from infer_laws import spread
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

from pyro_vae import families as fam
from pyro_vae.infer import (
    NotCapturable,
    TraceExactKL_ELBO,
    TraceIWAE_ELBO,
    TraceSTL_ELBO,
    capture,
)

OPTIMIZERS = {
    "fused_adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused_adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, fused=True, maximize=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9),
}


def by_hand(vae, optimizer, elbo, x, steps, schedule=None):
    module = elbo(vae.model, vae.guide)
    for _ in range(steps):
        optimizer.zero_grad()
        module(x).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_what_a_loop_by_hand_does(name):
    vae, x = small_vae(), binary()
    other = copy.deepcopy(vae)
    a, b = (OPTIMIZERS[name](v.parameters()) for v in (vae, other))
    torch.manual_seed(1)
    by_hand(other, b, TraceExactKL_ELBO(), x, 4)
    captured = capture(TraceExactKL_ELBO(), vae.model, vae.guide, x, optimizer=a)
    torch.manual_seed(1)
    for _ in range(4):
        captured.step(x)
    for p, q in zip(vae.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(a.state.values(), b.state.values(), strict=True):
        for key in mine:
            torch.testing.assert_close(mine[key], theirs[key], rtol=1e-4, atol=1e-6)


def test_schedules_and_changed_settings_of_the_optimizer_are_heard():
    vae, x = small_vae(), binary()
    other = copy.deepcopy(vae)
    a, b = (OPTIMIZERS["fused_adam"](v.parameters()) for v in (vae, other))
    mine, theirs = (torch.optim.lr_scheduler.StepLR(o, 1, 0.5) for o in (a, b))
    captured = capture(Trace_ELBO(), vae.model, vae.guide, x, optimizer=a)
    torch.manual_seed(1)
    by_hand(other, b, Trace_ELBO(), x, 3, theirs)
    torch.manual_seed(1)
    for _ in range(3):
        captured.step(x)
        mine.step()
    for p, q in zip(vae.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_another_optimizer_goes_on_where_the_first_ended():
    vae, x = small_vae(), binary()
    other = copy.deepcopy(vae)
    torch.manual_seed(1)
    for name in ("fused_adam", "sgd"):
        by_hand(other, OPTIMIZERS[name](other.parameters()), Trace_ELBO(), x, 2)
    first = OPTIMIZERS["fused_adam"](vae.parameters())
    captured = capture(Trace_ELBO(), vae.model, vae.guide, x, optimizer=first)
    torch.manual_seed(1)
    for optimizer in (first, OPTIMIZERS["sgd"](vae.parameters())):
        captured.optimizer = optimizer
        for _ in range(2):
            captured.step(x)
    for p, q in zip(vae.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="holds none of the parameters"):
        captured.optimizer = OPTIMIZERS["sgd"](other.parameters())


def test_pyro_optimizers():
    vae, x = small_vae(name="mine"), binary()
    captured = capture(
        TraceMeanField_ELBO(),
        vae.model,
        vae.guide,
        x,
        optimizer=pyro.optim.Adam({"lr": 0.01}),
    )
    other = copy.deepcopy(vae)
    svi = SVI(other.model, other.guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
    torch.manual_seed(1)
    losses = [svi.step(x) for _ in range(3)]
    torch.manual_seed(1)
    torch.testing.assert_close([captured.step(x).item() for _ in range(3)], losses)
    for p, q in zip(vae.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_gradients_add_up_as_those_of_backward_do():
    vae, x = small_vae(), binary()
    captured = capture(Trace_ELBO(), vae.model, vae.guide, x)
    torch.manual_seed(1)
    captured(x)
    once = [p.grad.clone() for p in vae.parameters()]
    torch.manual_seed(1)
    captured(x)
    for p, g in zip(vae.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * g)
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1e-3)  # writes into the gradients
    vae.zero_grad()
    torch.manual_seed(1)
    captured(x)
    for p, g in zip(vae.parameters(), once, strict=True):
        assert torch.equal(p.grad, g)


def test_a_loss_that_is_not_finite_moves_no_parameter():
    vae, x = small_vae(), binary()
    optimizer = OPTIMIZERS["fused_adam"](vae.parameters())
    captured = capture(TraceExactKL_ELBO(), vae.model, vae.guide, x, optimizer=optimizer)
    captured.step(x)
    before = copies(vae)
    with pytest.raises(ValueError, match="outside the support"):
        captured.step(x + 0.5)
    assert unmoved(vae, before) == list(before)


def test_an_optimizer_of_somebody_else_is_refused():
    vae, x = small_vae(), binary()
    stranger = OPTIMIZERS["adam"](copy.deepcopy(vae).parameters())
    with pytest.raises(ValueError, match="holds none of the parameters"):
        capture(Trace_ELBO(), vae.model, vae.guide, x, optimizer=stranger)
    with pytest.raises(TypeError, match="must be a torch.optim.Optimizer"):
        capture(Trace_ELBO(), vae.model, vae.guide, x, optimizer="adam")


def test_the_loss_alone_costs_no_gradient():
    vae, x = small_vae(), binary()
    captured = capture(Trace_ELBO(), vae.model, vae.guide, x)
    torch.manual_seed(2)
    loss = captured.loss(x)
    torch.manual_seed(2)
    torch.testing.assert_close(loss.item(), Trace_ELBO().loss(vae.model, vae.guide, x))
    assert all(p.grad is None for p in vae.parameters())


# ----------------------------------------------------------------------------------------- noise
def vectorised(elbo=TraceExactKL_ELBO, particles=8, **options):
    return elbo(particles, vectorize_particles=True, max_plate_nesting=1, **options)


def test_lifted_noise_is_drawn_from_the_same_stream():
    vae, x = small_vae(), binary()
    plain = capture(Trace_ELBO(), vae.model, vae.guide, x)
    lifted = capture(Trace_ELBO(), vae.model, vae.guide, x, noise="random")
    assert [source.lifted for source in lifted.graphs[0].random] == [True]
    torch.manual_seed(1)
    a = plain(x)
    torch.manual_seed(1)
    assert torch.equal(lifted(x), a)


def test_two_elbos_with_common_random_numbers():
    vae, x = small_vae(), binary()
    elbos = Trace_ELBO(), TraceMeanField_ELBO(), TraceExactKL_ELBO()
    trace, field, exact = (
        capture(elbo, vae.model, vae.guide, x, noise="random") for elbo in elbos
    )
    noise = trace.draw_noise(x)
    assert trace.at(noise, x) == trace.at(noise, x)
    torch.testing.assert_close(field.at(noise, x), exact.at(noise, x))
    plain = capture(Trace_ELBO(), vae.model, vae.guide, x)
    for call in (lambda: plain.draw_noise(x), lambda: plain.at(noise, x)):
        with pytest.raises(ValueError, match="holds its noise itself"):
            call()


@pytest.mark.parametrize("family", ["Normal", "Laplace", "Kumaraswamy"])
@pytest.mark.parametrize("kind", ["antithetic", "quasi"])
def test_leaning_particles_leave_the_expectation_and_lower_the_noise(family, kind):
    guide = getattr(fam, family)(2, context=8)
    prior = getattr(fam, family)(2)
    vae, x = small_vae(prior, guide), binary()
    elbo = vectorised(TraceSTL_ELBO)  # one law for all: no quadrature in the graph
    plain = capture(elbo, vae.model, vae.guide, x)
    leaning = capture(elbo, vae.model, vae.guide, x, noise=kind)
    first, second = spread(plain, x, vae, 150), spread(leaning, x, vae, 150)
    z = (first.mean(0) - second.mean(0)) / ((first.var(0) + second.var(0)) / 150).sqrt()
    assert float(z.abs().max()) < 6  # of a hundred numbers, at a failure probability of 1e-6
    assert float(second.var(0).sum() / first.var(0).sum()) < 0.7


def test_particles_by_loop_lean_on_each_other_too():
    vae, x = small_vae(), binary()
    plain = capture(TraceExactKL_ELBO(4), vae.model, vae.guide, x)
    leaning = capture(TraceExactKL_ELBO(4), vae.model, vae.guide, x, noise="antithetic")
    first, second = spread(plain, x, vae, 150), spread(leaning, x, vae, 150)
    assert float(second.var(0).sum() / first.var(0).sum()) < 0.7


def test_noise_that_cannot_lean_is_refused_or_told():
    vae, x = small_vae(), binary()
    with pytest.raises(ValueError, match="needs several particles"):
        capture(TraceExactKL_ELBO(), vae.model, vae.guide, x, noise="quasi")
    with pytest.raises(ValueError, match="needs an even number"):
        capture(vectorised(particles=3), vae.model, vae.guide, x, noise="antithetic")
    gamma = small_vae(fam.Gamma(2), fam.Gamma(2, context=8))
    captured = capture(Trace_ELBO(), gamma.model, gamma.guide, x, noise="random")
    assert any(not source.lifted for source in captured.graphs[0].random)
    with pytest.raises(NotCapturable, match="_standard_gamma"):
        capture(vectorised(), gamma.model, gamma.guide, x, noise="antithetic")


def test_importance_weights_of_leaning_particles_keep_their_bound():
    vae, x = small_vae(), binary()
    elbo = vectorised(TraceIWAE_ELBO, gradient="dreg")
    plain = capture(elbo, vae.model, vae.guide, x)
    leaning = capture(elbo, vae.model, vae.guide, x, noise="quasi")
    a, b = (torch.stack([c.loss(x) for _ in range(200)]).double() for c in (plain, leaning))
    assert b.mean() < a.mean() + 5 * ((a.var() + b.var()) / 200).sqrt()
