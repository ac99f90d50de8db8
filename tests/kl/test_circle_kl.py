"""KL on the circle and of the projected normal, from their definitions, out to extremes."""

import itertools
import math

import mpmath as mp
import pytest
import torch
import torch.distributions as td

from pyro_vae import families as fam
from pyro_vae import kl
from pyro_vae.distributions import (
    CircularUniform,
    ProjectedNormal,
    SphericalUniform,
    VonMises,
    VonMisesFisher,
    WrappedNormal,
)
from pyro_vae.families.pairing import check_pair, side
from pyro_vae.kl.closed_forms import projected_normal
from pyro_vae.kl.closed_forms.circle import log_euler, negentropy

F64 = torch.float64


def t(x):
    return torch.tensor(x, dtype=F64)


# ------------------------------------------------------------------------------- the oracle
def log_wrapped(d, s):
    d, s = mp.mpf(d), mp.mpf(s)
    d -= 2 * mp.pi * mp.nint(d / (2 * mp.pi))
    if s > 3:
        waves = mp.fsum(mp.exp(-n * n * s * s / 2) * mp.cos(n * d) for n in range(1, 9))
        return mp.log((1 + 2 * waves) / (2 * mp.pi))
    powers = [-((d + 2 * mp.pi * k) ** 2) / (2 * s * s) for k in range(-5, 6)]
    top = max(powers)
    return top + mp.log(mp.fsum(mp.exp(x - top) for x in powers)) - mp.log(s * mp.sqrt(2 * mp.pi))


def log_von_mises(d, k):
    k = mp.mpf(k)
    return k * mp.cos(d) - mp.log(2 * mp.pi * mp.besseli(0, k))


LOGS = {
    VonMises: log_von_mises,
    WrappedNormal: log_wrapped,
    CircularUniform: lambda d, _: -mp.log(2 * mp.pi),
}


def definition(q, shape_q, p, shape_p, turn):
    """The integral of q (log q - log p), p's mean at -turn, in pieces that end at its bend."""
    with mp.workdps(25):
        width = {
            VonMises: lambda: 14 / mp.sqrt(shape_q),
            WrappedNormal: lambda: 14 * mp.mpf(shape_q),
            CircularUniform: lambda: mp.pi,
        }[q]()
        reach = min(mp.pi, width)
        places = {reach * mp.mpf(j) / 6 for j in range(-6, 7)}
        if p is WrappedNormal:
            bend = mp.mpf(shape_p) ** 2 / (2 * mp.pi)
            at = (mp.pi if turn > 0 else -mp.pi) - turn
            steps = itertools.product((-2 * mp.pi, 0, 2 * mp.pi), (-37, -8, 0, 8, 37))
            marks = {at + around + n * bend for around, n in steps}
            places |= {x for x in marks if -reach < x < reach}

        def integrand(y):
            log_q = LOGS[q](y, shape_q)
            return mp.exp(log_q) * (log_q - LOGS[p](y + turn, shape_p))

        return float(mp.quad(integrand, sorted(places)))


def member(cls, loc, shape):
    return CircularUniform((), t(0.0)) if cls is CircularUniform else cls(t(loc), t(shape))


SHAPES = {
    VonMises: [1e-3, 1.0, 12.0, 1e3, 1e6],
    WrappedNormal: [1e-4, 0.05, 0.34, 0.36, 1.0, 2.6, 5.0],
    CircularUniform: [0.0],
}
CASES = [
    (q, a, p, b, turn)
    for i, (q, p) in enumerate(itertools.product(LOGS, LOGS))
    for j, (a, b) in enumerate(itertools.product(SHAPES[q], SHAPES[p]))
    for turn in [(0.0, 0.7, 3.1)[(i + j) % 3]]
    if CircularUniform in (q, p) or j % 4 == i % 4
]


@pytest.mark.parametrize(
    ("q", "a", "p", "b", "turn"),
    CASES,
    ids=[f"{q.__name__}({a})-{p.__name__}({b})-{turn}" for q, a, p, b, turn in CASES],
)
def test_the_definition(q, a, p, b, turn):
    # the turn of p seen from q is measured in its own coordinate
    guide, prior = member(q, 1.0, a), member(p, 1.0 - turn, b)
    exact = definition(q, a, p, b, turn)
    assert kl.divergence(guide, prior).item() == pytest.approx(exact, rel=1e-9, abs=1e-9)
    assert kl.route(guide, prior).kind == "closed"


@pytest.mark.parametrize("q", LOGS)
@pytest.mark.parametrize("p", LOGS)
@pytest.mark.parametrize(
    "sizes", [(1e-6, 1e6), (1e6, 1e-6), (1e-6, 1e-6), (1e6, 1e6), (1.0, 1e-3)]
)
def test_extremes_are_finite_with_finite_gradients_in_single_precision(q, p, sizes):
    leaves = [torch.tensor(x, requires_grad=True) for x in (0.4, sizes[0], -2.7, sizes[1])]

    def make(cls, loc, size):
        return CircularUniform() if cls is CircularUniform else cls(loc, size)

    value = kl.divergence(make(q, *leaves[:2]), make(p, *leaves[2:]))
    assert bool(value.isfinite())
    assert value >= -1e-6
    if value.requires_grad:
        for g in torch.autograd.grad(value, leaves, allow_unused=True):
            assert g is None or bool(g.isfinite())


@pytest.mark.parametrize("s", [0.1, 0.349, 0.351, 0.6, 1.0, 2.0, 2.5, 2.51, 4.0])
def test_entropy_and_eulers_function(s):
    with mp.workdps(25):
        exact = definition(WrappedNormal, s, CircularUniform, 0.0, 0.0)
        product = float(mp.log(mp.qp(mp.exp(-(mp.mpf(s) ** 2)))))
    assert negentropy(t(s)).item() == pytest.approx(exact, rel=1e-12, abs=1e-15)
    assert log_euler(t(s)).item() == pytest.approx(product, rel=1e-13)


