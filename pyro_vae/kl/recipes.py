"""How a distribution is made of standard noise: one class, one recipe.

A recipe returns draws in the unconstrained coordinate y in which the class states its density for
the quadrature (`pyro_vae.kl.lines`): log x on the half-line, logit x on the unit interval. There
no draw rounds to an end of the support, as 2.5 % of the draws of a Beta(0.1, 0.1) do even in
double precision. Classes without a line have recipes for x itself. All are differentiable in the
parameters, which are in float64 and of the batch shape wanted.
"""

from __future__ import annotations

__all__ = ["Recipe", "drawn", "recipe", "recipe_of", "reparameterised"]

import inspect
import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_vae.distributions import LogitNormal
from pyro_vae.kl.charts import forward, log_expm1
from pyro_vae.kl.draws import Noise
from pyro_vae.kl.lines import line_of
from pyro_vae.kl.table import canonical

Recipe = Callable[[Any, Noise], Tensor]
"""From a distribution and noise to draws of shape (count, *batch, *event)."""

_RECIPES: dict[type[Distribution], Recipe] = {}


def recipe(*classes: type[Distribution]) -> Callable[[Recipe], Recipe]:
    """Register the recipe of classes of distributions.

    Arguments:
        *classes: The classes; subclasses inherit nothing.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: If a class has a recipe already, or the function has no docstring.
    """

    def add(make: Recipe) -> Recipe:
        if not inspect.getdoc(make):
            raise ValueError(f"the recipe {make.__name__} has no docstring; write its formula.")
        for cls in classes:
            if canonical(cls) in _RECIPES:
                raise ValueError(f"{cls.__name__} has a recipe already.")
            _RECIPES[canonical(cls)] = make
        return make

    return add


def recipe_of(d: Distribution) -> Recipe | None:
    """Return the recipe of a distribution.

    Arguments:
        d: A distribution, which may be an `Independent` or `TransformedDistribution` of one.

    Returns:
        The recipe; None without one.

    Example:
        >>> recipe_of(td.Normal(0.0, 1.0)) is None, recipe_of(td.VonMises(0.0, 1.0)) is None
        (False, True)
    """
    found = _RECIPES.get(canonical(type(d)))
    inside: Any = getattr(d, "base_dist", None)
    return None if found in _MADE_OF_OTHERS and recipe_of(inside) is None else found


def drawn(d: Any, noise: Noise) -> Tensor:
    """Return draws of a distribution.

    Arguments:
        d: The distribution, its parameters in float64 where it has a recipe.
        noise: The noise that they are made of; what has no recipe is drawn by its own method if
            the noise is random.

    Returns:
        The draws, of shape (count, *batch, *event), with a gradient if the distribution is
        reparameterised.

    Raises:
        NoEstimate: If there are no such draws of the family.

    Example:
        >>> from pyro_vae.kl.draws import draws
        >>> batch = torch.Size([3])
        >>> noise = draws["quasi"](64, 8, batch, torch.device("cpu"), "Exponential")
        >>> x = drawn(td.Exponential(torch.ones(3).double()), noise)
        >>> x.shape, bool((x.mean(0) - 1).abs().max() < 0.1)
        (torch.Size([64, 3]), True)
    """
    make, line = recipe_of(d), line_of(d)
    if make is not None:
        y = make(d, noise)
        return y if line is None else forward(line.chart, y).x
    if noise.name == "random":
        return (d.rsample if reparameterised(d) else d.sample)((noise.count,))
    if canonical(type(d)) in _RECIPES:
        return _of_base(d, noise)
    if _has_quantiles(d):
        return d.icdf(noise.uniform(d.batch_shape))
    raise noise.missing(["random"])


def reparameterised(d: Any) -> bool:
    """Say whether the gradient goes through the draws of a distribution, and rightly.

    Arguments:
        d: A distribution.

    Returns:
        True if so; False for masses, where a straight-through gradient is not that of the mean.

    Example:
        >>> reparameterised(td.OneHotCategoricalStraightThrough(torch.ones(2)))
        False
    """
    return recipe_of(d) is not None or (d.has_rsample and not d.support.is_discrete)


# ------------------------------------------------------------------------------- the real line
@recipe(td.Normal, td.LogNormal, LogitNormal)
def _normal(d: Any, noise: Noise) -> Tensor:
    """Loc + scale z, z a standard Normal."""
    return d.loc + d.scale * noise.normal(d.batch_shape)


