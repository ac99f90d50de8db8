"""The README says what is so: its examples run, its table is the shelf."""

import re
import warnings
from pathlib import Path

import pytest

from pyro_vae import families as fam
from pyro_vae.diagnostics import DiagnosticWarning
from tests.benchmarks import readme_tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one writes a file
    namespace = {}
    with warnings.catch_warnings():
        # two epochs make no good guide, and the diagnostics say so
        warnings.simplefilter("ignore", DiagnosticWarning)
        for block in blocks("python"):
            exec(block.replace("epochs=50", "epochs=2, progress=False"), namespace)
    assert namespace["table"].sizes["data"] == 1400
    assert (tmp_path / "digits.nc").exists()


def test_the_table_lists_the_whole_shelf_with_its_roles():
    rows = re.findall(r"^\| (`.*?) \| .*? \| (.*?) \|$", README, flags=re.M)
    listed = {name for names, _ in rows for name in re.findall(r"`(\w+)`", names)}
    assert listed == {cls.__name__ for cls in fam.registry.values()}
    for names, roles in rows:
        for name in re.findall(r"`(\w+)`", names):
            words = set(re.findall(r"prior|guide|likelihood", roles))
            if f"but `{name}`" in roles:
                words.discard("likelihood")
            assert words == set(getattr(fam, name).roles), name


@pytest.mark.parametrize("name", ["shelf", "routes"])
def test_the_generated_tables_are_up_to_date(name):
    table = getattr(readme_tables, f"{name}_table")()
    assert readme_tables.written(README, name, table) == README


def test_the_first_two_bash_blocks_are_the_two_commands():
    job, tests = blocks("bash")[:2]
    assert "python -m pyro_vae compare" in job
    assert "pytest" in tests
    assert all("python3 -m venv" in block for block in (job, tests))


def test_every_tutorial_is_linked():
    linked = re.findall(r"\(tutorials/(\w+)\.py\)", README)
    assert linked == sorted(path.stem for path in (ROOT / "tutorials").glob("*.py"))
