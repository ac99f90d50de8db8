"""The shelf of data sets: every one in the form of its likelihood, the same at every call."""

import hashlib
import io
import json
import re
import sys
import time
import urllib.error
import urllib.request
from email.message import Message
from urllib.response import addinfourl

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.io
import torch
from sklearn.datasets import load_digits
from torch.distributions import constraints

from pyro_vae import datasets

SPLITS = ("train", "validation", "test")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def random_state_untouched():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    yield
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()


# ---------------------------------------------------------------- stand-ins for what is not here


def static_arrays(sizes=(30, 20, 10)):
    rng = np.random.RandomState(3)
    return {
        key: rng.randint(0, 2, (n, 784)).astype(np.uint8)
        for key, n in zip(("train", "valid", "test"), sizes, strict=True)
    }


def write_static(folder, layout, arrays=None):
    arrays = static_arrays() if arrays is None else arrays
    if layout == "packed":
        np.savez(
            folder / "static_mnist.npz",
            **{key: np.packbits(array, axis=1) for key, array in arrays.items()},
        )
    elif layout == "unpacked":
        np.savez(folder / "static_mnist.npz", **arrays)
    for key, array in arrays.items():
        path = folder / f"binarized_mnist_{key}.amat"
        if layout == "text":
            np.savetxt(path, array, fmt="%d")
        elif layout == "matlab":
            with path.open("wb") as file:
                scipy.io.savemat(file, {"X": array})
    return folder


class OpenML(urllib.request.BaseHandler):
    """A stand-in for the server: seven blocks of ten rows, in the format of `mnist_784`."""

    def __init__(self, columns=784):
        rng = np.random.RandomState(5)
        self.pixels = rng.randint(0, 256, (70, columns))
        self.labels = np.tile(np.arange(10), 7)
        self.requests = 0

    def https_open(self, request):
        self.requests += 1
        url = request.full_url
        for part, answer in (
            ("/data/list/", self.listing),
            ("/data/features/", self.features),
            ("/data/qualities/", self.qualities),
            ("/json/data/", self.description),
            ("", self.arff),
        ):
            if part in url:
                response = addinfourl(io.BytesIO(answer()), Message(), url, 200)
                response.msg = "OK"
                return response
        raise AssertionError(url)

    http_open = https_open

    def names(self):
        return [f"pixel{i + 1}" for i in range(self.pixels.shape[1])]

    def arff(self):
        lines = ["@RELATION mnist_784"]
        lines += [f"@ATTRIBUTE {name} REAL" for name in self.names()]
        lines += ["@ATTRIBUTE class {0,1,2,3,4,5,6,7,8,9}", "@DATA"]
        rows = np.column_stack([self.pixels, self.labels])
        lines += [",".join(map(str, row)) for row in rows]
        return ("\n".join(lines) + "\n").encode()

    def listing(self):
        return json.dumps({"data": {"dataset": [{"did": 554, "version": 1}]}}).encode()

    def description(self):
        described = {
            "id": "554",
            "name": "mnist_784",
            "version": "1",
            "status": "active",
            "format": "ARFF",
            "description": "a stand-in",
            "url": "https://openml.org/data/v1/download/52667/mnist_784.arff",
            "file_id": "52667",
            "md5_checksum": hashlib.md5(self.arff()).hexdigest(),
        }
        return json.dumps({"data_set_description": described}).encode()

    def features(self):
        common = {
            "is_ignore": "false",
            "is_row_identifier": "false",
            "number_of_missing_values": "0",
        }
        named = [
            {"index": str(i), "name": name, "data_type": "numeric", "is_target": "false", **common}
            for i, name in enumerate(self.names())
        ]
        target = {
            "index": str(len(named)),
            "name": "class",
            "data_type": "nominal",
            "nominal_values": list("0123456789"),
            "is_target": "true",
            **common,
        }
        return json.dumps({"data_features": {"feature": [*named, target]}}).encode()

    def qualities(self):
        quality = [{"name": "NumberOfInstances", "value": str(len(self.labels))}]
        return json.dumps({"data_qualities": {"quality": quality}}).encode()


class NoNetwork(urllib.request.BaseHandler):
    def https_open(self, request):
        raise urllib.error.URLError("no route to host")

    http_open = https_open


@pytest.fixture
def answer_with():
    """Let a handler answer every request of this process."""

    def install(handler):
        opener = urllib.request.OpenerDirector()
        opener.add_handler(handler)
        urllib.request.install_opener(opener)
        return handler

    yield install
    urllib.request.install_opener(None)


