"""`to_datasets`: what is stored is what the programs drew, of the data that it says."""

import hashlib
import math
import re
import sys
import warnings
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from builders import WIDTH, binary, net, small_vae
from pyro.infer.autoguide import AutoNormal
from scipy import stats
from torch import nn

from pyro_vae import VAE, diagnostics
from pyro_vae import families as fam
from pyro_vae.infer.guard import random_state
from pyro_vae.inference_data import stored as stored_module
from pyro_vae.inference_data import to_datasets, wrap

# so many standard errors: below 1e-8 for a normal one, whatever number of them is looked at here
Z = 6.5
pytestmark = pytest.mark.usefixtures("few_draws")
NOISE = 0.5


def linear(x, y):
    """Conditional on y: z ~ N(y, 1) twice over, x ~ N(z, NOISE)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(y[:, None].expand(-1, 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)


def shifted(x, y):
    """A guide that is some Normal about x, narrower than the posterior."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x - y[:, None] / 10, 0.25).to_event(1))


def data(count=150):
    # far apart, so that a row taken for another is seen
    x = torch.arange(2 * count, dtype=torch.float64).reshape(count, 2).sin() * 50
    return x, torch.arange(count, dtype=torch.float64).cos() * 20


@pytest.fixture(scope="module")
def stored():
    x, y = data()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", diagnostics.DiagnosticWarning)
        # two blocks, and replicates in several runs of at most 70 draws
        patch.setattr(stored_module, "_NUMBERS", 64 * 4 * 70)
        found = to_datasets(
            linear, shifted, x, y, num_samples=300, store_data=100, posterior_predictive=True
        )
    return found, x.numpy(), y.numpy()


def test_what_is_stored_is_of_the_data_that_it_says(stored):
    found, x, y = stored
    rows = found["constant_data"]["index"].values
    assert len(rows) == 100
    assert (np.diff(rows) > 0).all()
    assert rows[-1] > 64  # beyond the first block
    np.testing.assert_array_equal(found["observed_data"].x, x[rows])
    np.testing.assert_array_equal(found["constant_data"].y, y[rows])
    assert set(found["constant_data"].data_vars) == {"index", "y"}
    for group in ("posterior", "prior", "sample_stats", "prior_predictive", "constant_data"):
        np.testing.assert_array_equal(found[group]["data"], rows)
    np.testing.assert_array_equal(found["vi_stats"]["data"], np.arange(150))


def test_statistics_are_those_of_the_draws(stored):
    found, x, y = stored
    rows = found["constant_data"]["index"].values
    z, log = found["posterior"].z.values, found["sample_stats"]
    normal = stats.norm.logpdf
    log_lik = normal(x[rows], z, NOISE).sum(-1)
    log_prior = normal(z, y[rows, None], 1).sum(-1)
    log_q = normal(z, (x - y[:, None] / 10)[rows], 0.25).sum(-1)
    np.testing.assert_allclose(log.log_lik, log_lik, rtol=1e-12)
    np.testing.assert_allclose(log.log_prior, log_prior, rtol=1e-12)
    np.testing.assert_allclose(log.log_q, log_q, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log.log_weight, log_lik + log_prior - log_q, rtol=1e-12)
    np.testing.assert_allclose(log.kl_sampled, log_q - log_prior, rtol=1e-12)


def mean_and_spread(residual, sd):
    """z scores of mean and variance of what should be N(0, sd^2), independent along all axes."""
    size = residual.size
    mean = residual.mean() / sd * math.sqrt(size)
    variance = (np.mean(residual**2) / sd**2 - 1) * math.sqrt(size / 2)
    return abs(mean), abs(variance)


