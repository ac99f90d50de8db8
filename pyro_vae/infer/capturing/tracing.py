"""One evaluation of an objective and its gradients, recorded as a graph of tensor operations.

    (loss, holds, gradients) = graph(tensor arguments)

Python, Pyro's handlers and autograd run once, under `make_fx`; what remains are their tensor
operations. Parameters and buffers stay live: the graph holds the tensors themselves, so that an
update in place is seen by the next replay.
"""

from __future__ import annotations

__all__ = ["NotCapturable", "Traced", "all_of", "record", "trace"]

import random
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from pyro_vae.checks import deferred
from pyro_vae.infer.bound import Objective
from pyro_vae.infer.capturing.tidy import value_of

# whose frames are not the program's own
_LIBRARIES = tuple(str(Path(module.__file__ or "").parent) for module in (torch, pyro))


class NotCapturable(RuntimeError):
    """A program that is no fixed list of tensor operations; the message names what is not."""


class Traced(NamedTuple):
    """A graph, and what it was made of.

    Arguments:
        graph: `graph(*tensors) -> (loss, holds, *gradients)`, to be run without autograd.
        leaves: The tensors whose gradients the graph returns, in that order.
        modules: The modules that the program called.
    """

    graph: GraphModule
    leaves: list[Tensor]
    modules: list[nn.Module]


def trace(
    rehearse: Callable[[], Any],
    objective: Callable[..., Objective],
    tensors: Sequence[Tensor],
    *,
    gradients: bool,
) -> Traced:
    """Run a program once as it is, then once more while its operations are recorded.

    Random states and the buffers of modules are afterwards what they were.

    Arguments:
        rehearse: Runs the program as users do, with validation; creates lazy parameters.
        objective: The objective as a function of the tensor arguments.
        tensors: The tensor arguments.
        gradients: Whether the gradients of the objective are wanted.

    Returns:
        The graph.

    Raises:
        NotCapturable: If a number is read, or drawn by Python or NumPy, on the way.
        Exception: What the program raises when it is run as it is.
    """
    leaves: list[Tensor] = []

    def differentiated(made: Objective, flags: list[Tensor]) -> tuple[Tensor, ...]:
        flags = [*flags, *(check.flag for check in made.checks), made.loss.isfinite()]
        holds = all_of(flags)
        if not (gradients and made.surrogate.requires_grad):
            return made.loss, holds
        leaves.extend(_leaves(made.surrogate))
        found = torch.autograd.grad(made.surrogate, leaves, allow_unused=True)
        reached = [(leaf, g) for leaf, g in zip(leaves, found, strict=True) if g is not None]
        leaves[:] = [leaf for leaf, _ in reached]
        return made.loss, holds, *(g for _, g in reached)

    graph, called = record(objective, differentiated, tensors, rehearse)
    return Traced(graph, leaves, called)


def all_of(flags: Sequence[Tensor]) -> Tensor:
    """Return whether all flags hold, a 0-dim tensor."""
    return torch.stack([flag.reshape(()) for flag in flags]).all()


