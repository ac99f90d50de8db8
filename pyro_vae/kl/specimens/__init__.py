"""A few members of every known family of distributions: what the audit tries forms on.

Each specimen has four settings of its parameters, in one batch. As a guide it is used as it
stands; as a prior its settings are shifted by one, so that two of one family differ. Some KLs
are then infinite (supports that stick out, tails too heavy), on purpose. All numbers are exact
in single precision, so that both precisions are asked for one and the same value.

Specimens of one `group` meet each other alone; the group "" is that of all common families.
"""

from pyro_vae.kl.specimens import lines as lines  # isort: skip
from pyro_vae.kl.specimens import masses as masses  # isort: skip
from pyro_vae.kl.specimens import vectors as vectors  # isort: skip
from pyro_vae.kl.specimens import apart as apart  # isort: skip
from pyro_vae.kl.specimens import circles as circles  # isort: skip
from pyro_vae.kl.specimens import projected as projected  # isort: skip
from pyro_vae.kl.specimens import relaxed as relaxed  # isort: skip
from pyro_vae.kl.specimens import interval as interval  # isort: skip
from pyro_vae.kl.specimens import simplex as simplex  # isort: skip
from pyro_vae.kl.specimens import spheres as spheres  # isort: skip
from pyro_vae.kl.specimens import wide as wide  # isort: skip
from pyro_vae.kl.specimens.shelf import SETTINGS, Specimen, add, build, specimens

__all__ = ["SETTINGS", "Specimen", "add", "build", "specimens"]
