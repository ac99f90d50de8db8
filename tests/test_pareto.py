"""PSIS in torch against ArviZ, and the tail index against known tails."""

import math
import warnings

import pytest
import torch

from pyro_vae.pareto import Status, psis, tail_index

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    az = pytest.importorskip("arviz")

F64 = torch.float64


def weights(draws):
    """Columns of log weights of many kinds."""
    heavy = torch.randn(draws, 6, dtype=F64) * torch.tensor([0.01, 0.3, 1, 3, 10, 60])
    exponential = torch.distributions.Exponential(torch.tensor(0.6, dtype=F64)).sample((draws, 1))
    zeros = torch.where(torch.rand(draws, 1, dtype=F64) < 0.3, -torch.inf, heavy[:, 1:2])
    ties = (heavy[:, 2:3] * 3).round() / 3
    return torch.cat([heavy, exponential, zeros, ties], -1)


def arviz_psis(log_weights):
    """Smoothed weights and k by ArviZ, by column, and for which columns it can be asked."""
    draws, columns = log_weights.shape
    if hasattr(az, "psislw"):
        smoothed, k = (torch.as_tensor(v) for v in az.psislw(log_weights.mT.numpy()))
        return smoothed, k, torch.ones(columns, dtype=torch.bool)
    # ArviZ 1.x takes log likelihoods, rounds the length of the tail down, and knows neither zero
    # weights nor ties; its own smoothing is asked for the tail that 0.x takes
    from arviz_stats.base import array_stats

    tail = math.ceil(min(draws / 5, 3 * math.sqrt(draws)))
    options = {"smooth_draws": True, "tail": "right", "log_weights": True}
    by_column = [
        array_stats._ps_tail(column.numpy(), draws, tail, **options)
        for column in log_weights[:, :7].mT
    ]
    smoothed, k = log_weights.mT.clone(), torch.full((columns,), torch.nan, dtype=F64)
    for i, (values, shape) in enumerate(by_column):
        smoothed[i], k[i] = torch.as_tensor(values), float(shape)
    asked = torch.arange(columns) < 7
    # it refuses tails of five, whose first quartile is their smallest value
    assert (k[asked].isnan() == (tail == 5)).all()
    return smoothed, k, asked & k.isfinite()


@pytest.mark.parametrize("draws", [25, 26, 100, 225, 1000, 5000])
def test_psis_equals_arviz(draws):
    log_weights = weights(draws)
    smoothed, k, status, _ = psis(log_weights)
    expected, expected_k, asked = arviz_psis(log_weights)
    assert (status == Status.OK)[:8].all()
    ok = (status == Status.OK) & asked
    torch.testing.assert_close(k[ok], expected_k[ok], rtol=1e-10, atol=1e-10)
    # tied weights may be smoothed in another order
    ours, theirs = (v.mT[ok].sort(-1).values for v in (smoothed, expected.mT))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    ordered = ok & (torch.arange(len(ok)) < 7)
    torch.testing.assert_close(smoothed.mT[ordered], expected[ordered], rtol=1e-10, atol=1e-10)


def test_log_mean_is_that_of_the_smoothed_weights_before_they_are_normalised():
    columns = torch.stack([torch.randn(1000, dtype=F64) - 3000, torch.full((1000,), 2.0)], -1)
    columns = torch.cat([columns, columns[:, :1].index_fill(0, torch.tensor(4), torch.nan)], -1)
    found = psis(columns)
    lowest = columns.argmin(0)  # below every tail: not smoothed
    for column in (0, 1):
        row = int(lowest[column])
        total = columns[row, column] - found.log_weights[row, column]
        torch.testing.assert_close(found.log_mean[column], total - math.log(1000))
    assert found.log_mean[2].isnan()
    assert found.log_mean[1] == pytest.approx(2.0)


def test_any_shape_any_dimension_any_chunk(monkeypatch):
    values = torch.randn(4, 200, 3)
    whole = psis(values, dim=1)
    assert whole.log_weights.shape == values.shape
    assert whole.k.shape == whole.status.shape == (4, 3)
    monkeypatch.setattr("pyro_vae.pareto._CHUNK_BYTES", 1)
    parts = psis(values.movedim(1, 0), dim=0)
    torch.testing.assert_close(parts.k, whole.k)
    torch.testing.assert_close(parts.log_weights, whole.log_weights.movedim(1, 0))
    torch.testing.assert_close(whole.log_weights.exp().sum(1), torch.ones(4, 3, dtype=F64))
    assert psis(torch.randn(50)).k.shape == ()
    assert psis(torch.randn(50, 0)).log_weights.shape == (50, 0)
    assert tail_index(torch.randn(0, 50), dim=-1).shape == (0,)


def test_status_of_what_cannot_be_fitted():
    base = torch.randn(100)
    columns = {
        Status.OK: base,
        Status.CONSTANT: torch.full((100,), 3.0),
        Status.NONFINITE: base.index_fill(0, torch.tensor(4), torch.nan),
        Status.DEGENERATE: base.index_fill(0, torch.tensor(4), 2000.0),
    }
    result = psis(torch.stack(list(columns.values()), -1))
    assert result.status.tolist() == list(columns)
    assert result.k[0].isfinite()
    assert result.k[1] == -torch.inf
    assert result.k[2].isnan()
    assert result.k[3] == torch.inf
    assert result.log_weights[:, 2].isnan().all()
    for c in (0, 1, 3):
        assert result.log_weights[:, c].exp().sum().item() == pytest.approx(1)
    for value in (torch.inf, torch.nan):
        column = base.index_fill(0, torch.tensor(4), value)
        assert psis(column).status == Status.NONFINITE
        assert tail_index(column).isnan()
    assert psis(torch.full((100,), -torch.inf)).status == Status.NONFINITE
    assert psis(torch.ones(20)).status == Status.CONSTANT
    assert psis(torch.ones(1)).status == psis(torch.ones(4)).status == Status.TOO_FEW
    assert psis(torch.ones(1)).log_mean == pytest.approx(1)
    few = psis(torch.randn(20))
    assert few.status == Status.TOO_FEW
    assert few.k.isnan()
    assert few.log_weights.exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("k", [0.2, 0.5, 1.0, 1.5])
def test_tail_index_of_known_tails(k):
    # a generalised Pareto tail of shape k; 20 columns average the estimate
    u = torch.rand(20_000, 20, dtype=F64)
    estimates = tail_index((u ** (-k) - 1) / k)
    error = estimates.std() / 20**0.5
    assert (estimates.mean() - k).abs() < 5 * error + 0.02


def test_tail_index_is_of_the_values_not_their_exponentials():
    values = torch.randn(10_000)
    assert tail_index(values) < 0.2
    assert tail_index(values.exp()) > 0.3
    torch.testing.assert_close(tail_index(values.exp()), psis(values).k, rtol=1e-5, atol=1e-6)
    assert tail_index(torch.ones(100)) == -torch.inf
    assert tail_index(torch.randn(20)).isnan()
    assert tail_index(torch.cat([torch.zeros(97), torch.ones(3)])) == torch.inf


def test_bad_input():
    with pytest.raises(ValueError, match=r"floating-point numbers, not torch\.int64"):
        psis(torch.arange(100))
    with pytest.raises(ValueError, match="no draws"):
        tail_index(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="no draws"):
        psis(torch.tensor(1.0))
