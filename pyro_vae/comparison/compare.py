"""`compare`: the KL of each latent site, analytic and sampled, and ELBOs side by side.

Analytic and sampled KL have the same expectation, but not the same noise. An analytic KL has
no variance of its own, yet it cannot cancel the noise of the likelihood, as a sampled one does:
it often makes the loss noisier and the gradient quieter, and near the exact posterior the
sampled KL wins. So the noise of the loss and of the gradient are separate columns.
"""

from __future__ import annotations

__all__ = ["compare"]

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
import xarray as xr
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO

from pyro_vae.comparison.batches import batch_weights, merged
from pyro_vae.comparison.calls import call_elbo
from pyro_vae.comparison.draws import draw_sites
from pyro_vae.comparison.mean_field import biased_sites
from pyro_vae.comparison.rehearsal import rehearse
from pyro_vae.comparison.tables import FINDINGS, P_LIMIT, Z_LIMIT, by_elbo, by_site
from pyro_vae.infer import TraceExactKL_ELBO
from pyro_vae.infer.batches import cut
from pyro_vae.infer.guard import random_state, set_random_state, untouched


def compare(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_particles: int = 100,
    elbos: Sequence[type[ELBO] | ELBO] = (Trace_ELBO, TraceMeanField_ELBO, TraceExactKL_ELBO),
    plate: str | None = None,
    batch_size: int | None = None,
    **kwargs: Any,
) -> xr.Dataset:
    """Compare analytic and sampled KL(q || p) by site and datum, and ELBO classes by call.

    KL(q || p) = E_q[log q(z) - log p(z)], sampled by the mean of log q - log p over draws of the
    guide; z score = (analytic - sampled) / standard error, from paired draws.

    Nothing of the caller's is changed: parameters, gradients, buffers, the parameter store and
    the random state are as they were.

    Arguments:
        model: A Pyro model with a plate over data, called as `model(*args, **kwargs)`.
        guide: Its guide.
        *args: Positional arguments of both.
        num_particles: The number of independent draws, and of calls of each ELBO (>= 3).
        elbos: ELBO classes, or instances with options; the first is the reference. By default
            Pyro's sampled and mean-field ELBOs, and `infer.TraceExactKL_ELBO`.
        plate: The name of the data plate; by default the outermost plate common to the
            observed sites. Inner plates are summed; sites outside it appear in totals only.
        batch_size: The number of data to run at once; tensors whose first dimension is the
            number of data are cut. By default all data are run at once.
        **kwargs: Keyword arguments of both.

    Returns:
        A Dataset with dims `site`, `data`, `elbo`, `parameter`, in nats. By site and datum (not
        scaled): `kl_analytic` (by our engine, or torch's or Pyro's form; NaN if there is none),
        `kl_sampled` with `kl_sampled_std_error`, `kl_z_score` and `kl_pareto_k`, and for Gaussian
        mixtures, whose KL is sampled, bounds that hold always, `kl_lower` and `kl_upper`
        (`kl.bounds`; NaN where none are known, or the exact KL is); by site:
        their totals, the route and its source, what `TraceMeanField_ELBO` does and why, its KL
        (`kl_mean_field_total`) with a z score of its own, the terms both ELBOs subtract
        (scaled and masked as they do: `trace_term`, `mean_field_term`), and `findings`; by
        ELBO: `loss`, `loss_std` of one call, `seconds`; by ELBO and parameter: `gradient_norm`
        (of the mean), `gradient_std` (of one call), `gradient_snr`, and whether it agrees with
        the first ELBO's.

    Raises:
        ValueError: If there is no data plate, if a latent site is missing from the guide, if
            `num_particles` < 3, or if the data cannot be cut into batches.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Laplace(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.7))
        >>> table = compare(model, guide, torch.zeros(5))
        >>> str(table.mean_field_route.item()), table.kl_analytic.shape
        ('analytic', (1, 5))
    """
    if num_particles < 3:
        raise ValueError(f"num_particles must be at least 3 for an error, not {num_particles}.")
    instances = [elbo() if isinstance(elbo, type) else elbo for elbo in elbos]
    names = _unique([type(elbo).__name__ for elbo in instances])
    pieces = list(cut(args, kwargs, batch_size))
    with untouched(model, guide):
        start = random_state()
        parameters, unannounced = rehearse(model, guide, *pieces[0])
        set_random_state(start)  # the draws are those of an ELBO called from the caller's state
        drawn = [
            draw_sites(model, guide, a, k, num_draws=num_particles, plate=plate) for a, k in pieces
        ]
        weights = batch_weights([d.frame for d in drawn], [d.sites for d in drawn])
        sites = [merged(parts, weights) for parts in zip(*(d.sites for d in drawn), strict=True)]
        biased = biased_sites(model, guide, *pieces[0])
        batches = [(a, k, w) for (a, k), w in zip(pieces, weights, strict=True)]
        calls = {
            name: call_elbo(elbo, model, guide, batches, [d.states for d in drawn], parameters)
            for name, elbo in zip(names, instances, strict=True)
        }
    table = by_site(sites, biased).merge(by_elbo(calls, list(parameters)))
    return table.assign_attrs(
        units="nats",
        num_particles=num_particles,
        batch_size=batch_size or 0,
        plate=drawn[0].frame.name,
        parameters_not_announced=unannounced,
        findings=json.dumps(FINDINGS),
        z_limit=Z_LIMIT,
        p_limit=P_LIMIT,
        torch_version=str(torch.__version__),
        pyro_version=str(pyro.__version__),
    )


def _unique(names: list[str]) -> list[str]:
    """The names, numbered where they recur."""
    return [
        name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]
