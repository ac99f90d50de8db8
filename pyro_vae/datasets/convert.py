"""From whatever holds numbers to one tensor, checked once, before any training.

Data points are rows: shape (n, ...). A value is a finite number, or it is missing and a mask says
so; a NaN that nobody declared would turn every parameter into NaN at the first step, and a masked
array whose mask is dropped would be trained on its fill values.
"""

from __future__ import annotations

__all__ = ["as_tensor", "batches", "binarize", "check_unit_interval"]

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pyro_vae.registry import nearest


def as_tensor(data: Any, name: str = "x", *, mask: Any = None) -> Tensor:
    """Return data as one tensor x of shape (n, ...) in the default dtype, every value finite.

    Integers, booleans and floats of other widths are converted to `torch.get_default_dtype()`;
    nothing is copied where nothing changes. The global random state is left as it was,
    even by a `DataLoader` that shuffles.

    Arguments:
        data: A tensor, a NumPy array (or what converts to one, such as an xarray `DataArray`), a
            list of numbers or of equally shaped rows, a torch `Dataset` with a length, or a
            `DataLoader` (its batches in its order). Where an item is a tuple such as (x, label),
            its first element is the data point.
        name: What to call the data in messages.
        mask: Booleans, True where a value was observed, of the shape of the data or of its first
            dimensions (a dimension of size 1 stands for all along it); what stands at a False
            entry may be anything and is returned as it is.

    Returns:
        Tensor of shape (n, ...) with n >= 1.

    Raises:
        TypeError: If the data are of no known kind, or hold no real numbers.
        ValueError: If there are no data points, if rows differ in shape, if a masked array has
            masked entries, or if an observed value is NaN or infinite.

    Example:
        >>> as_tensor([[0, 1], [1, 1]])
        tensor([[0., 1.],
                [1., 1.]])
        >>> as_tensor([[0.5, float("nan")]], mask=[[True, False]])
        tensor([[0.5000,    nan]])
    """
    x = _dense(data, name)
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(
            f"{name} holds no data points: its shape is {tuple(x.shape)}, and (n, ...) with "
            "n >= 1 is needed, one data point a row."
        )
    if x.is_complex():
        raise TypeError(f"{name} holds complex numbers; pass real ones (torch.view_as_real).")
    x = x.to(torch.get_default_dtype())
    _check_finite(x, name, mask)
    return x


def _dense(data: Any, name: str) -> Tensor:
    """The data as a strided tensor of any dtype, not yet looked into."""
    if isinstance(data, Tensor):
        if data.layout is not torch.strided:
            raise TypeError(f"{name} is a sparse tensor; pass {name}.to_dense().")
        return data
    if isinstance(data, DataLoader):
        return _from_loader(data, name)
    if isinstance(data, Dataset):
        return _from_dataset(data, name)
    if isinstance(data, list) and any(isinstance(row, Tensor | np.ndarray) for row in data):
        return _stacked(data, name)
    if isinstance(data, list | int | float) or hasattr(data, "__array__"):
        return _from_numbers(data, name)
    raise TypeError(
        f"{name} is a {type(data).__name__}, which is not read as data; pass a tensor, an array, "
        "a list, a torch Dataset or a DataLoader (of a tuple or a dictionary, the element that "
        "holds the data points)."
    )


def _from_numbers(data: Any, name: str) -> Tensor:
    if isinstance(data, np.ma.MaskedArray) and np.ma.getmaskarray(data).any():
        count = int(np.ma.getmaskarray(data).sum())
        raise ValueError(
            f"{name} is a masked array with {count} masked of {data.size} values; pass "
            f"{name}.filled(0) and mask=~{name}.mask (True where observed)."
        )
    try:
        array = np.asarray(data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is no rectangular array of numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} holds values of dtype {array.dtype}, and real numbers are needed; convert "
            "labels and text to numbers, and pass missing values (None) by mask=."
        )
    # torch takes neither foreign byte orders, nor extended precision, nor read-only memory
    dtype = np.dtype(float) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.require(array, dtype, ["C", "A", "W"]))


