"""`capture`: any Pyro ELBO, model and guide of static structure, at the speed of plain torch.

One step of a Pyro program of static structure is a fixed list of tensor operations: the loss, and
its gradients. They are recorded once and replayed, without Pyro's handlers, without autograd, and
if wanted compiled. A replay draws fresh random numbers, from the seed that the program itself
would draw them from, in the same order.
"""

from __future__ import annotations

__all__ = ["CapturedELBO", "GraphInfo", "capture"]

import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.closures import used_modules
from pyro_vae.infer.bound import Bound
from pyro_vae.infer.capturing.noise import KINDS, Source
from pyro_vae.infer.capturing.objectives import objective_of
from pyro_vae.infer.capturing.replay import Replay, check_compiler
from pyro_vae.infer.capturing.shelf import Graphs, Kept
from pyro_vae.infer.capturing.signature import Signature, rebuild, settings, signature
from pyro_vae.infer.capturing.tracing import NotCapturable, trace
from pyro_vae.infer.capturing.update import Update
from pyro_vae.infer.capturing.watch import Watch

MOST = 8
"""How many graphs are kept."""
HOLDS_ITS_NOISE = "the graph holds its noise itself: capture(..., noise='random')."


class GraphInfo(NamedTuple):
    """What is known of one graph.

    Arguments:
        shapes: The shapes of the tensor arguments.
        operations: The number of tensor operations of a replay, before compiling.
        trace_seconds: What tracing took.
        compile_seconds: What compiling took; 0 if it was not.
        same_stream: Whether a replay draws what the program would draw from the same seed.
        random: What it draws, in order, and what of it is an argument (`noise=`).
    """

    shapes: tuple[tuple[int, ...], ...]
    operations: int
    trace_seconds: float
    compile_seconds: float
    same_stream: bool
    random: tuple[Source, ...]


def capture(
    elbo: ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    compile: bool = False,
    mode: str | None = None,
    noise: str | None = None,
    optimizer: Optimizer | PyroOptim | None = None,
    uncapturable: str = "raise",
    max_graphs: int = MOST,
) -> CapturedELBO:
    """Return the loss of an ELBO and its gradients as a replayed list of tensor operations.

    (loss, dloss/dparameters) = captured(*args), for model and guide of static structure: which
    sites there are, and of what shapes, must not depend on values. Networks with BatchNorm or
    dropout, `pyro.param`, PyroModule, lazily created parameters, subsampling plates, several
    sites and flows are of that kind; a rejection sampler or `if` on a draw is not.

    Parameters and buffers stay the program's own. A new shape, dtype or device of an argument,
    another value of an argument that is no tensor, a switch between training and evaluation, a
    frozen or a replaced parameter, a changed setting of the ELBO: all are noticed, and captured
    anew. What only Python sees is frozen at capture: globals, counters, lists, a closure's
    tensor that is replaced by another (writing into it is seen).

    Arguments:
        elbo: One of `pyro_vae.infer`, Pyro's `Trace_ELBO` or `TraceMeanField_ELBO`, or one
            whose `differentiable_loss` reads no number.
        model: A Pyro model.
        guide: Its guide.
        *args: Positional arguments of both, of a first step; nothing is updated by it.
        kwargs: Keyword arguments of both.
        compile: Compile the graph (needs a C++ compiler, and seconds; values then differ by
            rounding).
        mode: With `compile`, None or "reduce-overhead", which takes CUDA graphs on a GPU.
        noise: Make the random numbers arguments of the graph: "random" (to be given, see
            `draw_noise`), "antithetic" pairs of particles, or "quasi"-random nets over them.
        optimizer: For `step`: one of torch's or of Pyro's.
        uncapturable: What to do with a program that no graph can be made of: "raise", or
            "eager", which runs it as it is and says so once.
        max_graphs: How many graphs are kept; the one longest unused goes first.

    Returns:
        A callable of the arguments of model and guide.

    Raises:
        NotCapturable: If no graph can be made: the message names operation, site and line.
        ValueError: If an option is unknown.
        RuntimeError: If there is no compiler.
        Exception: What the ELBO itself raises on these arguments.

    Source:
        "torch.fx: practical program capture and transformation for deep learning in Python"
        (J. K. Reed, Z. DeVito, H. He, A. Ussery, J. Ansel, 2022)

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import Trace_ELBO
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> slope = nn.Parameter(torch.tensor(0.3))
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(slope * x, 0.7))
        >>> x = torch.linspace(-1, 1, 5)
        >>> captured = capture(Trace_ELBO(), model, guide, x)
        >>> _ = torch.manual_seed(0)
        >>> loss = captured(x)  # in nats, summed over the data; slope.grad is set
        >>> _ = torch.manual_seed(0)
        >>> torch.isclose(loss, torch.tensor(Trace_ELBO().loss(model, guide, x)))
        tensor(True)
    """
    captured = CapturedELBO(
        elbo,
        model,
        guide,
        compile=compile,
        mode=mode,
        noise=noise,
        optimizer=optimizer,
        uncapturable=uncapturable,
        max_graphs=max_graphs,
    )
    captured.prepare(*args, **(kwargs or {}))
    return captured


