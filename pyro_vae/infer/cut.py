"""Path-only gradients: the densities of a guide, differentiated through its draws alone.

With draws z_s = z_s(phi, z_pa) of a reparameterised guide, the gradient of E[log p(x, z) -
log q(z)] has two parts: through the draws, and through the parameters of log q, whose
expectation is 0 for one draw and whose noise is not. To leave out the second part *exactly* the
draws are cut from the parameters: guide and model go on with leaves z' equal to z, so that

    g_s = d/dz'_s [log p(x, z') - log q(z')]  +  sum over children c of s of  g_c dz_c/dz'_s

is the gradient at a draw, its parents' part in the children's densities included, and
sum_s stop(g_s) z_s(phi, z'_pa) has the path's gradient in phi. What log p itself owes to phi (the
parameters that model and guide share) is none of its business, and stays.

The expectation of d/dphi log q(z) is 0 only where the support stands still. A site whose support
moves with its parameters (a learned Uniform, the point masses by which AutoGuides hand a value
on, with its Jacobian) keeps its whole gradient: it is not cut, and its log q stays as it is.

References:
    Sticking the landing: simple, lower-variance gradient estimators for variational inference
    (G. Roeder, Y. Wu, D. Duvenaud, 2017)
"""

from __future__ import annotations

__all__ = ["Cut", "moves", "no_inverse", "path"]

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import TransformedDistribution

from pyro_vae.distributions import Product
from pyro_vae.kl.ends import space


class Cut(Messenger):
    """While active, guide sites whose draws carry a gradient yield leaves of the same value.

    It must stand outside the handler that records the guide's trace, for handlers outside are
    the first to see a finished draw.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> loc = torch.tensor(1.0, requires_grad=True)
        >>> with Cut() as cut:
        ...     z = pyro.sample("z", dist.Normal(loc, 1.0))
        >>> z.is_leaf, torch.equal(z, cut.sites["z"][0])
        (True, True)
    """

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, tuple[Tensor, Tensor]] = {}
        """By site in the order of drawing, the draw and the leaf that stands for it."""
        self.whole: set[str] = set()
        """The sites that keep their whole gradient."""

    def _pyro_post_sample(self, msg: Any) -> None:
        name, value = msg["name"], msg["value"]
        # the model's replay sees a site again, with the prior
        seen = name in self.sites or name in self.whole
        if msg["is_observed"] or seen or not msg["fn"].has_rsample:
            return
        if moves(msg["fn"]):
            self.whole.add(name)
            return
        if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf:
            leaf = value.detach().requires_grad_()
            self.sites[name] = (value, leaf)
            msg["value"] = leaf


def moves(d: Any) -> bool:
    """Say whether the support of a distribution moves with a parameter that takes a gradient.

    No value is read: an end that may move counts as moving.

    Arguments:
        d: A distribution.

    Returns:
        True if it may.

    Example:
        >>> import pyro.distributions as dist
        >>> high = torch.ones((), requires_grad=True)
        >>> moves(dist.Uniform(0.0, high)), moves(dist.Normal(0.0, high)), moves(dist.Delta(high))
        (True, False, True)
    """
    if isinstance(_bare(d), Product):
        return any(moves(block) for block in _bare(d).blocks)
    where = space(_bare(d))
    if where.kind == "point":
        return True
    if not any(isinstance(end, Tensor) and end.requires_grad for end in where[1:3]):
        return False
    if isinstance(_bare(d), TransformedDistribution):  # the infinite ends of what it maps stay so
        inner = space(_bare(_bare(d).base_dist))
        return any(isinstance(end, Tensor) or math.isfinite(end) for end in inner[1:3])
    return True


def _bare(d: Any) -> Any:
    while type(d).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        d = d.base_dist
    return d


@contextmanager
def no_inverse(elbo: str, cut: Cut | None) -> Iterator[None]:
    """Say what is the matter where a transform of the guide cannot be inverted at a leaf.

    Arguments:
        elbo: The name of the ELBO, for the message.
        cut: The cut, None if there is none.
    """
    try:
        yield
    except (KeyError, NotImplementedError) as error:
        # Pyro's transforms without an inverse look a draw up among those they made
        if cut is None or not cut.sites or "cache" not in str(error):
            raise
        raise NotImplementedError(
            f"{elbo} needs log q at a draw that the guide's transform did not remember, and the "
            f"transform has no inverse ({error}). Take infer.TraceExactKL_ELBO or Trace_ELBO, or "
            "a transform with an inverse, such as a spline coupling."
        ) from error


def path(total: Tensor, cut: Cut) -> Tensor:
    """Return a tensor of value 0 whose gradient is that of `total` through the draws alone.

    Arguments:
        total: A function of the leaves, 0-dim; its own graph is kept.
        cut: The cut under which guide and model were run.

    Returns:
        A 0-dim tensor: sum_s stop(g_s) (z_s - stop(z_s)).
    """
    sites = list(cut.sites.values())
    if not sites or not total.requires_grad:
        return torch.zeros_like(total.detach())
    pulls = _gradients(total, [leaf for _, leaf in sites])
    surrogate = torch.zeros_like(total.detach())
    # a draw is made of earlier leaves: the last one's pull is complete, then the one before
    for i in range(len(sites) - 1, -1, -1):
        pull, (live, _) = pulls[i], sites[i]
        if pull is None:
            continue
        along = (pull * (live - live.detach())).sum()
        surrogate = surrogate + along
        earlier = _gradients(along, [leaf for _, leaf in sites[:i]])
        pulls[:i] = [_sum(a, b) for a, b in zip(pulls[:i], earlier, strict=True)]
    return surrogate


def _gradients(total: Tensor, leaves: list[Tensor]) -> list[Tensor | None]:
    if not leaves:
        return []
    return list(torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
