"""At which latent sites an exact KL may stand beside the draws of the other sites.

An ELBO subtracts  E[log q(z_s | a) - log p(z_s | b)]  for site s, where a are its parents in the
guide and b those in the model. Given all sites that do not descend from s in the guide, z_s is
drawn from q(. | a) whatever b is, so the expectation over z_s is KL(q(. | a) || p(. | b)): an
exact KL computed with the draws of the others is unbiased just if

    no latent parent of s in the model descends from s in the guide.

Such a parent comes before s in the model and after it in the guide: where both draw their sites
in the same order nothing has to be asked. Otherwise both programs are run once more, and their
values followed; where one goes out of sight, an edge is assumed.
"""

from __future__ import annotations

__all__ = ["Ancestry", "Program", "biased_sites"]

import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

from pyro import poutine
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyro_vae.infer.following import Parents, follow, is_latent
from pyro_vae.kl.parameters import tensors

Program: TypeAlias = Callable[..., Any]


def biased_sites(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    model_trace: poutine.Trace,
    guide_trace: poutine.Trace,
) -> dict[str, str]:
    """Return the sites at which an exact KL with the draws of the others is, or may be, biased.

    Arguments:
        model: A Pyro model.
        guide: Its guide.
        args: Their positional arguments.
        kwargs: Their keyword arguments.
        model_trace: A trace of the model, replayed against that of the guide.
        guide_trace: A trace of the guide.

    Returns:
        A mapping from the names of these sites to the reason, one sentence.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> def model():
        ...     b = pyro.sample("b", dist.Normal(0.0, 1.0))
        ...     pyro.sample("a", dist.Normal(b, 1.0))
        >>> def guide():
        ...     a = pyro.sample("a", dist.Normal(0.0, 1.0))
        ...     pyro.sample("b", dist.Normal(a, 1.0))
        >>> drawn = poutine.trace(guide).get_trace()
        >>> replayed = poutine.trace(poutine.replay(model, trace=drawn)).get_trace()
        >>> biased_sites(model, guide, (), {}, replayed, drawn)
        {'a': "its parent 'b' in the model descends from it in the guide"}
    """
    suspects = _suspects(_latent(model_trace), _latent(guide_trace))
    if not suspects:
        return {}
    try:
        parents = follow(model, guide_trace, args, kwargs)
        guide_parents = follow(guide, guide_trace, args, kwargs)
    except Exception as error:  # whatever a user's program may raise when it is run once more
        why = f"the programs could not be followed ({type(error).__name__}: {error})"
        return {site: _sentence(parent, why) for site, parent in suspects}
    if [list(parents), list(guide_parents)] != [_latent(model_trace), _latent(guide_trace)]:
        why = "the programs draw other sites when they are run again"
        return {site: _sentence(parent, why) for site, parent in suspects}
    return _biased(suspects, parents, guide_parents)


class Ancestry:
    """Remembers the decisions of `biased_sites`, keyed by programs and their arguments.

    The key holds the two programs and their training mode, the sites in order with the classes
    of their distributions and of the autograd nodes of their parameters, shapes and dtypes of
    tensor arguments and the values of other arguments but floats. Where the sites of model and
    guide come in the same order, nothing is looked up.
    """

    LIMIT = 128

    def __init__(self) -> None:
        self._known: dict[Any, tuple[tuple[Any, ...], dict[str, str]]] = {}

    def __reduce__(self) -> tuple[type[Ancestry], tuple[()]]:
        return Ancestry, ()  # a copy finds out anew, for its programs are others

    def biased(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        traces: tuple[poutine.Trace, poutine.Trace],
        wrapped: Callable[[Program], Program] = lambda program: program,
    ) -> dict[str, str]:
        """Return `biased_sites`, from memory where possible.

        Arguments:
            model: A Pyro model.
            guide: Its guide.
            args: Their positional arguments.
            kwargs: Their keyword arguments.
            traces: A trace of the model and one of the guide.
            wrapped: What was done to both before they were traced.

        Returns:
            A mapping from the names of biased sites to the reason.

        Example:
            >>> def empty(): pass
            >>> trace = poutine.trace(empty).get_trace()
            >>> Ancestry().biased(empty, empty, (), {}, (trace, trace))
            {}
        """
        if not _suspects(*map(_latent, traces)):
            return {}
        owners = tuple(getattr(program, "__self__", program) for program in (model, guide))
        key = (
            tuple((id(owner), getattr(owner, "training", None)) for owner in owners),
            tuple(getattr(program, "__name__", "") for program in (model, guide)),
            tuple(map(_signature, traces)),
            _arguments(args, kwargs),
        )
        found = self._known.get(key)
        if found is None or any(
            ref() is not owner for ref, owner in zip(found[0], owners, strict=True)
        ):
            answer = biased_sites(wrapped(model), wrapped(guide), args, kwargs, *traces)
            while len(self._known) >= self.LIMIT:
                del self._known[next(iter(self._known))]
            found = tuple(map(weakref.ref, owners)), answer
            self._known[key] = found
        return found[1]


# ----------------------------------------------------------------------------------------- order
def _latent(trace: poutine.Trace) -> list[str]:
    return [name for name, node in trace.nodes.items() if is_latent(node)]


def _suspects(model: list[str], guide: list[str]) -> list[tuple[str, str]]:
    """Pairs (site, other) where the other comes first in the model, and last in the guide."""
    rank = {name: i for i, name in enumerate(guide)}
    model = [name for name in model if name in rank]
    ranks = [rank[name] for name in model]
    if ranks == sorted(ranks):
        return []
    return [(s, t) for i, s in enumerate(model) for t in model[:i] if rank[s] < rank[t]]


def _biased(
    suspects: list[tuple[str, str]], parents: Parents, guide_parents: Parents
) -> dict[str, str]:
    biased: dict[str, str] = {}
    for site, parent in suspects:
        edge = parents[site].get(parent)
        path = _path(guide_parents, site, parent)
        if edge is None or path is None:
            continue
        if not edge and not path:  # a reason that was seen goes before one that is assumed
            biased[site] = f"its parent {parent!r} in the model descends from it in the guide"
        else:
            biased.setdefault(site, _sentence(parent, edge or path))
    return biased


def _sentence(parent: str, why: str) -> str:
    return f"its parent {parent!r} in the model may descend from it in the guide: {why}"


def _path(parents: Parents, ancestor: str, site: str) -> str | None:
    """Whether `site` descends from `ancestor`: "" if seen, a reason if assumed, None if not."""
    reached = {site: ""}
    queue = [site]
    while queue:
        name = queue.pop()
        for parent, why in parents[name].items():
            why = reached[name] or why
            if parent not in reached or (reached[parent] and not why):
                reached[parent] = why
                queue.append(parent)
    return reached.get(ancestor)


# ------------------------------------------------------------------------------------------ keys
def _signature(trace: poutine.Trace) -> tuple[Any, ...]:
    nodes: dict[str, Any] = dict(trace.nodes)
    return tuple(
        (name, type(node["fn"]), *(type(t.grad_fn) for t in tensors(node["fn"])))
        for name, node in nodes.items()
        if is_latent(node)
    )


def _arguments(*arguments: Any) -> tuple[Any, ...]:
    leaves, structure = tree_flatten(arguments)
    return structure, tuple(map(_argument, leaves))


def _argument(value: Any) -> Any:
    """What of an argument may decide the structure of a program: no value of a float."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    plain = value is None or isinstance(value, bool | int | str)
    return value if plain else type(value)
