"""Try both lines of ArviZ (0.x and 1.x) on one file: each reads and draws what the other wrote.

    python tests/arviz_lines.py OTHER_PYTHON

where this Python has pyro_vae and one line of ArviZ, and OTHER_PYTHON the other line (with
matplotlib, h5netcdf and h5py; it needs neither torch nor pyro_vae). `check` calls by name every
function of ArviZ that `to_arviz` says will do.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from scipy.special import logsumexp
from scipy.stats import uniform

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

GROUPS = {
    "posterior",
    "prior",
    "posterior_predictive",
    "prior_predictive",
    "sample_stats",
    "vi_stats",
    "prior_sbc",
    "observed_data",
    "constant_data",
}
SAMPLE = ("chain", "draw", "data")


def _installed():
    """The module that knows the lines, without the package around it (and its torch)."""
    path = Path(__file__).parents[1] / "pyro_vae" / "inference_data" / "installed.py"
    spec = importlib.util.spec_from_file_location("installed", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LINES = _installed()


@contextmanager
def others_warnings_ignored():
    """ArviZ 0.x uses what newer releases of matplotlib and pandas deprecate."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*alias_mapping")
        warnings.filterwarnings("ignore", message=".*inplace")
        yield


def make(path):
    """Write the file that is to be checked, by `to_arviz` of a small VAE with missing values."""
    import torch
    from builders import WIDTH, small_vae

    from pyro_vae import families as fam
    from pyro_vae import to_arviz

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(90, 4, generator=generator)
    mask = torch.rand(90, 4, generator=generator) > 0.1
    vae = small_vae(likelihood=fam.Normal(4, context=WIDTH))
    pit = np.random.default_rng(2).uniform(size=(300, 2))
    calibration = xr.Dataset({"z": (("replicate", "latent"), pit)})
    found = to_arviz(
        vae.model,
        vae.guide,
        x,
        mask=mask,
        num_samples=100,
        store_data=30,
        store_draws=60,
        posterior_predictive=True,
        calibration=calibration,
    )
    found.to_netcdf(path)


def groups(found):
    """The Datasets of a container of either line, by group."""
    if LINES.first_line():
        return {name: found[name].load() for name in found.groups()}
    return {name: node.to_dataset().load() for name, node in found.children.items()}


def check(path, rewritten):
    """Call what works natively, compare its numbers with NumPy's, and write the file anew.

    Returns the name of every function that was called.
    """
    az = LINES.installed()
    found = az.from_netcdf(path)
    called = []
    with others_warnings_ignored():
        for part in (structure, statistics, draws, predictions, calibration, comparison, refusals):
            called += part(az, found)
            plt.close("all")
    found.to_netcdf(rewritten)
    return called + by_zarr(az, found)


def structure(az, found):
    parts = groups(found)
    assert set(parts) == GROUPS
    for name in ("posterior", "prior"):
        assert parts[name].z.dims == (*SAMPLE, "latent")
    for name in ("posterior_predictive", "prior_predictive"):
        assert parts[name].x.dims == (*SAMPLE, "feature")
    assert parts["observed_data"].x.dims == ("data", "feature")
    assert {v.dims for v in parts["sample_stats"].values()} == {SAMPLE}
    assert parts["vi_stats"].khat.dims == ("data",)
    assert parts["prior_sbc"].z.dims == ("chain", "draw", "latent")
    assert parts["posterior"]["data"].equals(parts["constant_data"]["data"])
    for part in parts.values():
        assert set(part.dims) == set(part.coords)
        assert part.attrs["creation_library"] == "pyro_vae"
        assert not set(part.data_vars) & set(part.dims)
    assert found.attrs["units"] == "nats"
    assert len(found.attrs["pyro_vae_warnings"]) == 3
    return ["from_netcdf"]


def _one(parts):
    return {"data": [int(parts["posterior"]["data"][3])]}


def statistics(az, found):
    parts = groups(found)
    coords = _one(parts)
    table = az.summary(found, var_names=["z"], coords=coords, kind="stats", round_to="none")
    z = parts["posterior"].z.sel(coords).astype(np.float64)
    np.testing.assert_allclose(
        table["mean"].astype(float), z.mean(("chain", "draw")).values.ravel(), rtol=1e-5
    )
    logs = az.summary(found, group="sample_stats", coords=coords, kind="stats", round_to="none")
    assert len(logs) == 5
    return ["summary"]


def draws(az, found):
    some = {"var_names": ["z"], "coords": _one(groups(found))}
    az.plot_trace(found, **some)
    az.plot_pair(found, **some)
    if LINES.first_line():
        az.plot_posterior(found, **some)
        az.plot_dist_comparison(found, **some)
        return ["plot_trace", "plot_pair", "plot_posterior", "plot_dist_comparison"]
    az.plot_trace_dist(found, **some)
    az.plot_dist(found, **some)
    az.plot_prior_posterior(found, **some)
    return ["plot_trace", "plot_pair", "plot_trace_dist", "plot_dist", "plot_prior_posterior"]


