"""Every guide against every prior: train each admissible pair and compare its KL and ELBOs."""

from pyro_vae.pairings.grid import Pairings, compare_pairings
from pyro_vae.pairings.members import GUIDES, PRIORS, count_admissible, members, shelf
from pyro_vae.pairings.settings import Settings
from pyro_vae.pairings.store import CellWarning

__all__ = [
    "GUIDES",
    "PRIORS",
    "CellWarning",
    "Pairings",
    "Settings",
    "compare_pairings",
    "count_admissible",
    "members",
    "shelf",
]
