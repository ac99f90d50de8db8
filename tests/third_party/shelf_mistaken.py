"""A package whose author has erred: a density with a mass of 2, and a form with a wrong sign."""

from shelf_extension import RayleighDistribution

from pyro_vae import families as fam
from pyro_vae import kl
from pyro_vae.families import Parameter
from pyro_vae.kl.specimens import Specimen, add


class Mistaken(RayleighDistribution):
    """A Rayleigh with a mass of 2."""

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(Mistaken, _instance))

    def log_prob(self, value):
        return super().log_prob(value) + 0.6931


class Twin(RayleighDistribution):
    """A Rayleigh, for the form alone."""


@fam.register("mistaken")
class MistakenFamily(fam.Family):
    """Independent Rayleighs, each with a mass of 2.

    Example:
        >>> bool((MistakenFamily(3)().sample() > 0).all())
        True
    """

    spec = {"scale": Parameter(RayleighDistribution.arg_constraints["scale"], 1.0)}

    def distribution(self, scale):
        return Mistaken(scale).to_event(len(self.features))


@kl.register(Twin, RayleighDistribution)
def mistaken(q, p):
    """With r = (scale_q / scale_p)^2: r - 1 + log r."""
    log_r = 2 * (q.scale.double().log() - p.scale.double().log())
    return log_r.expm1() + log_r


def make(scale):
    return Twin(scale, validate_args=False)


add(Specimen("twin", "positive half-line", make, {"scale": [0.5, 1.25, 2.0, 0.75]}))
