"""Which latent sites the parameters of a site are computed from, by running the program.

Each latent value is followed in two ways: by provenance, which sees every tensor operation but
not what happens in Python or inside `torch.func`, and by autograd, which sees through these but
not through `detach`, integers or comparisons. Where a value goes out of sight of provenance
(`.item()`, `if z > 0`, NumPy, `torch.func.vmap`, writing into another tensor), it may come back
anywhere, and an edge to every later site is assumed.

References:
    Nonstandard Interpretations of Probabilistic Programs for Efficient Inference
    (D. Wingate, N. Goodman, A. Stuhlmueller, J. Siskind, 2011)
"""

from __future__ import annotations

__all__ = ["Parents", "follow", "is_latent"]

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import pyro
import torch
from pyro import poutine
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from pyro_vae.kl.parameters import tensors

Parents: TypeAlias = dict[str, dict[str, str]]


def is_latent(node: Any) -> bool:
    """Return whether a node of a trace is a latent site.

    Arguments:
        node: A node of one of Pyro's traces, or a message.

    Returns:
        True unless it is observed, a parameter, or the subsample of a plate.

    Example:
        >>> import pyro.distributions as dist
        >>> trace = poutine.trace(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))).get_trace()
        >>> [name for name, node in trace.nodes.items() if is_latent(node)]
        ['z']
    """
    return node["type"] == "sample" and not node["is_observed"] and not site_is_subsample(node)


def follow(
    program: Callable[..., Any],
    trace: poutine.Trace,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Parents:
    """Run a program at the latent values of a trace, and return the direct parents of its sites.

    Nothing else of the run stays: no random number is used up, no buffer of a module moves.

    Arguments:
        program: A Pyro program.
        trace: A trace with values for its latent sites.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        By latent site, in the order they are drawn: its parents, each with the reason why the
        edge is assumed, or "" if it was seen.

    Example:
        >>> import pyro.distributions as dist
        >>> def program():
        ...     a = pyro.sample("a", dist.Normal(0.0, 1.0))
        ...     pyro.sample("b", dist.Normal(float(a.detach()), 1.0))
        >>> follow(program, poutine.trace(program).get_trace(), (), {})
        {'a': {}, 'b': {'a': "'a' goes out of sight through Tensor.__float__()"}}
    """
    nodes: list[Any] = list(trace.nodes.values())
    devices = {node["value"].device for node in nodes if is_latent(node)}
    cuda = [device.index for device in devices if device.type == "cuda"]
    sight = _Sight()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(_spare_buffers())
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # they were heard in the run that counts
        stack.enter_context(torch.enable_grad())
        follower = stack.enter_context(_Follower(sight))
        stack.enter_context(sight)
        poutine.replay(program, trace=trace)(*args, **kwargs)
    return follower.parents


class _Follower(Messenger):
    """Gives each latent value a name to be known by, and looks for the names in parameters."""

    def __init__(self, sight: _Sight) -> None:
        super().__init__()
        self.sight, self.parents = sight, {}
        self.leaves: dict[int, tuple[str, Tensor]] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not is_latent(msg):
            return
        name, fn, value = msg["name"], msg["fn"], detach_provenance(msg["value"]).detach()
        held = [*tensors(fn), fn.log_prob(value)]
        seen = get_provenance(held) | self._reached(held)
        self.parents[name] = {**self.sight.lost, **dict.fromkeys(seen, "")}
        if value.is_floating_point():
            leaf = value.clone().requires_grad_()
            self.leaves[id(leaf)] = name, leaf
            value = leaf.clone()  # which a program may write into, as it may into its own draw
        msg["value"] = ProvenanceTensor(value, frozenset({name}))
        self.sight.drawn.append(name)

    def _reached(self, held: list[Tensor]) -> set[str]:
        """The sites whose values these tensors were computed from, by autograd."""
        found, seen = set(), set()
        queue: list[Any] = [detach_provenance(t).grad_fn for t in held]
        while queue:
            node = queue.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if id(getattr(node, "variable", None)) in self.leaves:
                found.add(self.leaves[id(node.variable)][0])
            queue.extend(next_node for next_node, _ in node.next_functions)
        return found


class _Sight(TorchFunctionMode):
    """Notes whose values go where provenance does not follow, and how."""

    LEAVING = (
        *("item", "tolist", "numpy", "is_nonzero", "equal", "allclose", "__array__"),
        *("__dlpack__", "__bool__", "__int__", "__float__", "__complex__", "__index__"),
        "__contains__",
    )

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[str] = []
        self.lost: dict[str, str] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if torch._C._functorch.peek_interpreter_stack() is not None:  # type: ignore[attr-defined]
            self._lose(self.drawn, "torch.func")
        elif name in self.LEAVING:
            self._lose(get_provenance([args, kwargs]), f"Tensor.{name}()")
        elif _writes(name) or "out" in kwargs:
            target = kwargs.get("out", args[0] if args else None)
            kept = get_provenance(target)
            self._lose(get_provenance([args, kwargs]) - kept, f"{name}, into another tensor")
        return func(*args, **kwargs)

    def _lose(self, sites: Any, how: str) -> None:
        for site in sites:
            self.lost.setdefault(site, f"{site!r} goes out of sight through {how}")


def _writes(name: str) -> bool:
    """Whether an operation of this name changes its first argument: set, iadd, ..., copy_."""
    if name.startswith("__"):
        return name == "__setitem__" or name in _IN_PLACE
    return name.endswith("_")


_IN_PLACE = ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__ipow__")


@contextmanager
def _spare_buffers() -> Iterator[None]:
    """Let every module that is called work on copies of its buffers."""
    own: dict[nn.Module, dict[str, Tensor | None]] = {}

    def copy(module: nn.Module, _: Any) -> None:
        if module not in own and module._buffers:
            own[module] = dict(module._buffers)
            spare = {k: None if b is None else b.clone() for k, b in module._buffers.items()}
            module._buffers.update(spare)

    hook = register_module_forward_pre_hook(copy)
    try:
        yield
    finally:
        hook.remove()
        for module, buffers in own.items():
            module._buffers.update(buffers)
