"""Distributions as a program gave them, before a plate of particles expanded them.

Where a guide looks at the data alone, q(z|x) is the same for every particle, and so is its KL.
Pyro's plate of vectorised particles expands it; a note taken inside that plate keeps it small.
"""

from __future__ import annotations

__all__ = ["KEY", "remembering", "unexpanded"]

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger

KEY = "pyro_vae_unexpanded"
"""Under which a site remembers."""


class _Remember(Messenger):
    def _pyro_sample(self, msg: Any) -> None:
        # not in msg["infer"]: a replay puts the guide's in the place of the model's
        msg[KEY] = msg["fn"]


def remembering(program: Callable[..., Any]) -> Callable[..., Any]:
    """Return a program whose sites remember their distributions as they are here.

    Arguments:
        program: A Pyro model or guide.

    Returns:
        A callable of the same arguments, to be put into a plate of particles.
    """
    return _Remember()(program)


def unexpanded(site: Any) -> Any:
    """Return the distribution of a site before particles expanded it.

    Arguments:
        site: A site as Pyro's traces hold it.

    Returns:
        Its distribution, with a batch shape that broadcasts to the site's.

    Example:
        >>> import pyro.distributions as dist
        >>> unexpanded({"fn": dist.Normal(0.0, 1.0)})
        Normal(loc: 0.0, scale: 1.0)
    """
    return site.get(KEY, site["fn"])
