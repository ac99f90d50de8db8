"""Where numbers come from: attrs that survive a file, and a digest of model and guide."""

from __future__ import annotations

__all__ = ["NOT_FOR", "digest", "in_common", "provenance", "storable"]

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vae.infer.guard import modules_of

NOT_FOR = [
    "loo and waic over data: there is no group log_likelihood, since with local latents they are "
    "harmonic means of log p(x) that favour a guide that is too narrow; hold data out, and give "
    "inference_data.as_elpd to compare",
    "r_hat, ess, mcse, plot_rank, plot_autocorr, diagnose: draws of a guide are independent, so "
    "these are alike for a good and a bad one; see the group vi_stats",
    "plot_ppc of posterior_predictive alone: it shows reconstructions of data the guide has seen; "
    "see prior_predictive",
]
"""What ArviZ would compute from the groups, and what it would not mean; in the attrs as well."""


def provenance(model: Callable[..., Any], guide: Callable[..., Any]) -> dict[str, Any]:
    """The attrs that ArviZ's schema asks for, and the names of the programs."""
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "pyro_vae",
        "creation_library_version": _version("pyro-vae"),
        "creation_library_language": "Python",
        "inference_library": "pyro",
        "inference_library_version": str(pyro.__version__),
        "torch_version": str(torch.__version__),
        "units": "nats",
        "model": _name(model),
        "guide": _name(guide),
        "pyro_vae_warnings": NOT_FOR,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its sources
        return "not installed"


def _name(program: Any) -> str:
    named = program if hasattr(program, "__qualname__") else type(program)
    return f"{named.__module__}.{named.__qualname__}"


def digest(programs: Iterable[Callable[..., Any]], parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 of all parameters and buffers, by name: the same for the same state.

    Arguments:
        programs: Model and guide, whose modules are looked through.
        parameters: Others, such as those of `pyro.param`.
    """
    found: dict[str, Tensor] = dict(parameters)
    for number, program in enumerate(programs):
        for name, module in modules_of(program):
            for key, value in module.state_dict().items():
                if isinstance(value, Tensor):
                    found[f"{number}.{name}.{key}"] = value
    sha = hashlib.sha256()
    for name in sorted(found):
        value = found[name].detach().cpu().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{sha.hexdigest()}"


def storable(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attrs as a NetCDF file gives them back: numbers, strings, lists; mappings are JSON.

    Arguments:
        attrs: Any attrs. Booleans become 0 and 1, None and empty lists an empty string, a list
            of one its element.

    Example:
        >>> storable({"exact": True, "routes": {"z": "closed"}, "reasons": []})
        {'exact': 1, 'routes': '{"z": "closed"}', 'reasons': ''}
    """
    return {str(name): _storable(value) for name, value in attrs.items()}


def _storable(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, Mapping):
        return json.dumps(value, default=str)
    if isinstance(value, list | tuple):
        parts = [_storable(v) for v in value]
        if not parts:
            return ""
        simple = all(isinstance(p, str) for p in parts) or all(
            isinstance(p, int | float) for p in parts
        )
        return (parts[0] if len(parts) == 1 else parts) if simple else json.dumps(parts)
    return value if isinstance(value, str | int | float) else str(value)


def in_common(all_attrs: Iterable[Mapping[Any, Any]]) -> dict[Any, Any]:
    """The attrs that all have, with the same values."""
    first, *others = map(dict, all_attrs)
    return {n: v for n, v in first.items() if all(n in o and o[n] == v for o in others)}
