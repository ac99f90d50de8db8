"""One cell: a VAE with one guide and one prior, trained, then compared.

Training minimises `Trace_ELBO`, which applies to every pair: it needs log q and log p alone,
whereas `TraceMeanField_ELBO` refuses guides that are not reparameterised. What the two then say
of the trained VAE is measured on held-out data by `compare`.
"""

from __future__ import annotations

__all__ = ["ELBOS", "FINDINGS", "VARIABLES", "Variable", "build", "measure", "untrained_elbo"]

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_vae import comparison, kl
from pyro_vae.comparison import compare
from pyro_vae.networks import MLP
from pyro_vae.pairings.members import Factory, OfEncoder
from pyro_vae.pairings.settings import Settings
from pyro_vae.training import fit
from pyro_vae.vae import VAE

ELBOS = (Trace_ELBO, TraceMeanField_ELBO)
COLLAPSE = 0.1
FINDINGS = {
    **comparison.FINDINGS,
    "posterior_collapse": f"the KL is below {COLLAPSE} nats per datum: the guide hardly looks at "
    "the data, and the decoder hardly at z",
    "gradients_differ": "the expected gradients of Trace_ELBO and TraceMeanField_ELBO differ",
}
PROBE_ROWS = 64


class Variable(NamedTuple):
    """What one variable of the result holds.

    Arguments:
        long_name: What it is, in words.
        units: "nats", "s", or empty.
        missing: What stands in a cell that has none: NaN, or an empty text.
        by_elbo: Whether it has one value for each ELBO class.
    """

    long_name: str
    units: str = ""
    missing: float | str = math.nan
    by_elbo: bool = False


VARIABLES = {
    "elbo_per_datum": Variable("ELBO per held-out datum, by Trace_ELBO", "nats"),
    "elbo_per_datum_std_error": Variable(
        "standard error of elbo_per_datum, over draws of the guide", "nats"
    ),
    "kl_route": Variable("how KL(q || p) is computed exactly, or why not", missing=""),
    "kl_source": Variable("who has the closed form", missing=""),
    "mean_field_route": Variable("what TraceMeanField_ELBO does with the KL", missing=""),
    "kl_analytic": Variable("KL(q || p) per held-out datum, analytic", "nats"),
    "kl_lower": Variable("lower bound on a sampled KL, for mixtures of Gaussians", "nats"),
    "kl_upper": Variable("upper bound on a sampled KL, for mixtures of Gaussians", "nats"),
    "kl_sampled": Variable("KL(q || p) per held-out datum, sampled", "nats"),
    "kl_sampled_std_error": Variable("standard error of kl_sampled", "nats"),
    "pareto_k": Variable("Pareto k of q against p, median over held-out data"),
    "gradient_snr": Variable(
        "norm of the mean gradient of the guide over the deviation of one call", by_elbo=True
    ),
    "loss_std": Variable(
        "standard deviation of one call, over all held-out data", "nats", by_elbo=True
    ),
    "findings": Variable("what compare found, codes separated by semicolons", missing=""),
    "seconds": Variable("time to train and compare", "s"),
}


def build(
    guide: Factory,
    prior: Factory | OfEncoder,
    likelihood: Callable[..., Any],
    event_shape: tuple[int, ...],
    settings: Settings,
    data: Tensor | None = None,
) -> VAE:
    """Return the VAE of a cell: one hidden layer before the guide, one before the likelihood.

    A prior made of the encoder shares it, and starts from rows of the data, taken at random.

    Arguments:
        guide: The factory of the guide.
        prior: The factory of the prior.
        likelihood: `(event_shape, context) -> family`.
        event_shape: The shape of a datum.
        settings: The sizes.
        data: Training data, with shape `(n, *event_shape)`; zeros stand for them if a state dict
            is to be loaded.
    """
    scaling = likelihood(event_shape, 0).scaling()
    if isinstance(prior, OfEncoder):
        q = guide(settings.latent, settings.hidden, None)
        encoder = nn.Sequential(*scaling, MLP(event_shape, settings.hidden), q)
        p = prior.make(encoder, _rows(data, event_shape, settings.components))
    else:
        p = prior(settings.latent, 0, None)
        q = guide(settings.latent, settings.hidden, p)
        encoder = nn.Sequential(*scaling, MLP(event_shape, settings.hidden), q)
    draw = p.event_shape if hasattr(p, "event_shape") else p().event_shape
    decoder = nn.Sequential(MLP(draw, settings.hidden), likelihood(event_shape, settings.hidden))
    return VAE(prior=p, encoder=encoder, decoder=decoder).to(settings.device)


