import pytest
import torch
from builders import copies, train, unmoved
from torch import nn

from pyro_vae import VAE, HierarchicalVAE, datasets, networks
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, capture
from pyro_vae.networks import MLP, Beside, ConvDecoder, ConvEncoder, GatedMLP

PERCEPTRONS = [MLP, GatedMLP]
perceptrons = pytest.mark.parametrize("net", PERCEPTRONS)
SIZES = [(8, 8), (7, 9), (1, 1), (28, 5)]
batches = pytest.mark.parametrize("batch", [(), (7,), (2, 7), (0,)], ids=str)


@perceptrons
@pytest.mark.parametrize("features", [5, (5,), (4, 10)], ids=str)
@batches
def test_shapes(net, features, batch):
    event = (features,) if isinstance(features, int) else features
    assert net(features, 16, 8)(torch.zeros(*batch, *event)).shape == (*batch, 8)


def test_it_is_the_formula():
    mlp = MLP((2, 3), 4, 5, activation=nn.Tanh)
    x = torch.randn(7, 2, 3)
    h = torch.tanh(x.reshape(7, 6) @ mlp[0].weight.T + mlp[0].bias)
    h = torch.tanh(h @ mlp[2].weight.T + mlp[2].bias)
    torch.testing.assert_close(mlp(x), h)


def test_gates_are_the_formula():
    gated = GatedMLP((2, 3), 4, 5)
    x = torch.randn(7, 2, 3)
    h = x.reshape(7, 6)
    for linear, width in ((gated[0], 4), (gated[2], 5)):
        whole = h @ linear.weight.T + linear.bias
        h = whole[:, :width] * whole[:, width:].sigmoid()
    torch.testing.assert_close(gated(x), h)


def test_the_last_layer_is_activated():
    assert isinstance(MLP(3, 4)[-1], nn.ReLU)
    assert bool((MLP(3, 64)(torch.randn(100, 3)) >= 0).all())
    assert bool((ConvEncoder((1, 8, 8), 16)(torch.randn(9, 1, 8, 8)) >= 0).all())
    assert bool((ConvDecoder(2, (16, 8, 8))(torch.randn(9, 2)) >= 0).all())


@perceptrons
def test_integers_and_booleans_are_taken_as_numbers(net):
    net, x = net(4, 8), torch.tensor([[0, 1, 1, 0]])
    torch.testing.assert_close(net(x), net(x.float()))
    torch.testing.assert_close(net(x.bool()), net(x.float()))


NETS = {
    "MLP": (lambda: MLP(4, 8, 8, activation=nn.Tanh), (4,)),
    "GatedMLP": (lambda: GatedMLP(4, 8, 8), (4,)),
    "ConvEncoder": (lambda: ConvEncoder((2, 7, 5), 8, activation=nn.Tanh), (2, 7, 5)),
    "ConvDecoder": (lambda: ConvDecoder((2, 2), (3, 7, 5), activation=nn.Tanh), (2, 2)),
    "Beside": (lambda: Beside(MLP((2, 2), 8, activation=nn.Tanh), (2, 2), rest=3), (7,)),
}
nets = pytest.mark.parametrize(("make", "event"), NETS.values(), ids=NETS)


@nets
def test_double_precision(make, event):
    assert make().double()(torch.zeros(2, *event).double()).dtype == torch.float64


@nets
def test_wrong_shape_names_both(make, event):
    wrong = (*event[:-1], event[-1] + 1)
    with pytest.raises(ValueError, match="events of shape .* but received a tensor of shape"):
        make()(torch.zeros(7, *wrong))
    if len(event) > 1:
        with pytest.raises(ValueError, match="events of shape"):
            make()(torch.zeros(event[-1]))


@nets
def test_gradients_reach_every_layer(make, event):
    net = make()
    net(torch.randn(16, *event)).square().sum().backward()
    assert all(bool((p.grad != 0).all()) for p in net.parameters())


@nets
def test_particles_are_one_by_one_what_they_are_together(make, event):
    net, x = make().double(), torch.randn(3, 5, *event).double()
    torch.testing.assert_close(net(x), torch.stack([net(one) for one in x]))


@perceptrons
def test_no_width(net):
    with pytest.raises(ValueError, match=r"at least one width, as in \w+\(64, 128\)"):
        net(4)


# ---------------------------------------------------------------------- images


@pytest.mark.parametrize("size", SIZES, ids=str)
@batches
def test_images_of_any_size(size, batch):
    image = torch.zeros(*batch, 2, *size)
    assert ConvEncoder((2, *size), 8, channels=(3, 4, 5))(image).shape == (*batch, 8)
    z = torch.zeros(*batch, 4)
    assert ConvDecoder(4, (6, *size), channels=(5, 4, 3))(z).shape == (*batch, 6, *size)


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 0), 8, (1, 1, 8, 8)], ids=str)
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"shape \(channels, height, width\)"):
        ConvEncoder(shape, 8)
    with pytest.raises(ValueError, match=r"shape \(channels, height, width\)"):
        ConvDecoder(2, shape)


def test_no_channels():
    for net in (ConvEncoder, ConvDecoder):
        args = ((1, 8, 8), 4) if net is ConvEncoder else (4, (1, 8, 8))
        with pytest.raises(ValueError, match="channels of at least one layer"):
            net(*args, channels=())


LIKELIHOODS = [cls for _, cls in sorted(fam.registry.items()) if "likelihood" in cls.roles]


