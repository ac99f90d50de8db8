"""`fit`: maximise an ELBO by a plain loop, with a held-out ELBO and a history.

Any Pyro ELBO and any torch optimizer serve. Parameters live in the modules; Pyro's global
store is borrowed for the duration and given back as it was.
"""

from __future__ import annotations

__all__ = ["fit", "held_out_elbo"]

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from tqdm.auto import tqdm

from pyro_vae import datasets, kl
from pyro_vae.infer import Bound, CapturedELBO, TraceExactKL_ELBO
from pyro_vae.infer.bound import checked_beta
from pyro_vae.infer.guard import evaluating, untouched
from pyro_vae.kl.edges import AT_EDGE
from pyro_vae.vae import VAE

WORTH_COMPILING = 5000
"""The number of steps from which compiling them pays."""

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def fit(
    vae: VAE,
    data: Any,
    *,
    y: Any = None,
    mask: Any = None,
    objective: ELBO | None = None,
    optimizer: Optimizer | MakeOptimizer | None = None,
    epochs: int = 50,
    batch_size: int = 128,
    validation: Any = None,
    validation_y: Any = None,
    validation_mask: Any = None,
    patience: int | None = None,
    beta: Callable[[int], float] | None = None,
    capture: bool = False,
    compile: bool | None = None,
    progress: bool = True,
    seed: int | None = None,
    allow_infinite: bool = False,
) -> xr.Dataset:
    """Maximise sum_n ELBO(x_n) over the parameters of a VAE, by minibatches.

    Each step follows the gradient of `objective` on one batch, summed over the batch as
    `SVI.step` does. Frozen parameters stay frozen.

    Arguments:
        vae: The VAE, trained in place.
        data: Training data, with shape `(n, *event_shape)`: a tensor, array, Dataset or
            DataLoader.
        y: What encoder and decoder are conditioned on (labels, offsets), with shape `(n, *)`.
        mask: True where data were observed, with shape `(n,)` or broadcasting to that of the
            data. What stands elsewhere, NaN for example, does not matter.
        objective: A Pyro ELBO; by default `Trace_ELBO()`, which applies to every pairing.
        optimizer: A torch optimizer over the VAE's parameters, or a callable that makes one
            from them; by default Adam with learning rate 1e-3.
        epochs: The number of passes over the data.
        batch_size: The number of data in a step; a last smaller batch is used too.
        validation: Held-out data, scored after each epoch.
        validation_y: Their y.
        validation_mask: Their mask.
        patience: Stop after this many epochs without a better held-out ELBO, and go back to
            the best parameters; it needs `validation`.
        beta: A schedule: the weight of the KL in each epoch, counted from 0, for an objective
            that has one (`infer.TraceExactKL_ELBO` and its like).
        capture: Whether to replay captured steps (`infer.capture`): the same numbers from the
            same seed, without Pyro's cost. It pays after some hundred steps.
        compile: Whether to compile the captured steps; None does so from 5,000 planned steps
            on. The attribute `compiled` of the history tells.
        progress: Whether to show a progress bar, on standard error.
        seed: If given, the fit is reproducible and the global random state is left as it was.
        allow_infinite: Whether to train although the KL of the pair is infinite, by an
            objective that samples it, as the default one does; one that takes the KL by its
            value (`TraceExactKL_ELBO`) is refused, for it is +inf at every step.

    Returns:
        A Dataset over `epoch`, in nats per datum: `elbo` (on the training batches, as seen
        while training), `validation_elbo` and `validation_elbo_std_error` (over data; NaN
        without held-out data), and `seconds` since the start. The attribute `best_epoch` is
        the epoch whose parameters the VAE holds, and `at_edge_share` the share of draws of the
        trained guide of which a number lies where floats end (see `kl.at_edge`); a warning says
        so where it is above 5 %, since no sampled KL is right there, and training may seek that.

    Raises:
        NotCapturable: With `capture`, if the program is no fixed list of tensor operations.
        ValueError: If the data are not legal, if nothing is trainable, if an option is out of
            range, or if the KL is infinite and `allow_infinite` is not set or the objective takes
            the KL by its value; before any step.
        FloatingPointError: If the loss of a batch is not finite; no parameter has moved in
            that step, unless the message says that one was lost in a step before.

    Example:
        >>> from pyro_vae import VAE, families as fam
        >>> vae = VAE(fam.Laplace(1), fam.Normal(1, context=3), fam.Normal(3, context=1))
        >>> history = fit(vae, torch.randn(20, 3), epochs=2, progress=False, seed=0)
        >>> history.elbo.shape
        (2,)
    """
    _check_counts(epochs=epochs, batch_size=batch_size, patience=patience)
    if patience is not None and validation is None:
        raise ValueError("patience= needs validation= data to judge by.")
    device = _device(vae)
    x = Rows.of(data, y, mask, device, "data")
    held_out = None
    if validation is not None:
        held_out = Rows.of(validation, validation_y, validation_mask, device, "validation")
    elif validation_y is not None or validation_mask is not None:
        raise ValueError("validation_y= and validation_mask= belong to validation=, not given.")
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        objective = objective or Trace_ELBO()
        first = x.take(torch.arange(min(batch_size, x.size)))
        refuse_infinite(vae, first, objective, allow_infinite=allow_infinite)
        step: Step = _Eager(vae, objective, _optimizer(optimizer, vae))
        if capture:
            planned = epochs * math.ceil(x.size / batch_size)
            compile = planned >= WORTH_COMPILING if compile is None else compile
            step = _captured(vae, objective, step.optimizer, compile=compile)
        elif compile:
            raise ValueError("compile=True compiles captured steps: set capture=True as well.")
        run = _Run(vae, step, batch_size, _schedule(objective, beta))
        store = pyro.get_param_store()
        with store.scope(store.get_state()):
            history = run.epochs(x, held_out, epochs, patience, progress)
        share = _share_at_edge(vae, first)
    return history.assign_attrs(
        units="nats per datum",
        objective=type(objective).__name__,
        optimizer=type(step.optimizer).__name__,
        captured=int(capture),
        compiled=int(bool(compile)),
        batch_size=batch_size,
        seed=-1 if seed is None else seed,
        best_epoch=run.best_epoch,
        at_edge_share=share,
        stopped_early=int(len(history.epoch) < epochs),
    )


