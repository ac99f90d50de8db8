"""What one latent site takes off an ELBO: an exact KL, a sampled one, or some of both.

With c_q and c_p, the scale times the mask of the site in guide and model, the site takes off

    c_q log q(z) - c_p log p(z) = c_p (log q(z) - log p(z)) + (c_q - c_p) log q(z),

whose expectation over its own draw is  c_p KL(q || p) + (c_q - c_p) E_q[log q(z)].  So where
guide and model weigh a site alike the KL alone is left, and where they do not, log q is sampled
with the difference of the weights.

Wherever log q(z) would be taken at a draw, the exact -H(q) may stand for it if it is known: both
have the expectation E_q[log q(z)] over the site's own draw, given all that it depends on.
"""

from __future__ import annotations

__all__ = ["Check", "SiteRoute", "Term", "distribution_name", "guide_term", "pair_term"]

from collections.abc import Callable
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias

import torch
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.distributions.util import is_identically_zero, scale_and_mask
from torch import Tensor

from pyro_vae import kl
from pyro_vae.infer.unexpanded import unexpanded
from pyro_vae.kl.entropies import closed_entropy
from pyro_vae.kl.parameters import prepared, tensors
from pyro_vae.kl.plan import Plan, plan
from pyro_vae.kl.quadrature import accepted

# a site as Pyro's traces hold it
Node: TypeAlias = Any


class SiteRoute(NamedTuple):
    """How the KL of one site was had in the last call of an ELBO.

    Arguments:
        kind: "closed" or "quadrature" (exact), "sampled" (the log ratio of the densities at the
            draw), "entropy" (the entropy of the guide exact, the cross-entropy sampled), "mixed"
            (exact, but guide and model weigh the site differently, and log q is sampled with the
            difference), or "auxiliary" (a site of the guide alone, which takes its log q off).
        reason: One sentence for people.
        sampled: How many elements have a sampled part, a 0-dim tensor; None if `kind` says it.
    """

    kind: str
    reason: str
    sampled: Tensor | None = None


class Check(NamedTuple):
    """A flag to be read once the loss is complete, and the error to raise where it is False."""

    flag: Tensor
    error: Callable[[], Exception]
    site: str = ""


class Term(NamedTuple):
    """What a site takes off the ELBO, elementwise, scaled and masked.

    The gradient of both parts is the pathwise one, as `Trace_ELBO` has it: without
    E_q[grad log q] = 0 where the guide is not reparameterised.

    Arguments:
        exact: What does not depend on the site's own draw.
        sampled: What does.
        weight: How often each element counts: scale times mask of the model's site.
        route: How it was had.
        checks: What has to hold.
        event_dim: How many dimensions of the event, on the right, are not yet summed.
        log_q: What of `sampled` is log q(z), where all of it is sampled.
    """

    exact: Tensor
    sampled: Tensor
    weight: Tensor
    route: SiteRoute
    checks: tuple[Check, ...]
    event_dim: int = 0
    log_q: Tensor | None = None

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Term:
        """Return the term with a function of each of its parts in their place."""
        log_q = None if self.log_q is None else function(self.log_q)
        parts = {"exact": function(self.exact), "sampled": function(self.sampled)}
        return self._replace(**parts, log_q=log_q)

    def summed(self) -> Term:
        """Return the term with the dimensions of the event summed."""
        if not self.event_dim:
            return self
        dims = list(range(-self.event_dim, 0))
        weight = self.weight.flatten(-self.event_dim)[..., 0]
        return self.mapped(lambda part: part.sum(dims))._replace(weight=weight, event_dim=0)

    def times(self, beta: float | Tensor) -> Term:
        """Return the term with both parts multiplied by `beta`."""
        return self.mapped(lambda part: beta * part)


