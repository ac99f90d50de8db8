"""What asks for another graph gets one; what none can serve is an error; nothing is stale."""

import copy
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import binary, small_vae
from equal import disagreements, replayed, uncaptured
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, RenyiELBO, Trace_ELBO
from torch import nn

from pyro_vae import VAE
from pyro_vae import families as fam
from pyro_vae.infer import (
    NotCapturable,
    TraceExactKL_ELBO,
    TraceIWAE_ELBO,
    TraceSTL_ELBO,
    capture,
)


def assert_right(captured, vae, *args, kwargs=None, seed=3):
    """The captured ELBO has the values of the uncaptured one, now."""
    kwargs, parameters = kwargs or {}, list(vae.parameters())
    elbo = captured.elbo
    want = uncaptured(elbo, vae.model, vae.guide, args, kwargs, parameters, seed=seed)
    got = replayed(captured, args, kwargs, parameters, seed=seed)
    assert disagreements(got, want, 1e-6) == []


@pytest.fixture
def captured():
    vae = small_vae()
    return capture(TraceExactKL_ELBO(), vae.model, vae.guide, binary())


def vae_of(captured):
    """The two halves as one module, for their parameters."""
    return Halves(captured.model, captured.guide)


class Halves(nn.Module):
    def __init__(self, model, guide):
        super().__init__()
        self.model, self.guide = model, guide


def test_a_new_shape_or_dtype_is_captured_once(captured):
    vae = vae_of(captured)
    for x in (binary(), binary(4), binary(), binary(4)):
        assert_right(captured, vae, x)
    assert len(captured.graphs) == 2
    assert_right(captured, vae, binary().t().contiguous().t())  # other strides
    assert len(captured.graphs) == 3


def test_doubles_are_captured_anew(captured):
    vae = vae_of(captured)
    vae.double()
    assert_right(captured, vae, binary().double())
    assert [graph.shapes for graph in captured.graphs] == [((10, 6),)] * 2


def test_training_and_evaluation_are_two_graphs(captured):
    vae = vae_of(captured)
    for mode in (True, False, True, False):
        vae.train(mode)
        assert_right(captured, vae, binary())
    assert len(captured.graphs) == 2


def test_values_of_other_arguments_are_their_own_graphs(captured):
    vae, x = vae_of(captured), binary()
    mask = torch.rand(10) > 0.3
    assert_right(captured, vae, x, kwargs={"mask": mask})
    assert_right(captured, vae, x, kwargs={"mask": ~mask})
    assert len(captured.graphs) == 2
    assert_right(captured, vae, x, kwargs={"mask": torch.rand(10, 6) > 0.3})
    assert len(captured.graphs) == 3


@pytest.mark.parametrize("way", ["in_place", "data", "assign", "optimizer", "reload"])
def test_new_values_of_parameters_are_seen(captured, way):
    vae, x = vae_of(captured), binary()
    other = copy.deepcopy(vae.state_dict())
    for value in other.values():
        value.mul_(0.7)
    if way == "in_place":
        vae.load_state_dict(other)
    elif way == "assign":
        vae.load_state_dict(other, assign=True)
    elif way == "data":
        for parameter in vae.parameters():
            parameter.data = parameter.data * 0.7
    elif way == "optimizer":
        captured(x)
        torch.optim.SGD(vae.parameters(), lr=0.1).step()
    else:
        vae = VAE(
            fam.Normal(1), fam.Normal(1, context=6), fam.Bernoulli(6, context=1), name="mine"
        )
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        svi.step(x)
        saved = copy.deepcopy(pyro.get_param_store().get_state())
        captured = capture(Trace_ELBO(), vae.model, vae.guide, x)
        svi.step(x)
        assert_right(captured, vae, x)
        pyro.get_param_store().set_state(saved)
        losses = torch.stack([_seeded(captured, x), torch.tensor(_seeded_loss(captured, x))])
        torch.testing.assert_close(losses[0], losses[1])
    assert_right(captured, vae, x)


def _seeded(captured, x):
    torch.manual_seed(5)
    return captured(x)


def _seeded_loss(captured, x):
    torch.manual_seed(5)
    return captured.elbo.loss(captured.model, captured.guide, x)


