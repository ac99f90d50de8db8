"""The command: what it writes, what it refuses in one line, and how it is stopped and resumed."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from pyro_vae import cli, datasets, families, plots, report
from pyro_vae.diagnostics import DIAGNOSTICS
from pyro_vae.pairings import CellWarning, grid

ROOT = Path(__file__).parents[1]
TINY = shlex.split("--latent 2 --hidden 8 --epochs 1 --num-particles 3 --batch-size 10")
PAIRS = shlex.split("--guides normal,beta --priors laplace beta")
FILES = ["comparison.html", "comparison.md", "comparison.nc", "comparison.png"]


@pytest.fixture
def x(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).integers(0, 2, (30, 4)))
    return path


@pytest.fixture
def compare(x, tmp_path):
    """Run `compare` in this process on tiny data, writing to tmp_path / "out"."""

    def run(*more, data=x, out=tmp_path / "out"):
        return cli.main(["compare", "--data", str(data), "--out", str(out), *TINY, *PAIRS, *more])

    return run


@pytest.fixture
def untouched(monkeypatch):
    """An error if anything is trained."""

    def forbidden(*args):
        raise AssertionError("a cell was trained")

    monkeypatch.setattr(grid, "measure", forbidden)
    monkeypatch.setattr(grid.Pairings, "run", forbidden)


# ---------------------------------------------------------------------- compare


def test_compare_prints_a_table_and_writes_four_files(compare, tmp_path, capsys):
    assert compare() == 0
    out, err = capsys.readouterr()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cells", *FILES]
    assert [line.split()[:2] for line in out.splitlines()[2:5]] == [
        ["normal", "laplace"],
        ["beta", "laplace"],
        ["beta", "beta"],
    ]
    assert str(tmp_path / "out" / "comparison.nc") in out
    assert "3/3" in err, "no progress bar"
    with xr.open_dataset(tmp_path / "out" / "comparison.nc", engine="h5netcdf") as table:
        assert table.admissible.values.tolist() == [[1, 0], [1, 1]]
        assert table.attrs["evaluated_on"] == "3 held-out data"
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "(comparison.png)" in (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")


def test_quiet_prints_nothing(compare, capsys):
    assert compare("--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_threads_are_put_back(compare):
    before = torch.get_num_threads()
    assert compare("--quiet", "--threads", str(before + 1)) == 0
    assert torch.get_num_threads() == before


def test_data_sets_are_loaded_by_name_in_the_form_of_the_likelihood(tmp_path, capsys):
    def run(*more):
        out = ["--out", str(tmp_path), "--quiet", "--guides", "normal", "--priors", "normal"]
        assert cli.main(["compare", *TINY, *out, *more, "--batch-size", "700"]) == 0
        with xr.open_dataset(tmp_path / "comparison.nc", engine="h5netcdf") as table:
            return table.attrs

    assert run()["evaluated_on"] == "197 held-out data"
    assert run()["likelihood"] == "bernoulli"
    assert run("--likelihood", "continuous_bernoulli")["likelihood"] == "continuous_bernoulli"


def test_all_means_the_whole_shelf(untouched, monkeypatch, compare):
    seen = []
    monkeypatch.setattr(grid.Pairings, "run", lambda self, *a, **k: seen.append(self) or stop())

    def stop():
        raise KeyboardInterrupt

    assert compare("--guides", "all", "--priors", "all", "--latent", "3") == 130
    roles = {name: cls.roles for name, cls in families.registry.items()}
    assert set(seen[0].guides) == {name for name in roles if "guide" in roles[name]}
    # a transported prior has nothing to be carried to
    assert set(seen[0].priors) == {n for n in roles if "prior" in roles[n]} - {"transported"}


def test_all_leaves_out_what_cannot_be_built_and_says_so(untouched, monkeypatch, compare, capsys):
    missing = 'flows need zuko: pip install "pyro-vae[flows]"'
    flows = [n for n, cls in families.registry.items() if issubclass(cls, families.Flow)]
    monkeypatch.setattr(families.Flow, "available", classmethod(lambda cls: missing))
    seen = []
    monkeypatch.setattr(grid.Pairings, "run", lambda self, *a, **k: seen.append(self) or stop())

    def stop():
        raise KeyboardInterrupt

    assert compare("--guides", "all", "--priors", "normal") == 130
    assert not set(seen[0].guides) & set(flows)
    said = capsys.readouterr().err
    assert f"left out of all guides: {', '.join(flows)} ({missing})" in said
    assert "priors" not in said
    assert compare("--guides", "nsf", "--priors", "normal") == 2
    _one_line(capsys, f"the guide 'nsf' cannot be built: {missing}")
    assert cli.main(["catalogue"]) == 0
    (line,) = [t for t in capsys.readouterr().out.splitlines() if t.split()[:1] == ["nsf"]]
    assert f"[left out: {missing}]" in line


def test_a_small_file_holds_out_its_last_row(compare, tmp_path):
    np.save(tmp_path / "two.npy", np.eye(2))
    assert compare("--quiet", data=tmp_path / "two.npy") == 0


def test_a_failed_pair_is_exit_code_1_and_the_others_are_kept(compare, monkeypatch, capsys):
    inner, calls = grid.measure, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("bad luck")
        return inner(*args)

    monkeypatch.setattr(grid, "measure", failing)
    assert compare() == 1
    out, err = capsys.readouterr()
    assert "failed: RuntimeError: bad luck" in out
    assert "1 of 3 pairs failed" in err
    assert compare() == 0
    assert len(calls) == 4


def test_a_stopped_run_says_how_to_go_on(compare, monkeypatch, tmp_path, capsys):
    inner, calls = grid.measure, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return inner(*args)

    monkeypatch.setattr(grid, "measure", interrupted)
    assert compare() == 130
    err = capsys.readouterr().err
    assert str(tmp_path / "out" / "cells") in err
    assert "goes on from there" in err
    assert compare() == 0
    assert len(calls) == 4
    assert "1 of 3 pairs are finished in" in capsys.readouterr().err
    assert compare("--seed", "1") == 0
    assert "3 files in" in capsys.readouterr().err


def test_a_damaged_cell_is_a_warning_of_one_line(compare, tmp_path, capsys):
    assert compare("--quiet") == 0
    damaged = sorted((tmp_path / "out" / "cells").iterdir())[0]
    damaged.write_text("damaged")
    assert compare("--quiet") == 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"pyro-vae: warning: the cell file {damaged} is damaged")


def test_other_warnings_stay_what_they_are(compare, monkeypatch):
    inner = grid.measure

    def warning(*args):
        import warnings

        warnings.warn("mind the gap", RuntimeWarning, stacklevel=1)
        return inner(*args)

    monkeypatch.setattr(grid, "measure", warning)
    with pytest.warns(RuntimeWarning, match="mind the gap"):
        assert compare("--quiet") == 0
    assert issubclass(CellWarning, UserWarning)


# ---------------------------------------------------------------------- errors


ERRORS = {
    "unknown option": (["--latnt", "3"], "unrecognized arguments: --latnt"),
    "no number": (["--latent", "three"], "argument --latent: invalid int value: 'three'"),
    "unknown guide": (["--guides", "nromal"], "Did you mean 'normal'"),
    "unknown prior": (["--priors", "gama"], "no prior is named 'gama'. Did you mean 'gamma'"),
    "guide twice": (["--guides", "normal normal"], "the guide 'normal' is named twice"),
    "no prior": (["--priors", ","], "no prior was named"),
    "likelihood as guide": (["--guides", "poisson"], "no guide is named 'poisson'"),
    "no pair": (["--guides", "gamma", "--priors", "beta"], "none of the 1 pairs is admissible"),
    "unknown data set": (["--data", "digts"], "Did you mean 'digits'"),
    "missing file": (["--data", "none.npy"], "there is no such file"),
    "data set without root": (["--data", "static_mnist"], "pass root="),
    "unknown likelihood": (["--likelihood", "bernouli"], "Did you mean 'bernoulli'"),
    "likelihood of a data set": (
        ["--data", "digits", "--likelihood", "normal"],
        "does not come in a form for 'normal'",
    ),
    "unknown device": (["--device", "abacus"], "the device 'abacus' cannot be used here"),
    "latent": (["--latent", "0"], "latent must be a whole number, at least 1, not 0"),
    "epochs": (["--epochs", "-1"], "epochs must be a whole number"),
    "batch size": (["--batch-size", "0"], "batch_size must be"),
    "hidden": (["--hidden", "0"], "hidden must be"),
    "particles": (["--num-particles", "1"], "num_particles must be"),
    "learning rate": (["--learning-rate", "0"], "learning_rate must be a positive number"),
    "seed": (["--seed", "-3"], "seed must be"),
    "threads": (["--threads", "0"], "threads must be"),
}


@pytest.mark.parametrize(("arguments", "text"), ERRORS.values(), ids=ERRORS)
def test_an_error_of_usage_is_one_line_and_exit_code_2(
    compare, untouched, capsys, arguments, text
):
    assert compare(*arguments) == 2
    _one_line(capsys, text)


def _one_line(capsys, text):
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pyro-vae: error: ")
    assert err.count("\n") == 1
    assert text in err


DATA = {
    "nan": (np.array([[0.0, np.nan], [1.0, 1.0]]), "1 NaN"),
    "infinite": (np.array([[0.0, np.inf], [1.0, 1.0]]), "1 infinite"),
    "outside the support": (np.full((4, 3), 0.5), "outside the support of the Bernoulli"),
    "one row": (np.ones((1, 3)), "holds one row"),
    "no rows": (np.ones((0, 3)), "no data points"),
    "text": (np.array([["a", "b"]]), "real numbers are needed"),
}


@pytest.mark.parametrize(("array", "text"), DATA.values(), ids=DATA)
def test_bad_data_are_one_line_and_exit_code_2(compare, untouched, tmp_path, capsys, array, text):
    np.save(tmp_path / "bad.npy", array)
    assert compare(data=tmp_path / "bad.npy") == 2
    _one_line(capsys, text)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.npy", b"\x93NUMPY\x01\x00cut", "could not be read"),
        ("x.npz", b"PK cut short", "cut short"),
        ("x.csv", b"a,b\n1,2\n", "could not be read"),
        ("x.csv", b"1,,0\n1,1,0\n", "could not be read"),
        ("x.csv", b"", "it is empty"),
        ("x.parquet", b"1", "the suffix '.parquet' is not known"),
    ],
    ids=["npy", "npz", "header", "missing value", "empty", "suffix"],
)
def test_a_damaged_file_is_one_line_and_exit_code_2(
    compare, untouched, tmp_path, capsys, name, content, text
):
    path = tmp_path / name
    path.write_bytes(content)
    assert compare(data=path) == 2
    _one_line(capsys, text)
    assert not (tmp_path / "out").exists(), "the folder was made although nothing will be written"


def test_masked_values_without_a_mask_are_refused(compare, untouched, capsys, monkeypatch):
    masked = np.ma.masked_equal(np.eye(4), 1)
    monkeypatch.setattr(datasets, "read", lambda path: datasets.as_tensor(masked, path.name))
    assert compare() == 2
    _one_line(capsys, "masked array with 4 masked")


def test_a_folder_that_cannot_be_written_to_is_refused(compare, untouched, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert compare(out=tmp_path / "file" / "out") == 2
    _one_line(capsys, "cannot be written to")


def test_a_result_that_cannot_be_written_is_one_line(compare, tmp_path, capsys):
    (tmp_path / "out" / "comparison.png").mkdir(parents=True)
    assert compare("--quiet") == 2
    _one_line(capsys, "comparison.png")


@pytest.mark.parametrize(("module", "extra"), [("plots", "plots"), ("report", "cli")])
def test_a_missing_extra_is_named(compare, untouched, monkeypatch, capsys, module, extra):
    def missing():
        raise ImportError(f'pip install "pyro-vae[{extra}]"')

    name = {"plots": "require_matplotlib", "report": "require_tabulate"}[module]
    monkeypatch.setattr({"plots": plots, "report": report}[module], name, missing)
    assert compare() == 2
    _one_line(capsys, f"pyro-vae[{extra}]")


def test_no_command_is_an_error(capsys):
    assert cli.main([]) == 2
    _one_line(capsys, "COMMAND")


# ---------------------------------------------------------------------- catalogue


def test_the_catalogue_lists_all_that_is_registered(capsys):
    assert cli.main(["catalogue"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, cls in families.registry.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert families.registry.summary(name) in line
        assert all(role in line for role in cls.roles)
    for name in (*datasets.datasets, *DIAGNOSTICS):
        assert any(line.split()[:1] == [name] for line in lines)
    assert any("priors are admissible" in line for line in lines)


# ---------------------------------------------------------------------- as a process


def _process(*arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pyro_vae", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that starts the tests in the background lets them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
def test_python_m_pyro_vae_compares(x, tmp_path):
    process = _process("compare", "--data", x, *TINY, *PAIRS, folder=tmp_path)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "normal" in out
    assert sorted(p.name for p in (tmp_path / "comparison").iterdir()) == ["cells", *FILES]


@pytest.mark.slow
def test_a_process_that_is_interrupted_goes_on_where_it_was(tmp_path):
    pairs = shlex.split("--guides normal full_normal laplace student_t --priors normal laplace")
    settings = shlex.split("--epochs 4 --num-particles 5 --hidden 16 --latent 2")
    arguments = ["compare", *pairs, *settings]
    process = _process(*arguments, folder=tmp_path)
    cells, deadline = tmp_path / "comparison" / "cells", time.monotonic() + 600
    while not list(cells.glob("*.nc")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "goes on from there" in err
    finished = {path: path.stat().st_mtime_ns for path in cells.glob("*.nc")}
    assert 0 < len(finished) < 8
    process = _process(*arguments, folder=tmp_path)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert cli.main([*arguments, "--quiet", "--out", str(tmp_path / "unbroken")]) == 0
    tables = []
    for folder in ("comparison", "unbroken"):
        with xr.open_dataset(tmp_path / folder / "comparison.nc", engine="h5netcdf") as table:
            tables.append(table.load().drop_vars("seconds"))
    assert tables[0].identical(tables[1])
