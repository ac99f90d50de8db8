"""The quadrature in batches, in graphs, and of lines made of others."""

import mpmath as mp
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from random_lines import draw
from test_quadrature import gradient, named, real, rule
from torch.distributions import transforms
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import kl
from pyro_vae.distributions import LogitNormal
from pyro_vae.kl import lines as kl_lines
from pyro_vae.kl.lines import line_of
from pyro_vae.kl.quadrature import accepted, traced

F64 = torch.float64


# -------------------------------------------------------------------------------- batches, graphs
def test_batches_broadcast():
    q = td.Normal(torch.randn(5, 1, 3, dtype=F64), real(0.7))
    p = td.StudentT(real(3.0, 4.0)[:, None])
    value = kl.divergence(q, p)
    assert value.shape == (5, 2, 3)
    one = kl.divergence(td.Normal(q.loc[4, 0, 2], real(0.7)), td.StudentT(real(4.0)))
    torch.testing.assert_close(value[4, 1, 2], one)
    summed = kl.divergence(q.expand([5, 2, 3]), p.expand([5, 2, 3]))
    wrapped = kl.divergence(
        td.Independent(q.expand([5, 2, 3]), 1), td.Independent(p.expand([5, 2, 3]), 1)
    )
    torch.testing.assert_close(wrapped, summed.sum(-1))
    told = kl.route(td.Independent(q.expand([5, 2, 3]), 1), td.Independent(p.expand([5, 2, 3]), 1))
    assert told.kind == "quadrature"
    assert told.error.shape == (5, 2)
    empty = kl.divergence(td.Normal(torch.zeros(0, 3), 1.0), td.StudentT(3.0))
    assert empty.shape == (0, 3)


def test_an_error_passes_through_every_reduction():
    q, p = dist.Normal(torch.zeros(3, 2), 1.0), dist.StudentT(3.0, torch.ones(2))
    mask = torch.tensor([True, False, True])
    value, error = kl.divergence(q.to_event(1).mask(mask), p.to_event(1), with_error=True)
    assert value.shape == error.shape == (3,)
    assert value[1] == error[1] == 0
    full = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    value, error = kl.divergence(full, p.to_event(1), with_error=True)
    torch.testing.assert_close(value, kl.divergence(q, p)[0].sum())
    assert error < 1e-9


