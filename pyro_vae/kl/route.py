"""The route of a pair: by which way its KL can be had, told before anything is computed."""

from __future__ import annotations

__all__ = ["Route", "route"]

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.parameters import device_of
from pyro_vae.kl.plan import Plan, plan


class Route(NamedTuple):
    """By which way KL(q || p) can be had.

    Arguments:
        kind: "closed" (an exact formula), "sampled" (no exact way is known), "infinite" (in
            every element) or "undefined" (densities with respect to different measures).
        reason: One sentence for people.
        finite: BoolTensor of the broadcast batch shape: where the KL is not known to be infinite
            (all False if undefined).
        error: An estimate of the numerical error where there is one, of the batch shape; None
            for closed forms, which are good to rounding.
        source: Who has the form: "torch", "pyro", "pyro_vae", a third party's package, "none".
    """

    kind: str
    reason: str
    finite: Tensor
    error: Tensor | None
    source: str


def route(q: Distribution, p: Distribution) -> Route:
    """Tell by which way KL(q || p) = E_q[log q(x) - log p(x)] can be had.

    Arguments:
        q: The guide, of any batch shape.
        p: The prior, its batch shape broadcastable with that of q and of equal event shape.

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
    """
    made = plan(q, p)
    if made.kind == "undefined":
        return Route(made.kind, made.why(), _filled(made, q, False), None, "none")
    if made.finite is None:
        return Route(made.kind, made.how, _filled(made, q, True), None, made.source)
    infinite = int((~made.finite).sum())
    if infinite == 0:
        return Route(made.kind, made.how, made.finite, None, made.source)
    if infinite == made.finite.numel():
        return Route("infinite", made.why(), made.finite, None, made.source)
    reason = f"{made.how}; infinite in {infinite} of {made.finite.numel()} elements: {made.why()}"
    return Route(made.kind, reason, made.finite, None, made.source)


def _filled(made: Plan, q: Distribution, value: bool) -> Tensor:
    return torch.full(made.batch, value, dtype=torch.bool, device=device_of(q))