@recipe(td.StudentT)
def _student(d: Any, noise: Noise) -> Tensor:
    """Loc + scale z / sqrt(2 g / df), g ~ Gamma(df / 2)."""
    half = d.df / 2
    log_g = noise.log_gamma(half, scales=True)
    return d.loc + d.scale * noise.normal(d.batch_shape) * ((half.log() - log_g) / 2).exp()


@recipe(td.Cauchy)
def _cauchy(d: Any, noise: Noise) -> Tensor:
    """Loc + scale tan(pi (u - 1/2))."""
    return d.loc + d.scale * (math.pi * (noise.uniform(d.batch_shape) - 0.5)).tan()


@recipe(td.Laplace)
def _laplace(d: Any, noise: Noise) -> Tensor:
    """Loc + scale log(2 u) on the left, by symmetry on the right."""
    return d.loc + d.scale * _two_sided(noise.uniform(d.batch_shape), 0.5, 1.0, 1.0)


@recipe(dist.AsymmetricLaplace)
def _asymmetric_laplace(d: Any, noise: Noise) -> Tensor:
    """Exponentials of scale k and 1 / k on both sides of loc, k^2 / (1 + k^2) on the left."""
    k = d.asymmetry
    left = k.square() / (1 + k.square())
    return d.loc + d.scale * _two_sided(noise.uniform(d.batch_shape), left, k, 1 / k)


@recipe(dist.Logistic)
def _logistic(d: Any, noise: Noise) -> Tensor:
    """Loc + scale logit u."""
    return d.loc + d.scale * noise.uniform(d.batch_shape).logit()


@recipe(LogitRelaxedBernoulli, td.RelaxedBernoulli)
def _relaxed_bernoulli(d: Any, noise: Noise) -> Tensor:
    """(logits + logit u) / temperature."""
    return (d.logits + noise.uniform(d.batch_shape).logit()) / d.temperature


@recipe(dist.SkewLogistic)
def _skew_logistic(d: Any, noise: Noise) -> Tensor:
    """Loc + scale logit v, v^asymmetry = u."""
    log_v = noise.uniform(d.batch_shape).log() / d.asymmetry
    return d.loc - d.scale * log_expm1((-log_v).log())


@recipe(dist.SoftLaplace)
def _soft_laplace(d: Any, noise: Noise) -> Tensor:
    """Loc + scale log tan(pi u / 2)."""
    return d.loc + d.scale * _log_tan(noise.uniform(d.batch_shape))


@recipe(td.Gumbel)
def _gumbel(d: Any, noise: Noise) -> Tensor:
    """Loc - scale log(-log u)."""
    return d.loc - d.scale * (-noise.uniform(d.batch_shape).log()).log()


# ------------------------------------------------------------------------------- the half-line
@recipe(td.Exponential)
def _exponential(d: Any, noise: Noise) -> Tensor:
    """Log x = log(-log u) - log rate."""
    return _log_exponential(d, noise) - d.rate.log()


@recipe(td.Gamma)
def _gamma(d: Any, noise: Noise) -> Tensor:
    """Log x = log g - log rate."""
    return noise.log_gamma(d.concentration) - d.rate.log()


@recipe(td.Chi2)
def _chi2(d: Any, noise: Noise) -> Tensor:
    """Log x = log g + log 2, g ~ Gamma(df / 2)."""
    return noise.log_gamma(d.df / 2) + math.log(2)


@recipe(td.InverseGamma)
def _inverse_gamma(d: Any, noise: Noise) -> Tensor:
    """Log x = log rate - log g."""
    concentration, rate = (torch.as_tensor(t) for t in (d.concentration, d.rate))
    return rate.log() - noise.log_gamma(concentration)


@recipe(td.FisherSnedecor)
def _fisher_snedecor(d: Any, noise: Noise) -> Tensor:
    """Log x = log(g / df1) - log(h / df2), g and h ~ Gamma(df / 2)."""
    g, h = noise.log_gamma(d.df1 / 2), noise.log_gamma(d.df2 / 2)
    return g - d.df1.log() - h + d.df2.log()


@recipe(td.Weibull)
def _weibull(d: Any, noise: Noise) -> Tensor:
    """Log x = log scale + log(-log u) / concentration."""
    return d.scale.log() + _log_exponential(d, noise) / d.concentration


