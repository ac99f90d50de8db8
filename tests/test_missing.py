"""Missing data on the model whose truth is known: log p(x_obs), and what the gaps held."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from builders import WIDTH, small_vae
from oracle import example
from pyro.infer import Predictive, Trace_ELBO
from scipy import stats
from torch import nn

from pyro_vae import VAE, diagnostics, impute
from pyro_vae import families as fam
from pyro_vae.diagnostics import DiagnosticWarning
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO

pytestmark = pytest.mark.usefixtures("float64")

ORACLE = example()
ROWS, PIXELS = 12, 5
# each row has another pattern; one has nothing to go by, one no gap
GAPS = torch.rand(ROWS, PIXELS, generator=torch.Generator().manual_seed(2)) < 0.4
GAPS[0], GAPS[1] = True, False
MASK = ~GAPS


def data():
    torch.manual_seed(5)
    return ORACLE.sample(ROWS)


def with_gaps(x, junk=math.nan):
    return torch.where(MASK, x, torch.tensor(junk))


def decoder():
    family = fam.Normal(PIXELS, context=2, scale=ORACLE.variance.sqrt())
    with torch.no_grad():
        family.head.weight.copy_(ORACLE.weight)
        family.head.bias.copy_(ORACLE.bias)
    return family


class Posterior(nn.Module):
    """p(z | x_obs), which needs the mask beside x; widened by a factor for the sd."""

    def __init__(self, wider=1.0):
        super().__init__()
        self.wider = wider

    def forward(self, x):
        mean, covariance = ORACLE.observed_posterior(x, MASK[: len(x)])
        return dist.MultivariateNormal(mean, self.wider**2 * covariance)


def amortised(spread=1.0):
    """The posterior of data without gaps, as an encoder knows it, however many gaps there are."""
    family = fam.FullNormal(
        2, context=PIXELS, scale_tril=spread * torch.linalg.cholesky(ORACLE.covariance)
    )
    with torch.no_grad():
        family.head.weight.copy_(ORACLE.gain)
        family.head.bias.copy_(-ORACLE.gain @ ORACLE.bias)
    return family


def vae_with(encoder):
    return VAE(fam.Normal(2), encoder, decoder())


# ---------------------------------------------------------------------- the oracle


def test_oracle_of_observed_entries_is_scipys():
    x = data()
    completed, sd = ORACLE.completed(x, MASK)
    truth, c = ORACLE.observed_log_marginal(x, MASK), ORACLE.marginal_covariance.numpy()
    for n in range(1, ROWS):
        seen = MASK[n].numpy()
        law = stats.multivariate_normal(ORACLE.bias.numpy()[seen], c[np.ix_(seen, seen)])
        assert truth[n].item() == pytest.approx(law.logpdf(x[n].numpy()[seen]), rel=1e-12)
    assert truth[0] == 0
    torch.testing.assert_close(completed[0], ORACLE.bias)
    torch.testing.assert_close(completed[1], x[1])
    # E[x | x_obs] by way of z, and its spread
    mean, covariance = ORACLE.observed_posterior(x, MASK)
    torch.testing.assert_close((mean @ ORACLE.weight.T + ORACLE.bias)[GAPS], completed[GAPS])
    spread = torch.einsum("pd,nde,pe->np", ORACLE.weight, covariance, ORACLE.weight)
    torch.testing.assert_close((spread + ORACLE.variance).sqrt()[GAPS], sd[GAPS])


# ---------------------------------------------------------------------- log p(x_obs)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceIWAE_ELBO])
def test_the_bound_of_the_posterior_is_log_p_of_what_was_observed(elbo):
    x, vae = data(), vae_with(Posterior())
    for junk in (math.nan, 0.0, 1e9):
        loss = elbo(num_particles=3).loss(vae.model, vae.guide, with_gaps(x, junk), mask=MASK)
        assert -loss == pytest.approx(
            ORACLE.observed_log_marginal(x, MASK).sum().item(), rel=1e-12
        )


def test_the_bound_of_another_guide_is_that_of_the_observed_entries():
    x = with_gaps(data(), 0.0)
    vae = vae_with(amortised())
    mean = ORACLE.mean(x)
    # what the guide is shown is the datum with zeros in its gaps
    parts = zip(x, mean, MASK, strict=True)
    exact = sum(
        ORACLE.of_pixels(m).elbo(row[None, m], centre[None], ORACLE.covariance)
        for row, centre, m in parts
    )
    elbo = TraceExactKL_ELBO(num_particles=50, vectorize_particles=True)
    losses = torch.tensor([elbo.loss(vae.model, vae.guide, x, mask=MASK) for _ in range(40)])
    assert abs(-losses.mean() - exact) < 5 * losses.std() / math.sqrt(40)


def test_importance_sampling_finds_log_p_of_what_was_observed():
    x, vae = data(), vae_with(Posterior(wider=1.3))
    found = diagnostics.iwae(
        vae.model, vae.guide, with_gaps(x), mask=MASK, num_samples=2000, block_size=ROWS
    )
    away = found.iwae.values - ORACLE.observed_log_marginal(x, MASK).numpy()
    assert (np.abs(away) < 5 * found.iwae_std_error.values + 1e-12).all()
    assert (found.iwae_std_error.values < 0.05).all()


def test_training_on_gaps_finds_the_marginal_of_what_was_observed():
    """The mean of a Normal learned from data with gaps is the mean of what is there."""
    torch.manual_seed(0)
    x = 2.0 + torch.randn(400, 2)
    mask = torch.rand(400, 2) > 0.5
    model = VAE(fam.Normal(1), fam.Normal(1, context=2), fam.Normal(2, context=1, scale=1.0))
    with torch.no_grad():
        model.model.decoder.head.weight.zero_()
    bias = model.model.decoder.head.bias
    optimizer = torch.optim.Adam([bias], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        Trace_ELBO().differentiable_loss(model.model, model.guide, x, mask=mask).backward()
        optimizer.step()
    seen = torch.where(mask, x, 0.0).sum(0) / mask.sum(0)
    torch.testing.assert_close(bias.detach(), seen, atol=1e-3, rtol=0)


# ---------------------------------------------------------------------- what the gaps held


def errors(found, x):
    """How many of its standard errors each imputed mean is off."""
    truth, _ = ORACLE.completed(x, MASK)
    away = found.x_mean.values - truth.numpy()
    gaps = GAPS.numpy()
    return np.abs(away[gaps]) / found.x_mean_std_error.values[gaps]


@pytest.mark.parametrize(
    "encoder",
    [Posterior, lambda: Posterior(wider=1.5), lambda: amortised(3.0)],
    ids=["posterior", "wider", "amortised"],
)
def test_imputed_means_are_within_their_errors_of_the_conditional(encoder):
    x, vae = data(), vae_with(encoder())
    found = impute(
        vae.model, vae.guide, with_gaps(x), mask=MASK, num_samples=4000, block_size=ROWS
    )
    z = errors(found, x)
    assert len(z) == GAPS.sum()
    # of so many one in ten thousand honest runs is beyond the one, and of the other
    assert z.max() < 5
    assert np.sqrt(np.square(z).mean()) < 2
    assert found.x_mean_std_error.values[GAPS.numpy()].max() < 0.2
    np.testing.assert_array_equal(found.x_missing.values, GAPS.numpy())


def test_without_weights_the_guide_answers_and_is_wrong():
    x, vae = data(), vae_with(amortised())
    options = {"mask": MASK, "num_samples": 2000, "block_size": ROWS, "weighted": False}
    found = impute(vae.model, vae.guide, with_gaps(x), **options)
    assert errors(found, x).max() > 20
    assert found.attrs["weighted"] == 0
    exact = impute(
        vae_with(Posterior()).model, vae_with(Posterior()).guide, with_gaps(x), **options
    )
    assert errors(exact, x).max() < 5


def test_the_error_is_that_of_repetitions():
    x, vae = data(), vae_with(Posterior(wider=1.5))
    options = {"mask": MASK, "num_samples": 200, "block_size": ROWS, "num_draws": 1}
    runs = [impute(vae.model, vae.guide, with_gaps(x), seed=s, **options) for s in range(30)]
    gaps = GAPS.numpy()
    spread = np.std([run.x_mean.values[gaps] for run in runs], axis=0, ddof=1)
    told = np.mean([run.x_mean_std_error.values[gaps] for run in runs], axis=0)
    # thirty runs know a standard deviation to 13 %, and there are two dozen gaps
    assert np.abs(np.log(np.mean(spread / told))) < 0.15


def test_draws_are_those_of_the_conditional():
    x, vae, count = data(), vae_with(Posterior(wider=1.3)), 2000
    options = {"num_samples": 4000, "num_draws": count, "block_size": ROWS}
    found = impute(vae.model, vae.guide, with_gaps(x), mask=MASK, **options)
    mean, sd = (t.numpy() for t in ORACLE.completed(x, MASK))
    assert found.x.dims == ("draw", "data", "feature")
    assert set(found.coords) == set(found.dims)
    draws, gaps = found.x.values, GAPS.numpy()
    np.testing.assert_array_equal(
        draws[:, ~gaps], np.broadcast_to(x.numpy()[~gaps], (count, *x.numpy()[~gaps].shape))
    )
    z = (draws.mean(0) - mean)[gaps] / sd[gaps] * math.sqrt(count)
    # the weighted draws they are taken from are a sample of their own
    assert np.abs(z).max() < 6
    np.testing.assert_allclose(draws.std(0)[gaps] / sd[gaps], 1.0, atol=0.12)
    # what is missing together goes together
    n = 0
    c = np.cov(draws[:, n].T)
    np.testing.assert_allclose(c, ORACLE.marginal_covariance.numpy(), atol=0.25 * c.max())


def test_pyros_predictive_gives_the_same_by_hand():
    """The recipe without `impute`: guide draws given masked x, then x without observations."""
    x, vae, count = with_gaps(data()), vae_with(Posterior()), 3000
    drawn = Predictive(vae.guide, num_samples=count, parallel=True)(x, mask=MASK)
    made = Predictive(vae.model, posterior_samples=drawn, parallel=True)(size=ROWS)["x"]
    mean, sd = ORACLE.completed(data(), MASK)
    z = (made.mean(0) - mean)[GAPS] / sd[GAPS] * math.sqrt(count)
    assert z.abs().max() < 5


def test_blocks_and_pieces_change_nothing_that_matters():
    x, vae = data(), vae_with(amortised(3.0))
    options = {"mask": MASK, "num_samples": 300, "num_draws": 7, "block_size": 5}
    found = [
        impute(vae.model, vae.guide, with_gaps(x), batch_size=b, **options) for b in (None, 7)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(found[0].x_mean, other.x_mean, rtol=1e-9)
        np.testing.assert_allclose(found[0].x, other.x, rtol=1e-9)


def test_nothing_of_the_callers_changes_and_the_seed_decides():
    x, vae = data(), vae_with(Posterior())
    before = torch.get_rng_state()
    options = {"mask": MASK, "num_samples": 50, "num_draws": 3}
    same = [impute(vae.model, vae.guide, with_gaps(x), seed=1, **options) for _ in range(2)]
    other = impute(vae.model, vae.guide, with_gaps(x), seed=2, **options)
    assert torch.equal(before, torch.get_rng_state())
    assert same[0].identical(same[1])
    assert not np.array_equal(same[0].x.values, other.x.values)


def test_the_result_survives_a_file(tmp_path):
    x, vae = data(), vae_with(Posterior())
    found = impute(vae.model, vae.guide, with_gaps(x), mask=MASK, num_samples=50, num_draws=3)
    found.to_netcdf(tmp_path / "found.nc")
    with xr.open_dataset(tmp_path / "found.nc") as read:
        xr.testing.assert_identical(found.drop_attrs(), read.load().drop_attrs())


LIKELIHOODS = [n for n, c in fam.registry.items() if "likelihood" in c.roles]


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.filterwarnings("ignore:k-hat is above:pyro_vae.diagnostics.DiagnosticWarning")
def test_every_likelihood_imputes_legal_values(name):
    family = fam.registry[name].example(PIXELS, context=WIDTH)
    vae = small_vae(likelihood=family)
    with torch.no_grad():
        x = vae.model(size=ROWS).double()
    found = impute(vae.model, vae.guide, with_gaps(x), mask=MASK, num_samples=40, num_draws=3)
    draws = torch.as_tensor(found.x.values)
    assert bool(family.support.check(draws).all())
    assert bool((draws[:, MASK] == x[MASK]).all())
    means, ids = found.x_mean.values[GAPS.numpy()], family.example(1)().mean
    assert np.isfinite(means).all() == bool(ids.isfinite().all())


def test_rows_and_inner_plates_are_imputed_by_any_program():
    def model(x, mask):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("times", 4, dim=-1), pyro.poutine.mask(mask=mask):
                pyro.sample("x", dist.Normal(z, 0.5), obs=torch.where(mask, x, 0.0))

    def guide(x, mask):
        count = mask.sum(1, keepdim=True)
        precision = 1 + 4 * count
        mean = 4 * torch.where(mask, x, 0.0).sum(1, keepdim=True) / precision
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(mean, precision**-0.5))

    x, mask = torch.randn(9, 4), torch.rand(9, 4) > 0.3
    mask[0] = False
    found = impute(model, guide, x, mask, num_samples=500, num_draws=2)
    assert found.x.dims == ("draw", "data", "times")
    exact = 4 * torch.where(mask, x, 0.0).sum(1) / (1 + 4 * mask.sum(1))
    away = (found.x_mean.values - exact[:, None].numpy())[~mask.numpy()]
    assert (np.abs(away) < 5 * found.x_mean_std_error.values[~mask.numpy()]).all()


# ---------------------------------------------------------------------- what is refused or told


def test_without_gaps_there_is_nothing_to_impute():
    x, vae = data(), vae_with(amortised())
    for options in ({}, {"mask": torch.ones(ROWS, PIXELS, dtype=torch.bool)}):
        with pytest.raises(ValueError, match="nothing is missing: no observed site is masked"):
            impute(vae.model, vae.guide, x, num_samples=30, **options)


def test_numbers_have_to_be_positive():
    x, vae = data(), vae_with(amortised())
    with pytest.raises(ValueError, match="num_draws must be positive, not 0"):
        impute(vae.model, vae.guide, with_gaps(x), mask=MASK, num_draws=0)
    with pytest.raises(ValueError, match="num_samples must be positive"):
        impute(vae.model, vae.guide, with_gaps(x), mask=MASK, num_samples=0)


def test_one_draw_shows_no_error():
    x, vae = data(), vae_with(Posterior())
    with pytest.warns(DiagnosticWarning, match="1 draws are too few for k-hat"):
        found = impute(vae.model, vae.guide, with_gaps(x), mask=MASK, num_samples=1)
    assert np.isnan(found.x_mean_std_error.values[GAPS.numpy()]).all()


def test_a_guide_that_does_not_reach_the_posterior_is_told():
    x, vae = data(), vae_with(amortised(0.2))
    with pytest.warns(DiagnosticWarning, match=r"k-hat is above .* errors .* are too small"):
        found = impute(vae.model, vae.guide, with_gaps(x), mask=MASK, num_samples=1000)
    assert found.attrs["unreliable_share"] > 0.5


def test_weights_that_are_not_finite_are_refused():
    def model(x, mask):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            law = dist.Normal(z, 1.0).mask(mask)
            pyro.sample("x", law, obs=x)
            pyro.factor("never", torch.full((len(x),), -math.inf))

    def guide(x, mask):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    mask = torch.tensor([True, True, False])
    with pytest.raises(ValueError, match=r"log weights of 3 data \(the first is number 0\)"):
        impute(model, guide, torch.zeros(3), mask, num_samples=30)
