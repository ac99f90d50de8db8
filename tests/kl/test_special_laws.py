"""Laws of special forms and reductions: samples, derivatives, shapes, dtypes, graphs, vmap."""

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from special_cases import CASES, mvt, parameters
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import kl
from pyro_vae.distributions import WrappedNormal

EACH = pytest.mark.parametrize("name", list(CASES))
CAPTURABLE = pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.capturable])


def value(name, *leaves):
    return kl.divergence(*CASES[name].make(*leaves))


@EACH
def test_the_route_is_exact(name):
    told = kl.route(*CASES[name].make(*parameters(name)))
    assert told.kind in ("closed", "quadrature")
    assert told.finite.all()


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.samples])
@pytest.mark.filterwarnings("ignore:Singular sample")
def test_samples_agree_within_five_standard_errors(name):
    leaves = parameters(name)
    q, p = CASES[name].make(*leaves)
    with dist.validation_enabled(False):
        mean, std_error, _ = kl.estimate(q, p, 20_000)
    exact = kl.divergence(q, p).detach()
    assert exact.shape == (3,)
    # all cases have a log ratio of finite variance, so that the standard error holds
    assert ((mean - exact).abs() < 5 * std_error + 1e-9).all()


@EACH
def test_gradients_are_those_of_finite_differences(name):
    leaves = [x[:1].detach().requires_grad_() for x in parameters(name)]
    assert torch.autograd.gradcheck(
        lambda *x: value(name, *x), leaves, atol=1e-6, rtol=1e-6, fast_mode=True
    )


@pytest.mark.parametrize("name", ["full-student", "student-student", "concrete-concrete"])
def test_second_derivatives_too(name):
    leaves = [x[:1].detach().requires_grad_() for x in parameters(name)]
    assert torch.autograd.gradgradcheck(
        lambda *x: value(name, *x), leaves, atol=1e-5, rtol=1e-5, fast_mode=True
    )


@EACH
def test_batch_shapes_broadcast(name):
    q, p = CASES[name].make(*parameters(name))
    exact = kl.divergence(q, p)
    wide = kl.divergence(q.expand([2, 3]), p)
    assert wide.shape == (2, 3)
    torch.testing.assert_close(wide, exact.expand(2, 3), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        kl.divergence(q, p.expand([2, 3])), exact.expand(2, 3), rtol=1e-9, atol=1e-12
    )


@EACH
def test_float32(name):
    single = value(name, *parameters(name, dtype=torch.float32))
    assert single.dtype == torch.float32
    double = value(name, *parameters(name))
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-6)


@CAPTURABLE
def test_a_graph_replays_value_and_gradient(name):
    def both(*leaves):
        total = kl.divergence(*CASES[name].make(*leaves), with_error=True)[0].sum()
        grads = torch.autograd.grad(total, leaves, materialize_grads=True)
        return total, *grads

    first, other = parameters(name), parameters(name, seed=1)
    with dist.validation_enabled(False):
        graph = make_fx(both)(*first)
        for x in (first, other):
            for ours, captured in zip(both(*x), graph(*x), strict=True):
                torch.testing.assert_close(captured, ours, rtol=1e-6, atol=1e-8)


@CAPTURABLE
def test_vmap_is_the_batch(name):
    leaves = [x.detach() for x in parameters(name)]

    def one(*x):
        return kl.divergence(*CASES[name].make(*x), with_error=True)[0]

    with dist.validation_enabled(False):
        mapped = torch.func.vmap(one)(*leaves)
    torch.testing.assert_close(mapped, value(name, *leaves), rtol=1e-7, atol=1e-9)


SAME = {
    "student-student": 3,
    "wishart-wishart": 2,
    "lkj-lkj": 1,
    "concrete-concrete": 1,
    "von_mises": 2,
}


@pytest.mark.parametrize("name", list(SAME))
def test_exactly_zero_with_zero_gradient_where_q_is_p(name):
    half = parameters(name)[: SAME[name]]
    other = [x.detach().clone() for x in half]
    # the two sides of this case bound df differently
    make = (
        (lambda *x: (mvt(*x[:3]), mvt(*x[3:]))) if name == "student-student" else CASES[name].make
    )
    nothing = kl.divergence(*make(*half, *other))
    assert (nothing == 0).all()
    for g in torch.autograd.grad(nothing.sum(), half):
        assert g.abs().max() < 1e-13


def test_special_classes_are_all_in_the_cases():
    special = {dist.MultivariateStudentT, td.Wishart, td.LKJCholesky, td.VonMises, WrappedNormal}
    registered = {
        pair
        for pair in kl.table.forms()
        if any(key in special for key in pair if isinstance(key, type))
    }
    covered = set()
    for name in CASES:
        q, p = CASES[name].make(*parameters(name))
        covered.add((kl.table.key_of(q), kl.table.key_of(p)))
    assert registered <= covered, f"no case for {registered - covered}"