class CapturedELBO:
    """An ELBO of a model and a guide whose steps are replayed; made by `capture`.

    Arguments: those of `capture`, without arguments of the program.
    """

    def __init__(
        self,
        elbo: ELBO,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        compile: bool = False,
        mode: str | None = None,
        noise: str | None = None,
        optimizer: Optimizer | PyroOptim | None = None,
        uncapturable: str = "raise",
        max_graphs: int = MOST,
    ) -> None:
        _one_of("noise", noise, (None, *KINDS))
        _one_of("mode", mode, (None, "reduce-overhead"))
        _one_of("uncapturable", uncapturable, ("raise", "eager"))
        if mode is not None and not compile:
            raise ValueError(f"mode={mode!r} is one of compiled graphs; set compile=True.")
        if compile:
            check_compiler()
        self.elbo: Any = elbo
        self.model, self.guide = model, guide
        self._objective = objective_of(elbo)
        self._options = {"noise": noise, "compile": compile, "mode": mode}
        self._eager = uncapturable == "eager"
        self.update = None if optimizer is None else Update(optimizer)
        self._graphs = Graphs(max_graphs)
        self._beta: Tensor | None = None
        self._betas: set[float] = set()
        self._pending: Tensor | None = None
        self._unread = 0
        self.eager_reason: str | None = None
        """Why the program is run as it is, with `uncapturable="eager"`; None if it is not."""

    # ---------------------------------------------------------------------------- as it is used
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss in nats, a 0-dim tensor; add its gradients to those of the parameters.

        Arguments:
            *args: Positional arguments of model and guide.
            **kwargs: Their keyword arguments.

        Raises:
            Exception: What the ELBO raises on these arguments.
            FloatingPointError: If the loss is not finite; no gradient has been touched.
        """
        return self.at(None, *args, **kwargs)

    def at(self, noise: Sequence[Tensor] | None, *args: Any, **kwargs: Any) -> Tensor:
        """Do what a call does, with the given noise; see `draw_noise`.

        Arguments:
            noise: What `draw_noise` returned, None for fresh noise.
            *args: Positional arguments of model and guide.
            **kwargs: Their keyword arguments.
        """
        sign = signature(args, kwargs)
        kept = self._graph(sign, gradients=True)
        if kept is None:
            return self._run_eager(args, kwargs)
        if noise is not None and kept.replay.noise is None:
            raise ValueError(HOLDS_ITS_NOISE)
        loss, holds, *gradients = kept.replay(sign.tensors, noise)
        self._settle(loss, holds, args, kwargs)
        if kept.replay.copies_outputs:
            loss, gradients = loss.clone(), [g.clone() for g in gradients]
        for leaf, gradient in zip(kept.replay.leaves, gradients, strict=True):
            leaf.grad = gradient if leaf.grad is None else leaf.grad.add_(gradient)
        return loss

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Do a whole training step: gradients (set anew), and the optimizer's update.

        Arguments:
            *args: Positional arguments of model and guide.
            **kwargs: Their keyword arguments.

        Returns:
            The loss in nats, a 0-dim tensor.

        Raises:
            ValueError: If there is no optimizer, or it holds none of the parameters.
            FloatingPointError: If the loss is not finite; no parameter has moved.
        """
        if self.update is None:
            raise ValueError("step() needs an optimizer: capture(..., optimizer=...).")
        sign = signature(args, kwargs)
        kept = self._graph(sign, gradients=True)
        if kept is None:
            return self._step_eager(args, kwargs)
        loss, holds, *gradients = kept.replay(sign.tensors)
        late = loss.is_cuda and self._every() > 1 and self.update.takes_flags()
        self._settle(loss, holds, args, kwargs, late=late)
        self.update(kept.replay.leaves, gradients, holds if late else None)
        return loss.clone() if kept.replay.copies_outputs else loss

    def loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss alone, in nats, a 0-dim tensor; no gradient is computed.

        Arguments:
            *args: Positional arguments of model and guide.
            **kwargs: Their keyword arguments.
        """
        sign = signature(args, kwargs)
        kept = self._graph(sign, gradients=False)
        if kept is None:
            with torch.no_grad():
                return torch.as_tensor(self.elbo.loss(self.model, self.guide, *args, **kwargs))
        loss, holds = kept.replay(sign.tensors)[:2]
        self._settle(loss, holds, args, kwargs)
        return loss.clone() if kept.replay.copies_outputs else loss

    def draw_noise(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Return fresh noise for one call, to be given to several: common random numbers.

        Arguments:
            *args: Positional arguments of model and guide.
            **kwargs: Their keyword arguments.

        Returns:
            A tensor for each random number that became an argument; see `graphs`.

        Raises:
            ValueError: If the graph holds its noise itself.
        """
        kept = self._graph(signature(args, kwargs), gradients=True)
        if kept is None or kept.replay.noise is None:
            raise ValueError(HOLDS_ITS_NOISE)
        return kept.replay.noise()

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Capture for these arguments, if there is no graph for them yet.

        Arguments:
            *args: Positional arguments of model and guide.
            **kwargs: Their keyword arguments.
        """
        self._graph(signature(args, kwargs), gradients=True)

    @property
    def optimizer(self) -> Optimizer | PyroOptim | None:
        """The optimizer of `step`; another may be put in its place at any time."""
        return None if self.update is None else self.update.optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer | PyroOptim) -> None:
        update = Update(optimizer)
        for kept in self._graphs:
            if kept.replay.leaves:
                update.check(kept.replay.leaves)
        self.update = update

    @property
    def graphs(self) -> list[GraphInfo]:
        """The graphs that are kept, the one longest unused first."""
        return [_info(kept) for kept in self._graphs]

    # ------------------------------------------------------------------------------- the graphs
    def _graph(self, sign: Signature, *, gradients: bool) -> Kept | None:
        """The graph for a call, captured anew if there is none; None to run the program."""
        if self.eager_reason is not None:
            return None
        kept = self._graphs.find(self._key(sign, gradients))
        if kept is not None:
            return kept
        try:
            kept = self._capture(sign, gradients)
        except NotCapturable as error:
            if not self._eager:
                raise
            self.eager_reason = str(error)
            warnings.warn(f"run as it is, without a graph: {error}", stacklevel=4)
            return None
        # only now: an ELBO may have found out how deep plates are nested
        self._graphs.add(self._key(sign, gradients), kept, self._told(sign))
        return kept

    def _key(self, sign: Signature, gradients: bool) -> Hashable:
        return sign.key, settings(self.elbo), self._note_beta(), gradients

    def _capture(self, sign: Signature, gradients: bool) -> Kept:
        # what is kept of the arguments are their places, not the data
        structure = sign.structure
        asked = _Asked()
        pyro_optim = self.update is not None and isinstance(self.update.optimizer, PyroOptim)

        def rehearse() -> None:
            args, kwargs = rebuild(structure, sign.tensors)
            # Pyro's optimizers know parameters by their names in the store, so collect them there
            with poutine.trace(param_only=True) if pyro_optim else nullcontext(), asked:
                self.elbo.loss(self.model, self.guide, *args, **kwargs)

        def objective(*tensors: Tensor) -> Any:
            args, kwargs = rebuild(structure, tensors)
            with self._lifted_beta():
                return self._objective(self.model, self.guide, args, kwargs)

        start = time.perf_counter()
        traced = trace(rehearse, objective, sign.tensors, gradients=gradients)
        seconds = time.perf_counter() - start
        if gradients and self.update is not None:
            self.update.check(traced.leaves)
        particles = int(getattr(self.elbo, "num_particles", 1))
        replay = Replay(traced, seconds, sign.tensors, particles=particles, **self._options)
        modules = dict.fromkeys([*_modules(self.model), *_modules(self.guide), *traced.modules])
        watch = Watch(modules, traced.leaves, asked.names)
        return Kept(replay, watch)

    def _told(self, sign: Signature) -> dict[str, str]:
        return {
            "shapes": str([tuple(t.shape) for t in sign.tensors]),
            "arguments": str(sign.key if sign.structure is not None else "tensors"),
            "settings": str(settings(self.elbo)),
        }

    # ------------------------------------------------------------------------------------- beta
    def _note_beta(self) -> Hashable:
        """What of beta a graph depends on: its value, until it is seen to change."""
        beta = getattr(self.elbo, "beta", None)
        if not isinstance(self.elbo, Bound) or isinstance(beta, Tensor):
            return id(beta)
        assert isinstance(beta, int | float)
        self._betas.add(float(beta))
        if len(self._betas) == 1:
            return beta
        if self._beta is None:
            self._beta, self._betas = torch.tensor(float(beta), dtype=torch.float64), {0.0, 1.0}
        elif float(self._beta) != beta:
            self._beta.fill_(beta)
        return "scheduled"

    @contextmanager
    def _lifted_beta(self) -> Iterator[None]:
        """Let the ELBO see beta as a tensor, which a schedule may write into."""
        elbo = self.elbo
        if self._beta is None or isinstance(elbo.beta, Tensor):
            yield
            return
        number, elbo.beta = elbo.beta, self._beta
        try:
            yield
        finally:
            elbo.beta = number

    # ------------------------------------------------------------------------------------ flags
    def _every(self) -> int:
        return self.elbo._flags.every if isinstance(self.elbo, Bound) else 1

    def _settle(
        self, loss: Tensor, holds: Tensor, args: Any, kwargs: Any, *, late: bool = False
    ) -> None:
        """Read what has to hold, now or every so many calls; raise what the program would."""
        if late or (self._every() > 1 and loss.is_cuda):
            self._pending = holds if self._pending is None else self._pending & holds
            self._unread += 1
            if self._unread < self._every():
                return
            holds, self._pending, self._unread = self._pending, None, 0
        if holds:
            return
        # the program says best itself what is the matter with its data and parameters
        self.elbo.loss(self.model, self.guide, *args, **kwargs)
        raise FloatingPointError(
            f"the loss was {float(loss)}, or a term of it not finite, at these draws; run again, "
            "the uncaptured ELBO found nothing wrong (TraceMeanField_ELBO, uncaptured, samples a "
            "KL that is infinite; kl.route(q, p) tells). A step like this moves no parameter."
        )

    # ------------------------------------------------------------------------------------ eager
    def _run_eager(self, args: Any, kwargs: Any) -> Tensor:
        loss = self.elbo.differentiable_loss(self.model, self.guide, *args, **kwargs)
        loss.backward()
        return loss.detach()

    def _step_eager(self, args: Any, kwargs: Any) -> Tensor:
        assert self.update is not None
        optimizer = self.update.optimizer
        with poutine.trace(param_only=True) as seen:
            loss = self.elbo.differentiable_loss(self.model, self.guide, *args, **kwargs)
        if isinstance(optimizer, PyroOptim):
            nodes: dict[str, Any] = dict(seen.trace.nodes)
            leaves: Any = {node["value"].unconstrained() for node in nodes.values()}
            for leaf in leaves:
                leaf.grad = None
            loss.backward()
            optimizer(leaves)
        else:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return loss.detach()


class _Asked(Messenger):
    """Notes which parameters of Pyro's store a program asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, None] = {}

    def _pyro_post_param(self, msg: Any) -> None:
        self.names[msg["name"]] = None


def _one_of(name: str, value: Any, known: Sequence[Any]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}.")


def _modules(program: Any) -> Iterator[nn.Module]:
    """The modules that a model or guide is, or uses."""
    owner = getattr(program, "__self__", program)
    if isinstance(owner, nn.Module):
        yield from owner.modules()
        return
    for _, module in used_modules(program):
        yield from module.modules()


def _info(kept: Kept) -> GraphInfo:
    replay = kept.replay
    return GraphInfo(
        shapes=tuple(
            tuple(n.meta["val"].shape)
            for n in replay.graph.graph.nodes
            if n.op == "placeholder" and not n.name.startswith("noise_")
        ),
        operations=replay.operations,
        trace_seconds=replay.seconds.trace,
        compile_seconds=replay.seconds.compile,
        same_stream=replay.same_stream,
        random=tuple(replay.sources),
    )
