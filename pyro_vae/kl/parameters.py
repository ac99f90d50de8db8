"""What a form sees of a distribution: parameters in float64, broadcast, and gated.

Cancellation makes closed forms of KL lose all digits in float32 (Beta(1e4, 1e4) against
Beta(1.1e4, 1.1e4) comes out as 0), so forms are evaluated in float64 and only the result is cast
back. And where a KL is infinite, derivatives of the form are NaN, which `torch.where` on the
result does not stop (0 * inf is NaN). It is stopped at the other end: in those elements each
parameter is replaced by its detached self, so that whatever arrives there goes no further.
"""

from __future__ import annotations

__all__ = ["KNOWN", "device_of", "dtype_of", "known", "prepared", "tensors", "unvalidated"]

import copy
from collections.abc import Callable, Iterator
from typing import TypeGuard

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.kl.table import same_class

KNOWN = ("torch.distributions.", "pyro.distributions.", "pyro_vae.distributions.")
"""Where the classes are defined whose attributes are known to be parameters."""


def tensors(d: Distribution) -> Iterator[Tensor]:
    """Yield the floating-point tensors that `d` and the distributions inside it hold.

    Arguments:
        d: A distribution.

    Yields:
        Each tensor attribute.

    Example:
        >>> [t.item() for t in tensors(td.Normal(0.0, 2.0))]
        [0.0, 2.0]
    """
    for value in vars(d).values():
        if isinstance(value, Distribution):
            yield from tensors(value)
        elif _are_distributions(value):
            for inner in value:
                yield from tensors(inner)
        elif isinstance(value, Tensor) and value.is_floating_point():
            yield value


def dtype_of(*distributions: Distribution) -> torch.dtype:
    """Return the dtype to which the parameters of all these distributions promote.

    Arguments:
        *distributions: Distributions.

    Returns:
        The common floating-point dtype (the default dtype if none holds a float).

    Example:
        >>> dtype_of(td.Normal(0.0, torch.tensor(1.0)), td.Poisson(torch.tensor(1.0).double()))
        torch.float64
    """
    found = [t.dtype for d in distributions for t in tensors(d)]
    result = found[0] if found else torch.get_default_dtype()
    for dtype in found:
        result = torch.promote_types(result, dtype)
    return result


def device_of(d: Distribution) -> torch.device:
    """Return the device of the first parameter of `d` (the CPU if it holds none).

    Arguments:
        d: A distribution.

    Returns:
        The device.

    Example:
        >>> device_of(td.Normal(0.0, 1.0))
        device(type='cpu')
    """
    return next((t.device for t in tensors(d)), torch.device("cpu"))


def prepared(d: Distribution, batch: torch.Size, finite: Tensor | None) -> Distribution:
    """Return `d` as a form wants it: of batch shape `batch`, in float64, gated by `finite`.

    Arguments:
        d: A distribution whose batch shape broadcasts to `batch`. A class that belongs neither
            to torch nor to Pyro nor to this package is passed on as it is, since nobody else
            knows what its attributes mean.
        batch: The batch shape wanted.
        finite: Shape `batch`, False where no gradient may pass; None for everywhere True.

    Returns:
        A distribution of the same class.

    Example:
        >>> prepared(td.Normal(0.0, torch.ones(3)), torch.Size([2, 3]), None).loc.shape
        torch.Size([2, 3])
    """
    if not known(d):
        return d
    d = _mapped(d, Tensor.double)
    if isinstance(d, td.LowRankMultivariateNormal):
        # its Cholesky factor was taken in the old precision
        d = td.LowRankMultivariateNormal(d.loc, d.cov_factor, d.cov_diag, validate_args=False)
    if d.batch_shape != batch:
        d = d.expand(batch)
    return d if finite is None else _mapped(d, lambda t: _gated(t, finite))


def unvalidated(d: Distribution) -> Distribution:
    """Return a copy of `d` that scores any value without an argument check.

    Arguments:
        d: A distribution.

    Returns:
        A shallow copy, the distributions inside it copied as well.

    Example:
        >>> unvalidated(td.Exponential(1.0)).log_prob(torch.tensor(-1.0)).item()
        1.0
    """
    return _mapped(d, lambda t: t)


def known(d: Distribution) -> bool:
    """Say whether all that `d` holds is parameters, as far as torch, Pyro and this package go.

    Arguments:
        d: A distribution.

    Returns:
        False for a class of a third party, and for whatever is carried by maps.

    Example:
        >>> known(td.Normal(0.0, 1.0))
        True
    """
    values = vars(d).values()
    inside = [v for v in values if isinstance(v, Distribution)]
    inside += [v for several in values if _are_distributions(several) for v in several]
    own = type(d).__module__.startswith(KNOWN) and not same_class(d, td.TransformedDistribution)
    return own and all(known(v) for v in inside)


def _mapped(d: Distribution, change: Callable[[Tensor], Tensor]) -> Distribution:
    """Copy `d` with every floating-point tensor changed."""
    new = copy.copy(d)
    for name in _derived(d):
        del vars(new)[name]
    for name, value in list(vars(new).items()):
        if isinstance(value, Distribution):
            vars(new)[name] = _mapped(value, change)
        elif _are_distributions(value):
            vars(new)[name] = tuple(_mapped(inner, change) for inner in value)
        elif isinstance(value, Tensor) and value.is_floating_point():
            vars(new)[name] = change(value)
    # last, for Pyro's Independent hands it on to its base, which until here was the caller's
    new._validate_args = False  # type: ignore[attr-defined]
    return new


def _are_distributions(value: object) -> TypeGuard[tuple[Distribution, ...]]:
    """Whether an attribute holds several distributions, as the blocks of a product."""
    if not isinstance(value, tuple) or not value:
        return False
    return all(isinstance(v, Distribution) for v in value)


def _derived(d: Distribution) -> list[str]:
    """Which of probs and logits was computed from the other, and is known to fewer digits."""
    primary = vars(d).get("_param")
    both = [name for name in ("probs", "logits") if name in vars(d)]
    if primary is None or len(both) < 2:
        return []
    return [name for name in both if vars(d)[name] is not primary]


def _gated(t: Tensor, finite: Tensor | None) -> Tensor:
    """Stop the gradient of `t` where `finite` is False."""
    if finite is None or t.shape[: finite.dim()] != finite.shape:
        return t
    gate = finite.reshape(finite.shape + (1,) * (t.dim() - finite.dim()))
    return torch.where(gate, t, t.detach())
