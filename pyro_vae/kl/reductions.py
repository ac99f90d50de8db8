"""Reductions: from a pair of distributions to a simpler pair with the same KL, nearly.

* `Expanded`: the base, broadcast;  `Masked`: the base, multiplied by the mask of both sides;
* `Independent` on both sides: the elements, summed over the dimensions that both share;
* a point mass: log_density - log p(v);
* half-distributions of symmetric ones: the whole ones;
* relaxed one-hot vectors: relaxed bits, or a form for equal temperatures;
* bijections that both sides share: what they are applied to, affine maps being absorbed by what
  they are applied to (a Normal, after an affine map, is a Normal);
* a simplex broken from independent sticks: the sticks, summed;
* a Gaussian or Student-t with correlations against independent elements: the marginals, and the
  total correlation;
* Gaussian mixtures of vectors: an interval (`pyro_vae.kl.bounds`), never called exact.

They are tried in the order in which they stand here.
"""

from __future__ import annotations

__all__: list[str] = []

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import transform_to, transforms
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_vae.distributions import Sticks
from pyro_vae.kl.bounds import is_bounded
from pyro_vae.kl.closed_forms.concrete import concrete
from pyro_vae.kl.closed_forms.multivariate_student import entropy as student_entropy
from pyro_vae.kl.parameters import device_of, prepared
from pyro_vae.kl.plan import (
    Plan,
    broadcast,
    changed,
    describe,
    expanded,
    plan,
    reduction,
    sum_last,
    unpack,
)
from pyro_vae.kl.pushforwards import elementwise, fold, same_map, unfold
from pyro_vae.kl.table import canonical, key_of, lookup, same_class


@reduction
def _expand(q: Any, p: Any) -> Plan | None:
    """Expanded: the base, broadcast."""
    if not isinstance(q, ExpandedDistribution) and not isinstance(p, ExpandedDistribution):
        return None
    return plan(
        q.base_dist if isinstance(q, ExpandedDistribution) else q,
        p.base_dist if isinstance(p, ExpandedDistribution) else p,
    )


@reduction
def _masked(q: Any, p: Any) -> Plan | None:
    """Masked: the base, multiplied by the mask of both sides."""
    masks = [d._mask for d in (q, p) if isinstance(d, MaskedDistribution)]
    if not masks:
        return None
    inner = plan(
        q.base_dist if isinstance(q, MaskedDistribution) else q,
        p.base_dist if isinstance(p, MaskedDistribution) else p,
    )
    mask = torch.ones(inner.batch, dtype=torch.bool, device=device_of(q))
    for factor in masks:
        mask = mask & factor
    inner = expanded(inner, mask.shape)
    finite = None if inner.finite is None else inner.finite | ~mask

    def value(of: Callable[[], Tensor]) -> Tensor:
        return torch.where(mask, of(), 0.0)

    return changed(inner, mask.shape, finite, value, "masked")


@reduction
def _point(q: Any, p: Any) -> Plan | None:
    """Delta with density: log_density - log p(v)."""
    if not same_class(q, dist.Delta):
        return None
    batch = broadcast(q, p)
    finite = _hit(p, q.v).expand(batch)

    def value() -> Tensor:
        inside = finite.reshape(finite.shape + (1,) * q.event_dim)
        point = torch.where(inside, q.v, _legal(p, q.v))
        return (q.log_density - p.log_prob(point)).double()

    def why() -> str:
        return "" if bool(finite.all()) else f"the point lies outside the support of {describe(p)}"

    how = f"log density of a point mass against {describe(p)}"
    return Plan("closed", "pyro_vae", batch, finite, value, why, how)


@reduction
def _independent(q: Any, p: Any) -> Plan | None:
    """Independent on both sides: the elements, summed over the dimensions that both share."""
    outer, inner = unpack(q), unpack(p)
    shared = min(outer[1], inner[1])
    if shared == 0:
        # an Independent of nothing, or of an Independent, is only another way to write it
        return plan(_packed(*outer), _packed(*inner)) if _odd(q) or _odd(p) else None
    elements = plan(_packed(outer[0], outer[1] - shared), _packed(inner[0], inner[1] - shared))
    dims = tuple(range(-shared, 0))
    batch = elements.batch[: len(elements.batch) - shared]
    finite = None if elements.finite is None else elements.finite.all(dims)

    def value(of: Callable[[], Tensor]) -> Tensor:
        return sum_last(of(), shared)

    return changed(elements, batch, finite, value, "summed over independent elements")


@reduction
def _half(q: Any, p: Any) -> Plan | None:
    """|x| on both sides, x symmetric about 0: nothing is lost by the sign, so the KL of the x."""
    whole = {td.HalfNormal: td.Normal, td.HalfCauchy: td.Cauchy}
    if _registered(q, p) or not all(canonical(type(d)) in whole for d in (q, p)):
        return None
    centred = [
        whole[canonical(type(d))](torch.zeros_like(d.scale), d.scale, validate_args=False)
        for d in (q, p)
    ]
    inner = plan(*centred)
    return inner._replace(how=f"{inner.how}, both folded at 0")


