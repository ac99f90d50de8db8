"""Support first: which guide may stand beside which prior.

KL(q || p) is finite only if q puts no mass where p has none. That is a matter of types and
structural constants, so it is decided before anything is drawn or trained.
"""

from __future__ import annotations

__all__ = ["Side", "check_pair", "side"]

from typing import NamedTuple

from torch.distributions.constraints import Constraint

from pyro_vae.families.family import Family, fitting, registry
from pyro_vae.families.transported import Transported
from pyro_vae.supports import Space, lies_within, matched, space_of


class Side(NamedTuple):
    """One side of a pair, as far as admissibility goes.

    Arguments:
        name: The name of its family or distribution class.
        support: Where its draws lie.
        event_shape: The shape of one draw.
    """

    name: str
    support: Constraint
    event_shape: tuple[int, ...]


def side(family: Family) -> Side:
    """Return what `check_pair` asks of a family."""
    return Side(type(family).__name__, family.support, tuple(family.event_shape))


def check_pair(site: str, guide: Side, prior: Side) -> bool:
    """Refuse a guide that cannot stand beside a prior.

    Arguments:
        site: The name of the latent site, for the message.
        guide: The side of q(z|x).
        prior: The side of p(z).

    Returns:
        True if the pair is admissible, False if a support is not recognised and the pair
        can only be judged by its draws.

    Raises:
        ValueError: If the event shapes differ, or the support of q does not lie within that
            of p; the message names both families and those that would fit.

    Example:
        >>> from pyro_vae import families as fam
        >>> check_pair("z", side(fam.Normal(3)), side(fam.StudentT(3)))
        True
    """
    within = lies_within(guide.support, prior.support)
    unlike = tuple(guide.event_shape) != tuple(prior.event_shape)
    products = "product" in (space_of(guide.support).kind, space_of(prior.support).kind)
    # parts of a product are compared element by element, if there are as many
    if within is False and not (products and unlike):
        raise ValueError(_refusal(site, guide, prior))
    if unlike:
        raise ValueError(
            f"site {site!r}: one draw of the guide {guide.name} has shape "
            f"{tuple(guide.event_shape)}, one of the prior {prior.name} has shape "
            f"{tuple(prior.event_shape)}; they must be equal."
        )
    return bool(within)


def _refusal(site: str, guide: Side, prior: Side) -> str:
    q, p = space_of(guide.support), space_of(prior.support)
    block = _block(q, p)
    if block:
        reason = block
    elif q.is_discrete != p.is_discrete:
        reason = "one is a mass and the other a density, so KL(q || p) is undefined"
    elif q.kind != p.kind:
        reason = f"a density on the {q.name} is none on the {p.name}, so KL(q || p) is undefined"
    else:
        reason = "the guide has mass where the prior has none, so KL(q || p) is infinite"
    fit = [f"fam.{name}" for name in fitting(prior.support) if name != "Transported"]
    if Transported.fits(prior.support):
        fit.append("fam.Transported(fam.Normal(..., context=C), to=prior)")
    return (
        f"site {site!r}: a {guide.name} guide (on the {q.name}) cannot stand beside a "
        f"{prior.name} prior (on the {p.name}): {reason}. "
        f"Guides that fit this prior: {', '.join(fit) or 'none on the shelf'}."
    )


def _block(q: Space, p: Space) -> str:
    """Where the parts of a product do not go together, "" if one of the two is no product."""
    if "product" not in (q.kind, p.kind):
        return ""
    start = 0
    for a, b in matched(q, p) or []:
        where = f"elements {start} to {start + b.length - 1} of the last dimension"
        start += b.length
        measure = (a.space.kind, a.shape) == (b.space.kind, b.shape)
        if measure and b.space.lower <= a.space.lower and a.space.upper <= b.space.upper:
            continue
        return (
            f"in {where} the prior lives on the {b.space.name} and the guide on the "
            f"{a.space.name}, so KL(q || p) is {'infinite' if measure else 'undefined'} "
            f"(there {', '.join(_fitting_part(b.space))} would fit)"
        )
    return "their parts do not end at the same elements, so KL(q || p) is undefined"


def _fitting_part(space: Space) -> list[str]:
    """The families that fit a part of a product."""
    guides = {
        cls.__name__: space_of(cls.where())
        for cls in registry.values()
        if "guide" in cls.roles and cls is not Transported and not cls.available()
    }
    return sorted(
        f"fam.{name}"
        for name, own in guides.items()
        if own.kind == space.kind and own.lower >= space.lower and own.upper <= space.upper
    )
