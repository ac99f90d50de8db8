"""How much would be stored, before anything is drawn."""

from __future__ import annotations

__all__ = ["check_size"]

from collections.abc import Collection, Iterable

from pyro_vae.inference_data.variables import Variable

_STATISTICS = 5  # of a draw and datum, in float64


def check_size(
    sites: Iterable[Variable], data: int, draws: int, predictive: Collection[str], max_bytes: int
) -> None:
    """Raise if the stored arrays would take more than `max_bytes`.

    Arguments:
        sites: The sites of the model.
        data: How many data are stored.
        draws: How many draws of each.
        predictive: Which predictive groups are asked for.
        max_bytes: The limit.

    Raises:
        ValueError: With the largest group, and the numbers that would fit.
    """
    sites = list(sites)
    latent = [s for s in sites if not s.observed]
    observed = sum(s.numbers * s.bytes for s in sites if s.observed)
    unobserved = sum(s.numbers * s.bytes for s in latent)
    statistics = _STATISTICS + (2 * len(latent) if len(latent) > 1 else 0)
    each = {"posterior": unobserved, "prior": unobserved, "sample_stats": 8 * statistics}
    each |= dict.fromkeys(sorted(predictive), observed)
    once, drawn = observed + 8, sum(each.values())  # of one datum, and of one draw of it
    total = data * (once + draws * drawn)
    if total <= max_bytes:
        return
    largest = max(each, key=lambda group: each[group])
    fitting = {
        "store_draws": (max_bytes - data * once) // (data * drawn),
        "store_data": max_bytes // (once + draws * drawn),
    }
    advice = [f"{name}={number}" for name, number in fitting.items() if number > 0]
    if largest in predictive:
        advice.append(f"{largest}=False")
    advice.append("a larger max_bytes")
    raise ValueError(
        f"{data} data with {draws} draws each would take {_readable(total)} (most of it the "
        f"group {largest}: {_readable(draws * data * each[largest])}), more than "
        f"max_bytes={max_bytes} ({_readable(max_bytes)}). Take {', or '.join(advice)}. "
        "Statistics of all data (vi_stats) are kept in any case."
    )


def _readable(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
