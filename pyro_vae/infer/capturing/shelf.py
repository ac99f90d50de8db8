"""The graphs that are kept, and when there are too many of them."""

from __future__ import annotations

__all__ = ["Graphs", "Kept"]

import warnings
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from typing import NamedTuple

from pyro_vae.infer.capturing.replay import Replay
from pyro_vae.infer.capturing.watch import Watch


class Kept(NamedTuple):
    """A graph, and what it depends on."""

    replay: Replay
    watch: Watch


class Graphs:
    """Graphs by what they depend on; the one longest unused goes first.

    Arguments:
        most: How many are kept.

    Raises:
        ValueError: If that is not a whole number of at least 1.
    """

    def __init__(self, most: int) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise ValueError(f"max_graphs must be a whole number of at least 1, not {most!r}.")
        self.most, self.count = most, 0
        self._kept: OrderedDict[Hashable, list[Kept]] = OrderedDict()
        self._told: Mapping[str, str] = {}
        self._why = ""

    def __iter__(self) -> Iterator[Kept]:
        return (kept for graphs in self._kept.values() for kept in graphs)

    def find(self, key: Hashable) -> Kept | None:
        """Return the graph that serves now; forget those of this key that never will again.

        Arguments:
            key: What the graph depends on, but for modules and parameters.
        """
        self._why = ""
        for kept in list(self._kept.get(key, ())):
            stale = kept.watch.stale()
            if stale is not None:
                self._kept[key].remove(kept)
                self._why = stale
            elif kept.watch.fits():
                self._kept.move_to_end(key)
                return kept
        return None

    def add(self, key: Hashable, kept: Kept, told: Mapping[str, str]) -> None:
        """Keep a graph; warn when graphs are made again and again.

        Arguments:
            key: What it depends on.
            kept: The graph.
            told: The same as the key, by name, in words.
        """
        self._kept.setdefault(key, []).append(kept)
        self._kept.move_to_end(key)
        self.count += 1
        while sum(1 for _ in self) > self.most:
            oldest = next(iter(self._kept))
            self._kept[oldest].pop(0)
            if not self._kept[oldest]:
                del self._kept[oldest]
        excess = self.count - self.most
        if excess > 0 and excess & (excess - 1) == 0:  # 1, 2, 4, 8, ...
            self._warn(told)
        self._told = told

    def _warn(self, told: Mapping[str, str]) -> None:
        before = self._told
        changed = [
            f"{k} from {before.get(k)} to {v}" for k, v in told.items() if v != before.get(k)
        ]
        what = self._why or ", ".join(changed) or "the mode of a module or parameter"
        warnings.warn(
            f"this is graph number {self.count}, and {self.most} are kept: capturing costs more "
            f"than it gains. What changed last: {what}. Pass what changes as a tensor of one "
            "shape (drop the last smaller batch, say), or raise max_graphs.",
            stacklevel=6,
        )
