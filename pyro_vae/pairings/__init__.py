"""Every guide against every prior: train each admissible pair and compare its KL and ELBOs."""

from pyro_vae.pairings import catalogue
from pyro_vae.pairings.catalogue import kinds
from pyro_vae.pairings.grid import Pairings, compare_pairings
from pyro_vae.pairings.members import GUIDES, PRIORS, OfEncoder, absent, members, shelf
from pyro_vae.pairings.settings import Settings
from pyro_vae.pairings.store import CellWarning

__all__ = [
    "GUIDES",
    "PRIORS",
    "CellWarning",
    "OfEncoder",
    "Pairings",
    "Settings",
    "absent",
    "catalogue",
    "compare_pairings",
    "kinds",
    "members",
    "shelf",
]