@pytest.fixture
def root_of(tmp_path, answer_with):
    """The root with which each registered data set loads here; a new one needs a line."""
    roots = {
        "digits": lambda: None,
        "static_mnist": lambda: write_static(tmp_path, "packed"),
        "mnist": lambda: answer_with(OpenML()) and tmp_path,
    }
    return lambda name: roots[name]()


@pytest.fixture
def shelf(monkeypatch):
    """The registry, for registrations that last one test."""
    monkeypatch.setattr(datasets.datasets, "_items", dict(datasets.datasets._items))
    return datasets.datasets


# ---------------------------------------------------------------- laws of every data set

every_data_set = pytest.mark.parametrize("name", list(datasets.datasets))

SUPPORTS = {
    "bernoulli": dist.Bernoulli.support,
    "continuous_bernoulli": dist.ContinuousBernoulli.support,
    "poisson": dist.Poisson.support,
    "negative_binomial": constraints.nonnegative_integer,
    "discretized_logistic": constraints.integer_interval(0, 255),
    "normal": dist.Normal.support,
    "student_t": dist.StudentT.support,
    "laplace": dist.Laplace.support,
}


@every_data_set
def test_data_lie_in_the_support_of_each_stated_likelihood(name, root_of):
    root = root_of(name)
    stated = datasets.load(name, root).likelihoods
    assert len(stated) >= 1
    for likelihood in stated:
        data = datasets.load(name, root, likelihood=likelihood)
        assert data.likelihood == likelihood
        for split in SPLITS:
            x = getattr(data, split)
            assert x.dtype == torch.get_default_dtype()
            assert x.shape == (len(x), np.prod(data.image_shape))
            assert SUPPORTS[likelihood].check(x).all(), (likelihood, split)


@every_data_set
def test_the_first_stated_likelihood_is_the_default(name, root_of):
    data = datasets.load(name, root_of(name))
    assert data.likelihood == data.likelihoods[0]


@every_data_set
def test_loading_twice_gives_the_same_rows(name, root_of):
    root = root_of(name)
    one = datasets.load(name, root)
    torch.rand(7, generator=generator(1))
    two = datasets.load(name, root)
    for split in SPLITS:
        assert torch.equal(getattr(one, split), getattr(two, split))
        first, second = getattr(one, f"{split}_labels"), getattr(two, f"{split}_labels")
        assert (first is None) == (second is None)
        assert first is None or torch.equal(first, second)


@every_data_set
def test_unstated_likelihood_is_refused_with_those_stated(name, root_of):
    root = root_of(name)
    stated = datasets.load(name, root).likelihoods
    with pytest.raises(
        ValueError, match=f"{name!r} does not come in a form for 'gamma'.*{stated[0]}"
    ):
        datasets.load(name, root, likelihood="gamma")


@every_data_set
def test_summary_states_shape_count_and_likelihoods(name, root_of):
    data = datasets.load(name, root_of(name))
    line = datasets.datasets.summary(name)
    assert " x ".join(map(str, data.image_shape)) in line
    assert re.search(r"\d{4}.* (images|rows) \(", line)
    assert line.endswith(f"({', '.join(data.likelihoods)}).")


@every_data_set
def test_repr_says_what_it_is(name, root_of):
    data = datasets.load(name, root_of(name))
    text = repr(data)
    assert text.startswith(f"Data {name!r} for {data.likelihood} (states: ")
    assert data.policy in text
    for split in SPLITS:
        assert re.search(rf"{split} +{len(getattr(data, split))} of ", text)
    assert "tensor(" not in text
    assert max(map(len, text.splitlines())) < 120


@every_data_set
def test_default_dtype_is_honoured(name, root_of, float64):
    assert datasets.load(name, root_of(name)).train.dtype == torch.float64


# ---------------------------------------------------------------- digits


def rows_of(x):
    return sorted(map(tuple, x.reshape(len(x), -1).tolist()))


def test_digits_splits_partition_the_images_of_scikit_learn():
    raw = load_digits()
    data = datasets.load("digits", likelihood="poisson")
    assert [len(getattr(data, s)) for s in SPLITS] == [1400, 197, 200]
    together = torch.cat([data.train, data.validation, data.test])
    labels = torch.cat([data.train_labels, data.validation_labels, data.test_labels])
    assert data.image_shape == (8, 8)
    assert labels.dtype == torch.int64
    assert rows_of(np.column_stack([together, labels])) == rows_of(
        np.column_stack([raw.data, raw.target])
    )


