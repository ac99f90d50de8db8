"""The grid of guides and priors: what may stand together, trained cell by cell.

Each cell is seeded by itself, from the seed and the names of its guide and prior, so that its
numbers depend neither on its turn nor on the others: a comparison that was stopped and started
again ends with the numbers of one that was not.
"""

from __future__ import annotations

__all__ = ["Pairings", "compare_pairings", "likelihood_options"]

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae import families as fam
from pyro_vae.datasets import as_tensor
from pyro_vae.observations import check_support
from pyro_vae.pairings.cell import ELBOS, FINDINGS, VARIABLES, build, measure, untrained_elbo
from pyro_vae.pairings.members import ELSEWHERE, Pair, first_sentence, members, pair_of
from pyro_vae.pairings.settings import Settings, seeded
from pyro_vae.pairings.store import Store, code_digest, data_digest
from pyro_vae.registry import nearest
from pyro_vae.vae import VAE

Names = Iterable[str] | Mapping[str, Any]
Cells = Mapping[tuple[str, str], Mapping[str, Any]]


class Pairings:
    """A comparison that was checked and can be run: every admissible pair is a cell.

    Everything that can be wrong with names, data and settings is found here, before training.

    Arguments:
        guides: As for `compare_pairings`.
        priors: As for `compare_pairings`.
        data: As for `compare_pairings`.
        validation: As for `compare_pairings`.
        likelihood: As for `compare_pairings`.
        settings: How to train and compare.

    Raises:
        TypeError: If a member is neither a name nor a factory, or data are not numbers.
        ValueError: If a name is unknown, if data hold NaN or lie outside the support of the
            likelihood, or if no pair is admissible.
    """

    def __init__(
        self,
        guides: Names,
        priors: Names,
        data: Any,
        *,
        validation: Any = None,
        likelihood: str = "bernoulli",
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        sizes = self.settings.categories, self.settings.components
        self.guides = members(guides, "guide", *sizes)
        self.priors = members(priors, "prior", *sizes)
        self.train = as_tensor(data, "data")
        self.held_out = self.train if validation is None else as_tensor(validation, "validation")
        self.on = "data it was trained on" if validation is None else "held-out data"
        self.likelihood = likelihood
        self._likelihood = _likelihood(likelihood, self.train, self.held_out)
        self.pairs = self._made_pairs()
        self.admissible = [key for key, pair in self.pairs.items() if not pair.refusal]
        if not self.admissible:
            (guide, prior), pair = next(iter(self.pairs.items()))
            raise ValueError(
                f"none of the {len(self.pairs)} pairs is admissible; {guide} x {prior}, for "
                f"example: {pair.refusal}."
            )

    def _made_pairs(self) -> dict[tuple[str, str], Pair]:
        s = self.settings
        with seeded(s.seed, "cpu"), pyro.get_param_store().scope():
            return {
                (q, p): pair_of(guide, prior, s.latent, s.hidden)
                for q, guide in self.guides.items()
                for p, prior in self.priors.items()
            }

    def run(self, folder: str | Path | None = None, *, progress: bool = True) -> xr.Dataset:
        """Train and compare every admissible pair that is not finished yet.

        Arguments:
            folder: Where finished cells are kept and looked for; None keeps nothing.
            progress: Whether to show a progress bar on stderr.

        Returns:
            As `compare_pairings`.

        Warns:
            CellWarning: If a stored cell is damaged; it is computed again.
        """
        store = self._store(folder)
        train, held_out = (x.to(self.settings.device) for x in (self.train, self.held_out))
        cells: dict[tuple[str, str], Mapping[str, Any]] = {}
        with tqdm(self.admissible, disable=not progress, unit="pair") as bar:
            for guide, prior in bar:
                bar.set_description(f"{guide} x {prior}")
                with pyro.get_param_store().scope():
                    cells[guide, prior] = self._cell(guide, prior, store, train, held_out)
        return self._assembled(cells)

    def found(self, folder: str | Path | None) -> tuple[int, int]:
        """Return how many pairs have a stored cell, and how many cells of others there are.

        Cells of another comparison (other settings, data or code) are left alone.

        Arguments:
            folder: As for `run`.
        """
        return self._store(folder).found(self.admissible)

    def _store(self, folder: str | Path | None) -> Store:
        return Store(folder, self._context())

    def _cell(
        self, guide: str, prior: str, store: Store, train: Tensor, held_out: Tensor
    ) -> Mapping[str, Any]:
        seed, device = self.settings.cell_seed(guide, prior), self.settings.device
        try:
            with seeded(seed, device):
                vae = self._vae(guide, prior)
                untrained = untrained_elbo(vae, train)
        except Exception as error:  # one failing pair must not lose the others
            return _failed(error)
        finished = store.read(guide, prior, untrained)
        if finished is not None:
            return finished
        try:
            with seeded(seed + 1, device):
                values = measure(vae, train, held_out, self.settings)
        except Exception as error:
            return _failed(error)
        store.write(guide, prior, untrained, values)
        return values

    def _vae(self, guide: str, prior: str) -> VAE:
        factories = self.guides[guide], self.priors[prior], self._likelihood
        return build(*factories, tuple(self.train.shape[1:]), self.settings, self.train)

    def _context(self) -> dict[str, Any]:
        """Everything that influences all cells."""
        return {
            **dataclasses.asdict(self.settings),
            "likelihood": self.likelihood,
            "data": data_digest(self.train, self.held_out),
            "dtype": str(torch.get_default_dtype()),
            "code": code_digest(),
            **_versions(),
        }

    def _attrs(self) -> dict[str, Any]:
        return {
            "title": "guides and priors compared",
            "units": "nats per datum",
            "objective": "Trace_ELBO, which applies to every pair",
            "evaluated_on": f"{len(self.held_out)} {self.on}",
            "trained_on": f"{len(self.train)} data of shape {tuple(self.train.shape[1:])}",
            "likelihood": self.likelihood,
            "settings": json.dumps(dataclasses.asdict(self.settings)),
            "versions": json.dumps(_versions()),
            "findings": json.dumps(FINDINGS),
        }

    def _assembled(self, cells: Cells) -> xr.Dataset:
        keys, shape = list(self.pairs), (len(self.guides), len(self.priors))
        q_spaces = [self._space(0, name) for name in self.guides]
        p_spaces = [self._space(1, name) for name in self.priors]

        def grid(values: list[Any]) -> tuple[tuple[str, ...], np.ndarray]:
            array = np.array(values)
            return ("guide", "prior", "elbo")[: array.ndim + 1], array.reshape(
                *shape, *array.shape[1:]
            )

        variables: dict[str, Any] = {
            "admissible": grid([int(not pair.refusal) for pair in self.pairs.values()]),
            "reason": grid([pair.refusal for pair in self.pairs.values()]),
            "failure": grid([cells.get(key, {}).get("failure", "") for key in keys]),
        }
        for name, v in VARIABLES.items():
            missing = [v.missing] * len(ELBOS) if v.by_elbo else v.missing
            values = [cells.get(key, {}).get(name, missing) for key in keys]
            attrs = {"long_name": v.long_name} | ({"units": v.units} if v.units else {})
            variables[name] = (*grid(values), attrs)
        coords = {
            "guide": list(self.guides),
            "prior": list(self.priors),
            "elbo": [elbo.__name__ for elbo in ELBOS],
            "guide_space": ("guide", q_spaces),
            "prior_space": ("prior", p_spaces),
        }
        return xr.Dataset(variables, coords, self._attrs())

    def _space(self, side: int, name: str) -> str:
        """The space of a guide (side 0) or prior (side 1), which may depend on its partner."""
        own = [pair for key, pair in self.pairs.items() if key[side] == name]
        fitting = [pair for pair in own if not pair.refusal] or own
        spaces = {pair.spaces[side] for pair in fitting}
        return spaces.pop() if len(spaces) == 1 else ELSEWHERE[side]


def compare_pairings(
    guides: Names,
    priors: Names,
    data: Any,
    *,
    validation: Any = None,
    likelihood: str = "bernoulli",
    folder: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> xr.Dataset:
    """Train a VAE with every admissible pair of a guide and a prior, and compare them.

    For each pair: the ELBO on held-out data; the route of KL(q || p), its analytic value and
    its sampled one; what `TraceMeanField_ELBO` does with it; and the noise of the loss and of
    the guide's gradient under both of Pyro's ELBOs. Networks, steps and data are the same in
    all cells; training minimises `Trace_ELBO`, which applies to every pair. The global random
    state and Pyro's parameter store are left as they were.

    With a `folder`, every finished cell is kept there at once; a comparison of the same
    settings, data and versions that was stopped continues where it was, and ends with the same
    numbers. A cell that fails is reported in `failure` and tried again next time.

    Arguments:
        guides: Names of registered families, or a mapping from names to such names or to
            factories `(features, context) -> module`, whose module takes features of x of
            shape `(*batch, context)`. The family `transported` is a Normal carried onto the
            support of each prior.
        priors: The same, with context 0; a name that begins with `learnable_` trains the
            parameters of the family. The family `vamp_prior` shares the encoder of each guide, and
            starts at rows of the training data; others that do are a `pairings.OfEncoder`.
        data: Training data, with shape `(n, *event_shape)`; whatever `datasets.as_tensor` reads.
        validation: Data to compare on, with shape `(m, *event_shape)`; by default the training
            data.
        likelihood: The name of a registered likelihood.
        folder: Where finished cells are kept and looked for.
        progress: Whether to show a progress bar on stderr.
        **settings: Those of `pairings.Settings`: latent, categories, components, hidden, epochs,
            batch_size, learning_rate, num_particles, seed, device.

    Returns:
        A Dataset with dims `guide`, `prior` and `elbo`, in nats per held-out datum:
        `admissible` (0 or 1) and the `reason` of a refusal; `elbo_per_datum` with its standard
        error over draws; `kl_route`, `kl_source`, `mean_field_route`; `kl_analytic`,
        `kl_sampled` with its standard error, `kl_lower` and `kl_upper` (an interval that holds it,
        NaN where none is known), `pareto_k`; by ELBO class `gradient_snr` and
        `loss_std`; `findings`, `failure`, `seconds`.

    Raises:
        TypeError: If a member is neither a name nor a factory, or data are not numbers.
        ValueError: If a name or setting is wrong, if data hold NaN or lie outside the support
            of the likelihood, or if no pair is admissible.

    Example:
        >>> table = compare_pairings(
        ...     ["normal"], ["laplace", "beta"], torch.ones(20, 4), epochs=1, progress=False
        ... )
        >>> table.admissible.values
        array([[1, 0]])
    """
    pairings = Pairings(
        guides,
        priors,
        data,
        validation=validation,
        likelihood=likelihood,
        settings=Settings(**settings),
    )
    return pairings.run(folder, progress=progress)


def likelihood_options(name: str, train: Tensor, held_out: Tensor) -> dict[str, Any]:
    """Return the options of a likelihood by name, in whose support all data lie.

    Arguments:
        name: The name of a registered likelihood.
        train: Training data, with shape `(n, *event_shape)`.
        held_out: Held-out data, with shape `(m, *event_shape)`.

    Raises:
        ValueError: If the name is unknown, if shapes differ, or if data are not legal.
    """
    known = [n for n, cls in fam.registry.items() if "likelihood" in cls.roles]
    if name not in known:
        raise ValueError(f"no likelihood is named {name!r}. {nearest(name, known)}")
    if train.shape[1:] != held_out.shape[1:]:
        raise ValueError(
            f"validation data have shape {tuple(held_out.shape)}, training data "
            f"{tuple(train.shape)}; all but the first dimension must be equal."
        )
    cls = fam.registry[name]
    options = cls.options_for(max(train, held_out, key=lambda x: float(x.max())))
    d = cls(tuple(train.shape[1:]), **options)()
    check_support(train, d, None)
    check_support(held_out, d, None)
    return options


def _likelihood(name: str, train: Tensor, held_out: Tensor) -> Callable[..., fam.Family]:
    """The factory of a likelihood, in whose support all data lie."""
    options = likelihood_options(name, train, held_out)
    return lambda features, context: fam.registry[name](features, context, **options)


def _failed(error: Exception) -> dict[str, str]:
    return {"failure": f"{type(error).__name__}: {first_sentence(error)}"}


def _versions() -> dict[str, str]:
    return {"pyro-ppl": pyro.__version__, "torch": str(torch.__version__)}
