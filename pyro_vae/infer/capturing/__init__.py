"""Capture: one step of any Pyro ELBO as a fixed list of tensor operations."""

from pyro_vae.infer.capturing.captured import CapturedELBO, GraphInfo, capture
from pyro_vae.infer.capturing.noise import Source
from pyro_vae.infer.capturing.tracing import NotCapturable

__all__ = ["CapturedELBO", "GraphInfo", "NotCapturable", "Source", "capture"]
