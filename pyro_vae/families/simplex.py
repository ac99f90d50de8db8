"""Families on the simplex: the last dimension of a draw is positive and sums to 1.

Dimensions of `features` before the last are independent. All but the Dirichlet are sticks broken
K - 1 times: parts come in an order, and the KL between any two (the Dirichlet included) is the
sum over their sticks.
"""

from __future__ import annotations

__all__ = ["GEM", "Dirichlet", "LogisticNormal", "StickBreaking"]

from typing import Any

from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.families.family import Family, register
from pyro_vae.families.parameters import BEFORE_0, Parameter, SoftplusAbove

# What is left shrinks with every stick, by exp(-1 / concentration) in the mean: of 8 parts one in
# a thousand ends where floats do. Of many more the last always do, which `at_edge_share` tells.
_LEFT_OVER = SoftplusAbove(1 / 4)


def _sticks(family: Family) -> tuple[int, ...]:
    """One number for each stick, of which there is one less than parts."""
    return (*family.features[:-1], family.features[-1] - 1)


def _rows(family: Family) -> tuple[int, ...]:
    """One number for each simplex."""
    return family.features[:-1]


@register
class Dirichlet(Family):
    """Dirichlet on the last dimension: p(z) proportional to prod_k z_k^(concentration_k - 1).

    The standard member is uniform.

    Example:
        >>> Dirichlet(4)().mean
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    min_features = 2
    spec = {"concentration": Parameter(constraints.softplus_positive, 1.0, admissible=BEFORE_0)}

    def distribution(self, concentration: Tensor) -> TorchDistribution:
        """Return Dirichlet(concentration), independent over all but the last feature dimension."""
        return distributions.Dirichlet(concentration).to_event(len(self.features) - 1)


@register
class LogisticNormal(Family):
    """Sticks that are logit-normal: logit v_k = y_k - log(K - k), y_k ~ N(loc_k, scale_k^2).

    z_k = v_k (1 - v_1) ... (1 - v_(k - 1)), the last of the K parts being what is left. `loc` and
    `scale` have K - 1 elements in their last dimension. The standard member has loc 0, where the
    parts are equal, and scale 1.

    References:
        Logistic-normal distributions: some properties and uses (J. Aitchison, S. M. Shen, 1980)

    Example:
        >>> LogisticNormal(4)().event_shape, LogisticNormal(4).loc
        (torch.Size([4]), tensor([0., 0., 0.]))
    """

    min_features = 2
    spec = {
        "loc": Parameter(constraints.real, 0.0, shape=_sticks),
        "scale": Parameter(constraints.positive, 1.0, shape=_sticks),
    }

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Return LogisticNormal(loc, scale), independent over all but the last dimension."""
        law: Any = distributions.LogisticNormal
        return law(loc, scale).to_event(len(self.features) - 1)


@register
class StickBreaking(Family):
    """Kumaraswamy sticks: z_k = v_k (1 - v_1) ... (1 - v_(k - 1)), the last part what is left.

    v_k ~ Kumaraswamy(a_k, b_k), a = concentration1, b = concentration0, each with K - 1 elements
    in its last dimension. The standard member has uniform sticks, and is GEM(1).

    References:
        Stick-breaking variational autoencoders (E. Nalisnick, P. Smyth, 2017)

    Example:
        >>> StickBreaking(4)().mean
        tensor([0.5000, 0.2500, 0.1250, 0.1250])
    """

    min_features = 2
    spec = {
        "concentration1": Parameter(
            constraints.softplus_positive, 1.0, admissible=BEFORE_0, shape=_sticks
        ),
        "concentration0": Parameter(
            constraints.softplus_positive, 1.0, admissible=_LEFT_OVER, shape=_sticks
        ),
    }

    def distribution(self, concentration1: Tensor, concentration0: Tensor) -> TorchDistribution:
        """Return StickBreaking(concentration1, concentration0), independent over rows."""
        sticks = distributions.StickBreaking(concentration1, concentration0)
        return sticks.to_event(len(self.features) - 1)


@register
class GEM(Family):
    """The weights of a Dirichlet process: sticks v_k ~ Beta(1, concentration), cut at K parts.

    One concentration for each simplex, of shape `features[:-1]`: the larger, the more parts share
    the whole. The standard member has concentration 1, and uniform sticks.

    References:
        A constructive definition of Dirichlet priors (J. Sethuraman, 1994)

    Example:
        >>> GEM(4, concentration=3.0)().mean
        tensor([0.2500, 0.1875, 0.1406, 0.4219])
    """

    min_features = 2
    spec = {
        "concentration": Parameter(
            constraints.softplus_positive, 1.0, admissible=_LEFT_OVER, shape=_rows
        )
    }

    def distribution(self, concentration: Tensor) -> TorchDistribution:
        """Return GEM(concentration), independent over all but the last feature dimension."""
        gem = distributions.GEM(concentration, self.features[-1])
        return gem.to_event(len(self.features) - 1)