def guide_term(name: str, q: Node, *, strict: bool, entropy: bool = False) -> Term:
    """Return the term of a site that only the guide draws: log q(z).

    Arguments:
        name: The name of the site.
        q: The site in the guide's trace, its score parts computed.
        strict: Whether to refuse to sample this term.
        entropy: Whether -H(q) stands for log q(z) where it is known.

    Returns:
        The term.

    Raises:
        NoExactKL: If `strict` and it has to be sampled.
    """
    reason = "a site of the guide alone, which takes its log q off the ELBO"
    guide, log_q = _Weighed.of(q), _log_q(q["score_parts"])
    weight = guide(torch.ones_like(log_q))
    negentropy = _negentropy(guide.base, log_q) if entropy else None
    if negentropy is not None:
        route = SiteRoute("auxiliary", f"{reason}: minus its entropy, exactly")
        exact = guide(negentropy)
        check = _finite(name, exact, f"the entropy of {_name(q)}", q)
        return Term(exact, torch.zeros_like(log_q), weight, route, (check,))
    if strict:
        raise _refusal(name, q, None, reason)
    check = _finite(name, log_q, f"log {_name(q)}(z)", q)
    route = SiteRoute("auxiliary", reason)
    return Term(torch.zeros_like(log_q), log_q, weight, route, (check,), log_q=log_q)


def pair_term(
    name: str,
    q: Node,
    p: Node,
    *,
    biased: str | None = None,
    strict: bool = False,
    sample: str | None = None,
    entropy: bool = False,
) -> Term:
    """Return the term of a site that guide and model share.

    Arguments:
        name: The name of the site.
        q: The site in the guide's trace, its score parts computed.
        p: The site in the model's trace, its log_prob computed.
        biased: Why an exact KL would be biased here; None if it is not.
        strict: Whether to refuse to sample anything.
        sample: Why to sample whatever may be known; None if an exact KL is wanted.
        entropy: Whether -H(q) stands for log q(z) where that would be sampled and it is known.

    Returns:
        The term.

    Raises:
        NoExactKL: If `strict` and something has to be sampled.
        ValueError: If the KL is undefined, or guide and model count the site differently often.
    """
    _check_shapes(name, q, p)
    guide, model, made = _Weighed.of(q), _Weighed.of(p), None
    obstacle = biased or _unlike(guide.base, model.base)
    if obstacle is None:
        made = plan(guide.base, model.base)
        if made.kind == "undefined":
            raise ValueError(f"site {name!r}: {_pair(q, p)} is undefined: {made.why()}.")
        if made.value is not None and sample is None:
            return _exact(name, q, p, made, made.value(), strict=strict, entropy=entropy)
        obstacle = sample or made.how
    if strict:
        raise _refusal(name, q, p, obstacle)
    finite = None if made is None else made.finite
    return _sampled(name, q, p, obstacle, finite, entropy=entropy)


def distribution_name(d: Any) -> str:
    """Return the class name of a distribution, wrappers left out.

    Arguments:
        d: A distribution.

    Returns:
        The name of its class, or of that which `Independent` and the like hold.

    Example:
        >>> import pyro.distributions as dist
        >>> distribution_name(dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        'Normal'
    """
    while type(d).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        d = d.base_dist
    return type(d).__name__


# ----------------------------------------------------------------------------------------- terms
def _sampled(
    name: str, q: Node, p: Node, reason: str, finite: Tensor | None, *, entropy: bool
) -> Term:
    guide, model, log_q = _Weighed.of(q), _Weighed.of(p), _log_q(q["score_parts"])
    value = log_q - p["log_prob"]
    what, kind, exact = (
        f"log {_name(q)}(z) - log {_name(p)}(z)",
        "sampled",
        torch.zeros_like(value),
    )
    if entropy:
        negentropy = _negentropy(guide.base, value)
        if negentropy is None:
            reason = f"{reason}; nor is a closed form of the entropy of {_name(q)} known"
        else:
            kind, what = "entropy", f"-H({_name(q)}) - log {_name(p)}(z)"
            reason = f"{reason}; the entropy of {_name(q)} is exact, the cross-entropy sampled"
            exact, value = guide(negentropy), (-p["log_prob"]).expand(value.shape)
    checks = [_finite(name, exact + value, what, q, p)]
    if finite is not None:  # a draw may be, even where the KL is not
        infinite = model((~finite).to(value.dtype))
        checks.append(Check(~infinite.any(), lambda: _not_finite(name, q, p), name))
    weight = model(torch.ones_like(value))
    route = SiteRoute(kind, reason)
    whole = log_q if kind == "sampled" else None
    return Term(exact, value, weight, route, tuple(checks), log_q=whole)


