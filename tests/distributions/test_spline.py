"""Splines: zuko's in float64, and a bijection in float32 where the textbook's root is not."""

import math

import pytest
import torch
from torch.distributions import Distribution

from pyro_vae.distributions import CircularSpline, Spline

VALIDATION = Distribution._validate_args
from zuko.transforms import MonotonicRQSTransform  # noqa: E402  (switches validation off)

Distribution.set_default_validate_args(VALIDATION)
BINS = 8


def numbers(size, count=2000, ends=-1):
    return [size * torch.randn(count, n) for n in (BINS, BINS, BINS + ends)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [0.3, 1.0, 10.0])
def test_it_is_zukos_spline(size):
    given, x = numbers(size), (3 * torch.randn(2000)).requires_grad_()
    leaves = [x, *(t.requires_grad_() for t in given)]
    found, expected = (s(*given).call_and_ladj(x) for s in (Spline, MonotonicRQSTransform))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        weights = torch.randn_like(a)
        grads = [
            torch.autograd.grad((weights * t).sum(), leaves, retain_graph=True) for t in (a, b)
        ]
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cls", [Spline, CircularSpline])
def test_the_inverse_has_the_derivatives_of_finite_differences(cls):
    given = numbers(1.0, 5, 0 if cls is CircularSpline else -1)
    leaves = [t.requires_grad_() for t in (torch.tensor([-3.0, -1.0, 0.1, 1.0, 3.0]), *given)]
    for direction in (lambda s: s, lambda s: s.inv):
        assert torch.autograd.gradcheck(
            lambda x, *t, to=direction: to(cls(*t)).call_and_ladj(x), leaves
        )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cls", [Spline, CircularSpline])
def test_the_inverse_undoes_it(cls):
    spline = cls(*numbers(3.0, ends=0 if cls is CircularSpline else -1))
    x = math.pi * (2 * torch.rand(2000) - 1)
    y, log_slope = spline.call_and_ladj(x)
    back, log_inverse = spline.inv.call_and_ladj(y)
    torch.testing.assert_close(back, x, rtol=1e-6, atol=1e-6)
    # as precise as the way back, where the slope changes fast
    torch.testing.assert_close(log_inverse, -spline.log_abs_det_jacobian(back, y))
    assert float((log_inverse + log_slope).abs().median()) < 1e-12
    assert torch.equal(spline.inv.inv(x), y)


def test_single_precision_is_enough_where_the_textbooks_root_is_no_number():
    """The difference b^2 - 4 a c is negative by rounding, where slopes are far apart."""
    given = numbers(10.0, 100_000)
    theirs = MonotonicRQSTransform(*given)
    y = theirs(10 * torch.rand(100_000) - 5)
    assert bool(theirs.inv(y).isnan().any())
    leaves = [t.requires_grad_() for t in (y, *given)]
    x, log_slope = Spline(*given).inv.call_and_ladj(y)
    (x.sum() + log_slope.sum()).backward()
    assert all(bool(t.isfinite().all()) for t in (x, log_slope, *(leaf.grad for leaf in leaves)))
    # exact to rounding, as it is seen in double precision
    with torch.no_grad():
        double = Spline(*(t.double() for t in given))
        away = (double(x.double()) - y).abs() / double.call_and_ladj(x.double())[1].exp().clamp(
            1.0
        )
    assert float(away.quantile(0.999)) < 1e-5


@pytest.mark.parametrize("cls", [Spline, CircularSpline])
def test_ends_and_what_lies_beyond(cls):
    spline = cls(*numbers(2.0, 500, 0 if cls is CircularSpline else -1))
    bound = torch.tensor(spline.bound)
    ends = torch.stack([-bound, bound])[:, None].expand(2, 500)
    for way in (spline, spline.inv):
        y, log_slope = way.call_and_ladj(ends)
        assert bool(y.isfinite().all())
        assert bool(log_slope.isfinite().all())
        assert bool((y.abs() <= bound).all())
    if cls is Spline:
        assert torch.equal(spline(2 * ends), 2 * ends)
        assert torch.equal(spline.call_and_ladj(2 * ends)[1], torch.zeros(2, 500))


@pytest.mark.usefixtures("float64")
def test_the_circles_density_goes_on_across_its_cut():
    spline = CircularSpline(*numbers(1.0, 500, 0))
    for point in (math.pi, 0.0):  # where the angles are cut, and where the spline is
        near = 1e-9
        below, above = (point - near, near - point) if point else (-near, near)
        one, other = (spline.call_and_ladj(torch.full((500,), x))[1] for x in (below, above))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
        assert float(one.abs().min()) > 0


def test_zeros_are_the_identity():
    x = torch.linspace(-4.0, 4.0, 9)
    y, log_slope = Spline(torch.zeros(8), torch.zeros(8), torch.zeros(7)).call_and_ladj(x)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(log_slope, torch.zeros(9), rtol=0, atol=1e-6)
