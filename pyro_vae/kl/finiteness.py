"""When a KL is defined, and when it is finite: supports first, tails second.

KL(q || p) is undefined if q and p are densities with respect to different measures, and +inf if
q puts mass where p has none. Otherwise it is finite iff -log p does not grow too fast for the
tails of q. Both are compared at each end of the support in the coordinate y that makes the
support a line (x, log x or logit x):

* a tail of q falls `super`-exponentially, like exp(-rate |y|) (`exp`), or like |y|^-(rate + 1)
  (`power`); `none` where q does not reach that end;
* -log p grows not at all (`none`), like `log` |y|, `linear`, `quadratic`, or like
  exp(rate |y|) (`exp`).

Super-exponential tails carry any of these growths, exponential ones all but exp(k |y|) with
k >= rate, power tails all moments of order below their rate. The only exception is a growth that
outruns even a super-exponential tail, which no pair here has: Gumbel's left tail is
exp(-exp |y| / scale), and every growth in the table is at most exp(rate |y|).

A guide on a smaller space meets a prior of a larger one in the guide's coordinate: as a function
of y = log x a Normal grows like exp(2 y) on the right and not at all on the left.
"""

from __future__ import annotations

__all__ = ["Finiteness", "Growth", "Tail", "finiteness"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_vae.distributions import LogitNormal
from pyro_vae.kl.enumeration import enumerable, impossible
from pyro_vae.kl.table import canonical
from pyro_vae.supports import Space, space_of


class Finiteness(NamedTuple):
    """Whether KL(q || p) is defined, and in which elements it is finite.

    Arguments:
        defined: False if the two are densities with respect to different measures.
        finite: True or False for all elements, or a BoolTensor that broadcasts to the batch shape.
        decided: Whether a rule has decided; False if no rule knows the pair and `finite` is
            merely not known to be False.
        explain: Returns the reason as a sentence, "" if there is nothing to explain.
    """

    defined: bool
    finite: bool | Tensor
    decided: bool
    explain: Callable[[], str]


class Tail(NamedTuple):
    """How q falls towards one end: kind, rate, and the parameter which is that rate."""

    kind: str
    rate: Tensor | float = math.inf
    parameter: str = ""


class Growth(NamedTuple):
    """How -log p grows towards one end: kind, and the rate of an exponential."""

    kind: str
    rate: Tensor | float = 0.0


Ends = tuple[Any, Any]

_SUPER = Tail("super")


def _both(tail: Tail) -> tuple[Tail, Tail]:
    return tail, tail


# space of the coordinate, and the (left, right) tails of q in it
_TAILS: dict[type, tuple[str, Callable[[Any], tuple[Tail, Tail]]]] = {
    td.Normal: ("line", lambda q: _both(_SUPER)),
    td.StudentT: ("line", lambda q: _both(Tail("power", q.df, "df"))),
    td.Cauchy: ("line", lambda q: _both(Tail("power", 1.0))),
    td.Laplace: ("line", lambda q: _both(Tail("exp", 1 / q.scale, "scale"))),
    dist.Logistic: ("line", lambda q: _both(Tail("exp", 1 / q.scale, "scale"))),
    td.Gumbel: ("line", lambda q: (_SUPER, Tail("exp", 1 / q.scale, "scale"))),
    dist.SoftLaplace: ("line", lambda q: _both(Tail("exp", 1 / q.scale, "scale"))),
    dist.AsymmetricLaplace: (
        "line",
        lambda q: (
            Tail("exp", 1 / q.left_scale, "left_scale"),
            Tail("exp", 1 / q.right_scale, "right_scale"),
        ),
    ),
    dist.SkewLogistic: (
        "line",
        lambda q: (
            Tail("exp", q.asymmetry / q.scale, "scale"),
            Tail("exp", 1 / q.scale, "scale"),
        ),
    ),
    td.MultivariateNormal: ("line", lambda q: _both(_SUPER)),
    td.LowRankMultivariateNormal: ("line", lambda q: _both(_SUPER)),
    dist.MultivariateStudentT: ("line", lambda q: _both(Tail("power", q.df, "df"))),
    td.LogNormal: ("half-line", lambda q: _both(_SUPER)),
    td.Gamma: ("half-line", lambda q: (Tail("exp", q.concentration, "concentration"), _SUPER)),
    td.Chi2: ("half-line", lambda q: (Tail("exp", q.df / 2, "df"), _SUPER)),
    td.Exponential: ("half-line", lambda q: (Tail("exp", 1.0), _SUPER)),
    td.InverseGamma: (
        "half-line",
        lambda q: (_SUPER, Tail("exp", q.concentration, "concentration")),
    ),
    td.Weibull: ("half-line", lambda q: (Tail("exp", q.concentration, "concentration"), _SUPER)),
    td.HalfNormal: ("half-line", lambda q: (Tail("exp", 1.0), _SUPER)),
    td.HalfCauchy: ("half-line", lambda q: _both(Tail("exp", 1.0))),
    td.FisherSnedecor: (
        "half-line",
        lambda q: (Tail("exp", q.df1 / 2, "df1"), Tail("exp", q.df2 / 2, "df2")),
    ),
    td.Pareto: ("half-line", lambda q: (Tail("none"), Tail("exp", q.alpha, "alpha"))),
    LogitNormal: ("interval", lambda q: _both(_SUPER)),
    td.Beta: (
        "interval",
        lambda q: (
            Tail("exp", q.concentration1, "concentration1"),
            Tail("exp", q.concentration0, "concentration0"),
        ),
    ),
    td.Kumaraswamy: (
        "interval",
        lambda q: (
            Tail("exp", q.concentration1, "concentration1"),
            Tail("exp", q.concentration0, "concentration0"),
        ),
    ),
    td.ContinuousBernoulli: ("interval", lambda q: _both(Tail("exp", 1.0))),
    td.RelaxedBernoulli: (
        "interval",
        lambda q: _both(Tail("exp", q.temperature, "temperature")),
    ),
}

_NONE, _LOG, _LINEAR = Growth("none"), Growth("log"), Growth("linear")
_QUADRATIC = Growth("quadratic")

# space of the coordinate, and the (left, right) growths of -log p in it
_GROWTHS: dict[type, tuple[str, Callable[[Any], tuple[Growth, Growth]]]] = {
    td.Normal: ("line", lambda p: (_QUADRATIC, _QUADRATIC)),
    td.StudentT: ("line", lambda p: (_LOG, _LOG)),
    td.Cauchy: ("line", lambda p: (_LOG, _LOG)),
    td.Laplace: ("line", lambda p: (_LINEAR, _LINEAR)),
    dist.Logistic: ("line", lambda p: (_LINEAR, _LINEAR)),
    dist.SoftLaplace: ("line", lambda p: (_LINEAR, _LINEAR)),
    dist.AsymmetricLaplace: ("line", lambda p: (_LINEAR, _LINEAR)),
    dist.SkewLogistic: ("line", lambda p: (_LINEAR, _LINEAR)),
    td.Gumbel: ("line", lambda p: (Growth("exp", 1 / p.scale), _LINEAR)),
    td.MultivariateNormal: ("line", lambda p: (_QUADRATIC, _QUADRATIC)),
    td.LowRankMultivariateNormal: ("line", lambda p: (_QUADRATIC, _QUADRATIC)),
    dist.MultivariateStudentT: ("line", lambda p: (_LOG, _LOG)),
    td.LogNormal: ("half-line", lambda p: (_QUADRATIC, _QUADRATIC)),
    td.Gamma: ("half-line", lambda p: (_LINEAR, Growth("exp", 1.0))),
    td.Chi2: ("half-line", lambda p: (_LINEAR, Growth("exp", 1.0))),
    td.Exponential: ("half-line", lambda p: (_NONE, Growth("exp", 1.0))),
    td.InverseGamma: ("half-line", lambda p: (Growth("exp", 1.0), _LINEAR)),
    td.Weibull: ("half-line", lambda p: (_LINEAR, Growth("exp", p.concentration))),
    td.HalfNormal: ("half-line", lambda p: (_NONE, Growth("exp", 2.0))),
    td.HalfCauchy: ("half-line", lambda p: (_NONE, _LINEAR)),
    td.FisherSnedecor: ("half-line", lambda p: (_LINEAR, _LINEAR)),
    td.Pareto: ("half-line", lambda p: (_NONE, _LINEAR)),
    LogitNormal: ("interval", lambda p: (_QUADRATIC, _QUADRATIC)),
    td.Beta: ("interval", lambda p: (_LINEAR, _LINEAR)),
    td.Kumaraswamy: ("interval", lambda p: (_LINEAR, _LINEAR)),
    td.ContinuousBernoulli: ("interval", lambda p: (_NONE, _NONE)),
    td.RelaxedBernoulli: ("interval", lambda p: (_LINEAR, _LINEAR)),
}

# the growth in log x of a prior on the line that grows so in x, at its right end
_IN_LOG = {
    "none": _NONE,
    "log": _LINEAR,
    "linear": Growth("exp", 1.0),
    "quadratic": Growth("exp", 2.0),
}

_ORDER = {"none": 0.0, "log": 0.0, "linear": 1.0, "quadratic": 2.0}


def finiteness(q: Distribution, p: Distribution) -> Finiteness:
    """Decide from supports and tails whether KL(q || p) is defined and finite.

    Arguments:
        q: The guide, without wrappers.
        p: The prior, without wrappers, of the same event shape.

    Returns:
        The decision, elementwise where it depends on parameters.

    Example:
        >>> q = td.StudentT(torch.tensor([1.5, 3.0]), 0.0, 1.0)
        >>> finiteness(q, td.Normal(0.0, 1.0)).finite
        tensor([False,  True])
        >>> finiteness(q, td.Normal(0.0, 1.0)).explain()
        'StudentT with df = 1.5 has no variance, and -log p of Normal grows quadratically'
    """
    inner, outer = _space(q), _space(p)
    if "unknown" not in (inner.kind, outer.kind) and inner.kind != outer.kind:
        return Finiteness(
            False,
            False,
            True,
            lambda: (
                f"{_name(q)} lives on {_describe(inner)} and {_name(p)} on {_describe(outer)}, "
                "and densities with respect to different measures have no KL divergence"
            ),
        )
    contained = _contained(q, p, inner, outer)
    if contained is False:
        return Finiteness(True, False, True, lambda: _outside(q, p, inner, outer))
    if not _known(q, p) and enumerable(q, p):
        return _nowhere(q, p, ~impossible(q, p))
    tails = _atoms(q, p) if inner.is_discrete else _tails(q, p)
    if isinstance(contained, Tensor):
        within = contained

        def explain() -> str:
            return _outside(q, p, inner, outer) if not bool(within.all()) else tails.explain()

        return Finiteness(True, within & tails.finite, tails.decided, explain)
    if contained is None:
        return Finiteness(
            True,
            tails.finite,
            False,
            lambda: f"the supports of {_name(q)} and {_name(p)} could not be compared",
        )
    return tails


# ------------------------------------------------------------------------------------- supports
# where the support that a class states is larger than where it lives
_SPACES: dict[type, Space] = {
    td.VonMises: Space("real", -math.pi, math.pi),
    ExpRelaxedCategorical: Space("log-simplex"),
}


def _space(d: Distribution) -> Space:
    """The support as a space whose bounds are tensors where they are parameters."""
    named = _SPACES.get(canonical(type(d)))
    if named is not None:
        return named
    try:
        support: Any = d.support
    except NotImplementedError:
        return Space("unknown")
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None and high is None:
        return space_of(support)
    return Space(
        "integer" if support.is_discrete else "real",
        -math.inf if low is None else low,
        math.inf if high is None else high,
    )


def _contained(q: Distribution, p: Distribution, inner: Space, outer: Space) -> Any:
    """Whether the support of q lies within that of p: a bool, a BoolTensor, None if unknown."""
    if "unknown" in (inner.kind, outer.kind):
        return True if canonical(type(q)) is canonical(type(p)) else None
    below, above = inner.lower >= outer.lower, inner.upper <= outer.upper
    if isinstance(below, bool) and isinstance(above, bool):
        return below and above
    return torch.as_tensor(below) & torch.as_tensor(above)


def _outside(q: Distribution, p: Distribution, inner: Space, outer: Space) -> str:
    return (
        f"{_name(q)} puts mass on {_describe(inner)}, of which {_name(p)} has only "
        f"{_describe(outer)}"
    )


def _describe(space: Space) -> str:
    if isinstance(space.lower, Tensor) or isinstance(space.upper, Tensor):
        return "an interval set by its parameters"
    return f"the {space.name}" if not space.name.startswith(("{", "[")) else space.name


def _name(d: Distribution) -> str:
    return type(d).__name__


# ------------------------------------------------------------------------------- discrete masses
# classes whose masses can be 0 by their parameters
_CATEGORIES = (
    td.Categorical,
    td.OneHotCategorical,
    td.OneHotCategoricalStraightThrough,
    td.Multinomial,
)
_COUNTS = (td.Bernoulli, td.Binomial, td.Geometric, td.NegativeBinomial, td.Poisson)


def _known(*pair: Any) -> bool:
    """Whether both are of categories, or both are counts, with a form of their own."""
    classes = [canonical(type(d)) for d in pair]
    return any(all(c in block for c in classes) for block in (_CATEGORIES, _COUNTS))


def _atoms(q: Any, p: Any) -> Finiteness:
    """The decision for masses: p may not be 0 where q is not."""
    if all(isinstance(d, td.Multinomial) for d in (q, p)) and q.total_count != p.total_count:
        return _nowhere(q, p, False)
    if not _known(q, p):
        return Finiteness(True, True, False, lambda: "")
    inner, outer = _masses(q), _masses(p)
    if outer is None:
        return Finiteness(True, True, True, lambda: "")
    never = outer == 0
    if inner is not None:
        common = min(inner.shape[-1], outer.shape[-1])
        never = never[..., :common] & (inner[..., :common] > 0)
    finite = ~never.any(-1)
    if isinstance(q, td.Binomial) and isinstance(p, td.Binomial):
        # a prior of sure successes takes its own count alone
        finite = finite & ((outer[..., 0] > 0) | (q.total_count == p.total_count))
    return _nowhere(q, p, finite)


def _nowhere(q: Any, p: Any, finite: bool | Tensor) -> Finiteness:
    def explain() -> str:
        if bool(torch.as_tensor(finite).all()):
            return ""
        return f"{_name(p)} gives probability 0 to what {_name(q)} may take"

    return Finiteness(True, finite, True, explain)


def _masses(d: Any) -> Tensor | None:
    """Positive numbers for what has mass: the categories, or 0 and more than 0; None for all."""
    if isinstance(d, td.Poisson):
        return torch.stack([torch.ones_like(d.rate), d.rate], -1)
    d = getattr(d, "_categorical", d)
    primary = vars(d).get("_param", vars(d).get("probs" if "logits" not in vars(d) else "logits"))
    if primary is not vars(d).get("probs"):
        # a finite logit is never a probability of 0 or 1
        return (primary > -math.inf).double() if isinstance(d, td.Categorical) else None
    if isinstance(d, td.Categorical):
        return primary
    pair = (primary, 1 - primary) if isinstance(d, td.Geometric) else (1 - primary, primary)
    return torch.stack(pair, -1)


# ---------------------------------------------------------------------------------------- tails
def _tails(q: Distribution, p: Distribution) -> Finiteness:
    """The decision by tails, given that the support of q lies within that of p."""
    tails, growths = _TAILS.get(canonical(type(q))), _GROWTHS.get(canonical(type(p)))
    if tails is None or growths is None:
        return Finiteness(True, True, False, lambda: "")
    ends = list(zip(tails[1](q), _seen_from(tails[0], growths, p), strict=True))
    finite: bool | Tensor = True
    for tail, growth in ends:
        finite = finite & _carries(tail, growth)

    def explain() -> str:
        for tail, growth in ends:
            carried = torch.as_tensor(_carries(tail, growth))
            if not bool(carried.all()):
                return _reason(q, p, tail, growth, carried)
        return ""

    return Finiteness(True, finite, True, explain)


def _seen_from(space: str, growths: tuple[str, Callable[[Any], Ends]], p: Any) -> Ends:
    """The growths of -log p in the coordinate of the guide's space."""
    own, (left, right) = growths[0], growths[1](p)
    if own == space:
        return left, right
    # on a smaller space than its own, p is smooth and positive at each end that it goes beyond
    if own == "line" and space == "half-line":
        return _NONE, _IN_LOG[right.kind]
    if own == "half-line" and space == "interval":
        return left, _NONE
    return _NONE, _NONE


def _carries(tail: Tail, growth: Growth) -> bool | Tensor:
    """Whether E_q of such a growth is finite under such a tail."""
    if tail.kind in ("super", "none") or growth.kind in ("none", "log"):
        return True
    if growth.kind == "exp":
        return growth.rate < tail.rate if tail.kind == "exp" else False
    return tail.rate > _ORDER[growth.kind] if tail.kind == "power" else True


def _reason(q: Any, p: Any, tail: Tail, growth: Growth, carried: Tensor) -> str:
    subject = _name(q)
    if tail.parameter:
        worst = torch.as_tensor(getattr(q, tail.parameter)).detach()
        first = torch.broadcast_tensors(worst, carried)
        subject += f" with {tail.parameter} = {first[0][~first[1]][0].item():g}"
    if tail.kind == "power" and growth.kind in ("linear", "quadratic"):
        moment = "mean" if growth.kind == "linear" else "variance"
        return (
            f"{subject} has no {moment}, and -log p of {_name(p)} grows "
            f"{'linearly' if growth.kind == 'linear' else 'quadratically'}"
        )
    return f"{subject} has tails too heavy for the growth of -log p of {_name(p)}"