def test_draws_come_from_guide_and_model(stored):
    found, x, y = stored
    rows = found["constant_data"]["index"].values
    prior = found["prior"].z.values
    residuals = {
        "posterior": (found["posterior"].z.values - (x - y[:, None] / 10)[rows], 0.25),
        "prior": (prior - y[rows, None], 1.0),
        # a replicate is drawn from the very latents that stand in prior, or posterior
        "prior_predictive": (found["prior_predictive"].x.values - prior, NOISE),
        "posterior_predictive": (
            found["posterior_predictive"].x.values - found["posterior"].z.values,
            NOISE,
        ),
    }
    for group, (residual, sd) in residuals.items():
        assert residual.shape == (1, 200, 100, 2), group
        assert max(mean_and_spread(residual, sd)) < Z, group
        # draws differ among draws, data and dimensions (but for rounding, if they do not)
        assert len(np.unique(residual.round(12))) == residual.size, group


def test_statistics_of_all_data_are_those_of_the_diagnostics(stored):
    found, _, _ = stored
    x, y = data()
    expected = diagnostics.pareto_k(linear, shifted, x, y, num_samples=300)
    xr.testing.assert_equal(found["vi_stats"][list(expected.data_vars)], expected)
    assert found["vi_stats"].attrs["khat_share_above"] == expected.attrs["khat_share_above"]


def test_a_diagnostic_that_joins_the_shelf_joins_the_statistics(monkeypatch):
    @diagnostics.from_weights(exact_kl=True)
    def spread(weights):
        """The variance of log weights."""
        return {"spread": weights.log_weight.var(0), "exact": weights.kl["z"]}

    shelf = {**diagnostics.DIAGNOSTICS._items, "spread": spread}
    monkeypatch.setattr(diagnostics.DIAGNOSTICS, "_items", shelf)
    x, y = data(9)
    options = {"num_samples": 30}
    assert "spread" not in to_datasets(linear, shifted, x, y, **options)["vi_stats"]
    # those that diagnose runs are run
    diagnostics.step(order=99, judge=lambda table: [])(spread)
    found = to_datasets(linear, shifted, x, y, **options)["vi_stats"]
    assert found.spread.shape == (9,)
    mean = x - y[:, None] / 10 - y[:, None]
    exact = (0.5 * (0.25**2 + mean**2 - 1) - math.log(0.25)).sum(-1)
    np.testing.assert_allclose(found.exact, exact, rtol=1e-12)
    assert "khat" in found


def test_a_table_of_diagnose_is_taken_as_it_is():
    x, y = data(9)
    table = xr.Dataset({"elbo": ("data", np.arange(9.0))}, attrs={"num_samples": 7, "good": True})
    found = to_datasets(linear, shifted, x, y, vi_stats=table, store_draws=3)["vi_stats"]
    np.testing.assert_array_equal(found.elbo, np.arange(9.0))
    assert (found.attrs["num_samples"], found.attrs["good"]) == (7, 1)
    assert found.elbo.attrs["num_samples"] == 7
    with pytest.raises(ValueError, match="vi_stats has 9 data, but model and guide are given 8"):
        to_datasets(linear, shifted, x[:8], y[:8], vi_stats=table)


def test_the_same_seed_gives_the_same_whatever_the_batch_size():
    x, y = data(80)
    options = {"num_samples": 30, "store_draws": 10, "store_data": 20, "seed": 3}
    one = to_datasets(linear, shifted, x, y, **options)
    torch.manual_seed(99)
    two = to_datasets(linear, shifted, x, y, batch_size=7, **options)
    other = to_datasets(linear, shifted, x, y, **{**options, "seed": 4})
    for group, table in one.items():
        xr.testing.assert_allclose(table, two[group], rtol=1e-12)
    for group in ("posterior", "prior", "prior_predictive"):
        assert not (one[group].to_array().values == other[group].to_array().values).any()