def _exact(
    name: str, q: Node, p: Node, made: Plan, value: Tensor, *, strict: bool, entropy: bool
) -> Term:
    guide, model = _Weighed.of(q), _Weighed.of(p)
    kind, reason = made.kind, made.how
    sampled, parts = torch.zeros_like(q["log_prob"] - p["log_prob"]), []
    if made.finite is not None:
        value = torch.where(made.finite, value, torch.inf)
    alike = guide.like(model)
    log_q = _LogQ.none(sampled)
    if made.error is not None or not alike:
        log_q = _LogQ.of(guide.base, q["value"], sampled, entropy=entropy)
    if made.error is not None:
        missed = ~(accepted(value, made.error()) | value.isinf())
        sampled = sampled + model(torch.where(missed, log_q.drawn - p["unscaled_log_prob"], 0.0))
        value = torch.where(missed, log_q.exact, value)
        parts.append(missed)
    exact = model(value.to(sampled.dtype)).expand(sampled.shape)
    if not alike:
        reason = f"{reason}; guide and model weigh the site by {guide.told()} and {model.told()}"
        exact = exact + guide(log_q.exact) - model(log_q.exact)
        sampled = sampled + guide(log_q.drawn) - model(log_q.drawn)
        if log_q.known:
            reason = f"{reason}, and the entropy of {_name(q)} makes up for the difference"
        else:
            kind, one = "mixed", torch.ones_like(sampled)
            parts.append(guide(one) != model(one))
    count = torch.stack([part.sum() for part in parts]).sum() if parts else None
    checks = [Check(exact.isfinite().all(), lambda: _not_finite(name, q, p), name)]
    if parts:
        checks.append(_finite(name, sampled, f"log {_name(q)}(z)", q, p))
    if strict and count is not None:
        why = f"{reason}, so that some elements would be sampled"
        checks.append(Check(count == 0, lambda: _refusal(name, q, p, why), name))
    weight = model(torch.ones_like(sampled))
    return Term(exact, sampled, weight, SiteRoute(kind, reason, count), tuple(checks))


class _LogQ(NamedTuple):
    """log q(z), unweighed: what of it is exact and what is taken at the draw."""

    exact: Tensor
    drawn: Tensor
    known: bool

    @classmethod
    def of(cls, base: Any, value: Tensor, like: Tensor, *, entropy: bool) -> _LogQ:
        negentropy = _negentropy(base, like) if entropy else None
        if negentropy is not None:
            return cls(negentropy, torch.zeros_like(like), True)
        return cls(torch.zeros_like(like), _log_q(base.score_parts(value)), False)

    @classmethod
    def none(cls, like: Tensor) -> _LogQ:
        return cls(torch.zeros_like(like), torch.zeros_like(like), False)


def _negentropy(base: Any, like: Tensor) -> Tensor | None:
    """-H(q), as one term holds it; None if it is not known."""
    value = closed_entropy(prepared(base, base.batch_shape, None))
    return None if value is None else -value.to(like.dtype).expand(like.shape)


def _log_q(parts: ScoreParts) -> Tensor:
    """The log q(z) of a draw, with the gradient that `Trace_ELBO` takes of it."""
    path = parts.entropy_term
    if path is parts.log_prob:
        return path
    value = parts.log_prob.detach()
    return value if is_identically_zero(path) else value + (path - path.detach())