@recipe(td.HalfNormal)
def _half_normal(d: Any, noise: Noise) -> Tensor:
    """Log x = log(scale sqrt 2 erfinv u)."""
    return d.scale.log() + 0.5 * math.log(2) + noise.uniform(d.batch_shape).erfinv().log()


@recipe(td.HalfCauchy)
def _half_cauchy(d: Any, noise: Noise) -> Tensor:
    """Log x = log(scale tan(pi u / 2))."""
    return d.scale.log() + _log_tan(noise.uniform(d.batch_shape))


@recipe(td.Pareto)
def _pareto(d: Any, noise: Noise) -> Tensor:
    """Log(x - scale) = log scale + log(u^(-1 / alpha) - 1)."""
    return d.scale.log() + log_expm1(_log_exponential(d, noise) - d.alpha.log())


# ---------------------------------------------------------------------------- the unit interval
@recipe(td.Beta)
def _beta(d: Any, noise: Noise) -> Tensor:
    """Logit x = log g - log h, two Gammas."""
    return noise.log_gamma(d.concentration1) - noise.log_gamma(d.concentration0)


@recipe(td.Kumaraswamy)
def _kumaraswamy(d: Any, noise: Noise) -> Tensor:
    """x^a = 1 - u^(1 / b)."""
    log_s = _log_exponential(d, noise) - d.concentration0.log()
    # t = -log x = -log(1 - exp(-s)) / a, which is exp(-s) / a far out
    far = log_s > math.log(36)
    s = torch.where(far, 1.0, log_s.exp())
    near = (-(-torch.expm1(-s)).log()).log()
    log_t = torch.where(far, -log_s.exp(), near) - d.concentration1.log()
    return -log_expm1(log_t)


@recipe(td.ContinuousBernoulli)
def _continuous_bernoulli(d: Any, noise: Noise) -> Tensor:
    """exp(-|logits| t) = 1 - u (1 - exp(-|logits|)), x = t for negative logits, else 1 - t."""
    size, u = d.logits.abs(), noise.uniform(d.batch_shape)
    flat = size < 1e-3
    slope = torch.where(flat, 1.0, size)
    t = torch.where(
        flat, u - u * (1 - u) * size / 2, -torch.log1p(u * torch.expm1(-slope)) / slope
    )
    y = t.log() - torch.log1p(-t)
    return torch.where(d.logits > 0, -y, y)


@recipe(td.Uniform)
def _uniform(d: Any, noise: Noise) -> Tensor:
    """(x - low) / (high - low) = u."""
    return noise.uniform(d.batch_shape).logit()


# ------------------------------------------------------------------------------------- vectors
@recipe(td.MultivariateNormal)
def _multivariate_normal(d: Any, noise: Noise) -> Tensor:
    """Loc + L z."""
    return d.loc + _mapped(d.scale_tril, noise.normal(d.loc.shape))


@recipe(td.LowRankMultivariateNormal)
def _low_rank(d: Any, noise: Noise) -> Tensor:
    """Loc + W z + sqrt(D) z'."""
    rank = d.cov_factor.shape[-1]
    z = noise.normal(torch.Size([*d.batch_shape, rank + d.loc.shape[-1]]))
    return d.loc + _mapped(d.cov_factor, z[..., :rank]) + d.cov_diag.sqrt() * z[..., rank:]


@recipe(dist.MultivariateStudentT)
def _multivariate_student(d: Any, noise: Noise) -> Tensor:
    """Loc + L z / sqrt(2 g / df), g ~ Gamma(df / 2)."""
    half = d.df / 2
    stretch = ((half.log() - noise.log_gamma(half, scales=True)) / 2).exp().unsqueeze(-1)
    return d.loc + stretch * _mapped(d.scale_tril, noise.normal(d.loc.shape))


@recipe(ExpRelaxedCategorical)
def _exp_relaxed(d: Any, noise: Noise) -> Tensor:
    """The log softmax of (logits + Gumbels) / temperature."""
    gumbels = -(-noise.uniform(d.logits.shape).log()).log()
    temperature = torch.as_tensor(d.temperature)
    if temperature.dim():
        temperature = temperature.unsqueeze(-1)
    return ((d.logits + gumbels) / temperature).log_softmax(-1)


@recipe(td.RelaxedOneHotCategorical)
def _relaxed_one_hot(d: Any, noise: Noise) -> Tensor:
    """The softmax of (logits + Gumbels) / temperature."""
    return _exp_relaxed(d, noise).exp()