def test_nothing_between_equals():
    for cls, size in ((VonMises, 3.0), (WrappedNormal, 0.2), (WrappedNormal, 1.5)):
        loc, shape = t(0.3).requires_grad_(), t(size).requires_grad_()
        value = kl.divergence(cls(loc, shape), cls(loc.detach(), shape.detach()))
        assert abs(value.item()) < 1e-13
        for g in torch.autograd.grad(value, (loc, shape)):
            assert abs(g.item()) < 1e-12


def test_torch_is_served_as_well():
    q, p = WrappedNormal(t(0.3), t(0.5)), td.VonMises(t(0.1), t(2.0))
    torch.testing.assert_close(td.kl_divergence(q, p), kl.divergence(q, VonMises(t(0.1), t(2.0))))
    torch.testing.assert_close(td.kl_divergence(p, q), kl.divergence(p, q))


def test_a_torus_is_the_sum_of_its_circles():
    q = fam.VonMises(3, loc=[0.0, 1.0, 2.0], concentration=[1.0, 5.0, 50.0])()
    p = fam.WrappedNormal(3)()
    each = kl.divergence(q.base_dist, p.base_dist)
    assert each.shape == (3,)
    torch.testing.assert_close(kl.divergence(q, p), each.sum())


def test_circles_stand_beside_circles_alone():
    circles = [fam.VonMises(2), fam.WrappedNormal(2), fam.CircularUniform(2)]
    for q, p in itertools.product(circles[:2], circles):
        assert check_pair("z", side(q), side(p))
    for q in circles[:2]:
        with pytest.raises(ValueError, match="on the circle.*cannot stand beside"):
            check_pair("z", side(q), side(fam.Normal(2)))
        with pytest.raises(ValueError, match="fam.VonMises, fam.WrappedNormal"):
            check_pair("z", side(fam.Normal(2)), side(q))


# ------------------------------------------------------------------------------- projected normal
def mean_ratio(c, m):
    half = mp.mpf(m) / 2
    ratio = mp.gamma(half + 0.5) / (mp.sqrt(2) * mp.gamma(half + 1))
    return float(ratio * mp.hyp1f1(0.5, half + 1, -(mp.mpf(c) ** 2) / 2))


@pytest.mark.parametrize("m", [2, 3, 10, 1000])
@pytest.mark.parametrize("c", [0.0, 1e-6, 1e-4, 0.5, 8.9, 9.1, 40.0, 1e3])
def test_mean_of_a_projected_normal(c, m):
    found = projected_normal.mean_ratio(t(c), m).item()
    assert found == pytest.approx(mean_ratio(c, m), rel=1e-7)


def on_axis(length, m):
    c = torch.zeros(m, dtype=F64)
    c[0] = length
    return c


def circle_sum(f, count=4096):
    """The integral over the angle on S^1."""
    angle = torch.arange(count, dtype=F64) * (2 * math.pi / count)
    return f(torch.stack([angle.cos(), angle.sin()], -1)).sum() * (2 * math.pi / count)


@pytest.mark.parametrize("length", [0.0, 1e-3, 2.0, 9.5, 100.0])
def test_projected_normal_on_the_circle(length):
    q, flat = ProjectedNormal(on_axis(length, 2)), SphericalUniform(2, (), t(0.0))
    fisher = VonMisesFisher(t([0.6, 0.8]), t(5.0))
    for a, b in ((q, flat), (flat, q), (q, fisher)):
        exact = circle_sum(
            lambda u, a=a, b=b: a.log_prob(u).exp() * (a.log_prob(u) - b.log_prob(u))
        )
        assert kl.route(a, b).kind == "closed"
        assert kl.divergence(a, b).item() == pytest.approx(exact.item(), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("m", [3, 20, 300])
def test_projected_normal_agrees_with_samples(m):
    c = (2 * torch.randn(m, dtype=F64)).requires_grad_()
    q, flat = ProjectedNormal(c), SphericalUniform(m, (), t(0.0))
    fisher = VonMisesFisher(
        torch.nn.functional.normalize(torch.randn(m, dtype=F64), dim=0), t(9.0)
    )
    for a, b in ((q, flat), (flat, q), (q, fisher)):
        exact = kl.divergence(a, b)
        x = a.sample((4000,))
        ratios = (a.log_prob(x) - b.log_prob(x)).detach()
        error = ratios.std().item() / math.sqrt(len(ratios))
        # one check in 150,000 fails by chance
        assert abs(ratios.mean().item() - exact.item()) < 4.5 * error


def test_gradients_of_projected_normals():
    flat = SphericalUniform(4, (), t(0.0))
    fisher = VonMisesFisher(t([0.0, 0.6, 0.0, 0.8]), t(3.0))
    for c in (torch.zeros(4, dtype=F64), t([1.0, -2.0, 0.5, 0.0]), t([40.0, 0.0, 0.0, 9.0])):
        c = c.requires_grad_()
        for form in (
            lambda c: kl.divergence(ProjectedNormal(c), flat),
            lambda c: kl.divergence(flat, ProjectedNormal(c)),
            lambda c: kl.divergence(ProjectedNormal(c), fisher),
        ):
            assert torch.autograd.gradcheck(form, (c,), atol=1e-6, rtol=1e-6)


def test_two_axes_are_sampled_and_told():
    q, p = ProjectedNormal(on_axis(1.0, 3)), ProjectedNormal(on_axis(2.0, 3))
    assert kl.route(q, p).kind == "sampled"
