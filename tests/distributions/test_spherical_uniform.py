"""The uniform distribution on the sphere."""

import math

import pyro
import pytest
import torch
from scipy import special, stats

from pyro_vae.distributions import PowerSpherical, SphericalUniform, VonMisesFisher

dims = pytest.mark.parametrize("m", [2, 3, 7, 100])


@dims
def test_density_is_one_over_the_area(m):
    d = SphericalUniform(m, like=torch.zeros((), dtype=torch.float64))
    x = d.sample((3,))
    area = math.log(2) + m / 2 * math.log(math.pi) - special.gammaln(m / 2)
    torch.testing.assert_close(d.log_prob(x), torch.full((3,), -area, dtype=torch.float64))
    assert d.entropy().item() == pytest.approx(area)


@dims
def test_a_coordinate_has_its_beta_law_and_moments(m):
    d = SphericalUniform(m, like=torch.zeros((), dtype=torch.float64))
    x = d.sample((5000,))
    law = stats.beta((m - 1) / 2, (m - 1) / 2)
    assert stats.kstest(((1 + x[:, 0]) / 2).numpy(), law.cdf).pvalue > 1e-6
    assert bool(((x.norm(dim=-1) - 1).abs() < 1e-12).all())
    error = x.std(0) / math.sqrt(5000)
    assert bool((x.mean(0).abs() < 6 * error).all())
    assert torch.equal(d.mean, torch.zeros(m, dtype=torch.float64))
    torch.testing.assert_close(d.variance, torch.full((m,), 1 / m, dtype=torch.float64))


@dims
@pytest.mark.parametrize("cls", [VonMisesFisher, PowerSpherical])
def test_it_is_the_limit_of_no_concentration(m, cls):
    uniform = SphericalUniform(m)
    x = uniform.sample((5,))
    d = cls(torch.eye(m)[0], torch.tensor(0.0))
    torch.testing.assert_close(d.log_prob(x), uniform.log_prob(x))
    assert bool(d.rsample((50,)).isfinite().all())


def test_shapes_expansion_and_plate():
    d = SphericalUniform(4, (3,))
    assert (d.batch_shape, d.event_shape) == ((3,), (4,))
    wide = d.expand((2, 3))
    assert wide.rsample((5,)).shape == (5, 2, 3, 4)
    assert wide.log_prob(d.sample()).shape == (2, 3)
    with pyro.plate("data", 3):
        assert pyro.sample("z", d).shape == (3, 4)


def test_what_is_refused():
    with pytest.raises(ValueError, match="dim >= 2"):
        SphericalUniform(1)
    with pytest.raises(ValueError, match="support"):
        SphericalUniform(3, validate_args=True).log_prob(torch.ones(3))
