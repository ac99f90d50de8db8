"""Capture: one step of any Pyro ELBO as a fixed list of tensor operations."""

from pyro_vae.infer.capture.captured import CapturedELBO, GraphInfo, capture
from pyro_vae.infer.capture.noise import Source
from pyro_vae.infer.capture.tracing import NotCapturable

__all__ = ["CapturedELBO", "GraphInfo", "NotCapturable", "Source", "capture"]
