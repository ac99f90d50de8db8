"""The route of a pair: by which way its KL can be had, told before anything is computed."""

from __future__ import annotations

__all__ = ["Route", "route"]

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.parameters import device_of
from pyro_vae.kl.plan import Plan, plan
from pyro_vae.kl.quadrature import accepted, traced


class Route(NamedTuple):
    """By which way KL(q || p) can be had.

    Arguments:
        kind: "closed" (an exact formula), "quadrature" (one integral, its error estimated),
            "sampled" (no exact way is known, or a quadrature is not exact in some elements),
            "infinite" (in every element) or "undefined" (densities with respect to different
            measures).
        reason: One sentence for people.
        finite: BoolTensor of the broadcast batch shape: where the KL is not known to be infinite
            (all False if undefined).
        error: The estimate of the absolute error of a quadrature, of the batch shape; None for
            closed forms, which are good to rounding, and where it was not asked for.
        source: Who has the form: "torch", "pyro", "pyro_vae", a third party's package, "none".
    """

    kind: str
    reason: str
    finite: Tensor
    error: Tensor | None
    source: str


def route(q: Distribution, p: Distribution, *, with_error: bool = True) -> Route:
    """Tell by which way KL(q || p) = E_q[log q(x) - log p(x)] can be had.

    Arguments:
        q: The guide, of any batch shape.
        p: The prior, its batch shape broadcastable with that of q and of equal event shape.
        with_error: Compute a quadrature (without gradients) in order to know its error, and
            whether it is exact in all elements. Without this the route of such a pair is told
            from its types alone, as it always is inside graphs, where no value is known.

    Returns:
        The route; `finite` has the broadcast batch shape.

    Raises:
        ValueError: If the batch shapes do not broadcast.

    Example:
        >>> import torch.distributions as td
        >>> told = route(td.StudentT(torch.tensor([1.5, 3.0])), td.Normal(0.0, 1.0))
        >>> told.kind, told.finite.tolist()
        ('closed', [False, True])
        >>> route(td.Cauchy(0.0, 1.0), td.Normal(0.0, 1.0)).kind
        'infinite'
        >>> told = route(td.Normal(0.0, 1.0), td.StudentT(5.0))
        >>> told.kind, bool(told.error < 1e-9)
        ('quadrature', True)
    """
    made = plan(q, p)
    if made.kind == "undefined":
        return Route(made.kind, made.why(), _filled(made, q, False), None, "none")
    finite = _filled(made, q, True) if made.finite is None else made.finite
    infinite = 0 if made.finite is None else int((~finite).sum())
    if infinite and infinite == finite.numel():
        return Route("infinite", made.why(), finite, None, made.source)
    kind, reason, error = made.kind, made.how, None
    if made.error is not None and made.value is not None and with_error and not traced():
        with torch.no_grad():
            error, value = made.error(), made.value()
            good = accepted(torch.where(finite, value, 0.0), error)
        if not bool(good.all()):
            kind = "sampled"
            reason = f"{made.how} {made.limit} in {int((~good).sum())} of {good.numel()} elements"
    if infinite:
        reason += f"; infinite in {infinite} of {finite.numel()} elements: {made.why()}"
    return Route(kind, reason, finite, error, made.source)


def _filled(made: Plan, q: Distribution, value: bool) -> Tensor:
    return torch.full(made.batch, value, dtype=torch.bool, device=device_of(q))
