"""An audit of every KL that is reachable from here: ours, and torch's and Pyro's own.

All pairs of specimens (`pyro_vae.kl.specimens`) that live on a common measure are asked for their
KL and its gradient with respect to every parameter of both sides, in both precisions, and the
answers are held against an oracle that knows no forms (`pyro_vae.kl.oracle`). torch and Pyro are
asked for the same pairs, without what this package has given them.
"""

from __future__ import annotations

__all__ = [
    "EXCEPTIONS",
    "LIMITS",
    "Answer",
    "Limits",
    "Pair",
    "audit",
    "counts",
    "judge",
    "limits_of",
    "pairs",
    "told",
    "torch_form",
    "wrong",
]

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.distributions.kl import _dispatch_kl
from tqdm.auto import tqdm

from pyro_vae.kl import table
from pyro_vae.kl.divergence import divergence
from pyro_vae.kl.oracle import truth
from pyro_vae.kl.route import Route, route
from pyro_vae.kl.specimens import Specimen, build, specimens

# a gradient whose largest element is below this is judged by its absolute error
SMALL = 1e-4

# what nobody could check is not to be believed of this package, nor held against others
_BAD = {"": ("wrong", "unchecked"), "torch_": ("wrong",)}
_TEXTS = ("verdict", "note")
_NUMBERS = ("value", "truth", "relative_error", "gradient_error")


class Limits(NamedTuple):
    """How far an answer may be off: by value |KL| + size (1 + |H(q)| + |CE(q, p)|).

    Arguments:
        value: Relative to the KL.
        size: Relative to the terms that it is the difference of.
        gradient: Relative to the largest element of the gradient in a setting.
    """

    value: float
    size: float
    gradient: float


DTYPES = (torch.float64, torch.float32)

LIMITS = {
    "closed": Limits(1e-9, 1e-14, 1e-9),
    "quadrature": Limits(1e-7, 1e-12, 1e-6),
    "float32": Limits(1e-4, 1e-12, 1e-4),
    "theirs": Limits(1e-7, 1e-12, 1e-6),
}
"""By route in float64, for all in float32, and for torch and Pyro in float64."""

EXCEPTIONS = {
    "RelaxedOneHotCategorical": (
        Limits(1e-7, 1e-12, 1e-6),
        "the oracle is a grid of two variables",
    ),
    "ExpRelaxedCategorical": (Limits(1e-7, 1e-12, 1e-6), "the oracle is a grid of two variables"),
    "Wishart": (Limits(1e-7, 1e-12, 1e-6), "the oracle is a grid of three variables"),
}
"""Guides whose closed forms are held to less in float64, and why."""


class Pair(NamedTuple):
    """A guide and a prior.

    Arguments:
        q: The guide's specimen.
        p: The prior's specimen, whose settings are shifted by one.
    """

    q: Specimen
    p: Specimen

    @property
    def name(self) -> str:
        """Both names, "q || p"."""
        return f"{self.q.name} || {self.p.name}"

    def built(self, dtype: torch.dtype = torch.float64) -> tuple[Any, Any, list[Tensor]]:
        """The two distributions, of batch shape (4,), and the parameters of both."""
        (q, left), (p, right) = build(self.q, dtype), build(self.p, dtype, shift=1)
        return q, p, left + right


class Answer(NamedTuple):
    """What someone says of a pair.

    Arguments:
        verdict: "right", "wrong", "refused", "infinite" (rightly, in all settings), "unchecked"
            (the oracle failed), or "none" (there is no form).
        value: In the setting that is worst.
        truth: In that setting.
        relative_error: The largest of all settings.
        gradient_error: The largest of all settings and parameters.
        note: What is wrong, or why it is refused, for people.
    """

    verdict: str
    value: float = np.nan
    truth: float = np.nan
    relative_error: float = np.nan
    gradient_error: float = np.nan
    note: str = ""


class _Truth(NamedTuple):
    value: Tensor
    error: Tensor
    size: Tensor
    gradients: list[Tensor]


