"""One place for example distributions of every class with a form, and the oracles for them.

The oracle of a continuous pair is composite Gauss-Legendre quadrature of q (log q - log p), with
the log densities of the distributions themselves, in a coordinate on the whole line, with panels
that end at kinks. It knows nothing of closed forms, and autograd through it gives the quadrature
of the derivative. Discrete pairs are enumerated.
"""

import numpy as np
import pyro.distributions as dist
import torch
import torch.distributions as td

from pyro_vae.distributions import CircularUniform, LogitNormal, WrappedNormal

F64 = torch.float64

# class -> parameters, three examples each; tails light and heavy, on both sides of thresholds
CONTINUOUS = {
    td.Normal: {"loc": [0.3, -1.2, 2.0], "scale": [0.7, 1.5, 0.4]},
    td.Laplace: {"loc": [-0.4, 0.9, 1.7], "scale": [0.5, 1.1, 2.1]},
    dist.Logistic: {"loc": [0.1, -0.8, 1.1], "scale": [0.6, 0.3, 1.4]},
    td.Gumbel: {"loc": [0.2, -0.6, 1.3], "scale": [0.8, 1.9, 0.45]},
    td.StudentT: {"df": [1.6, 5.0, 9.0], "loc": [0.2, 1.0, -0.5], "scale": [0.6, 1.3, 0.9]},
    td.Cauchy: {"loc": [0.2, 1.0, -0.5], "scale": [0.6, 1.3, 0.9]},
    td.Gamma: {"concentration": [0.8, 2.3, 6.0], "rate": [0.9, 1.7, 3.0]},
    td.Chi2: {"df": [1.4, 3.0, 7.0]},
    td.Exponential: {"rate": [0.4, 1.3, 2.8]},
    td.InverseGamma: {"concentration": [0.7, 1.8, 4.0], "rate": [0.9, 1.6, 2.5]},
    td.LogNormal: {"loc": [-0.5, 0.2, 0.9], "scale": [0.4, 0.7, 0.25]},
    td.Weibull: {"scale": [0.8, 1.6, 1.1], "concentration": [0.5, 1.4, 2.6]},
    td.HalfNormal: {"scale": [0.5, 1.2, 2.4]},
    td.HalfCauchy: {"scale": [0.5, 1.2, 2.4]},
    td.Pareto: {"scale": [0.5, 1.0, 1.9], "alpha": [0.8, 1.7, 4.0]},
    td.Beta: {"concentration1": [0.8, 2.1, 5.0], "concentration0": [1.3, 2.0, 3.7]},
    td.Kumaraswamy: {"concentration1": [0.8, 2.1, 3.0], "concentration0": [1.3, 2.0, 3.7]},
    LogitNormal: {"loc": [-0.6, 0.2, 1.1], "scale": [0.5, 1.1, 0.8]},
    td.ContinuousBernoulli: {"logits": [-3.0, 0.1, 1.4]},
    td.Uniform: {"low": [-1.0, 0.05, 0.2], "high": [2.0, 1.5, 0.7]},
}
DISCRETE = {
    td.Bernoulli: {"logits": [-1.2, 0.4, 2.0]},
    td.Geometric: {"logits": [-1.2, 0.4, 2.0]},
    td.Poisson: {"rate": [0.6, 2.2, 5.1]},
    td.Binomial: {"total_count": [3.0, 5.0, 5.0], "logits": [-1.2, 0.4, 1.0]},
    td.NegativeBinomial: {"total_count": [0.6, 2.5, 7.0], "logits": [-1.2, 0.4, 1.0]},
    dist.GammaPoisson: {"concentration": [0.6, 2.5, 7.0], "rate": [0.7, 1.4, 3.0]},
    dist.ZeroInflatedPoisson: {"rate": [0.6, 2.2, 5.1], "gate": [0.1, 0.5, 0.3]},
    dist.BetaBinomial: {
        "concentration1": [0.6, 2.2, 5.1],
        "concentration0": [1.6, 0.7, 3.0],
        "total_count": [3.0, 5.0, 5.0],
    },
    td.Categorical: {"logits": [[0.1, -0.4, 1.0], [0.0, 2.0, 0.3], [-1.0, 0.2, 0.5]]},
    td.OneHotCategorical: {"logits": [[0.1, -0.4, 1.0], [0.0, 2.0, 0.3], [-1.0, 0.2, 0.5]]},
    td.OneHotCategoricalStraightThrough: {
        "logits": [[0.1, -0.4, 1.0], [0.0, 2.0, 0.3], [-1.0, 0.2, 0.5]]
    },
}
GAUSSIAN = (td.Independent, td.MultivariateNormal, td.LowRankMultivariateNormal)
# these have their cases in special_cases.py and in same_families.py
SPECIAL = (dist.MultivariateStudentT, td.Wishart, td.LKJCholesky, td.VonMises)
SPECIAL += (td.Dirichlet, td.Multinomial, CircularUniform, WrappedNormal, dist.ProjectedNormal)
STRUCTURAL = {"total_count"}


def example(cls, *, column=False):
    """Three examples as a row (or a column) of distributions, and their parameters."""
    given = {**CONTINUOUS, **DISCRETE}[cls]
    values = {}
    for name, value in given.items():
        tensor = torch.tensor(value, dtype=F64)
        values[name] = tensor.unsqueeze(1) if column else tensor
        if name not in STRUCTURAL:
            values[name].requires_grad_()
    leaves = [v for v in values.values() if v.requires_grad]
    return cls(**values, validate_args=False), leaves