def record(
    function: Callable[..., Any],
    outputs: Callable[[Any, list[Tensor]], tuple[Tensor, ...]],
    tensors: Sequence[Tensor],
    rehearse: Callable[[], Any] = lambda: None,
) -> tuple[GraphModule, list[nn.Module]]:
    """Run a function of tensors once, and record its operations.

    Random states and the buffers of modules are afterwards what they were.

    Arguments:
        function: What is run, in which checks are deferred.
        outputs: Makes the outputs of the graph of what it returned, and of the flags of checks.
        tensors: Its arguments.
        rehearse: Runs the program as users do first.

    Returns:
        The graph, and the modules that were called.

    Raises:
        NotCapturable: If a number is read, or drawn by Python or NumPy, on the way.
        Exception: What `rehearse` raises.
    """
    # a tensor that is an argument here may be a constant of the program elsewhere
    inputs = [t.detach() for t in tensors]
    where = _Where()

    def step(*tensors: Tensor, shapes: bool = False) -> tuple[Tensor, ...]:
        with deferred() as flags, where, _Unread(shapes=shapes):
            made = function(*tensors)
        return outputs(made, flags)

    with ExitStack() as stack:
        called = stack.enter_context(_unchanged())
        rehearse()
        stack.enter_context(torch.enable_grad())
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # they were heard in the rehearsal
        stack.enter_context(_drawn_by_torch())
        # one mode for the stand-ins of all results: without it make_fx makes one for each
        context = TracingContext(FakeTensorMode(allow_fallback_kernels=True))
        stack.enter_context(tracing(context))
        try:
            graph = make_fx(step)(*inputs)
            dynamic = _of_dynamic_shape(graph)
            if dynamic:
                # once more, up to the line of the program
                make_fx(partial(step, shapes=True))(*inputs)
                raise _DynamicShape(str(dynamic[0].target))
        except Exception as error:
            raise NotCapturable(_reason(error, where.site)) from error
    return graph, list(called)