GRAPHS = {
    "normal-student": (lambda a: td.Normal(a, 0.7), lambda a: td.StudentT(3.0, a**2, 2.0)),
    "logit-normal-beta": (lambda a: LogitNormal(a, 0.7), lambda a: td.Beta(a**2 + 1, 2.0)),
    "kumaraswamy-beta": (lambda a: td.Kumaraswamy(a.exp(), 2.0), lambda a: td.Beta(1 + a**2, 2.0)),
    "gamma-half-cauchy": (lambda a: td.Gamma(a.exp(), 2.0), lambda a: td.HalfCauchy(a.exp())),
    "gamma-student": (lambda a: td.Gamma(a.exp(), 2.0), lambda a: td.StudentT(3.0, a, 2.0)),
    "kinked": (
        lambda a: dist.AsymmetricLaplace(a, 1.0, 1.5),
        lambda a: td.StudentT(3.0, a**2, 2.0),
    ),
    "transformed": (
        lambda a: td.TransformedDistribution(td.StudentT(4.0, a), [transforms.SigmoidTransform()]),
        lambda a: td.Beta(a.exp(), 2.0),
    ),
    "mixture": (
        lambda a: td.Normal(a, 1.0),
        lambda a: td.MixtureSameFamily(
            td.Categorical(logits=torch.zeros(3, 2)),
            td.Normal(torch.stack([a, -a], -1), 1.5),
        ),
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_gives_value_error_and_gradient_again(name):
    q, p = GRAPHS[name]

    def both(a):
        value, error = kl.divergence(q(a), p(a), with_error=True)
        return value, error, torch.autograd.grad(value.sum(), a)[0]

    a, other = (torch.tensor(v, requires_grad=True) for v in ([0.1, 0.9, -0.4], [1.0, -2.0, 0.3]))
    with dist.validation_enabled(False):
        graph = make_fx(both)(a)
        for x in (a, other):
            value, error, grad = graph(x)
            torch.testing.assert_close(value, kl.divergence(q(x), p(x), with_error=True)[0])
            torch.testing.assert_close(grad, both(x)[2])
            assert (error < 1e-5).all()
            assert error.shape == (3,)


def test_an_element_that_is_not_exact_is_nan_inside_a_graph():
    def of(scale):
        parts = td.Normal(real(0.0, 1.0).expand(2, 2), scale[:, None].expand(2, 2))
        p = td.MixtureSameFamily(td.Categorical(torch.ones(2, 2, dtype=F64)), parts)
        return kl.divergence(td.Normal(torch.zeros(2, dtype=F64), 1.0), p)

    with dist.validation_enabled(False):
        graph = make_fx(of)(real(1.0, 1.0))
        assert graph(real(1e-7, 1.0)).isnan().tolist() == [True, False]
        with pytest.raises(kl.NoExactKL):
            of(real(1e-7, 1.0))


@pytest.mark.parametrize("name", sorted(set(GRAPHS) - {"mixture"}))
def test_vmap(name):
    q, p = GRAPHS[name]

    def of(a):
        return kl.divergence(q(a), p(a))

    a = torch.tensor([[0.1, 0.9, -0.4], [1.0, -2.0, 0.3]])
    with dist.validation_enabled(False):
        torch.testing.assert_close(torch.func.vmap(of)(a), of(a))
        grads = torch.func.vmap(torch.func.grad(lambda a: of(a).sum()))(a)
        b = a.clone().requires_grad_()
        torch.testing.assert_close(grads, gradient(of(b).sum(), [b])[0], rtol=1e-4, atol=1e-5)
    assert not traced()


@pytest.mark.parametrize(("a", "b"), named([(td.Normal, td.StudentT), (td.Gamma, td.HalfCauchy)]))
def test_fixed_nodes_agree_with_chosen_ones(a, b):
    g = torch.Generator().manual_seed(1)
    q, p = draw(a, 50, g), draw(b, 50, g)
    free, fixed = rule(q, p), rule(q, p, fixed_nodes=True)
    good = accepted(*free) & accepted(*fixed)
    assert good.sum() > 45
    torch.testing.assert_close(free.value[good], fixed.value[good], rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------------------- made of others
def test_an_angle_is_not_a_point_of_the_line():
    assert line_of(td.VonMises(0.0, 1.0)) is None
    assert kl.route(td.VonMises(0.0, 1.0), td.StudentT(3.0)).kind == "sampled"


EQUAL = {
    "affine": (
        td.TransformedDistribution(
            td.StudentT(real(4.0)), [transforms.AffineTransform(real(1.0), real(2.0))]
        ),
        td.StudentT(real(4.0), real(1.0), real(2.0)),
    ),
    "exp": (
        td.TransformedDistribution(td.Normal(real(0.3), real(2.0)), [transforms.ExpTransform()]),
        td.LogNormal(real(0.3), real(2.0)),
    ),
    "sigmoid": (
        td.TransformedDistribution(
            td.Normal(real(0.3), real(2.0)), [transforms.SigmoidTransform()]
        ),
        LogitNormal(real(0.3), real(2.0)),
    ),
    "power": (
        td.TransformedDistribution(
            td.Exponential(real(1.0)), [transforms.PowerTransform(real(0.5))]
        ),
        td.Weibull(real(1.0), real(2.0)),
    ),
    "log": (
        td.TransformedDistribution(
            td.LogNormal(real(0.3), real(2.0)), [transforms.ExpTransform().inv]
        ),
        td.Normal(real(0.3), real(2.0)),
    ),
    "tanh": (
        td.TransformedDistribution(
            dist.Logistic(real(0.0), real(0.5)), [transforms.TanhTransform()]
        ),
        td.Uniform(real(-1.0), real(1.0)),
    ),
    "softplus": (
        # log(1 + exp y) of a Logistic is exponential
        td.TransformedDistribution(
            dist.Logistic(real(0.0), real(1.0)), [transforms.SoftplusTransform()]
        ),
        td.Exponential(real(1.0)),
    ),
    "mirrored": (
        td.TransformedDistribution(
            td.Gumbel(real(1.0), real(2.0)), [transforms.AffineTransform(real(0.0), real(-1.0))]
        ),
        td.TransformedDistribution(
            td.Weibull(real(-1.0).exp(), real(0.5)), [transforms.ExpTransform().inv]
        ),
    ),
    "affine-beta": (
        dist.AffineBeta(real(1.0), real(1.0), real(2.0), real(3.0)),
        td.Uniform(real(2.0), real(5.0)),
    ),
    "composed": (
        td.TransformedDistribution(
            td.Normal(real(0.0), real(1.0)),
            [
                transforms.ComposeTransform(
                    [transforms.AffineTransform(real(0.3), real(2.0)), transforms.ExpTransform()]
                )
            ],
        ),
        td.LogNormal(real(0.3), real(2.0)),
    ),
    "mixture-of-one": (
        td.MixtureSameFamily(
            td.Categorical(torch.ones(1, dtype=F64)), td.StudentT(real(4.0), real(1.0)[None], 2.0)
        ),
        td.StudentT(real(4.0), real(1.0), real(2.0)),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_one_density_written_in_two_ways(name):
    a, b = EQUAL[name]
    for q, p in ((a, b), (b, a)):
        value, error = rule(q, p)
        assert accepted(value, error)
        assert abs(value) < 1e-9


def test_mixtures_against_mpmath():
    def density(x):
        return 0.3 * mp.npdf(x, -1, 0.5) + 0.7 * mp.npdf(x, 2, 1.5)

    q = td.MixtureSameFamily(
        td.Categorical(real(0.3, 0.7)), td.Normal(real(-1.0, 2.0), real(0.5, 1.5))
    )
    p = td.StudentT(real(3.0))

    def log_p(x):
        return mp.log(2 / (mp.pi * mp.sqrt(3) * (1 + x * x / 3) ** 2))

    exact = mp.quad(
        lambda x: density(x) * (mp.log(density(x)) - log_p(x)), [-9, -2, -1, 0, 2, 5, 16]
    )
    assert kl.divergence(q, p).item() == pytest.approx(float(exact), abs=1e-9)
    exact = mp.quad(
        lambda x: mp.npdf(x) * (mp.log(mp.npdf(x)) - mp.log(density(x))), [-12, -2, -1, 0, 2, 12]
    )
    assert kl.divergence(td.Normal(real(0.0), real(1.0)), q).item() == pytest.approx(
        float(exact), abs=1e-7
    )


def test_what_has_no_line_is_sampled():
    class Own(td.Normal):
        """A user's class."""

    assert line_of(Own(0.0, 1.0)) is None
    assert line_of(td.TransformedDistribution(Own(0.0, 1.0), [transforms.ExpTransform()])) is None
    folded = td.TransformedDistribution(td.Normal(0.0, 1.0), [transforms.AbsTransform()])
    assert line_of(folded) is None
    uniforms = td.MixtureSameFamily(
        td.Categorical(torch.ones(2)), td.Uniform(torch.zeros(2), torch.ones(2))
    )
    assert line_of(uniforms) is None
    assert kl.route(folded, td.StudentT(3.0)).kind == "sampled"


def test_a_line_of_a_third_party_is_paired_with_all(monkeypatch):
    monkeypatch.setattr(kl_lines, "_LINES", dict(kl_lines._LINES))

    class Own(dist.Normal):
        """A user's class with a density of its own."""

    @kl_lines.line(Own)
    class _Own(type(line_of(td.Normal(0.0, 1.0)))):
        """What it is."""

    q = Own(real(0.3), real(1.0))
    torch.testing.assert_close(
        kl.divergence(q, td.StudentT(real(3.0))),
        kl.divergence(td.Normal(real(0.3), real(1.0)), td.StudentT(real(3.0))),
    )
    with pytest.raises(ValueError, match="has a line already"):
        kl_lines.line(Own)(_Own)
    with pytest.raises(ValueError, match="no docstring"):
        kl_lines.line(td.Poisson)(type("Bare", (kl_lines.Line,), {}))
