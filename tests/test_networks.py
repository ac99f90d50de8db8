import pytest
import torch
from torch import nn

from pyro_vae.networks import MLP


@pytest.mark.parametrize("features", [5, (5,), (4, 10)], ids=str)
@pytest.mark.parametrize("batch", [(), (7,), (2, 7)], ids=str)
def test_shapes(features, batch):
    event = (features,) if isinstance(features, int) else features
    assert MLP(features, 16, 8)(torch.zeros(*batch, *event)).shape == (*batch, 8)


def test_it_is_the_formula():
    mlp = MLP((2, 3), 4, 5, activation=nn.Tanh)
    x = torch.randn(7, 2, 3)
    h = torch.tanh(x.reshape(7, 6) @ mlp[0].weight.T + mlp[0].bias)
    h = torch.tanh(h @ mlp[2].weight.T + mlp[2].bias)
    torch.testing.assert_close(mlp(x), h)


def test_the_last_layer_is_activated():
    assert isinstance(MLP(3, 4)[-1], nn.ReLU)
    assert bool((MLP(3, 64)(torch.randn(100, 3)) >= 0).all())


def test_integers_and_booleans_are_taken_as_numbers():
    mlp, x = MLP(4, 8), torch.tensor([[0, 1, 1, 0]])
    torch.testing.assert_close(mlp(x), mlp(x.float()))
    torch.testing.assert_close(mlp(x.bool()), mlp(x.float()))


def test_double_precision():
    assert MLP(4, 8).double()(torch.zeros(2, 4)).dtype == torch.float64


def test_wrong_shape_names_both():
    with pytest.raises(ValueError, match=r"shape \(4, 10\), but received .* shape \(7, 5, 10\)"):
        MLP((4, 10), 8)(torch.zeros(7, 5, 10))


def test_too_few_dimensions():
    with pytest.raises(ValueError, match=r"events of shape \(4, 10\)"):
        MLP((4, 10), 8)(torch.zeros(10))


def test_no_width():
    with pytest.raises(ValueError, match=r"at least one width, as in MLP\(64, 128\)"):
        MLP(4)


def test_gradients_reach_every_layer():
    mlp = MLP(4, 8, 8, activation=nn.Tanh)
    mlp(torch.randn(16, 4)).square().sum().backward()
    assert all(bool((p.grad != 0).all()) for p in mlp.parameters())
