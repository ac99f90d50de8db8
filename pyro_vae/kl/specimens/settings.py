"""Settings that several specimens share, and the names of their spaces."""

from __future__ import annotations

__all__ = ["CLASSES", "LOCS", "LOGITS", "ORDER", "POSITIVE", "REAL", "SCALES", "UNIT"]

REAL, POSITIVE, UNIT = "real line", "positive half-line", "unit interval"
LOCS, SCALES = [0.25, -1.25, 2.0, 0.5], [0.75, 1.5, 0.5, 1.0]
ORDER = [0, 1, 2, 3]
LOGITS = [-1.25, 0.5, 2.0, -0.25]
CLASSES = [[0.1, -0.4, 1.0], [0.0, 2.0, 0.3], [-1.0, 0.2, 0.5], [0.6, 0.6, -0.2]]