class _Weighed(NamedTuple):
    """The distribution of a site, and by what its log density is multiplied."""

    base: Any
    scale: Any
    masks: tuple[Any, ...]

    @classmethod
    def of(cls, node: Node) -> _Weighed:
        base, masks = unexpanded(node), [node["mask"]]
        while isinstance(base, MaskedDistribution):
            masks.append(base._mask)
            base = base.base_dist
        return cls(base, node["scale"], tuple(m for m in masks if m is not None and m is not True))

    def __call__(self, value: Tensor) -> Tensor:
        value = scale_and_mask(value, self.scale)
        for mask in self.masks:
            value = scale_and_mask(value, mask=mask)
        return value

    def like(self, other: _Weighed) -> bool:
        """Whether both are known to weigh alike, without a look into tensors."""
        numbers = not any(isinstance(w.scale, Tensor) for w in (self, other))
        same = self.scale is other.scale or (numbers and self.scale == other.scale)
        return same and {id(m) for m in self.masks} == {id(m) for m in other.masks}

    def told(self) -> str:
        scale = "a tensor" if isinstance(self.scale, Tensor) else f"{self.scale:g}"
        return f"scale {scale} with {len(self.masks) or 'no'} mask{'s'[: len(self.masks) != 1]}"


def _unlike(q: Any, p: Any) -> str | None:
    """Why KL(q || p) is not what two log densities, as masked within an event, come to."""
    if _inner_masks(q) != _inner_masks(p):
        return "guide and model mask the elements of an event differently"
    return None


def _inner_masks(d: Any) -> set[int]:
    found = set()
    while hasattr(d, "base_dist"):
        if isinstance(d, MaskedDistribution) and d._mask is not True:
            found.add(id(d._mask))
        d = d.base_dist
    return found


# ---------------------------------------------------------------------------------------- errors
def _check_shapes(name: str, q: Node, p: Node) -> None:
    shapes = [tuple(node["log_prob"].shape) for node in (q, p)]
    aligned = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    if any(a != b for a, b in aligned):
        raise ValueError(
            f"site {name!r}: the guide's log density has shape {shapes[0]} and the model's "
            f"{shapes[1]}; put both into the same plates."
        )


def _finite(name: str, value: Tensor, what: str, *nodes: Node) -> Check:
    def error() -> ValueError:
        return ValueError(
            f"site {name!r}: {what} is not finite at a draw of the guide, which lies outside a "
            f"support or at the end of what the dtype can hold.{_broken(*nodes)}"
        )

    return Check(value.isfinite().all(), error, name)


def _not_finite(name: str, q: Node, p: Node) -> ValueError:
    told = kl.route(q["fn"], p["fn"])
    if not bool(told.finite.all()):
        return ValueError(
            f"site {name!r}: {_pair(q, p)} is infinite: {told.reason}. Choose a guide whose "
            "support and tails lie within those of the prior."
        )
    return ValueError(f"site {name!r}: {_pair(q, p)} came out as NaN or infinite.{_broken(q, p)}")


def _broken(*nodes: Node) -> str:
    """Whose parameters are not finite, for the end of a message."""
    sides = [
        side
        for side, node in zip(("guide", "model"), nodes, strict=False)
        if not all(bool(t.isfinite().all()) for t in tensors(node["fn"]))
    ]
    return f" A parameter of the {' and of the '.join(sides)} is not finite." if sides else ""


def _refusal(name: str, q: Node, p: Node | None, reason: str) -> kl.NoExactKL:
    what = f"log {_name(q)}(z)" if p is None else _pair(q, p)
    return kl.NoExactKL(
        f"site {name!r}: {what} would have to be sampled, which strict=True refuses: {reason}. "
        "Take strict=False to sample it."
    )


def _pair(q: Node, p: Node) -> str:
    return f"KL({_name(q)} || {_name(p)})"


def _name(node: Node) -> str:
    return distribution_name(node["fn"])
