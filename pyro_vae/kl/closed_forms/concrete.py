"""Concrete distributions (relaxed one-hot vectors) of equal temperature.

x = softmax((l + Gumbel noise) / temperature). At equal temperatures the KL does not depend on the
temperature: with v_k the difference l'_k - l_k of the logits of p and q, K classes and
independent E_k ~ Exponential(1), log q - log p is a function of the log ratios alone, and

    KL(q || p) = K [E log sum_k exp(v_k) E_k - psi(K)] - sum_k v_k,

the logarithm of a sum of exponentials being one integral (Frullani). It is more than the KL of the
categories, which some use in its place. No such form is known for unequal temperatures, so the
form is not in the table of forms, which knows classes only, but in `pyro_vae.kl.reductions`.

Its derivatives with respect to one temperature alone are not 0. With r the ratio of the
temperature of p to that of q, v_k = l'_k - r l_k and Euler's constant g,

    KL(q || p) = K [E log sum_k exp(v_k) E_k^r - psi(K) + g (r - 1)] - sum_k v_k - (K - 1) log r.

The Laplace transform of E^r is known at r = 1 only, together with its derivatives with respect to
r there; two of them enter as a Taylor polynomial that is zero in value.

Source: The Concrete distribution (C. J. Maddison, A. Mnih, Y. W. Teh, 2017) for the density.
"""

from __future__ import annotations

__all__ = ["concrete", "log_sum"]

import math

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.nn.functional import softplus

from pyro_vae.kl.closed_forms.frullani import trapezoid
from pyro_vae.kl.special import EULER

_NODES = 160
_RANGE = 50.0
# e^-37 is 1e-16
_NEGLIGIBLE = 37.0
_TRIGAMMA_2 = math.pi**2 / 6 - 1

Relaxed = td.RelaxedOneHotCategorical | ExpRelaxedCategorical


def log_sum(v: Tensor, more: Tensor | None = None) -> Tensor:
    """E log sum_k exp(v_k) E_k^r - psi(K) for E_k ~ Exponential(1) independent, k = 1, ..., K.

    For v of mean 0, with s = 1 / (1 + e^-u), the integral over u of

        (1 - s)^K [1 - exp(-sum_k log(1 + s (exp(v_k) - 1)))],

    which is exactly 0 at v = 0; any other mean is added. Terms less than e^-50 of the largest add
    nothing that a double could hold, and are kept at that, so that no range is too long.

    Arguments:
        v: Shape (*batch, K), float64.
        more: r - 1, 0 in value, of a shape that broadcasts to `batch`; None for r = 1.

    Returns:
        The difference, shape `batch`; two derivatives with respect to r are exact.

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
        if more is not None:
            log_ratio = log_ratio - _stretched(u.unsqueeze(-1) + w, more.unsqueeze(-1)).sum(-1)
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
    ratio = torch.as_tensor(p.temperature) / torch.as_tensor(q.temperature)
    more = ratio - ratio.detach()
    v = p.logits - q.logits - more.unsqueeze(-1) * q.logits
    count = v.shape[-1]
    shared = count * log_sum(v - v.mean(-1, keepdim=True), more)
    return shared + count * EULER * more - (count - 1) * torch.log1p(more)


def _stretched(x: Tensor, more: Tensor) -> Tensor:
    """Log of E exp(-e^x E^r) (1 + e^x), to second order in r - 1.

    With s = 1 / (1 + e^-x), y = log(1 + e^x) and a = r - 1 the expectation is, times 1 + e^x,
    1 - a s (psi(2) - y) + (a^2 / 2) [2 s^2 M(3) - s M(2)], M(n) = (psi(n) - y)^2 + psi_1(n).
    """
    s, y = x.sigmoid(), softplus(x)
    first = 1 - EULER - y
    second, third = first**2 + _TRIGAMMA_2, (first + 0.5) ** 2 + _TRIGAMMA_2 - 0.25
    return torch.log1p(more * (-s * first + more / 2 * (2 * s**2 * third - s * second)))
