"""In which coordinates a chain moves: real numbers where a space has them, else none.

Hamiltonian Monte Carlo needs a space without walls. `biject_to` carries R^n to intervals and
simplices, and the density of u = T^-1(z) is that of z times |dz/du|. Spheres, circles and
discrete sites have no such coordinates (a map from R^n to a sphere misses a point, or tears
it), so there a chain proposes fresh draws of the guide instead: independence Metropolis.
"""

from __future__ import annotations

__all__ = ["Coordinates", "moves_of", "stated"]

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, biject_to
from torch.distributions import VonMises as TorchVonMises

from pyro_vae.diagnostics.particles import Batch
from pyro_vae.diagnostics.posterior import Posterior, Values
from pyro_vae.supports import inside, space_of

HMC, INDEPENDENCE = "HMC", "independence Metropolis"


class Coordinates(NamedTuple):
    """The coordinates of the sites of a block of data.

    Arguments:
        posterior: The densities.
        batch: The data.
        transforms: By site that has them, the bijection from real numbers to values.
        supports: By site, where its values lie.
    """

    posterior: Posterior
    batch: Batch
    transforms: dict[str, Transform]
    supports: dict[str, Any]

    @classmethod
    def of(cls, posterior: Posterior, batch: Batch, nodes: dict[str, Any]) -> Coordinates:
        """Read the supports of the guide's sites.

        Arguments:
            posterior: The densities.
            batch: The data.
            nodes: By site, whatever states a support: the guide, or else the model.
        """
        supports = {n: nodes[n]["fn"].support for n in batch.sites}
        moves = moves_of(nodes, list(batch.sites))
        return cls(
            posterior,
            batch,
            {n: biject_to(s) for n, s in supports.items() if moves[n] == HMC},
            supports,
        )

    @property
    def without(self) -> list[str]:
        """The sites that have none."""
        return [n for n in self.batch.sites if n not in self.transforms]

    def free(self, values: Values) -> Values:
        """The coordinates of values, by site.

        Raises:
            ValueError: If a value has none: it lies outside the support that the guide stated.
        """
        found = {}
        for name, transform in self.transforms.items():
            if not inside(self.supports[name], values[name]):
                raise ValueError(
                    f"site {name!r} has values outside the support that the guide states for it, "
                    f"{self.supports[name]}; does its support depend on another latent site, or "
                    "is the prior's support wider than the guide's?"
                )
            inverse: Any = transform.inv
            found[name] = inverse(values[name])
        return found

    def values(self, free: Values) -> tuple[Values, Tensor]:
        """The values at coordinates, and log |dz/du| by draw and datum, (K, B)."""
        found: Values = {}
        total: Any = 0.0
        for name, u in free.items():
            transform: Any = self.transforms[name]
            z = found[name] = transform(u)
            event = len(self.batch.sites[name].event)
            jacobian = transform.log_abs_det_jacobian(u, z)
            # an elementwise map leaves the dimensions of an event to be summed
            extra = jacobian.dim() - (z.dim() - event)
            jacobian = jacobian.sum(list(range(-extra, 0))) if extra else jacobian
            total = total + self.posterior.to_data(self.batch, name, jacobian)
        return found, total

    def pulled(self, free: Values, gradients: Values) -> Values:
        """The gradient, along u, of a density of u, given that of the density of z along z."""
        if not free:
            return {}
        with torch.enable_grad():
            leaves = {n: u.detach().requires_grad_() for n, u in free.items()}
            z, jacobian = self.values(leaves)
            outputs = [z[n] for n in leaves]
            along = [gradients[n] for n in leaves]
            if jacobian.requires_grad:
                outputs.append(jacobian)
                along.append(torch.ones_like(jacobian))
            found = torch.autograd.grad(outputs, list(leaves.values()), along)
        return dict(zip(leaves, found, strict=True))


def stated(fn: Any) -> bool:
    """Whether a distribution says where its values lie, which it need not."""
    try:
        return fn.support is not None
    except NotImplementedError:
        return False


def moves_of(nodes: dict[str, Any], names: list[str]) -> dict[str, str]:
    """How a chain moves at each site: by HMC or by independence Metropolis.

    Arguments:
        nodes: By site, whatever states a support.
        names: The sites.
    """
    return {n: _move(nodes[n]["fn"]) for n in names}


def _move(fn: Any) -> str:
    base = fn
    while isinstance(base, dist.Independent | torch.distributions.Independent):
        base = base.base_dist
    # its support claims to be the line, but it is the circle
    circular = isinstance(base, TorchVonMises | dist.VonMises)
    space = space_of(fn.support)
    kinds = {part.space.kind for part in space.parts} or {space.kind}
    flat = kinds <= {"real", "simplex"}
    return HMC if flat and not circular else INDEPENDENCE
