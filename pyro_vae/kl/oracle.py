"""KL straight from its definition, by sums and plain quadrature: the truth that forms must meet.

Nothing here knows a closed form, nor the quadrature of `pyro_vae.kl.quadrature`: the densities of
both sides are evaluated at nodes, and q (log q - log p) is summed over them, in double precision.

* Masses are summed over all values that q takes but for a negligible rest.
* Densities of one variable are integrated by Gauss-Legendre panels in v, where c + s sinh(v) is
  the unconstrained coordinate of q's support, panels ending at kinks of either density.
* Densities of a few variables: the trapezoidal rule in all such v, over a grid.
* Angles: the trapezoidal rule over the circle, its nodes crowded where p bends.
* The sphere in three dimensions: the trapezoidal rule over two angles.

Nodes are fixed, so that the gradient of the sum is the quadrature of the derivative. A second rule
with fewer nodes tells the error (the trapezoidal rule with half as many has its square root). What
is slow here is slow on purpose: the rule is simple, and has thousands of nodes where 100 would do.
"""

from __future__ import annotations

__all__ = ["Truth", "truth"]

import itertools
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
import torch.distributions as td
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_vae.distributions import WrappedNormal
from pyro_vae.distributions.circular import wrapped
from pyro_vae.kl.oracle_sphere import sphere_grid
from pyro_vae.kl.parameters import unvalidated
from pyro_vae.kl.table import canonical
from pyro_vae.supports import space_of

_F64 = torch.float64


class Truth(NamedTuple):
    """What the KL is.

    Arguments:
        value: In nats, of the batch shape, differentiable; +inf where it diverges.
        error: An estimate of the error of the sum, of the batch shape.
        size: 1 + |H(q)| + |CE(q, p)|, of the batch shape: what rounding is to be measured by.
    """

    value: Tensor
    error: Tensor
    size: Tensor