def pairs() -> list[Pair]:
    """Return all pairs of specimens that meet on a common measure.

    Example:
        >>> found = [pair.name for pair in pairs()]
        >>> "Normal || Laplace" in found, "Poisson || Normal" in found
        (True, False)
    """
    shelf = specimens()
    return [Pair(q, p) for q in shelf for p in shelf if q.group == p.group and _meet(q, p)]


def audit(
    *,
    pairs: Iterable[Pair] | None = None,
    progress: bool = True,
    seed: int = 0,
    sample: int | None = None,
) -> xr.Dataset:
    """Hold every KL and its gradient against an independent oracle.

    Arguments:
        pairs: Which; all by default, see `pyro_vae.kl.audit.pairs`.
        progress: Show a progress bar on stderr.
        seed: Of the choice under `sample`.
        sample: How many pairs to choose at random; all by default.

    Returns:
        A dataset with the dims `pair` and `dtype`; in nats. `value`, `truth` (of the worst setting
        of the parameters), `relative_error`, `gradient_error`, `verdict` and `note` are those of
        this package; the same names with `torch_` before them are torch's and Pyro's own. By
        pair: `guide`, `prior`, `space` (of the guide), `route`, `source` and `torch_source`.

    Raises:
        ValueError: If `sample` is less than 1.

    Example:
        >>> normals = [pair for pair in all_pairs() if pair.name == "Normal || Normal"]
        >>> found = audit(pairs=normals, progress=False)
        >>> found.verdict.values.tolist()
        [['right', 'right']]
    """
    chosen = list(all_pairs() if pairs is None else pairs)
    if sample is not None:
        if sample < 1:
            raise ValueError(f"sample={sample}: at least one pair has to be looked at.")
        order = np.random.default_rng(seed).permutation(len(chosen))[:sample]
        chosen = [chosen[i] for i in sorted(order)]
    bar = tqdm(chosen, disable=not progress, desc="pairs", file=sys.stderr)
    return _dataset([_row(pair) for pair in bar], seed)


all_pairs = pairs


@cache
def _meet(q: Specimen, p: Specimen) -> bool:
    """Whether both are masses, or both densities with respect to one measure."""
    left, right = build(q)[0], build(p, shift=1)[0]
    if left.event_shape != right.event_shape:
        return False
    if left.support.is_discrete != right.support.is_discrete:
        return False
    return told(left, right).kind != "undefined"


def told(q: Any, p: Any) -> Route:
    """Return the route of a pair from its types, of kind "failed" if that raises.

    Arguments:
        q: A distribution.
        p: Another.

    Returns:
        The route.

    Example:
        >>> import torch.distributions as td
        >>> told(td.Normal(0.0, 1.0), td.Normal(0.0, 1.0)).kind
        'closed'
    """
    try:
        return route(q, p, with_error=False)
    except Exception as error:  # a defect, which the audit has to tell rather than to share
        what = f"raises {type(error).__name__}: {error}"
        return Route("failed", what, torch.ones(q.batch_shape).bool(), None, "pyro_vae")


# ------------------------------------------------------------------------------------ one pair
def _row(pair: Pair) -> dict[str, Any]:
    q, p, _ = pair.built()
    way = told(q, p)
    form = torch_form(q, p)
    row: dict[str, Any] = {
        "pair": pair.name,
        "guide": pair.q.name,
        "prior": pair.p.name,
        "space": pair.q.space,
        "route": way.kind,
        "source": way.source,
        "torch_source": "none" if form is None else table.package_of(form),
    }
    known = _known(pair)
    for dtype in DTYPES:
        ours = judge(pair, divergence, dtype, known, limits_of(pair, dtype, way.kind))
        torchs = Answer("none")
        if form is not None:
            torchs = judge(pair, form, dtype, known, limits_of(pair, dtype, "theirs"))
        row[str(dtype)] = {
            **ours._asdict(),
            **{f"torch_{name}": value for name, value in torchs._asdict().items()},
        }
    return row


