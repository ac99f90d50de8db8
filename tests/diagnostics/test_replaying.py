"""Replayed runs of a model: to the last bit those of the model, or not replayed, and why."""

import copy

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import WIDTH, binary, fits, guide_of, names, prior_of, shaped, small_vae
from torch import nn

from pyro_vae import VAE, networks
from pyro_vae import families as fam
from pyro_vae.diagnostics import Stream, elbo, replaying

OPTIONS = {"num_samples": 12, "block_size": 8, "batch_size": 32, "progress": False}
"""Three runs of the model for each block of data."""


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(replaying, "AFTER", 2)


def weighed(model, guide, *args, **options):
    """The stream, and its blocks."""
    stream = Stream(model, guide, *args, **{**OPTIONS, **options})
    return stream, list(stream)


def assert_equal(blocks, others):
    for a, b in zip(blocks, others, strict=True):
        assert torch.equal(a.log_likelihood.nan_to_num(), b.log_likelihood.nan_to_num())
        for of, other in ((a.log_prior, b.log_prior), (a.log_q, b.log_q), (a.kl, b.kl)):
            assert of.keys() == other.keys()
            for name, value in of.items():
                assert torch.equal(value.nan_to_num(), other[name].nan_to_num())


def assert_replayed(model, guide, *args, **options):
    """Equal to the last bit, and replayed indeed."""
    stream, blocks = weighed(model, guide, *args, **options)
    _, plain = weighed(model, guide, *args, capture=False, **options)
    assert_equal(blocks, plain)
    assert stream.runs.reason is None
    assert stream.runs.replayed > 0


def assert_run_as_it_is(model, guide, *args, because, **options):
    stream, blocks = weighed(model, guide, *args, **options)
    _, plain = weighed(model, guide, *args, capture=False, **options)
    assert_equal(blocks, plain)
    assert because in (stream.runs.reason or "")
    return stream


# ------------------------------------------------------------------------------- every family
@pytest.mark.parametrize("prior", names("prior"))
def test_every_prior_is_scored_in_replays(prior):
    guide = prior if prior in names("guide") else next(q for q in names("guide") if fits(q, prior))
    vae = small_vae(prior_of(prior), guide_of(guide))
    assert_replayed(vae.model, vae.guide, binary(40), exact_kl=True)


@pytest.mark.parametrize("likelihood", names("likelihood"))
def test_every_likelihood_is_scored_in_replays(likelihood):
    vae = small_vae(likelihood=shaped(likelihood, context=WIDTH))
    x = vae.model(size=40).detach()
    assert_replayed(vae.model, vae.guide, x)


def test_data_that_are_missing_are_masked_in_replays():
    vae, x = small_vae(), binary(40)
    mask = torch.rand(40, 6) > 0.3
    assert_replayed(vae.model, vae.guide, torch.where(mask, x, torch.nan), mask=mask)


def test_a_conditional_prior_is_that_of_each_block():
    prior = nn.Sequential(networks.MLP(3, WIDTH), fam.Normal(2, context=WIDTH))
    encoder = nn.Sequential(networks.MLP(6 + 3, WIDTH), fam.Normal(2, context=WIDTH))
    decoder = nn.Sequential(networks.MLP(2 + 3, WIDTH), fam.Bernoulli(6, context=WIDTH))
    vae = VAE(prior=prior, encoder=encoder, decoder=decoder)
    assert_replayed(vae.model, vae.guide, binary(40), y=torch.randn(40, 3), exact_kl=True)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def model_of(decode):
    """A program whose decoder is `decode(z, x)`."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = decode(z, x)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    return model


def doubled(z):
    return torch.cat([z, z, z], -1)


class Net(nn.Module):
    """A decoder that wants one dimension of batch, so that data are repeated."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(1, 6, 2)

    def forward(self, x):
        model_of(lambda z, _: self.layer(z.unsqueeze(1)).squeeze(2))(x)


def test_repeated_data_are_replayed():
    torch.manual_seed(0)
    net = Net()
    assert_replayed(net, guide, torch.randn(40, 6))
    assert Stream(net, guide, torch.randn(40, 6), **OPTIONS).choice.model.name == "repeated"


# ------------------------------------------------------------------- what no replay may get wrong
def test_a_program_that_reads_numbers_is_run_as_it_is():
    model = model_of(lambda z, x: doubled(z) * (2.0 if float(x[0, 0]) > 0 else 1.0))
    assert_run_as_it_is(model, guide, torch.randn(40, 6), because="reads a number off a tensor")


def test_a_program_that_draws_where_it_scores_is_run_as_it_is():
    model = model_of(lambda z, x: doubled(z) + 0 * torch.randn(6))
    assert_run_as_it_is(model, guide, torch.randn(40, 6), because="draws numbers")