def test_a_parameter_of_the_store_that_is_replaced_is_seen():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        a = pyro.param("a", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(a * x, 1.0))

    x = torch.linspace(-1, 1, 6)
    captured = capture(Trace_ELBO(), model, guide, x)
    pyro.clear_param_store()
    pyro.param("a", torch.tensor(2.0))
    torch.testing.assert_close(_seeded(captured, x).item(), _seeded_loss(captured, x))
    leaf = pyro.get_param_store()["a"].unconstrained()
    assert leaf.grad is not None


def test_freezing_and_thawing(captured):
    vae, x = vae_of(captured), binary()
    for frozen in (True, False, True):
        for parameter in captured.model.parameters():
            parameter.requires_grad_(not frozen)
        assert_right(captured, vae, x)
    assert all(p.grad is None for p in captured.model.parameters())
    assert len(captured.graphs) == 2


def test_a_part_that_is_replaced_or_added(captured):
    vae, x = vae_of(captured), binary()
    old = captured.model.decoder[0]
    captured.model.decoder[0] = copy.deepcopy(old)
    with torch.no_grad():
        for parameter in captured.model.decoder[0].parameters():
            parameter.mul_(0.5)
    assert_right(captured, vae, x)
    captured.model.decoder.insert(1, nn.Tanh())
    assert_right(captured, vae, x)
    assert len(captured.graphs) == 1  # the others can never serve again


@pytest.mark.parametrize("elbo", [TraceExactKL_ELBO, TraceSTL_ELBO, TraceIWAE_ELBO])
def test_a_schedule_of_beta_by_numbers_or_by_a_tensor(elbo):
    vae, x = small_vae(), binary()
    captured = capture(elbo(2, beta=0.1), vae.model, vae.guide, x)
    for beta in (0.1, 0.2, 0.5, 1.0, 0.0):
        captured.elbo.beta = beta
        assert_right(captured, vae, x)
    assert len(captured.graphs) == 2  # beta by its value, then as a tensor
    beta = torch.tensor(0.3)
    captured.elbo.beta = beta
    assert_right(captured, vae, x)
    beta.fill_(0.9)
    assert_right(captured, vae, x)
    assert len(captured.graphs) == 3


def test_other_settings_of_the_elbo_are_seen(captured):
    vae, x = vae_of(captured), binary()
    captured.elbo.num_particles = 3
    assert_right(captured, vae, x)
    captured.elbo.free_bits = type(captured.elbo.free_bits)(0.5)
    assert_right(captured, vae, x)
    assert len(captured.graphs) == 3


def test_graphs_are_bounded_and_thrashing_is_told():
    vae = small_vae()
    captured = capture(Trace_ELBO(), vae.model, vae.guide, binary(2), max_graphs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured(binary(3))
    with pytest.warns(UserWarning, match=r"graph number 3.*shapes from \[\(3, 6\)\] to \[\(4, 6"):
        captured(binary(4))
    assert [graph.shapes[0][0] for graph in captured.graphs] == [3, 4]


# -------------------------------------------------------------------------------------- refusals
def model_with(body):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(body(z), 1.0), obs=x)

    return model


def guide(x):
    a = pyro.param("a", torch.tensor(0.3))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(a * x, 1.0))


def branch(z):
    return z if z.mean() > 0 else -z


def loop(z):
    while z.abs().max() > 1:
        z = z / 2
    return z


def number(z):
    return z * z.sum().item()


def through_numpy(z):
    return z * torch.from_numpy(z.detach().numpy().copy())


def selected(z):
    return z * z[z > 0].sum()


