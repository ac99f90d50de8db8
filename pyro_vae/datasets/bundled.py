"""The data sets that come with the package: digits, static MNIST, MNIST.

Every order is drawn from NumPy's legacy generator at a fixed seed: its stream is frozen for good,
so a split is the same on every machine and in every version, and the global generators are left
alone.
"""

from __future__ import annotations

__all__ = ["digits", "mnist", "static_mnist"]

from http.client import HTTPException
from pathlib import Path
from types import ModuleType

import numpy as np

from pyro_vae.datasets.data import Source, register
from pyro_vae.datasets.files import read_archive, read_array

_ARCHIVE = "static_mnist.npz"
_AMAT = tuple(f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test"))


@register
def digits(root: Path | None) -> Source:
    """Digits, 8 x 8, 1797 images (bernoulli, continuous_bernoulli, discretized_logistic, poisson).

    The images that scikit-learn brings along: each pixel counts the inked points, 0 to 16, of a
    4 x 4 block of a scanned bitmap. One random order, then 1400 rows to train, 197 to validate,
    200 to test.

    Source: "Optical recognition of handwritten digits" (Alpaydin and Kaynak, 1998).
    """
    if root is not None:
        raise ValueError(
            f"digits come with scikit-learn and are read from no folder (root={str(root)!r}); "
            "leave root out, or read your own files with datasets.read."
        )
    bunch = _sklearn_datasets("digits").load_digits()
    order = _order(len(bunch.images))
    train, validation, test = np.split(order, [1400, 1597])
    return Source(
        bunch.images[train],
        bunch.images[validation],
        bunch.images[test],
        likelihoods=("bernoulli", "continuous_bernoulli", "discretized_logistic", "poisson"),
        levels=16.0,
        train_labels=bunch.target[train],
        validation_labels=bunch.target[validation],
        test_labels=bunch.target[test],
    )


@register
def static_mnist(root: Path | None) -> Source:
    """MNIST with fixed binary pixels, 28 x 28, 50000 + 10000 + 10000 images (bernoulli).

    Each pixel was drawn once with its grey level as probability, and the draw was published, so
    that bounds of different authors are about the same data. Two layouts are read:

    - `static_mnist.npz` (or any `.npz` file given as root) with the arrays train, valid and test,
      each of shape (n, 784) of 0 and 1, or (n, 98) of bytes as `numpy.packbits` makes them;
    - a folder with `binarized_mnist_train.amat`, `_valid.amat` and `_test.amat`, as text or as
      MATLAB files with the variable X.

    The splits are those published; as their rows may be sorted by class, the rows of each split
    are put in a fixed random order. There are no labels.

    Source: "On the quantitative analysis of deep belief networks" (Salakhutdinov and Murray,
    2008), in the split of "The neural autoregressive distribution estimator" (Larochelle and
    Murray, 2011).
    """
    if root is None:
        raise ValueError(f"static_mnist is read from local files: pass root=. {_cure()}")
    splits = [_binary_images(array, name) for array, name in _published(root)]
    train, validation, test = (images[_order(len(images))] for images in splits)
    return Source(
        train,
        validation,
        test,
        likelihoods=("bernoulli",),
        note="binary in the source, drawn once by Salakhutdinov and Murray, 2008",
    )


def _published(root: Path) -> list[tuple[np.ndarray, str]]:
    """The three arrays as they stand in the files, each with a name for messages."""
    archive = root / _ARCHIVE if root.is_dir() else root
    if archive.suffix == ".npz" and archive.exists():
        keys = ("train", "valid", "test")
        arrays = read_archive(archive, keys)
        return [(array, f"{archive}[{key!r}]") for array, key in zip(arrays, keys, strict=True)]
    missing = [name for name in _AMAT if not (root / name).is_file()]
    if missing:
        raise ValueError(
            f"static_mnist: {root} holds no {_ARCHIVE}, and lacks {', '.join(missing)}. {_cure()}"
        )
    return [(read_array(root / name), str(root / name)) for name in _AMAT]


def _cure() -> str:
    return (
        f"A root is a folder that holds {_ARCHIVE} (arrays train, valid, test of shape (n, 784), "
        f"or (n, 98) packed by numpy.packbits), or that file, or a folder that holds "
        f"{', '.join(_AMAT)}, the split that H. Larochelle published."
    )


def _binary_images(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 98 and array.dtype == np.uint8:
        array = np.unpackbits(array, axis=1)
    if array.ndim != 2 or array.shape[1] != 784:
        raise ValueError(
            f"{name} is of shape {array.shape} and dtype {array.dtype}; static MNIST has 784 "
            "columns of 0 and 1, or 98 of packed bytes (uint8)."
        )
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(f"{name} holds values other than 0 and 1, so it is not static MNIST.")
    return array.reshape(-1, 28, 28)


@register
def mnist(root: Path | None) -> Source:
    """MNIST, 28 x 28, 70000 rows (bernoulli, continuous_bernoulli, discretized_logistic, poisson).

    Grey levels 0 to 255, fetched from OpenML by scikit-learn, which keeps them in a cache (`root`,
    by default its own data folder); after the first time no network is needed. Of the 70000 rows
    in their published order the first five sevenths train, the next seventh validates, and the
    last, the published test images, tests; the rows of each split are put in a fixed random order,
    for the published test images come with the easier half first.

    Source: "Gradient-based learning applied to document recognition" (LeCun, Bottou, Bengio and
    Haffner, 1998).
    """
    bunch = _fetch_mnist(root)
    pixels, labels = np.asarray(bunch.data), np.asarray(bunch.target)
    if pixels.ndim != 2 or pixels.shape[1] != 784:
        raise ValueError(
            f"mnist: the cache holds an array of shape {pixels.shape} where (70000, 784) was "
            "expected; delete scikit-learn's copy and load again."
        )
    images, seventh = pixels.reshape(-1, 28, 28), len(pixels) // 7
    bounds = [len(pixels) - 2 * seventh, len(pixels) - seventh]
    train, validation, test = (
        split[_order(len(split))] for split in np.split(np.arange(len(pixels)), bounds)
    )
    return Source(
        images[train],
        images[validation],
        images[test],
        likelihoods=("bernoulli", "continuous_bernoulli", "discretized_logistic", "poisson"),
        levels=255.0,
        train_labels=labels[train],
        validation_labels=labels[validation],
        test_labels=labels[test],
    )


def _fetch_mnist(root: Path | None):  # noqa: ANN202 - a Bunch of scikit-learn, which is optional
    fetch = _sklearn_datasets("mnist").fetch_openml
    try:
        # all as bytes: an eighth of the memory, and no categorical column, on which scikit-learn
        # 1.9.1 fails beside pandas 3.1 (scikit-learn/scikit-learn#34902)
        return fetch(
            "mnist_784",
            version=1,
            as_frame=False,
            data_home=root,
            parser="pandas",
            read_csv_kwargs={"dtype": "uint8"},
        )
    except (OSError, ValueError, HTTPException) as error:
        where = "scikit-learn's data folder" if root is None else str(root)
        raise OSError(
            f"mnist was not to be had from OpenML, nor from a copy in {where} "
            f"({' '.join(str(error).split())}); load it once with a network, or give as root= a "
            'folder in which scikit-learn has cached it. The data set "digits" needs no network.'
        ) from error


def _sklearn_datasets(name: str) -> ModuleType:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            f'the data set {name!r} needs scikit-learn: pip install "pyro-vae[data]"'
        ) from error
    return datasets


def _order(n: int) -> np.ndarray:
    return np.random.RandomState(0).permutation(n)
