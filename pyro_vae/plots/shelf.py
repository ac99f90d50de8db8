"""Pictures of diagnostics by name: each from the diagnostic's own Dataset, and nothing else."""

from __future__ import annotations

__all__ = ["PICTURES", "Picture", "pictures", "register"]

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import xarray as xr

from pyro_vae.registry import Registry, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture: TypeAlias = "Callable[[xr.Dataset], Figure]"

PICTURES: Registry[Picture] = Registry("picture")
"""Pictures by the name of the diagnostic whose Dataset they draw."""

register = PICTURES.register
"""Give a diagnostic its picture: `@register`, or `@register("name")`, above a function of its
Dataset that returns a matplotlib figure."""


def pictures(found: xr.Dataset, names: list[str] | None = None) -> dict[str, Figure]:
    """Draw every diagnostic of a diagnosis.

    Arguments:
        found: The result of `diagnose`, or of reading its NetCDF file.
        names: The diagnostics to draw; by default all that were run and have a picture.

    Returns:
        Figures by the name of the diagnostic, in the order in which they ran.

    Raises:
        ImportError: If matplotlib is not installed.
        KeyError: If a name has no picture.
        ValueError: If `found` is no diagnosis, or a diagnostic named was not run.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyro_vae.diagnostics import diagnose
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.7))
        >>> x = torch.linspace(-1, 1, 20)
        >>> list(pictures(diagnose(model, guide, x, steps=["pareto_k", "elbo"], show=False)))
        ['pareto_k', 'elbo']
    """
    if "findings" not in found.attrs or "verdict" not in found.attrs:  # comparisons have findings
        raise ValueError(
            "this Dataset is no diagnosis: it says of no diagnostic that it was run. Take the "
            "result of diagnose, or draw that of one diagnostic by plots.PICTURES[name]."
        )
    run = list(json.loads(found.attrs["findings"]))
    for name in names or ():
        if name in PICTURES and name not in run:
            raise ValueError(f"{name} was not run. {nearest(name, run)}")
    return {name: PICTURES[name](found) for name in names or run if names or name in PICTURES}