Coordinate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From nodes u, of shape (N, B, d), to values x, (N, B, *event), and log |dx / du|, (N, B)."""


def truth(q: Any, p: Any) -> Truth:
    """E_q[log q(x) - log p(x)], by summation over x.

    Arguments:
        q: A distribution of batch shape (B,) with parameters in float64 and at most three degrees
            of freedom in an event.
        p: Another of that batch and event shape, a density with respect to the same measure.

    Returns:
        The KL and an error, each of shape (B,).

    Example:
        >>> two = torch.full((1,), 2.0, dtype=torch.float64)
        >>> value, error, _ = truth(td.Normal(0 * two, two), td.Normal(0 * two, two / 2))
        >>> round(value.item(), 9), bool(error < 1e-9)  # 3/2 - log 2
        (0.806852819, True)
    """
    q, p = unvalidated(q), unvalidated(p)
    if isinstance(q, MaskedDistribution):
        mask = q._mask & p._mask
        inner = truth(q.base_dist, p.base_dist)
        return Truth(*(torch.where(mask, t, 0.0) for t in inner))
    if isinstance(q, dist.Delta):
        log_q, log_p = torch.as_tensor(q.log_density), _log(p, q.v)
        value = log_q - log_p
        return Truth(value, torch.zeros_like(value).detach(), _size(log_q, log_p))
    if q.support.is_discrete:
        return _summed(q, p)
    kind = space_of(q.support).kind
    if kind == "circle" or canonical(type(q)) is td.VonMises:
        return _around(q, p)
    if kind == "sphere" and q.event_shape == (3,):
        return _over_sphere(q, p)
    return _integrated(q, p)


def _size(mean_log_q: Tensor, mean_log_p: Tensor) -> Tensor:
    return (1 + mean_log_q.abs() + mean_log_p.abs()).detach()


# ---------------------------------------------------------------------------------- densities
def _log(d: Any, x: Tensor) -> Tensor:
    """The log density, -inf outside the support."""
    d_log = _DENSITIES.get(canonical(type(d)))
    log = d.log_prob(x) if d_log is None else d_log(d, x)
    return torch.where(d.support.check(x), log, -torch.inf)


def _log_kumaraswamy(d: Any, x: Tensor) -> Tensor:
    a, b = d.concentration1, d.concentration0
    x = x.clamp(1e-300, 1 - 1e-16)
    rest = -torch.expm1(a * x.log())
    return a.log() + b.log() + (a - 1) * x.log() + (b - 1) * rest.log()


def _log_weibull(d: Any, x: Tensor) -> Tensor:
    k, z = d.concentration, x.log() - d.scale.log()
    return k.log() - d.scale.log() + (k - 1) * z - (k * z).exp()


def _log_von_mises(d: Any, x: Tensor) -> Tensor:
    k = d.concentration
    normaliser = math.log(2 * math.pi) + torch.special.i0e(k).log()
    log = k * ((x - d.loc).cos() - 1) - normaliser
    return torch.where(x.abs() <= math.pi + 1e-9, log, -torch.inf)


def _log_continuous_bernoulli(d: Any, x: Tensor) -> Tensor:
    # A = log[(e^eta - 1) / eta] is 0 / 0 at eta = 0, where no specimen is
    eta = d.logits
    high = eta.clamp(min=0)
    return eta * x - high - (-torch.expm1(-eta.abs())).log() + eta.abs().log()


# where torch's own are approximations, or lose the tails to rounding
_DENSITIES: dict[type, Callable[[Any, Tensor], Tensor]] = {
    td.Kumaraswamy: _log_kumaraswamy,
    td.Weibull: _log_weibull,
    td.VonMises: _log_von_mises,
    td.ContinuousBernoulli: _log_continuous_bernoulli,
}


# ---------------------------------------------------------------------------------- sums
_VALUES = 1500


def _summed(q: Any, p: Any) -> Truth:
    x = _values(q)
    with torch.no_grad():
        inside = q.support.check(x).expand(len(x), *q.batch_shape)
        legal = _legal(q, x, inside)
        log_q = torch.where(inside, q.log_prob(legal), -torch.inf)
        held = log_q > -700
        scored = held & p.support.check(x)
        missing = (held & ~scored).any(0)
    legal_q, legal_p = _legal(q, x, held), _legal(p, x, scored)
    log_q, log_p = q.log_prob(legal_q), p.log_prob(legal_p)
    terms = torch.where(scored, log_q.exp() * (log_q - log_p), 0.0)
    infinite = missing | (scored & (log_p == -torch.inf)).any(0)
    value = torch.where(infinite, torch.inf, torch.where(scored, terms, 0.0).sum(0))
    mass = torch.where(held, log_q.exp(), 0.0)
    rest = (mass.sum(0) - 1).abs()
    means = [torch.where(scored, mass * t, 0.0).sum(0) for t in (log_q, log_p)]
    return Truth(value, torch.where(infinite, 0.0, rest).detach(), _size(*means))


def _values(q: Any) -> Tensor:
    """All values of q, of shape (N, 1, *event), or the first of many."""
    cls = canonical(type(q))
    if cls is td.Multinomial:
        n, k = q.total_count, q.event_shape[0]
        rows = [r for r in itertools.product(range(n + 1), repeat=k) if sum(r) == n]
        return torch.tensor(rows, dtype=_F64).unsqueeze(1)
    if cls is td.MixtureSameFamily:
        return _values(q.component_distribution)
    if cls in (td.Bernoulli, td.Categorical) or q.event_shape:
        values = q.enumerate_support(expand=False)
        return values.double().reshape(len(values), 1, *q.event_shape)
    count = getattr(q, "total_count", None)
    bounded = cls in (td.Binomial, dist.BetaBinomial)
    most = int(count.max()) + 1 if bounded and count is not None else _VALUES
    return torch.arange(most, dtype=_F64).unsqueeze(1)


def _legal(d: Any, x: Tensor, held: Tensor) -> Tensor:
    """The values x, another in their place where they do not count."""
    if d.event_shape:
        return torch.where(held.unsqueeze(-1), x, x[0])
    return torch.where(held, x, torch.zeros_like(x))


# ---------------------------------------------------------------------------------- circle
def _around(q: Any, p: Any) -> Truth:
    count = 4096
    half = (torch.arange(count, dtype=_F64).unsqueeze(1) + 0.5) * (math.pi / count) - math.pi / 2
    place, crowd = _bend(p)
    # tan(y / 2) = crowd tan(t / 2), with equal steps in t
    sin, cos = crowd * half.sin(), half.cos()
    x = wrapped(place + 2 * torch.atan2(sin, cos))
    weight = 2 * math.pi / count * crowd / (cos.square() + sin.square())
    log_q, log_p = _log(q, x), _log(p, x)
    infinite = ((log_p == -torch.inf) & (log_q > -700)).any(0)
    mass, safe = weight * log_q.exp(), torch.where(log_p == -torch.inf, 0.0, log_p)
    terms = mass * (log_q - safe)
    value, part = (n * terms[::n].sum(0) for n in (1, 2))
    error = torch.where(infinite, 0.0, value - part).abs().detach()
    value = torch.where(infinite, torch.inf, value)
    return Truth(value, error, _size(*((mass * t).sum(0) for t in (log_q, safe))))


def _bend(p: Any) -> tuple[Tensor, Tensor]:
    """Where the log density of a wrapped normal bends, the sharper the narrower it is."""
    if isinstance(p, WrappedNormal):
        return p.loc.detach() + math.pi, p.scale.detach().clamp(max=1.0)
    return torch.zeros((), dtype=_F64), torch.ones((), dtype=_F64)


def _over_sphere(q: Any, p: Any) -> Truth:
    x, weight, coarse = sphere_grid(q, p)
    log_q, log_p = q.log_prob(x), p.log_prob(x)
    density = weight * log_q.exp()
    value, part = ((w * density * (log_q - log_p)).sum(0) for w in (1.0, coarse))
    means = [(density * t).sum(0) for t in (log_q, log_p)]
    # the trapezoidal rule with half as many nodes has the square root of the error
    error = (value - part).square() + (density.sum(0) - 1).abs()
    return Truth(value, error.detach(), _size(*means))


# ---------------------------------------------------------------------------------- integrals
_PANEL, _FINE, _COARSE = 0.25, 20, 14
_REACH = 90.0


def _integrated(q: Any, p: Any) -> Truth:
    into, centre, spread = _coordinate(q)
    if centre.shape[-1] > 1:
        return _by(_grid, 2, q, p, into, centre, spread)
    found = _by(_panels, 1, q, p, into, centre, spread)
    if bool((found.error < 1e-10 * found.value.detach().abs().clamp(min=1)).all()):
        return found
    # p is far narrower than q, or far away
    return _by(partial(_panels, graded=True), 1, q, p, into, centre, spread)


def _by(
    rule: Callable[..., Any], order: int, q: Any, p: Any, into: Coordinate, c: Tensor, s: Tensor
) -> Truth:
    """The value by a rule, the error from a coarser one, to the power that the finer one gains."""
    nodes, weights, coarse, infinite = rule(q, p, into, c, s)
    value, mass, size = _sum(q, p, into, nodes, weights)
    with torch.no_grad():
        other, _, _ = _sum(q, p, into, *coarse)
        error = (value - other).abs() ** order + (mass - 1).abs()
    value = torch.where(infinite, torch.inf, value)
    return Truth(value, torch.where(infinite, 0.0, error).detach(), size)


def _sum(q: Any, p: Any, into: Coordinate, u: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """The integrals of q (log q - log p) and of q, and the size of the former's two parts."""
    with torch.no_grad():
        log_q, f = _terms(q, p, into, u)
        used = log_q.isfinite() & f.isfinite()
        # what adds nothing to the value must not add a NaN to the gradient
        used = used & (log_q + weights.log() + torch.log1p(f.abs()) > -80)
        mass, own = torch.where(used, weights * log_q.exp(), 0.0), log_q - into(u)[1]
        means = [torch.where(used, mass * t, 0.0).sum(0) for t in (own, own - f)]
    # a node that does not count goes where nothing is infinite, lest it poison the gradient
    middle = used.double().argmax(0)
    safe = u[middle, torch.arange(u.shape[1])]
    log_q, f = _terms(q, p, into, torch.where(used.unsqueeze(-1), u, safe))
    density = torch.where(used, weights * log_q.exp(), 0.0)
    return (density * f).sum(0), density.sum(0).detach(), _size(*means)


