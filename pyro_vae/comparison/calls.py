"""Calls of an ELBO class: value, gradient, noise and time.

Every ELBO is called from the same random states, so that two of them see the same draws and
their gradients can be compared in pairs: whether E[g_a - g_b] = 0 is asked by Hotelling's test
of a few fixed projections of the differences (all coordinates, where there are few).
"""

from __future__ import annotations

__all__ = ["Calls", "call_elbo", "disagreement"]

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import ELBO
from scipy import stats
from torch import Tensor

from pyro_vae.infer.guard import RandomState, set_random_state

PROJECTIONS = 8


@dataclass
class Calls:
    """What repeated calls of one ELBO gave; `add` sums over batches of the data.

    Arguments:
        losses: The loss of each call, in nats.
        seconds: The wall-clock time of each call, backward included.
        total: By parameter, the sum over calls of the gradient.
        squares: By parameter, the sum over calls of its squared elements.
        projections: By parameter, a few fixed projections of each gradient, (calls, k).
        failure: The error that ended the calls, if one did.
        warnings: The distinct warnings they raised.
    """

    losses: np.ndarray
    seconds: np.ndarray
    total: dict[str, Tensor] = field(default_factory=dict)
    squares: dict[str, Tensor] = field(default_factory=dict)
    projections: dict[str, np.ndarray] = field(default_factory=dict)
    failure: str = ""
    warnings: tuple[str, ...] = ()

    def gradient(self, name: str) -> tuple[float, float, float]:
        """Return the norm of the mean gradient, the deviation of one call, and their ratio.

        The squared norm of the mean is freed of the noise it contains, so that a gradient of
        mean zero shows a signal-to-noise ratio near zero.
        """
        calls = len(self.losses)
        mean = self.total[name] / calls
        variance = (self.squares[name] - calls * mean**2).clamp(min=0).sum().item() / (calls - 1)
        norm = max(float((mean**2).sum()) - variance / calls, 0.0) ** 0.5
        std = variance**0.5
        return norm, std, norm / std if std > 0 else float("inf" if norm > 0 else "nan")


def call_elbo(
    elbo: ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batches: list[tuple[tuple[Any, ...], dict[str, Any], float]],
    states: list[list[RandomState]],
    parameters: Mapping[str, Tensor],
) -> Calls:
    """Call an ELBO once from each random state, over all batches of the data.

    Arguments:
        elbo: A Pyro ELBO.
        model: The model.
        guide: The guide.
        batches: For each batch: positional and keyword arguments, and its weight in the sum.
        states: For each batch, the random state before each call.
        parameters: The trainable leaves by name.
    """
    number = len(states[0])
    calls = Calls(losses=np.zeros(number), seconds=np.zeros(number))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for i in range(number):
                _one_call(calls, i, elbo, model, guide, batches, states, parameters)
        except (NotImplementedError, ValueError, AssertionError, KeyError, RuntimeError) as error:
            calls.failure = f"{type(error).__name__}: {error}".strip()
            calls.losses[:] = np.nan
    calls.warnings = tuple(sorted({str(w.message) for w in caught}))
    return calls


def _one_call(
    calls: Calls,
    i: int,
    elbo: ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batches: list[tuple[tuple[Any, ...], dict[str, Any], float]],
    states: list[list[RandomState]],
    parameters: Mapping[str, Tensor],
) -> None:
    gradients = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for (args, kwargs, weight), batch_states in zip(batches, states, strict=True):
        set_random_state(batch_states[i])
        start = time.perf_counter()
        loss, found = _loss_and_gradients(elbo, model, guide, args, kwargs, parameters)
        calls.seconds[i] += time.perf_counter() - start
        calls.losses[i] += weight * loss
        for name, gradient in found.items():
            gradients[name] += weight * gradient
    for name, gradient in gradients.items():
        flat = gradient.detach().flatten().to(torch.float64)
        if i == 0:
            calls.total[name], calls.squares[name] = torch.zeros_like(flat), torch.zeros_like(flat)
            width = min(PROJECTIONS, len(flat))
            calls.projections[name] = np.zeros((len(calls.losses), width))
        calls.total[name] += flat
        calls.squares[name] += flat**2
        calls.projections[name][i] = (_directions(len(flat), flat.device) @ flat).cpu().numpy()


def _loss_and_gradients(
    elbo: Any, model: Any, guide: Any, args: Any, kwargs: Any, parameters: Mapping[str, Tensor]
) -> tuple[float, dict[str, Tensor]]:
    leaves = list(parameters.values())
    with torch.enable_grad():
        if hasattr(elbo, "differentiable_loss"):
            loss = elbo.differentiable_loss(model, guide, *args, **kwargs)
            found = torch.autograd.grad(loss, leaves, allow_unused=True) if leaves else ()
            value = loss.item()
        else:
            # RenyiELBO, TraceGraph_ELBO and ReweightedWakeSleep only know how to call backward
            for leaf in leaves:
                leaf.grad = None
            with poutine.trace(param_only=True):
                value = elbo.loss_and_grads(model, guide, *args, **kwargs)
            value = value[0] if isinstance(value, tuple) else value
            found = tuple(leaf.grad for leaf in leaves)
    return float(value), {
        name: gradient
        for name, gradient in zip(parameters, found, strict=True)
        if gradient is not None
    }


def _directions(size: int, device: torch.device) -> Tensor:
    """Rows to project on: the identity if there are few coordinates, else fixed random signs."""
    if size <= PROJECTIONS:
        return torch.eye(size, dtype=torch.float64, device=device)
    generator = torch.Generator().manual_seed(size)
    signs = torch.randint(0, 2, (PROJECTIONS, size), generator=generator, dtype=torch.int8)
    return (2.0 * signs.to(torch.float64) - 1.0).to(device)


def disagreement(a: Calls, b: Calls, name: str) -> float:
    """Return the p-value of equal expected gradients of two ELBOs called from equal states.

    T^2 = R d' S^-1 d for the mean d and covariance S of R paired differences;
    (R - k) / (k (R - 1)) T^2 is F(k, R - k) under equality.

    References:
        The generalization of Student's ratio (H. Hotelling, 1931)
    """
    differences = a.projections[name] - b.projections[name]
    scale = np.abs(a.projections[name]).max() + np.abs(b.projections[name]).max()
    if not np.isfinite(scale):
        return float("nan")
    if np.abs(differences).max() <= 1e-5 * scale:
        return 1.0  # the same numbers, up to rounding
    calls, mean = len(differences), differences.mean(0)
    values, vectors = np.linalg.eigh(np.cov(differences, rowvar=False).reshape(mean.size, -1))
    kept = values > 1e-10 * values.max()
    rank = int(kept.sum())
    if rank == 0 or calls <= rank + 1:
        return float("nan") if rank else 0.0
    statistic = calls * float((((vectors.T @ mean)[kept]) ** 2 / values[kept]).sum())
    ratio = (calls - rank) / (rank * (calls - 1)) * statistic
    return float(stats.f.sf(ratio, rank, calls - rank))