def _rows(data: Tensor | None, event_shape: tuple[int, ...], count: int) -> Tensor:
    if data is None:
        return torch.zeros(count, *event_shape)
    return data[torch.randperm(len(data))[:count]]


def untrained_elbo(vae: VAE, x: Tensor) -> float:
    """Return one draw of the ELBO of a VAE on the first rows of x, in nats.

    It depends on everything that the networks, the guide, the prior and the likelihood compute,
    and so tells whether a stored cell came from the same ones.
    """
    with torch.no_grad():
        return -Trace_ELBO().loss(vae.model, vae.guide, x[:PROBE_ROWS])


def measure(vae: VAE, train: Tensor, held_out: Tensor, settings: Settings) -> dict[str, Any]:
    """Train a VAE and compare its KL and ELBOs on held-out data.

    A pair whose KL is infinite for every value of its parameters is not trained: its ELBO is
    minus infinity, whatever the draws say.

    Arguments:
        vae: The VAE, on the device.
        train: Training data, with shape `(n, *event_shape)`.
        held_out: The data to compare on, with shape `(m, *event_shape)`.
        settings: How to train and compare.

    Returns:
        The value of each of `VARIABLES`; a list where it has one for each ELBO class.

    Raises:
        ArithmeticError: If training ends with an ELBO that is not finite.
    """
    start = time.perf_counter()
    infinite = _route(vae, held_out) == "infinite"
    if not infinite:
        _train(vae, train, settings)
    result = compare(
        vae.model, vae.guide, held_out, num_particles=settings.num_particles, elbos=ELBOS
    )
    values = _reduced(result, len(held_out))
    if infinite:
        values |= {"elbo_per_datum": -math.inf, "elbo_per_datum_std_error": math.nan}
    elif not math.isfinite(values["elbo_per_datum"]):
        failure = str(result["failure"].values[0])
        raise ArithmeticError(failure or f"the ELBO after training is {values['elbo_per_datum']}")
    return values | {"seconds": time.perf_counter() - start}


def _train(vae: VAE, train: Tensor, settings: Settings) -> None:
    fit(
        vae,
        train,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=settings.learning_rate),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        progress=False,
    )


def _route(vae: VAE, x: Tensor) -> str:
    with torch.no_grad():
        q, p = vae.guide.encoder.z(x[:1]), vae.model.prior.z()  # type: ignore[operator]
        return kl.route(q, p).kind


def _reduced(result: xr.Dataset, data: int) -> dict[str, Any]:
    """A comparison by site, datum and parameter as one value for each variable."""
    site = result.sel(site="z")
    mine = [str(name).startswith("guide.") for name in result["parameter"].values]
    gradients = result.isel(parameter=np.flatnonzero(mine))
    norm, noise = (
        (gradients[name] ** 2).sum("parameter", skipna=False).values ** 0.5
        for name in ("gradient_norm", "gradient_std")
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing moves, or nothing is noisy
        snr = norm / noise
    pareto, sampled = site["kl_pareto_k"].values, float(site["kl_sampled_total"]) / data
    findings = [code.strip() for code in str(site["findings"].item()).split(";") if code]
    findings += ["posterior_collapse"] if abs(sampled) < COLLAPSE else []
    # NaN, where an ELBO refuses, is neither agreement nor disagreement
    findings += ["gradients_differ"] if bool((result["gradients_agree"] == 0).any()) else []
    return {
        "elbo_per_datum": -float(result["loss"].values[0]) / data,
        "elbo_per_datum_std_error": float(result["loss_std_error"].values[0]) / data,
        "kl_route": str(site["kl_route"].item()),
        "kl_source": str(site["kl_source"].item()),
        "mean_field_route": str(site["mean_field_route"].item()),
        "kl_analytic": float(site["kl_analytic_total"]) / data,
        "kl_lower": float(site["kl_lower_total"]) / data,
        "kl_upper": float(site["kl_upper_total"]) / data,
        "kl_sampled": sampled,
        "kl_sampled_std_error": float(site["kl_sampled_total_std_error"]) / data,
        "pareto_k": float(np.nanmedian(pareto)) if np.isfinite(pareto).any() else math.nan,
        "gradient_snr": snr.tolist(),
        "loss_std": result["loss_std"].values.tolist(),
        "findings": "; ".join(findings),
    }
