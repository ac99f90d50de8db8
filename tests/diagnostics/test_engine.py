"""Log weights: the right numbers, the same draws however they are cut, and no trace left."""

import hashlib
import io
import random
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import F64, MEAN_FIELD, ORACLE, data, model
from pyro import poutine
from torch import nn

from pyro_vae.diagnostics import Stream, log_weights

QUIET = {"progress": False}


# ---------------------------------------------------------------- programs of many kinds
def by_hand(draws, x):
    """log p(x, z) - log q(z|x) of the linear model and its mean-field guide, without Pyro."""
    normal = torch.distributions.Normal
    mean = draws @ ORACLE.weight.T + ORACLE.bias
    fit = normal(mean, ORACLE.variance.sqrt()).log_prob(x).sum(-1)
    prior = normal(torch.zeros((), dtype=F64), 1.0).log_prob(draws).sum(-1)
    scale = MEAN_FIELD.covariance.diagonal().sqrt()
    return fit + prior - normal(ORACLE.mean(x), scale).log_prob(draws).sum(-1)


def two_level_model(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(a, 0.5).to_event(1))
        pyro.sample("x", dist.Normal(torch.cat([b, -b, b[..., :1]], -1), 1.0).to_event(1), obs=x)


def two_level_guide(x):
    """Its second site looks at x and the first draw side by side: no dims beyond (data, event)."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(x[:, :2] / 3, 0.8).to_event(1))
        b_loc = torch.cat([x, a], dim=1)[:, [0, 5]] / 2
        pyro.sample("b", dist.Normal(b_loc, 0.6).to_event(1))


class Convolution(nn.Module):
    """A decoder that wants (batch, channel, length)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Conv1d(1, 5, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            assert z.dim() == 2
            mean = self.net(z.unsqueeze(1)).squeeze(2)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def branching_model(x):
    """Looks at the values of its draws, and so can only be run one by one."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        centre = z - z.mean() if float(z.mean()) > 0 else z
        pyro.sample("x", dist.Normal(centre.repeat(1, 3)[:, :5], 1.0).to_event(1), obs=x)


def inner_plate_model(x):
    """The data plate stands left of another; the sites of both are summed."""
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
        with pyro.plate("pixels", 5, dim=-1):
            w = pyro.sample("w", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def inner_plate_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True) / 2, 0.7))
        with pyro.plate("pixels", 5, dim=-1):
            pyro.sample("w", dist.Normal((x + z) / 2, 0.8))


def convolution():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Convolution().double()


PROGRAMS = {
    "plain": (model, MEAN_FIELD, "plate", "plate"),
    "two levels": (two_level_model, two_level_guide, "repeated", "plate"),
    "convolution": (convolution(), MEAN_FIELD, "plate", "repeated"),
    "branching": (branching_model, MEAN_FIELD, "plate", "one by one"),
    "inner plate": (inner_plate_model, inner_plate_guide, "plate", "plate"),
}
each_program = pytest.mark.parametrize(
    ("model", "guide", "guide_layout", "model_layout"), list(PROGRAMS.values()), ids=list(PROGRAMS)
)


@pytest.fixture
def slow_is_known():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "draws are run one by one")
        yield


# -------------------------------------------------------------------------- the right numbers
def test_weights_are_those_computed_by_hand():
    x = data(100)
    found = log_weights(model, MEAN_FIELD, x, num_samples=50, keep_draws=True, **QUIET)
    torch.testing.assert_close(found.log_weight, by_hand(found.draws["z"], x))
    assert found.log_weight.dtype == F64
    assert found.log_weight.shape == (50, 100)


@each_program
@pytest.mark.usefixtures("slow_is_known")
def test_weights_are_those_of_one_run_for_each_draw(model, guide, guide_layout, model_layout):
    """By Pyro's own traces, datum by datum."""
    x = data(7)
    stream = Stream(model, guide, x, num_samples=3, keep_draws=True, **QUIET)
    assert (stream.choice.guide.name, stream.choice.model.name) == (guide_layout, model_layout)
    (found,) = stream
    for s in range(3):
        values = {n: v[s] for n, v in found.draws.items()}
        runs = [
            poutine.trace(poutine.condition(program, data=values)).get_trace(x)
            for program in (model, guide)
        ]
        for run in runs:
            run.compute_log_prob()
        parts = [
            sum(
                site["log_prob"].reshape(7, -1).sum(-1)
                for site in run.nodes.values()
                if site["type"] == "sample" and site["name"] not in ("data", "pixels")
            )
            for run in runs
        ]
        torch.testing.assert_close(found.log_weight[s], (parts[0] - parts[1]).detach())


def test_one_by_one_is_told():
    with pytest.warns(UserWarning, match=r"one by one, which is slow.*model, plate: RuntimeError"):
        Stream(branching_model, MEAN_FIELD, data(5), **QUIET)


# ------------------------------------------------------------------------------ the same draws
@each_program
@pytest.mark.usefixtures("slow_is_known")
def test_draws_depend_on_the_seed_alone(model, guide, guide_layout, model_layout):
    x, options = data(9), {"num_samples": 6, "keep_draws": True, "block_size": 4, **QUIET}
    first = log_weights(model, guide, x, **options)
    for batch_size in (1, 3, 8, 1000):
        torch.manual_seed(batch_size)
        other = log_weights(model, guide, x, batch_size=batch_size, **options)
        for name, draws in first.draws.items():
            assert torch.equal(draws, other.draws[name])
        if model is not branching_model:  # which looks at its whole batch
            torch.testing.assert_close(first.log_weight, other.log_weight, rtol=1e-12, atol=1e-12)
    another = log_weights(model, guide, x, seed=1, **options)
    assert not any(torch.equal(d, another.draws[n]) for n, d in first.draws.items())


def test_blocks_of_data_and_of_draws_are_drawn_anew():
    x = data(1).repeat(8, 1)
    found = log_weights(
        model, MEAN_FIELD, x, num_samples=2500, keep_draws=True, block_size=4, **QUIET
    )
    draws = found.draws["z"]
    assert draws.shape == (2500, 8, 2)
    assert len(draws.flatten(0, 1).unique(dim=0)) == 2500 * 8


@pytest.mark.parametrize("num_samples", [1, 7, 999, 1001, 2500])
def test_particles_are_counted_exactly(num_samples):
    (found,) = Stream(model, MEAN_FIELD, data(3), num_samples=num_samples, batch_size=64, **QUIET)
    assert found.log_weight.shape == (num_samples, 3)
    assert found.num_samples == num_samples
    assert not found.log_weight.isnan().any()


def test_float32_weights_lose_nothing_to_their_offset():
    found = log_weights(model, MEAN_FIELD, data(5), num_samples=100, **QUIET)
    found.log_likelihood -= 1e6
    small, peak = found.relative()
    assert small.dtype == torch.float32
    torch.testing.assert_close(small.double() + peak, found.log_weight, rtol=0, atol=1e-5)


def test_long_sums_are_accumulated_in_double():
    """20,000 pixels of some -0.7 nats: float32 would round their sum to 1e-3."""

    tilt = torch.linspace(-1, 1, 20_000)

    def wide_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            logits = 0.01 * z + tilt
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def wide_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))

    x = (torch.rand(3, 20_000) < 0.5).float()
    found = log_weights(wide_model, wide_guide, x, num_samples=20, keep_draws=True, **QUIET)
    logits = 0.01 * found.draws["z"] + tilt
    exact = dist.Bernoulli(logits=logits.double()).log_prob(x.double()).sum(-1)
    assert float((found.log_likelihood - exact).abs().max()) < 2e-4


