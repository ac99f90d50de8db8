"""The tutorials run, and say what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "tutorials"
TUTORIALS = sorted(FOLDER.glob("*.py"))

PROMISES = {
    "01_elbo_identity": [
        r"holds to \d\.\de-1[0-9] by both ELBOs",
        r"Trace_ELBO +-?\d+\.\d+ \+- 0\.0000",
    ],
    "02_any_prior": [
        r"Gaussian +.*closed +analytic",
        r"Student-t +.*fallback",
        r"Beta\(2, 1\) +.*fallback",
        r"learnable Student-t",
        r"Beta\(2, 1\), Beta guide +.*closed +analytic",
        r"sphere, vMF guide +.*closed +analytic",
        r"refused: .*Normal guide.*Beta prior.*fam\.Beta",
    ],
    "03_kl_two_ways": [
        r"Gaussian +closed +0\.76796568 +0e\+00 +\d\.\d{3} \+- 0\.\d{3}",
        r"Laplace +closed +0\.92155282",
        r"Student-t +quadrature +0\.89115887 +\de-\d\d",
        r"two humps an axis +quadrature +1\.61556938 +\de-\d\d",
        r"tilted clusters +sampled +none +\d\.\d{3} \+- 0\.\d{3}",
        r"tilted clusters +(\S+ \+- \S+) +\1 +(\S+ \+- \S+) +\2 +sampled",
        r"100% +0\.0000 +0\.[1-9].* 0\.000 \+- 0\.000 +[1-9].* 0\.000 \+- 0\.000\n",
    ],
    "04_is_my_guide_any_good": [
        r"Do not rely on this guide",
        r"the posterior( +good){5}\n",
        r"too narrow +bad +care +bad +good +good\n",
        r"biased +good +care +bad +good +good\n",
        r"collapsed +\w+ +care +bad +bad +bad\n",
        r"too wide +good +care +bad +\w+ +good\n",
        r"pictures: pareto_k, iwae, calibration, aggregate_posterior, collapse",
    ],
    "05_aggregate_posterior": [
        r"Normal prior +\d\.\d\d +\d\.\d\d to \d\.\d\d \(\+- 0\.\d\d\) +0\.\d\d to",
        r"at least 0\.(?!00)\d\d \+- 0\.0\d nats away from every Gaussian",
        r"Laplace prior",
        r"Student-t prior",
        r"Beta\(2, 1\) prior",
        r"pictures: sandwich, manifold, draws of q\(z\)",
    ],
    "07_learnable_priors": [
        r"log p\(x\) with N\(0, I\): -2\d\.\d\d nats a digit",
        r"N\(0, I\) +\d\.\d\d to \d\.\d\d +\d+\.\d \+- \d\.\d +\+0\.00 \+- 0\.00 +\d+%\n",
        r"mixture +\S+ to \d\.\d\d",
        r"VampPrior +\S+ to \d\.\d\d .*\+\d\.\d\d \+- 0\.\d\d +\d+%\n",
        r"spline flow +\S+ to \d\.\d\d .*[+-]\d\.\d\d \+- 0\.\d\d +\d+%\n",
        r"pictures: prior and q\(z\), samples, N\(0, I\)",
    ],
    "08_discrete_and_mixed_latents": [
        r"(enumerated|score function|straight-through|relaxed) +-2\d\.\d{3} \+- 0\.\d{3}\n" * 4,
        r"enumerated +-2\d\.\d{3} \+- 0\.000 +1\.000 \+- 0\.000 +0\.000\n",
        r"score function +-2\d\.\d{3} \+- 0\.0\d\d +-?\d\.\d{3} \+- \d\.\d{3} +[1-9]\d*\.",
        r"straight-through +-2\d\.\d{3} \+- 0\.0\d\d +(?!0\.9|1\.0)-?\d\.\d{3} \+- 0\.\d{3} +\d\.",
        r"relaxed +-\d+\.\d{3} .*\n",
        r"KL of kind +\d\.\d{3} nats, closed\nKL of style +\d\.\d{3} nats, closed\n",
        r"100 labels alone +\d\d\.\d% of 200 right\nand 1300 without +\d\d\.\d% of 200 right",
    ],
    "11_counts": [
        r"nothing lost: 3\d% zeros(.*\n){4} +overdispersion is worth +\d+\.\d+ \+- [01]\.\d+\n",
        r"a fifth lost: 4\d% zeros(.*\n){4} +overdispersion is worth +1\d\.\d+ \+- [0-2]\.\d+\n",
        r"nothing lost: learned g 0\.0[0-4]\d .*\n.*a fifth lost: learned g 0\.0[5-9]",
        r"with +offset: R\^2 of the library size 0\.[01]\d,.*\n"
        r"without +offset: R\^2 of the library size 0\.[6-9]\d,",
        r"the offset is worth [1-3]\.\d+ \+- 0\.\d+ nats a cell",
    ],
}


def test_every_tutorial_is_numbered_and_has_promises():
    assert [t.stem for t in TUTORIALS] == sorted(PROMISES)
    # numbers are the order of reading; those that are being written leave gaps
    numbers = [int(t.stem[:2]) for t in TUTORIALS]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_the_tutorial_runs_and_keeps_its_promises(tutorial, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(tutorial)],
        env={**os.environ, "SMOKE": "1", "PYTHONPATH": str(FOLDER.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for promise in PROMISES[tutorial.stem]:
        assert re.search(promise, done.stdout), f"{promise!r} not in:\n{done.stdout}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_the_tutorial_is_short(tutorial):
    assert tutorial.read_text().count("# %%") <= 20