def test_digits_splits_hold_every_class():
    data = datasets.load("digits")
    for split in SPLITS:
        labels = getattr(data, f"{split}_labels")
        share = labels.bincount(minlength=10) / len(labels)
        # 6 standard errors of a share of .1 among 197
        assert (share - 0.1).abs().max() < 6 * (0.09 / 197) ** 0.5


def test_digits_forms_are_three_views_of_the_same_counts():
    counts = datasets.load("digits", likelihood="poisson")
    grey = datasets.load("digits", likelihood="continuous_bernoulli")
    binary = datasets.load("digits", likelihood="bernoulli")
    assert sorted(counts.train.unique().tolist()) == list(range(17))
    assert torch.equal(grey.train, counts.train / 16)
    assert grey.train.min() == 0
    assert grey.train.max() == 1
    assert torch.equal(binary.train, (counts.train > 8).float())
    assert binary.policy == "binary: 1 where x / 16 > 0.5, else 0"
    assert "both ends included" in grey.policy
    assert "counts" in counts.policy


def test_grey_ends_have_a_finite_density():
    grey = datasets.load("digits", likelihood="continuous_bernoulli").train[:50]
    assert dist.ContinuousBernoulli(torch.tensor(0.3)).log_prob(grey).isfinite().all()


def test_digits_refuse_a_root(tmp_path):
    with pytest.raises(ValueError, match="digits come with scikit-learn.*leave root out"):
        datasets.load("digits", tmp_path)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_missing_scikit_learn_names_the_cure(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=rf'{name}.*pip install "pyro-vae\[data\]"'):
        datasets.load(name)


# ---------------------------------------------------------------- static MNIST


@pytest.mark.parametrize("layout", ["packed", "unpacked", "text", "matlab"])
def test_static_mnist_reads_every_layout(layout, tmp_path):
    arrays = static_arrays()
    data = datasets.load("static_mnist", write_static(tmp_path, layout, arrays))
    assert data.image_shape == (28, 28)
    assert data.train_labels is None
    for split, key in zip(SPLITS, arrays, strict=True):
        assert rows_of(getattr(data, split)) == rows_of(arrays[key])


def test_static_mnist_root_may_be_the_file_itself(tmp_path):
    write_static(tmp_path, "packed")
    (tmp_path / "static_mnist.npz").rename(tmp_path / "other.npz")
    assert len(datasets.load("static_mnist", str(tmp_path / "other.npz")).train) == 30


def test_static_mnist_rows_sorted_by_class_come_mixed(tmp_path):
    def sorted_rows(n):
        array = np.zeros((n, 784), np.uint8)
        array[n // 2 :, 0] = 1  # the mark of the second class
        return array

    arrays = {"train": sorted_rows(400), "valid": sorted_rows(200), "test": sorted_rows(200)}
    data = datasets.load("static_mnist", write_static(tmp_path, "packed", arrays))
    for split in SPLITS:
        half = getattr(data, split)[:, 0].chunk(2)[0]
        assert 0.3 < half.mean() < 0.7


def test_static_mnist_without_root_says_where_and_what():
    wanted = "pass root=.*static_mnist.npz.*binarized_mnist_.*Larochelle"
    with pytest.raises(ValueError, match=wanted):
        datasets.load("static_mnist")


def test_static_mnist_names_the_files_that_are_missing(tmp_path):
    write_static(tmp_path, "text")
    (tmp_path / "binarized_mnist_valid.amat").unlink()
    with pytest.raises(ValueError, match=r"lacks binarized_mnist_valid.amat\. A root is"):
        datasets.load("static_mnist", tmp_path)


def test_static_mnist_names_the_array_that_is_missing(tmp_path):
    arrays = static_arrays()
    del arrays["valid"]
    write_static(tmp_path, "packed", arrays)
    with pytest.raises(ValueError, match=r"static_mnist.npz.*no array valid \(it has test, train"):
        datasets.load("static_mnist", tmp_path)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5, 64), np.uint8), r"shape \(5, 64\).*784"),
        (np.zeros((5, 98), np.int64), r"\(5, 98\) and dtype int64.*uint8"),
        (np.zeros(784, np.uint8), r"shape \(784,\)"),
        (np.full((5, 784), 0.5), "values other than 0 and 1"),
    ],
    ids=["columns", "unpacked-98", "one-row", "grey"],
)
def test_static_mnist_refuses_other_arrays(array, words, tmp_path):
    np.savez(tmp_path / "static_mnist.npz", **{**static_arrays(), "valid": array})
    with pytest.raises(ValueError, match=rf"static_mnist.npz\['valid'\].*{words}"):
        datasets.load("static_mnist", tmp_path)