def bare(d):
    while hasattr(d, "reinterpreted_batch_ndims"):
        d = d.base_dist
    return d


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda cls: cls.__name__)
def test_a_pixel_is_a_family_of_its_own(likelihood):
    family = likelihood.example(2, context=5)
    if bare(family(torch.zeros(5))).event_shape:
        with pytest.raises(ValueError, match="joint over its features"):
            fam.PerPixel(family, (3, 4))
        return
    pixels = fam.PerPixel(family, (3, 4))
    maps = torch.randn(6, 5, 3, 4)
    d = pixels(maps)
    assert (d.batch_shape, d.event_shape) == ((6,), (2, 3, 4))
    assert pixels.event_shape == (2, 3, 4)
    x = d.sample()
    total = sum(
        family(maps[:, :, i, j]).log_prob(x[:, :, i, j]) for i in range(3) for j in range(4)
    )
    torch.testing.assert_close(d.log_prob(x), total, rtol=1e-5, atol=1e-4)
    assert bool(pixels.support.check(x).all())


def test_constants_of_a_channel_stay_with_it():
    family = fam.Normal(2, context=5, scale=torch.tensor([0.1, 10.0]))
    d = fam.PerPixel(family, (3, 4))(torch.zeros(6, 5, 3, 4))
    assert d.stddev[0, :, 1, 2].tolist() == pytest.approx([0.1, 10.0])


@pytest.mark.parametrize(
    ("family", "size", "error", "match"),
    [
        (nn.Linear(2, 2), (3, 4), TypeError, "a family of one pixel.*not a Linear"),
        (fam.Bernoulli(1), (3, 4), ValueError, "that looks at its maps"),
        (fam.Bernoulli((1, 2), 5), (3, 4), ValueError, "channels of one pixel"),
        (fam.Dirichlet(3, 5), (3, 4), ValueError, "Dirichlet is joint over its features"),
        (fam.FullNormal(3, 5), (3, 4), ValueError, "FullNormal is joint over its features"),
        (fam.Bernoulli(1, 5), 3, ValueError, r"size must be \(height, width\)"),
    ],
    ids=["network", "blind", "no channels", "simplex", "correlated", "size"],
)
def test_what_is_no_pixel_is_refused(family, size, error, match):
    with pytest.raises(error, match=match):
        fam.PerPixel(family, size)


@pytest.mark.parametrize("maps", [None, torch.zeros(5, 4, 3), torch.zeros(2, 5)])
def test_maps_of_another_shape_are_refused(maps):
    pixels = fam.PerPixel(fam.Bernoulli(1, 5), (3, 4))
    with pytest.raises(ValueError, match=r"maps of shape \('\*batch', 5, 3, 4\), but received"):
        pixels(maps)


def digits():
    x = datasets.load("digits").train[:50]
    return (torch.as_tensor(x).float() / x.max()).round().reshape(-1, 1, 8, 8)


def conv_vae():
    shape = (1, 8, 8)
    return VAE(
        prior=fam.Normal(2),
        encoder=nn.Sequential(ConvEncoder(shape, 16, channels=(4, 8)), fam.Normal(2, 16)),
        decoder=nn.Sequential(
            ConvDecoder(2, (4, 8, 8), channels=(8, 4)), fam.PerPixel(fam.Bernoulli(1, 4), (8, 8))
        ),
    )


def conv_hierarchy():
    shape = (1, 8, 8)

    def seeing(rest):
        net = ConvEncoder(shape, 16, channels=(4, 8))
        return Beside(net, shape, rest) if rest else net

    return HierarchicalVAE(
        {"z2": fam.Normal(2), "z1": nn.Sequential(MLP(2, 8), fam.Normal(3, 8))},
        {
            "z2": nn.Sequential(seeing(0), fam.Normal(2, 16)),
            "z1": nn.Sequential(seeing(2), fam.Normal(3, 18)),
        },
        nn.Sequential(ConvDecoder(3, (4, 8, 8)), fam.PerPixel(fam.Bernoulli(1, 4), (8, 8))),
    )


@pytest.mark.parametrize("make", [conv_vae, conv_hierarchy])
def test_images_train(make):
    vae, x = make(), digits()
    before = copies(vae)
    elbo = TraceExactKL_ELBO(2, vectorize_particles=True)
    losses = train(vae, elbo, x, steps=40, lr=0.02, mask=torch.rand(50, 1, 8, 8) > 0.2)
    assert losses[-1] < 0.8 * losses[0]
    assert not unmoved(vae, before)
    assert vae.model(size=3).shape == (3, 1, 8, 8)


def test_convolutions_are_captured():
    vae, x, elbo = conv_vae(), digits(), TraceExactKL_ELBO()
    captured = capture(elbo, vae.model, vae.guide, x)
    found = []
    for call in (captured, lambda x: elbo.differentiable_loss(vae.model, vae.guide, x)):
        torch.manual_seed(1)
        vae.zero_grad()
        loss = call(x)
        if call is not captured:
            loss.backward()
        found.append((loss.item(), [p.grad.clone() for p in vae.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1])


def test_counts_of_any_size_and_pseudo_inputs_become_numbers():
    x = torch.tensor([[0.0, 1e9, -3.0]])
    torch.testing.assert_close(networks.Log1p()(x)[0], torch.tensor([0.0, 20.7233, -1.3863]))
    torch.testing.assert_close(networks.Log1p(2)(x)[0, 2], x[0, 2])
    assert "Log1p(2)" in repr(networks.Log1p(2))


def test_rescaling_needs_a_scale():
    torch.testing.assert_close(networks.Rescale(1.0, 2.0)(torch.tensor(5.0)), torch.tensor(2.0))
    assert "loc=0, scale=255" in repr(networks.Rescale(scale=255.0))
    with pytest.raises(ValueError, match="scale must not be 0"):
        networks.Rescale(scale=0.0)
