"""A graph in two halves: what depends on few of its arguments, to be computed once, and the rest.

    graph(*fast, *slow) = rest(*fast, *once(*slow))

While only the fast arguments change (draws, say, beside data that stay), `rest` alone is run.
"""

from __future__ import annotations

__all__ = ["Halves", "halved"]

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from pyro_vae.infer.capturing.tidy import is_plain, written_into


class Halves(NamedTuple):
    """Both halves, to be run without autograd.

    Arguments:
        once: `once(*slow)` returns what `rest` needs of the slow arguments.
        rest: `rest(*fast, *once(*slow))` returns what the graph does.
    """

    once: Callable[..., tuple[Tensor, ...]]
    rest: Callable[..., tuple[Tensor, ...]]


def halved(graph: GraphModule, fast: int) -> Halves:
    """Cut a graph in two, with the same operations in the same order.

    Arguments:
        graph: A tidy graph without random nodes.
        fast: The number of its leading arguments that change each time.

    Example:
        >>> import torch
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> traced = make_fx(lambda z, x: (z * x.exp(),))(torch.zeros(3), torch.zeros(3))
        >>> once, rest = halved(traced, fast=1)
        >>> kept = once(torch.zeros(3))
        >>> rest(torch.ones(3), *kept)
        (tensor([1., 1., 1.]),)
    """
    slow = _slow(graph.graph, fast)
    nodes = list(graph.graph.nodes)
    # parameters and constants are at hand in both halves
    wanted = dict.fromkeys(
        n
        for node in nodes
        if node not in slow
        for n in node.all_input_nodes
        if n in slow and n.op != "get_attr"
    )
    places = [n for n in nodes if n.op == "placeholder"]
    once = _part(graph, [n for n in nodes if n in slow], places[fast:], list(wanted))
    moving = [n for n in nodes if n not in slow and n.op != "output"]
    rest = _part(graph, moving, [*places[:fast], *wanted], nodes[-1].args[0])  # type: ignore[arg-type]
    return Halves(once.forward, rest.forward)


def _slow(graph: Graph, fast: int) -> set[Node]:
    """The nodes that are functions of slow arguments and of parameters, and stay as they are."""
    written, slow = written_into(graph), set[Node]()
    for i, node in enumerate(graph.nodes):
        if node.op == "placeholder":
            if i >= fast:
                slow.add(node)
        elif node.op == "get_attr" or (
            is_plain(node, written) and all(n in slow for n in node.all_input_nodes)
        ):
            slow.add(node)
    return slow


def _part(
    whole: GraphModule, nodes: Sequence[Node], given: Sequence[Node], outputs: Sequence[Node]
) -> GraphModule:
    """A graph of some nodes, as a function of others."""
    graph = Graph()
    known = {node: graph.placeholder(f"given_{i}") for i, node in enumerate(given)}

    def copied(node: Node) -> Node:
        if node not in known:
            # of all that is not given only parameters and constants are not among the nodes
            known[node] = graph.node_copy(node, copied)
        return known[node]

    for node in nodes:
        if node.op != "get_attr":
            copied(node)
    graph.output(tuple(copied(node) for node in outputs))
    return GraphModule(whole, graph)
