"""The audit finds what is wrong, names whose it is, and finds nothing else."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.distributions as td
import xarray as xr
from torch.distributions.kl import _KL_REGISTRY

from pyro_vae import cli, kl
from pyro_vae.kl import lines, statistics, table
from pyro_vae.kl.audit import counts, judge, pairs, torch_form, wrong
from pyro_vae.kl.oracle import truth
from pyro_vae.kl.specimens import SETTINGS, Specimen, add, build, specimens


def named(*names):
    return [pair for pair in pairs() if pair.name in names]


def test_a_sample_of_all_pairs_is_right():
    found = kl.audit(sample=150, seed=1, progress=False)
    assert found.sizes == {"pair": 150, "dtype": 2}
    assert wrong(found) == []
    verdicts = set(found["verdict"].values.flat)
    assert {"right", "infinite", "refused"} >= verdicts >= {"right", "infinite"}


def test_every_class_with_a_form_a_statistic_or_a_line_has_a_specimen():
    have = {s.cls for s in specimens()}
    have |= {type(build(s)[0].base_dist) for s in specimens() if s.cls is td.Independent}
    keys = [key for pair in table.forms() for key in pair]
    keys += [*statistics.rows(), *statistics.columns(), *lines.lines()]
    ours = {k for k in keys if not isinstance(k, tuple)}
    ours = {k for k in ours if k.__module__.startswith(("torch.", "pyro.", "pyro_vae."))}
    assert ours <= have, {c.__name__ for c in ours - have}


def test_every_pair_that_torch_has_a_form_for_is_asked():
    generic = {"Independent", "TransformedDistribution", "ExponentialFamily", "Distribution"}
    asked = {tuple(table.canonical(type(d)) for d in pair.built()[:2]) for pair in pairs()}
    for q, p in _KL_REGISTRY:
        skipped = {q.__name__, p.__name__} & generic
        if not table.given(q, p) and not skipped and q.__module__.startswith("torch."):
            assert (q, p) in asked, (q.__name__, p.__name__)


def test_what_torch_has_wrong_is_named():
    found = kl.audit(
        pairs=named(
            "ContinuousBernoulli || Uniform on (0, 1)",
            "Uniform on (0, 1) || ContinuousBernoulli",
            "Wishart || Wishart",
            "folded Normal || folded Normal",
            "Delta || Normal around points",
            "Categorical of large logits || Categorical of large logits",
            "Poisson of rate 0 || Poisson of rate 0",
        ),
        progress=False,
    )
    assert len(wrong(found, "torch_")) == 7
    assert any("inf in place of" in line for line in wrong(found, "torch_"))
    assert wrong(found) == []


def test_a_form_of_ours_that_is_wrong_is_named(monkeypatch):
    right = table._FORMS[td.Cauchy, td.Cauchy]
    monkeypatch.setitem(table._FORMS, (td.Cauchy, td.Cauchy), lambda q, p: 1.01 * right(q, p))
    [line] = wrong(kl.audit(pairs=named("Cauchy || Cauchy"), progress=False))
    assert line.startswith("Cauchy || Cauchy (")


def test_a_form_of_torch_that_is_wrong_is_named(monkeypatch):
    right = _KL_REGISTRY[td.Normal, td.Laplace]
    monkeypatch.setitem(
        _KL_REGISTRY, (td.Normal, td.Laplace), lambda q, p: right(q, p) + 1e-5 * q.loc
    )
    found = kl.audit(pairs=named("Normal || Laplace"), progress=False)
    [line] = wrong(found, "torch_")
    assert line.startswith("Normal || Laplace (")
    assert wrong(found) == []


def lost(q, p):
    return td.kl_divergence(q, p).detach()


def half_lost(q, p):
    return td.kl_divergence(q, td.Normal(p.loc.detach(), p.scale))


def crashing(q, p):
    raise IndexError("shapes")


def absent(q, p):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("compute", "verdict"),
    [
        (td.kl_divergence, "right"),
        (lost, "wrong"),
        (half_lost, "wrong"),
        (crashing, "wrong"),
        (absent, "refused"),
        (lambda q, p: td.kl_divergence(q, p) * torch.nan, "wrong"),
        (lambda q, p: torch.full((SETTINGS,), torch.inf), "wrong"),
    ],
    ids=["right", "no gradient", "half a gradient", "crash", "absent", "nan", "inf"],
)
def test_verdicts(compute, verdict):
    [pair] = named("Normal || Normal")
    assert judge(pair, compute).verdict == verdict


def test_an_infinity_has_to_be_told():
    [pair] = named("Cauchy || Normal")
    assert judge(pair, kl.divergence).verdict == "infinite"
    assert judge(pair, lambda q, p: q.loc + 5.0).verdict == "wrong"


def test_what_is_given_to_torch_is_not_counted_as_torchs():
    assert torch_form(td.StudentT(3.0), td.Normal(0.0, 1.0)) is None
    assert torch_form(td.Normal(0.0, 1.0), td.Normal(0.0, 1.0)).__module__.startswith("torch.")


def test_the_oracle_is_scipys_quadrature():
    from scipy import integrate, stats

    q, p = td.Gamma(torch.tensor([2.5]).double(), 1.5), td.LogNormal(torch.zeros(1).double(), 0.5)
    one, other = stats.gamma(2.5, scale=1 / 1.5), stats.lognorm(0.5)

    def term(x):
        return one.pdf(x) * (one.logpdf(x) - other.logpdf(x))

    known, _ = integrate.quad(term, 0, 60, epsabs=1e-13, limit=500, points=[0.5, 2, 8])
    assert truth(q, p).value.item() == pytest.approx(known, abs=1e-10)


def test_specimens_are_checked():
    with pytest.raises(ValueError, match="a specimen named 'Normal' already"):
        add(specimens()[0])
    with pytest.raises(ValueError, match=r"loc of thing has 1 settings; give 4"):
        add(Specimen("thing", "real line", td.Normal, {"loc": [0.0]}))
    with pytest.raises(ValueError, match="at least one pair"):
        kl.audit(sample=0, progress=False)


@pytest.mark.parametrize("name", [s.name for s in specimens()])
def test_a_specimen_has_one_batch_and_gradients(name):
    [specimen] = [s for s in specimens() if s.name == name]
    d, leaves = build(specimen, torch.float32)
    assert d.batch_shape == (SETTINGS,)
    assert all(leaf.dtype is torch.float32 and leaf.requires_grad for leaf in leaves)


def test_results_survive_netcdf_and_are_counted(tmp_path):
    found = kl.audit(sample=12, progress=False)
    found.to_netcdf(tmp_path / "audit.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "audit.nc", engine="h5netcdf") as again:
        xr.testing.assert_identical(found, again.load())
    assert sum(counts(found)["all"].values()) == 12


def test_the_readme_counts_what_is_there():
    path = Path(__file__).parents[1] / "benchmarks" / "readme_tables.py"
    spec = importlib.util.spec_from_file_location("readme_tables", path)
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    text = tables.README.read_text()
    again = tables.written(text, "kl-counts", tables.counts_table())
    assert text == again, "run python -m tests.benchmarks.readme_tables"


def test_the_command(tmp_path, capsys):
    out = tmp_path / "audit.nc"
    assert cli.main(["audit", "--sample", "8", "--seed", "3", "--out", str(out)]) == 0
    told, progress = capsys.readouterr()
    assert "torch and Pyro have a form for" in told
    assert "pairs by space of q" in told
    assert "pairs" in progress
    assert out.exists()


def test_the_command_fails_if_a_form_is_wrong(monkeypatch, capsys):
    module = importlib.import_module("pyro_vae.kl.audit")  # the name is also the function's
    monkeypatch.setattr(module, "divergence", lambda q, p: torch.zeros(SETTINGS))
    assert cli.main(["audit", "--sample", "4", "--quiet"]) == 1
    told, said = capsys.readouterr()
    assert told == ""
    assert "KLs are wrong:" in said


@pytest.mark.parametrize("given", [["--sample", "0"], ["--out", "no/such/folder/a.nc"]])
def test_the_command_refuses_in_one_line(given, capsys):
    assert cli.main(["audit", *given]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