def _nodes(edges):
    """Gauss-Legendre nodes and weights on the panels between edges."""
    x, w = np.polynomial.legendre.leggauss(24)
    edges = np.unique(edges)
    half, middle = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
    return torch.tensor((middle + half * x).ravel()), torch.tensor((half * w).ravel())


def _coordinate(q):
    """Panel edges in y, the map y -> (x, log |dx/dy|), and the map of kinks x -> y."""
    sigmoid = torch.nn.functional.logsigmoid
    if isinstance(q, (td.Beta, td.Kumaraswamy, LogitNormal, td.ContinuousBernoulli)):
        return (
            np.linspace(-110, 34, 290),
            lambda y: (y.sigmoid(), sigmoid(y) + sigmoid(-y)),
            lambda k: np.log(k / (1 - k)) if 0 < k < 1 else 0.0,
        )
    if isinstance(q, td.Uniform):
        width = q.high - q.low
        return (
            np.linspace(-34, 34, 140),
            lambda y: (
                q.low + width * y.sigmoid(),
                width.log() + sigmoid(y) + sigmoid(-y),
            ),
            lambda k: 0.0,
        )
    if isinstance(q, td.Pareto):
        # the lower end moves with the parameter: x = scale * exp(exp(y))
        return (
            np.linspace(-40, 5.4, 180),
            lambda y: (q.scale * y.exp().exp(), q.scale.log() + y.exp() + y),
            lambda k: 0.0,
        )
    if q.support is td.constraints.real:
        return (
            np.linspace(-41, 41, 330),
            lambda y: (y.sinh(), y.cosh().log()),
            np.arcsinh,
        )
    return np.linspace(-250, 150, 800), lambda y: (y.exp(), y), lambda k: np.log(max(k, 1e-9))


def integrand(q, p):
    """Weights w of the nodes, log of the density of q in y, log ratio, and which are of use."""
    edges, into, back = _coordinate(q)
    kinks = [
        back(float(k))
        for d in (q, p)
        if isinstance(d, td.Laplace)
        for k in d.loc.detach().reshape(-1)
    ]
    y, w = _nodes(np.concatenate([edges, kinks]))
    y, w = y.reshape(-1, 1, 1), w.reshape(-1, 1, 1)
    x, log_jacobian = into(y)
    with torch.no_grad():
        log_q, log_p = torch.broadcast_tensors(log_density(q, x), log_density(p, x))
        used = (log_q + log_jacobian > -650) & log_q.isfinite()
        overflow = used & (log_p < -1e250)
        used = used & log_p.isfinite() & ~overflow
    # unused nodes go where nothing is infinite, or they would poison the gradient
    x = torch.where(used, x, x[len(x) // 2])
    log_q, log_p = log_density(q, x), log_density(p, x)
    return w, log_q + log_jacobian, log_q - log_p, used, overflow


def log_density(d, x):
    """log d(x), where torch's own goes through transforms that lose the tails to rounding."""
    if isinstance(d, td.Weibull):
        k, log_z = d.concentration, x.log() - d.scale.log()
        return k.log() - d.scale.log() + (k - 1) * log_z - (k * log_z).exp()
    if not isinstance(d, td.Kumaraswamy):
        return d.log_prob(x)
    a, b = d.concentration1, d.concentration0
    inner = torch.where(x < 1, x, 0.5)
    value = a.log() + b.log() + (a - 1) * inner.log() + (b - 1) * torch.log1p(-(inner**a))
    return torch.where(x < 1, value, -torch.inf)


def quadrature(q, p):
    """KL(q || p) by quadrature, of the broadcast batch shape; meaningless where infinite."""
    w, weight, f, used, _ = integrand(q, p)
    return (w * torch.where(used, weight, -torch.inf).exp() * f).sum(0)


def converges(q, p):
    """Whether the integrand has died away at the outermost nodes that q reaches."""
    _, weight, f, used, overflow = integrand(q, p)
    size = torch.where(used, weight.exp() * f.abs(), 0.0)
    order = torch.arange(len(size)).reshape(-1, 1, 1)
    first = torch.where(used, order, len(size) - 1).amin(0, keepdim=True)
    last = torch.where(used, order, 0).amax(0, keepdim=True)
    ends = torch.maximum(size.gather(0, first), size.gather(0, last))
    return (ends <= 1e-6 * size.amax(0, keepdim=True) + 1e-12).squeeze(0) & ~overflow.any(0)


def enumeration(q, p):
    """KL(q || p) by summation over the support of q."""
    if isinstance(q, (td.Bernoulli, td.Categorical, td.OneHotCategorical)):
        # lgamma of the integers of a Categorical would run in float32
        x = q.enumerate_support(expand=False).double()
    else:
        x = torch.arange(400, dtype=F64).reshape(-1, 1, 1)
    top = torch.tensor(torch.inf)
    if isinstance(q, (td.Binomial, dist.BetaBinomial)):
        bounded = isinstance(p, (td.Binomial, dist.BetaBinomial))
        top = torch.minimum(q.total_count, p.total_count) if bounded else q.total_count
    used = torch.ones(()).bool() if q.event_shape else x <= top
    x = torch.where(used.unsqueeze(-1) if q.event_shape else used, x, 0.0)
    log_q, log_p = torch.broadcast_tensors(q.log_prob(x), p.log_prob(x))
    return torch.where(used, log_q.exp() * (log_q - log_p), 0.0).sum(0)