# ------------------------------------------------------------------------- nothing is changed
def test_nothing_of_the_callers_changes():
    noisy = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), net(6), fam.Normal(2, context=WIDTH))
    vae = VAE(fam.Normal(2), noisy, nn.Sequential(net(2), fam.Bernoulli(6, context=WIDTH)))
    x = binary(70)
    pyro.param("somebody", torch.tensor(1.0))

    def state():
        sha = hashlib.sha256()
        for module in (vae.model, vae.guide):
            for name, value in module.state_dict().items():
                sha.update(name.encode() + value.numpy().tobytes())
        modes = [m.training for m in vae.guide.modules()]
        store = pyro.get_param_store().get_state()
        rng = random_state()
        return (
            sha.hexdigest(),
            modes,
            sorted(store["params"]),
            rng["torch"].tolist(),
            str(rng["numpy"]),
            str(rng["random"]),
        )

    before, given = state(), x.clone()
    to_datasets(vae.model, vae.guide, x, num_samples=20, posterior_predictive=True)
    assert state() == before
    assert torch.equal(x, given)


def test_datasets_are_made_without_arviz(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    found = to_datasets(linear, shifted, *data(5), num_samples=5)
    with pytest.raises(ImportError):
        wrap(found)


# ---------------------------------------------------------------------------- kinds of models
def sizes(table, name):
    return dict(table[name].sizes)


def test_several_sites_and_event_dimensions():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
            b = pyro.sample("b", dist.Normal(a.sum((-1, -2)), 1.0))
            pyro.sample("x", dist.Normal(a.mean(-1) + b[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Normal(x.sum(-1), 1.0))
            pyro.sample("a", dist.Normal(x[..., None].expand(*x.shape, 3), 1.0).to_event(2))

    x = torch.randn(7, 2)
    found = to_datasets(
        model, guide, x, num_samples=5, dims={"x": ["side"]}, coords={"side": ["left", "right"]}
    )
    for group in ("posterior", "prior"):
        shape = {"chain": 1, "draw": 5, "data": 7}
        assert sizes(found[group], "a") == {**shape, "a_latent_0": 2, "a_latent_1": 3}
        assert sizes(found[group], "b") == shape
    assert found["prior_predictive"]["side"].values.tolist() == ["left", "right"]
    log, z = found["sample_stats"], found["posterior"]
    np.testing.assert_allclose(log.log_prior, log.log_prior_a + log.log_prior_b)
    np.testing.assert_allclose(
        log.log_q_b, stats.norm.logpdf(z.b, x.sum(-1).numpy()), rtol=1e-4, atol=1e-5
    )


def test_inner_plates_keep_their_names_and_come_after_the_data():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", x.shape[-1], dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), 1.0))

    x = torch.randn(5, 3)
    found = to_datasets(model, guide, x, num_samples=4)
    assert found["posterior"].z.dims == ("chain", "draw", "data")
    assert found["prior_predictive"].x.dims == ("chain", "draw", "data", "pixels")
    np.testing.assert_array_equal(found["observed_data"].x, x)
    log_lik = stats.norm.logpdf(x, found["posterior"].z.values[..., None]).sum(-1)
    np.testing.assert_allclose(found["sample_stats"].log_lik, log_lik, rtol=1e-5)


@pytest.mark.parametrize("written_for", ["batches", "one draw"])
def test_programs_that_know_of_no_further_dimensions(written_for):
    """A convolution wants (batch, channels, length); the other program one batch, always."""
    convolution = nn.Conv1d(1, 1, 3, padding=1).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4).double(), 1.0).to_event(1))
            assert z.dim() == 2
            assert written_for == "batches" or len(z) == 6
            loc = convolution(z[:, None])[:, 0]
            pyro.sample("x", dist.Normal(loc, NOISE).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.3).to_event(1))

    x = torch.randn(6, 4).double()
    slow = written_for == "one draw"
    with pytest.warns(UserWarning, match="one by one") if slow else nullcontext():
        found = to_datasets(model, guide, x, num_samples=50, posterior_predictive=True)
    with torch.no_grad():
        for group, latent in (
            ("prior_predictive", "prior"),
            ("posterior_predictive", "posterior"),
        ):
            z = torch.as_tensor(found[latent].z.values)
            loc = convolution(z.reshape(-1, 1, 4)).reshape(z.shape).numpy()
            residual = found[group].x.values - loc
            assert max(mean_and_spread(residual, NOISE)) < Z


