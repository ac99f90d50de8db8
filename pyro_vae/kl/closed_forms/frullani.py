"""Expectations of logarithms by Frullani's integral, one dimension whatever their number.

For Q > 0 with Laplace transform L(t) = E exp(-t Q),

    E log Q        = integral over u of  exp(-e^u) - L(e^u),
    E log(1 + Q)   = integral over u of  exp(-e^u) [1 - L(e^u)],

and where Q is a quadratic form of Gaussians, or a sum of exponentials, L is elementary in any
dimension. The integrands are analytic in a strip about the real line and die away exponentially,
so the trapezoidal rule converges geometrically: a few hundred nodes give all digits.

Source: The exponentially convergent trapezoidal rule (L. N. Trefethen, J. A. C. Weideman, 2014).
"""

from __future__ import annotations

__all__ = ["log_quadratic", "student_log_quadratic", "trapezoid"]

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_NODES = 224
# e^-37 is 1e-16, and exp(-e^4.2) is 1e-29
_NEGLIGIBLE, _LOG_NEGLIGIBLE = -37.0, 4.2


def trapezoid(
    integrand: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, nodes: int
) -> Tensor:
    """The integral over u from `low` to `high` of a function that vanishes at both ends.

    Arguments:
        integrand: A function of u, of shape (nodes, *batch), elementwise in what it sees.
        low: The lower ends, of shape `batch`; no gradient is asked of the nodes.
        high: The upper ends, broadcastable with `low`.
        nodes: The number of nodes.

    Returns:
        The integrals, of shape `batch`.

    Example:
        >>> end = torch.tensor(7.0, dtype=torch.float64)
        >>> gauss = trapezoid(lambda u: (-(u**2)).exp(), -end, end, 48)
        >>> round(gauss.item() ** 2, 12)
        3.14159265359
    """
    low, high = low.detach(), high.detach()
    step = (high - low) / (nodes - 1)
    k = torch.arange(nodes, dtype=low.dtype, device=low.device)
    u = low + step * k.reshape(-1, *(1,) * step.dim())
    return integrand(u).sum(0) * step


def log_quadratic(m: Tensor, delta: Tensor) -> Tensor:
    """E log(1 + |y|^2) of y ~ Normal(delta, m) in D dimensions.

    With t = e^u, L(t) = det(I + 2 t m)^(-1/2) exp(-t delta' (I + 2 t m)^-1 delta).

    Arguments:
        m: Positive definite, shape (*batch, D, D), float64.
        delta: The mean, shape (*batch, D).

    Returns:
        The expectations, shape `batch`, right to about 1e-14; two derivatives are exact.

    Example:
        >>> one = torch.eye(2, dtype=torch.float64)
        >>> round(log_quadratic(one, torch.zeros(2).double()).item(), 9)  # e^1/2 E_1(1/2)
        0.922910632
    """
    form = _Quadratic.of(m, delta)

    def integrand(u: Tensor) -> Tensor:
        t = u.exp()
        log_det = torch.log1p(2 * t.unsqueeze(-1) * form.eigenvalues).sum(-1)
        log_transform = -(log_det + form.curvature(t)) / 2 - form.value(t)
        return -(-t).exp() * torch.expm1(log_transform)

    low = _NEGLIGIBLE - form.spread().clamp(min=1.0).log()
    return trapezoid(integrand, low, torch.full_like(low, _LOG_NEGLIGIBLE), _NODES)


