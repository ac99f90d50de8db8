"""Trained VAEs on disk: what they are made of as JSON, their weights as a state dict.

A folder holds `model.json` (names of guide, prior and likelihood, and the sizes from which
`build` makes the VAE) and `weights.pt`, a state dict read with `weights_only=True`: nothing in it
can run. Families of your own can be saved if they are registered, and are found again once their
package is imported.
"""

from __future__ import annotations

__all__ = ["FORMAT", "VERSION", "Recipe", "SavedModelError", "build", "load", "save"]

import dataclasses
import hashlib
import json
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pyro_vae import families as fam
from pyro_vae.pairings import cell
from pyro_vae.pairings.members import members
from pyro_vae.pairings.settings import Settings
from pyro_vae.registry import nearest
from pyro_vae.vae import VAE

FORMAT, VERSION = "pyro_vae model", 1
DESCRIPTION, WEIGHTS = "model.json", "weights.pt"


class SavedModelError(ValueError):
    """A folder holds no model that can be read here; the message says why, and the cure."""


@dataclass(frozen=True)
class Recipe:
    """What a VAE is made of: a cell of `compare_pairings`, by name.

    Arguments:
        guide: The name of a registered guide.
        prior: The name of a registered prior; `learnable_<family>` trains its parameters.
        likelihood: The name of a registered likelihood.
        event_shape: The shape of a datum.
        latent: Features of a draw of z.
        hidden: Width of the one hidden layer of encoder and decoder.
        categories: Classes in each group of one-hot families, parts of those on the simplex.
        components: Of a mixture, and pseudo-inputs of a VampPrior; models saved without have the
            default.
        likelihood_options: Options of the likelihood, such as its number of categories.
        image_shape: How a datum is seen as an image; empty if it is none.
        data: The name of the data set, or the path of the file, it was trained on.
    """

    guide: str
    prior: str
    likelihood: str
    event_shape: tuple[int, ...]
    latent: int = 8
    hidden: int = 128
    categories: int = 10
    components: int = 50
    likelihood_options: dict[str, Any] = field(default_factory=dict)
    image_shape: tuple[int, ...] = ()
    data: str = ""


def build(recipe: Recipe, data: torch.Tensor | None = None) -> VAE:
    """Return the VAE of a recipe, untrained.

    Arguments:
        recipe: What it is made of.
        data: Training data, with shape `(n, *event_shape)`, at which a VampPrior starts; it
            starts at zeros without them.

    Raises:
        ValueError: If a name is unknown or plays another role, if a size is not positive, or if
            guide and prior do not go together.

    Example:
        >>> recipe = Recipe("normal", "student_t", "bernoulli", (6,), latent=2, hidden=8)
        >>> build(recipe).guide.sites
        ('z',)
    """
    sizes = ("latent", "hidden", "categories", "components")
    settings = Settings(**{name: getattr(recipe, name) for name in sizes})
    counts = recipe.categories, recipe.components
    guide = members([recipe.guide], "guide", *counts)[recipe.guide]
    prior = members([recipe.prior], "prior", *counts)[recipe.prior]
    known = [n for n, cls in fam.registry.items() if "likelihood" in cls.roles]
    if recipe.likelihood not in known:
        raise ValueError(
            f"no likelihood is named {recipe.likelihood!r}. {nearest(recipe.likelihood, known)}"
        )
    cls = fam.registry[recipe.likelihood]

    def likelihood(features: Any, context: int) -> fam.Family:
        return cls(features, context, **recipe.likelihood_options)

    return cell.build(guide, prior, likelihood, recipe.event_shape, settings, data)


def save(folder: str | Path, vae: VAE, recipe: Recipe) -> Path:
    """Write a VAE and what it is made of to a folder, each file whole or not at all.

    Arguments:
        folder: The folder; it is made if it is not there.
        vae: A VAE made by `build(recipe)`.
        recipe: What it is made of.

    Returns:
        The folder.

    Raises:
        ValueError: If the VAE is not one of this recipe, or of a class of its own.

    Example:
        >>> import tempfile
        >>> recipe = Recipe("normal", "student_t", "bernoulli", (6,), latent=2, hidden=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(folder, build(recipe), recipe)
        ...     load(folder)[1] == recipe
        True
    """
    if type(vae) is not VAE:
        raise ValueError(
            f"a recipe makes a VAE, not a {type(vae).__name__}; save its weights by "
            "torch.save(vae.state_dict(), path), and build it anew before loading them."
        )
    state = {name: value.detach().cpu() for name, value in vae.state_dict().items()}
    _check_state(state, _like(recipe).state_dict(), "this VAE is not one of its recipe")
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    _whole(folder / WEIGHTS, lambda path: torch.save(state, path))
    description = {
        "format": FORMAT,
        "version": VERSION,
        **dataclasses.asdict(recipe),
        "dtype": str(next(iter(state.values())).dtype) if state else "",
        "weights": {"file": WEIGHTS, "sha256": _digest(folder / WEIGHTS)},
        "torch": str(torch.__version__),
    }
    text = json.dumps(description, indent=2) + "\n"
    _whole(folder / DESCRIPTION, lambda path: path.write_text(text, encoding="utf-8"))
    return folder


