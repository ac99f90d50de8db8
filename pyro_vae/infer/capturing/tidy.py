"""A traced graph with what is not needed left out: same numbers, fewer operations.

Autograd and Pyro leave a third of a graph that does nothing: detached copies, views of the same
shape, products with 1, sums of constants that could be known beforehand. What is written into in
place, what is random, and what depends on parameters or data keeps its place and order, so that
a replay from one seed draws the numbers of the program itself.
"""

from __future__ import annotations

__all__ = [
    "is_plain",
    "is_random",
    "state_of",
    "tidy",
    "value_of",
    "writes",
    "written_into",
    "written_state",
]

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

aten: Any = torch.ops.aten

# a constant of more elements is cheaper to make than to keep
_LARGEST = 65536
_UNSET = (aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default)
_FILLED = {aten.zeros_like.default: 0.0, aten.ones_like.default: 1.0, aten.new_zeros.default: 0.0}
# torch declares no write for these, which move their running statistics in training
_UNDECLARED = (
    *(aten.native_batch_norm.default, aten.cudnn_batch_norm.default),
    aten.miopen_batch_norm.default,
)
_VIEWS = (aten.view.default, aten._unsafe_view.default)
_SAME = (
    *(aten.view.default, aten.expand.default, aten._unsafe_view.default, aten.reshape.default),
    *(aten._to_copy.default, aten.alias.default, aten.detach.default),
)


def tidy(graph: GraphModule, *, narrow: bool = True) -> GraphModule:
    """Leave out what does nothing and fold what is constant, in place.

    Arguments:
        graph: What `make_fx` returned.
        narrow: Whether to compute on small tensors what was computed on expanded ones, which
            may move the last bit; nothing else does.

    Returns:
        The graph, whose outputs are tensors of their own.

    Example:
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> traced = make_fx(lambda x: x.detach() * 1.0 + torch.ones(3).exp())(torch.zeros(3))
        >>> [n.name for n in tidy(traced).graph.nodes if n.op == "call_function"]
        ['add']
    """
    small = (_narrow, _share) if narrow else ()
    for step in (_drop_idle, _fold, _drop_idle, _share, *small, _drop_dead, _own_outputs):
        step(graph)
    graph.graph.lint()
    graph.recompile()
    return graph


def is_random(node: Node) -> bool:
    """Say whether a node draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def writes(node: Node) -> list[Node]:
    """Return the arguments that an operation writes into."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return []
    if node.target in _UNDECLARED:
        mean, variance, training = node.args[3:6]
        return list(_nodes([mean, variance])) if training else []
    written = []
    for i, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
            written += list(_nodes(value))
    return written