def torch_form(q: Any, p: Any) -> Callable[..., Tensor] | None:
    """Return what torch or Pyro would answer with, None where they have nothing of their own.

    Arguments:
        q: A distribution.
        p: Another.

    Returns:
        The form that torch dispatches to, without those given from here.

    Example:
        >>> import torch.distributions as td
        >>> torch_form(td.StudentT(3.0), td.Normal(0.0, 1.0)) is None
        True
    """
    form = _dispatch_kl(type(q), type(p))
    return None if form is NotImplemented or table.package_of(form) == "pyro_vae" else form


@cache
def _known(pair: Pair) -> _Truth:
    """The oracle's value and gradients."""
    q, p, leaves = pair.built()
    value, error, size = truth(q, p)
    return _Truth(value.detach(), error, size, _gradients(value, leaves, value.isfinite()))


def _gradients(value: Tensor, leaves: Sequence[Tensor], used: Tensor) -> list[Tensor]:
    """The gradient of each setting, flattened to (settings, elements), 0 where there is none."""
    total = torch.where(used, value, 0.0).sum()
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if total.requires_grad and leaves:
        found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [
        (torch.zeros_like(leaf) if g is None else g).detach().double().reshape(len(leaf), -1)
        for leaf, g in zip(leaves, found, strict=True)
    ]


def judge(
    pair: Pair,
    compute: Callable[[Any, Any], Tensor],
    dtype: torch.dtype = torch.float64,
    known: _Truth | None = None,
    limits: Limits | None = None,
) -> Answer:
    """Hold a function that computes KL(q || p) against the oracle.

    Arguments:
        pair: The pair.
        compute: A function of (q, p), which may raise NotImplementedError.
        dtype: The precision of the parameters.
        known: What the oracle says, if it was asked before.
        limits: How far it may be off; those of the pair's own route by default.

    Returns:
        The verdict.

    Example:
        >>> import torch.distributions as td
        >>> [normals] = [pair for pair in pairs() if pair.name == "Normal || Normal"]
        >>> judge(normals, lambda q, p: 1.01 * td.kl_divergence(q, p)).verdict
        'wrong'
    """
    known = _known(pair) if known is None else known
    limits = limits_of(pair, dtype) if limits is None else limits
    finite = known.value.isfinite()
    q, p, leaves = pair.built(dtype)
    try:
        value = compute(q, p).expand(len(known.value))
        gradients = _gradients(value, leaves, finite) if pair.q.differentiable else []
    except NotImplementedError as error:
        return Answer("refused", note=" ".join(str(error).split()))
    except Exception as error:  # somebody else's form may raise anything, which is its verdict
        return Answer("wrong", note=f"raises {type(error).__name__}: {str(error).splitlines()[0]}")
    unsure = (known.error > 1e-8 * known.value.abs().clamp(min=1)) & finite
    if bool(unsure.any()):
        worst = known.error[unsure].max().item()
        return Answer("unchecked", note=f"the oracle errs by {worst:.1g}")
    return _compared(value.detach().double(), gradients, known, limits)


@cache
def limits_of(pair: Pair, dtype: torch.dtype, kind: str = "") -> Limits:
    """Return how far an answer to a pair may be off.

    Arguments:
        pair: The pair.
        dtype: The precision of the parameters.
        kind: A route, or "theirs"; the pair's own by default.

    Returns:
        The limits.

    Example:
        >>> [normals] = [pair for pair in pairs() if pair.name == "Normal || Normal"]
        >>> limits_of(normals, torch.float64).value
        1e-09
    """
    if dtype is not torch.float64:
        return LIMITS["float32"]
    kind = kind or told(*pair.built()[:2]).kind
    for name, (limits, _) in EXCEPTIONS.items():
        if pair.q.name.startswith(name):
            return limits
    return LIMITS.get(kind, LIMITS["closed"])


