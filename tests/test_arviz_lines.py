"""What ArviZ makes of the groups, in the line that is installed and, where it is named, the other.

`PYRO_VAE_OTHER_ARVIZ=path/of/python` names an interpreter with the other line (see
`tests/arviz_lines.py`). Without it, files still cross over by what the other line reads and
writes them with: InferenceData against xarray's DataTree.
"""

import os
import warnings

import arviz_lines as lines
import numpy as np
import pytest
import torch
import xarray as xr

from pyro_vae.diagnostics import DiagnosticWarning
from pyro_vae.inference_data import as_elpd, convert, wrap
from pyro_vae.inference_data import installed as line

OTHER = os.environ.get("PYRO_VAE_OTHER_ARVIZ")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "made.nc"
    with warnings.catch_warnings():  # a guide that nobody trained
        warnings.simplefilter("ignore", DiagnosticWarning)
        lines.make(path)
    return path


@pytest.fixture(autouse=True)
def settings_of_others():
    """ArviZ 1.x and matplotlib hold global settings of their own; figures are closed."""
    yield
    lines.plt.close("all")


def test_arviz_works_on_what_is_made(path, tmp_path):
    called = lines.check(path, tmp_path / "again.nc")
    assert {"summary", "plot_trace", "plot_pair", "compare", "plot_khat"} <= set(called)
    lines.same(path, tmp_path / "again.nc")


@pytest.mark.skipif(OTHER is None, reason="PYRO_VAE_OTHER_ARVIZ names no other line of ArviZ")
def test_the_other_line_works_on_what_is_made_here_and_back(path, tmp_path):
    called, version = lines.check_by(OTHER, path, tmp_path / "there.nc")
    assert version.startswith("0.") != line.first_line(), f"{OTHER} has the same line, {version}"
    assert {"summary", "plot_trace", "plot_pair", "compare", "plot_khat"} <= set(called)
    lines.check(tmp_path / "there.nc", tmp_path / "back.nc")
    lines.same(path, tmp_path / "there.nc")


@pytest.mark.parametrize("first", [True, False])
def test_both_containers_write_what_both_can_read(path, tmp_path, monkeypatch, first):
    """DataTree needs no arviz 1.x, so its files are tried even where only 0.x is."""
    if first and not line.first_line():
        pytest.skip("InferenceData is of arviz 0.x")
    source = lines.groups(line.installed().from_netcdf(path))
    monkeypatch.setattr(line, "first_line", lambda: first)
    made = wrap(source)
    assert type(made).__name__ == ("InferenceData" if first else "DataTree")
    made.to_netcdf(tmp_path / "other.nc")
    monkeypatch.undo()
    with xr.open_datatree(tmp_path / "other.nc", engine="h5netcdf") as tree:
        for name, group in source.items():
            xr.testing.assert_identical(tree[name].to_dataset().load(), group)
        assert tree.attrs["units"] == "nats"
    lines.same(path, tmp_path / "other.nc")


def test_attrs_of_the_container_are_those_of_all_groups():
    one, two = xr.Dataset(attrs={"units": "nats", "seed": 1}), xr.Dataset(attrs={"units": "nats"})
    assert convert.wrap({"prior": one, "posterior": two}).attrs["units"] == "nats"
    assert "seed" not in convert.wrap({"prior": one, "posterior": two}).attrs


# ------------------------------------------------------------------------------------- as_elpd
def numbers(score):
    names = ("elpd_loo", "p_loo") if line.first_line() else ("elpd", "p")
    return [score[n] for n in (names[0], "se", "n_data_points", "n_samples", "warning", names[1])]


def test_the_score_is_a_sum_with_its_standard_error():
    log_px = torch.tensor([-3.0, -1.0, -2.0, -2.0], dtype=torch.float64)
    found = numbers(as_elpd(log_px, num_samples=500))
    np.testing.assert_allclose(found[:2], [-8, (4 * 0.5) ** 0.5])
    assert found[2:5] == [4, 500, False]
    assert np.isnan(found[5])


@pytest.mark.parametrize(
    ("khat", "warning"),
    [(0.6, False), (0.69, True), (np.nan, True), (np.inf, True), (-np.inf, False)],
)
def test_a_heavy_tail_is_told(khat, warning):
    score = as_elpd(np.zeros(3), np.array([0.1, khat, 0.2]), num_samples=1000)
    assert bool(score["warning"]) is warning


def test_the_number_of_draws_comes_along_with_vi_stats(path):
    table = lines.groups(line.installed().from_netcdf(path))["vi_stats"]
    score = as_elpd(xr.zeros_like(table.khat), table.khat)
    assert score["n_samples"] == 100


@pytest.mark.parametrize(
    ("log_px", "khat", "message"),
    [
        ([-1.0, -np.inf], None, "log_px is not finite for 1 of 2 data"),
        ([-1.0, np.nan], None, "log_px is not finite for 1 of 2 data"),
        ([-1.0, -2.0], [0.1], r"khat has shape \(1,\), but log_px \(2,\)"),
        ([[-1.0]], None, "one value for each datum"),
    ],
)
def test_what_is_no_score_is_refused(log_px, khat, message):
    khat = None if khat is None else np.array(khat)
    with pytest.raises(ValueError, match=message):
        as_elpd(np.array(log_px), khat, num_samples=10)


def test_a_score_of_unknown_draws_is_refused():
    with pytest.raises(ValueError, match="from how many draws"):
        as_elpd(np.array([-1.0]))
