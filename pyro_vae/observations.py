"""What a VAE asks of the data it is given: no NaN, legal values, the right shape, masks.

A Bernoulli scores grey pixels without complaint if validation is off, and a `where` after
`log_prob` lets a NaN under a mask poison every gradient. So data are looked at before they are
scored, and what is masked is replaced before it is seen.
"""

from __future__ import annotations

__all__ = ["check_likelihood", "check_support", "masked", "observed"]

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae.checks import require
from pyro_vae.distributions import MixtureSameFamily
from pyro_vae.families import fitting_data
from pyro_vae.supports import data_support, legal_point, space_of


def observed(x: Tensor, mask: Tensor | None, fill: float) -> Tensor:
    """Return x with masked entries replaced by a legal value.

    Arguments:
        x: Data, with shape `(batch, *event_shape)`.
        mask: None, or True where x was observed, with shape `(batch,)` or broadcasting to
            that of x.
        fill: The value that stands in for masked entries.

    Returns:
        Data with the shape of x; integers and booleans become the default float type.

    Raises:
        TypeError: If x is not a tensor or the mask is not boolean.
        ValueError: If x has no batch dimension or is NaN or infinite where not masked.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, not a {type(x).__name__}; use torch.as_tensor(x).")
    if x.dim() == 0:
        raise ValueError("x must have shape (batch, *event_shape), but is a single number.")
    if not x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    if mask is not None:
        x = torch.where(_aligned(mask, x), x, torch.full_like(x, fill))
    finite = x.isfinite()
    require(finite.all(), lambda: _not_finite(x, finite))
    return x


def masked(likelihood: TorchDistribution, mask: Tensor) -> TorchDistribution:
    """Return the likelihood of the observed entries alone.

    Arguments:
        likelihood: p(x|z), with batch shape `(*particles, batch)`.
        mask: True where x was observed, with shape `(batch,)` or broadcasting to that of x.

    Raises:
        ValueError: If single entries are masked of a likelihood that does not factorise.
    """
    if mask.dim() <= 1:
        return likelihood.mask(mask)
    base: Any = likelihood
    while isinstance(base, dist.Independent):
        base = base.base_dist
    if base.event_shape and isinstance(base, MixtureSameFamily):
        return base.of_entries(mask)
    if base.event_shape:
        raise ValueError(
            f"a {type(base).__name__} likelihood does not factorise over entries, so single "
            "entries cannot be masked; mask whole data points (a mask of shape (batch,))."
        )
    return base.mask(mask).to_event(len(likelihood.event_shape))


def check_likelihood(likelihood: Any, batch: torch.Size, x: Tensor | None) -> None:
    """Raise if p(x|z) is no Pyro distribution or its shapes do not fit z and x.

    Arguments:
        likelihood: What the decoder returned.
        batch: The batch shape of z.
        x: The data, or None.
    """
    if not (isinstance(likelihood, torch.distributions.Distribution) and callable(likelihood)):
        raise TypeError(
            f"the decoder returned a {type(likelihood).__module__}.{type(likelihood).__name__}; "
            "it must return a Pyro distribution."
        )
    name, event = _name(likelihood), tuple(likelihood.event_shape)
    if tuple(likelihood.batch_shape) not in ((), tuple(batch)):
        raise ValueError(
            f"the decoder returned a {name} with batch shape {tuple(likelihood.batch_shape)} and "
            f"event shape {event} for latents of batch shape {tuple(batch)}; the batch shapes "
            "must be equal. Is .to_event(1) missing?"
        )
    if x is not None and tuple(x.shape[1:]) != event:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, but one draw of the {name} likelihood has shape "
            f"{event}; x must have shape {('batch', *event)}."
        )


def check_support(x: Tensor, likelihood: TorchDistribution, mask: Tensor | None) -> Tensor:
    """Raise if observed values lie outside the support of the likelihood, naming the cure.

    Arguments:
        x: Data without NaN, with shape `(batch, *event_shape)`.
        likelihood: p(x|z).
        mask: None, or True where x was observed.

    Returns:
        x, its masked entries replaced by legal ones.

    Raises:
        ValueError: With the values, the support, and the likelihoods that would fit.
    """
    support: Any = data_support(likelihood)
    if mask is not None:
        x = torch.where(_aligned(mask, x), x, legal_point(support, x))
    legal = support.check(x)
    require(legal.all(), lambda: _outside(x, legal, likelihood))
    return x


def _not_finite(x: Tensor, finite: Tensor) -> ValueError:
    missing = x.isnan()
    wrong, what = (missing, "NaN") if bool(missing.any()) else (~finite, "infinite")
    rows = wrong.reshape(len(wrong), -1).any(-1)
    return ValueError(
        f"x has {int(wrong.sum())} {what} entries in {int(rows.sum())} of {len(rows)} data "
        f"(first in row {int(rows.nonzero()[0])}). Missing values are passed by mask=, a "
        "boolean tensor that is True where x was observed."
    )


def _outside(x: Tensor, legal: Tensor, likelihood: TorchDistribution) -> ValueError:
    element: Any = data_support(likelihood)
    while isinstance(element, dist.constraints.independent):
        element = element.base_constraint
    rows = (~legal).nonzero()[:, 0]
    offending = x[~element.check(x)] if element.event_dim == 0 else x[rows[0]]
    shown = ", ".join(f"{v:g}" for v in offending.flatten()[:3].tolist())
    where = getattr(element, "description", space_of(element).name)
    fit = ", ".join(f"fam.{name}" for name in fitting_data(x)) or "none on the shelf"
    return ValueError(
        f"x lies outside the support of the {_name(likelihood)} likelihood "
        f"({where}) in {len(rows)} of {len(x)} data: values such as {shown} "
        f"(row {int(rows[0])}); x ranges over [{float(x.min()):g}, {float(x.max()):g}]. "
        f"Likelihoods that fit: {fit}; or bring the data into the support "
        f"(datasets.binarize makes grey data binary{_levels(x)})."
    )


def _levels(x: Tensor) -> str:
    """What to say of grey levels that were divided by 255."""
    levels = 255 * x
    grey = (x >= 0).all() & (x <= 1).all() & ((levels - levels.round()).abs() < 1e-3).all()
    return "; 255 x are grey levels, for fam.DiscretizedLogistic" if bool(grey) else ""


def _aligned(mask: Tensor, x: Tensor) -> Tensor:
    """The mask with as many dimensions as x, or the error that says what it must be."""
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean (True = observed), not {mask.dtype}.")
    if mask.dim() == 1 and len(mask) == len(x):
        return mask.reshape(-1, *[1] * (x.dim() - 1))
    sizes = zip(mask.shape, x.shape, strict=False)
    fits = mask.dim() == x.dim() and all(m in (1, n) for m, n in sizes)
    if not fits:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; it must have shape ({len(x)},) or broadcast to "
            f"that of x, {tuple(x.shape)}."
        )
    return mask


def _name(d: Any) -> str:
    while isinstance(d, dist.Independent):
        d = d.base_dist
    return type(d).__name__
