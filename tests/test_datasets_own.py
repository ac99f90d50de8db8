"""Anyone's own data: what is read as a tensor, what is refused, grey made binary, batches."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyro_vae import datasets


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def random_state_untouched():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    yield
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()


def rows_of(x):
    return sorted(map(tuple, x.reshape(len(x), -1).tolist()))


# ---------------------------------------------------------------- binarize


def test_threshold_is_strict():
    x = torch.tensor([[0.0, 0.25, 0.5, 0.75, 1.0]])
    assert datasets.binarize(x).tolist() == [[0, 0, 0, 1, 1]]
    assert datasets.binarize(x, threshold=0.2).tolist() == [[0, 1, 1, 1, 1]]
    assert datasets.binarize(x, threshold=0).tolist() == [[0, 1, 1, 1, 1]]


def test_sample_has_the_grey_level_as_its_mean():
    grey = torch.linspace(0, 1, 11)
    n = 20_000
    sampled = datasets.binarize(grey.expand(n, 11), "sample", generator=generator())
    assert set(sampled.unique().tolist()) == {0.0, 1.0}
    mean = sampled.mean(0)
    assert mean[0] == 0
    assert mean[-1] == 1
    # 6 standard errors: fails by chance with probability 2e-8 (an inverted draw has mean 1 - x)
    assert ((mean - grey).abs() <= 6 * (grey * (1 - grey) / n).sqrt()).all()


def test_sample_follows_its_generator():
    x = torch.full((50, 4), 0.5)
    draws = [datasets.binarize(x, "sample", generator=generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_sample_without_generator_follows_the_global_seed():
    x = torch.full((50, 4), 0.5)
    draws = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(4)
            draws.append(datasets.binarize(x, "sample"))
    assert torch.equal(*draws)


@pytest.mark.parametrize("policy", ["threshold", "sample"])
def test_binary_data_are_unchanged(policy):
    x = datasets.load("digits").test
    assert torch.equal(datasets.binarize(x, policy, generator=generator()), x)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[0, 128, 255]],), r"x has 2 of 3 values outside \[0, 1\].*0 to 255.*x / 255"),
        (([[-0.1, 1.0]],), r"1 of 2 values outside.*-0.1 to 1"),
        (([[0.5]], "treshold"), "no policy is named 'treshold'. Did you mean 'threshold'"),
        (([[0.5]], "threshold", 1.0), r"threshold is 1; it must lie in \[0, 1\)"),
        (([[0.5]], "threshold", float("nan")), "threshold is nan"),
        (([[float("nan")]],), "1 NaN"),
    ],
    ids=["bytes", "negative", "policy", "threshold", "nan-threshold", "nan"],
)
def test_binarize_names_what_is_wrong(arguments, words):
    with pytest.raises(ValueError, match=words):
        datasets.binarize(*arguments)


# ---------------------------------------------------------------- as_tensor: what is read

ROWS = np.arange(12.0).reshape(4, 3)


class Rows(Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, i):
        return self.make(i)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.tensor(ROWS))


def read_only():
    array = ROWS.copy()
    array.flags.writeable = False
    return array


TENSOR = torch.tensor(ROWS)
PAIRS = TensorDataset(TENSOR, torch.arange(4))

READABLE = {
    "list": ROWS.tolist(),
    "list-of-tensors": list(TENSOR),
    "list-of-arrays": list(ROWS),
    "float64": ROWS,
    "float16": ROWS.astype(np.float16),
    "longdouble": ROWS.astype(np.longdouble),
    "uint8": ROWS.astype(np.uint8),
    "uint16": ROWS.astype(np.uint16),
    "int64": ROWS.astype(int),
    "big-endian": ROWS.astype(">f4"),
    "fortran": np.asfortranarray(ROWS),
    "reversed": ROWS[::-1][::-1],
    "negative-stride": np.ascontiguousarray(ROWS[::-1])[::-1],
    "read-only": read_only(),
    "nothing-masked": np.ma.masked_array(ROWS, mask=False),
    "xarray": xr.DataArray(ROWS, dims=("data", "latent")),
    "tensor": TENSOR,
    "int-tensor": TENSOR.int(),
    "transposed": TENSOR.T.contiguous().T,
    "dataset-of-tensors": Rows(lambda i: TENSOR[i]),
    "dataset-of-lists": Rows(lambda i: ROWS[i].tolist()),
    "dataset-of-arrays": Rows(lambda i: ROWS[i]),
    "dataset-of-pairs": PAIRS,
    "subset": torch.utils.data.Subset(PAIRS, range(4)),
    "loader-of-tensors": DataLoader(Rows(lambda i: TENSOR[i]), batch_size=3),
    "loader-of-pairs": DataLoader(PAIRS, batch_size=3),
    "loader-of-a-stream": DataLoader(Stream(), batch_size=3),
    "loader-with-batch-sampler": DataLoader(PAIRS, batch_sampler=[[0, 1, 2], [3]]),
}


@pytest.mark.parametrize("data", READABLE.values(), ids=READABLE)
def test_everything_readable_is_the_same_tensor(data):
    x = datasets.as_tensor(data)
    assert x.dtype == torch.get_default_dtype()
    assert torch.equal(x, TENSOR.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_default_dtype_is_the_result(dtype, float64):
    assert datasets.as_tensor(TENSOR.to(dtype)).dtype == torch.float64


def test_booleans_become_zero_and_one():
    assert datasets.as_tensor(np.array([[True, False]])).tolist() == [[1.0, 0.0]]


def test_images_keep_their_shape():
    assert datasets.as_tensor(np.zeros((5, 3, 2), np.uint8)).shape == (5, 3, 2)


def test_a_fitting_tensor_is_not_copied():
    x = torch.zeros(4, 3)
    assert datasets.as_tensor(x) is x


def test_a_shuffling_loader_keeps_its_order_and_every_row():
    loader = DataLoader(PAIRS, batch_size=3, shuffle=True, generator=generator(2))
    x = datasets.as_tensor(loader)
    assert rows_of(x) == rows_of(ROWS)
    loader = DataLoader(PAIRS, batch_size=3, shuffle=True, generator=generator(2))
    assert torch.equal(x, torch.cat([batch[0] for batch in loader]).float())


def test_a_random_data_set_leaves_the_global_state():
    noisy = Rows(lambda i: TENSOR[i] + torch.rand(3))
    assert torch.equal(datasets.as_tensor(noisy), datasets.as_tensor(noisy))


# ---------------------------------------------------------------- as_tensor: what is refused


def with_values(**at):
    x = ROWS.copy()
    for index, value in at.items():
        x[int(index[1:]), 0] = value
    return x


NAN, INF = float("nan"), float("inf")

REFUSED = {
    "nan": (with_values(r1=NAN), ValueError, r"1 NaN among its 12 values \(rows 1\).*mask="),
    "infinite": (with_values(r2=-INF), ValueError, r"1 infinite .*\(rows 2\)"),
    "both": (
        with_values(r0=NAN, r1=INF, r2=NAN, r3=NAN),
        ValueError,
        r"3 NaN and 1 infinite.*rows 0, 1, 2, \.\.\.",
    ),
    "beyond-float32": (ROWS * 1e300, ValueError, r"infinite \(in torch.float32\)"),
    "tensor-nan": (torch.tensor(with_values(r3=NAN)), ValueError, "rows 3"),
    "masked": (
        np.ma.masked_equal(ROWS, 5),
        ValueError,
        r"1 masked of 12.*x.filled\(0\) and mask=~x.mask",
    ),
    "list-of-masked": (list(np.ma.masked_equal(ROWS, 5)), ValueError, r"x\[1\] is a masked array"),
    "scalar": (3.0, ValueError, r"no data points: its shape is \(\)"),
    "no-rows": (np.zeros((0, 3)), ValueError, r"shape is \(0, 3\).*n >= 1"),
    "no-features": (torch.zeros(4, 0), ValueError, "no data points"),
    "empty-list": ([], ValueError, "no data points"),
    "empty-dataset": (TensorDataset(torch.zeros(0, 3)), ValueError, "no data points"),
    "empty-loader": (DataLoader(TensorDataset(torch.zeros(0, 3))), ValueError, "no data points"),
    "ragged": ([[1.0], [1.0, 2.0]], ValueError, "no rectangular array"),
    "ragged-tensors": (
        [torch.zeros(3), torch.zeros(2)],
        ValueError,
        r"row 1 has shape \(2,\), row 0 \(3,\)",
    ),
    "ragged-dataset": (Rows(lambda i: torch.zeros(i + 1)), ValueError, "row 1 has shape"),
    "ragged-batches": (
        DataLoader(Rows(lambda i: torch.zeros(i + 1)), batch_size=1),
        ValueError,
        r"each row of batch 1 has shape \(2,\)",
    ),
    "text": (np.array([["a"]]), TypeError, "dtype <U1, and real numbers"),
    "none": ([[1.0, None]], TypeError, "dtype object.*mask="),
    "complex": (ROWS * 1j, TypeError, "dtype complex128"),
    "complex-tensor": (TENSOR * 1j, TypeError, "complex numbers"),
    "sparse": (TENSOR.to_sparse(), TypeError, r"sparse tensor; pass x.to_dense\(\)"),
    "nothing": (None, TypeError, "x is a NoneType.*pass a tensor, an array"),
    "pair": ((TENSOR, TENSOR), TypeError, "x is a tuple.*the element that holds the data points"),
    "dictionary": (Rows(lambda i: {"x": TENSOR[i]}), TypeError, r"x\[0\] is a dict.*the element"),
    "xarray-dataset": (xr.Dataset({"a": ("n", [1.0])}), ValueError, "no rectangular array"),
    "stream": (Stream(), TypeError, "Dataset without a length; pass a DataLoader"),
    "unbatched": (DataLoader(PAIRS, batch_size=None), TypeError, "batch_size=None.*its dataset"),
    "uncollated-rows": (
        DataLoader(Rows(lambda i: TENSOR[i]), batch_size=2, collate_fn=list),
        ValueError,
        r"shape \(3,\).*collate_fn",
    ),
    "uncollated-images": (
        DataLoader(Rows(lambda i: TENSOR), batch_size=2, collate_fn=list),
        ValueError,
        "8 rows in all, for 4 data points.*collate_fn",
    ),
    "loader-of-lists": (
        DataLoader(Rows(lambda i: ROWS[i].tolist()), batch_size=2),
        ValueError,
        "return tensors",
    ),
    "summed-batches": (
        DataLoader(Rows(lambda i: TENSOR[i]), collate_fn=lambda rows: rows[0].sum()),
        ValueError,
        r"shape \(\)",
    ),
}


@pytest.mark.parametrize(("data", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_everything_else_is_refused_in_one_line(data, error, words):
    with pytest.raises(error, match=words) as caught:
        datasets.as_tensor(data)
    assert "\n" not in str(caught.value)


def test_messages_use_the_name_given():
    with pytest.raises(ValueError, match="^validation has 1 NaN"):
        datasets.as_tensor([[NAN]], "validation")


# ---------------------------------------------------------------- as_tensor: masks

MASKS = {
    "full": ~np.eye(4, 3, dtype=bool),
    "tensor": torch.tensor(~np.eye(4, 3, dtype=bool)),
    "list": (~np.eye(4, 3, dtype=bool)).tolist(),
    "read-only": np.broadcast_to(np.array([[False], [False], [False], [True]]), (4, 3)),
    "rows": np.array([False, False, False, True]),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masked_values_are_returned_as_they_are(mask):
    x = ROWS.copy()
    x[np.arange(3), np.arange(3)] = [NAN, INF, -INF]
    result = datasets.as_tensor(x, mask=mask)
    np.testing.assert_array_equal(result.numpy(), x)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (np.ones((4, 3), bool), ValueError, "1 NaN.*although mask says they were observed"),
        (np.ones((4, 3)), TypeError, "dtype torch.float64; pass booleans, True where observed"),
        (np.ones(3, bool), ValueError, r"mask of x has shape \(3,\).*\(4, 3\).*\(4,\)"),
        (np.ones((4, 3, 1), bool), ValueError, r"shape \(4, 3, 1\)"),
        (np.array(True), ValueError, r"shape \(\)"),
        ("yes", TypeError, "the mask of x is a str"),
    ],
    ids=["observed-nan", "float", "features", "deeper", "scalar", "text"],
)
def test_unfit_masks_are_refused(mask, error, words):
    with pytest.raises(error, match=words):
        datasets.as_tensor(with_values(r1=NAN), mask=mask)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "in-order"])
@pytest.mark.parametrize("batch_size", [1, 3, 10, 11], ids=str)
def test_batches_hold_every_row_once(batch_size, shuffle):
    x = torch.arange(20.0).reshape(10, 2)
    got = list(datasets.batches(x, batch_size, shuffle=shuffle, generator=generator()))
    assert [len(batch) for batch in got[:-1]] == [batch_size] * (len(got) - 1)
    assert len(got) == -(-10 // batch_size)
    assert rows_of(torch.cat(got)) == rows_of(x)
    assert torch.equal(torch.cat(got), x) != shuffle


def test_batches_of_indices_choose_the_same_rows():
    x = torch.arange(10.0)
    rows = list(datasets.batches(x, 4, generator=generator(3)))
    indices = list(datasets.batches(10, 4, generator=generator(3)))
    assert all(i.dtype == torch.int64 for i in indices)
    assert all(torch.equal(x[i], row) for i, row in zip(indices, rows, strict=True))


def test_the_order_follows_the_generator_and_changes_with_it():
    source_of_order = generator()
    epochs = [torch.cat(list(datasets.batches(50, 7, generator=source_of_order))) for _ in "ab"]
    again = torch.cat(list(datasets.batches(50, 7, generator=generator())))
    assert torch.equal(epochs[0], again)
    assert not torch.equal(*epochs)


def test_batches_without_generator_follow_the_global_seed():
    orders = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(9)
            orders.append(torch.cat(list(datasets.batches(50, 7))))
    assert torch.equal(*orders)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(0, 2), 3), "0 rows"),
        ((5, 0), "batch_size is 0; it must be a whole number, at least 1"),
        ((5, 2.0), "batch_size is 2.0"),
    ],
    ids=["no-rows", "zero", "float"],
)
def test_batches_refuse_nonsense_at_once(arguments, words):
    with pytest.raises(ValueError, match=words):
        datasets.batches(*arguments)