def _terms(q: Any, p: Any, into: Coordinate, u: Tensor) -> tuple[Tensor, Tensor]:
    """The log density of q in u, and log q - log p."""
    x, slope = into(u)
    log_q, log_p = _log(q, x), _log(p, x)
    return log_q + slope, log_q - log_p


def _panels(
    q: Any, p: Any, into: Coordinate, c: Tensor, s: Tensor, graded: bool = False
) -> tuple[Any, ...]:
    """Gauss-Legendre panels of one variable, and for which elements the integral diverges."""
    v = torch.arange(-_REACH, _REACH, 0.05, dtype=_F64)[:, None, None]
    with torch.no_grad():
        log_q, f = _terms(q, p, into, c + s * v.sinh())
        size = log_q + (s * v.cosh()).log().squeeze(-1)
        # outwards from the mass, as far as both densities can be computed
        middle = torch.where(log_q.isfinite(), size, -torch.inf).argmax(0)
        low, high = _reach(f.isfinite() & log_q.isfinite(), middle)
        size = size + torch.log1p(f.abs())
        index = torch.arange(len(v))[:, None]
        within = (index >= low) & (index <= high)
        size = torch.where(within, size, -torch.inf)
        ends = torch.maximum(size.gather(0, low[None]), size.gather(0, high[None])).squeeze(0)
        # what lies beyond has mass without a density, or a term that no double can hold
        outside = (log_q > -32) & log_q.isfinite() & (f == torch.inf)
        infinite = (ends > size.amax(0) - 28) | outside.any(0)
        some = (size > -52).any(1).nonzero().squeeze(-1)
        low_v, high_v = (v[i].item() for i in (max(int(some[0]) - 1, 0), int(some[-1])))
        edges = torch.arange(low_v, high_v + 1.5 * _PANEL, _PANEL, dtype=_F64)
        places = _kinks(q) + _kinks(p) + (_grades(p) if graded else [])
        edges = _with_edges(edges, places, q, c, s)
        rules = [_legendre(edges, count) for count in (_FINE, _COARSE)]
        made = [((c + s * y.unsqueeze(-1).sinh()), w * s.squeeze(-1) * y.cosh()) for y, w in rules]
    return *made[0], made[1], infinite


