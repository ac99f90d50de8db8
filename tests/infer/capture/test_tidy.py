"""A tidy graph computes what the traced one did, writes and draws included."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.infer.capturing.tidy import tidy


def write_through_a_view(x):
    g = torch.randn(4, 3).add_(1e-3)
    g.select(-1, -1).zero_()  # nobody uses what this returns
    return g.sum() * x


def write_after_a_copy_that_looks_idle(x):
    y = x * 1.0
    y.add_(5.0)
    return x + y


def write_into_a_constant(x):
    c = torch.zeros(3)
    c += x
    return c * 2, torch.zeros(3)


def draws_that_nobody_uses(x):
    torch.randn(5)
    return x * torch.rand(3)


def equal_draws_are_two(x):
    return x + torch.randn(3) - torch.randn(3)


def outputs_that_share_memory(x):
    y = x.exp()
    return y, y.view(3, 1), x.detach(), torch.ones(3), torch.ones(3)


def expanded_before_it_is_computed(x):
    return x.unsqueeze(0).expand(50, 3).log().add(2.0).sum(0), x.sum().expand(7).exp()


def a_view_of_what_is_laid_out_otherwise(x):
    wide = x.unsqueeze(-1).expand(3, 4).exp()  # narrowed, and so no longer row by row
    return (wide.unsqueeze(0) * torch.rand(2, 3, 4)).view(6, 4), (wide.add(1.0) * wide).view(12)


def narrow_with_a_scalar_of_its_own(x):
    return torch.where(x.expand(6, 3) > 0.5, x.expand(6, 3), torch.zeros(())).sum(0)


def ints_and_floats(x):
    return x * 1, x.to(torch.float32), torch.arange(3) * 1.0 + x, torch.arange(3) * 1


PROGRAMS = [
    write_through_a_view,
    write_after_a_copy_that_looks_idle,
    write_into_a_constant,
    draws_that_nobody_uses,
    equal_draws_are_two,
    outputs_that_share_memory,
    expanded_before_it_is_computed,
    a_view_of_what_is_laid_out_otherwise,
    narrow_with_a_scalar_of_its_own,
    ints_and_floats,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_same_numbers_and_the_same_stream(program):
    x = torch.tensor([0.3, 0.6, 0.9])
    graph = tidy(make_fx(lambda x: program(x))(x.clone()))
    for values in (x, 2 * x):
        torch.manual_seed(1)
        want = program(values.clone())
        after = torch.rand(())
        torch.manual_seed(1)
        got = graph(values.clone())
        torch.testing.assert_close(got, want)
        assert torch.equal(torch.rand(()), after)


def test_outputs_can_be_written_into():
    x = torch.tensor([0.3, 0.6, 0.9])
    graph = tidy(make_fx(outputs_that_share_memory)(x.clone()))
    first = graph(x)
    kept = [t.clone() for t in first]
    pointers = {t.untyped_storage().data_ptr() for t in first}
    assert len(pointers) == len(first)
    for t in first:
        t.zero_()
    torch.testing.assert_close(list(graph(x)), kept)
    assert x[0] == 0.3


def test_fewer_operations():
    graph = make_fx(expanded_before_it_is_computed)(torch.ones(3))
    wide = [n for n in tidy(graph).graph.nodes if "log" in n.name]
    assert wide[0].meta["val"].shape == (1, 3)
