"""The score function: gradients of draws that are not reparameterised.

With C the sum of all that the objective holds at the draw, site s adds

    E[ (C + T_s) grad log q(z_s) ],   T_s added back where it is exact,

since an exact T_s is the same whatever z_s was drawn, so that its product with the score has
expectation 0; nor does the gradient of T_s need a score term, as it is no estimate.
"""

from __future__ import annotations

__all__ = ["samples", "score_function"]

from collections.abc import Iterator, Mapping
from typing import Any

from pyro import poutine
from pyro.distributions.util import is_identically_zero
from pyro.infer.util import MultiFrameTensor, get_plate_stacks
from torch import Tensor

from pyro_vae.infer.terms import Term


def score_function(
    model: poutine.Trace, guide: poutine.Trace, terms: Mapping[str, Term]
) -> Tensor | float:
    """Return the sum over sites that are not reparameterised of [what depends on z_s] log q(z_s).

    Arguments:
        model: A trace of the model.
        guide: A trace of the guide.
        terms: By latent site, what it takes off the objective.

    Returns:
        A 0-dim tensor, of which only the gradient matters; 0.0 if all are reparameterised.
    """
    drawn = dict(samples(guide))
    scores = {name: drawn[name]["score_parts"].score_function for name in terms}
    scores = {name: score for name, score in scores.items() if not is_identically_zero(score)}
    if not scores:
        return 0.0
    stacks = get_plate_stacks(guide) | get_plate_stacks(model)
    total = MultiFrameTensor()
    for name, node in samples(model):
        if node["is_observed"]:
            total.add((stacks[name], node["log_prob"].detach()))
    for name, term in terms.items():
        total.add((stacks[name], -(term.exact + term.sampled).detach()))
    surrogate: Tensor | float = 0.0
    for name, score in scores.items():
        depends = total.sum_to(drawn[name]["cond_indep_stack"]) + terms[name].exact.detach()
        surrogate = surrogate + (depends * score).sum()
    return surrogate


def samples(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """Yield the sample sites of a trace; deterministic ones have no density.

    Arguments:
        trace: A trace of a Pyro program.

    Yields:
        Name and node of each.
    """
    nodes: dict[str, Any] = dict(trace.nodes)
    for name, node in nodes.items():
        if node["type"] == "sample" and not node["infer"].get("_deterministic"):
            yield name, node