class Rows(NamedTuple):
    """Data with what belongs to each datum.

    Arguments:
        x: The data, with shape `(n, *event_shape)`.
        y: What they are conditioned on, with shape `(n, *)`, or None.
        mask: Where they were observed, or None.
    """

    x: Tensor
    y: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def of(cls, x: Any, y: Any, mask: Any, device: torch.device, name: str) -> Rows:
        """Read whatever holds numbers.

        Raises:
            ValueError: If y has another number of rows than x, and as `datasets.as_tensor`.
        """
        x = datasets.as_tensor(x, name=name, mask=mask)
        mask = None if mask is None else torch.as_tensor(mask)
        if y is not None:
            y = datasets.as_tensor(y, name=f"y of {name}")
            if len(y) != len(x):
                raise ValueError(
                    f"y of {name} has {len(y)} rows for {len(x)} data; it needs one for each."
                )
        return cls(*(None if t is None else t.to(device) for t in (x, y, mask)))  # type: ignore[arg-type]

    @property
    def size(self) -> int:
        """The number n of data."""
        return len(self.x)

    @property
    def kwargs(self) -> dict[str, Tensor]:
        """The keyword arguments of model and guide."""
        given = {"y": self.y, "mask": self.mask}
        return {name: value for name, value in given.items() if value is not None}

    def take(self, rows: Tensor) -> Rows:
        """Some data, by number."""
        rows = rows.to(self.x.device)
        parts = (None if t is None else t[rows] if len(t) == self.size else t for t in self)
        return Rows(*parts)  # type: ignore[arg-type]


class Step(Protocol):
    """One step of an optimizer on a batch; returns the loss, or raises before anything moves."""

    optimizer: Optimizer

    def __call__(self, batch: Rows) -> float: ...


class _Eager:
    """A step of the program as it is."""

    def __init__(self, vae: VAE, objective: ELBO, optimizer: Optimizer) -> None:
        self.vae, self.objective, self.optimizer = vae, objective, optimizer

    def __call__(self, batch: Rows) -> float:
        self.optimizer.zero_grad()
        loss = _loss_and_grads(self.objective, self.vae, batch)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}.")
        self.optimizer.step()
        return loss


class _Replayed:
    """A step of the captured program."""

    def __init__(self, captured: CapturedELBO, optimizer: Optimizer) -> None:
        self.captured, self.optimizer = captured, optimizer

    def __call__(self, batch: Rows) -> float:
        return float(self.captured.step(batch.x, **batch.kwargs))


def _captured(vae: VAE, objective: ELBO, optimizer: Optimizer, *, compile: bool) -> Step:
    captured = CapturedELBO(objective, vae.model, vae.guide, optimizer=optimizer, compile=compile)
    return _Replayed(captured, optimizer)


def _schedule(objective: Any, beta: Callable[[int], float] | None) -> Callable[[int], None]:
    if beta is None:
        return lambda epoch: None
    if not isinstance(objective, Bound):
        raise ValueError(
            f"beta= needs an objective that weighs the KL, and {type(objective).__name__} does "
            "not; take objective=infer.TraceExactKL_ELBO()."
        )

    def schedule(epoch: int) -> None:
        objective.beta = checked_beta(beta(epoch))

    return schedule


