"""A law over priors, guides and likelihoods: groups keep ArviZ's rules, and files the groups."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from builders import WIDTH, binary, net, small_vae
from torch import nn

from pyro_vae import VAE
from pyro_vae import families as fam
from pyro_vae.inference_data import to_datasets, wrap

ROWS, DRAWS = 9, 12
pytestmark = pytest.mark.usefixtures("few_draws")


def pair(family, features=3, guide=None, **options):
    guide = family if guide is None else guide
    return small_vae(
        family(features, **options), guide(features, context=WIDTH, **options), latents=features
    )


def several():
    priors = {"a": fam.Normal(2), "b": fam.Beta((2, 3))}
    encoders = {
        "a": nn.Sequential(net(6), fam.Normal(2, context=WIDTH)),
        "b": nn.Sequential(net(6), fam.Beta((2, 3), context=WIDTH)),
    }
    return VAE(priors, encoders, nn.Sequential(net(8), fam.Bernoulli(6, context=WIDTH)))


def likelihood(family, **options):
    return small_vae(likelihood=family(6, context=WIDTH, **options))


CASES = {
    "normal": lambda: (pair(fam.Normal), binary(ROWS)),
    "event dims": lambda: (pair(fam.FullNormal, (2, 2)), binary(ROWS)),
    "simplex": lambda: (pair(fam.Dirichlet), binary(ROWS)),
    "sphere": lambda: (pair(fam.SphericalUniform, guide=fam.VonMisesFisher), binary(ROWS)),
    "circle": lambda: (pair(fam.VonMises), binary(ROWS)),
    "hyperboloid": lambda: (pair(fam.HyperbolicNormal), binary(ROWS)),
    "one-hot": lambda: (pair(fam.OneHotCategorical, 2, categories=3), binary(ROWS)),
    "bits": lambda: (pair(fam.Bernoulli), binary(ROWS)),
    "several": lambda: (several(), binary(ROWS)),
    "counts": lambda: (likelihood(fam.Poisson), torch.arange(ROWS * 6.0).reshape(ROWS, 6)),
    "zeros": lambda: (likelihood(fam.ZeroInflatedNegativeBinomial), 9 * binary(ROWS)),
    "grey levels": lambda: (likelihood(fam.DiscretizedLogistic, levels=17), 16 * binary(ROWS)),
    "ordinal": lambda: (likelihood(fam.Ordinal, categories=3), 2 * binary(ROWS)),
    "shares": lambda: (likelihood(fam.Beta), 0.2 + binary(ROWS) / 2),
    "real": lambda: (likelihood(fam.StudentT), torch.randn(ROWS, 6)),
}
LABELS = CASES.keys()


def made(name):
    vae, x = CASES[name]()
    mask = torch.ones(ROWS, dtype=torch.bool)
    mask[2] = False
    pit = xr.Dataset({"z": (("replicate", "latent"), np.linspace(0, 1, 8).reshape(4, 2))})
    return to_datasets(
        vae.model,
        vae.guide,
        x,
        mask=mask if name == "real" else None,
        num_samples=DRAWS,
        store_data=5,
        posterior_predictive=True,
        calibration=pit,
    )


@pytest.mark.parametrize("name", LABELS)
def test_groups_keep_the_rules_and_files_keep_the_groups(name, tmp_path):
    groups = made(name)
    assert len(groups) == 9
    for group, table in groups.items():
        assert set(table.dims) == set(table.coords), group
        assert not set(table.dims) & set(table.data_vars), group
        if group not in ("vi_stats", "observed_data", "constant_data"):
            assert all(v.dims[:2] == ("chain", "draw") for v in table.values()), group
            assert table.sizes["chain"] == 1
            assert table.attrs["sample_dims"] == ["chain", "draw"]
        for values in table.values():
            assert values.dtype.kind in "iuf", group
        json.dumps(table.attrs)
    for one, other in (("posterior", "prior"), ("posterior_predictive", "prior_predictive")):
        shapes = [
            {n: (v.dims, v.shape, v.dtype) for n, v in groups[g].items()} for g in (one, other)
        ]
        assert shapes[0] == shapes[1]
    assert "log_likelihood" not in groups

    wrap(groups).to_netcdf(tmp_path / "it.nc")
    with xr.open_datatree(tmp_path / "it.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == set(groups)
        for group, table in groups.items():
            read = tree[group].to_dataset().load()
            xr.testing.assert_equal(read, table)
            assert {n: v.dtype for n, v in read.items()} == {n: v.dtype for n, v in table.items()}
            np.testing.assert_equal(_plain(read.attrs), _plain(table.attrs))


def _plain(attrs):
    return {
        n: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for n, v in attrs.items()
    }
