"""A package of somebody else's registers a family and its forms, and all of the house takes it up.

It is imported in processes of its own, so that the shelf of this one stays as it is.
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_vae import families as fam
from pyro_vae.kl.specimens import specimens

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
THIRD_PARTY = TESTS / "third_party"
LAWS = TESTS / "families" / "test_laws.py"
PAIRINGS = TESTS / "families" / "test_pairings.py"


def run(*arguments):
    paths = os.pathsep.join(str(path) for path in (TESTS.parent, THIRD_PARTY))
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )


def told(*arguments):
    """What a process prints last, as JSON."""
    done = run("-W", "error", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found():
    return told(str(THIRD_PARTY / "look_around.py"))


def test_the_shelf_of_this_process_knows_nothing_of_it():
    assert "rayleigh" not in fam.registry
    assert all(specimen.name != "Rayleigh" for specimen in specimens())


def test_the_catalogue_lists_it(found):
    line = r"^rayleigh +prior, guide +positive half-line +Independent Rayleighs"
    assert re.search(line, found["catalogue"], re.M)


def test_it_is_paired_with_all_that_fits(found):
    priors, guides = found["priors"], found["guides"]
    assert priors["rayleigh"] == priors["gamma"] == "closed"
    assert priors["normal"] == "quadrature"
    assert priors["beta"] == ""
    assert guides["gamma"] == guides["beta"] == "quadrature"
    assert guides["normal"] == ""
    assert guides["transported"] == "quadrature"  # a Normal, carried to its support


def test_a_guide_that_does_not_fit_is_refused_with_it_as_a_cure(found):
    assert "a Normal guide (on the real line) cannot stand beside a Rayleigh" in found["refusal"]
    assert "fam.Rayleigh" in found["refusal"]


def test_routes_name_whose_form_it_is(found):
    assert found["routes"] == {
        "rayleigh": ["closed", "shelf_extension, given to torch"],
        "gamma": ["closed", "shelf_extension, given to torch"],
        "normal": ["quadrature", "pyro_vae"],
    }


def test_its_form_is_given_to_torch(found):
    # r - 1 - log r at r = 4, three times
    assert found["torch"] == pytest.approx(3 * (3 - math.log(4)), rel=1e-6)


def test_the_comparison_trains_it(found):
    table = found["compared"]
    assert table["admissible"] == [[1, 1, 0], [1, 1, 0]]
    assert {text for row in table["failure"] for text in row} == {""}
    assert [row[:2] for row in table["kl_route"]] == [["closed"] * 2, ["quadrature", "closed"]]
    assert table["mean_field_route"][0][:2] == ["analytic", "analytic"]
    assert table["kl_source"][0][:2] == ["shelf_extension, given to torch"] * 2
    assert table["gap"] < 5


def test_the_audit_checks_its_forms(found):
    audit = found["audit"]
    assert audit["wrong"] == []
    assert audit["verdicts"].count("right") > 20
    assert audit["sources"]["Rayleigh || Gamma"] == "shelf_extension, given to torch"
    assert audit["sources"]["Rayleigh || Weibull"] == "pyro_vae"


def selected(path, plugin, narrowed):
    flags = ("-p", plugin, "-p", "no:cacheprovider", "-q")
    return run("-m", "pytest", *flags, str(path), "-k", narrowed)


def test_the_laws_range_over_it():
    done = selected(LAWS, "shelf_extension", "rayleigh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 60


def test_the_pairings_range_over_it():
    done = selected(PAIRINGS, "shelf_extension", "rayleigh and gamma and trains")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 2


def test_the_laws_catch_a_density_of_another_mass():
    done = selected(LAWS, "shelf_mistaken", "mistaken and mass_one")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"\b6 failed\b", done.stdout)


WRONG = """
import json
import shelf_mistaken
from pyro_vae import kl
from pyro_vae.kl.audit import Pair, wrong
from pyro_vae.kl.specimens import specimens

named = {specimen.name: specimen for specimen in specimens()}
pair = Pair(named["twin"], named["Rayleigh"])
print(json.dumps(wrong(kl.audit(pairs=[pair], progress=False))))
"""


def test_the_audit_names_a_form_that_is_wrong_and_whose_it_is():
    [line] = told("-c", WRONG)
    assert line.startswith("twin || Rayleigh (shelf_mistaken")
