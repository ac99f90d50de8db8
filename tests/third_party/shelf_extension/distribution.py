"""The Rayleigh distribution: the length of a vector of two Normals."""

import torch
from pyro.distributions import TorchDistribution, constraints


class Rayleigh(TorchDistribution):
    """log p(x) = log x - 2 log scale - (x / scale)^2 / 2, x > 0."""

    arg_constraints = {"scale": constraints.positive}
    support = constraints.positive
    has_rsample = True

    def __init__(self, scale, validate_args=None):
        self.scale = torch.as_tensor(scale)
        super().__init__(self.scale.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(Rayleigh, _instance)
        new.scale = self.scale.expand(batch_shape)
        super(Rayleigh, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape=()):
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(2, *shape, dtype=self.scale.dtype, device=self.scale.device)
        return self.scale * noise.square().sum(0).sqrt()

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        z = value / self.scale
        return z.log() - self.scale.log() - z.square() / 2