def test_a_guide_with_parameters_for_each_datum():
    x, _ = data(70)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 50.0).to_event(1), obs=x)

    guide = AutoNormal(model)
    guide(x)
    with torch.no_grad():
        guide.locs.z.copy_(x)
    found = to_datasets(model, guide, x, num_samples=8, store_data=[69, 3], block_size=70)
    assert found["constant_data"]["index"].values.tolist() == [3, 69]
    assert set(found["posterior"].data_vars) == {"z"}
    centre = found["posterior"].z.mean(("chain", "draw")).values
    assert np.abs(centre - x[[3, 69]].numpy()).max() < 1  # sd 0.1, data apart by tens
    assert found["vi_stats"].sizes["data"] == 70


def test_a_program_that_is_given_no_tensor():
    x, y = data(5)
    found = to_datasets(lambda: linear(x, y), lambda: shifted(x, y), num_samples=6, store_data=[4])
    np.testing.assert_array_equal(found["observed_data"].x, x[[4]])
    assert found["prior_predictive"].x.shape == (1, 6, 1, 2)
    assert set(found["constant_data"].data_vars) == {"index"}


def test_deterministic_sites_and_factors_are_no_data():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.deterministic("twice", 2 * z)
            pyro.factor("favour", -z.abs())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    found = to_datasets(model, guide, torch.zeros(3), num_samples=4)
    assert (
        set(found["observed_data"].data_vars) == set(found["prior_predictive"].data_vars) == {"x"}
    )
    assert found["observed_data"].x.dims == ("data",)


def test_discrete_sites_are_integers():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3)))
            pyro.sample("hot", dist.OneHotCategorical(torch.ones(4)))
            pyro.sample("bit", dist.Bernoulli(0.5 * torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Poisson(1.0 + k), obs=x)
            pyro.sample("grey", dist.Bernoulli(torch.tensor(0.3), validate_args=False), obs=x / 4)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(len(x), 3)))
            pyro.sample("hot", dist.OneHotCategorical(torch.ones(len(x), 4)))
            pyro.sample("bit", dist.Bernoulli(0.5 * torch.ones(len(x), 2)).to_event(1))

    found = to_datasets(model, guide, torch.tensor([0.0, 2.0, 1.0]), num_samples=9)
    for group in ("posterior", "prior"):
        kinds = {n: v.dtype for n, v in found[group].items()}
        assert kinds == {"k": np.int64, "hot": np.int8, "bit": np.int8}
        assert (found[group].hot.sum("hot_latent") == 1).all()
    assert found["prior_predictive"].x.dtype == found["observed_data"].x.dtype == np.int32
    # what is no integer is not made one
    np.testing.assert_array_equal(found["observed_data"].grey, np.float32([0, 0.5, 0.25]))


def test_spheres_stay_spheres():
    vae = small_vae(fam.SphericalUniform(3), fam.VonMisesFisher(3, context=WIDTH), latents=3)
    found = to_datasets(vae.model, vae.guide, binary(5), num_samples=6)
    for group in ("posterior", "prior"):
        norm = np.linalg.norm(found[group].z, axis=-1)
        np.testing.assert_allclose(norm, 1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(8,), (8, 6)])
def test_what_is_masked_is_missing(shape):
    vae, x = small_vae(), binary(8)
    mask = torch.bernoulli(torch.full(shape, 0.6)).bool()
    found = to_datasets(vae.model, vae.guide, x, mask=mask, num_samples=4)
    seen = mask.reshape(8, -1).expand(8, 6).numpy()
    shown = found["observed_data"].x.values
    np.testing.assert_array_equal(np.isnan(shown), ~seen)
    np.testing.assert_array_equal(shown[seen], x.numpy()[seen])
    np.testing.assert_array_equal(found["constant_data"].mask, mask.numpy())
    assert set(found["constant_data"].data_vars) == {"index", "mask"}
    replicates = found["prior_predictive"].x
    assert not np.isnan(replicates).any()
    assert replicates.dtype == shown.dtype  # ArviZ draws data and replicates alike


