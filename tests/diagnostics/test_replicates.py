"""A model is made to generate in a way that is right, or it is said why it cannot."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import VAE
from pyro_vae import families as fam
from pyro_vae.diagnostics import Stream
from pyro_vae.diagnostics.passes import Pass
from pyro_vae.diagnostics.replicates import simulate
from pyro_vae.diagnostics.shelf import NotApplicable


def guide(x, *_, **__):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.reshape(len(x), -1).double().mean(1) / 2, 0.7))


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.sample("x", dist.Normal(z[:, None], 0.01).expand([len(x), 2]).to_event(1), obs=x)


def drawn(model, *args, replicates=150, simulator=None, **kwargs):
    walk = Pass(Stream(model, guide, *args, **kwargs), "replicates")
    return simulate(walk, replicates, simulator)


def test_replicates_stand_in_the_place_of_data():
    found = drawn(model, torch.zeros(70, 2, dtype=torch.float64))
    assert found.way == "unconditioned"
    x, z = found.data.args[0], found.latents["z"][0]
    assert x.shape == (150, 2)
    assert z.shape == (150,)
    assert (x - z[:, None]).abs().max() < 0.06
    assert 0.7 < z.std() < 1.3
    # blocks differ from each other
    assert len(z.unique()) == 150


def test_labels_stay_with_their_data():
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(100 * y + z, 1.0), obs=x)

    y = torch.arange(70.0)
    found = drawn(model, torch.zeros(70), y)
    assert torch.equal(found.data.args[1], torch.arange(150.0) % 70)
    assert (found.data.args[0] - 100 * found.data.args[1]).abs().max() < 10


def test_a_model_that_takes_none_generates_when_it_looks_at_what_it_observes():
    def model(x=None, size=1):
        count = len(x) if x is not None else size
        with pyro.plate("data", count):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            first = x[:, 0] if x is not None else dist.Normal(z, 1.0).sample()
            if x is not None:
                loc = torch.stack([z, first], -1)
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)
            else:
                second = dist.Normal(first, 1.0).sample()
                value = torch.stack([first, second], -1)
                pyro.deterministic("unused", value)
                pyro.sample("x", Pinned(torch.stack([z, first], -1), value))

    class Pinned(dist.Independent):
        """Of two numbers, each given the one before, drawn already."""

        def __init__(self, loc, value):
            super().__init__(dist.Normal(loc, 1.0), 1)
            self.value = value

        def expand(self, batch_shape, _instance=None):
            return self

        def sample(self, sample_shape=()):
            return self.value

        __call__ = sample

    found = drawn(model, torch.zeros(70, 2, dtype=torch.float64))
    assert found.way == "without data"


def teacher_forced(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        loc = torch.stack([z, x[:, 0]], -1)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def test_a_model_that_looks_at_its_data_needs_a_simulator():
    x = torch.zeros(70, 2, dtype=torch.float64)
    with pytest.raises(NotApplicable, match=r"may look at the data it observes.*simulator="):
        drawn(teacher_forced, x)
    with pytest.raises(NotApplicable, match="site 'x' is observed, not drawn"):
        drawn(teacher_forced, x, simulator=teacher_forced)
    with pytest.raises(NotApplicable, match="site 'z' is not drawn"):
        drawn(model, x, simulator=lambda x: pyro.sample("x", dist.Normal(x, 1.0)))
    found = drawn(model, x, simulator=pyro.poutine.uncondition(model))
    assert found.way == "simulator"


def test_a_preprocessed_observation_is_refused():
    def preprocessed(x):
        model(x.double() / 255 + 1)

    with pytest.raises(NotApplicable, match=r"'x' observes none of the arguments.*preprocess"):
        drawn(preprocessed, torch.ones(70, 2))


def test_a_factor_is_refused():
    def factored(x):
        model(x)
        with pyro.plate("more", len(x)):
            pyro.factor("penalty", torch.zeros(len(x)))

    with pytest.raises(ValueError, match=r"pyro.factor|no plate"):
        drawn(factored, torch.zeros(70, 2, dtype=torch.float64))

    def inside(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.factor("penalty", -z)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(NotApplicable, match=r"site 'penalty' is a pyro.factor"):
        drawn(inside, torch.zeros(70, dtype=torch.float64))


def test_whole_numbers_cannot_hold_what_a_model_draws():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.double())

    with pytest.raises(NotApplicable, match=r"torch.int64, cannot hold; pass the data as"):
        drawn(model, torch.zeros(70, dtype=torch.long))


def test_programs_without_arguments_are_refused():
    x = torch.zeros(4, 2, dtype=torch.float64)
    with pytest.warns(UserWarning, match="one by one"):
        walk = Pass(Stream(lambda: model(x), lambda: guide(x)), "replicates")
    with pytest.raises(NotApplicable, match=r"take no data as arguments.*write model\(x\)"):
        simulate(walk, 10)


def test_a_vae_with_masked_data_generates():
    vae = VAE(
        prior=fam.Normal(2),
        encoder=torch.nn.Sequential(torch.nn.Linear(3, 4), fam.Normal(2, context=4)),
        decoder=torch.nn.Sequential(torch.nn.Linear(2, 4), fam.Normal(3, context=4)),
    )
    x = torch.randn(20, 3)
    mask = torch.rand(20, 3) < 0.8
    x[~mask] = torch.nan
    walk = Pass(Stream(vae.model, vae.guide, x, mask=mask), "replicates")
    found = simulate(walk, 30)
    assert found.way == "unconditioned"
    assert found.data.args[0].isfinite().all()
    assert torch.equal(found.data.kwargs["mask"][20:], mask[:10])
