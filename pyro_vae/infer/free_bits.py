"""Free bits: a KL below lambda costs lambda, so that nothing is gained by making it smaller.

    sum_j max(KL_j, lambda),   KL_j a mean over the data and draws at hand,

over groups j: whole sites, or single dimensions of a site. A group below lambda has no gradient.

References:
    Improved variational inference with inverse autoregressive flow (D. P. Kingma et al., 2016)
"""

from __future__ import annotations

__all__ = ["FreeBits", "split"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import Independent
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.infer.terms import Term
from pyro_vae.infer.unexpanded import KEY, unexpanded

GROUPS = ("site", "dimension")


class FreeBits:
    """The lambda of each site, in nats, and what it is a bound of.

    Arguments:
        nats: One lambda for all sites, or a mapping from sites to their own.
        per: "site" or "dimension".

    Raises:
        ValueError: If a lambda is negative or not finite, or `per` is neither.

    Example:
        >>> FreeBits(0.5, "nat")
        Traceback (most recent call last):
        ...
        ValueError: free_bits_per must be 'site' or 'dimension', not 'nat'.
    """

    def __init__(self, nats: float | Mapping[str, float] = 0.0, per: str = "site") -> None:
        if per not in GROUPS:
            raise ValueError(f"free_bits_per must be 'site' or 'dimension', not {per!r}.")
        given = dict(nats) if isinstance(nats, Mapping) else {"": nats}
        for site, value in given.items():
            if isinstance(value, bool) or not (0 <= value < math.inf):
                of = f" of site {site!r}" if site else ""
                raise ValueError(f"free_bits{of} must be nats, at least 0, not {value!r}.")
        self.per, self._given = per, given

    def __getitem__(self, site: str) -> float:
        """Return the lambda of a site."""
        return self._given.get(site, self._given.get("", 0.0))

    def splits(self, site: str) -> bool:
        """Whether the KL of a site is needed dimension by dimension."""
        return self.per == "dimension" and self[site] > 0

    def __call__(self, draws: Sequence[Mapping[str, Term]]) -> list[dict[str, Term]]:
        """Return the terms with groups below lambda replaced by it, events summed.

        Arguments:
            draws: For each draw, the terms by site.

        Returns:
            The same, draw by draw.

        Raises:
            ValueError: If a site with a lambda of its own is not among them.
        """
        unknown = set(self._given) - {""} - set(draws[0])
        if unknown:
            raise ValueError(
                f"free_bits names {min(unknown)!r}, which is no latent site; those are "
                f"{', '.join(map(repr, draws[0]))}."
            )
        freed: list[dict[str, Term]] = [{} for _ in draws]
        for site in draws[0]:
            terms = [terms[site] for terms in draws]
            if self[site]:
                terms = self._free(terms, self[site])
            for into, term in zip(freed, terms, strict=True):
                into[site] = term.summed()
        return freed

    def _free(self, terms: list[Term], nats: float) -> list[Term]:
        below = mean(terms) < nats
        return [_floored(t, below, nats) for t in terms]


def _floored(term: Term, below: Tensor, nats: float) -> Term:
    kept = term.mapped(lambda part: torch.where(below, 0.0, part))
    return kept._replace(exact=torch.where(below, nats * term.weight, kept.exact))


def mean(terms: Sequence[Term]) -> Tensor:
    """Return the mean KL of each group over data and draws, without gradient.

    Arguments:
        terms: The terms of one site, one of each draw.

    Returns:
        A tensor of the shape of what is left of the event.
    """
    total = sum(_over_batch((t.exact + t.sampled).detach(), t.event_dim) for t in terms)
    weight = sum(_over_batch(t.weight, t.event_dim) for t in terms)
    return torch.as_tensor(total / weight)


def _over_batch(value: Tensor, event_dim: int) -> Tensor:
    return value.sum(list(range(value.dim() - event_dim))) if value.dim() > event_dim else value


def split(name: str, q: Any, p: Any) -> tuple[Any, Any, int]:
    """Return the two sides of a site with a density for each element of the event.

    Arguments:
        name: The name of the site.
        q: The site in the guide's trace.
        p: The site in the model's trace.

    Returns:
        The two as Pyro's traces hold sites, and the number of dimensions that were events.

    Raises:
        ValueError: If one of the two is not independent over the elements of its event.
    """
    bases = [unexpanded(node) for node in (q, p)]
    for base in bases:
        if not isinstance(base, Independent) or base.base_dist.event_shape:
            raise ValueError(
                f"site {name!r}: free_bits_per='dimension' needs guide and prior to be "
                f"independent over the elements of a draw, which {type(base).__name__} is not; "
                "take free_bits_per='site'."
            )
    event_dim = bases[0].reinterpreted_batch_ndims
    guide, model = (
        _elements(n, b.base_dist, event_dim) for n, b in zip((q, p), bases, strict=True)
    )
    return guide, model, event_dim


def _elements(node: Any, d: Any, event_dim: int) -> dict[str, Any]:
    scale, mask = (_widened(node[name], event_dim) for name in ("scale", "mask"))
    parts = d.score_parts(node["value"])
    density = scale_and_mask(parts.log_prob, scale, mask)
    return {
        **{key: value for key, value in node.items() if key != KEY},
        "fn": d,
        "scale": scale,
        "mask": mask,
        "log_prob": density,
        "unscaled_log_prob": parts.log_prob,
        "score_parts": parts.scale_and_mask(scale, mask),
    }


def _widened(value: Any, event_dim: int) -> Any:
    if isinstance(value, Tensor) and value.dim():
        return value.reshape(*value.shape, *[1] * event_dim)
    return value
