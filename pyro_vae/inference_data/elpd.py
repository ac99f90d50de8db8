"""Held-out log densities as ArviZ's expected log predictive density."""

from __future__ import annotations

__all__ = ["as_elpd"]

from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from pyro_vae.diagnostics import threshold
from pyro_vae.inference_data.installed import elpd_data


def as_elpd(log_px: Any, khat: Any = None, *, num_samples: int | None = None) -> Any:
    """Sum_n log p(x_n) over held-out data, as the elpd of `arviz.compare` and `arviz.plot_khat`.

    The standard error is sqrt(N var_n log p(x_n)), over data; the error of each log p(x_n), which
    comes from draws, is not in it. It is a hold-out score: there is no effective number of
    parameters (`p` is NaN), and data the model was trained on must not be given. `compare` pairs
    the data of two models, so give both the same ones in the same order. Where log p(x_n) is below
    about -700 nats, arviz 0.x needs `compare(..., method="pseudo-BMA")`: the default, stacking,
    exponentiates each log density.

    Arguments:
        log_px: Estimates of log p(x_n), of shape (data,), such as IWAE bounds in `vi_stats`.
        khat: k-hat of the importance weights behind each, of shape (data,).
        num_samples: The number of draws behind each estimate; the threshold of k-hat depends
            on it. By default what `log_px.attrs` says, as those of `vi_stats` do.

    Returns:
        `arviz.ELPDData` of the ArviZ that is installed, in nats (scale "log").

    Raises:
        ValueError: If shapes differ, if a value of `log_px` is not finite, or if it is not known
            how many draws there were.

    References:
        Bayesian comparison of latent variable models: conditional versus marginal likelihoods
        (E. C. Merkle, D. Furr, S. Rabe-Hesketh, 2019)

    Example:
        >>> score = as_elpd(np.array([-1.0, -2.0, -3.0]), np.zeros(3), num_samples=1000)
        >>> round(float(score["se"]), 3)
        1.414
    """
    pointwise, draws = _by_datum(log_px, "log_px"), _draws(log_px, num_samples)
    if not np.isfinite(pointwise).all():
        raise ValueError(
            f"log_px is not finite for {int((~np.isfinite(pointwise)).sum())} of "
            f"{pointwise.size} data; a sum over them says nothing. Look at their weights (k-hat), "
            "or leave the same data out of all models that you compare."
        )
    tails = None if khat is None else _by_datum(khat, "khat")
    if tails is not None and tails.shape != pointwise.shape:
        raise ValueError(
            f"khat has shape {tails.shape}, but log_px {pointwise.shape}; give both for the same "
            "data."
        )
    return elpd_data(pointwise, tails, draws, threshold(draws))


def _by_datum(values: Any, name: str) -> xr.DataArray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if np.ndim(values) != 1:
        raise ValueError(
            f"{name} must have one value for each datum, but has shape {np.shape(values)}."
        )
    found = values if isinstance(values, xr.DataArray) else xr.DataArray(values, dims=["data"])
    return found.astype(np.float64).rename(name)


def _draws(log_px: Any, given: int | None) -> int:
    found = getattr(log_px, "attrs", {}).get("num_samples") if given is None else given
    if found is None:
        raise ValueError(
            "log_px does not say from how many draws each estimate was made; pass num_samples=."
        )
    return int(found)
