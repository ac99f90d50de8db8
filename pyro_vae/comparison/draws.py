"""Draws of a guide and a model, reduced to what each latent site and datum adds to the ELBO.

For one draw of the guide, a latent site s adds to the ELBO of datum n

    -f_sn,   f_sn = log q(z_s | ...) - log p(z_s | ...),

whose expectation is the KL of the site. `TraceMeanField_ELBO` puts KL(q_s || p_s), computed
with the draws of the other sites, in the place of f.
"""

from __future__ import annotations

__all__ = ["Draws", "Site", "draw_sites"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.enum import get_importance_trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import kl
from pyro_vae.comparison.mean_field import ANALYTIC, FALLBACK, MeanFieldTerm, mean_field_term
from pyro_vae.infer.guard import RandomState, random_state
from pyro_vae.infer.rows import data_plate
from pyro_vae.infer.sites import latent_sites
from pyro_vae.kl.bounds import is_bounded
from pyro_vae.kl.parameters import tensors

# a site as Pyro's traces hold it
Node: TypeAlias = Any


@dataclass
class Site:
    """One latent site over all draws: lists of one tensor a draw, (data,), or (1,) outside.

    Arguments:
        name: The name of the site.
        in_plate: Whether the site lies in the data plate.
        q: The guide's distribution at the first draw.
        p: The model's, or None for an auxiliary site of the guide.
        route: What our engine says of the pair (None for an auxiliary site).
        mean_field: What `TraceMeanField_ELBO` does at this site.
        scales: The scale of the site in the guide and in the model.
        masks_differ: Whether guide and model mask it differently.
    """

    name: str
    in_plate: bool
    q: Distribution
    p: Distribution | None
    route: kl.Route | None
    mean_field: MeanFieldTerm
    scales: tuple[float, float]
    masks_differ: bool
    sampled: list[Tensor] = field(default_factory=list)
    analytic: list[Tensor] = field(default_factory=list)
    lower: list[Tensor] = field(default_factory=list)
    upper: list[Tensor] = field(default_factory=list)
    torch_form: list[Tensor] = field(default_factory=list)
    trace_term: list[Tensor] = field(default_factory=list)
    mean_field_term: list[Tensor] = field(default_factory=list)
    rounding: list[Tensor] = field(default_factory=list)
    at_edge: list[Tensor] = field(default_factory=list)
    _last: tuple[Distribution, Distribution, tuple[Tensor, ...]] | None = None


class Draws(NamedTuple):
    """The draws on one batch of the data.

    Arguments:
        sites: The latent sites, in the order of the model, then the guide's own.
        states: The random state before each draw.
        frame: The data plate.
    """

    sites: list[Site]
    states: list[RandomState]
    frame: CondIndepStackFrame


def draw_sites(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    num_draws: int,
    plate: str | None,
) -> Draws:
    """Run guide and model `num_draws` times, as `Trace_ELBO` does, and keep what each site adds.

    Arguments:
        model: A Pyro model.
        guide: Its guide.
        args: Their positional arguments.
        kwargs: Their keyword arguments.
        num_draws: How often.
        plate: The name of the data plate, or None to find it.
    """
    sites: dict[str, Site] = {}
    states: list[RandomState] = []
    frame = None
    for _ in range(num_draws):
        states.append(random_state())
        with torch.no_grad():
            traces = get_importance_trace("flat", math.inf, model, guide, args, kwargs)
            frame = frame or data_plate(traces[0].nodes, plate)
            _record(sites, traces[0].nodes, traces[1].nodes, frame)
    assert frame is not None
    return Draws(list(sites.values()), states, frame)


def _record(
    sites: dict[str, Site],
    model: Mapping[str, Node],
    guide: Mapping[str, Node],
    frame: CondIndepStackFrame,
) -> None:
    latent = latent_sites(model, guide)
    auxiliary = [n for n, s in guide.items() if s["type"] == "sample" and n not in model]
    for name in (*latent, *auxiliary):
        q, p = guide[name], model.get(name)
        if name not in sites:
            sites[name] = _new_site(name, q, p, frame)
        _add_draw(sites[name], q, p, frame)


def _new_site(name: str, q: Node, p: Node | None, frame: CondIndepStackFrame) -> Site:
    return Site(
        name=name,
        in_plate=frame.name in {f.name for f in q["cond_indep_stack"]},
        q=q["fn"],
        p=None if p is None else p["fn"],
        route=None if p is None else kl.route(q["fn"], p["fn"]),
        mean_field=mean_field_term(q, p),
        scales=(float(q["scale"]), float(q["scale"] if p is None else p["scale"])),
        masks_differ=p is not None and not _same_mask(q["mask"], p["mask"]),
    )


def _add_draw(site: Site, q: Node, p: Node | None, frame: CondIndepStackFrame) -> None:
    def rows(value: Tensor) -> Tensor:
        return _rows(value, q, frame if site.in_plate else None)

    log_q = _masked(q["unscaled_log_prob"], q, p)
    site.rounding.append(rows(torch.finfo(log_q.dtype).eps * log_q.abs()))
    site.at_edge.append(kl.at_edge(q["fn"], q["value"]).any())
    if p is None:
        site.sampled.append(rows(log_q))
        site.trace_term.append(rows(q["log_prob"]))
        site.mean_field_term.append(rows(q["log_prob"]))
        return
    site.sampled.append(rows(log_q - _masked(p["unscaled_log_prob"], q, p)))
    site.trace_term.append(rows(q["log_prob"] - p["log_prob"]))
    if site.route is not None and site.route.kind in ("closed", "quadrature", "infinite"):
        (exact,) = _computed(site, q["fn"], p["fn"], _exact)
        site.analytic.append(rows(_masked(exact, q, p)))
    elif site.route is not None and site.route.kind == "sampled" and is_bounded(q["fn"], p["fn"]):
        ends = _computed(site, q["fn"], p["fn"], kl.bounds)
        for kept, end in zip((site.lower, site.upper), ends, strict=True):
            kept.append(rows(_masked(end, q, p)))
    term = mean_field_term(q, p)
    if term.route == ANALYTIC and term.value is not None:
        site.torch_form.append(rows(_masked(term.value, q, p)))
        site.mean_field_term.append(rows(scale_and_mask(term.value, q["scale"], q["mask"])))
    elif term.route == FALLBACK:
        site.mean_field_term.append(site.trace_term[-1])


def _computed(
    site: Site,
    q: Distribution,
    p: Distribution,
    of: Callable[[Distribution, Distribution], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """What is known of KL(q || p), computed anew only where q or p depend on the draw."""
    if site._last is not None:
        q_last, p_last, values = site._last
        if _same(q, q_last) and _same(p, p_last):
            return values
    values = of(q, p)
    site._last = (q, p, values)
    return values


def _exact(q: Distribution, p: Distribution) -> tuple[Tensor]:
    value, _ = kl.divergence(q, p, with_error=True)
    return (value,)


def _same(a: Any, b: Any) -> bool:
    """Whether two distributions of one site are equal, as far as can be told cheaply."""
    if type(a) is not type(b) or getattr(a, "transforms", []) != getattr(b, "transforms", []):
        return False
    pairs = zip(tensors(a), tensors(b), strict=False)
    return all(s.shape == t.shape and torch.equal(s, t) for s, t in pairs)


def _masked(value: Tensor, q: Node, p: Node | None) -> Tensor:
    for node in (q, p):
        if node is not None and node["mask"] is not None:
            value = scale_and_mask(value, mask=node["mask"])
    return torch.as_tensor(value)


def _rows(value: Tensor, node: Node, frame: CondIndepStackFrame | None) -> Tensor:
    """Sum over all plates but the data plate: shape (data,), or (1,) outside of it."""
    batch = node["fn"].batch_shape
    value = value.to(torch.float64).expand(batch)
    if frame is None or frame.dim is None:
        return value.sum().reshape(1)
    return value.movedim(frame.dim, 0).reshape(batch[frame.dim], -1).sum(-1)


def _same_mask(a: Any, b: Any) -> bool:
    if a is b:
        return True
    one = torch.ones((), dtype=torch.bool)
    a, b = (one if m is None else torch.as_tensor(m) for m in (a, b))
    try:
        shape = torch.broadcast_shapes(a.shape, b.shape)
    except RuntimeError:
        return False
    return bool((a.expand(shape) == b.expand(shape)).all())
