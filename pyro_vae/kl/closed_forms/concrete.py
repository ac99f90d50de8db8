"""Concrete distributions (relaxed one-hot vectors) of equal temperature.

x = softmax((l + Gumbel noise) / temperature). At equal temperatures the KL does not depend on the
temperature: with v_k the difference l'_k - l_k of the logits of p and q, K classes and
independent E_k ~ Exponential(1), log q - log p is a function of the log ratios alone, and

    KL(q || p) = K [E log sum_k exp(v_k) E_k - psi(K)] - sum_k v_k,

the logarithm of a sum of exponentials being one integral (Frullani). It is more than the KL of the
categories, which some use in its place. No such form is known for unequal temperatures, so the
form is not in the table of forms, which knows classes only, but in `pyro_vae.kl.reductions`.

Source: The Concrete distribution (C. J. Maddison, A. Mnih, Y. W. Teh, 2017) for the density.
"""

from __future__ import annotations

__all__ = ["concrete", "log_sum"]

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.nn.functional import softplus

from pyro_vae.kl.closed_forms.frullani import trapezoid

_NODES = 160
_RANGE = 50.0
# e^-37 is 1e-16
_NEGLIGIBLE = 37.0

Relaxed = td.RelaxedOneHotCategorical | ExpRelaxedCategorical


def log_sum(v: Tensor) -> Tensor:
    """E log sum_k exp(v_k) E_k - psi(K) for E_k ~ Exponential(1) independent, k = 1, ..., K.

    For v of mean 0, with s = 1 / (1 + e^-u), the integral over u of

        (1 - s)^K [1 - exp(-sum_k log(1 + s (exp(v_k) - 1)))],

    which is exactly 0 at v = 0; any other mean is added. Terms less than e^-50 of the largest add
    nothing that a double could hold, and are kept at that, so that no range is too long.

    Arguments:
        v: Shape (*batch, K), float64.

    Returns:
        The difference, shape `batch`.

    Example:
        >>> log_sum(torch.zeros(3, dtype=torch.float64)).item()
        0.0
    """
    count = v.shape[-1]
    w = torch.maximum(v, v.amax(-1, keepdim=True) - _RANGE)
    mean = w.mean(-1, keepdim=True)
    w = w - mean
    grown = torch.expm1(w)

    def integrand(u: Tensor) -> Tensor:
        log_ratio = torch.log1p(u.sigmoid().unsqueeze(-1) * grown).sum(-1)
        return -(-count * softplus(u)).exp() * torch.expm1(-log_ratio)

    low = -_NEGLIGIBLE - w.amax(-1)
    high = torch.full_like(low, _NEGLIGIBLE / count)
    return trapezoid(integrand, low, high, _NODES) + mean.squeeze(-1)


def concrete(q: Relaxed, p: Relaxed) -> Tensor:
    """K [E log sum_k exp(v_k) E_k - psi(K)] for v = logits_p - logits_q, less their mean.

    Arguments:
        q: A relaxed one-hot distribution with logits in float64.
        p: Another, of the same temperature.

    Returns:
        The KL in nats.

    Example:
        >>> made = td.RelaxedOneHotCategorical(torch.tensor(0.5), logits=torch.zeros(3).double())
        >>> concrete(made, made).item()
        0.0
    """
    v = p.logits - q.logits
    return v.shape[-1] * log_sum(v - v.mean(-1, keepdim=True))