def _from_dataset(dataset: Dataset[Any], name: str) -> Tensor:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{name} is a Dataset without a length; pass a DataLoader of it, with a batch_size."
        )
    with torch.random.fork_rng(devices=[]):
        rows = [_first(dataset[i]) for i in range(len(dataset))]  # pyright: ignore[reportArgumentType]
    return _stacked(rows, name)


def _from_loader(loader: DataLoader[Any], name: str) -> Tensor:
    if loader.batch_sampler is None:
        raise TypeError(
            f"{name} is a DataLoader with batch_size=None, whose items may be batches or single "
            "data points; give it a batch_size, or pass its dataset."
        )
    # every pass over a loader draws a seed from the global generator
    with torch.random.fork_rng(devices=[]):
        collated = [tuple(batch) if isinstance(batch, list) else batch for batch in loader]
    tensors = [_dense(_first(batch), f"{name}, batch {i}") for i, batch in enumerate(collated)]
    _check_collated(loader, tensors, any(isinstance(batch, tuple) for batch in collated), name)
    _check_equal([t.shape[1:] for t in tensors], name, "each row of batch")
    return torch.cat(tensors) if tensors else torch.empty(0)


def _check_collated(
    loader: DataLoader[Any], tensors: Sequence[Tensor], paired: bool, name: str
) -> None:
    """Refuse batches whose first element is one data point, or one feature, of several."""
    rows = sum(len(t) if t.ndim else 1 for t in tensors)
    counted = not (isinstance(loader.dataset, IterableDataset) or loader.drop_last)
    expected = len(loader.sampler) if counted and loader.batch_size is not None else rows  # pyright: ignore[reportArgumentType]
    if rows != expected or any(t.ndim < 1 + paired for t in tensors):
        raise ValueError(
            f"{name}: the first elements of the loader's batches have shape "
            f"{tuple(tensors[0].shape)} and {rows} rows in all, for {expected} data points; let "
            "the dataset return tensors (or tuples with the data point first) and collate_fn "
            "stack them, so that a batch is (batch, ...) or a tuple with that first."
        )


def _first(item: Any) -> Any:
    return item[0] if isinstance(item, tuple) and item else item


def _stacked(rows: Sequence[Any], name: str) -> Tensor:
    tensors = [_dense(row, f"{name}[{i}]") for i, row in enumerate(rows)]
    _check_equal([t.shape for t in tensors], name, "row")
    return torch.stack(tensors) if tensors else torch.empty(0)


def _check_equal(shapes: Sequence[torch.Size], name: str, unit: str) -> None:
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"{name}: {unit} {i} has shape {tuple(shape)}, {unit} 0 {tuple(shapes[0])}; bring "
                "all to one shape (pad, and pass mask=)."
            )


def _check_finite(x: Tensor, name: str, mask: Any) -> None:
    bad = ~torch.isfinite(x)
    if mask is not None:
        bad &= _observed(mask, x, name)
    if not bool(bad.any()):
        return
    nan = int((bad & x.isnan()).sum())
    infinite = int(bad.sum()) - nan
    counts = [f"{nan} NaN"] * (nan > 0) + [f"{infinite} infinite (in {x.dtype})"] * (infinite > 0)
    rows = bad.reshape(len(x), -1).any(1).nonzero().flatten().tolist()
    where = ", ".join(map(str, rows[:3])) + (", ..." if len(rows) > 3 else "")
    among = "values" if mask is None else "values, although mask says they were observed"
    raise ValueError(
        f"{name} has {' and '.join(counts)} among its {x.numel()} {among} (rows {where}); declare "
        "missing values by mask= (booleans, True where observed), or drop those rows."
    )


