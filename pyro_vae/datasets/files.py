"""Arrays from files, without unpickling and with one error for whatever is wrong.

A pickle runs code when it is read, so `.npy` and `.npz` are read without; and a damaged file may
fail anywhere inside a parser, so every failure becomes one `ValueError` that names the file, the
reason and what a file of this kind should hold.
"""

from __future__ import annotations

__all__ = ["read", "read_archive", "read_array"]

import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy.io
from torch import Tensor

from pyro_vae.datasets.convert import as_tensor


def read(path: str | Path) -> Tensor:
    r"""Read one array of data points, shape (n, ...), from a file.

    | suffix | content |
    |---|---|
    | `.npy` | one array |
    | `.npz` | one array, or one called "x" or "train" among several |
    | `.csv` | numbers separated by commas, one data point a row, no header line |
    | `.txt` | the same, separated by white space |
    | `.amat` | text as in `.txt`, or a MATLAB file (up to version 7) with the variable X |

    Arguments:
        path: The file; its suffix says how it is read.

    Returns:
        Tensor of shape (n, ...) in the default dtype, every value finite.

    Raises:
        ValueError: If the file is missing, empty, damaged, of another format, or holds NaN.
        TypeError: If it holds something else than real numbers.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "two.csv"
        ...     _ = path.write_text("0,1,1\n1,0,0\n")
        ...     read(path)
        tensor([[0., 1., 1.],
                [1., 0., 0.]])
    """
    return as_tensor(read_array(Path(path).expanduser()), Path(path).name)


def read_array(path: Path) -> np.ndarray:
    """Read the array in a file as `read` does, as it stands there, not checked for NaN."""
    with _readable(path):
        if path.suffix.lower() not in _FORMATS:
            raise ValueError(f"the suffix {path.suffix!r} is not known")
        parse, _ = _FORMATS[path.suffix.lower()]
        return parse(path)


def read_archive(path: Path, keys: Sequence[str]) -> list[np.ndarray]:
    """Read the arrays called `keys` from an `.npz` file, in that order."""
    with _readable(path), _archive(path) as archive:
        missing = [key for key in keys if key not in archive]
        if missing:
            raise ValueError(f"it has no array {', '.join(missing)} (it has {_names(archive)})")
        return [archive[key] for key in keys]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        if not path.exists():
            raise ValueError("there is no such file")
        if not path.is_file():
            raise ValueError("it is not a file")
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        yield
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        known = f"formats that are read: {', '.join(_FORMATS)}"
        _, content = _FORMATS.get(path.suffix.lower(), (None, known))
        raise ValueError(f"{path} could not be read: {reason} ({content}).") from error


def _npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _npz(path: Path) -> np.ndarray:
    with _archive(path) as archive:
        keys = list(archive)
        chosen = keys if len(keys) == 1 else [key for key in keys if key in ("x", "train")]
        if len(chosen) != 1:
            raise ValueError(f"which array is meant is not clear, it has {_names(archive)}")
        return archive[chosen[0]]


def _archive(path: Path) -> np.lib.npyio.NpzFile:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not a NumPy archive, or was cut short")
    return np.load(path, allow_pickle=False)


def _names(archive: np.lib.npyio.NpzFile) -> str:
    return ", ".join(sorted(archive)) or "none"


def _text(delimiter: str | None) -> Callable[[Path], np.ndarray]:
    def parse(path: Path) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*input contained no data")
            # the byte order mark that spreadsheets write is not a number
            return np.loadtxt(path, delimiter=delimiter, ndmin=2, encoding="utf-8-sig")

    return parse


def _amat(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        is_matlab = file.read(6) == b"MATLAB"
    if not is_matlab:
        return _text(None)(path)
    variables = scipy.io.loadmat(path)
    if not isinstance(variables.get("X"), np.ndarray):
        named = ", ".join(name for name in variables if not name.startswith("__"))
        raise ValueError(f"it has no array called X (its variables: {named or 'none'})")
    return variables["X"]


_FORMATS: dict[str, tuple[Callable[[Path], np.ndarray], str]] = {
    ".npy": (_npy, "a .npy file holds one array of numbers"),
    ".npz": (_npz, 'a .npz file holds one array of numbers, or one called "x" or "train"'),
    ".csv": (_text(","), "a .csv file holds numbers separated by commas, without a header line"),
    ".txt": (_text(None), "a .txt file holds numbers separated by white space"),
    ".amat": (_amat, "an .amat file holds numbers as text, or is a MATLAB file with X"),
}