class _Unread(TorchFunctionMode):
    """Does without reading numbers what torch does with a look at them, and refuses to read.

    Whatever goes through torch's dispatcher is refused by `make_fx`; these go around it.
    """

    AROUND = ("numpy", "tolist", "__array__", "__dlpack__")
    OF_ANY_SHAPE = (
        *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive"),
        *("repeat_interleave", "bincount", "histc", "where"),
    )

    def __init__(self, *, shapes: bool) -> None:
        super().__init__()
        self.shapes = shapes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.one_hot:
            return _one_hot(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in self.AROUND and args[0] in _made_here():
            raise RuntimeError(f"_local_scalar_dense by Tensor.{name}()")
        if self.shapes and (
            (name in self.OF_ANY_SHAPE and not (name == "where" and len(args) > 1))
            or (name == "__getitem__" and _by_booleans(args[1]))
        ):
            raise _DynamicShape(name)
        return func(*args, **(kwargs or {}))


class _DynamicShape(RuntimeError):
    """An operation, by its name, whose result has a shape that depends on data."""


def _by_booleans(index: Any) -> bool:
    # an index by numbers has the shape of the index; one by booleans does not
    parts = index if isinstance(index, tuple | list) else [index]
    return any(getattr(part, "dtype", None) in (torch.bool, torch.uint8) for part in parts)


def _made_here() -> Any:
    """The tensors that were made while the program is traced."""
    mode = get_proxy_mode()
    assert mode is not None
    return mode.tracer.tensor_tracker  # type: ignore[attr-defined]


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        num_classes = int(tensor.max()) + 1
    classes = torch.arange(num_classes, device=tensor.device)
    return (tensor.unsqueeze(-1) == classes).long()


def _leaves(surrogate: Tensor) -> list[Tensor]:
    """The tensors that autograd would add gradients to, but those made on the way."""
    made_here = _made_here()
    found: list[Tensor] = []
    seen, queue = set(), [surrogate.grad_fn]
    while queue:
        node: Any = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and variable not in made_here:
            found.append(variable)
        queue.extend(following for following, _ in reversed(node.next_functions))
    return found


# ------------------------------------------------------------------------------- a good guest
@contextmanager
def _unchanged() -> Iterator[dict[nn.Module, None]]:
    """Note which modules are called; put their buffers and the random states back at the end."""
    called: dict[nn.Module, None] = {}
    before: list[tuple[nn.Module, str, Tensor, Tensor]] = []

    def note(module: nn.Module, _: Any) -> None:
        if module not in called:
            called[module] = None
            buffers = [(n, b) for n, b in module._buffers.items() if b is not None]
            before.extend((module, name, b, b.detach().clone()) for name, b in buffers)

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    hook = register_module_forward_pre_hook(note)
    try:
        with torch.random.fork_rng(devices=devices):
            yield called
    finally:
        hook.remove()
        replaced = [(m, name) for m, name, b, _ in before if m._buffers.get(name) is not b]
        with torch.no_grad():
            for module, name, buffer, value in before:
                module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
    if replaced:
        module, name = replaced[0]
        raise NotCapturable(
            f"{type(module).__name__} puts a new tensor into its buffer {name!r} in each call, "
            f"which a replay would not see; write into it, as in `self.{name}.copy_(...)`."
        )


@contextmanager
def _drawn_by_torch() -> Iterator[None]:
    """Refuse numbers drawn by Python or NumPy, which every replay would repeat."""
    before = random.getstate(), np.random.get_state(legacy=False)
    yield
    after = random.getstate(), np.random.get_state(legacy=False)
    for name, old, new in zip(("random", "numpy.random"), before, after, strict=True):
        if repr(old) != repr(new):
            raise NotCapturable(
                f"the program draws numbers by {name}, which would be the same in every replay; "
                "draw them by torch, or pass them as tensor arguments."
            )


# ------------------------------------------------------------------------------ what went wrong
class _Where(Messenger):
    """Notes the last site that was begun."""

    def __init__(self) -> None:
        super().__init__()
        self.site = "before its first site"

    def _pyro_sample(self, msg: Any) -> None:
        self.site = f"at site {msg['name']!r}"

    def _pyro_post_sample(self, msg: Any) -> None:
        self.site = f"after site {msg['name']!r}"


def _reason(error: Exception, site: str) -> str:
    if isinstance(error, NotCapturable):
        return str(error)
    text = str(error)
    line = _own_frame(traceback.extract_tb(error.__traceback__))
    if "_local_scalar_dense" in text or "data-dependent" in text.lower():
        what = "reads a number off a tensor (.item(), .numpy(), float(), `if` or `while` on data)"
        cure = "Take torch.where in its place, or uncapturable='eager' to run it as it is."
    elif isinstance(error, _DynamicShape):
        what = f"makes a tensor whose shape depends on data, by {text.splitlines()[0]},"
        cure = "Take torch.where or a mask in its place, or uncapturable='eager' to run it."
    else:
        first = text.strip().splitlines()[0] if text.strip() else "no message"
        what = f"does what a graph cannot hold ({type(error).__name__}: {first})"
        cure = "uncapturable='eager' runs it as it is."
    return f"the program {what} {site}, {line}. {cure}"


def _own_frame(frames: Sequence[traceback.FrameSummary]) -> str:
    """The innermost line of the program, and the line of torch or Pyro below it that it led to."""
    plain = [f for f in frames if not f.filename.startswith(("<", __file__, *_RECORDERS))]
    own = [f for f in plain if not f.filename.startswith((*_LIBRARIES, _HERE))]
    frame, deepest = (own or plain)[-1], plain[-1]
    if deepest is frame or not deepest.filename.startswith(_LIBRARIES):
        return _line(frame)
    return f"{_line(frame)} (in {deepest.name}, {_line(deepest)})"


def _line(frame: traceback.FrameSummary) -> str:
    return f"{Path(frame.filename).name}:{frame.lineno}: {(frame.line or '').strip()}"


# the parts of torch that run operations and record them, through which every one goes
_RECORDERS = tuple(
    str(Path(torch.__file__).parent / part)
    for part in ("fx", "_", "utils", "overrides", "autograd", "nn/modules/module")
)
_HERE = str(Path(__file__).parent.parent)


def _of_dynamic_shape(graph: GraphModule) -> list[Node]:
    """The operations whose result has a shape that depends on data."""
    tag = torch.Tag.dynamic_output_shape
    nodes = [n for n in graph.graph.nodes if tag in getattr(n.target, "tags", ())]
    return [n for n in nodes if n.target is not torch.ops.aten.index.Tensor or _masks(n)]


def _masks(node: Node) -> bool:
    values = [None if n is None else value_of(n) for n in node.args[1]]  # type: ignore[union-attr]
    return _by_booleans(values)