class _Run:
    """The state of one fit."""

    def __init__(
        self, vae: VAE, step: Step, batch_size: int, schedule: Callable[[int], None]
    ) -> None:
        self.vae, self.one_step, self.schedule = vae, step, schedule
        self.batch_size, self.best, self.best_epoch = batch_size, -math.inf, 0
        self.best_state: dict[str, Tensor] | None = None

    def epochs(
        self, x: Rows, held_out: Rows | None, number: int, patience: int | None, progress: bool
    ) -> xr.Dataset:
        rows: list[tuple[float, float, float, float]] = []
        start = time.perf_counter()
        with tqdm(range(number), desc="fit", unit="epoch", disable=not progress) as bar:
            for epoch in bar:
                elbo = self.epoch(x, epoch)
                score, error = math.nan, math.nan
                if held_out is not None:
                    options = {**held_out.kwargs, "batch_size": self.batch_size}
                    score, error = held_out_elbo(self.vae, held_out.x, **options)
                rows.append((elbo, score, error, time.perf_counter() - start))
                bar.set_postfix(elbo=f"{elbo:.2f}", held_out=f"{score:.2f}")
                if self.should_stop(epoch, score, patience):
                    break
        if self.best_state is not None:
            self.vae.load_state_dict(self.best_state)
        names = ("elbo", "validation_elbo", "validation_elbo_std_error", "seconds")
        columns = np.array(rows, dtype=float).T
        return xr.Dataset(
            {name: ("epoch", column) for name, column in zip(names, columns, strict=True)},
            coords={"epoch": np.arange(len(rows))},
        )

    def epoch(self, x: Rows, epoch: int) -> float:
        """One pass over the data; the mean ELBO of a datum as seen on the way."""
        self.vae.train()
        self.schedule(epoch)
        total = 0.0
        for rows in datasets.batches(x.size, self.batch_size):
            loss = self.step(x.take(rows), epoch)
            total -= loss * len(rows) / self._counts_as(len(rows))
        return total / x.size

    def step(self, batch: Rows, epoch: int) -> float:
        try:
            return self.one_step(batch)
        except (ValueError, RuntimeError, FloatingPointError) as error:
            lost = [n for n, p in self.vae.named_parameters() if not bool(p.isfinite().all())]
            if lost:
                raise FloatingPointError(
                    f"parameter {lost[0]!r} is no longer finite (epoch {epoch}): a step before "
                    "this one had a finite loss, but a gradient that was not. Lower the learning "
                    "rate, clip gradients, or look for what has no derivative (sqrt at 0)."
                ) from error
            if not isinstance(error, FloatingPointError):
                raise
            raise FloatingPointError(
                f"{error} This was epoch {epoch}; no parameter has moved in this step. "
                "Lower the learning rate, or look at the pair with pyro_vae.compare."
            ) from None

    def _counts_as(self, size: int) -> int:
        """What a batch counts as in the loss: data_size scales it up."""
        return self.vae.model.data_size or size

    def should_stop(self, epoch: int, score: float, patience: int | None) -> bool:
        if patience is None:
            self.best_epoch = epoch
            return False
        if score > self.best:
            self.best, self.best_epoch = score, epoch
            self.best_state = copy.deepcopy(self.vae.state_dict())
        return epoch - self.best_epoch >= patience


def held_out_elbo(
    vae: VAE,
    x: Tensor,
    *,
    y: Tensor | None = None,
    mask: Tensor | None = None,
    num_particles: int = 1,
    batch_size: int = 1024,
) -> tuple[float, float]:
    """Return the mean ELBO of a datum and its standard error over data, in nats.

    ELBO(x) = E_q[log p(x|z) + log p(z) - log q(z|x)], each datum by `num_particles` draws.
    The mode (train or eval) of the VAE is left as it was; it is scored in eval mode.

    Arguments:
        vae: The VAE.
        x: Data, with shape `(n, *event_shape)`.
        y: What they are conditioned on.
        mask: Where they were observed.
        num_particles: The number of draws a datum.
        batch_size: The number of data to score at once.
    """
    mode, data = vae.training, Rows(x, y, mask)
    vae.eval()
    scores = []
    with torch.no_grad():
        for rows in datasets.batches(len(x), batch_size, shuffle=False):
            batch = data.take(rows)
            draws = [_elbo_by_datum(vae, batch) for _ in range(num_particles)]
            scores.append(torch.stack(draws).mean(0))
    vae.train(mode)
    by_datum = torch.cat(scores).to(torch.float64)
    error = float(by_datum.std() / len(by_datum) ** 0.5) if len(by_datum) > 1 else math.nan
    return float(by_datum.mean()), error