# -------------------------------------------------------------------------- no trace left behind
class Untidy(nn.Module):
    """Dropout and batch statistics, in train mode, as after training."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.out = nn.Linear(8, 5)

    def forward(self, x):
        pyro.module("untidy", self)
        scale = pyro.param(
            "scale", lambda: torch.rand(()) + 0.5, constraint=dist.constraints.positive
        )
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = self.out(self.net(z.flatten(0, -2))).unflatten(0, z.shape[:-1])
            pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)


def plain_guide(x):
    random.random()
    np.random.rand()
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def digest(module, optimizer):
    """A hash of all that must not change."""
    held = [random.getstate(), [m.training for m in module.modules()]]
    held += [np.random.get_state()[1].tobytes(), torch.random.get_rng_state().numpy().tobytes()]
    held += [t.detach().numpy().tobytes() for t in (*module.parameters(), *module.buffers())]
    held += [None if p.grad is None else p.grad.numpy().tobytes() for p in module.parameters()]
    held += [sorted(pyro.get_param_store().keys())]
    store = pyro.get_param_store().named_parameters()
    held += [(n, p.detach().numpy().tobytes()) for n, p in sorted(store)]
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    return hashlib.sha256(repr(held).encode() + file.getvalue()).hexdigest()


def untidy(stored):
    """A module that has been trained for one step."""
    pyro.clear_param_store()
    module = Untidy()
    optimizer = torch.optim.Adam(module.parameters())
    x = torch.randn(20, 5)
    if stored:
        poutine.trace(module).get_trace(x)
    z = torch.randn(20, 2)
    module.out(module.net(z)).sum().backward()
    optimizer.step()
    return module, optimizer, x


@pytest.mark.parametrize("stored", [True, False])
def test_nothing_of_the_callers_changes(stored):
    module, optimizer, x = untidy(stored)
    before = digest(module, optimizer)
    stream = Stream(module, plain_guide, x, num_samples=10, block_size=8, exact_kl=True, **QUIET)
    assert digest(module, optimizer) == before
    for _ in stream:
        assert digest(module, optimizer) == before, "between two blocks"
    assert digest(module, optimizer) == before


def test_an_error_leaves_nothing_changed():
    module, optimizer, x = untidy(stored=True)

    def failing(x):
        plain_guide(x)
        raise ArithmeticError("no")

    before = digest(module, optimizer)
    with pytest.raises(ArithmeticError):
        Stream(module, failing, x, **QUIET)
    assert digest(module, optimizer) == before


def test_modules_run_as_after_eval():
    module, _, x = untidy(stored=True)
    trained = log_weights(module, plain_guide, x, num_samples=10, block_size=8, **QUIET)
    module.eval()
    evaluated = log_weights(module, plain_guide, x, num_samples=10, block_size=8, **QUIET)
    assert torch.equal(trained.log_weight, evaluated.log_weight)
    module.train()
    again = log_weights(module, plain_guide, x, num_samples=10, block_size=8, **QUIET)
    assert torch.equal(trained.log_weight, again.log_weight)


def test_parameters_that_are_not_there_yet_are_the_same_in_every_block():
    x = torch.zeros(9, 2)

    def fresh(x):
        loc = pyro.param("loc", lambda: torch.randn(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1e-6).to_event(1))

    def around(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    found = log_weights(around, fresh, x, num_samples=4, block_size=2, keep_draws=True, **QUIET)
    assert float(found.draws["z"].std((0, 1)).max()) < 1e-4
    assert "loc" not in pyro.get_param_store()


# ------------------------------------------------------------------------- scales, masks, shapes
def test_weights_are_not_scaled_and_are_masked():
    x, observed = data(10), torch.arange(10) % 2 == 0

    def masked_model(x, observed):
        with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            likelihood = dist.Normal(z @ ORACLE.weight.T + ORACLE.bias, ORACLE.variance.sqrt())
            with poutine.mask(mask=observed):
                pyro.sample("x", likelihood.to_event(1), obs=x)

    def guide(x, observed):
        with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
            scale = MEAN_FIELD.covariance.diagonal().sqrt()
            pyro.sample("z", dist.Normal(ORACLE.mean(x), scale).to_event(1))

    found = log_weights(masked_model, guide, x, observed, num_samples=20, keep_draws=True, **QUIET)
    assert not found.log_likelihood[:, ~observed].any()
    whole = by_hand(found.draws["z"], x)
    torch.testing.assert_close(found.log_weight[:, observed], whole[:, observed])


def test_data_that_are_no_argument():
    x = data(30)
    found = log_weights(lambda: model(x), lambda: MEAN_FIELD(x), num_samples=5, **QUIET)
    assert found.log_weight.shape == (5, 30)


def test_exact_kl_only_where_one_run_tells_it():
    x = data(6)
    (found,) = Stream(two_level_model, two_level_guide, x, exact_kl=True, num_samples=2, **QUIET)
    assert list(found.kl) == ["a"]
    a = torch.distributions.Normal(x[:, :2] / 3, 0.8)
    unit = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0)
    truth = torch.distributions.kl_divergence(a, unit).sum(-1)
    torch.testing.assert_close(found.kl["a"], truth)


def masked_model(x):
    with pyro.plate("data", len(x)):
        with poutine.mask(mask=x[:, 0] > 0):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.repeat(1, 3)[:, :5], 1.0).to_event(1), obs=x)


@pytest.mark.usefixtures("slow_is_known")
@pytest.mark.parametrize("program", [*PROGRAMS, "masked"])
def test_exact_kls_do_not_depend_on_how_programs_are_run(program):
    """Whether they are those of runs made for draws, or of a run of their own."""
    model, guide, *_ = PROGRAMS.get(program, (masked_model, MEAN_FIELD))
    options = {"num_samples": 4, "block_size": 4, "exact_kl": True, **QUIET}
    first = log_weights(model, guide, data(9), **options)
    assert first.kl
    for batch_size in (1, 3, 8):
        other = log_weights(model, guide, data(9), batch_size=batch_size, **options)
        assert other.kl.keys() == first.kl.keys()
        for name, value in first.kl.items():
            torch.testing.assert_close(other.kl[name], value, rtol=1e-12, atol=1e-12)
    if program == "masked":
        assert torch.equal(first.kl["z"] == 0, data(9)[:, 0] <= 0)


def test_exact_kls_cost_no_runs():
    calls = []

    def counted(x):
        calls.append(len(x))
        return MEAN_FIELD(x)

    stream = Stream(model, counted, data(9), block_size=3, num_samples=5, exact_kl=True, **QUIET)
    calls.clear()
    assert all("z" in block.kl for block in stream)
    assert calls == [3, 3, 3]


def test_no_seed_waits_for_an_accelerator():
    """Torch keeps seeds, each with a traceback, for devices that were not used so far."""
    before = len(torch.cuda._queued_calls)
    log_weights(model, MEAN_FIELD, data(9), num_samples=5, block_size=3, **QUIET)
    assert len(torch.cuda._queued_calls) == before


# -------------------------------------------------------------------------------------- refusals
def outside(x):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc.repeat(3)[:5], 1.0).to_event(1), obs=x)


def outside_guide(x):
    pyro.sample("loc", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))


def per_datum(x):
    loc = pyro.param("locs", torch.zeros(100, 2, dtype=F64))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def random_rows(x):
    with pyro.plate("data", 100, subsample_size=10):
        pyro.sample("z", dist.Normal(torch.zeros(10, 2, dtype=F64), 1.0).to_event(1))


@pytest.mark.parametrize(
    ("model", "guide", "options", "message"),
    [
        (outside, outside_guide, {}, "site 'loc' lies outside the data plate 'data'"),
        (model, lambda x: None, {}, "latent site 'z' is not drawn by the guide"),
        (model, MEAN_FIELD, {"plate": "rows"}, "no plate named 'rows'"),
        (model, MEAN_FIELD, {"num_samples": 0}, "num_samples must be positive, not 0"),
        (model, MEAN_FIELD, {"batch_size": -1}, "batch_size must be positive, not -1"),
        (model, MEAN_FIELD, {"seed": -1}, "seed must not be negative"),
        (lambda x: model(x[:50]), lambda x: MEAN_FIELD(x[:50]), {}, "has 50 rows, but the first"),
    ],
)
def test_refusals(model, guide, options, message):
    with pytest.raises(ValueError, match=message):
        Stream(model, guide, data(100), **{"block_size": 60, **QUIET, **options})


def test_a_guide_with_parameters_for_each_datum_is_told_of_block_size():
    with pytest.raises(ValueError, match="hape mismatch|nvalid") as caught:
        Stream(model, per_datum, data(100), **QUIET)
    assert "pass block_size=100" in " ".join(caught.value.__notes__)
    found = log_weights(model, per_datum, data(100), num_samples=3, block_size=100, **QUIET)
    assert found.log_weight.shape == (3, 100)


def test_random_rows_are_refused():
    with pytest.raises(ValueError, match="draws its subsample at random"):
        Stream(
            lambda: random_model(),
            lambda: random_rows(None),
            **QUIET,
        )


def random_model():
    with pyro.plate("data", 100, subsample_size=10) as rows:
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
        x = data(100)[rows]
        pyro.sample("x", dist.Normal(z.repeat(1, 3)[:, :5], 1.0).to_event(1), obs=x)


def test_a_bar_is_shown_only_for_what_takes_long(capsys):
    log_weights(model, MEAN_FIELD, data(5), num_samples=10)
    assert capsys.readouterr().err == ""
