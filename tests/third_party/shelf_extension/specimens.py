"""Four members, for the audit."""

from pyro_vae.kl.specimens import Specimen, add
from shelf_extension.distribution import Rayleigh


def make(scale):
    return Rayleigh(scale, validate_args=False)


add(Specimen("Rayleigh", "positive half-line", make, {"scale": [0.5, 1.25, 2.0, 0.75]}))