def load(folder: str | Path) -> tuple[VAE, Recipe]:
    """Read a VAE that `save` wrote, on the CPU and in eval mode.

    Arguments:
        folder: The folder.

    Returns:
        The VAE, and what it is made of.

    Raises:
        SavedModelError: If a file is missing or damaged, is of another version, or names a family
            that is not registered here.
    """
    folder = Path(folder).expanduser()
    description = _description(folder)
    recipe = _recipe(folder, description)
    path = folder / WEIGHTS
    if not path.is_file():
        raise SavedModelError(f"{folder} has no {WEIGHTS}; copy the whole folder.")
    if _digest(path) != description["weights"]["sha256"]:
        raise SavedModelError(
            f"{path} is damaged, or not the one that belongs to {DESCRIPTION}: its SHA-256 "
            "differs. Train the model again, or copy the whole folder again."
        )
    try:
        vae = _like(recipe)
    except (ValueError, TypeError) as error:
        raise SavedModelError(
            f"{folder / DESCRIPTION} describes a model that cannot be made here: {error} Import "
            "the package that registers what is missing before loading."
        ) from error
    state = _state(path)
    _check_state(state, vae.state_dict(), f"{path} does not fit {DESCRIPTION}")
    dtype = next((v.dtype for v in state.values() if v.is_floating_point()), None)
    vae = vae if dtype is None else vae.to(dtype)
    vae.load_state_dict(state)
    return vae.eval(), recipe


def _like(recipe: Recipe) -> VAE:
    """A VAE whose weights do not matter, and so cost the caller no random numbers."""
    with torch.random.fork_rng(devices=[]):
        return build(recipe)


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        what = "there is no such folder" if not folder.exists() else f"it has no {DESCRIPTION}"
        raise SavedModelError(
            f"{folder} is no saved model ({what}); make one by `python -m pyro_vae train --out "
            f"{folder}`."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SavedModelError(
            f"{path} is damaged: it cannot be read as JSON ({error})."
        ) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise SavedModelError(f"{path} describes no model of pyro_vae (no format {FORMAT!r}).")
    if found.get("version") != VERSION:
        raise SavedModelError(
            f"{path} is of version {found.get('version')!r} of the format, and this package reads "
            f"version {VERSION}; use the pyro_vae that wrote it, or train again."
        )
    return found


def _recipe(folder: Path, description: dict[str, Any]) -> Recipe:
    # of models saved before VampPriors there were any
    description = {"components": Recipe.components, **description}
    kinds = {
        "guide": str,
        "prior": str,
        "likelihood": str,
        "event_shape": list,
        "latent": int,
        "hidden": int,
        "categories": int,
        "components": int,
        "likelihood_options": dict,
        "image_shape": list,
        "data": str,
        "weights": dict,
    }
    for name, kind in kinds.items():
        value = description.get(name)
        whole = kind is not list or _is_shape(value)
        if not isinstance(value, kind) or isinstance(value, bool) or not whole:
            said = f"is {value!r}" if name in description else "is missing"
            raise SavedModelError(f"{folder / DESCRIPTION} is damaged: {name!r} {said}.")
    if not isinstance(description["weights"].get("sha256"), str):
        raise SavedModelError(f"{folder / DESCRIPTION} is damaged: 'weights' has no 'sha256'.")
    values = {f.name: description[f.name] for f in dataclasses.fields(Recipe)}
    for name in ("event_shape", "image_shape"):
        values[name] = tuple(values[name])
    return Recipe(**values)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size > 0 for size in value)


def _state(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise SavedModelError(f"{path} cannot be read as weights: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise SavedModelError(f"{path} holds something else than weights by name.")
    return state


def _check_state(found: dict[str, Any], wanted: dict[str, Any], what: str) -> None:
    for name in wanted.keys() | found.keys():
        sides = [tuple(s[name].shape) if name in s else None for s in (found, wanted)]
        if sides[0] != sides[1]:
            has, needs = ("nothing" if side is None else f"shape {side}" for side in sides)
            raise SavedModelError(f"{what}: {name} has {has} in the place of {needs}.")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _whole(path: Path, write: Any) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
