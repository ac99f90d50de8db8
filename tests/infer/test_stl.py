"""`TraceSTL_ELBO`: quiet at the posterior, unbiased away from it, for every kind of guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracle import example
from paired import agree, calls
from pyro.distributions.transforms import Planar, spline_coupling
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae.distributions import from_zuko
from pyro_vae.infer import TraceSTL_ELBO

pytestmark = pytest.mark.usefixtures("float64")
CALLS = 60


def param(name, value):
    return pyro.param(name, torch.as_tensor(value, dtype=torch.float64))


def linear_gaussian():
    """A model and a guide that begins as its exact posterior; parameters W, A, L."""
    truth = example()
    x = truth.sample(30)

    def model(x):
        weight = param("W", truth.weight)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = z @ weight.T + truth.bias
            pyro.sample("x", dist.Normal(loc, truth.variance.sqrt()).to_event(1), obs=x)

    def guide(x):
        root = param("L", torch.linalg.cholesky(truth.covariance)).tril()
        loc = (x - truth.bias) @ param("A", truth.gain).T
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=root))

    return x, model, guide


def gradients(elbo, model, guide, x, names):
    rows = []
    for seed in range(CALLS):
        torch.manual_seed(seed)
        loss = elbo.differentiable_loss(model, guide, x)
        leaves = [pyro.param(name).unconstrained() for name in names]
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, leaves)]))
    return torch.stack(rows)


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("vectorised", [False, True], ids=["loop", "vectorised"])
def test_the_guides_gradient_is_silent_at_the_exact_posterior(particles, vectorised):
    x, model, guide = linear_gaussian()
    options = {"num_particles": particles, "vectorize_particles": vectorised}
    options |= {"max_plate_nesting": 1}
    noise = {
        elbo: gradients(elbo(**options), model, guide, x, ["A", "L"]).var(0).mean()
        for elbo in (TraceSTL_ELBO, Trace_ELBO)
    }
    assert noise[TraceSTL_ELBO] < 1e-20
    assert noise[Trace_ELBO] > 1


def test_parameters_rounded_to_single_precision_leave_it_silent():
    """The exact posterior to seven digits: below 1e-6, by the square of what is missing."""
    x, model, guide = linear_gaussian()
    model(x), guide(x)
    exact = gradients(TraceSTL_ELBO(), model, guide, x, ["A", "L"])
    for name, value in list(pyro.get_param_store().items()):
        pyro.get_param_store()[name] = value.detach().float().double()
    rounded = gradients(TraceSTL_ELBO(), model, guide, x, ["A", "L"])
    assert exact.var(0).max() < 1e-20
    assert rounded.var(0).max() < 1e-6


def test_the_models_gradients_are_those_of_trace_elbo_at_the_same_seed():
    x, model, guide = linear_gaussian()
    found, expected = (
        gradients(elbo(), model, guide, x, ["W"]) for elbo in (TraceSTL_ELBO, Trace_ELBO)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def two_layers():
    """z2 -> z1 -> x, and a guide that begins as the exact posterior p(z1|x) p(z2|z1)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(param("a", 2 / 3) * x, (2 / 3) ** 0.5))
            pyro.sample("z2", dist.Normal(param("b", 0.5) * z1, 0.5**0.5))

    return torch.linspace(-2, 2, 20), model, guide


def test_a_hierarchical_guide_is_silent_at_its_posterior_too():
    x, model, guide = two_layers()
    assert gradients(TraceSTL_ELBO(), model, guide, x, ["a", "b"]).abs().max() < 1e-12
    assert gradients(Trace_ELBO(), model, guide, x, ["a", "b"]).var(0).min() > 1


def test_stopping_at_the_parents_as_well_would_not_be_silent():
    """The part of log q(z2 | z1) that goes through z1 must stay, or its noise is left."""
    x, model, _ = two_layers()

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(param("a", 2 / 3) * x, (2 / 3) ** 0.5))
            pyro.sample("z2", OwnDrawOnly(param("b", 0.5) * z1, 0.5**0.5))

    assert gradients(TraceSTL_ELBO(), model, guide, x, ["a", "b"])[:, 0].var() > 1


