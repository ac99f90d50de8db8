"""A graph in two halves computes what the whole does, and the first half is all that can be."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.infer.capturing.halves import halved
from pyro_vae.infer.capturing.tidy import tidy

WEIGHT = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))


def both(z, x):
    return z * x.exp() + (x * WEIGHT).sum(), x.log1p()


def slow_memory_that_is_written_into(z, x):
    y = x.exp()
    y += z  # so y is no constant of x
    return y, x.exp() * z


def slow_view_of_what_is_written_into(z, x):
    y = x * 2
    y[0] = z[0]
    return y + z, y.view(3, 1)


def nothing_is_slow(z, x):
    return z.exp(), z + x


def nothing_is_fast(z, x):
    return x.exp(), WEIGHT + x


def arguments_come_out(z, x):
    return z, x, WEIGHT


def several_outputs_of_one_operation(z, x):
    low, high = x.aminmax()
    values, index = x.topk(2)
    return z * low + high, values + z[index]


PROGRAMS = {
    both: 4,
    slow_memory_that_is_written_into: 1,
    slow_view_of_what_is_written_into: 0,
    nothing_is_slow: 0,
    nothing_is_fast: 2,
    arguments_come_out: 2,
    several_outputs_of_one_operation: 6,
}
"""By program, how many operations depend on x alone, and on nothing that is written into."""


@pytest.mark.parametrize("program", PROGRAMS)
def test_halves_are_the_whole(program):
    z, x = torch.rand(2, 3)
    with torch.no_grad():
        graph = tidy(make_fx(program)(z.clone(), x.clone()), narrow=False)
        halves = halved(graph, fast=1)
        kept = halves.once(x)
        for _ in range(3):
            z = torch.rand(3)
            for got, want in zip(halves.rest(z, *kept), program(z, x), strict=True):
                assert torch.equal(got, want)


@pytest.mark.parametrize("program", PROGRAMS)
def test_all_that_stays_is_computed_once(program):
    z, x = torch.rand(2, 3)
    graph = tidy(make_fx(program)(z, x), narrow=False)
    once = halved(graph, fast=1).once.__self__
    operations = [n for n in once.graph.nodes if n.op == "call_function"]
    assert len(operations) == PROGRAMS[program]


def test_parameters_stay_live():
    with torch.no_grad():
        halves = halved(tidy(make_fx(both)(*torch.rand(2, 3)), narrow=False), fast=1)
        z, x = torch.rand(2, 3)
        WEIGHT.mul_(2)
        assert torch.equal(halves.rest(z, *halves.once(x))[0], both(z, x)[0])