def drawn_by_python(z):
    import random

    return z * random.random()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (branch, r"reads a number off a tensor .* after site 'z', .*return z if z.mean\(\) > 0"),
        (loop, r"reads a number .* after site 'z', .*while z.abs\(\).max\(\) > 1"),
        (number, r"reads a number .* after site 'z', .*z.sum\(\).item\(\)"),
        (through_numpy, r"reads a number .* after site 'z', .*numpy\(\)"),
        (selected, r"shape depends on data.* after site 'z', .*z\[z > 0\]"),
        (drawn_by_python, r"draws numbers by random"),
    ],
)
def test_what_no_graph_can_hold_is_named_or_run_as_it_is(body, message):
    model, x = model_with(body), torch.linspace(-1, 1, 6)
    with pytest.raises(NotCapturable, match=message):
        capture(Trace_ELBO(), model, guide, x)
    with pytest.warns(UserWarning, match="run as it is, without a graph"):
        captured = capture(Trace_ELBO(), model, guide, x, uncapturable="eager")
    assert captured.graphs == []
    assert captured.eager_reason
    leaf = pyro.get_param_store()["a"].unconstrained()
    torch.manual_seed(1)
    assert captured(x).isfinite()
    assert leaf.grad is not None


def test_rejection_samplers_name_their_site():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.VonMises(pyro.param("a", torch.tensor(0.1)) * x, 1.0))

    with pytest.raises(NotCapturable, match="at site 'z'"):
        capture(Trace_ELBO(), model, guide, torch.ones(4))


class Restless(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, z):
        self.mean = 0.9 * self.mean + 0.1 * z.detach().mean()
        return z - self.mean


def test_buffers_that_are_replaced_in_a_call_are_refused():
    net = Restless()
    with pytest.raises(NotCapturable, match="puts a new tensor into its buffer 'mean'"):
        capture(Trace_ELBO(), model_with(net), guide, torch.ones(4))
    assert net.mean.item() == 0


def test_bad_data_raise_what_the_program_raises(captured):
    before = [p.clone() for p in vae_of(captured).parameters()]
    bad = binary()
    bad[3, 2] = float("nan")
    with pytest.raises(ValueError, match="1 NaN entries in 1 of 10 data"):
        captured(bad)
    with pytest.raises(ValueError, match="outside the support of the Bernoulli"):
        captured(binary() + 0.5)
    with pytest.raises(ValueError, match="outside the support of the Bernoulli"):
        captured.loss(binary() + 0.5)
    vae = vae_of(captured)
    assert all(p.grad is None for p in vae.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_infinite_kls_raise_before_anything_moves():
    vae, x = small_vae(), binary()
    captured = capture(TraceExactKL_ELBO(), vae.model, vae.guide, x)
    with torch.no_grad():
        vae.guide.encoder.z[-1].get_parameter(
            next(iter(dict(vae.guide.encoder.z[-1].named_parameters())))
        ).fill_(float("nan"))
    with pytest.raises((ValueError, FloatingPointError)):
        captured(x)
    assert all(p.grad is None for p in vae.parameters())


def test_wrong_uses_are_errors(captured):
    vae, x = vae_of(captured), binary()
    with pytest.raises(TypeError, match="JitTrace_ELBO is compiled by torch.jit"):
        capture(JitTrace_ELBO(), captured.model, captured.guide, x)
    with pytest.raises(TypeError, match="RenyiELBO has no differentiable_loss"):
        capture(RenyiELBO(), captured.model, captured.guide, x)
    with pytest.raises(ValueError, match="noise must be one of"):
        capture(Trace_ELBO(), captured.model, captured.guide, x, noise="sobol")
    with pytest.raises(ValueError, match="set compile=True"):
        capture(Trace_ELBO(), captured.model, captured.guide, x, mode="reduce-overhead")
    with pytest.raises(ValueError, match="max_graphs"):
        capture(Trace_ELBO(), captured.model, captured.guide, x, max_graphs=0)
    with pytest.raises(ValueError, match="requires a gradient"):
        captured(binary().requires_grad_())
    with pytest.raises(TypeError, match="NumPy array"):
        captured(x.numpy())
    with pytest.raises(ValueError, match="step\\(\\) needs an optimizer"):
        captured.step(x)
    with pytest.raises(RuntimeError, match="inside a handler, TraceMessenger"), poutine.trace():
        captured(x)
    assert all(p.grad is None for p in vae.parameters())


def test_compiling_without_a_compiler_names_the_cure(monkeypatch):
    from torch._inductor import cpp_builder

    def none():
        raise RuntimeError("no compiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    vae = small_vae()
    with pytest.raises(RuntimeError, match="needs a C\\+\\+ compiler.*compile=False"):
        capture(Trace_ELBO(), vae.model, vae.guide, binary(), compile=True)
