"""Exact KL divergence, or a refusal that says what is left."""

from __future__ import annotations

__all__ = ["NoExactKL", "divergence"]

from typing import Literal, overload

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.parameters import dtype_of
from pyro_vae.kl.plan import Plan, plan
from pyro_vae.kl.quadrature import accepted, traced


class NoExactKL(NotImplementedError):
    """No exact way to this KL is known; `kl.estimate` samples it."""


@overload
def divergence(
    q: Distribution, p: Distribution, *, with_error: Literal[False] = False
) -> Tensor: ...


@overload
def divergence(
    q: Distribution, p: Distribution, *, with_error: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def divergence(
    q: Distribution, p: Distribution, *, with_error: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """KL(q || p) = E_q[log q(x) - log p(x)], exactly.

    Wrappers (`Independent`, `Expanded`, `Masked`, shared bijections) are looked through; a mask
    on either side multiplies the KL. A `Delta` guide counts as log_density - log p(v), which is
    what it contributes to an ELBO. Parameters are read in float64 and the result is cast back.

    Arguments:
        q: The guide, of any batch shape.
        p: The prior, its batch shape broadcastable with that of q and of equal event shape.
        with_error: Return also an estimate of the absolute numerical error, and leave it to
            the caller whether it is small enough. This is the form for use inside graphs
            (`make_fx`, `torch.compile`, `torch.func`), where no value can be looked at: without
            it, an element of a quadrature that is not exact comes out as NaN there.

    Returns:
        The KL in nats, of the broadcast batch shape, differentiable twice in the parameters of
        both; +inf with zero gradient in the elements where it is infinite. With `with_error`, the
        pair (value, error), the error 0 for closed forms and wherever the KL is infinite, +inf
        (and the value NaN) where a quadrature failed.

    Raises:
        NoExactKL: If no exact way is known (and not all elements are infinite), or the error of
            a quadrature exceeds 1e-7 max(1, KL) in some elements.
        ValueError: If the KL is undefined, or the batch shapes do not broadcast.

    Example:
        >>> import torch.distributions as td
        >>> q = td.Gamma(torch.tensor([2.0, 3.0]), 1.0)
        >>> divergence(q, td.LogNormal(0.0, 1.0)).shape
        torch.Size([2])
        >>> divergence(td.Cauchy(0.0, 1.0), td.Normal(0.0, 1.0))
        tensor(inf)
    """
    made = plan(q, p)
    if made.kind == "undefined":
        raise ValueError(f"KL({_name(q)} || {_name(p)}) is undefined: {made.why()}.")
    value, dtype = _value(made, q, p), dtype_of(q, p)
    error = torch.zeros_like(value).detach() if made.error is None else made.error()
    if with_error:
        return value.to(dtype), error.to(dtype)
    return value.to(dtype) if made.error is None else _exact(made, value, error).to(dtype)


def _exact(made: Plan, value: Tensor, error: Tensor) -> Tensor:
    """The value of a quadrature where its error is small enough."""
    good = accepted(value, error)
    if traced():
        return torch.where(good, value, torch.nan)
    if bool(good.all()):
        return value
    raise NoExactKL(
        f"{made.how} {made.limit} in {int((~good).sum())} of {good.numel()} elements. What is "
        "left is to sample it, kl.estimate(q, p), or to look at the errors, "
        "kl.divergence(q, p, with_error=True)."
    )


def _value(made: Plan, q: Distribution, p: Distribution) -> Tensor:
    if made.value is not None:
        value = made.value()
        return value if made.finite is None else torch.where(made.finite, value, torch.inf)
    if made.finite is not None and not bool(made.finite.any()):
        return torch.full(made.batch, torch.inf, dtype=dtype_of(q, p), device=made.finite.device)
    raise NoExactKL(
        f"{made.how}. What is left is to sample it: kl.estimate(q, p) returns a mean with its "
        "standard error and Pareto k. If you know the form, register it with "
        f"@kl.register({type(q).__name__}, {type(p).__name__})."
    )


def _name(d: Distribution) -> str:
    return type(d).__name__