@recipe(td.Wishart)
def _wishart(d: Any, noise: Noise) -> Tensor:
    """L A A' L', A lower triangular, A_ij Normal and A_ii^2 ~ Chi2(df - i) (Bartlett)."""
    size = d.event_shape[-1]
    i, j = torch.tril_indices(size, size, offset=-1, device=d.df.device)
    half = (d.df.unsqueeze(-1) - torch.arange(size, dtype=d.df.dtype, device=d.df.device)) / 2
    factor = torch.diag_embed(((noise.log_gamma(half) + math.log(2)) / 2).exp())
    below = torch.zeros_like(factor)
    below[..., i, j] = noise.normal(torch.Size([*d.batch_shape, len(i)]))
    root = d.scale_tril @ (factor + below)
    return root @ root.mT


@recipe(td.LKJCholesky)
def _lkj_cholesky(d: Any, noise: Noise) -> Tensor:
    """Row k = 1, 2, ... is (sqrt(y) v, sqrt(1 - y)), v uniform on a sphere of k dimensions.

    y ~ Beta(k / 2, concentration + (size - 1 - k) / 2). torch 2.13 has k - 1/2 in place of k / 2,
    which from three dimensions on is another distribution than that of its density.

    Source: Generating random correlation matrices based on vines and extended onion method
    (D. Lewandowski, D. Kurowicka, H. Joe, 2009).
    """
    size, a = d.dim, d.concentration.unsqueeze(-1)
    k = torch.arange(1, size, dtype=a.dtype, device=a.device)
    g = noise.log_gamma((k / 2).expand(*a.shape[:-1], size - 1))
    h = noise.log_gamma(a + (size - 1 - k) / 2)
    total = torch.logaddexp(g, h)
    way = noise.normal(torch.Size([*d.batch_shape, size - 1, size - 1])).tril()
    rows = way / way.norm(dim=-1, keepdim=True) * ((g - total) / 2).exp().unsqueeze(-1)
    # a column of zeros on the right and a row of them on top, then the diagonal
    below = torch.nn.functional.pad(rows, (0, 1, 1, 0))
    diagonal = torch.nn.functional.pad(((h - total) / 2).exp(), (1, 0), value=1.0)
    return below + torch.diag_embed(diagonal)


# -------------------------------------------------------------------------- made of other ones
@recipe(td.Independent)
def _independent(d: Any, noise: Noise) -> Tensor:
    """The elements, which are numbers of one event."""
    return _of_base(d, noise)


@recipe(td.TransformedDistribution, td.LogisticNormal, dist.AffineBeta)
def _transformed(d: Any, noise: Noise) -> Tensor:
    """The maps of the base's draws; where they make one line, the base's coordinate."""
    make = recipe_of(d.base_dist)
    return _of_base(d, noise) if line_of(d) is None or make is None else make(d.base_dist, noise)


_MADE_OF_OTHERS = (_independent, _transformed)


def _of_base(d: Any, noise: Noise) -> Tensor:
    x = drawn(d.base_dist, noise)
    for t in getattr(d, "transforms", ()):
        x = t(x)
    return x


def _has_quantiles(d: Any) -> bool:
    """Whether a class has the quantile function of its own density, of continuous numbers."""
    if d.event_shape or d.support.is_discrete:
        return False
    definer = {
        name: next(i for i, cls in enumerate(type(d).__mro__) if name in vars(cls))
        for name in ("icdf", "log_prob")
    }
    return type(d).icdf is not Distribution.icdf and definer["icdf"] <= definer["log_prob"]


# -------------------------------------------------------------------------------------- parts
def _two_sided(u: Tensor, left: Any, down: Any, up: Any) -> Tensor:
    """The quantiles of two exponentials back to back, `left` of the mass on the left."""
    left = torch.as_tensor(left, dtype=u.dtype, device=u.device)
    below, above = u.log() - left.log(), torch.log1p(-u) - torch.log1p(-left)
    return torch.where(u < left, down * below, -up * above)


def _log_exponential(d: Any, noise: Noise) -> Tensor:
    """The logarithm of a standard Exponential, log(-log u)."""
    return (-noise.uniform(d.batch_shape).log()).log()


def _log_tan(u: Tensor) -> Tensor:
    """The logarithm of tan(pi u / 2)."""
    return (math.pi / 2 * u).tan().log()


def _mapped(matrix: Tensor, z: Tensor) -> Tensor:
    return (matrix @ z.unsqueeze(-1)).squeeze(-1)
