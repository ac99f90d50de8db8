"""Files of numbers: every format reads back, every damage is one line that names the file."""

import io
import pickle
import zlib

import numpy as np
import pytest
import scipy.io
import torch

from pyro_vae import datasets

ROWS = np.arange(12.0).reshape(4, 3)
TENSOR = torch.tensor(ROWS)

# ---------------------------------------------------------------- read


def write(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, array)
    elif path.stem == "matlab":
        with path.open("wb") as file:
            scipy.io.savemat(file, {"X": array}, do_compression=True)
    else:
        np.savetxt(path, array, delimiter="," if path.suffix == ".csv" else " ")
    return path


FILES = ("a.npy", "a.npz", "a.csv", "a.txt", "a.amat", "matlab.amat", "A.NPY")


@pytest.mark.parametrize("name", FILES)
def test_every_format_reads_back(name, tmp_path):
    path = tmp_path / name
    write(path if name != "A.NPY" else tmp_path / "A.npy", ROWS)
    if name == "A.NPY":
        (tmp_path / "A.npy").rename(path)
    assert torch.equal(datasets.read(path), TENSOR.float())
    assert torch.equal(datasets.read(str(path)), TENSOR.float())


@pytest.mark.parametrize("key", ["x", "train"])
def test_an_archive_of_several_is_read_by_its_key(key, tmp_path):
    np.savez(tmp_path / "a.npz", other=ROWS * 2, **{key: ROWS})
    assert torch.equal(datasets.read(tmp_path / "a.npz"), TENSOR.float())


def test_a_byte_order_mark_is_no_number(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n", encoding="utf-8-sig")
    assert datasets.read(tmp_path / "a.csv").tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "shape"), [("1\n2\n", (2, 1)), ("1,2\n", (1, 2))], ids=["column", "row"]
)
def test_text_is_always_a_table(text, shape, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    assert datasets.read(tmp_path / "a.csv").shape == shape


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def mat(**variables):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


UNREADABLE = {
    "suffix": ("a.parquet", b"1,2", r"suffix '.parquet' is not known.*\.npy, \.npz, \.csv"),
    "no-suffix": ("data", b"1,2", "suffix '' is not known"),
    "empty": ("a.npy", b"", "it is empty"),
    "no-npy": ("a.npy", b"hello world, this is text", "magic string is not correct"),
    "cut-npy": ("a.npy", npy(ROWS)[:-9], "a.npy"),
    "pickled-npy": ("a.npy", npy(np.array([{}])), "allow_pickle=False"),
    "pickled-npz": ("a.npz", npz(x=np.array([{}])), "allow_pickle=False"),
    "pickle-as-npy": ("a.npy", pickle.dumps(ROWS), "magic string"),
    "pickle-as-npz": ("a.npz", pickle.dumps(ROWS), "not a NumPy archive"),
    "cut-npz": ("a.npz", npz(x=ROWS)[:-30], "not a NumPy archive, or was cut short"),
    "keys": ("a.npz", npz(a=ROWS, b=ROWS), "which array is meant is not clear, it has a, b"),
    "both-keys": ("a.npz", npz(x=ROWS, train=ROWS), "it has train, x"),
    "no-keys": ("a.npz", npz(), "it has none"),
    "header": ("a.csv", b"a,b\n1,2\n", "could not convert string 'a'.*without a header line"),
    "gap": ("a.csv", b"1,2\n3,\n", "could not convert string ''.*row 1"),
    "ragged": ("a.csv", b"1,2\n3\n", "number of columns changed from 2 to 1 at row 2"),
    "semicolons": ("a.csv", b"1;2\n", "numbers separated by commas"),
    "commas": ("a.txt", b"1,2\n", "numbers separated by white space"),
    "comments": ("a.txt", b"# nothing\n\n", "contained no data"),
    "binary": ("a.csv", bytes(range(128, 256)), "can't decode"),
    "no-X": ("a.amat", mat(Y=ROWS), r"no array called X \(its variables: Y\)"),
    "no-variables": ("a.amat", mat(), "its variables: none"),
    "cut-matlab": ("a.amat", mat(X=ROWS)[:200], "a.amat"),
    "hdf-matlab": ("a.amat", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM", "7.3"),
    "nan": ("a.csv", b"1,nan\n", "a.csv has 1 NaN.*mask="),
    "no-rows": ("a.npy", npy(np.zeros((0, 2))), "a.npy holds no data points"),
}


@pytest.mark.parametrize(("name", "content", "words"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_files_are_named_with_the_reason(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        datasets.read(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="none.npy could not be read: there is no such file"):
        datasets.read(tmp_path / "none.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(ValueError, match="it is not a file"):
        datasets.read(tmp_path / "folder.npy")


def test_text_in_an_array_is_refused_by_name(tmp_path):
    np.save(tmp_path / "a.npy", np.array([["a", "b"]]))
    with pytest.raises(TypeError, match="a.npy holds values of dtype <U1"):
        datasets.read(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("failure", "words"),
    [(zlib.error(), "error"), (OSError("two\n  lines."), "two lines")],
    ids=["no-words", "two-lines"],
)
def test_any_failure_becomes_one_line(failure, words, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise failure

    (tmp_path / "a.csv").write_text("1,2\n")
    monkeypatch.setattr(np, "loadtxt", fail)
    with pytest.raises(ValueError, match=rf"a.csv could not be read: {words} \(a .csv file"):
        datasets.read(tmp_path / "a.csv")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv", "matlab.amat"])
def test_damage_anywhere_is_one_error_or_harmless(name, tmp_path):
    path = write(tmp_path / name, np.random.RandomState(0).rand(6, 4))
    whole, rng = path.read_bytes(), np.random.RandomState(1)
    failures = []
    for trial in range(60):
        damaged = bytearray(whole)
        if trial % 2:
            damaged = damaged[: rng.randint(len(damaged))]
        else:
            damaged[rng.randint(len(damaged))] ^= 1 << rng.randint(8)
        path.write_bytes(damaged)
        try:
            datasets.read(path)
        except (ValueError, TypeError) as error:
            failures.append(str(error))
    assert len(failures) >= 20
    assert all(name in failure and "\n" not in failure for failure in failures)
