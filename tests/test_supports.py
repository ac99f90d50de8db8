import math

import pytest
import torch
from pyro.distributions import constraints

from pyro_vae.supports import Space, inside, interior_point, legal_point, lies_within, space_of

SPACES = {
    "real": (constraints.real, Space("real"), "real line"),
    "real_vector": (constraints.real_vector, Space("real"), "real line"),
    "positive": (constraints.positive, Space("real", 0.0), "positive half-line"),
    "nonnegative": (constraints.nonnegative, Space("real", 0.0), "positive half-line"),
    "softplus": (constraints.softplus_positive, Space("real", 0.0), "positive half-line"),
    "unit_interval": (constraints.unit_interval, Space("real", 0.0, 1.0), "unit interval"),
    "interval": (constraints.interval(-1.0, 2.5), Space("real", -1.0, 2.5), "interval [-1, 2.5]"),
    "half_open": (constraints.half_open_interval(0, 2), Space("real", 0.0, 2.0), "[0, 2]"),
    "greater_than": (constraints.greater_than(2.0), Space("real", 2.0), "interval [2, inf]"),
    "less_than": (constraints.less_than(2.0), Space("real", -math.inf, 2.0), "[-inf, 2]"),
    "boolean": (constraints.boolean, Space("integer", 0.0, 1.0), "{0, 1}"),
    "counts": (constraints.nonnegative_integer, Space("integer", 0.0), "counts"),
    "classes": (constraints.integer_interval(0, 9), Space("integer", 0.0, 9.0), "integers in"),
    "simplex": (constraints.simplex, Space("simplex"), "simplex"),
    "sphere": (constraints.sphere, Space("sphere"), "sphere"),
    "one_hot": (constraints.one_hot, Space("one_hot"), "one-hot vectors"),
    "unknown": (constraints.lower_cholesky, Space("unknown"), "unknown"),
}


@pytest.mark.parametrize("case", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("event_dims", [0, 2])
def test_space_of_looks_through_event_dimensions(case, event_dims):
    constraint, space, name = case
    if event_dims:
        constraint = constraints.independent(constraint, event_dims)
    assert space_of(constraint) == space
    assert name in space.name


def test_every_constraint_in_one_table_of_bounds():
    tensor_bound = constraints.interval(torch.zeros(3), torch.ones(3))
    assert space_of(tensor_bound) == Space("real", 0.0, 1.0)
    uneven = constraints.interval(torch.zeros(2), torch.tensor([1.0, 2.0]))
    assert space_of(uneven).kind == "unknown"


@pytest.mark.parametrize(
    ("kind", "discrete"),
    [("integer", True), ("one_hot", True), ("real", False), ("simplex", False), ("sphere", False)],
)
def test_masses_and_densities(kind, discrete):
    assert Space(kind).is_discrete is discrete


WITHIN = [
    ("unit_interval", "positive", True),
    ("positive", "unit_interval", False),
    ("positive", "real", True),
    ("real", "positive", False),
    ("softplus", "positive", True),
    ("greater_than", "positive", True),
    ("interval", "unit_interval", False),
    ("unit_interval", "interval", True),
    ("simplex", "simplex", True),
    ("simplex", "real_vector", False),
    ("sphere", "real_vector", False),
    ("one_hot", "simplex", False),
    ("boolean", "counts", True),
    ("classes", "boolean", False),
    ("counts", "positive", False),
    ("unknown", "unknown", True),
    ("unknown", "real", None),
    ("real", "unknown", None),
]


@pytest.mark.parametrize(("inner", "outer", "expected"), WITHIN, ids=lambda v: str(v))
def test_lies_within(inner, outer, expected):
    assert lies_within(SPACES[inner][0], SPACES[outer][0]) is expected


@pytest.mark.parametrize("name", SPACES)
def test_lies_within_is_reflexive(name):
    constraint = SPACES[name][0]
    assert lies_within(constraint, constraint) is True


def test_lies_within_is_transitive():
    known = [c for c, space, _ in SPACES.values() if space.kind != "unknown"]
    chains = [
        (a, b, c)
        for a in known
        for b in known
        for c in known
        if lies_within(a, b) and lies_within(b, c)
    ]
    assert len(chains) > len(known)
    assert all(lies_within(a, c) for a, _, c in chains)


NUMBERS = [n for n, (_, space, _) in SPACES.items() if space.kind in ("real", "integer")]


@pytest.mark.parametrize("name", NUMBERS)
def test_interior_point_is_legal_and_legal_point_agrees(name):
    constraint = SPACES[name][0]
    point = torch.full((3,), interior_point(constraint))
    assert inside(constraint, point)
    assert legal_point(constraint, torch.zeros(7, 3)).item() == point[0]


def test_interior_point_of_integers_bounded_above_alone():
    below = constraints.integer_interval(-math.inf, 3)
    assert interior_point(below) == 3.0


@pytest.mark.parametrize("name", ["simplex", "sphere", "one_hot", "unknown"])
def test_no_single_number_lies_in_a_space_of_vectors(name):
    with pytest.raises(ValueError, match=r"no single number.*mask whole data points instead"):
        interior_point(SPACES[name][0])


@pytest.mark.parametrize("name", ["simplex", "sphere", "one_hot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_legal_point_of_vectors(name, dtype):
    constraint = SPACES[name][0]
    point = legal_point(constraint, torch.zeros(7, 4, dtype=dtype))
    assert point.shape == (4,)
    assert point.dtype == dtype
    assert inside(constraint, point)


def test_legal_point_of_an_unknown_space_is_zero():
    assert legal_point(constraints.lower_cholesky, torch.ones(2, 3, 3)).item() == 0.0


def test_inside_needs_every_element():
    assert inside(constraints.positive, torch.tensor([1.0, 2.0]))
    assert not inside(constraints.positive, torch.tensor([1.0, -2.0]))
