"""A VAE under every ELBO and every way of training that Pyro offers."""

import copy
import math
import os
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import WIDTH, binary, copies, net, small_vae, svi, train, unmoved
from pyro import poutine
from pyro.infer import (
    JitTrace_ELBO,
    JitTraceMeanField_ELBO,
    Predictive,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTMC_ELBO,
    config_enumerate,
)
from torch import nn

from pyro_vae import VAE
from pyro_vae import families as fam

ELBOS = {
    "Trace": lambda: Trace_ELBO(),
    "Trace, particles": lambda: Trace_ELBO(num_particles=3),
    "Trace, vectorised": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True),
    "MeanField": lambda: TraceMeanField_ELBO(),
    "MeanField, vectorised": lambda: TraceMeanField_ELBO(3, vectorize_particles=True),
    "Graph": lambda: TraceGraph_ELBO(),
    "Renyi": lambda: RenyiELBO(alpha=0.5, num_particles=3),
    "Renyi, vectorised": lambda: RenyiELBO(alpha=0.0, num_particles=3, vectorize_particles=True),
    "WakeSleep": lambda: ReweightedWakeSleep(num_particles=3, vectorize_particles=False),
    "WakeSleep, vectorised": lambda: ReweightedWakeSleep(
        num_particles=3, vectorize_particles=True, max_plate_nesting=1
    ),
}
elbos = pytest.mark.parametrize("elbo", ELBOS.values(), ids=ELBOS)
# those that Pyro offers as a module for torch's optimizers
AS_MODULES = {name: elbo for name, elbo in ELBOS.items() if hasattr(elbo(), "differentiable_loss")}


# ---------------------------------------------------------------------- training


@elbos
def test_svi_moves_every_parameter(elbo):
    vae, x = small_vae(fam.Normal(2, learnable=True)), binary()
    before, engine = copies(vae), svi(vae, elbo())
    losses = torch.tensor([engine.step(x) for _ in range(3)])  # wake-sleep reports two each
    assert bool(losses.isfinite().all())
    assert not unmoved(vae, before)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("elbo", [JitTrace_ELBO, JitTraceMeanField_ELBO])
def test_svi_with_jit_moves_every_parameter(elbo):
    vae, x = small_vae(fam.Normal(2, learnable=True)), binary()
    before, engine = copies(vae), svi(vae, elbo(ignore_jit_warnings=True))
    for _ in range(3):
        assert math.isfinite(engine.step(x))
    assert not unmoved(vae, before)


def discrete_vae():
    prior = fam.OneHotCategorical(1, categories=3, learnable=True)
    return small_vae(prior, fam.OneHotCategorical(1, context=WIDTH, categories=3))


@pytest.mark.parametrize(
    "elbo",
    [Trace_ELBO, TraceGraph_ELBO, lambda: ReweightedWakeSleep(num_particles=3)],
    ids=["Trace", "Graph", "WakeSleep"],
)
def test_svi_moves_every_parameter_of_a_discrete_vae(elbo):
    vae, x = discrete_vae(), binary()
    before, engine = copies(vae), svi(vae, elbo())
    for _ in range(3):
        engine.step(x)
    assert not unmoved(vae, before)


