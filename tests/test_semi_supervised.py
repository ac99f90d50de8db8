"""The benchmark of labels for some: it runs, resumes, and its table says what was found."""

import json

import numpy as np
import pyro
import pytest
import torch

from tests.benchmarks.semi_supervised import Settings, all_runs, drawn, run, table

SMALL = Settings(steps=3, batch=20, width=8, generative=8)


def test_a_run_gives_three_accuracies_and_is_its_seeds():
    with pyro.validation_enabled(False):
        first, again, other = (run(seed, SMALL) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 3
    assert all(0 <= a <= 1 for a in first)
    assert first[0] <= first[1]


def test_labels_are_balanced_and_no_digit_is_on_both_sides():
    digits = drawn(3, 10)
    assert digits.labels.bincount().tolist() == [10] * 10
    assert len(digits.known) + len(digits.unknown) == 1400
    assert len(digits.test) == 397
    assert not torch.equal(drawn(4, 10).known, digits.known)


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    out = tmp_path / "runs.json"
    done = {"settings": SMALL._asdict(), "accuracies": {"0": [0.5, 0.6, 0.7]}}
    out.write_text(json.dumps(done))
    ran = []
    monkeypatch.setattr(
        "tests.benchmarks.semi_supervised.run", lambda seed, _: ran.append(seed) or [0.4, 0.4, 0.9]
    )
    found = all_runs(3, SMALL, out)
    assert ran == [1, 2]
    np.testing.assert_allclose(found[:, 2], [0.7, 0.9, 0.9])
    assert len(json.loads(out.read_text())["accuracies"]) == 3
    all_runs(3, SMALL, out)
    assert ran == [1, 2]
    with pytest.raises(SystemExit, match="other settings"):
        all_runs(3, Settings(), out)


def test_the_table_pairs_the_seeds():
    lines = table(np.array([[0.5, 0.6, 0.7], [0.6, 0.6, 0.8]])).splitlines()
    assert "| labels alone " in lines[2]
    assert "| 55.0 +- 5.0" in lines[2]
    assert "| 20.0 +- 0.0" in lines[2]
    assert "| 15.0 +- 5.0" in lines[3]
    assert "| 75.0 +- 5.0" in lines[4]