# ------------------------------------------------------------------------------------- aliases
def _nodes(value: Any) -> Iterable[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _nodes(item)


def _owner(node: Node) -> Node:
    """The node whose memory a view looks into; a written argument is returned itself."""
    while node.op == "call_function":
        if node.target is operator.getitem:
            node = node.args[0]  # type: ignore[assignment]
            continue
        schema = getattr(node.target, "_schema", None)
        if schema is None or not any(r.alias_info is not None for r in schema.returns):
            return node
        shown = [a for a, s in zip(node.args, schema.arguments, strict=False) if s.alias_info]
        inner = next((n for a in shown for n in _nodes(a)), None)
        if inner is None:
            return node
        node = inner
    return node


def written_into(graph: Graph) -> set[Node]:
    """Return the owners of all memory that is written into."""
    return {_owner(target) for node in graph.nodes for target in writes(node)}


def state_of(graph: GraphModule) -> list[Tensor]:
    """Return the parameters, buffers and constants that a graph writes into."""
    names = {str(n.target) for n in written_into(graph.graph) if n.op == "get_attr"}
    return [getattr(graph, name) for name in sorted(names)]


@contextmanager
def written_state(graph: GraphModule) -> Iterator[None]:
    """Put back, at the end, the parameters and buffers that a graph writes into.

    Arguments:
        graph: A graph whose state is the program's own.
    """
    state = [(t, t.detach().clone()) for t in state_of(graph)]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in state:
                tensor.copy_(value)


def is_plain(node: Node, written: set[Node]) -> bool:
    """Say whether a node is a function of its arguments, and nobody writes into it."""
    if node.op != "call_function" or is_random(node) or writes(node):
        return False
    return _owner(node) not in written and not any(
        _owner(n) in written for n in node.all_input_nodes
    )


# --------------------------------------------------------------------------------- idle, shared
def _drop_idle(graph: GraphModule) -> None:
    written = written_into(graph.graph)
    for node in list(graph.graph.nodes):
        if is_plain(node, written) and (inner := _idle(node)) is not None:
            node.replace_all_uses_with(inner)
            graph.graph.erase_node(node)


def _idle(node: Node) -> Node | None:
    """The argument that a node returns unchanged, if it does."""
    inner = node.args[0] if node.args and isinstance(node.args[0], Node) else None
    if inner is None:
        return None
    if node.target is aten.lift_fresh_copy.default:
        return inner
    if node.target is aten.t.default and inner.target is aten.t.default:
        first = inner.args[0]
        return first if isinstance(first, Node) else None
    one, zero = _second_is(node, 1), _second_is(node, 0)
    nothing = (
        node.target in _SAME
        or (node.target in (aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar) and one)
        or (node.target in (aten.pow.Tensor_Scalar,) and one)
        or (node.target in (aten.add.Tensor, aten.sub.Tensor) and zero)
    )
    return inner if nothing and _alike(node, inner) else None


def _second_is(node: Node, number: float) -> bool:
    second = node.args[1] if len(node.args) > 1 else None
    return isinstance(second, int | float) and second == number


def _alike(a: Node, b: Node) -> bool:
    x, y = value_of(a), value_of(b)
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    same = x.shape == y.shape and x.dtype == y.dtype and x.device == y.device
    return same and x.stride() == y.stride()


def value_of(node: Node) -> Any:
    """Return a stand-in with the shape, strides and dtype of a node's value."""
    if node.op == "get_attr":
        return _attribute(node)
    return node.meta.get("val")


def _attribute(node: Node) -> Any:
    return getattr(node.graph.owning_module, str(node.target))


def _share(graph: GraphModule) -> None:
    """Compute once what is computed twice."""
    written = written_into(graph.graph)
    known: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if not is_plain(node, written):
            continue
        key = (node.target, _frozen(node.args), _frozen(node.kwargs))
        first = known.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.graph.erase_node(node)


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in value.items())
    # 1, 1.0 and True are equal, and yet other arguments; so are 0.0 and -0.0
    return value if isinstance(value, Node) else (type(value), repr(value))


def _drop_dead(graph: GraphModule) -> None:
    for node in reversed(list(graph.graph.nodes)):
        if node.users or node.op in ("placeholder", "output"):
            continue
        # whoever looks at what is written into need not be a user of the write
        if not is_random(node) and not writes(node):
            graph.graph.erase_node(node)


# -------------------------------------------------------------------------------------- narrowing
def _narrow(graph: GraphModule) -> None:
    """Compute on small tensors, then expand: log(expand(x)) = expand(log(x)), and the like."""
    written = written_into(graph.graph)
    moved: set[Node] = set()
    for node in list(graph.graph.nodes):
        if not is_plain(node, written) or not _is_pointwise(node):
            continue
        inputs = [n for n in node.all_input_nodes if _numel(n) is not None]
        if not inputs or any(n.target is not aten.expand.default for n in inputs):
            continue
        bases = {n: n.args[0] for n in inputs}
        shape = torch.broadcast_shapes(*(value_of(b).shape for b in bases.values()))
        if len(inputs) != len(node.all_input_nodes) or shape.numel() >= (_numel(node) or 0):
            continue
        with graph.graph.inserting_before(node):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: bases[n])  # noqa: B023
            small = graph.graph.call_function(node.target, args, kwargs)
            wide = graph.graph.call_function(aten.expand.default, (small, list(_shape(node))))
        small.meta["val"] = node.meta["val"].new_empty(shape)
        wide.meta["val"] = small.meta["val"].expand(_shape(node))
        node.replace_all_uses_with(wide)
        graph.graph.erase_node(node)
        moved.add(wide)
    _reshape(graph.graph, moved, written)