def test_masks_of_handlers_as_well():
    """What the handler masks is missing, and what the distribution does."""
    seen = torch.tensor([True, False, True, True])
    known = torch.tensor([True, True, True, False])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z, 1.0).mask(known), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    found = to_datasets(model, guide, torch.ones(4), num_samples=3)
    np.testing.assert_array_equal(found["observed_data"].x, [1, np.nan, 1, np.nan])


def test_covariates_of_a_vae():
    prior = fam.Normal(2, context=3)
    vae = VAE(
        prior,
        nn.Sequential(net(9), fam.Normal(2, context=WIDTH)),
        nn.Sequential(net(5), fam.Bernoulli(6, context=WIDTH)),
        data_size=100,
    )
    y = torch.randn(10, 3) * 30
    found = to_datasets(vae.model, vae.guide, binary(10), y=y, num_samples=400, store_draws=400)
    np.testing.assert_array_equal(found["constant_data"].y, y)
    with torch.no_grad():
        p = prior(y).base_dist
    residual = (found["prior"].z.values - p.loc.numpy()) / p.scale.numpy()
    assert max(mean_and_spread(residual, 1.0)) < Z


# -------------------------------------------------------------------------------- attrs, names
def test_attrs_say_where_numbers_come_from(stored):
    found, _, _ = stored
    for group in found.values():
        assert group.attrs["units"] == "nats"
        assert (group.attrs["seed"], group.attrs["num_samples"]) == (0, 300)
        assert group.attrs["creation_library"] == "pyro_vae"
        assert group.attrs["inference_library_version"] == pyro.__version__
        assert group.attrs["model"].endswith("linear")
        kinds = {type(v) for v in group.attrs.values()} - {list}
        assert kinds <= {str, int, float}
    assert found["posterior"].attrs["sampled_from"] == "guide"
    assert found["prior_predictive"].attrs["sample_dims"] == ["chain", "draw"]
    assert "sample_dims" not in found["vi_stats"].attrs


def test_the_digest_is_that_of_the_parameters():
    vae, x = small_vae(), binary(4)

    def digest():
        options = {"num_samples": 2, "store_draws": 2}
        found = to_datasets(vae.model, vae.guide, x, **options)
        return found["posterior"].attrs["model_digest"]

    before = digest()
    assert digest() == before
    with torch.no_grad():
        next(vae.guide.parameters()).add_(1e-6)
    assert digest() != before


def test_the_digest_knows_parameters_of_the_store():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("at", torch.tensor(0.0)), 1.0))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    found = []
    for value in (0.0, 1.0):
        pyro.get_param_store()["at"] = torch.tensor(value)
        table = to_datasets(model, guide, torch.zeros(3), num_samples=2)["posterior"]
        found.append(table.attrs["model_digest"])
    assert found[0] != found[1]


