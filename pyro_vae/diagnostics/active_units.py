"""Active units: the latent coordinates whose posterior mean moves with the data."""

from __future__ import annotations

__all__ = ["ACTIVE", "Activity", "active_units", "activity"]

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_vae.diagnostics.passes import Pass
from pyro_vae.diagnostics.shelf import Finding, NotApplicable, register, step
from pyro_vae.diagnostics.weights import BLOCK_SIZE, Stream

ACTIVE = 0.01
"""The variance of the posterior mean above which a coordinate is called active."""

THRESHOLDS = np.logspace(-4, 0, 17)
"""Where the number of active units is told, to see how far it hangs on the threshold."""


class Activity(NamedTuple):
    """Variances by latent coordinate, of shape (latent,).

    Arguments:
        between: Var_x E_q(z | x), not biased by the number of draws.
        std_error: Its standard error over data.
        within: E_x Var_q(z | x).
    """

    between: Tensor
    std_error: Tensor
    within: Tensor


def activity(walk: Pass) -> Activity:
    """Variances of the guide between and within data, over all blocks of a pass."""
    means, variances = [], []
    for number, _, batch in walk.blocks():
        with walk.aside():
            draws = walk.draws(batch, number)
        mean, variance = zip(
            *(_moments(walk, n, draws[n]) for n in walk.names),
            strict=True,
        )
        means.append(mean)
        variances.append(torch.cat(variance, -1))
    within = torch.cat(variances)
    # sites of angles have two numbers for each coordinate, the others one
    away = torch.cat([_away(torch.cat(site)) for site in zip(*means, strict=True)], -1)
    by_datum = away - within / walk.stream.num_samples
    error = by_datum.std(0) / len(by_datum) ** 0.5
    return Activity(by_datum.mean(0), error, within.mean(0))


def _moments(walk: Pass, name: str, draws: Tensor) -> tuple[Tensor, Tensor]:
    points = walk.coordinates[name].points(walk.flat(name, draws)).cpu()
    return points.mean(0), points.var(0).sum(-1)


def _away(points: Tensor) -> Tensor:
    """Squared distances from the mean over data, whose mean is the unbiased variance."""
    count = len(points)
    return (points - points.mean(0)).square().sum(-1) * count / (count - 1)


def _judge(table: xr.Dataset) -> list[Finding]:
    active, latents = table.attrs["num_active_units"], table.sizes["latent"]
    limit = table.attrs["activity_threshold"]
    near = table.active_units.sel(threshold=[limit * 10, limit / 10], method="nearest").values
    text = (
        f"{active} of {latents} latent coordinates are active (posterior means vary by more than "
        f"{limit:g}; {near[0]} by ten times that, {near[1]} by a tenth)"
    )
    advice = "fewer latents, a smaller beta at first, free_bits, or a weaker decoder."
    if active == latents:
        return [Finding("good", f"{text}.")]
    return [Finding("care" if active else "bad", f"{text}.", advice)]


@register
@step(order=52, judge=_judge)
def active_units(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    seed: int = 0,
    threshold: float = ACTIVE,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = BLOCK_SIZE,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    r"""Var_x E_q[z_d | x] by latent coordinate, and how many exceed 0.01: the active units.

    The variance over data of means of S draws, less the part that is due to S being finite. The
    customary threshold of 0.01 presumes a prior of unit scale, so the number of active units is
    told for many thresholds, and for the relative activity, the share of the variance of the
    aggregate posterior that lies between data, which is in [0, 1] whatever the scale. An angle
    varies as the point (cos, sin), a class as a one-hot vector.

    Arguments:
        model: A Pyro model with a plate over data.
        guide: Its guide.
        *args: Positional arguments of both.
        num_samples: S, the number of draws of the guide by datum, at least 2.
        seed: Of the draws.
        threshold: For `num_active_units`.
        plate: As in `Stream`.
        batch_size: As in `Stream`; results do not depend on it.
        block_size: As in `Stream`.
        progress: As in `Stream`.
        **kwargs: Keyword arguments of both programs.

    Returns:
        By `latent`: `activity` with its standard error, `relative_activity`, and
        `posterior_variance`, E_x Var_q(z_d | x); by `threshold`: `active_units` and
        `active_units_relative`; in attrs `num_active_units` and `activity_threshold`.

    Raises:
        NotApplicable: If there are fewer than 2 draws or data.

    References:
        Importance weighted autoencoders (Y. Burda, R. Grosse, R. Salakhutdinov, 2016)

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         loc = torch.stack([x / 2, 0 * x], -1)
        ...         pyro.sample("z", dist.Normal(loc, torch.tensor([0.7, 1.0])).to_event(1))
        >>> active_units(model, guide, torch.linspace(-2, 2, 100)).attrs["num_active_units"]
        1
    """
    if num_samples < 2:
        raise NotApplicable(f"active units need num_samples of at least 2, not {num_samples}.")
    stream = Stream(
        model,
        guide,
        *args,
        num_samples=num_samples,
        seed=seed,
        plate=plate,
        batch_size=batch_size,
        block_size=block_size,
        progress=progress,
        **kwargs,
    )
    if stream.size < 2:
        raise NotApplicable("active units need at least 2 data, of which there is 1.")
    walk = Pass(stream, "active units")
    found = activity(walk)
    relative = found.between / (found.between + found.within)
    return xr.Dataset(
        {
            "activity": (("latent",), found.between.numpy()),
            "activity_std_error": (("latent",), found.std_error.numpy()),
            "relative_activity": (("latent",), relative.numpy()),
            "posterior_variance": (("latent",), found.within.numpy()),
            "active_units": (("threshold",), _counts(found.between)),
            "active_units_relative": (("threshold",), _counts(relative)),
        },
        coords={
            "latent": walk.labels,
            "latent_site": ("latent", walk.sites),
            "threshold": THRESHOLDS,
        },
        attrs={
            **stream.attrs,
            "num_active_units": int((found.between > threshold).sum()),
            "activity_threshold": threshold,
        },
    )


def _counts(values: Tensor) -> np.ndarray:
    return (values.numpy()[:, None] > THRESHOLDS).sum(0)
