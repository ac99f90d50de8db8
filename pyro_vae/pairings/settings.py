"""What every cell of a comparison has in common, checked before anything is trained."""

from __future__ import annotations

__all__ = ["Settings", "seeded"]

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """How each pair of guide and prior is trained and compared.

    Arguments:
        latent: Features of a draw of z (groups, for one-hot families).
        categories: Classes in each group of a one-hot family, parts of one on the simplex.
        components: Of a mixture, and pseudo-inputs of a VampPrior, no more than there are training
            data.
        hidden: Width of the one hidden layer of encoder and decoder.
        epochs: Passes over the training data.
        batch_size: Data in a step.
        learning_rate: Of Adam.
        num_particles: Draws from which KLs, ELBOs and gradients are estimated; at least 3.
        seed: Together with the names of guide and prior, the seed of a cell.
        device: Where to train, as torch names it.

    Raises:
        ValueError: If a number is not positive, or the device cannot be used here.
    """

    latent: int = 8
    categories: int = 10
    components: int = 50
    hidden: int = 128
    epochs: int = 30
    batch_size: int = 100
    learning_rate: float = 5e-3
    num_particles: int = 40
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        least = {"num_particles": 3, "categories": 2}
        counts = ("latent", "categories", "components", "hidden", "epochs", "batch_size")
        for name in (*counts, "num_particles"):
            _check_whole(name, getattr(self, name), least.get(name, 1))
        _check_whole("seed", self.seed, 0)
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be a positive number, not {self.learning_rate}.")
        _check_device(self.device)

    def cell_seed(self, guide: str, prior: str) -> int:
        """Return the seed of a cell, which depends on its names and not on its turn."""
        key = json.dumps([self.seed, guide, prior]).encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Seed torch's generators of the CPU and of `device`, and put them back on leaving."""
    kind, index = torch.device(device).type, torch.device(device).index or 0
    elsewhere = [] if kind == "cpu" else [index]
    with torch.random.fork_rng(elsewhere, device_type="cuda" if kind == "cpu" else kind):
        # torch.manual_seed would also seed devices that are not put back
        torch.default_generator.manual_seed(seed)
        if elsewhere:
            with torch.device(device):
                getattr(torch, kind).manual_seed(seed)
        yield


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, not {value!r}.")


def _check_device(name: str) -> None:
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"the device {name!r} cannot be used here ({reason}); use 'cpu'."
        ) from error
