"""How the parameters of a module stand in Pyro's global parameter store.

`SVI` trains what it finds in the store, by name, and whoever comes first under a name wins:
a second module of the same name, or weights loaded into the store, would be trained in the
place of the module's own, in silence. Here a parameter is put into the store only while
somebody collects parameters (as `SVI.step` does), and what the store holds under its name is
compared with the parameter itself: weights loaded on purpose are taken over, anything else is
an error.
"""

from __future__ import annotations

__all__ = ["announce"]

from collections.abc import Mapping, MutableMapping
from weakref import WeakValueDictionary, ref

import pyro
import torch
from pyro.nn import PyroModule
from pyro.params import param_with_module_name
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

# every tensor we ever put into a store, as long as it lives
_OURS: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
# for every parameter, the loaded tensor whose values it has taken over already
_TAKEN: MutableMapping[Tensor, ref[Tensor]] = WeakTensorKeyDictionary()


def announce(
    name: str, module: nn.Module, *, fixed: bool, aliases: Mapping[str, str] | None = None
) -> None:
    """Make the trainable parameters of a module known to Pyro, as `pyro.module` means to do.

    Parameters enter the global store only while a parameter-collecting trace is running, as in
    `SVI.step`. Frozen parameters (`requires_grad=False`) are left alone. Values that were
    loaded into the store under the same names are copied into the module.

    Arguments:
        name: The prefix of the names, followed by `$$$` and the parameter's own.
        module: The module.
        fixed: Whether the user chose the name; only then can values in the store be meant
            for this module.
        aliases: Full names, by parameters' own, of those that another module announces as well:
            under two names a parameter would be loaded twice.

    Raises:
        ValueError: If the store holds parameters of another module under these names, or
            values of another shape, if a parameter is not contiguous (Pyro would train a
            copy of it), or if a frozen one belongs to a PyroModule (Pyro would thaw it).

    Example:
        >>> net = nn.Linear(2, 1)
        >>> announce("net", net, fixed=True)  # nobody collects: the store is left as it is
        >>> "net$$$weight" in pyro.get_param_store()
        False
    """
    store, collecting, known = pyro.get_param_store(), _collecting(), aliases or {}
    _refuse_to_thaw(name, module)
    if not collecting and len(store) == 0:
        return  # nobody asks, and nothing was loaded
    for parameter_name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        full = known.get(parameter_name) or param_with_module_name(name, parameter_name)
        if full in store and store[full] is not parameter:
            _take_over(full, parameter, fixed=fixed)
        if collecting:
            if not parameter.is_contiguous():
                raise ValueError(
                    f"parameter {full!r} is not contiguous, so Pyro would train a copy of it; "
                    "replace it by nn.Parameter(p.detach().contiguous())."
                )
            pyro.param(full, parameter)
            _OURS[id(parameter)] = parameter


def _refuse_to_thaw(name: str, module: nn.Module) -> None:
    """Raise if a PyroModule holds frozen parameters, which calling it would unfreeze."""
    if pyro.settings.get("module_local_params"):
        return  # the mode in which Pyro leaves them alone
    for path, part in module.named_modules():
        if not isinstance(part, PyroModule):
            continue
        frozen = [n for n, p in part.named_parameters(recurse=False) if not p.requires_grad]
        if frozen:
            raise ValueError(
                f"parameter {param_with_module_name(name, f'{path}.{frozen[0]}')!r} is frozen, "
                "but belongs to a PyroModule, and Pyro would train it all the same. Build the "
                "network of plain torch modules."
            )


def _collecting() -> bool:
    return any(isinstance(m, TraceMessenger) and m.param_only for m in _PYRO_STACK)


def _take_over(full: str, parameter: Tensor, *, fixed: bool) -> None:
    store = pyro.get_param_store()
    stored = store[full]
    if _OURS.get(id(stored)) is stored or not fixed:
        raise ValueError(
            f"Pyro's parameter store holds another parameter under the name {full!r}, and would "
            "train that one instead. Give each VAE its own name=, or clear the store "
            "(pyro.clear_param_store()) if the other one is no longer needed"
            + (
                "."
                if fixed
                else "; to load weights through the store, build the VAE with the name= under "
                "which they were saved."
            )
        )
    if stored.shape != parameter.shape:
        raise ValueError(
            f"Pyro's parameter store holds {full!r} with shape {tuple(stored.shape)}, but the "
            f"module's parameter has shape {tuple(parameter.shape)}; the networks differ."
        )
    taken = _TAKEN.get(parameter)
    if taken is None or taken() is not stored:
        # once only: a store that is put back (as by scope()) must not undo later training
        with torch.no_grad():
            parameter.copy_(stored)
        _TAKEN[parameter] = ref(stored)
    store[full] = parameter
    _OURS[id(parameter)] = parameter
