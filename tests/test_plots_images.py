"""Pictures of images: right images in right places, whatever their shape, and nothing touched."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import binary, copies, small_vae

from pyro_vae import families as fam
from pyro_vae import plots
from pyro_vae.plots.decoding import Coordinate, Decoder

SHAPE = (2, 3)
ALL = [plots.samples, plots.reconstructions, plots.traversals, plots.manifold]


def vae_of(prior=None, guide=None, **options):
    torch.manual_seed(0)
    return small_vae(prior, guide, **options)


def model(x):
    """x is z, in a row of 6 pixels: what is drawn can be read off."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.repeat_interleave(3, -1), 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.stack([x[:, 0], 5 * x[:, 1]], -1), 1e-3).to_event(1))


def shown(figure, axes=0):
    return np.ma.filled(figure.axes[axes].images[0].get_array(), np.nan)


@pytest.mark.parametrize("draw", ALL, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "shape", [(2, 3), (6, 1), (1, 6), (1, 2, 3), (2, 3, 1), (3, 1, 2), (2, 1, 3)]
)
def test_any_shape_is_drawn(draw, shape):
    vae = vae_of()
    assert plots.png(draw(vae.model, vae.guide, binary(), shape)).startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", ALL, ids=lambda f: f.__name__)
def test_nothing_of_the_callers_changes(draw):
    vae, x = vae_of(), binary()
    before, state, rows = copies(vae), torch.get_rng_state(), x.clone()
    vae.train()
    first = shown(draw(vae.model, vae.guide, x, SHAPE))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[n]) for n, p in vae.named_parameters())
    assert torch.equal(x, rows)
    assert vae.training
    assert not list(pyro.get_param_store().keys())
    torch.manual_seed(5)
    assert np.array_equal(first, shown(draw(vae.model, vae.guide, x, SHAPE)), equal_nan=True)


@pytest.mark.parametrize("draw", ALL, ids=lambda f: f.__name__)
def test_a_shape_that_does_not_fit_is_refused(draw):
    vae = vae_of()
    with pytest.raises(ValueError, match=r"image_shape \(8, 8\) has 64 numbers, but a datum"):
        draw(vae.model, vae.guide, binary(), (8, 8))
    with pytest.raises(ValueError, match=r"with 1 or 3 channels, not \(6,\)"):
        draw(vae.model, vae.guide, binary(), (6,))


def test_reconstructions_stand_below_their_data():
    x = torch.zeros(4, 6)
    x[:, 0], x[:, 1] = torch.arange(4.0), torch.tensor(0.2)
    mosaic = shown(plots.reconstructions(model, guide, x, SHAPE, draws=2))
    assert mosaic.shape == (3 * 2 + 2, 4 * 3 + 3)
    for i in range(4):
        for line in (1, 2):
            image = mosaic[3 * line : 3 * line + 2, 4 * i : 4 * i + 3]
            assert np.allclose(image, [[i] * 3, [1.0] * 3], atol=0.02)
    assert np.isnan(mosaic[2]).all()


def test_traversals_move_one_coordinate_through_the_prior_and_keep_the_other():
    x = torch.randn(30, 6) * 0.1
    figure = plots.traversals(model, guide, x, SHAPE, steps=5, datum=3)
    mosaic = shown(figure)
    ends = torch.linspace(0.05, 0.95, 5, dtype=torch.float64)
    quantiles = dist.Normal(0.0, 1.0).icdf(ends).numpy()
    # the coordinate whose mean varies most comes first
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["z[1]", "z[0]"]
    assert np.allclose(mosaic[1, ::4], quantiles, atol=1e-6)
    assert np.allclose(mosaic[0, ::4], float(x[3, 0]), atol=0.01)
    assert np.allclose(mosaic[3, ::4], quantiles, atol=1e-6)


def test_a_manifold_is_a_grid_of_quantiles_with_its_axes():
    mosaic = shown(plots.manifold(model, guide, torch.zeros(3, 6), SHAPE, steps=3))
    q = dist.Normal(0.0, 1.0).icdf(torch.tensor([0.05, 0.5, 0.95])).numpy()
    assert np.allclose(mosaic[0, ::4], q, atol=1e-6), "z[0] runs to the right"
    assert np.allclose(mosaic[1::3, 0], q[::-1], atol=1e-6), "z[1] runs up"


def test_quantiles_without_icdf_are_those_of_draws():
    vae = vae_of(fam.StudentT(2), fam.Normal(2, context=8))
    decoder = Decoder(vae.model, vae.guide, binary(), 0)
    at = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    found = decoder.quantiles(Coordinate("z", (0,)), at)
    # t with 5 degrees of freedom; 4000 draws: a quantile is off by sqrt(p (1 - p) / n) / density
    assert abs(found - torch.tensor([-2.015, 0.0, 2.015])).max() < 4 * 0.055
    exact = Decoder(*_parts(vae_of(fam.Laplace(2))), 0).quantiles(Coordinate("z", (1,)), at)
    assert torch.allclose(exact[2], torch.tensor(10.0).log().double())


def _parts(vae):
    return vae.model, vae.guide, binary()


@pytest.mark.parametrize(
    ("prior", "guide_", "inside"),
    [
        (fam.Gamma(2), fam.Gamma(2, context=8), lambda z: z > 0),
        (fam.Beta(2), fam.Beta(2, context=8), lambda z: (z > 0) & (z < 1)),
        (fam.VonMises(2), fam.VonMises(2, context=8), lambda z: z.abs() <= 3.1416),
    ],
    ids=["positive", "interval", "circle"],
)
def test_moved_latents_stay_in_the_support(prior, guide_, inside):
    vae = vae_of(prior, guide_)
    at = torch.linspace(0.05, 0.95, 5, dtype=torch.float64)
    values = Decoder(*_parts(vae), 0).quantiles(Coordinate("z", (0,)), at)
    assert bool(inside(values).all())
    assert bool((values.diff() > 0).all())
    plots.manifold(*_parts(vae), SHAPE)


def test_latents_that_depend_on_each_other_are_not_moved_alone():
    vae = vae_of(fam.Dirichlet(3), fam.Dirichlet(3, context=8))
    with pytest.raises(plots.NoSuchPicture, match="no latent coordinate can be moved"):
        plots.traversals(*_parts(vae), SHAPE)
    with pytest.raises(plots.NoSuchPicture, match="needs two latent coordinates"):
        plots.manifold(*_parts(vae), SHAPE)
    plots.samples(*_parts(vae), SHAPE)
    three = vae_of(fam.Normal(3), fam.Normal(3, context=8))
    with pytest.raises(plots.NoSuchPicture, match="but there are 3"):
        plots.manifold(*_parts(three), SHAPE)


def test_counts_of_classes_are_drawn_by_their_mean():
    decoder = fam.Categorical(6, context=8, categories=4)
    vae = vae_of(likelihood=decoder)
    image = shown(plots.samples(vae.model, vae.guide, torch.zeros(4, 6).long(), SHAPE), 1)
    assert np.nanmin(image) > 0
    assert np.nanmax(image) < 3


def test_a_model_without_a_row_for_each_datum_is_refused():
    def shared(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z * torch.ones(6), 1.0).to_event(1), obs=x)

    def guide_(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="need a row for each of 3 data"):
        plots.samples(shared, guide_, torch.zeros(3, 6), SHAPE)

    def two(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            for name in "ab":
                pyro.sample(name, dist.Normal(z, 1.0), obs=x[:, 0])

    def of_two(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    with pytest.raises(ValueError, match="one observed site, but it has 2: a, b"):
        plots.samples(two, of_two, torch.zeros(3, 6), SHAPE)
