"""What of the arguments and of the surroundings a graph depends on."""

from __future__ import annotations

__all__ = ["Signature", "rebuild", "settings", "signature"]

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro.infer import ELBO
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_vae.infer.free_bits import FreeBits

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class Signature(NamedTuple):
    """The tensors among the arguments of a call, and what a graph of it depends on.

    Arguments:
        tensors: The tensors, in order.
        key: Shapes, strides, dtypes and devices of the tensors, the values of other arguments.
        structure: How to put the tensors back into their places; None where all arguments are
            tensors by position.
    """

    tensors: Sequence[Tensor]
    key: Hashable
    structure: Any


def signature(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Signature:
    """Take the arguments of a call apart.

    Arguments:
        args: Positional arguments of model and guide.
        kwargs: Their keyword arguments.

    Raises:
        TypeError: If there is a NumPy array among them, which a graph would hold for good.
        ValueError: If a tensor among them wants a gradient.

    Example:
        >>> signature((torch.zeros(3, 2),), {}).key
        ((torch.Size([3, 2]), (2, 1), torch.float32, device(type='cpu')),)
    """
    if not kwargs and all(isinstance(a, Tensor) for a in args):
        return Signature(args, _of_tensors(args), None)
    leaves, spec = tree_flatten((args, dict(kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    others = tuple(None if isinstance(leaf, Tensor) else _of_other(leaf) for leaf in leaves)
    return Signature(tensors, (_of_tensors(tensors), others, str(spec)), (leaves, spec))


def rebuild(structure: Any, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments of the structure of a signature, holding these tensors.

    Arguments:
        structure: That of a `Signature`.
        tensors: As many tensors as it had.
    """
    if structure is None:
        return tuple(tensors), {}
    leaves, spec = structure
    queue = iter(tensors)
    return tree_unflatten([next(queue) if isinstance(v, Tensor) else v for v in leaves], spec)


def _of_tensors(tensors: Sequence[Tensor]) -> Hashable:
    for i, t in enumerate(tensors):
        if t.requires_grad:
            raise ValueError(
                f"tensor argument {i} of shape {tuple(t.shape)} requires a gradient, which a "
                "captured ELBO computes for parameters alone; pass its .detach(), or make it a "
                "parameter of model or guide."
            )
    key = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    if len(tensors) > 1 and len({id(t) for t in tensors}) < len(tensors):
        first: dict[int, int] = {}
        return key, tuple(first.setdefault(id(t), i) for i, t in enumerate(tensors))
    return key


def _of_other(value: Any) -> Hashable:
    if isinstance(value, np.ndarray):
        raise TypeError(
            "an argument is a NumPy array, whose numbers a graph would hold for good; pass "
            "torch.as_tensor(array)."
        )
    # 1, 1.0 and True are equal, and other arguments; what is no number is known by itself
    return (type(value), value) if isinstance(value, _PLAIN) else (type(value), id(value))


def settings(elbo: ELBO) -> tuple[Any, ...]:
    """Return what a graph depends on besides arguments and modules: the ELBO, and torch's modes.

    Arguments:
        elbo: Any ELBO.

    Raises:
        RuntimeError: If a handler of Pyro stands around the call, which a replay would not hear.
    """
    if _PYRO_STACK:
        raise RuntimeError(
            f"a captured ELBO is called inside a handler, {type(_PYRO_STACK[-1]).__name__}, which "
            "a replay would not hear. Put the handler around model and guide, as in "
            "poutine.scale(model, 0.5), and capture these; in SVI take the uncaptured ELBO."
        )
    own = tuple((k, _setting(v)) for k, v in vars(elbo).items() if k not in ("beta", "_routes"))
    modes = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    return own, torch.get_default_dtype(), modes


def _setting(value: Any) -> Hashable:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, FreeBits):
        return value.per, tuple(value._given.items())
    return id(value) if isinstance(value, Tensor) else None