def test_dimensions_give_way_to_sites_of_the_same_name():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("feature", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("latent", dist.Normal(x, 1.0).to_event(1))

    found = to_datasets(model, guide, torch.zeros(3, 2), num_samples=2)
    for group in found.values():
        assert not set(group.data_vars) & set(group.dims)
        assert set(group.dims) == set(group.coords)
    assert found["posterior"].latent.dims[-1] == "latent_dim"


# ------------------------------------------------------------------------------------- refusals
def test_too_much_is_refused_before_it_is_drawn():
    vae, x = small_vae(pixels=100), binary(50, pixels=100)
    options = {"max_bytes": 200_000, "num_samples": 100, "store_draws": 100}
    message = "50 data with 100 draws each would take 2.19 MiB .* prior_predictive: 1.91 MiB"
    with pytest.raises(ValueError, match=message) as caught:
        to_datasets(vae.model, vae.guide, x, **options)
    advice = re.findall(r"(store_draws|store_data)=(\d+)", str(caught.value))
    assert "prior_predictive=False" in str(caught.value)
    for name, number in advice:  # what it says will fit does
        found = to_datasets(vae.model, vae.guide, x, **{**options, name: int(number)})
        arrays = [v for n, group in found.items() if n != "vi_stats" for v in group.values()]
        assert sum(v.nbytes for v in arrays) <= 200_000
        assert found["vi_stats"].sizes["data"] == 50
    assert len(advice) == 2
    small = to_datasets(
        vae.model, vae.guide, x, **{**options, "max_bytes": 400_000}, prior_predictive=False
    )
    assert "prior_predictive" not in small


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store_data": 0}, "store_data must be positive, not 0"),
        ({"store_data": [0, 9]}, "list of different indices from 0 to 4"),
        ({"store_data": [1, 1]}, "list of different indices"),
        ({"store_data": [0.5]}, "list of different indices"),
        ({"store_draws": 0}, "store_draws must be positive, not 0"),
        ({"dims": {"w": ["a"]}}, "'w', which is no site of the model; its sites are z, x"),
        ({"dims": {"x": ["a", "b"]}}, r"one draw of 'x' has shape \(2,\), so give 1 different"),
        ({"dims": {"x": ["draw"]}}, "none of them a site's"),
        (
            {"coords": {"pixel": [1, 2]}},
            "'pixel', which is no dimension; the dimensions are chain",
        ),
        ({"coords": {"latent": [1]}}, "coords={'latent': ...} has 1 values for 2"),
    ],
)
def test_what_does_not_fit_is_told(options, message):
    with pytest.raises(ValueError, match=message):
        to_datasets(linear, shifted, *data(5), num_samples=3, **options)


def test_a_site_named_as_a_dimension_is_refused():
    def model(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("draw", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("draw", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="a site is named 'draw', which in ArviZ is a dimension"):
        to_datasets(model, guide, torch.zeros(3), num_samples=2)


# ---------------------------------------------------------------------------------- calibration
def pit(values, **others):
    return xr.Dataset({"z": (("replicate", "latent"), values), **others})


def test_calibration_becomes_prior_sbc():
    values = np.random.default_rng(0).uniform(size=(20, 2))
    table = pit(values, coverage=("level", [0.5, 0.9]), log_lik=("replicate", values[:, 0]))
    table = table.assign_coords(latent=["a", "b"]).assign_attrs(exact=True, p={"z": 0.1})
    found = to_datasets(linear, shifted, *data(5), num_samples=3, calibration=table)["prior_sbc"]
    assert found.z.dims == ("chain", "draw", "latent")
    np.testing.assert_array_equal(found.z[0], values)
    assert set(found.data_vars) == {"z", "log_lik"}
    assert found["latent"].values.tolist() == ["a", "b"]
    assert (found.attrs["exact"], found.attrs["p"]) == (1, '{"z": 0.1}')


def test_the_diagnostic_calibration_is_taken_as_it_is():
    options = {"num_samples": 20, "progress": False}
    table = diagnostics.calibration(linear, shifted, *data(5), replicates=30, **options)
    found = to_datasets(linear, shifted, *data(5), num_samples=3, calibration=table)["prior_sbc"]
    assert found.z.dims == ("chain", "draw", "latent")
    np.testing.assert_array_equal(found.z[0], table.pit)
    np.testing.assert_array_equal(found.hpd[0], table.pit_hpd)
    assert set(found.data_vars) == {"z", "log_likelihood", "hpd"}
    assert found.attrs["calibration_failure_probability"] == 1e-3


@pytest.mark.parametrize("bad", [1.5, -0.1, math.nan])
def test_what_is_no_pit_value_is_refused(bad):
    values = np.full((4, 2), 0.5)
    values[2, 1] = bad
    with pytest.raises(ValueError, match="values of 'z' outside"):
        to_datasets(linear, shifted, *data(5), num_samples=3, calibration=pit(values))


def test_calibration_without_replicates_is_refused():
    with pytest.raises(ValueError, match="no variable with a dimension 'replicate'"):
        to_datasets(linear, shifted, *data(5), num_samples=3, calibration=xr.Dataset())