def _reach(good: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
    """The first and last of the unbroken run of good nodes around the middle."""
    index = torch.arange(len(good))[:, None]
    bad = ~good
    low = torch.where(bad & (index < middle), index, -1).amax(0) + 1
    high = torch.where(bad & (index > middle), index, len(good)).amin(0) - 1
    return low, high


def _with_edges(edges: Tensor, places: list[Tensor], q: Any, c: Tensor, s: Tensor) -> Tensor:
    """Edges of panels for every element of the batch, shape (E, B)."""
    back = biject_to(_support(q)).inv
    rows = [edges.unsqueeze(1).expand(-1, len(c))]
    for kink in places:
        place = torch.where(_support(q).check(kink), kink, torch.nan)
        u = back(place).nan_to_num(0.0, 0.0, 0.0)
        rows.append(((u - c.squeeze(-1)) / s.squeeze(-1)).asinh().unsqueeze(0))
    low, high = edges[0], edges[-1]
    return torch.cat(rows).clamp(low, high).sort(0).values


def _grades(p: Any) -> list[Tensor]:
    """Places about the middle of p, at distances that double from a fraction of its width."""
    if p.event_shape:
        return []
    into, centre, spread = _coordinate(p)
    steps = [0.0, *(sign * 2.0**k for k in range(-3, 50) for sign in (-1, 1))]
    return [into(centre + step * spread)[0] for step in steps]


def _kinks(d: Any) -> list[Tensor]:
    """Where a density is not smooth, inside its support."""
    cls = canonical(type(d))
    if cls in (td.Laplace, dist.AsymmetricLaplace):
        return [d.loc.detach()]
    if cls is td.TransformedDistribution:
        found = _kinks(d.base_dist)
        for transform in d.transforms:
            found = [transform(k).detach() for k in found]
        return found
    return []


def _legendre(edges: Tensor, count: int) -> tuple[Tensor, Tensor]:
    x, w = (torch.tensor(t)[:, None] for t in np.polynomial.legendre.leggauss(count))
    half, middle = edges.diff(dim=0) / 2, (edges[1:] + edges[:-1]) / 2
    y = middle.unsqueeze(1) + half.unsqueeze(1) * x
    return y.flatten(0, 1), (half.unsqueeze(1) * w).flatten(0, 1)


_STEPS = {2: (0.1, 14.0), 3: (0.12, 4.4)}


def _grid(q: Any, p: Any, into: Coordinate, c: Tensor, s: Tensor) -> tuple[Any, ...]:
    """A grid of a few variables, without the nodes that have no part in the sum.

    Where p has no density the KL is infinite; if a tail diverges, the error says that it failed.
    """
    step, reach = _STEPS[c.shape[-1]]
    half = round(reach / step)
    steps = torch.arange(-half, half + 1)
    index = torch.cartesian_prod(*[steps] * c.shape[-1]).unsqueeze(1)
    v = index.double() * step
    with torch.no_grad():
        u, weights = c + s * v.sinh(), (step * s * v.cosh()).prod(-1)
        log_q, f = _terms(q, p, into, u)
        size = log_q + weights.log() + torch.log1p(f.abs())
        some = (torch.where(log_q.isfinite() & f.isfinite(), size, -torch.inf) > -44).any(1)
        even = (index % 2 == 0).all(-1)[some].double() * 2 ** c.shape[-1]
        missed = torch.where(log_q.isfinite() & (f == torch.inf), weights * log_q.exp(), 0.0)
    infinite = missed.sum(0) > 1e-4
    return u[some], weights[some], (u[some], weights[some] * even), infinite


# ---------------------------------------------------------------------------------- coordinates
def _coordinate(q: Any) -> tuple[Coordinate, Tensor, Tensor]:
    """The unconstrained coordinate u of q's support, and where q lies in it."""
    into, back = _MAPS.get(canonical(type(q)), _constrained)(q)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", UserWarning)  # a Wishart draw may be singular
        torch.manual_seed(0)
        u = back(q.sample((999,)))
    low, middle, high = u.nan_to_num(0.0, 700.0, -700.0).sort(0).values[[160, 499, 838]]
    return into, middle, (high - low) / 2


def _constrained(q: Any) -> tuple[Coordinate, Callable[[Tensor], Tensor]]:
    """Through torch's own bijection, which moves with the ends of the support."""
    free = biject_to(_support(q))

    def into(u: Tensor) -> tuple[Tensor, Tensor]:
        y = u if q.event_shape else u.squeeze(-1)
        x = free(y)
        return x, free.log_abs_det_jacobian(y, x)

    def back(x: Tensor) -> Tensor:
        return free.inv(x) if q.event_shape else free.inv(x).unsqueeze(-1)

    return into, back


def _support(q: Any) -> Any:
    """The support, for a mixture that of its components."""
    if canonical(type(q)) is td.MixtureSameFamily:
        return q.component_distribution.support
    return q.support


def _logs(q: Any) -> tuple[Coordinate, Callable[[Tensor], Tensor]]:
    """Logarithms of the parts of a simplex, by their differences to the last."""

    def into(u: Tensor) -> tuple[Tensor, Tensor]:
        # with respect to u, the density of the logarithms has no Jacobian
        last = torch.zeros_like(u[..., :1])
        return torch.cat([u, last], -1).log_softmax(-1), torch.zeros_like(u[..., 0])

    return into, lambda x: x[..., :-1] - x[..., -1:]


def _factor(q: Any) -> tuple[Coordinate, Callable[[Tensor], Tensor]]:
    """X = V A A' V' of two rows, V the factor of q's scale, the diagonal of A exp(a) and exp(c).

    The elements of A are independent under q (Bartlett).
    """
    scale = q.scale_tril.detach()
    log_scale = 3 * scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def into(u: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c = u.unbind(-1)
        rows = [a.exp(), torch.zeros_like(a), b, c.exp()]
        factor = scale @ torch.stack(rows, -1).unflatten(-1, (2, 2))
        return factor @ factor.mT, math.log(4) + 3 * a + 2 * c + log_scale

    def back(x: Tensor) -> Tensor:
        factor = torch.linalg.solve_triangular(scale, torch.linalg.cholesky(x), upper=False)
        a, c = (factor[..., i, i].log() for i in (0, 1))
        return torch.stack([a, factor[..., 1, 0], c], -1)

    return into, back


_MAPS: dict[type, Callable[[Any], tuple[Coordinate, Callable[[Tensor], Tensor]]]] = {
    ExpRelaxedCategorical: _logs,
    td.Wishart: _factor,
}
