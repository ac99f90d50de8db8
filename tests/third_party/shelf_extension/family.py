"""The family: a few lines, and it stands among the others."""

from pyro_vae import families as fam
from pyro_vae.families import Parameter
from shelf_extension import distribution


@fam.register
class Rayleigh(fam.Family):
    """Independent Rayleighs: log p(z) = sum_i log z_i - 2 log scale_i - (z_i / scale_i)^2 / 2.

    Example:
        >>> bool((Rayleigh(3)().sample() > 0).all())
        True
    """

    spec = {"scale": Parameter(distribution.constraints.softplus_positive, 1.0)}

    def distribution(self, scale):
        """Return Rayleigh(scale), independent over features."""
        return distribution.Rayleigh(scale).to_event(len(self.features))