def _reshape(graph: Graph, moved: set[Node], written: set[Node]) -> None:
    """Put reshapes in the place of views of whatever lies otherwise in memory than it did."""
    for node in graph.nodes:
        if moved.isdisjoint(node.all_input_nodes):
            continue
        # an operation lays its result out as its arguments are
        moved.add(node)
        if node.target in _VIEWS and _owner(node) not in written:
            node.target = aten.reshape.default


def _is_pointwise(node: Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _shape(node: Node) -> torch.Size:
    return value_of(node).shape


def _numel(node: Node) -> int | None:
    value = value_of(node)
    return value.numel() if isinstance(value, Tensor) else None


# -------------------------------------------------------------------------------------- folding
def _fold(graph: GraphModule) -> None:
    """Replace what depends on no argument, parameter or draw by its value."""
    written = written_into(graph.graph)
    literals = _literals(graph.graph)
    known: dict[Node, Any] = {}
    with torch.no_grad():
        for node in graph.graph.nodes:
            if node in literals:
                known[node] = _attribute(node)
            elif is_plain(node, written) and (make := _maker(node, known)) is not None:
                known[node] = make()
    edge = [n for n in known if n.op != "get_attr" and any(u not in known for u in n.users)]
    for i, node in enumerate(n for n in edge if isinstance(known[n], Tensor)):
        name = f"_folded_{i}_{node.name}"
        graph.register_buffer(name, known[node], persistent=False)
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(name)
        constant.meta.update(node.meta)
        node.replace_all_uses_with(constant)
    _drop_dead(graph)


def _literals(graph: Graph) -> set[Node]:
    """Tensors made of Python's numbers: `make_fx` keeps them, and lifts a copy of each."""
    lifted = (aten.lift_fresh_copy.default, aten.lift_fresh.default, aten.lift.default)
    made = [n for n in graph.nodes if n.op == "get_attr" and n.users]
    names = {n.target for n in made if all(u.target in lifted for u in n.users)}
    return {n for n in made if n.target in names}


def _maker(node: Node, known: dict[Node, Any]) -> Callable[[], Any] | None:
    """What makes the value of a node now, if it is the same in every replay."""
    value = node.meta.get("val")
    if node.target in _UNSET:
        return None
    if isinstance(value, Tensor) and value.numel() > _LARGEST and not _is_view(node):
        return None
    fill = _fill(node)
    if fill is not None and isinstance(value, Tensor):
        return lambda: torch.full(value.shape, fill, dtype=value.dtype, device=value.device)
    if any(n not in known for n in node.all_input_nodes):
        return None
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: known[n])
    return lambda: node.target(*args, **kwargs)  # type: ignore[operator,misc]


def _fill(node: Node) -> float | None:
    if node.target in (aten.full_like.default, aten.new_full.default):
        number = node.args[2 if node.target is aten.new_full.default else 1]
        return float(number) if isinstance(number, int | float) else None
    return _FILLED.get(node.target)  # type: ignore[arg-type]


def _is_view(node: Node) -> bool:
    return _owner(node) is not node


# -------------------------------------------------------------------------------------- outputs
def _own_outputs(graph: GraphModule) -> None:
    """Give every output memory of its own, for whoever gets it may write into it."""
    output = next(n for n in graph.graph.nodes if n.op == "output")
    taken: set[Node] = set()

    def own(node: Node) -> Node:
        owner, value = _owner(node), node.meta.get("val")
        lent = owner.op in ("get_attr", "placeholder") or owner in taken
        spread = isinstance(value, Tensor) and not value.is_contiguous()
        taken.add(owner)
        if not lent and not spread:
            return node
        with graph.graph.inserting_before(output):
            options: dict[str, Any] = {"memory_format": torch.contiguous_format}
            copy = graph.graph.call_function(aten.clone.default, (node,), options)
        copy.meta.update(node.meta)
        return copy

    output.args = torch.fx.map_arg(output.args, own)