def _compared(value: Tensor, gradients: list[Tensor], known: _Truth, limits: Limits) -> Answer:
    finite, size = known.value.isfinite(), known.value.abs()
    gap = (value - known.value).abs()
    gap = torch.where(finite, gap, torch.where(value == torch.inf, 0.0, torch.inf))
    gap = gap.nan_to_num(torch.inf, torch.inf)
    size = torch.where(finite, size, 1.0)
    # the oracle's error is not to be held against anybody
    allowed = limits.value * size + limits.size * known.size + known.error
    excess, relative = gap / allowed.clamp(min=1e-300), gap / size.clamp(min=SMALL)
    slope = torch.zeros_like(gap)
    if gradients:
        there = torch.cat(known.gradients, 1)
        largest = there.abs().amax(1).clamp(min=SMALL)
        steps = (torch.cat(gradients, 1) - there).abs().amax(1) / largest
        slope = torch.where(finite, steps, 0.0).nan_to_num(torch.inf, torch.inf)
    # the worse of value and gradient, each in units of what is allowed
    worst = int(torch.maximum(excess, slope / limits.gradient).argmax())
    off = [bool((excess > 1).any()), bool((slope > limits.gradient).any())]
    note = _note(value[worst].item(), known.value[worst].item(), slope[worst].item(), off)
    right = "right" if bool(finite.any()) else "infinite"
    return Answer(
        "wrong" if any(off) else right,
        value[worst].item(),
        known.value[worst].item(),
        relative.max().item(),
        slope.max().item(),
        note,
    )


def _note(value: float, there: float, slope: float, off: list[bool]) -> str:
    if off[0]:
        return f"{value:.12g} in place of {there:.12g}"
    if off[1]:
        return f"the gradient is off by {slope:.2g} of its largest element"
    return ""


# ------------------------------------------------------------------------------------ results
def _dataset(rows: list[dict[str, Any]], seed: int) -> xr.Dataset:
    dtypes = [str(dtype) for dtype in DTYPES]
    by_pair = ("guide", "prior", "space", "route", "source", "torch_source")
    data: dict[str, Any] = {n: ("pair", _texts([r[n] for r in rows])) for n in by_pair}
    for prefix in ("", "torch_"):
        for name in (*_NUMBERS, *_TEXTS):
            values = [[row[dtype][prefix + name] for dtype in dtypes] for row in rows]
            array = _texts(values) if name in _TEXTS else np.array(values, dtype=float)
            data[prefix + name] = (("pair", "dtype"), array.reshape(len(rows), len(dtypes)))
    coords = {"pair": _texts([r["pair"] for r in rows]), "dtype": _texts(dtypes)}
    attrs = {"units": "nats", "seed": seed, "torch": str(torch.__version__)}
    return xr.Dataset(data, coords, attrs)


def _texts(values: Any) -> np.ndarray:
    return np.array(values, dtype=object if not len(values) else str)


def counts(dataset: xr.Dataset) -> dict[str, dict[str, int]]:
    """Count the pairs of an audit by the space of the guide and by route.

    Arguments:
        dataset: The result of `audit`.

    Returns:
        From space to a count by route, "all" among the spaces.

    Example:
        >>> normals = [pair for pair in pairs() if pair.name == "Normal || Normal"]
        >>> counts(audit(pairs=normals, progress=False))
        {'real line': {'closed': 1}, 'all': {'closed': 1}}
    """
    found: dict[str, Counter[str]] = {}
    for space, kind in zip(dataset["space"].values, dataset["route"].values, strict=True):
        for name in (str(space), "all"):
            found.setdefault(name, Counter())[str(kind)] += 1
    total = found.pop("all", Counter())
    return {name: dict(count) for name, count in {**found, "all": total}.items()}


def wrong(dataset: xr.Dataset, whose: str = "") -> list[str]:
    """Name what is wrong in an audit, one line for each pair.

    Arguments:
        dataset: The result of `audit`.
        whose: "" for this package, "torch_" for torch and Pyro.

    Returns:
        Lines for people; none if all is right.

    Example:
        >>> normals = [pair for pair in pairs() if pair.name == "Normal || Normal"]
        >>> wrong(audit(pairs=normals, progress=False))
        []
    """
    lines = []
    for name in dataset["pair"].values:
        row = dataset.sel(pair=name)
        for dtype in row["dtype"].values:
            one = row.sel(dtype=dtype)
            if one[f"{whose}verdict"].item() in _BAD[whose]:
                source = row[f"{whose}source"].item()
                kind = str(dtype).removeprefix("torch.")
                note = one[f"{whose}note"].item()
                lines.append(f"{name} ({source}, {kind}): {note}")
                break
    return lines