class OwnDrawOnly(dist.Normal):
    """Whose log density is differentiated through the draw, not through what made its mean."""

    def log_prob(self, value):
        return dist.Normal(self.loc.detach(), self.scale.detach()).log_prob(value)


class Vamp(nn.Module):
    """A VampPrior: a mixture of the guide at learned pseudo-inputs, through the same encoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.pseudo = nn.Parameter(torch.randn(4, 3))

    def posterior(self, x, detach=False):
        h = self.encoder(x)
        return dist.Normal((h.detach() if detach else h), 0.5).to_event(1)

    def prior(self, detach=False):
        each = dist.Categorical(logits=torch.zeros(4))
        return dist.MixtureSameFamily(each, self.posterior(self.pseudo, detach))


def vamp_programs(*, detach=False):
    torch.manual_seed(3)
    vamp = Vamp()

    def model(x):
        pyro.module("vamp", vamp)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", vamp.prior(detach))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x[:, :1])

    def guide(x):
        pyro.module("vamp", vamp)
        with pyro.plate("data", len(x)):
            pyro.sample("z", vamp.posterior(x))

    return model, guide


def test_an_encoder_shared_with_the_prior_keeps_its_gradient_in_the_model():
    x = torch.randn(40, 3)
    model, guide = vamp_programs()
    cut_off, same_guide = vamp_programs(detach=True)
    found = calls(TraceSTL_ELBO(), model, guide, (x,), count=CALLS)
    expected = calls(Trace_ELBO(), model, guide, (x,), count=CALLS)
    pyro.clear_param_store()
    lacking = calls(TraceSTL_ELBO(), cut_off, same_guide, (x,), count=CALLS)
    assert agree(found, expected)
    assert not agree(lacking, expected)


def flow_programs(transform):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("flow", transform)
        base = dist.Normal(x / 2, 0.7).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [transform]))

    return model, guide


def test_a_flow_guide_has_the_expectation_of_trace_elbo():
    x = torch.randn(60, 2)
    model, guide = flow_programs(spline_coupling(2, hidden_dims=[8]))
    Trace_ELBO().loss(model, guide, x)
    found, expected = (
        calls(elbo, model, guide, (x,), count=CALLS) for elbo in (TraceSTL_ELBO(), Trace_ELBO())
    )
    assert agree(found, expected)
    assert found[:, 0] == pytest.approx(expected[:, 0], rel=1e-6)


def test_a_transform_without_an_inverse_is_an_error_that_says_so():
    model, guide = flow_programs(Planar(2))
    with pytest.raises(NotImplementedError, match=r"TraceSTL_ELBO needs log q.*inverse"):
        TraceSTL_ELBO().differentiable_loss(model, guide, torch.randn(5, 2))


@pytest.mark.parametrize("bridge", ["pyro's", "ours"])
@pytest.mark.parametrize("flow", ["NSF", "MAF"])
def test_a_flow_of_zuko_has_the_expectation_of_trace_elbo_and_less_noise(flow, bridge):
    validation = torch.distributions.Distribution._validate_args
    zuko = pytest.importorskip("zuko")  # which switches it off
    torch.distributions.Distribution.set_default_validate_args(validation)
    theirs = pytest.importorskip("pyro.contrib.zuko").ZukoToPyro
    bridge = from_zuko if bridge == "ours" else theirs
    x = torch.randn(60, 2)
    made = getattr(zuko.flows, flow)(2, context=2, transforms=1, hidden_features=[8])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("flow", made)
        with pyro.plate("data", len(x)):
            pyro.sample("z", bridge(made(x)))

    Trace_ELBO().loss(model, guide, x)
    found, expected = (
        calls(elbo, model, guide, (x,), count=40) for elbo in (TraceSTL_ELBO(), Trace_ELBO())
    )
    assert agree(found, expected)
    assert found[:, 0] == pytest.approx(expected[:, 0], rel=1e-6)
    assert found[:, 1:].var(0).sum() < 0.7 * expected[:, 1:].var(0).sum()
