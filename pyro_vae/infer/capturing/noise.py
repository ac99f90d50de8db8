"""The random numbers of a graph as arguments: common, antithetic and quasi-random draws.

A step draws its noise from laws that do not depend on parameters (a Normal site draws standard
Normal numbers), in a few nodes of the graph. Lifted, they are arguments: two ELBOs can be given
the same, and the particles of one can lean on each other,

    antithetic:  z, -z  (u, 1 - u),
    quasi:       a Sobol net over the particles of each datum, scrambled and shifted anew in each
                 call; datum by datum the shifts are independent,

so that each draw alone has the law it had, and a mean over particles less noise.

Source: On the distribution of points in a cube and the approximate evaluation of integrals
(I. M. Sobol, 1967)
"""

from __future__ import annotations

__all__ = ["KINDS", "Lifted", "Noise", "Source", "lift", "source_of"]

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.quasirandom import SobolEngine

from pyro_vae.infer.capturing.tidy import aten, is_random
from pyro_vae.infer.capturing.tracing import NotCapturable
from pyro_vae.kl.draws import net

KINDS = ("random", "antithetic", "quasi")

_BLANK = (
    *(aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default),
    *(aten.zeros_like.default, aten.zeros.default),
)


class Source(NamedTuple):
    """One random node of a graph.

    Arguments:
        law: The operation, such as "normal_" or "_standard_gamma".
        shape: The shape of what it draws.
        lifted: Whether it became an argument; a law that depends on parameters cannot.
    """

    law: str
    shape: tuple[int, ...]
    lifted: bool


class Lifted(NamedTuple):
    """A random node that became an argument.

    Arguments:
        draw: Draws what the node drew.
        from_uniform: The inverse distribution function of its law, None of a discrete one.
        value: A tensor without memory, of the shape and dtype of what it draws.
    """

    draw: Callable[[], Tensor]
    from_uniform: Callable[[Tensor], Tensor] | None
    value: Tensor


class Noise:
    """Draws the noise of one graph.

    Arguments:
        kind: "random", "antithetic" or "quasi".
        lifted: The nodes that became arguments.
        particles: The number of particles over which draws lean on each other.

    Raises:
        ValueError: If the particles are not as many as the kind needs.
        NotCapturable: If the noise does not come particle by particle.
    """

    def __init__(self, kind: str, lifted: Sequence[Lifted], particles: int) -> None:
        self.kind, self._lifted, self._particles = kind, list(lifted), particles
        self._smooth = [i for i, node in enumerate(lifted) if node.from_uniform is not None]
        if kind == "random":
            return
        if particles < 2 or (kind == "antithetic" and particles % 2):
            need = "an even number of particles" if kind == "antithetic" else "several particles"
            raise ValueError(
                f"noise={kind!r} needs {need} to lean on each other, but num_particles is "
                f"{particles}."
            )
        self._looped = not all(_leads(lifted[i].value, particles) for i in self._smooth)
        if self._looped and len(self._smooth) % particles:
            raise NotCapturable(
                f"noise={kind!r}: the program draws {len(self._smooth)} times for {particles} "
                "particles, so that it cannot be told which draw is whose."
            )

    def __call__(self) -> list[Tensor]:
        """Return one tensor for each lifted node, in their order."""
        drawn = [node.draw() for node in self._lifted]
        if self.kind == "random" or not self._smooth:
            return drawn
        groups = self._groups()
        shapes = [self._together([drawn[i] for i in group]).shape for group in groups]
        uniform = (_mirrored if self.kind == "antithetic" else _nets)(shapes, drawn[0].device)
        for group, u in zip(groups, uniform, strict=True):
            parts = u.unbind(0) if self._looped else [u]
            for i, part in zip(group, parts, strict=True):
                node = self._lifted[i]
                assert node.from_uniform is not None
                drawn[i] = node.from_uniform(part).to(node.value.dtype).reshape(drawn[i].shape)
        return drawn

    def _groups(self) -> list[list[int]]:
        """The nodes that are one draw of all particles."""
        if not self._looped:
            return [[i] for i in self._smooth]
        sites = len(self._smooth) // self._particles
        return [self._smooth[site::sites] for site in range(sites)]

    def _together(self, drawn: list[Tensor]) -> Tensor:
        return torch.stack(drawn) if self._looped else drawn[0]


def source_of(node: Node, *, lifted: bool) -> Source:
    """Return what a random node draws.

    Arguments:
        node: A random node.
        lifted: Whether it became an argument.
    """
    return Source(_law(node), tuple(getattr(node.meta.get("val"), "shape", ())), lifted)


def _law(node: Node) -> str:
    return node.target.__name__.split(".")[0]  # type: ignore[union-attr]


