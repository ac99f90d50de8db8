"""Whether a graph still says what its program would do: modes, parameters, buffers, modules.

A graph holds parameters and buffers themselves, so values may change as they like. Whoever puts
another object in their place, freezes one, or switches between training and evaluation asks for
another graph.
"""

from __future__ import annotations

__all__ = ["Watch"]

from collections.abc import Iterable, Sequence
from typing import Any

import pyro
from torch import Tensor, nn


class Watch:
    """Remembers what a graph was made of.

    Arguments:
        modules: The modules that the program holds or calls.
        leaves: The tensors whose gradients the graph returns.
        names: The names in Pyro's store that the program asked for.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> watch = Watch([net], list(net.parameters()), [])
        >>> watch.fits(), watch.stale()
        (True, None)
        >>> _ = net.eval()
        >>> watch.fits(), watch.stale()
        (False, None)
        >>> net.weight = nn.Parameter(net.weight.detach().clone())
        >>> watch.stale()
        "'weight' of Linear was replaced"
    """

    def __init__(
        self, modules: Iterable[nn.Module], leaves: Sequence[Tensor], names: Iterable[str]
    ) -> None:
        self._modules = [(m, m.training, _sizes(m)) for m in modules]
        self._held: list[tuple[dict[str, Any], str, Any, str]] = []
        frozen: dict[int, tuple[Tensor, bool]] = {}
        for module, _, _ in self._modules:
            held: Any
            for held in (module._parameters, module._buffers, module._modules):
                self._held += [(held, k, v, type(module).__name__) for k, v in held.items()]
            own = [p for p in module._parameters.values() if p is not None]
            frozen.update({id(p): (p, p.requires_grad) for p in own})
        for leaf in leaves:
            frozen[id(leaf)] = leaf, leaf.requires_grad
        self._frozen = list(frozen.values())
        self._memory = [(t, t.data_ptr(), t.shape, t.dtype, t.device) for t, _ in self._frozen]
        store = _store()
        own = {id(t) for t, _ in self._frozen}
        known = [name for name, value in store.items() if id(value) in own]
        self._stored = [(name, store.get(name)) for name in dict.fromkeys([*names, *known])]
        self._count = len(store)

    def fits(self) -> bool:
        """Whether the graph serves the modes in which modules and parameters are now."""
        for module, training, _ in self._modules:
            if module.training is not training:
                return False
        return all(t.requires_grad is wanted for t, wanted in self._frozen)

    def stale(self) -> str | None:
        """Say what was replaced, so that the graph can never serve again; None if nothing was."""
        for held, name, value, of in self._held:
            if held.get(name) is not value:
                return f"{name!r} of {of} was replaced"
        for module, _, sizes in self._modules:
            if _sizes(module) != sizes:
                return f"{type(module).__name__} was given another part"
        for t, pointer, shape, dtype, device in self._memory:
            if t.data_ptr() != pointer and (t.shape, t.dtype, t.device) != (shape, dtype, device):
                return f"a parameter is now {t.dtype} of shape {tuple(t.shape)} on {t.device}"
        store = _store()
        for name, value in self._stored:
            if store.get(name) is not value:
                return f"{name!r} of the parameter store was replaced"
        if len(store) != self._count:  # what was loaded may be meant for the program
            return "the parameter store holds other names"
        return None


def _sizes(module: nn.Module) -> tuple[int, int, int]:
    return len(module._parameters), len(module._buffers), len(module._modules)


def _store() -> dict[str, Tensor]:
    return pyro.get_param_store()._params