def student_log_quadratic(df: Tensor, m: Tensor, delta: Tensor) -> Tensor:
    """E log(1 + |y|^2) - [psi((df + D) / 2) - psi(df / 2)] of y ~ Student-t(df, delta, m / df).

    The Student-t is a Gaussian of covariance m / (df w), w ~ Gamma(df / 2, df / 2). After a shift
    of u by log w the expectation over w is elementary too, and with x = e^u

        E log(1 + |y|^2) = integral over u of  (1 + x)^(-df / 2) [1 - h(x)],
        h(x) = [1 + x delta' (I + x m)^-1 delta / (1 + x)]^(-df / 2) det(I + x m)^(-1/2).

    With (1 + x)^(-D / 2) in place of h the integral is the difference of psi, and h is just that
    at m = I and delta = 0: the result is exactly 0 there.

    Arguments:
        df: Degrees of freedom, shape `batch`, float64.
        m: df times the scale matrix, positive definite, shape (*batch, D, D).
        delta: The location, shape (*batch, D).

    Returns:
        The differences, shape `batch`; two derivatives are exact.

    Example:
        >>> df, one = torch.tensor(3.0).double(), torch.eye(2).double()
        >>> student_log_quadratic(df, one, torch.zeros(2).double()).item()
        0.0
    """
    form = _Quadratic.of(m, delta)
    near = (form.eigenvalues - 1).abs() < 0.5
    excess = torch.where(near, form.eigenvalues - 1, 0.0)
    power = (df + m.shape[-1]) / 2

    def integrand(u: Tensor) -> Tensor:
        x = u.exp()
        wide, share = x.unsqueeze(-1), (x / (1 + x)).unsqueeze(-1)
        far = torch.log1p(wide * form.eigenvalues) - torch.log1p(wide)
        log_det = torch.where(near, torch.log1p(share * excess), far).sum(-1)
        offset = df / 2 * torch.log1p(2 * form.value(x / 2) / (1 + x))
        log_ratio = -(log_det + form.curvature(x / 2)) / 2 - offset
        return -(-power * torch.log1p(x)).exp() * torch.expm1(log_ratio)

    spread = form.eigenvalues.sum(-1) / df + form.mean.square().sum(-1)
    low = _NEGLIGIBLE - torch.maximum(torch.maximum(spread, 2 / df), spread.new_ones(())).log()
    # where (1 + x)^(-df / 2) det(I + x m)^(-1/2) is negligible, for 1 + x e >= (1 + x) min(1, e)
    small = form.eigenvalues.clamp(max=1.0).log().sum(-1)
    high = torch.expm1((-_NEGLIGIBLE - small / 2) / power).log()
    return trapezoid(integrand, low + (2 / df).log(), high, _NODES)


class _Quadratic(NamedTuple):
    """t delta' (I + 2 t m)^-1 delta and log det(I + 2 t m) at many t, by one eigenbasis of m.

    The derivative of a basis does not exist where eigenvalues coincide (as they do at m = I, where
    guides start), while those of these functions do. So the basis is held fixed, and what `m` has
    off the diagonal in it, zero in value, enters by the Taylor polynomial of degree two: values
    and the first two derivatives are exact.
    """

    eigenvalues: Tensor
    mean: Tensor
    off: Tensor

    @classmethod
    def of(cls, m: Tensor, delta: Tensor) -> _Quadratic:
        basis = torch.linalg.eigh(m.detach()).eigenvectors
        turned = basis.mT @ m @ basis
        eigenvalues = turned.diagonal(dim1=-2, dim2=-1)
        off = turned - torch.diag_embed(eigenvalues)
        mean = (basis.mT @ delta.unsqueeze(-1)).squeeze(-1)
        return cls(eigenvalues, mean, off - off.detach())

    def spread(self) -> Tensor:
        """E |y|^2."""
        return self.eigenvalues.sum(-1) + self.mean.square().sum(-1)

    def value(self, t: Tensor) -> Tensor:
        """T delta' (I + 2 t m)^-1 delta."""
        g = self._resolvent(t)
        weighted = g * self.mean
        bent = _times(weighted, self.off)
        return (weighted * self.mean - 2 * bent * weighted + 4 * bent**2 * g).sum(-1)

    def curvature(self, t: Tensor) -> Tensor:
        """What log det(I + 2 t m) has beyond the sum of log(1 + 2 t eigenvalue)."""
        g = self._resolvent(t)
        return -2 * (_times(g, self.off**2) * g).sum(-1)

    def _resolvent(self, t: Tensor) -> Tensor:
        t = t.unsqueeze(-1)
        return t / (1 + 2 * t * self.eigenvalues)


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Rows of shape (nodes, *batch, D) times matrices of shape (*batch, D, D)."""
    return (rows.movedim(0, -2) @ matrix).movedim(-2, 0)