class Groupless(nn.Module):
    """One categorical of three classes, as a module of the user's own."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner = inner

    def forward(self, x=None):
        logits = torch.zeros(3) if self.inner is None else self.inner(x)
        return dist.OneHotCategorical(logits=logits)


def enumerable_vae():
    return VAE(
        prior=Groupless(),
        encoder=Groupless(nn.Sequential(net(6), nn.Linear(WIDTH, 3))),
        decoder=nn.Sequential(net(3), fam.Bernoulli(6, context=WIDTH)),
    )


def test_enumeration_is_exact_and_moves_every_parameter():
    vae, x = enumerable_vae(), binary()
    guide = config_enumerate(vae.guide, "parallel", expand=True)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    q = vae.guide.encoder.z(x)
    classes = torch.eye(3).unsqueeze(1)
    log_likelihood = vae.model.decoder(classes.expand(3, 10, 3)).log_prob(x)
    terms = log_likelihood - math.log(3) - q.log_prob(classes)
    assert elbo.loss(vae.model, guide, x) == pytest.approx(-(q.probs.T * terms).sum().item())
    before = copies(vae)
    pyro.infer.SVI(vae.model, guide, pyro.optim.Adam({"lr": 0.01}), elbo).step(x)
    assert not unmoved(vae, before)


def test_tensor_monte_carlo_moves_every_parameter():
    vae, x = small_vae(fam.Normal(2, learnable=True)), binary()
    draws = {"default": "parallel", "expand": False, "num_samples": 3, "tmc": "mixture"}
    guide = config_enumerate(vae.guide, **draws)
    before = copies(vae)
    elbo = TraceTMC_ELBO(max_plate_nesting=1)
    optimizer = pyro.optim.Adam({"lr": 0.01})
    assert math.isfinite(pyro.infer.SVI(vae.model, guide, optimizer, elbo).step(x))
    assert not unmoved(vae, before)


@pytest.mark.parametrize("elbo", AS_MODULES.values(), ids=AS_MODULES)
def test_elbo_module_has_every_parameter_and_leaves_the_store_alone(elbo):
    vae, x = small_vae(fam.Normal(2, learnable=True)), binary()
    pyro.param("of another program", torch.zeros(1))
    module = elbo()(vae.model, vae.guide)
    assert set(module.parameters()) == set(vae.parameters())
    before = copies(vae)
    assert all(math.isfinite(loss) for loss in train(vae, elbo(), x))
    assert not unmoved(vae, before)
    assert list(pyro.get_param_store()) == ["of another program"]


def test_looking_at_the_loss_leaves_the_store_alone():
    vae, x = small_vae(), binary()
    svi(vae, Trace_ELBO()).evaluate_loss(x)
    Trace_ELBO().loss(vae.model, vae.guide, x)
    poutine.trace(vae.guide).get_trace(x)
    assert not list(pyro.get_param_store())


def test_training_improves_the_bound():
    torch.manual_seed(3)
    x = binary(1, 6).expand(20, 6)
    vae = small_vae()
    losses = train(vae, TraceMeanField_ELBO(), x, steps=150, lr=0.05)
    # every datum is the same: all 6 bits of 20 data, log 2 each, can be saved
    assert losses[0] > 20 * 6 * math.log(2) * 0.9
    assert losses[-1] < 0.2 * losses[0]


def test_the_two_ways_of_training_take_the_same_step():
    ours, x = small_vae(), binary()
    theirs = copy.deepcopy(ours)
    torch.manual_seed(1)
    loss = svi(ours, Trace_ELBO()).step(x)
    torch.manual_seed(1)
    assert train(theirs, Trace_ELBO(), x, steps=1)[0] == pytest.approx(loss, rel=1e-6)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)


# ---------------------------------------------------------------------- the loss by hand


def loss_by_hand(vae, x, scale=1.0):
    """-(log p(x|z) + log p(z) - log q(z|x)) at the draw that Pyro makes, from the formula."""
    q, p = vae.guide.encoder.z(x).base_dist, vae.model.prior.z().base_dist
    z = q.loc + q.scale * torch.randn(len(x), 2)
    logits = vae.model.decoder(z).base_dist.logits
    log_x = (x * logits - torch.log1p(logits.exp())).sum()

    def log_normal(loc, sd):
        return (-0.5 * ((z - loc) / sd) ** 2 - sd.log() - 0.5 * math.log(2 * math.pi)).sum()

    return -scale * (log_x + log_normal(p.loc, p.scale) - log_normal(q.loc, q.scale))


@pytest.mark.parametrize("data_size", [None, 10, 1000])
def test_a_batch_counts_as_the_data_it_stands_for(data_size):
    vae, x = small_vae(data_size=data_size), binary(10)
    torch.manual_seed(5)
    expected = loss_by_hand(vae, x, (data_size or 10) / 10)
    torch.manual_seed(5)
    loss = Trace_ELBO()(vae.model, vae.guide)(x)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)


def test_data_size_scales_the_mean_field_loss_and_gradient_alike():
    plain = small_vae()
    scaled = VAE(plain.model.prior.z, plain.guide.encoder.z, plain.model.decoder, data_size=70)
    x, results = binary(7), []
    for vae in (plain, scaled):
        torch.manual_seed(5)
        vae.zero_grad()
        loss = TraceMeanField_ELBO()(vae.model, vae.guide)(x)
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in vae.parameters()]))
    (loss, gradients), (loss_10, gradients_10) = results
    torch.testing.assert_close(loss_10, 10 * loss)
    torch.testing.assert_close(gradients_10, [10 * g for g in gradients])


@pytest.mark.parametrize("data_size", [0, -5])
def test_data_size_is_a_number_of_data(data_size):
    with pytest.raises(ValueError, match=f"positive number of data, not {data_size}"):
        small_vae(data_size=data_size)


def test_a_batch_larger_than_the_data_is_an_error():
    vae = small_vae(data_size=5)
    with pytest.raises(ValueError, match="batch of 10 is larger than data_size=5"):
        vae.model(binary(10))


def test_double_precision():
    vae, x = small_vae(fam.Normal(2, learnable=True)).double(), binary().double()
    before = copies(vae)
    loss = Trace_ELBO()(vae.model, vae.guide)(x)
    assert loss.dtype == torch.float64
    svi(vae, TraceMeanField_ELBO()).step(x)
    assert not unmoved(vae, before)
    assert vae.model(size=3).dtype == torch.float64


def test_default_precision_is_that_of_construction(float64):
    vae = small_vae()
    assert {p.dtype for p in vae.parameters()} == {torch.float64}
    assert vae.guide(binary())["z"].dtype == torch.float64


# ---------------------------------------------------------------------- drawing


def test_replicates_without_data():
    vae = small_vae()
    assert vae.model().shape == (1, 6)
    assert vae.model(size=5).shape == (5, 6)


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_from_the_prior(parallel):
    draws = Predictive(small_vae().model, num_samples=4, parallel=parallel)(size=5)
    assert draws["z"].shape == (4, 5, 2)
    assert draws["x"].shape == (4, 5, 6)
    assert draws["x"].std(0).sum() > 0


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_from_the_guide(parallel):
    vae, x = small_vae(), binary(5)
    model = poutine.uncondition(vae.model)
    draws = Predictive(model, guide=vae.guide, num_samples=4, parallel=parallel)(x)
    assert draws["x"].shape == (4, 5, 6)
    assert not torch.equal(draws["x"][0], x)
    posterior = Predictive(vae.guide, num_samples=4, parallel=parallel)(x)
    assert posterior["z"].shape == (4, 5, 2)


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_from_posterior_samples(parallel):
    # draws far out, in opposite directions, so that replicates tell which z they came from
    vae = small_vae(likelihood=fam.Normal(6, context=WIDTH, scale=1e-4))
    z = torch.stack([torch.full((5, 2), -3.0), torch.full((5, 2), 3.0)])
    draws = Predictive(vae.model, posterior_samples={"z": z}, parallel=parallel)(size=5)
    assert draws["x"].shape == (2, 5, 6)
    expected = vae.model.decoder(z).mean
    torch.testing.assert_close(draws["x"], expected, atol=1e-3, rtol=0)


def test_the_guide_needs_data():
    with pytest.raises(ValueError, match=r"guide q\(z\|x\) needs x.*poutine.uncondition"):
        small_vae().guide()


def test_sites_and_plate():
    vae, x = small_vae(), binary(5)
    guide = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(x)
    # Pyro lists a plate among the stochastic nodes
    assert guide.stochastic_nodes == ["data", "z"]
    assert model.stochastic_nodes == ["data", "z"]
    assert model.observation_nodes == ["x"]
    for trace, site in ((guide, "z"), (model, "z"), (model, "x")):
        (frame,) = trace.nodes[site]["cond_indep_stack"]
        assert (frame.name, frame.size, frame.dim) == ("data", 5, -1)
    assert torch.equal(guide.nodes["_RETURN"]["value"]["z"], model.nodes["z"]["value"])


# ---------------------------------------------------------------------- several sites, conditions


def two_sites(**options):
    return VAE(
        prior={"style": fam.Normal(2, learnable=True), "kind": fam.Dirichlet(3, learnable=True)},
        encoder={
            "style": nn.Sequential(net(6), fam.Normal(2, context=WIDTH)),
            "kind": nn.Sequential(net(6), fam.Dirichlet(3, context=WIDTH)),
        },
        decoder=nn.Sequential(net(5), fam.Bernoulli(6, context=WIDTH)),
        **options,
    )


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_two_sites_train(elbo):
    vae, x = two_sites(), binary()
    before = copies(vae)
    svi(vae, elbo(num_particles=2, vectorize_particles=True)).step(x)
    assert not unmoved(vae, before)
    assert list(vae.guide(x)) == ["style", "kind"]
    assert vae.model(size=4).shape == (4, 6)


def test_the_decoder_receives_the_sites_in_order():
    seen = []

    def decoder(z):
        seen.append(z)
        return dist.Bernoulli(logits=z[..., :1].expand(*z.shape[:-1], 6)).to_event(1)

    vae = VAE(
        prior={"a": fam.Normal((2, 2)), "b": fam.Normal(3)},
        encoder={
            "a": nn.Sequential(net(6), fam.Normal((2, 2), context=WIDTH)),
            "b": nn.Sequential(net(6), fam.Normal(3, context=WIDTH)),
        },
        decoder=decoder,
    )
    trace = poutine.trace(vae.model).get_trace(binary(5))
    a, b = trace.nodes["a"]["value"], trace.nodes["b"]["value"]
    assert torch.equal(seen[-1], torch.cat([a.reshape(5, 4), b], -1))


@pytest.mark.parametrize("encoder_sites", [["b", "a"], ["a"], ["a", "c"]], ids=str)
def test_sites_must_agree(encoder_sites):
    encoder = {s: nn.Sequential(net(6), fam.Normal(2, context=WIDTH)) for s in encoder_sites}
    with pytest.raises(ValueError, match=r"same latent sites in the same order.*\['a', 'b'\]"):
        VAE({"a": fam.Normal(2), "b": fam.Normal(2)}, encoder, lambda z: z)


def conditional_vae(prior):
    return VAE(
        prior=prior,
        encoder=nn.Sequential(net(6 + 3), fam.Normal(2, context=WIDTH)),
        decoder=nn.Sequential(net(2 + 3), fam.Bernoulli(6, context=WIDTH)),
    )


@pytest.mark.parametrize("looks", [False, True], ids=["plain prior", "prior that looks at y"])
@pytest.mark.parametrize("vectorised", [False, True])
def test_conditioning(looks, vectorised):
    prior = fam.Normal(2, context=3) if looks else fam.Normal(2, learnable=True)
    vae, x, y = conditional_vae(prior), binary(), torch.randn(10, 3)
    before = copies(vae)
    elbo = Trace_ELBO(num_particles=2, vectorize_particles=vectorised)
    svi(vae, elbo).step(x, y=y)
    assert not unmoved(vae, before)
    assert vae.model(y=y).shape == (10, 6)
    draws = Predictive(vae.model, num_samples=4, parallel=vectorised)(y=y)
    assert draws["x"].shape == (4, 10, 6)


def test_conditions_reach_encoder_decoder_and_prior():
    vae, x, y = conditional_vae(fam.Normal(2, context=3)), binary(), torch.randn(10, 3)
    guide = poutine.trace(vae.guide).get_trace(x, y=y)
    model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(x, y=y)
    z = guide.nodes["z"]["value"]
    expected = {
        "encoder": vae.guide.encoder.z(torch.cat([x, y], -1)),
        "prior": vae.model.prior.z(y),
        "decoder": vae.model.decoder(torch.cat([z, y], -1)),
    }
    found = {
        "encoder": guide.nodes["z"]["fn"],
        "prior": model.nodes["z"]["fn"],
        "decoder": model.nodes["x"]["fn"],
    }
    for part in expected:
        torch.testing.assert_close(found[part].mean, expected[part].mean)


def test_conditions_of_any_shape_and_kind_are_flattened():
    vae, x = conditional_vae(fam.Normal(2)), binary()
    y = torch.arange(30).reshape(10, 1, 3)
    whole = vae.guide.encoder.z(torch.cat([x, y.reshape(10, 3).float()], -1))
    found = poutine.trace(vae.guide).get_trace(x, y=y).nodes["z"]["fn"]
    torch.testing.assert_close(found.mean, whole.mean)


# ---------------------------------------------------------------------- a good guest

GUEST = """
import random, numpy, torch, pyro
def state():
    return (
        torch.get_rng_state().tolist(), str(numpy.random.get_state()), random.getstate(),
        torch.get_default_dtype(), torch.distributions.Distribution._validate_args,
        pyro.settings.get(), list(pyro.get_param_store()), torch.is_grad_enabled(),
        torch.get_num_threads(),
    )
