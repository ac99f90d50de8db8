"""Measuring without leaving a trace.

Running a Pyro model draws random numbers, may create parameters in the global store, and may
change buffers (BatchNorm). Inside `untouched` all of this may happen; afterwards it has not.
"""

from __future__ import annotations

__all__ = [
    "RandomState",
    "evaluating",
    "modules_of",
    "random_state",
    "seed_everything",
    "set_random_state",
    "untouched",
]

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import pyro
import torch
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_vae.closures import used_modules

RandomState: TypeAlias = dict[str, Any]


@contextmanager
def untouched(*callables: Callable[..., Any]) -> Iterator[None]:
    """Restore random states, parameter store, buffers and gradients on leaving.

    Arguments:
        *callables: Model and guide: modules, bound methods of modules, or functions.
    """
    modules = [m for c in callables for _, m in modules_of(c)]
    buffers = [b for m in modules for b in m.buffers()]
    before = [b.detach().clone() for b in buffers]
    gradients = [(p, p.grad) for m in modules for p in m.parameters()]
    gradients += [(p, p.grad) for _, p in pyro.get_param_store().named_parameters()]
    state, store = random_state(), pyro.get_param_store()
    try:
        with store.scope(store.get_state()):
            yield
    finally:
        set_random_state(state)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def modules_of(function: Callable[..., Any]) -> list[tuple[str, nn.Module]]:
    """Return the modules a model or guide runs, with the names to show for them."""
    if isinstance(function, nn.Module):
        return [("", function)]
    return used_modules(function)


def random_state() -> RandomState:
    """Return the states of torch's (on every device), NumPy's and Python's generators."""
    state: RandomState = get_rng_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: RandomState) -> None:
    """Set all generators to a state returned by `random_state`."""
    set_rng_state(state)
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed torch's, NumPy's and Python's generators, as `pyro.set_rng_seed` does.

    Without an accelerator in use, that one notes the seed and a traceback for each kind of
    accelerator that might come, which is slow, and outlives any restored state.

    Arguments:
        seed: Not negative, and below 2**32.

    Example:
        >>> seed_everything(0)
        >>> first = torch.rand(3)
        >>> pyro.set_rng_seed(0)
        >>> torch.equal(first, torch.rand(3))
        True
    """
    accelerated = torch.cuda.is_initialized() or torch.xpu.is_initialized()
    if accelerated or torch.backends.mps.is_available():
        pyro.set_rng_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


@contextmanager
def evaluating() -> Iterator[None]:
    """Let every module that is called in this thread run as after `eval()`, then restore it.

    A program may reach its modules in any way, so they are met when they are called: before its
    forward a module's `training` becomes False, and its buffers are noted; on leaving both are
    as they were.
    """
    thread, modes = threading.get_ident(), dict[nn.Module, bool]()
    buffers: list[tuple[Tensor, Tensor]] = []

    def meet(module: nn.Module, _: Any) -> None:
        if module in modes or threading.get_ident() != thread:
            return
        modes[module] = module.training
        held = [b for b in module._buffers.values() if b is not None]
        buffers.extend((b, b.detach().clone()) for b in held)
        module.training = False

    hook = register_module_forward_pre_hook(meet)
    try:
        yield
    finally:
        hook.remove()
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
