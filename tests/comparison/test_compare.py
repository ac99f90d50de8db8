"""`compare`: what it reports is what the ELBO classes compute, and what is wrong is named."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import kl as torch_kl

from pyro_vae import VAE, compare, networks
from pyro_vae import families as fam
from pyro_vae.comparison import FINDINGS
from pyro_vae.infer import TraceExactKL_ELBO

PARTICLES = 60


def make_vae(prior, guide, features=6, **options):
    return VAE(
        prior=prior,
        encoder=nn.Sequential(networks.MLP(features, 16), guide),
        decoder=nn.Sequential(
            networks.MLP(prior.event_shape, 16), fam.Bernoulli(features, context=16)
        ),
        **options,
    )


def binary(rows=9, features=6):
    return (torch.rand(rows, features) > 0.5).to(torch.get_default_dtype())


PAIRS = {
    "Normal, closed": lambda: (fam.Normal(2), fam.Normal(2, context=16)),
    "FullNormal, given": lambda: (fam.Normal(2), fam.FullNormal(2, context=16)),
    "Student-t prior, quadrature": lambda: (fam.StudentT(2), fam.Normal(2, context=16)),
    "Gamma, closed": lambda: (fam.Gamma(2, learnable=True), fam.Gamma(2, context=16)),
    "Dirichlet, closed": lambda: (fam.Dirichlet(3), fam.Dirichlet(3, context=16)),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("options", [{}, {"data_size": 90}], ids=["plain", "scaled"])
def test_terms_are_those_of_the_elbo_classes_at_equal_seeds(pair, options):
    vae, x = make_vae(*pair(), **options), binary()
    torch.manual_seed(3)
    table = compare(vae.model, vae.guide, x, num_particles=PARTICLES)
    losses = []
    for elbo in (Trace_ELBO, TraceMeanField_ELBO, TraceExactKL_ELBO):
        torch.manual_seed(3)
        losses.append(elbo(num_particles=PARTICLES).loss(vae.model, vae.guide, x))
    difference = table.trace_term.sum() - table.mean_field_term.sum()
    assert losses[0] - losses[1] == pytest.approx(difference.item(), rel=1e-5, abs=1e-9)
    assert list(table.elbo.values) == ["Trace_ELBO", "TraceMeanField_ELBO", "TraceExactKL_ELBO"]
    assert table.loss.values == pytest.approx(losses, rel=1e-9)
    scale = options.get("data_size", len(x)) / len(x)
    assert table.trace_term.item() == pytest.approx(scale * table.kl_sampled.sum().item())
    if table.mean_field_route.item() == "analytic":
        assert table.mean_field_term.item() == pytest.approx(
            scale * table.kl_analytic.sum().item(), rel=1e-9
        )


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_sampled_and_analytic_agree_on_right_forms(pair):
    vae = make_vae(*pair())
    table = compare(vae.model, vae.guide, binary(), num_particles=200)
    assert table.kl_route.item() in ("closed", "quadrature")
    assert abs(table.kl_z_score_total.item()) < 5
    assert "wrong_closed_form" not in table.findings.item()
    assert (table.gradients_agree == 1).all()


def test_it_tells_which_route_the_mean_field_elbo_takes():
    routes = {}
    for name, pair in PAIRS.items():
        vae = make_vae(*pair())
        table = compare(vae.model, vae.guide, binary(), num_particles=3)
        routes[name] = (table.mean_field_route.item(), "silent_fallback" in table.findings.item())
    assert routes == {
        "Normal, closed": ("analytic", False),
        "FullNormal, given": ("analytic", False),
        "Student-t prior, quadrature": ("fallback", True),
        "Gamma, closed": ("analytic", False),
        "Dirichlet, closed": ("analytic", False),
    }


class Planted(dist.Normal):
    """A Normal for which a wrong form is registered."""


@pytest.fixture
def wrong_form():
    @torch_kl.register_kl(Planted, torch.distributions.Normal)
    def wrong(q, p):
        return 1.2 * torch_kl.kl_divergence(torch.distributions.Normal(q.loc, q.scale), p)

    yield
    torch_kl._KL_REGISTRY.pop((Planted, torch.distributions.Normal))
    torch_kl._KL_MEMOIZE.clear()


@pytest.mark.usefixtures("wrong_form")
def test_a_wrong_form_planted_in_torch_is_caught():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Planted(x / 2, torch.tensor(0.3)))

    table = compare(model, guide, torch.randn(50), num_particles=200)
    assert abs(table.kl_mean_field_z_score_total.item()) > 5
    assert table.findings.item() == "wrong_closed_form"


def chain(scale):
    """z2 -> z1 -> x, with the guides of the two directions and the mean-field one."""

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(1.3 * z2, scale))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def top_down(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.4 * x, 0.6))
            pyro.sample("z1", dist.Normal(0.5 * z2, 0.7))

    def bottom_up(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.5 * x, 0.6))
            pyro.sample("z2", dist.Normal(0.4 * z1, 0.7))

    def reversed_mean_field(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(0.5 * x, 0.6))
            pyro.sample("z2", dist.Normal(0.4 * x, 0.7))

    return model, {"top down": top_down, "bottom up": bottom_up, "reversed": reversed_mean_field}


@pytest.mark.parametrize("direction", ["top down", "bottom up", "reversed"])
@pytest.mark.parametrize("validation", [True, False])
def test_only_the_bottom_up_guide_is_not_mean_field(direction, validation):
    model, guides = chain(0.5)
    with pyro.validation_enabled(validation):
        table = compare(model, guides[direction], torch.randn(40), num_particles=300)
    findings = dict(zip(table.site.values, table.findings.values, strict=True))
    expected = {"z1": "not_mean_field"} if direction == "bottom up" else {}
    assert {site: f for site, f in findings.items() if f} == expected
    # the two losses differ in expectation just where the finding says so
    error = math.hypot(*table.loss_std_error.values)
    assert (abs(float(table.loss[0] - table.loss[1])) > 5 * error) == bool(expected)


@pytest.mark.parametrize("kind", ["scale", "mask"])
def test_a_scale_or_mask_on_the_model_only_is_flagged(kind):
    def model(x):
        with pyro.plate("data", len(x)):
            handler = poutine.scale(scale=0.25) if kind == "scale" else poutine.mask(mask=x > 0)
            with handler:
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    table = compare(model, guide, torch.randn(20), num_particles=PARTICLES)
    assert table.findings.item() == f"{kind}_mismatch"
    assert abs(table.kl_z_score_total.item()) < 5  # the form itself is right


def test_a_discrete_guide_with_validation_off_is_flagged():
    means = torch.tensor([-1.0, 0.0, 2.0])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(means[z], 0.5), obs=x)

    def guide(x):
        logits = pyro.param("logits", torch.tensor([0.2, -0.1, 0.3]))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=logits))

    with pyro.validation_enabled(False):
        table = compare(model, guide, torch.full((20,), 2.0), num_particles=300)
    assert table.findings.item() == "score_term_missing"
    assert table.mean_field_route.item() == "refused"
    assert table.kl_route.item() == "closed"
    # it ran, and its gradient is wrong
    assert table.gradients_agree.sel(elbo="TraceMeanField_ELBO").item() == 0
    assert table.failure.sel(elbo="TraceMeanField_ELBO").item() == ""


def test_a_discrete_guide_with_validation_on_is_a_failure_that_is_told():
    vae = make_vae(
        fam.OneHotCategorical(1, categories=3), fam.OneHotCategorical(1, categories=3, context=16)
    )
    table = compare(vae.model, vae.guide, binary(), num_particles=3)
    assert "reparameterized" in table.failure.sel(elbo="TraceMeanField_ELBO").item()
    assert np.isnan(table.loss.sel(elbo="TraceMeanField_ELBO"))
    assert table.failure.sel(elbo="Trace_ELBO").item() == ""


def test_an_infinite_kl_is_flagged_though_every_draw_is_finite():
    vae = make_vae(fam.Normal(2), fam.StudentT(2, context=16, df=1.5))
    table = compare(vae.model, vae.guide, binary(), num_particles=PARTICLES)
    assert np.isfinite(table.kl_sampled).all()
    assert np.isposinf(table.kl_analytic).all()
    assert table.kl_route.item() == "infinite"
    assert "infinite_kl" in table.findings.item()
    assert "wrong_closed_form" not in table.findings.item()


def test_the_lost_log_density_of_autoguides_is_caught():
    def model(x):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Gamma(2.0, 2.0))
            pyro.sample("x", dist.Normal(0.0, s), obs=x)

    x = torch.randn(8)
    guide = AutoNormal(model, init_loc_fn=lambda site: torch.full(site["fn"].batch_shape, 2.0))
    table = compare(model, guide, x, num_particles=PARTICLES)
    assert "wrong_closed_form" in table.findings.sel(site="s").item()
    assert table.mean_field_route.sel(site="s_unconstrained").item() == "auxiliary"


def test_batches_give_the_same_result():
    vae, x = make_vae(fam.Normal(2), fam.Normal(2, context=16)), binary(23)
    whole = compare(vae.model, vae.guide, x, num_particles=200)
    parts = compare(vae.model, vae.guide, x, num_particles=200, batch_size=10)
    np.testing.assert_allclose(parts.kl_analytic, whole.kl_analytic, rtol=1e-5)
    for name in ("kl_sampled", "loss"):
        error = np.hypot(whole[f"{name}_std_error"], parts[f"{name}_std_error"])
        assert (abs(parts[name] - whole[name]) < 5 * error).all()
    assert parts.sizes == whole.sizes
    same = (parts.gradient_norm / whole.gradient_norm).sel(parameter=whole.parameter)
    assert float(same.mean()) == pytest.approx(1.0, abs=0.2)


def test_batches_of_a_scaled_model_are_averaged():
    vae, x = make_vae(fam.Normal(2), fam.Normal(2, context=16), data_size=100), binary(20)
    whole = compare(vae.model, vae.guide, x, num_particles=100)
    parts = compare(vae.model, vae.guide, x, num_particles=100, batch_size=7)
    error = np.hypot(whole.loss_std_error, parts.loss_std_error)
    assert (abs(parts.loss - whole.loss) < 5 * error).all()
    assert parts.trace_term.item() == pytest.approx(5 * parts.kl_sampled.sum().item(), rel=1e-5)


def global_latent(x):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        with pyro.plate("inner", 3):
            z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("x", dist.Normal(z.sum(0), 1.0), obs=x)


def global_guide(x):
    pyro.sample("m", dist.Normal(0.3, 0.5))
    with pyro.plate("data", len(x)), pyro.plate("inner", 3):
        pyro.sample("z", dist.Normal(0.1, 0.8))


def test_inner_plates_are_summed_and_global_sites_have_totals_only():
    table = compare(global_latent, global_guide, torch.randn(7), num_particles=PARTICLES)
    assert table.sizes["data"] == 7
    assert table.kl_sampled.sel(site="m").isnull().all()
    single = torch_kl.kl_divergence(
        torch.distributions.Normal(0.3, 0.5), torch.distributions.Normal(0.0, 1.0)
    )
    assert table.kl_analytic_total.sel(site="m").item() == pytest.approx(single.item(), rel=1e-5)
    assert table.kl_analytic.sel(site="z").notnull().all()
    assert table.kl_analytic_total.sel(site="z").item() == pytest.approx(
        table.kl_analytic.sel(site="z").sum().item()
    )


def test_global_sites_cannot_be_streamed():
    with pytest.raises(ValueError, match="outside the data plate"):
        compare(global_latent, global_guide, torch.randn(7), num_particles=3, batch_size=4)


def test_a_plate_can_be_named_and_must_exist():
    table = compare(global_latent, global_guide, torch.randn(7), num_particles=3, plate="data")
    assert table.attrs["plate"] == "data"
    with pytest.raises(ValueError, match="no plate named 'rows' .* Plates .*: data"):
        compare(global_latent, global_guide, torch.randn(7), num_particles=3, plate="rows")


def test_bad_calls_are_refused():
    vae = make_vae(fam.Normal(2), fam.Normal(2, context=16))
    with pytest.raises(ValueError, match="at least 3"):
        compare(vae.model, vae.guide, binary(), num_particles=2)
    with pytest.raises(ValueError, match="batch_size must be positive"):
        compare(vae.model, vae.guide, binary(), batch_size=0)
    with pytest.raises(ValueError, match="observes nothing"):
        compare(*[lambda: pyro.sample("z", dist.Normal(0.0, 1.0))] * 2)
    with pytest.raises(ValueError, match="'z' is not drawn by the guide"):
        compare(vae.model, lambda x: None, binary())
    with pytest.raises(ValueError, match="as a tensor"):
        compare(lambda: None, lambda: None, batch_size=3)


def test_random_subsamples_are_refused():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=3):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="plate 'data' draws its subsample at random"):
        compare(model, guide, torch.randn(50))


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(6), fam.Normal(2, context=6)

    def forward(self, x):
        return self.out(self.norm(x))


def test_nothing_of_the_callers_changes():
    vae = VAE(fam.Normal(2, learnable=True), Normalised(), fam.Bernoulli(6, context=2))
    x = binary()
    Trace_ELBO()(vae.model, vae.guide)(x).backward()
    state = {k: v.clone() for k, v in vae.state_dict().items()}
    gradients = [p.grad for p in vae.parameters()]
    values = [g.clone() for g in gradients]
    pyro.param("mine", torch.tensor(1.0))
    random, numpy_random = torch.get_rng_state(), np.random.get_state()[1].copy()
    compare(
        vae.model, vae.guide, x, num_particles=3, elbos=(Trace_ELBO, RenyiELBO(num_particles=2))
    )
    assert list(pyro.get_param_store()) == ["mine"]
    assert all(torch.equal(v, state[k]) for k, v in vae.state_dict().items())
    assert all(p.grad is g for p, g in zip(vae.parameters(), gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients, values, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == numpy_random).all()
    assert vae.training


def test_plain_functions_with_parameters_of_the_store():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(())), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("a", torch.ones(())) * x, 0.7))

    table = compare(model, guide, torch.randn(5), num_particles=PARTICLES)
    assert set(table.parameter.values) == {"m", "a"}
    assert table.attrs["parameters_not_announced"] == []
    assert len(pyro.get_param_store()) == 0  # created lazily, and gone again


def test_parameters_that_svi_would_not_train_are_named():
    net = nn.Linear(1, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x[:, None])[:, 0], 0.7))

    table = compare(model, guide, torch.randn(5), num_particles=3)
    assert table.attrs["parameters_not_announced"] == ["guide.net.weight", "guide.net.bias"]


@pytest.mark.usefixtures("float64")
def test_gradients_are_those_of_the_closed_form():
    """d/dm KL(N(m, s) || N(0, 1)) = m: no noise with the analytic KL, s^2 a datum without."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.8)), 0.5))

    table = compare(model, guide, torch.zeros(10), num_particles=400).sel(parameter="m")
    trace, mean_field = table.sel(elbo="Trace_ELBO"), table.sel(elbo="TraceMeanField_ELBO")
    assert mean_field.gradient_norm.item() == pytest.approx(8.0, rel=1e-12)
    assert mean_field.gradient_std.item() == pytest.approx(0.0, abs=1e-12)
    assert math.isinf(mean_field.gradient_snr.item())
    error = 0.5 * 10**0.5 / 400**0.5
    assert abs(trace.gradient_norm.item() - 8.0) < 5 * error
    assert trace.gradient_std.item() == pytest.approx(0.5 * 10**0.5, rel=0.2)
    assert mean_field.gradients_agree.item() == 1


