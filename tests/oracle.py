"""The linear-Gaussian model, in which everything about a VAE is known in closed form.

    z ~ N(0, I_D),   x | z ~ N(W z + b, Psi),   Psi diagonal

With M = I + W' Psi^-1 W and C = W W' + Psi: p(x) = N(b, C) and
p(z|x) = N(M^-1 W' Psi^-1 (x - b), M^-1). All in float64; a datum is a row.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


class LinearGaussian(NamedTuple):
    """The model; `weight` has shape (P, D), `bias` and `variance` (the diagonal of Psi) (P,)."""

    weight: Tensor
    bias: Tensor
    variance: Tensor

    @property
    def latents(self):
        return self.weight.shape[1]

    @property
    def marginal_covariance(self):
        """C = W W' + Psi."""
        return self.weight @ self.weight.T + self.variance.diag()

    @property
    def precision(self):
        """M, the precision of the posterior."""
        scaled = self.weight / self.variance[:, None]
        return torch.eye(self.latents, dtype=torch.float64) + self.weight.T @ scaled

    @property
    def covariance(self):
        """M^-1, the covariance of the posterior, the same for every datum."""
        return torch.linalg.inv(self.precision)

    @property
    def gain(self):
        """A = M^-1 W' Psi^-1, with which the posterior mean is A (x - b)."""
        return self.covariance @ (self.weight / self.variance[:, None]).T

    def mean(self, x):
        """The posterior means, (N, D)."""
        return (x - self.bias) @ self.gain.T

    def log_marginal(self, x):
        """log p(x), (N,)."""
        root = torch.linalg.cholesky(self.marginal_covariance)
        white = torch.linalg.solve_triangular(root, (x - self.bias).T, upper=False)
        log_det = 2 * root.diagonal().log().sum()
        return -0.5 * (white.square().sum(0) + log_det + len(self.bias) * LOG_2PI)

    def expected_log_likelihood(self, x, mean, covariance):
        """E_q log p(x|z) for q = N(mean, covariance), (N,)."""
        residual = x - self.bias - mean @ self.weight.T
        spread = (self.weight @ covariance @ self.weight.T).diagonal() / self.variance
        constant = (LOG_2PI + self.variance.log()).sum()
        return -0.5 * ((residual.square() / self.variance).sum(-1) + spread.sum() + constant)

    def kl_to_prior(self, mean, covariance):
        """KL(q || p) for q = N(mean, covariance), (N,)."""
        log_det = torch.linalg.slogdet(covariance).logabsdet
        return 0.5 * (covariance.trace() + mean.square().sum(-1) - self.latents - log_det)

    def elbo(self, x, mean, covariance):
        """The evidence lower bound of q = N(mean, covariance), (N,)."""
        return self.expected_log_likelihood(x, mean, covariance) - self.kl_to_prior(
            mean, covariance
        )

    def kl_to_posterior(self, x, mean, covariance):
        """KL(q || p(z|x)) for q = N(mean, covariance), (N,)."""
        away = mean - self.mean(x)
        quadratic = torch.einsum("nd,de,ne->n", away, self.precision, away)
        log_dets = sum(torch.linalg.slogdet(a).logabsdet for a in (covariance, self.precision))
        trace = (self.precision @ covariance).trace()
        return 0.5 * (trace + quadratic - self.latents - log_dets)

    def of_pixels(self, seen):
        """The model of some pixels alone: those where `seen`, (P,), is True."""
        return LinearGaussian(self.weight[seen], self.bias[seen], self.variance[seen])

    def observed_log_marginal(self, x, mask):
        """log p(x_obs), (N,), of the entries where `mask`, (N, P), is True."""
        pairs = zip(x, mask, strict=True)
        return torch.cat([self.of_pixels(m).log_marginal(row[None, m]) for row, m in pairs])

    def observed_posterior(self, x, mask):
        """Mean (N, D) and covariance (N, D, D) of p(z | x_obs)."""
        parts = [(self.of_pixels(m), row[None, m]) for row, m in zip(x, mask, strict=True)]
        means = torch.cat([part.mean(row) for part, row in parts])
        return means, torch.stack([part.covariance for part, _ in parts])

    def completed(self, x, mask):
        """E[x | x_obs] and the sd of each entry given them, (N, P), by conditioning C."""
        c, found = self.marginal_covariance, x.clone()
        sd = torch.zeros_like(x)
        for n, m in enumerate(mask):
            gain = torch.linalg.solve(c[m][:, m], c[m][:, ~m]).T
            found[n, ~m] = self.bias[~m] + gain @ (x[n, m] - self.bias[m])
            sd[n, ~m] = (c[~m][:, ~m] - gain @ c[m][:, ~m]).diagonal().sqrt()
        return found, sd

    def sample(self, count):
        """`count` data, (N, P)."""
        z = torch.randn(count, self.latents, dtype=torch.float64)
        noise = torch.randn(count, len(self.bias), dtype=torch.float64)
        return z @ self.weight.T + self.bias + self.variance.sqrt() * noise


def example(pixels=5, latents=2, *, seed=7, isotropic=False):
    """A model with correlated posteriors; it draws from its own generator."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    variance = 0.6 * torch.ones(pixels, dtype=torch.float64)
    if not isotropic:
        variance = variance * torch.exp(0.5 * randn(pixels))
    return LinearGaussian(randn(pixels, latents), randn(pixels), variance)


def ppca(x, latents):
    """The maximum-likelihood model with isotropic noise (Tipping and Bishop, 1999)."""
    bias = x.mean(0)
    values, vectors = torch.linalg.eigh((x - bias).T @ (x - bias) / len(x))
    values, vectors = values.flip(0), vectors.flip(1)
    noise = values[latents:].mean()
    weight = vectors[:, :latents] * (values[:latents] - noise).sqrt()
    return LinearGaussian(weight, bias, noise.expand(len(bias)).clone())


def factor_analysis(x, latents, steps=3000):
    """The maximum-likelihood model with a variance for each pixel, by EM from PPCA."""
    model = ppca(x, latents)
    centred = x - model.bias
    total = centred.T @ centred / len(x)
    for _ in range(steps):
        cross = total @ model.gain.T
        second = model.covariance + model.gain @ cross
        weight = cross @ torch.linalg.inv(second)
        model = LinearGaussian(weight, model.bias, (total - weight @ cross.T).diagonal())
    return model