def predictions(az, found):
    if LINES.first_line():
        axes = az.plot_ppc(found, group="prior", observed=True, num_pp_samples=10)
        lines = {line.get_label(): line for line in axes.lines}
        assert np.isfinite(lines["Observed"].get_ydata()).all()
        az.plot_ppc(found, num_pp_samples=10)
        return ["plot_ppc"]
    with warnings.catch_warnings():
        # "This plot always uses the `observed_data` group", as is meant
        warnings.filterwarnings("ignore", message="This plot always uses", category=UserWarning)
        drawn = az.plot_ppc_dist(
            found, group="prior_predictive", num_samples=10, visuals={"observed_dist": True}
        )
    line = drawn.viz["observed_dist"]["x"].item()
    assert np.isfinite(line.get_ydata()).all()
    az.plot_ppc_dist(found, num_samples=10)
    return ["plot_ppc_dist"]


def calibration(az, found):
    if LINES.first_line():
        # flatten copies: arviz 0.x sorts what it is given in place
        values = groups(found)["prior_sbc"].z.values.flatten()
        points = np.linspace(0, 1, 50)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Assuming variable is continuous")
            az.plot_ecdf(
                values,
                eval_points=points,
                cdf=uniform.cdf,
                difference=True,
                confidence_bands="pointwise",
            )
        return ["plot_ecdf"]
    az.plot_ecdf_pit(found)
    return ["plot_ecdf_pit"]


def comparison(az, found):
    parts = groups(found)
    log_weight = parts["sample_stats"].log_weight
    value = logsumexp(log_weight.values[0], axis=0) - np.log(log_weight.sizes["draw"])
    log_px = xr.DataArray(value, coords={"data": log_weight["data"]}, name="log_px")
    khat = parts["vi_stats"].khat.sel(data=log_px["data"])
    worse = log_px - np.linspace(0.1, 0.4, log_px.size)
    good_k = parts["vi_stats"].attrs["khat_threshold"]
    scores = {n: LINES.elpd_data(v, khat, 60, good_k) for n, v in (("a", log_px), ("b", worse))}
    assert "elpd" in str(scores["a"])
    table = az.compare(scores)
    elpd = "elpd_loo" if LINES.first_line() else "elpd"
    assert list(table.index) == ["a", "b"]
    np.testing.assert_allclose(abs(table["elpd_diff"]["b"]), 0.25 * log_px.size, rtol=0.02)
    np.testing.assert_allclose(float(table[elpd]["a"]), float(log_px.sum()), rtol=0.01)
    az.plot_compare(table)
    az.plot_khat(scores["a"])
    # an exact guide, whose k-hat is -inf
    az.plot_khat(LINES.elpd_data(log_px, xr.full_like(khat, -np.inf), 60, good_k))
    # log densities of images, which underflow when exponentiated
    small = {
        n: LINES.elpd_data(v - 2000, khat, 60, good_k) for n, v in (("a", log_px), ("b", worse))
    }
    table = az.compare(small, method="pseudo-BMA")
    assert table["weight"]["a"] > 0.9
    return ["compare", "plot_compare", "plot_khat"]


def refusals(az, found):
    for name in ("loo", "waic"):
        function = getattr(az, name, None)
        if function is None:
            continue
        refused = ""
        try:
            function(found)
        except TypeError as error:
            refused = str(error)
        assert "log likelihood not found" in refused, f"{name} took a guide for a posterior"
    return ["loo (refused)"]


def by_zarr(az, found):
    """The other format, where zarr is; as a DataTree, since arviz 0.x knows old releases only."""
    if importlib.util.find_spec("zarr") is None:
        return []
    parts = groups(found)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        xr.DataTree.from_dict(parts).to_zarr(f"{folder}/it.zarr")
        if LINES.first_line():
            again = xr.open_datatree(f"{folder}/it.zarr", engine="zarr").children
        else:
            again = az.from_zarr(f"{folder}/it.zarr").children
        for name, part in parts.items():
            xr.testing.assert_identical(part, again[name].to_dataset().load())
    return ["to_zarr"]


def check_by(python, path, rewritten):
    """Let another Python check a file; returns what `check` returned there, and its version."""
    command = [python, "-W", "error", __file__, "--check", str(path), str(rewritten)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{python} failed on the file:\n{done.stdout}\n{done.stderr}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return answer["called"], answer["version"]


def same(path, other):
    """Whether two files hold the same, attrs included; read by the ArviZ of this Python."""
    az = LINES.installed()
    one, two = az.from_netcdf(path), az.from_netcdf(other)
    for name, part in groups(one).items():
        xr.testing.assert_identical(part, groups(two)[name])
    assert one.attrs == two.attrs


def main(other):
    say = sys.stdout.write
    with tempfile.TemporaryDirectory() as folder:
        here, back, there, last = (Path(folder) / f"{i}.nc" for i in range(4))
        make(here)
        called = check(here, back)
        same(here, back)
        say(f"arviz {LINES.installed().__version__}: {', '.join(called)}\n")
        called, version = check_by(other, here, there)
        say(f"arviz {version}: {', '.join(called)}\n")
        check(there, last)
        same(here, there)
    say("each line reads, draws and writes the other's file\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        names = check(*sys.argv[2:4])
        answer = {"called": names, "version": LINES.installed().__version__}
        sys.stdout.write(json.dumps(answer) + "\n")
    elif len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        sys.exit(__doc__)