# ---------------------------------------------------------------- MNIST


def test_mnist_comes_from_openml_and_then_from_its_cache(tmp_path, answer_with):
    server = answer_with(OpenML())
    first = datasets.load("mnist", tmp_path, likelihood="poisson")
    assert server.requests > 0
    answer_with(NoNetwork())
    second = datasets.load("mnist", tmp_path, likelihood="poisson")
    assert torch.equal(first.train, second.train)
    assert first.image_shape == (28, 28)
    for split, rows in zip(SPLITS, (slice(0, 50), slice(50, 60), slice(60, 70)), strict=True):
        labelled = np.column_stack([getattr(first, split), getattr(first, f"{split}_labels")])
        served = np.column_stack([server.pixels[rows], server.labels[rows]])
        assert rows_of(labelled) == rows_of(served)


def test_mnist_grey_is_divided_by_255(tmp_path, answer_with):
    answer_with(OpenML())
    counts = datasets.load("mnist", tmp_path, likelihood="poisson")
    grey = datasets.load("mnist", tmp_path, likelihood="continuous_bernoulli")
    assert torch.equal(grey.train, counts.train / 255)


@pytest.mark.filterwarnings("ignore:A network error")
@pytest.mark.parametrize("given", [True, False], ids=["root", "no-root"])
def test_mnist_without_network_names_the_cure(given, tmp_path, answer_with, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    answer_with(NoNetwork())
    where = re.escape(str(tmp_path)) if given else "scikit-learn's data folder"
    with pytest.raises(OSError, match=f"{where}.*no route to host.*root=.*digits") as error:
        datasets.load("mnist", tmp_path if given else None)
    assert "\n" not in str(error.value)


def test_mnist_of_another_shape_is_refused(tmp_path, answer_with):
    answer_with(OpenML(columns=50))
    with pytest.raises(ValueError, match=r"mnist.*shape \(70, 50\).*\(70000, 784\)"):
        datasets.load("mnist", tmp_path)


# ---------------------------------------------------------------- the shelf


def test_unknown_data_set_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match="no data set is named 'digit'. Did you mean 'digits'"):
        datasets.load("digit")


def test_a_third_party_registers_its_own(shelf, tmp_path):
    seen = []

    @datasets.register
    def heights(root):
        """Heights of ten people (normal, student_t)."""
        seen.append(root)
        x = np.arange(10.0)[:, None] * 2
        return datasets.Source(
            x[:6], x[6:8], x[8:], ("normal", "student_t"), levels=2.0, test_labels=[1, 0]
        )

    data = datasets.load("heights", str(tmp_path), likelihood="student_t")
    assert seen == [tmp_path]
    assert data.train.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert data.test_labels.tolist() == [1, 0]
    assert data.train_labels is None
    assert data.policy == "real: x / 2"
    assert "heights" in shelf


def source(train, *, likelihoods=("bernoulli",), **rest):
    return datasets.Source(train, train, train, likelihoods, **rest)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (source([[1.0]], likelihoods=()), "states no likelihood.*at least one of bernoulli"),
        (source([[1.0]], likelihoods=("bernouli",)), "states bernouli.*at least one of bernoulli"),
        (source([[0.0, 3.0]]), r"theirs.train has 1 of 2 values outside \[0, 1\]"),
        (source([[0.5]], likelihoods=("poisson",)), "theirs.train has 1 of 1 .* no counts"),
        (source([[-1.0]], likelihoods=("poisson",)), "no counts"),
        (source([[float("nan")]], likelihoods=("normal",)), "theirs.train has 1 NaN"),
        (source([[1.0]], train_labels=[1, 2]), r"theirs.train has 1 rows.*labels of shape \(2,\)"),
    ],
    ids=["none", "unknown", "levels", "grey-counts", "negative", "nan", "labels"],
)
def test_a_faulty_loader_is_named(made, words, shelf):
    def theirs(root):
        """Someone's data."""
        return made

    datasets.register(theirs)
    with pytest.raises(ValueError, match=words):
        datasets.load("theirs")