def test_any_elbo_class_or_instance_is_called():
    vae = make_vae(fam.Normal(2), fam.Normal(2, context=16))
    elbos = (
        Trace_ELBO,
        TraceEnum_ELBO(max_plate_nesting=1),
        RenyiELBO(num_particles=2),
        Trace_ELBO,
    )
    table = compare(vae.model, vae.guide, binary(), num_particles=4, elbos=elbos)
    assert list(table.elbo.values) == [
        "Trace_ELBO 1",
        "TraceEnum_ELBO",
        "RenyiELBO",
        "Trace_ELBO 2",
    ]
    assert np.isfinite(table.loss).all()
    assert (table.gradient_norm > 0).any("parameter").all()
    assert (table.gradients_p_value.sel(elbo="Trace_ELBO 2") == 1).all()


def test_the_result_survives_a_file(tmp_path):
    vae = make_vae(fam.Normal(2), fam.Normal(2, context=16))
    table = compare(vae.model, vae.guide, binary(), num_particles=4)
    table.to_netcdf(tmp_path / "table.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "table.nc", engine="h5netcdf") as read:
        read.load()
    xr.testing.assert_allclose(read.drop_vars("parameter"), table.drop_vars("parameter"))
    assert read.attrs["units"] == "nats"
    assert all(isinstance(sentence, str) for sentence in FINDINGS.values())


@pytest.mark.parametrize("side", ["model", "guide"])
def test_bound_methods_are_looked_into(side):
    vae = make_vae(fam.Normal(2), fam.Normal(2, context=16))
    sides = {"model": vae.model, "guide": vae.guide}
    sides[side] = sides[side].forward
    table = compare(sides["model"], sides["guide"], binary(), num_particles=4)
    assert len(table.parameter) == len(list(vae.parameters()))
