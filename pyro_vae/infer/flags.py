"""Flags that have to hold, read together: each reading makes the host wait for the device."""

from __future__ import annotations

__all__ = ["Flags"]

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.infer.terms import Check


class Flags:
    """Reads the flags of calls, all at once, in every call or in every n-th.

    Arguments:
        every: How many calls of `note` share one reading.

    Raises:
        ValueError: If `every` is not a whole number of at least 1.

    Example:
        >>> flags = Flags(2)
        >>> broken = Check(torch.tensor(False), lambda: ValueError("site 'z' is infinite"))
        >>> flags.note([broken])
        >>> flags.note([broken])
        Traceback (most recent call last):
        ...
        ValueError: site 'z' is infinite
    """

    def __init__(self, every: int = 1) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"check_every must be a whole number of at least 1, not {every!r}.")
        self.every = every
        self._noted = 0
        self._pending: Tensor | None = None
        self._sites: list[str] = []

    def note(self, checks: Sequence[Check]) -> None:
        """Take the flags of one call; read those of all calls since, if it is time.

        Arguments:
            checks: What has to hold.

        Raises:
            Exception: That of the first check whose flag is False, in this call or since the
                last reading.
        """
        flags = self._with_pending(checks)
        self._noted += 1
        if self._noted < self.every:
            self._pending = flags
            return
        self._noted = 0
        if flags is not None:
            _raise_first(flags.tolist(), checks)

    def settle(self, loss: Tensor, checks: Sequence[Check]) -> float:
        """Read a loss together with the flags of its call, and with those that wait.

        Arguments:
            loss: A 0-dim tensor.
            checks: What has to hold.

        Returns:
            The loss.

        Raises:
            Exception: That of the first check whose flag is False.
        """
        flags = self._with_pending(checks)
        self._noted = 0
        if flags is None:
            return loss.item()
        value, *holds = torch.cat([loss.reshape(1), flags.to(loss)]).tolist()
        _raise_first(holds, checks)
        return value

    def _with_pending(self, checks: Sequence[Check]) -> Tensor | None:
        """The flags of this call, each False if it was in a call that has not been read."""
        flags, pending = _stacked(checks), self._pending
        before, self._sites = self._sites, [check.site for check in checks]
        self._pending = None
        if pending is None:
            return flags
        if flags is not None and self._sites == before:
            return flags & pending
        # of programs with other sites, which are not at hand any more
        for site, held in zip(before, pending.tolist(), strict=True):
            if not held:
                raise ValueError(
                    f"site {site!r}: its KL or a density was not finite in an earlier call, of "
                    "other programs than those of this one. Take check_every=1 to be told why."
                )
        return flags


def _stacked(checks: Sequence[Check]) -> Tensor | None:
    return torch.stack([check.flag for check in checks]) if checks else None


def _raise_first(holds: Sequence[float | bool], checks: Sequence[Check]) -> None:
    for check, held in zip(checks, holds, strict=True):
        if not held:
            raise check.error()