@reduction
def _relaxed(q: Any, p: Any) -> Plan | None:
    """Relaxed one-hot vectors: of two classes the relaxed bits, of more a form at one temperature.

    Two temperatures are equal by their values, which no plan reads: where they differ the error
    of the form is infinite.
    """
    classes = (td.RelaxedOneHotCategorical, ExpRelaxedCategorical)
    if not any(same_class(q, c) and same_class(p, c) for c in classes):
        return None
    if q.event_shape == (2,):
        return plan(*(_bit(d) for d in (q, p)))
    batch = broadcast(q, p)

    def value() -> Tensor:
        wide: Any = [prepared(d, batch, None) for d in (q, p)]
        return concrete(*wide)

    def error() -> Tensor:
        equal = torch.as_tensor(q.temperature) == torch.as_tensor(p.temperature)
        return torch.where(equal, 0.0, torch.inf).double().expand(batch)

    how = f"the form of KL({describe(q)} || {describe(p)}) for equal temperatures"
    limit = "does not hold where temperatures differ, as they do"
    return Plan("closed", "pyro_vae", batch, None, value, lambda: "", how, error, limit)


def _bit(d: Any) -> Any:
    """The logit of the first of two parts, x_1 / (x_1 + x_2)."""
    logits = d.logits[..., 0] - d.logits[..., 1]
    return LogitRelaxedBernoulli(d.temperature, logits=logits, validate_args=False)


@reduction
def _transformed(q: Any, p: Any) -> Plan | None:
    """The same bijections on both sides: what they are applied to; affine maps are absorbed."""
    if _registered(q, p):
        return None
    (a, maps_q), (b, maps_p) = unfold(q), unfold(p)
    shared = 0
    while maps_q and maps_p and same_map(maps_q[-1], maps_p[-1]):
        maps_q, maps_p, shared = maps_q[:-1], maps_p[:-1], shared + 1
    a, b = fold(a, maps_q), fold(b, maps_p)
    if not shared and not (_simpler(a, q) or _simpler(b, p)):
        return None
    if a.event_shape != b.event_shape or broadcast(a, b) != broadcast(q, p):
        return None
    inner = plan(a, b)
    cancels = shared and not maps_q and not maps_p
    if inner.value is not None and not (
        cancels and all(isinstance(d, td.TransformedDistribution) for d in (q, p))
    ):
        # torch cancels equal bijections, and absorbs none: it has no form for this pair
        inner = inner._replace(source="pyro_vae")
    return inner._replace(how=f"{inner.how}, seen through bijections") if shared else inner


def _registered(q: Any, p: Any) -> bool:
    """Whether the pair has a form of its own, which then comes first."""
    return lookup(key_of(q), key_of(p)) is not None


def _simpler(new: Any, old: Any) -> bool:
    new, old = unpack(new)[0], unpack(old)[0]
    if len(new.event_shape) < len(old.event_shape):
        return True  # of elements, which were those of an event
    if not same_class(new, td.TransformedDistribution):
        return not same_class(new, old)
    return same_class(old, td.TransformedDistribution) and len(new.transforms) < len(
        old.transforms
    )


@reduction
def _sticks(q: Any, p: Any) -> Plan | None:
    """Simplices broken from independent sticks, on both sides: the sticks, summed."""
    if same_class(q, td.Dirichlet) and same_class(p, td.Dirichlet):
        return None
    broken = [_stick(d) for d in (q, p)]
    if None in broken:
        return None
    inner = plan(*(td.Independent(d, 1, validate_args=False) for d in broken))
    return inner._replace(how=f"{inner.how}, the sticks of a simplex")


def _stick(d: Any) -> Any:
    """The sticks of a simplex, if they are independent: element k is x_k / (x_k + x_k+1 + ...)."""
    if same_class(d, td.Dirichlet):
        alpha = d.concentration.double()
        later = alpha.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        return td.Beta(alpha[..., :-1], later, validate_args=False)
    base, maps = unfold(d)
    elements, dims = unpack(base)
    if not maps or dims != 1 or elements.event_shape or not elementwise(maps[:-1]):
        return None
    if type(maps[-1]) is Sticks:
        return fold(elements, maps[:-1])
    if type(maps[-1]) is not transforms.StickBreakingTransform:
        return None
    # torch shifts by the logarithm of the number of later parts, so that 0 maps to equal parts
    later = torch.arange(base.event_shape[-1], 0, -1, device=device_of(elements)).double()
    shift = transforms.AffineTransform(-later.log(), 1.0)
    return fold(elements, [*maps[:-1], shift, transforms.SigmoidTransform()])