before = state()
import pyro_vae
assert state() == before, "importing changed a global setting"
from torch import nn
from pyro_vae import VAE, families as fam
parts = fam.Normal(2), fam.Normal(2, context=6), fam.Bernoulli(6, context=2)
before = state()
vae = VAE(*parts)
assert state() == before, "constructing a VAE changed a global setting"
repr(vae)
"""


def test_importing_and_constructing_change_nothing_global():
    command = [sys.executable, "-W", "error", "-c", GUEST]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert result.returncode == 0, result.stderr


def test_a_prior_that_ends_in_a_family_looks_at_y_too():
    vae = VAE(
        prior=nn.Sequential(nn.Linear(2, WIDTH), fam.Normal(1, context=WIDTH)),
        encoder=nn.Sequential(nn.Linear(5, WIDTH), fam.Normal(1, context=WIDTH)),
        decoder=nn.Sequential(nn.Linear(3, WIDTH), fam.Bernoulli(3, context=WIDTH)),
    )
    x, y = torch.ones(4, 3), torch.randn(4, 2)
    Trace_ELBO()(vae.model, vae.guide)(x, y=y).backward()
    assert all(p.grad is not None for p in vae.model.prior.parameters())
    with pytest.raises(ValueError, match="prior 'z' is conditional; pass what it looks at as y="):
        vae.model(x)
