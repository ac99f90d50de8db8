import functools

from torch import nn

from pyro_vae.closures import hidden_modules

NET = nn.Linear(1, 1)


def uses_global(z):
    return NET(z)


def uses_nothing(z):
    return z


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def method(self, z):
        return self.net(z)


class Plain:
    def __init__(self, net=None):
        self.net = net

    def __call__(self, z):
        return z if self.net is None else self.net(z)

    method = __call__


def test_closure():
    net = nn.Linear(1, 1)
    assert hidden_modules(lambda z: net(z)) == ["net"]


def test_global():
    assert hidden_modules(uses_global) == ["NET"]


def test_positional_and_keyword_defaults():
    def positional(z, net=NET):
        return net(z)

    def keyword(z, *, net=NET):
        return net(z)

    assert hidden_modules(positional) == ["net"]
    assert hidden_modules(keyword) == ["net"]


def test_bound_method():
    assert hidden_modules(Holder().method) == ["Holder"]
    assert hidden_modules(Plain(NET).method) == ["net"]
    assert hidden_modules(Plain().method) == []


def test_callable_object():
    assert hidden_modules(Plain(NET)) == ["net"]
    assert hidden_modules(Plain()) == []


def test_partial():
    def f(net, z):
        return net(z)

    assert hidden_modules(functools.partial(f, NET)) == ["Linear"]
    assert hidden_modules(functools.partial(f, net=NET)) == ["net"]
    assert hidden_modules(functools.partial(uses_global)) == ["NET"]


def test_what_cannot_train_is_no_matter():
    frozen = nn.Linear(1, 1).requires_grad_(False)
    bare = nn.ReLU()
    assert hidden_modules(lambda z: bare(frozen(z))) == []
    assert hidden_modules(uses_nothing) == []


def test_callables_without_python_code_hide_nothing():
    assert hidden_modules(len) == []