@reduction
def _marginals(q: Any, p: Any) -> Plan | None:
    """Correlated q against independent elements: its marginals, and its total correlation.

    KL(q || prod p_i) = sum_i KL(q_i || p_i) + sum_i H(q_i) - H(q), for a Gaussian or Student-t
    with correlations, and for what an elementwise bijection makes of it. A mask on elements of p
    masks log p alone, since no element of log q can be told from the others: then the first two
    sums run over the elements that are left.
    """
    if lookup(key_of(q), key_of(p)) is not None:
        return None  # a form of the pair itself, exact down to equality
    joint, maps = unfold(q)
    marginal = _MARGINAL.get(canonical(type(joint)))
    prior, dims = unpack(p)
    if marginal is None or dims != 1 or prior.event_shape or not elementwise(maps):
        return None
    mask = _mask_of(prior)
    if mask is not None and maps:
        return None
    wide: Any = prepared(joint, joint.batch_shape, None)
    single, single_entropy, entropy = marginal(wide)
    elements = plan(td.Independent(fold(single, maps), 1, validate_args=False), p)

    def value(of: Callable[[], Tensor]) -> Tensor:
        kept = single_entropy() if mask is None else torch.where(mask, single_entropy(), 0.0)
        return of() + kept.sum(-1) - entropy()

    how = "of the marginals, plus the total correlation"
    reduced = changed(elements, elements.batch, elements.finite, value, how)
    # torch may have the form of the marginals, but not that of the pair
    return reduced if reduced.value is None else reduced._replace(source="pyro_vae")


def _gaussian(joint: Any) -> tuple[Any, Callable[[], Tensor], Callable[[], Tensor]]:
    single = td.Normal(joint.loc, joint.variance.sqrt(), validate_args=False)
    return single, single.entropy, joint.entropy


def _student(joint: Any) -> tuple[Any, Callable[[], Tensor], Callable[[], Tensor]]:
    df, tril = joint.df.unsqueeze(-1), joint.scale_tril
    scale = tril.square().sum(-1).sqrt()
    single = td.StudentT(df, joint.loc, scale, validate_args=False)
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (
        single,
        lambda: student_entropy(df, 1, scale.log()),
        lambda: student_entropy(joint.df, tril.shape[-1], log_det),
    )


_MARGINAL: dict[type, Callable[[Any], tuple[Any, Callable[[], Tensor], Callable[[], Tensor]]]] = {
    td.MultivariateNormal: _gaussian,
    td.LowRankMultivariateNormal: _gaussian,
    dist.MultivariateStudentT: _student,
}


def _mask_of(d: Any) -> Any:
    """The product of the masks on `d`, None without one."""
    mask = None
    while isinstance(d, ExpandedDistribution | MaskedDistribution):
        if isinstance(d, MaskedDistribution):
            mask = d._mask if mask is None else mask & d._mask
        d = d.base_dist
    return None if mask is None else torch.as_tensor(mask)


@reduction
def _mixture(q: Any, p: Any) -> Plan | None:
    """Gaussian mixtures of vectors: no form is known, but an interval is."""
    mixed = any(same_class(d, td.MixtureSameFamily) for d in (q, p))
    single = q.event_shape.numel() == 1  # a number, for which there is quadrature
    if not mixed or single or not is_bounded(q, p) or _registered(q, p):
        return None
    how = (
        f"KL({describe(q)} || {describe(p)}) of Gaussian mixtures has no closed form; "
        "kl.bounds(q, p) gives an interval that holds it"
    )
    return Plan("sampled", "none", broadcast(q, p), None, None, lambda: "", how)


def _hit(p: Any, point: Tensor) -> Tensor:
    """Where p is positive at a point, as far as its support tells."""
    if not same_class(p, dist.Delta):
        return p.support.check(point)
    same = point == p.v
    return same.flatten(same.dim() - p.event_dim).all(-1) if p.event_dim else same


def _legal(p: Any, point: Tensor) -> Tensor:
    """A point of the support of p, to stand in for one that is not; discrete ones do no harm."""
    support = p.support
    if support.is_discrete:
        return point
    free = transform_to(support)
    return free(point.new_zeros(free.inverse_shape(point.shape)))


def _packed(base: Any, dims: int) -> Any:
    if dims and same_class(base, dist.Delta):
        density: Any = sum_last(base.log_density, dims)
        return dist.Delta(base.v, density, base.event_dim + dims)
    return td.Independent(base, dims, validate_args=False) if dims else base


def _odd(d: Any) -> bool:
    """Whether d is an `Independent` that `_packed` would write otherwise."""
    if not same_class(d, td.Independent):
        return False
    base, dims = unpack(d)
    return dims == 0 or same_class(base, dist.Delta) or same_class(d.base_dist, td.Independent)
