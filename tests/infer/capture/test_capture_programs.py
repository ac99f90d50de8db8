"""Programs of every static structure, replayed and run: equal losses, gradients and buffers."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import WIDTH, binary, net, small_vae
from equal import assert_same, buffers_put_back, disagreements, replayed, uncaptured
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from pyro_vae import VAE
from pyro_vae import families as fam
from pyro_vae.distributions import from_zuko
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, TraceSTL_ELBO, capture

X = torch.linspace(-1.0, 1.0, 7)
ELBOS = [Trace_ELBO, TraceMeanField_ELBO, TraceExactKL_ELBO, TraceSTL_ELBO]


def store_leaves():
    return [p.unconstrained() for _, p in sorted(pyro.get_param_store().items())]


def model(x):
    scale = pyro.param("scale", torch.tensor(0.7), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def guide(x):
    slope = pyro.param("slope", torch.tensor(0.3))
    width = pyro.param("width", torch.tensor(0.8), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, width))


def same(elbo, model, guide, *args, parameters=None, **options):
    """Lazy parameters are created by the capture itself, and are then compared."""
    capture(elbo, model, guide, *args)
    leaves = store_leaves() if parameters is None else parameters
    return assert_same(elbo, model, guide, args, leaves, **options)


@pytest.mark.parametrize("elbo", ELBOS)
@pytest.mark.parametrize("way", [{}, {"num_particles": 3}, "vectorised"])
def test_parameters_of_the_store_and_particles(elbo, way):
    if way == "vectorised":
        way = {"num_particles": 5, "vectorize_particles": True}  # nesting is found out
    same(elbo(**way), model, guide, X)


@pytest.mark.parametrize("elbo", ELBOS)
def test_subsampling_plates_draw_fresh_indices(elbo):
    def thinned(program):
        def run(x):
            with pyro.plate("data", len(x), subsample_size=3) as i:
                program(x[i])

        return run

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(pyro.param("a", torch.tensor(0.3)) * x, 0.8))

    captured = same(elbo(), thinned(model), thinned(guide), X)
    losses = {captured(X).item() for _ in range(20)}
    assert len(losses) == 20
    assert any(source.law == "randperm" for source in captured.graphs[0].random)


def test_guides_that_are_not_reparameterised():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3)))
            z = pyro.sample("z", dist.Poisson(2.0))
            pyro.sample("x", dist.Normal(k + z, 1.0), obs=x)

    def guide(x):
        logits = pyro.param("logits", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=logits + x.unsqueeze(-1)))
            pyro.sample("z", dist.Poisson(pyro.param("rate", torch.tensor(0.4)).exp()))

    for elbo in (Trace_ELBO(2), TraceExactKL_ELBO(), TraceIWAE_ELBO(3), TraceSTL_ELBO()):
        same(elbo, model, guide, X)


@pytest.mark.parametrize("order", ["top_down", "bottom_up"])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceExactKL_ELBO, TraceSTL_ELBO])
def test_hierarchies_in_either_order(elbo, order):
    def model(x):
        w = pyro.param("w", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            a = pyro.sample("a", dist.Normal(w * b, 0.5))
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    def guide(x):
        s = pyro.param("s", torch.tensor(0.4))
        with pyro.plate("data", len(x)):
            if order == "top_down":
                b = pyro.sample("b", dist.Normal(s * x, 0.9))
                pyro.sample("a", dist.Normal(s * b, 0.7))
            else:
                a = pyro.sample("a", dist.Normal(s * x, 0.7))
                pyro.sample("b", dist.Normal(s * a, 0.9))

    same(elbo(), model, guide, X)


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceExactKL_ELBO])
def test_autoguides_on_constrained_latents(auto, elbo):
    def model(x):
        s = pyro.sample("s", dist.Gamma(2.0, 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, s), obs=x)

    guide = auto(model)
    guide(X)
    same(elbo(), model, guide, X, parameters=list(guide.parameters()))


class Bayesian(PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](1, 1)
        self.scale = PyroParam(torch.tensor(0.5), constraint=dist.constraints.positive)
        self.shift = PyroSample(dist.Normal(0.0, 1.0))

    def forward(self, x):
        mean = self.linear(x.unsqueeze(-1)).squeeze(-1) + self.shift
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, self.scale), obs=x)


def test_pyro_modules_with_parameters_and_samples():
    program = Bayesian()
    guide = AutoNormal(program)
    guide(X)
    parameters = [*program.parameters(), *guide.parameters()]
    same(Trace_ELBO(), program, guide, X, parameters=parameters)


def test_scales_and_masks_of_handlers_around_the_programs():
    keep = torch.tensor([True, False, True, True, True, False, True])
    for wrap in (lambda p: poutine.scale(p, 0.3), lambda p: poutine.mask(p, keep)):
        same(TraceExactKL_ELBO(), wrap(model), wrap(guide), X)


class Normalised(nn.Module):
    def __init__(self, features, width):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(features, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.3)
        )

    def forward(self, x):
        return self.net(x)


def restless():
    return VAE(
        prior=fam.Normal(2),
        encoder=nn.Sequential(Normalised(6, 8), fam.Normal(2, context=8)),
        decoder=nn.Sequential(Normalised(2, 8), fam.Bernoulli(6, context=8)),
    )


@pytest.mark.parametrize("compile", [False, True])
def test_batch_norm_moves_its_buffers_and_dropout_its_masks(compile):
    vae, x, elbo = restless(), binary(), Trace_ELBO()
    start = copy.deepcopy(vae.state_dict())
    parameters = list(vae.parameters())
    captured = capture(elbo, vae.model, vae.guide, x, compile=compile)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, start[name]), f"capturing moved {name}"
    with buffers_put_back(vae):
        want = uncaptured(elbo, vae.model, vae.guide, (x,), {}, parameters, seed=1)
        after = copy.deepcopy(vae.state_dict())
    got = replayed(captured, (x,), {}, parameters, seed=1)
    assert disagreements(got, want, 1e-5 if compile else 1e-6) == []
    for name, value in vae.state_dict().items():
        torch.testing.assert_close(value, after[name], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(after[name], start[name]) for name in after if "running" in name)


@pytest.mark.parametrize("elbo", ELBOS)
def test_two_sites_conditions_and_missing_data(elbo):
    vae = VAE(
        prior={"style": fam.StudentT(2), "kind": fam.RelaxedOneHotCategorical(1, categories=3)},
        encoder={
            "style": nn.Sequential(net(8), fam.FullNormal(2, context=WIDTH)),
            "kind": nn.Sequential(
                net(8), fam.RelaxedOneHotCategorical(1, categories=3, context=WIDTH)
            ),
        },
        decoder=nn.Sequential(net(7), fam.Bernoulli(6, context=WIDTH)),
        data_size=100,
    )
    kwargs = {"y": torch.randn(10, 2), "mask": torch.rand(10, 6) > 0.2}
    args, parameters = (binary(),), vae.parameters()
    assert_same(elbo(), vae.model, vae.guide, args, parameters, kwargs=kwargs)


@pytest.mark.parametrize("options", [{"beta": 0.3}, {"beta": 0.0}, {"free_bits": 0.5}])
@pytest.mark.parametrize("elbo", [TraceExactKL_ELBO, TraceSTL_ELBO, TraceIWAE_ELBO])
def test_weights_and_free_bits(elbo, options):
    vae = small_vae()
    elbo = elbo(2, free_bits_per="dimension", **options)
    assert_same(elbo, vae.model, vae.guide, (binary(),), vae.parameters())


@pytest.mark.parametrize("bridge", ["pyro's", "ours"])
def test_flows_as_guide_and_as_prior(bridge):
    """A flow of zuko through a bridge: no law of its own, and a graph all the same."""
    validation = torch.distributions.Distribution._validate_args
    import zuko  # switches torch's validation off

    torch.distributions.Distribution.set_default_validate_args(validation)
    from pyro.contrib.zuko import ZukoToPyro

    bridged = from_zuko if bridge == "ours" else ZukoToPyro
    encoder = zuko.flows.NSF(2, context=3, transforms=1, hidden_features=(8,))
    prior = zuko.flows.MAF(2, transforms=1, hidden_features=(8,))
    decoder = nn.Linear(2, 3)

    def model(x):
        for name, part in (("prior", prior), ("decoder", decoder)):
            pyro.module(name, part)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", bridged(prior()))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", bridged(encoder(x)))

    parameters = [p for part in (encoder, prior, decoder) for p in part.parameters()]
    assert_same(Trace_ELBO(), model, guide, (torch.randn(5, 3),), parameters)