def refuse_infinite(vae: VAE, x: Rows, objective: Any, *, allow_infinite: bool) -> None:
    """Raise if the KL of a latent site is infinite or undefined on these data.

    Arguments:
        vae: The VAE.
        x: A batch of data.
        objective: What is to be trained.
        allow_infinite: Whether an infinite KL is allowed, where the objective samples it; an
            undefined one never is.

    Raises:
        ValueError: Naming the site and the reason.
    """
    mode = vae.training
    vae.eval()  # so that no running statistic moves
    with torch.no_grad():
        guide_trace, model_trace = _traces(vae, x)
    vae.train(mode)
    for name in vae.guide.sites:
        route = kl.route(guide_trace.nodes[name]["fn"], model_trace.nodes[name]["fn"])
        if route.kind == "undefined":
            raise ValueError(f"site {name!r}: KL(q || p) is undefined: {route.reason}.")
        if bool(route.finite.all()):
            continue
        infinite = f"site {name!r}: KL(q || p) is infinite: {route.reason}."
        if not allow_infinite:
            raise ValueError(f"{infinite} To train all the same, allow_infinite=True.")
        if isinstance(objective, TraceExactKL_ELBO):
            raise ValueError(
                f"{infinite} {type(objective).__name__} takes a KL by its value, so that its loss "
                "is +inf whatever the parameters are, and allow_infinite=True cannot help. Take "
                "an objective that samples the KL, objective=Trace_ELBO(), or a pair whose KL is "
                "finite."
            )


def _share_at_edge(vae: VAE, x: Rows) -> float:
    """The share of the guide's draws of which a number lies where floats end; a warning if so."""
    with untouched(vae.guide), evaluating(), torch.no_grad():
        nodes: dict[str, Any] = dict(poutine.trace(vae.guide).get_trace(x.x, **x.kwargs).nodes)
        near = {n: kl.at_edge(nodes[n]["fn"], nodes[n]["value"]) for n in vae.guide.sites}
    shares = {name: float(flags.double().mean()) for name, flags in near.items()}
    site, share = max(shares.items(), key=lambda item: item[1])
    if share > AT_EDGE:
        warnings.warn(
            f"{100 * share:.0f} % of draws of site {site!r} hold a number where floats end, where "
            "densities say less than there is mass: the ELBO may be too high, and training may "
            "have sought that. Train in float64, or take a guide whose parameters keep it away "
            "from there.",
            stacklevel=3,
        )
    return share


def _traces(vae: VAE, data: Rows) -> tuple[Any, Any]:
    guide_trace = poutine.trace(vae.guide).get_trace(data.x, **data.kwargs)
    replayed = poutine.trace(poutine.replay(vae.model, trace=guide_trace))
    return guide_trace, replayed.get_trace(data.x, **data.kwargs)


def _elbo_by_datum(vae: VAE, x: Rows) -> Tensor:
    guide_trace, model_trace = _traces(vae, x)
    guide_trace.compute_log_prob()
    model_trace.compute_log_prob()
    scored = [model_trace.nodes[name]["unscaled_log_prob"] for name in (*vae.guide.sites, "x")]
    guided = [guide_trace.nodes[name]["unscaled_log_prob"] for name in vae.guide.sites]
    return sum(scored) - sum(guided)  # type: ignore[operator]


def _loss_and_grads(objective: Any, vae: VAE, batch: Rows) -> float:
    # Pyro's ELBOs call backward only where a parameter site is seen, and ours are shown only to
    # whoever collects them
    with poutine.trace(param_only=True):
        loss = objective.loss_and_grads(vae.model, vae.guide, batch.x, **batch.kwargs)
    return float(loss[0] if isinstance(loss, tuple) else loss)


def _optimizer(given: Optimizer | MakeOptimizer | None, vae: VAE) -> Optimizer:
    parameters = [p for p in vae.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "the VAE has no trainable parameter. Are all frozen, or are the networks hidden in "
            "plain functions?"
        )
    optimizer = given or (lambda p: Adam(p, lr=1e-3))
    optimizer = optimizer if isinstance(optimizer, Optimizer) else optimizer(parameters)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & {id(p) for p in parameters}:
        raise ValueError(
            "the optimizer holds none of this VAE's parameters (a deep copy or a reloaded VAE "
            "has its own); give a callable such as `lambda p: torch.optim.Adam(p, lr=1e-3)`."
        )
    return optimizer


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")


def _device(vae: VAE) -> torch.device:
    return next((p.device for p in vae.parameters()), torch.device("cpu"))
