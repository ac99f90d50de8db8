"""One graph, ready to be run: tidy, compiled if wanted, its noise drawn beside it or in it."""

from __future__ import annotations

__all__ = ["Replay", "check_compiler"]

import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.infer.capturing.noise import Noise, lift, source_of
from pyro_vae.infer.capturing.tidy import is_random, tidy, written_state
from pyro_vae.infer.capturing.tracing import NotCapturable, Traced


class Seconds(NamedTuple):
    """What the first call cost: tracing, and compiling (0 if nothing was compiled)."""

    trace: float
    compile: float


class Replay:
    """A graph that is run in place of its program.

    Arguments:
        traced: What was traced.
        seconds: How long that took.
        noise: "random", "antithetic", "quasi", or None to leave the draws in the graph.
        particles: The number of particles.
        compile: Whether to compile.
        mode: "reduce-overhead" for CUDA graphs, or None.
        tensors: The arguments of a first run.
    """

    def __init__(
        self,
        traced: Traced,
        seconds: float,
        tensors: Sequence[Tensor],
        *,
        noise: str | None,
        particles: int,
        compile: bool,
        mode: str | None,
    ) -> None:
        graph = tidy(traced.graph)
        self.graph, self.leaves = graph, traced.leaves
        self.noise: Noise | None = None
        self.sources = [source_of(n, lifted=False) for n in graph.graph.nodes if is_random(n)]
        if noise is not None:
            lifted, self.sources = lift(graph)
            own = [source.law for source in self.sources if not source.lifted]
            if own and noise != "random":
                raise NotCapturable(
                    f"noise={noise!r}: the law of {own[0]} depends on parameters, so that its "
                    "numbers cannot be turned into others of the same law. Take noise='random', "
                    "which leaves it in the graph, or a guide that draws by its quantiles."
                )
            self.noise = Noise(noise, lifted, particles)
        self.same_stream = True
        self.copies_outputs = False
        self._run: Any = graph.forward
        compiling = 0.0
        if compile:
            start = time.perf_counter()
            self._compile(graph, [t.detach() for t in tensors], mode)
            compiling = time.perf_counter() - start
        self.seconds = Seconds(seconds, compiling)

    @property
    def operations(self) -> int:
        """The number of tensor operations in the graph."""
        return sum(n.op == "call_function" for n in self.graph.graph.nodes)

    def __call__(self, tensors: Sequence[Tensor], noise: Sequence[Tensor] | None = None) -> Any:
        """Return the loss, whether all that has to hold does, and the gradients of the leaves.

        Arguments:
            tensors: The tensor arguments.
            noise: What takes the place of fresh noise, where noise is lifted.
        """
        with torch.no_grad():
            if self.noise is not None:
                tensors = [*tensors, *(self.noise() if noise is None else noise)]
            return self._run(*tensors)

    def _compile(self, graph: GraphModule, tensors: list[Tensor], mode: str | None) -> None:
        cuda = any(t.device.type == "cuda" for t in (*self.leaves, *tensors))
        # on the host the generator of torch serves the compiled graph as well, in the same order
        options: dict[str, Any] = {} if cuda else {"fallback_random": True}
        self.copies_outputs = cuda and mode == "reduce-overhead"
        if self.copies_outputs:
            options["triton.cudagraphs"] = True
        devices = list(range(torch.cuda.device_count())) if cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices), written_state(graph):
            start = torch.get_rng_state()
            given = [*tensors, *(self.noise() if self.noise is not None else [])]
            before = torch.get_rng_state()
            expected = graph(*given)[0]
            torch.set_rng_state(before)
            self._run = _inductor(graph, given, options)
            found = self._run(*given)[0]
            self.same_stream = not cuda and _close(found, expected)
            torch.set_rng_state(start)


def _inductor(graph: GraphModule, given: list[Any], options: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of its own parts when it imports them
        # torch.compile would look at the graph anew in each call, which costs as much as a step
        return torch._inductor.compile(graph, given, options=options)


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-4 if a.dtype == torch.float32 else 1e-9
    return bool(torch.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))


def check_compiler() -> None:
    """Raise if there is no C++ compiler for graphs on the host.

    Raises:
        RuntimeError: With the cure.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise RuntimeError(
            "compile=True needs a C++ compiler, and none was found. Install one (g++ or clang++, "
            "or name one in the environment variable CXX), or take compile=False, which replays "
            "the graph as it is."
        ) from error
