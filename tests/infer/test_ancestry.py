"""Which sites descend from which: what is seen, what is assumed, and what is remembered."""

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_vae.infer import TraceExactKL_ELBO, ancestry
from pyro_vae.infer.following import follow

SEEN = "its parent 'up' in the model descends from it in the guide"


def model(through=lambda z: 1.3 * z):
    def program(flag=True):
        up = pyro.sample("up", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        loc = through(up) if flag else torch.zeros(3)
        pyro.sample("low", dist.Normal(loc, 1.0).to_event(1))

    return program


def guide(through=lambda z: 0.4 * z):
    def program(flag=True):
        low = pyro.sample("low", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("up", dist.Normal(through(low), 1.0).to_event(1))

    return program


def biased(model, guide, **kwargs):
    drawn = poutine.trace(guide).get_trace(**kwargs)
    replayed = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(**kwargs)
    return ancestry.biased_sites(model, guide, (), kwargs, replayed, drawn)


class Twice(torch.autograd.Function):
    """Through which autograd sees, as through any operation of one's own."""

    @staticmethod
    def forward(ctx, z):
        return 2 * z.detach()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def written(z):
    new = torch.zeros(3)
    new[:] = z
    return new


SEEN_THROUGH = {
    "arithmetic": lambda z: 2 * z,
    "detach": lambda z: z.detach(),
    "no_grad": torch.no_grad()(lambda z: 2 * z),
    "a comparison": lambda z: (z > 0).float(),
    "an index": lambda z: torch.tensor([1.0, 2.0])[(z > 0).long()],
    "a module": nn.Linear(3, 3),
    "vmap": lambda z: torch.func.vmap(lambda row: 2 * row)(z),
    "an operation of one's own": Twice.apply,
    "writing": written,
    "writing in place": lambda z: torch.zeros(3).copy_(z),
    "adding in place": lambda z: z.mul_(2),
    "stack": lambda z: torch.stack([z[2], z[1], z[0]]),
    "checkpoint": lambda z: torch.utils.checkpoint.checkpoint(torch.sin, z, use_reentrant=False),
}


@pytest.mark.parametrize("name", SEEN_THROUGH)
def test_an_edge_is_seen(name):
    assert biased(model(SEEN_THROUGH[name]), guide(SEEN_THROUGH[name])) == {"low": SEEN}


def written_out(z):
    new = torch.zeros(3)
    torch.sin(z.detach(), out=new)
    return new


def branch(z):
    return torch.zeros(3) if z.sum() > 100 else torch.ones(3)


ASSUMED_THROUGH = {
    "vmap, detached": (
        lambda z: torch.func.vmap(lambda row: 2 * row.detach())(z),
        "'up' goes out of sight through torch.func",
    ),
    "a branch": (branch, r"'up' goes out of sight through Tensor.__bool__\(\)"),
    "item": (lambda z: torch.full((3,), z[0].item()), r"'up' goes .* Tensor.item\(\)"),
    "NumPy": (lambda z: torch.from_numpy(np.sin(z.detach().numpy())), r"Tensor.numpy\(\)"),
    "a list": (lambda z: torch.tensor(z.tolist()), r"Tensor.tolist\(\)"),
    "writing, detached": (lambda z: written(z.detach()), "__setitem__, into another tensor"),
    "writing out": (written_out, "sin, into another"),
}


@pytest.mark.parametrize("side", ["model", "guide"])
@pytest.mark.parametrize("name", ASSUMED_THROUGH)
def test_where_a_value_goes_out_of_sight_an_edge_is_assumed(name, side):
    through, reason = ASSUMED_THROUGH[name]
    if side == "model":
        (found,) = biased(model(through), guide()).items()
    else:
        (found,) = biased(model(), guide(through)).items()
        reason = reason.replace("'up'", "'low'")
    assert found[0] == "low"
    assert found[1].startswith("its parent 'up' in the model may descend from it in the guide: ")
    assert re.search(reason, found[1])


def test_a_program_that_cannot_be_followed_is_assumed_to_have_edges():
    seen = []

    def once(z):
        seen.append(z)
        if len(seen) > 1:
            raise RuntimeError("never again")
        return torch.zeros(3)

    (reason,) = biased(model(once), guide()).values()
    assert reason.endswith("could not be followed (RuntimeError: never again)")

    def changing():
        pyro.sample("up", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        for i in range(len(seen)):
            pyro.sample(f"extra {i}", dist.Normal(0.0, 1.0))
        pyro.sample("low", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        seen.append(None)

    (reason,) = biased(changing, guide()).values()
    assert reason.endswith("draw other sites when they are run again")


def test_independent_sites_in_another_order_are_free():
    free = {"through": lambda z: torch.ones(3)}
    assert biased(model(**free), guide(**free)) == {}
    assert biased(model(), guide(**free)) == {}
    assert biased(model(**free), guide()) == {}


def test_a_long_way_round_is_found_and_what_was_seen_goes_first():
    """low -> u -> v -> up in the guide, the last step by Python."""

    def far(exact):
        def program(flag=True):
            low = pyro.sample("low", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            u = pyro.sample("u", dist.Delta(low.sum()), infer={"is_auxiliary": True})
            v = pyro.sample("v", dist.Gamma(u.exp(), 1.0), infer={"is_auxiliary": True})
            loc = v if exact else float(v.detach())
            pyro.sample("up", dist.Normal(loc * torch.ones(3), 1.0).to_event(1))

        return program

    assert biased(model(), far(exact=True)) == {"low": SEEN}
    (reason,) = biased(model(), far(exact=False)).values()
    assert "'v' goes out of sight through Tensor.__float__()" in reason


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, z):
        self.count = self.count + 1
        return self.drop(self.norm(torch.stack([z, z + 1])))[0]


def test_following_leaves_nothing_behind():
    net = Stateful()
    program = model(net)
    trace = poutine.trace(program).get_trace()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    identity = list(map(id, net.buffers()))
    random = torch.get_rng_state()
    for validation in (True, False):
        with pyro.validation_enabled(validation):
            assert follow(program, trace, (), {}) == {"up": {}, "low": {"up": ""}}
            assert torch.distributions.Distribution._validate_args is validation
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert list(map(id, net.buffers())) == identity
    assert torch.equal(torch.get_rng_state(), random)
    assert not trace.nodes["up"]["value"].requires_grad
    assert type(trace.nodes["low"]["value"]) is torch.Tensor
    assert not net._forward_pre_hooks


# ------------------------------------------------------------------------------- memory


@pytest.fixture
def follows(monkeypatch):
    """Counts how often programs are run to be followed."""
    count = []

    def counted(*args):
        count.append(args)
        return follow(*args)

    monkeypatch.setattr(ancestry, "follow", counted)
    return count


def test_it_is_found_out_once(follows):
    elbo, programs = TraceExactKL_ELBO(), (model(), guide())
    for _ in range(5):
        elbo.loss(*programs)
    assert len(follows) == 2
    assert elbo.routes["low"] == ("sampled", SEEN, None)
    many = TraceExactKL_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=0)
    for _ in range(5):
        many.loss(*programs)
    assert len(follows) == 4
    assert many.routes["low"].kind == "sampled"


def test_nothing_is_run_where_the_order_is_the_same(follows):
    elbo, program = TraceExactKL_ELBO(), model()
    elbo.loss(program, program)
    assert follows == []


def test_another_structure_is_another_matter(follows):
    elbo, programs = TraceExactKL_ELBO(), (model(), guide())
    for flag, kind in ((True, "sampled"), (False, "closed"), (True, "sampled")):
        elbo.loss(*programs, flag=flag)
        assert elbo.routes["low"].kind == kind
    assert len(follows) == 4


def test_other_programs_are_another_matter(monkeypatch):
    # as if new programs came to lie where old ones had been
    monkeypatch.setattr(ancestry, "id", lambda _: 0, raising=False)
    elbo = TraceExactKL_ELBO()
    free = {"through": lambda z: torch.ones(3)}
    for _ in range(3):
        elbo.loss(model(), guide())
        assert elbo.routes["low"].kind == "sampled"
        elbo.loss(model(), guide(**free))
        assert elbo.routes["low"].kind == "closed"


def test_a_structure_that_changes_with_autograd_only_is_noticed(follows):
    """Nothing but the graph of a parameter tells that this program has changed."""
    state = {"through": lambda z: torch.ones(3)}
    elbo, programs = TraceExactKL_ELBO(), (model(), guide(lambda z: state["through"](z)))
    pyro.param("w", torch.tensor(1.0))
    elbo.differentiable_loss(*programs)
    assert elbo.routes["low"].kind == "closed"
    state["through"] = lambda z: pyro.param("w") * z
    elbo.differentiable_loss(*programs)
    assert elbo.routes["low"].kind == "sampled"


def test_bound_methods_and_changing_numbers_are_remembered(follows):
    class Pair:
        def model(self, beta, flag=True):
            model()(flag)

        def guide(self, beta, flag=True):
            guide()(flag)

    elbo, pair = TraceExactKL_ELBO(), Pair()
    for step in range(5):
        elbo.loss(pair.model, pair.guide, step / 10)
    assert len(follows) == 2
    other = Pair()
    elbo.loss(other.model, other.guide, 0.0)
    assert len(follows) == 4


def test_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(ancestry.Ancestry, "LIMIT", 4)
    elbo, programs = TraceExactKL_ELBO(), (model(), guide())
    for i in range(10):
        assert math.isfinite(elbo.loss(*programs, flag=i + 1))
    assert len(elbo._ancestry._known) == 4
