"""What is known of its KLs: two closed forms, and its density for the quadrature of the others."""

import math

import torch
import torch.distributions as td
from torch import Tensor

from pyro_vae import kl
from pyro_vae.kl.charts import Exp
from pyro_vae.kl.lines import Frame, Line, line
from shelf_extension.distribution import Rayleigh

EULER = 0.5772156649015329


@kl.register(Rayleigh, Rayleigh)
def rayleigh(q, p):
    """With r = (scale_q / scale_p)^2: r - 1 - log r."""
    log_r = 2 * (q.scale.double().log() - p.scale.double().log())
    return torch.expm1(log_r) - log_r


@kl.register(Rayleigh, td.Gamma)
def rayleigh_gamma(q, p):
    """By E x = scale sqrt(pi / 2) and E log x = log scale + (log 2 - Euler's constant) / 2."""
    scale, a, rate = q.scale.double(), p.concentration, p.rate
    mean, log = scale * math.sqrt(math.pi / 2), scale.log() + (math.log(2) - EULER) / 2
    entropy = 1 + scale.log() - math.log(2) / 2 + EULER / 2
    return torch.lgamma(a) - a * rate.log() - (a - 1) * log + rate * mean - entropy


@line(Rayleigh)
class RayleighLine(Line):
    """Density 2 v exp(-v), v = exp(2 (y - log scale)) / 2, in y = log x."""

    scale: Tensor
    chart = (Exp(),)

    def log_density(self, y):
        u = 2 * (y - self.scale.log())
        return u - u.exp() / 2

    def frame(self):
        return Frame(self.scale.log(), torch.full_like(self.scale, 0.5))