def test_a_program_that_changes_from_call_to_call_is_found_out():
    calls = iter(range(10_000))  # which only Python sees
    model = model_of(lambda z, x: doubled(z) + 1e-6 * next(calls))
    stream, blocks = weighed(model, guide, torch.randn(40, 6))
    assert stream.runs.reason == "a recorded run gave other numbers than the program"
    assert stream.runs.replayed == 0
    assert len(blocks) == 5


def test_a_program_that_writes_into_a_buffer_is_run_as_it_is():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            model_of(lambda z, x: doubled(z) + 0 * self.calls)(x)

    net = Counting()
    assert_run_as_it_is(net, guide, torch.randn(40, 6), because="writes into its buffers")
    assert net.calls == 0


def test_an_array_among_the_arguments_is_no_constant():
    def model(x, shift):
        model_of(lambda z, _: doubled(z) + float(shift[0]))(x)

    def q(x, shift):
        guide(x)

    x = torch.randn(40, 6)
    assert_run_as_it_is(model, q, x, shift=np.ones(1), because="NumPy array")


def test_data_outside_the_support_are_refused_in_any_block():
    vae, x = small_vae(), binary(80)
    stream = Stream(vae.model, vae.guide, x, **OPTIONS)
    x[70, 3] = 0.5  # in a block that is looked at for the first time in a replay
    with pytest.raises(ValueError, match=r"outside the support.*Bernoulli|Bernoulli.*outside"):
        list(stream)
    assert stream.runs.replayed > 0


def test_a_way_that_is_not_open_is_not_taken():
    """Logits of -300 make products of masses too small for float32; the sum of terms is taken."""
    vae, x = small_vae(), binary(80)
    with torch.no_grad():
        # two pixels that no draw explains, in the later half of the data alone
        vae.model.decoder[-1].head.bias[:2] = -300.0
    x[:, :2] = 0
    x[40:, :2] = 1
    stream, blocks = weighed(vae.model, vae.guide, x)
    _, plain = weighed(vae.model, vae.guide, x, capture=False)
    assert_equal(blocks, plain)
    assert stream.runs.replayed > 0
    assert blocks[-1].log_likelihood.max() < -500


def test_a_check_that_fails_in_most_runs_ends_the_replays():
    vae, x = small_vae(), binary(160)
    x[:, 0] = (torch.arange(160) >= 40).float()
    with torch.no_grad():
        vae.model.decoder[-1].head.bias[0] = -300.0
    because = "fails in most runs"
    assert_run_as_it_is(vae.model, vae.guide, x, because=because)


def test_parameters_may_move_and_modules_be_replaced_between_blocks():
    original, x = small_vae(), binary(160)
    replayed = []

    def moving(**options):
        vae = copy.deepcopy(original)
        stream = Stream(vae.model, vae.guide, x, **OPTIONS, **options)
        for i, block in enumerate(stream):
            replayed.append(stream.runs.replayed)
            with torch.no_grad():
                vae.model.decoder[-1].head.bias[:] = i / 10
            if i == 10:
                torch.manual_seed(0)
                vae.model.decoder[-1].head = nn.Linear(WIDTH, 6)
            yield block

    found = list(moving())
    assert_equal(found, moving(capture=False))
    assert 0 < replayed[5] < replayed[10] < replayed[15] < replayed[19]


def test_what_is_computed_once_is_computed_anew_in_another_pass():
    """Data that are no argument stay the same object, whatever became of the parameters."""
    x, scale = torch.randn(40, 6), nn.Parameter(torch.tensor(1.0))

    def closed_model():
        with pyro.plate("data", 40):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), scale.exp()).to_event(1))
            pyro.sample("x", dist.Normal(doubled(z), scale.exp().sqrt()).to_event(1), obs=x)

    def closed_guide():
        guide(x)

    options = {**OPTIONS, "num_samples": 20, "batch_size": 40}
    stream = Stream(closed_model, closed_guide, **options)
    first = list(stream)
    assert stream.runs.replayed > 0
    with torch.no_grad():
        scale += 1
    second = list(stream)
    assert_equal(second, Stream(closed_model, closed_guide, capture=False, **options))
    assert not torch.equal(first[0].log_likelihood, second[0].log_likelihood)


def test_a_parameter_of_the_store_is_live():
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.5), constraint=dist.constraints.positive)
        model_of(lambda z, _: doubled(z) * scale)(x)

    assert_replayed(model, guide, torch.randn(40, 6))


def test_what_a_diagnostic_says_does_not_depend_on_it():
    vae, x = small_vae(), binary(80)
    found, plain = (elbo(vae.model, vae.guide, x, capture=on, **OPTIONS) for on in (True, False))
    assert found.identical(plain)


def test_few_runs_are_not_recorded(monkeypatch):
    monkeypatch.undo()
    vae = small_vae()
    stream, _ = weighed(vae.model, vae.guide, binary(40))
    assert (stream.runs.replayed, stream.runs.reason) == (0, None)
