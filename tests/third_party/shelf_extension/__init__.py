"""A package of somebody else's: the Rayleigh family, on the shelf once this is imported."""

from shelf_extension import forms as forms
from shelf_extension import specimens as specimens
from shelf_extension.distribution import Rayleigh as RayleighDistribution
from shelf_extension.family import Rayleigh

__all__ = ["Rayleigh", "RayleighDistribution"]
