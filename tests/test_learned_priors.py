"""The benchmark of learned priors: paired by seed, resumed, and told as it was found."""

import numpy as np
import pytest
import torch

from tests.benchmarks import learned_priors, readme_tables
from tests.benchmarks.learned_priors import PLAIN, PRIORS, Plan

TINY = Plan(latent=2, hidden=8, components=5, epochs=2, patience=2, particles=20, data=100)


def test_runs_are_paired_by_seed_and_go_on_where_they_were(tmp_path, monkeypatch):
    def run():
        return learned_priors.run(tmp_path, (PLAIN, "VampPrior"), (0, 1), TINY, progress=False)

    results = run()
    assert len(results) == 4
    assert all(np.isfinite([r["log_px"], r["std_error"], r["seconds"]]).all() for r in results)
    assert [r["parameters"] for r in results] == [0, 5 * 64] * 2
    monkeypatch.setattr(learned_priors, "measured", None)
    assert run() == results
    assert learned_priors.stored(tmp_path) == sorted(results, key=lambda r: r["prior"])
    table = learned_priors.prior_table(learned_priors.stored(tmp_path))
    assert len(table.splitlines()) == 6
    assert "of 2" in table
    text = readme_tables.written(readme_tables.README.read_text(), "learned-priors", table)
    assert table in text
    (tmp_path / "other.json").write_text('{"context": "another"}')
    with pytest.raises(ValueError, match="of no plan, or of several"):
        learned_priors.stored(tmp_path)


def test_encoder_and_decoder_start_alike_beside_every_prior():
    x = torch.rand(20, 64).round()
    start = learned_priors.vae_of(PLAIN, TINY, x, 3)
    for prior in set(PRIORS) - {PLAIN, *learned_priors.missing(PRIORS)}:
        vae = learned_priors.vae_of(prior, TINY, x, 3)
        for one, other in ((vae.guide, start.guide), (vae.model.decoder, start.model.decoder)):
            for a, b in zip(one.parameters(), other.parameters(), strict=True):
                assert torch.equal(a, b), prior
        assert bool(vae.model.prior.z().log_prob(torch.zeros(2)).isfinite())


def test_differences_are_those_of_one_seed():
    results = [
        {"prior": prior, "seed": seed, "log_px": -20.0 + 5 * seed + gain}
        for prior, gain in ((PLAIN, 0.0), ("VampPrior", 0.5))
        for seed in (0, 1, 2)
    ]
    found = learned_priors.differences(results, "VampPrior")
    assert found.tolist() == [0.5, 0.5, 0.5]
    assert learned_priors.mean_and_error(found) == "0.50 +- 0.00"
    assert learned_priors.mean_and_error(np.array([1.0, 3.0])) == "2.00 +- 1.00"
    assert learned_priors.mean_and_error([1.0]) == "1.00"
