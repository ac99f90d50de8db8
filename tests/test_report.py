"""The table and the pages: every admissible pair, every reason, nothing from elsewhere."""

import base64
import builtins
import json
import re
from html.parser import HTMLParser

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import diagnose, report
from pyro_vae.pairings import compare_pairings, grid

GUIDES, PRIORS = ["normal", "beta", "one_hot_categorical"], ["student_t", "one_hot_categorical"]
PAIRS = [("normal", "student_t"), ("beta", "student_t"), (GUIDES[2], PRIORS[1])]
OPTIONS = {"latent": 2, "hidden": 8, "epochs": 1, "num_particles": 4, "progress": False}


@pytest.fixture(scope="module")
def result():
    with torch.random.fork_rng():
        return compare_pairings(GUIDES, PRIORS, torch.ones(20, 4), **OPTIONS)


@pytest.fixture
def failed(result, monkeypatch):
    def fail(*args):
        raise RuntimeError("a <b> | c")

    monkeypatch.setattr(grid, "measure", fail)
    return compare_pairings(["normal"], ["normal"], torch.ones(20, 4), **OPTIONS)


def rows(text):
    return [line for line in text.splitlines() if line.startswith(tuple(GUIDES))]


def test_the_table_has_a_row_for_each_admissible_pair(result):
    found = [tuple(re.split(r"\s{2,}", row)[:2]) for row in rows(report.table(result))]
    assert found == PAIRS


def test_a_row_holds_route_elbo_kl_and_noise(result):
    cell = result.sel(guide="normal", prior="student_t")
    row = rows(report.table(result))[0]
    assert f"{cell.kl_route.item()} (ours)" in row
    assert cell.kl_source.item() == "pyro_vae"
    assert "closed (ours, torch too)" in report.table(result)
    assert "falls back" in row
    assert f"{cell.elbo_per_datum:.2f} +- {cell.elbo_per_datum_std_error:.2f}" in row
    assert f"{cell.kl_sampled:.3f} +- {cell.kl_sampled_std_error:.3f}" in row
    for elbo in result.elbo.values:
        assert f"{cell.gradient_snr.sel(elbo=elbo):.2f}" in row
    assert "silent_fallback" in row


def test_a_refused_guide_has_no_ratio_under_the_mean_field_elbo(result):
    columns = re.split(r"\s{2,}", rows(report.table(result))[2])
    assert columns[3] == "refused"
    assert columns[8] == "-"


def test_the_table_explains_the_findings_that_occur_and_no_others(result):
    text = report.table(result)
    assert "silent_fallback: TraceMeanField_ELBO samples" in text
    assert "wrong_closed_form" not in text
    assert "3 pairs are not admissible" in text


def test_a_table_of_admissible_pairs_speaks_of_no_others(result):
    assert "not admissible" not in report.table(result.isel(guide=[0], prior=[0]))


def test_a_failed_pair_is_said_to_have_failed(failed):
    assert "failed: RuntimeError: a <b> | c" in report.table(failed)
    assert "## Failed pairs" in report.markdown(failed)
    assert "RuntimeError: a \\<b> \\| c" in report.markdown(failed)
    assert "RuntimeError: a &lt;b&gt; | c" in report.page(failed)


def test_markdown_has_picture_table_reasons_and_settings(result):
    text = report.markdown(result, "comparison.png")
    assert "![ELBO by guide and prior](comparison.png)" in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == 1 + len(PAIRS)
    assert "one\\_hot\\_categorical" in text
    assert "±" in text
    assert "**beta x one\\_hot\\_categorical**" in text
    assert "- **latent**: 2" in text
    assert "![" not in report.markdown(result)


class Page(HTMLParser):
    """The tags and the text of a page, which must be well formed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_well_formed_and_holds_everything_itself(result):
    picture = b"\x89PNG\r\n of sorts"
    page = Page(report.page(result, picture))
    assert page.open == []
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert sources == [f"data:image/png;base64,{base64.b64encode(picture).decode()}"]
    assert page.tags.count("tr") == 1 + len(PAIRS)
    refused = result.reason.values[result.reason.values != ""]
    for text in (*refused, "How to read it", "num_particles", "silent_fallback", "±"):
        assert text in page.text
    assert "img" not in Page(report.page(result)).tags


def test_without_tabulate_the_error_says_what_to_install(result, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "tabulate":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r'pip install "pyro-vae\[cli\]"'):
        report.table(result)


# ---------------------------------------------------------------------- a diagnosis


@pytest.fixture(scope="module")
def diagnosed():
    finding = {
        "level": "bad",
        "text": "k < 1 & so on +- 2.",
        "advice": "a <wide> guide.",
        "closes": 1,
    }
    with torch.random.fork_rng():
        x = torch.randn(20)
        found = diagnose(model, guide, x, steps=["pareto_k", "active_units"], show=False)
    told = json.loads(found.attrs["findings"]) | {"<mine>": [finding]}
    return found.assign_attrs(
        findings=json.dumps(told), skipped=json.dumps({"gaps": "left <out>"}), note="a & b"
    )


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.7))


def test_a_page_holds_verdict_findings_table_and_pictures(diagnosed):
    text = report.diagnosis_page(diagnosed, {"Samples <1>": b"\x89PNG"}, {"guide": "a<b"})
    assert diagnosed.attrs["verdict"].partition("\n")[0] in text
    assert text.count("data:image/png;base64,") == 3
    assert base64.b64encode(b"\x89PNG").decode() in text
    for name in ("pareto_k", "active_units"):
        assert f'<h2 id="{name}">' in text
    assert "k-hat by datum" in text, "the first line of the diagnostic's docstring"
    assert "<td>khat</td>" in text
    assert "\N{MINUS SIGN}" in text


def test_a_page_escapes_all_that_it_is_told(diagnosed):
    text = report.diagnosis_page(diagnosed, {"Samples <1>": b""}, {"guide": "a<b"})
    for raw in ("<mine>", "k < 1", "a <wide>", "left <out>", "Samples <1>", "a<b"):
        assert raw not in text
    for told in (
        "K &lt; 1 &amp; so on ± 2.",
        "a &lt;wide&gt; guide",
        "left &lt;out&gt;",
        "a &amp; b",
    ):
        assert told in text


def test_a_page_of_what_is_no_diagnosis_is_refused(result):
    with pytest.raises(ValueError, match="this Dataset is no diagnosis"):
        report.diagnosis_page(result)