def lift(graph: GraphModule) -> tuple[list[Lifted], list[Source]]:
    """Turn the random nodes whose laws are fixed into arguments, in place.

    Arguments:
        graph: A tidy graph.

    Returns:
        What was lifted, in the order of the new last arguments; all random nodes.
    """
    lifted: list[Lifted] = []
    sources: list[Source] = []
    last = [n for n in graph.graph.nodes if n.op == "placeholder"]
    for node in [n for n in graph.graph.nodes if n.op == "call_function" and is_random(n)]:
        made = _lifted(node)
        sources.append(source_of(node, lifted=made is not None))
        if made is None:
            continue
        with graph.graph.inserting_before(_after(graph, last)):
            argument = graph.graph.placeholder(f"noise_{len(lifted)}")
        argument.meta.update(node.meta)
        last.append(argument)
        node.replace_all_uses_with(argument)
        graph.graph.erase_node(node)
        lifted.append(made)
    for node in reversed(list(graph.graph.nodes)):
        if node.target in _BLANK and not node.users:
            graph.graph.erase_node(node)
    graph.graph.lint()
    graph.recompile()
    return lifted, sources


class _Blank(str):
    """The place of a tensor without values yet."""


def _after(graph: GraphModule, placeholders: list[Node]) -> Node:
    if placeholders:
        return placeholders[-1].next
    return next(iter(graph.graph.nodes))


def _lifted(node: Node) -> Lifted | None:
    inputs = node.all_input_nodes
    if any(n.target not in _BLANK for n in inputs) or not isinstance(node.meta["val"], Tensor):
        return None
    # a blank made like another tensor has its shape, which is the same in every replay
    like = torch.empty_like(node.meta["val"], device="meta")
    device, target = node.meta["val"].device, node.target
    # by their names: the nodes themselves are about to go
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: _Blank(n.name))

    def draw() -> Tensor:
        blank = torch.empty(like.shape, dtype=like.dtype, device=device)
        own = [blank if isinstance(a, _Blank) else a for a in args]
        return target(*own, **kwargs)  # type: ignore[operator,misc]

    return Lifted(draw, _from_uniform(node), like)


def _from_uniform(node: Node) -> Callable[[Tensor], Tensor] | None:
    """The inverse distribution function of a continuous law, None of a discrete one."""
    name = _law(node)
    numbers = [a for a in node.args if isinstance(a, int | float)]
    if name == "normal_":
        mean, deviation = (*numbers, *(0.0, 1.0)[len(numbers) :])
        return lambda u: torch.special.ndtri(u) * deviation + mean
    if name in ("randn", "randn_like"):
        return torch.special.ndtri
    if name in ("rand", "rand_like"):
        return lambda u: u
    if name == "uniform_":
        low, high = (*numbers, *(0.0, 1.0)[len(numbers) :])
        return lambda u: low + (high - low) * u
    if name == "exponential_":
        rate = numbers[0] if numbers else 1.0
        return lambda u: -torch.log1p(-u) / rate
    return None


def _leads(value: Tensor, particles: int) -> bool:
    return value.dim() > 0 and value.shape[0] == particles


# --------------------------------------------------------------------------------------- draws
# the numbers nearest to 0 and 1 whose complements are neither, also in float32
_LEAST = 2.0**-24


def _mirrored(shapes: list[torch.Size], device: torch.device) -> list[Tensor]:
    halves = [torch.rand((s[0] // 2, *s[1:]), dtype=torch.float64, device=device) for s in shapes]
    halves = [u.clamp(_LEAST, 1 - _LEAST) for u in halves]
    return [torch.stack([u, 1 - u], 1).flatten(0, 1) for u in halves]


def _nets(shapes: list[torch.Size], device: torch.device) -> list[Tensor]:
    """Uniform numbers: the first dimension runs over the points of one net, the rest is theirs."""
    # (particles, data, rest): what belongs to one datum is one point
    rests = [math.prod(shape[2:]) for shape in shapes]
    total = sum(rests)
    if total > SobolEngine.MAXDIM:
        raise NotCapturable(
            f"noise='quasi': a datum takes {total} random numbers, and a Sobol net has at most "
            f"{SobolEngine.MAXDIM} dimensions. Take noise='antithetic'."
        )
    # all that follows is a function of one number of torch's random state
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), device="cpu")))
    bits = 2**SobolEngine.MAXBIT
    points = net(total, shapes[0][0], generator)
    drawn, start = [], 0
    for shape, rest in zip(shapes, rests, strict=True):
        own = points[:, start : start + rest].unsqueeze(1)
        data = shape[1] if len(shape) > 1 else 1
        shift = torch.randint(bits, (1, data, rest), generator=generator)
        below = torch.rand((shape[0], data, rest), generator=generator, dtype=torch.float64)
        u = ((own ^ shift) + below) / bits
        drawn.append(u.reshape(shape).clamp(_LEAST, 1 - _LEAST).to(device))
        start += rest
    return drawn