def _observed(mask: Any, x: Tensor, name: str) -> Tensor:
    observed = _dense(mask, f"the mask of {name}").to(x.device)
    if observed.dtype != torch.bool:
        raise TypeError(
            f"the mask of {name} is of dtype {observed.dtype}; pass booleans, True where observed."
        )
    sizes = zip(observed.shape, x.shape, strict=False)
    if not 0 < observed.ndim <= x.ndim or any(m not in (1, n) for m, n in sizes):
        raise ValueError(
            f"the mask of {name} has shape {tuple(observed.shape)}; it must be that of the data, "
            f"{tuple(x.shape)}, or of its first dimensions, ({len(x)},) for whole data points."
        )
    return observed.reshape(observed.shape + (1,) * (x.ndim - observed.ndim))


def check_unit_interval(x: Tensor, name: str) -> Tensor:
    """Return `x` if all of it lies in [0, 1], else raise a ValueError with the cure."""
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        outside = int(((x < 0) | (x > 1)).sum())
        raise ValueError(
            f"{name} has {outside} of {x.numel()} values outside [0, 1] (they run from {low:g} to "
            f"{high:g}); divide by the largest level there can be first, such as x / 255."
        )
    return x


def binarize(
    x: Any,
    policy: str = "threshold",
    threshold: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return b = 1[x > t] (policy "threshold") or b = 1[x > u], u ~ U(0, 1) (policy "sample").

    A sample has E[b] = x, pixel by pixel; a threshold gives sharper images of another mean. Bounds
    on data made by different policies do not compare, so state which one was used.

    Arguments:
        x: Grey levels in [0, 1], shape (n, ...); anything `as_tensor` reads.
        policy: "threshold" or "sample".
        threshold: t in [0, 1), for the policy "threshold"; a value equal to t becomes 0.
        generator: The source of u, for the policy "sample"; torch's global one by default.

    Returns:
        Tensor of zeros and ones, shape (n, ...). Binary data are returned unchanged.

    Raises:
        ValueError: If values lie outside [0, 1], or policy or threshold are not as above.

    Source: the policy "sample", drawn once, made static binarised MNIST: "On the quantitative
    analysis of deep belief networks" (Salakhutdinov and Murray, 2008).

    Example:
        >>> binarize([[0.0, 0.5, 0.51, 1.0]])
        tensor([[0., 0., 1., 1.]])
    """
    grey = check_unit_interval(as_tensor(x), "x")
    if policy == "threshold":
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold is {threshold:g}; it must lie in [0, 1).")
        return (grey > threshold).to(grey.dtype)
    if policy == "sample":
        u = torch.rand(grey.shape, dtype=grey.dtype, device=grey.device, generator=generator)
        return (grey > u).to(grey.dtype)
    raise ValueError(
        f"no policy is named {policy!r}. {nearest(str(policy), ('threshold', 'sample'))}"
    )


def batches(
    x: Tensor | int,
    batch_size: int,
    *,
    shuffle: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Return an iterator over the n rows in ceil(n / batch_size) batches, the last one smaller.

    Arguments:
        x: A tensor of shape (n, ...), whose rows are handed out; or the number n, for batches of
            indices (to index data, labels and mask alike).
        batch_size: Rows in a batch, at least 1.
        shuffle: Whether to draw a new order; else rows come as they stand.
        generator: The source of the order; torch's global one by default.

    Returns:
        Iterator over tensors of shape (batch_size, ...), or (batch_size,) for indices; every row
        once.

    Raises:
        ValueError: If there are no rows, or if `batch_size` is no positive whole number.

    Example:
        >>> [len(batch) for batch in batches(torch.zeros(5, 2), 2)]
        [2, 2, 1]
        >>> [i.tolist() for i in batches(5, 2, shuffle=False)]
        [[0, 1], [2, 3], [4]]
    """
    n = len(x) if isinstance(x, Tensor) else x
    if n < 1:
        raise ValueError(f"there are {n} rows to make batches of; at least one is needed.")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number, at least 1.")
    device = torch.device("cpu") if generator is None else generator.device
    order = torch.randperm(n, generator=generator, device=device) if shuffle else torch.arange(n)
    if isinstance(x, Tensor):
        return (x[rows] for rows in order.to(x.device).split(batch_size))
    return iter(order.split(batch_size))
