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
    latent, observed = 0, 0
    for site in sites:
        if site.observed:
            observed += site.numbers * site.bytes
        else:
            latent += site.numbers * site.bytes
    each = {"posterior": latent, "prior": latent, "sample_stats": 8 * _STATISTICS}
    each |= dict.fromkeys(sorted(predictive), observed)
    total = draws * data * sum(each.values()) + data * observed
    if total <= max_bytes:
        return
    largest = max(each, key=lambda group: each[group])
    share = max_bytes / total
    advice = [
        f"store_draws={max(1, int(draws * share))}",
        f"store_data={max(1, int(data * share))}",
    ]
    if largest in predictive:
        advice.append(f"{largest}=False")
    raise ValueError(
        f"{data} data with {draws} draws each would take {_readable(total)} (most of it the "
        f"group {largest}: {_readable(draws * data * each[largest])}), more than "
        f"max_bytes={max_bytes} ({_readable(max_bytes)}). Take {', or '.join(advice)}, or raise "
        "max_bytes. Statistics of all data (vi_stats) are kept in any case."
    )


def _readable(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
