"""Where a guide loses: its family, or the encoder that has to serve every datum."""

from __future__ import annotations

__all__ = ["gaps"]

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.diagnostics.free_family import STRUCTURAL, FreeFamily
from pyro_vae.diagnostics.particles import log_density
from pyro_vae.diagnostics.posterior import (
    Block,
    Posterior,
    Values,
    few_rows,
    mean_over_data,
    seed_of,
)
from pyro_vae.diagnostics.shelf import Finding, NotApplicable, register, step
from pyro_vae.diagnostics.weights import BLOCK_SIZE
from pyro_vae.pareto import psis

NOTABLE = 0.1
"""Nats from which on a gap is worth a word."""

_TRACE, _TRAIN, _EVALUATE = 11, 12, 13


def _judge(table: xr.Dataset) -> list[Finding]:
    attrs = table.attrs

    def told(name: str) -> str:
        return f"{attrs[f'{name}_mean']:.3f} +- {attrs[f'{name}_mean_std_error']:.3f}"

    amortisation, approximation = attrs["amortisation_gap_mean"], attrs["approximation_gap_mean"]
    numbers = (
        f"on {table.sizes['data']} data the encoder loses {told('amortisation_gap')} nats against "
        f"the best member of its family, and the family {told('approximation_gap')} against log "
        "p(x)"
    )
    findings = []
    if max(amortisation, approximation) < NOTABLE:
        findings.append(Finding("good", f"{numbers}."))
    elif amortisation >= approximation:
        advice = "a larger encoder, or longer training of it; a richer family gains less."
        findings.append(Finding("care", f"{numbers}.", advice))
    else:
        advice = "a richer family (fam.FullNormal, fam.NSF); a larger encoder gains less."
        findings.append(Finding("care", f"{numbers}.", advice))
    drift, error = attrs["refinement_drift_mean"], attrs["refinement_drift_mean_std_error"]
    if drift > max(0.1 * NOTABLE, 3 * error):
        text = (
            f"the refinement was still rising by {drift:.3f} nats in its last tenth, so the "
            "amortisation gap is larger than that."
        )
        findings.append(Finding("care", text, "gaps(..., refine_steps=1000)."))
    return findings


@register
@step(order=60, judge=_judge, shows=("amortisation_gap", "approximation_gap"), optional=True)
def gaps(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    max_data: int | None = 64,
    refine_steps: int = 300,
    num_particles: int = 16,
    lr: float = 0.1,
    held: tuple[str, ...] = tuple(sorted(STRUCTURAL)),
    reference: xr.Dataset | None = None,
    seed: int = 0,
    plate: str | None = None,
    batch_size: int | None = None,
    block_size: int = BLOCK_SIZE,
    progress: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    """Amortisation and approximation gap by datum: log p(x) - ELBO, split at the family's best.

        log p(x) - ELBO(q) = [ELBO(q*) - ELBO(q)] + [log p(x) - ELBO(q*)]
                           =  amortisation gap    +  approximation gap

    with q* the best member of the guide's family for this datum alone. The parameters of each
    site's distribution become numbers of their own for each datum, started at what the encoder
    gives and moved by Adam in the coordinates of `transform_to`, on the ELBO, with fresh draws in
    each step and gradients that vanish at the posterior (sticking the landing; a site that
    cannot be reparameterised by its score, with the other particles as baseline). So q* is a
    lower estimate: the amortisation gap is at least, the approximation gap at most what is shown,
    but for log p(x), which by default is the importance-weighted bound of q*, below log p(x) too.

    Both ELBOs are evaluated on the same random numbers, drawn afresh, none of which any step of
    the optimisation saw.

    Arguments:
        model: A Pyro model with a plate over data, called as `model(*args, **kwargs)`.
        guide: Its guide. Its sites may not depend on one another. A flow that looks at a context
            is refined at its context, and its networks are held.
        *args: Positional arguments of both, the data first.
        num_samples: S, the number of draws for each datum by which ELBOs are evaluated.
        max_data: How many data to take, by lot; None for all. (A guide that holds parameters
            for each datum needs all.)
        refine_steps: The number of steps of the optimiser.
        num_particles: The number of draws in each step, at least 2.
        lr: Its first learning rate, which falls to 0 along a cosine.
        held: The names of parameters that are not freed: degrees of freedom, temperatures,
            bounds, which say which family it is.
        reference: The result of `ais` on the same data, to take log p(x) from.
        seed: Of all draws.
        plate: The name of the data plate; by default it is found.
        batch_size: On how many (draw, datum) pairs the model is run at once.
        block_size: On how many data the guide is run at once; draws depend on it.
        progress: Whether to show a bar for what takes over 2 s.
        **kwargs: Keyword arguments of both.

    Returns:
        By datum, in nats, each with a `_std_error` from its draws: `amortised_elbo`,
        `refined_elbo`, `refined_log_px` (log p(x) as it was taken), `amortisation_gap`,
        `approximation_gap`; `refined_khat`, k-hat of q*, and `refinement_drift`, by how much the
        ELBO rose from the last but one tenth of the steps to the last. Attrs: means of both gaps
        and of the drift, with their standard errors over data; what was freed.

    Raises:
        diagnostics.NotApplicable: If a site's distribution cannot be freed, depends on another
            latent site, or is in another than the guide's own plates.
        ValueError: As `diagnostics.Stream` does; if `reference` is of other data.

    References:
        Inference suboptimality in variational autoencoders (C. Cremer, X. Li, D. Duvenaud, 2018);
        Sticking the landing (G. Roeder, Y. Wu, D. Duvenaud, 2017)

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2 + 0.5, 0.5**0.5))
        >>> found = gaps(model, guide, torch.linspace(-1, 1, 10), refine_steps=100)
        >>> abs(found.amortisation_gap_mean - 0.5**2 / (2 * 0.5)) < 0.05
        True
        >>> abs(found.approximation_gap_mean) < 0.01
        True
    """
    if num_particles < 2 or refine_steps < 1:
        raise ValueError(
            f"num_particles must be 2 at least and refine_steps 1, not {num_particles} and "
            f"{refine_steps}."
        )
    args, kwargs, rows = few_rows(args, kwargs, max_data, seed)
    posterior = Posterior(
        model,
        guide,
        *args,
        what="refining",
        num_samples=num_samples,
        seed=seed,
        plate=plate,
        batch_size=batch_size,
        block_size=block_size,
        progress=progress,
        **kwargs,
    )
    parts, freed = [], []
    for block, bar in posterior.blocks(refine_steps):
        with posterior.aside():
            sites = _sites(posterior, block, frozenset(held))
            freed = [f"{n}: {', '.join(s.family.start)}" for n, s in sites.items()]
            refined, drift = _refined(
                posterior, block, sites, refine_steps, num_particles, lr, bar
            )
            start = {n: s.family.start for n, s in sites.items()}
            before, after = (
                _log_weight(posterior, block, sites, numbers, num_samples)
                for numbers in (start, refined)
            )
            parts.append(_columns(before, after) | {"refinement_drift": drift})
    table = xr.Dataset(
        {n: ("data", torch.cat([p[n] for p in parts]).cpu().numpy()) for n in parts[0]},
        coords={"data": np.arange(posterior.size) if rows is None else rows},
    )
    if reference is not None:
        table = _against(table, reference)
    for name in ("amortisation_gap", "approximation_gap", "refinement_drift"):
        mean, error = mean_over_data(table[name].values)
        table = table.assign_attrs({f"{name}_mean": mean, f"{name}_mean_std_error": error})
    return table.assign_attrs(
        posterior.attrs,
        num_samples=num_samples,
        gaps_freed=freed,
        gaps_refine_steps=refine_steps,
        gaps_log_px="importance-weighted bound of the refined guide"
        if reference is None
        else "annealed importance sampling",
    )


class _Site(NamedTuple):
    family: FreeFamily
    mask: Any

    def log_q(self, fn: Any, value: Tensor) -> Tensor:
        """By draw and row of the site's batch."""
        found = log_density(fn, value)
        return (
            found if self.mask is None else torch.as_tensor(scale_and_mask(found, mask=self.mask))
        )


Numbers = dict[str, dict[str, Tensor]]


def _sites(posterior: Posterior, block: Block, held: frozenset[str]) -> dict[str, _Site]:
    """The families of the guide's sites, whose parameters may depend on the data alone."""
    data = block.batch.data
    found: list[dict[str, _Site]] = []
    for run in range(2):
        pyro.set_rng_seed(seed_of(posterior.seed, block.number, _TRACE, run))
        trace = poutine.trace(posterior.stream.guide).get_trace(*data.args, **data.kwargs)
        nodes: dict[str, Any] = dict(trace.nodes)
        try:
            found.append(
                {
                    n: _Site(FreeFamily.of(nodes[n]["fn"], n, held), nodes[n]["mask"])
                    for n in block.batch.sites
                }
            )
        except ValueError as error:
            raise NotApplicable(str(error)) from error
    for name, site in found[0].items():
        again = found[1][name].family.start
        if not all(torch.equal(u, again[n]) for n, u in site.family.start.items()):
            raise NotApplicable(
                f"the guide's distribution at site {name!r} differs between two runs on the same "
                "data, so it depends on another latent site, and its parameters are no numbers "
                "of a datum. The refinement needs sites that depend on the data alone."
            )
    return found[0]


def _refined(
    posterior: Posterior,
    block: Block,
    sites: dict[str, _Site],
    steps: int,
    particles: int,
    lr: float,
    bar: tqdm[Any],
) -> tuple[Numbers, Tensor]:
    """The numbers of the best members, and by how much the ELBO still rose."""
    leaves = {
        n: {p: u.clone().requires_grad_() for p, u in s.family.start.items()}
        for n, s in sites.items()
    }
    flat = [u for own in leaves.values() for u in own.values()]
    optimizer = _Adam(flat)
    tenth = max(1, steps // 10)
    late: list[Tensor] = []
    for i in range(steps):
        pyro.set_rng_seed(seed_of(posterior.seed, block.number, _TRAIN, i))
        with torch.enable_grad():
            objective, elbo = _objective(posterior, block, sites, leaves, particles)
            gradients = torch.autograd.grad(objective, flat, allow_unused=True)
        optimizer.ascend(gradients, lr * (1 + math.cos(math.pi * i / steps)) / 2)
        if i >= steps - 2 * tenth:
            late.append(elbo)
        bar.update()
    drift = torch.stack(late[-tenth:]).mean(0) - torch.stack(late[:tenth]).mean(0)
    return {n: {p: u.detach() for p, u in own.items()} for n, own in leaves.items()}, drift


class _Adam:
    """Adam, element by element, so that no datum's steps depend on another's.

    torch's own imports its compiler at the first step, which takes seconds.
    """

    def __init__(self, leaves: list[Tensor]) -> None:
        self.leaves, self.count = leaves, 0
        self.first = [torch.zeros_like(u) for u in leaves]
        self.second = [torch.zeros_like(u) for u in leaves]

    def ascend(self, gradients: Sequence[Tensor | None], lr: float) -> None:
        self.count += 1
        for u, gradient, m, v in zip(self.leaves, gradients, self.first, self.second, strict=True):
            if gradient is None:
                continue
            # a draw off the support of the prior tells no direction
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
            m.lerp_(gradient, 0.1)
            v.lerp_(gradient.square(), 0.001)
            mean = m / (1 - 0.9**self.count)
            size = (v / (1 - 0.999**self.count)).sqrt()
            u.add_(mean / (size + 1e-8), alpha=lr)


def _objective(
    posterior: Posterior, block: Block, sites: dict[str, _Site], leaves: Numbers, count: int
) -> tuple[Tensor, Tensor]:
    """What has the gradient of the summed ELBO, and the ELBO by datum."""
    batch = block.batch
    attached = {n: s.family.rebuild(leaves[n]) for n, s in sites.items()}
    still = {
        n: s.family.rebuild({p: u.detach() for p, u in leaves[n].items()})
        for n, s in sites.items()
    }
    pathwise = [n for n, q in attached.items() if q.has_rsample]
    z: Values = {
        n: q.rsample((count,)) if n in pathwise else q.sample((count,))
        for n, q in attached.items()
    }
    joint = posterior.log_joint(batch, {n: v.detach() for n, v in z.items()}, gradient=True)
    log_q = {n: posterior.to_data(batch, n, s.log_q(still[n], z[n])) for n, s in sites.items()}
    # the parameters of log q are held still: their gradient is zero on average
    total = -torch.stack([v.sum() for v in log_q.values()]).sum()
    for name in pathwise:
        total = total + (z[name] * joint.gradient[name]).sum()
    log_weight = (joint.value - torch.stack(list(log_q.values())).sum(0)).detach()
    others = (log_weight.sum(0) - log_weight) / (count - 1)
    for name in attached.keys() - set(pathwise):
        score = posterior.to_data(batch, name, sites[name].log_q(attached[name], z[name]))
        total = total + ((log_weight - others) * score).sum()
    return total / count, log_weight.mean(0)


def _log_weight(
    posterior: Posterior, block: Block, sites: dict[str, _Site], numbers: Numbers, count: int
) -> Tensor:
    """Log weights of draws from the families at some numbers, (S, B)."""
    pyro.set_rng_seed(seed_of(posterior.seed, block.number, _EVALUATE))
    built = {n: s.family.rebuild(numbers[n]) for n, s in sites.items()}
    z: Values = {n: q.sample((count,)) for n, q in built.items()}
    log_q = [posterior.to_data(block.batch, n, s.log_q(built[n], z[n])) for n, s in sites.items()]
    return posterior.log_joint(block.batch, z).value - torch.stack(log_q).sum(0)


def _columns(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    count = len(after)
    log_px = after.logsumexp(0) - math.log(count)
    relative = (after - log_px).exp()

    def error(values: Tensor) -> Tensor:
        return values.std(0) / math.sqrt(count)

    return {
        "amortised_elbo": before.mean(0),
        "amortised_elbo_std_error": error(before),
        "refined_elbo": after.mean(0),
        "refined_elbo_std_error": error(after),
        "refined_log_px": log_px,
        "refined_log_px_std_error": error(relative),
        "amortisation_gap": after.mean(0) - before.mean(0),
        "amortisation_gap_std_error": error(after - before),
        "approximation_gap": log_px - after.mean(0),
        # both are of the same draws
        "approximation_gap_std_error": error(relative - after),
        "refined_khat": psis(after).k,
    }


def _against(table: xr.Dataset, reference: xr.Dataset) -> xr.Dataset:
    """Take log p(x) from chains rather than from draws of the refined guide."""
    if not np.array_equal(reference.data.values, table.data.values):
        raise ValueError(
            f"reference= holds {reference.sizes['data']} data, other than the "
            f"{table.sizes['data']} here; call ais with the same data, max_data and seed."
        )
    log_px, error = reference.ais_log_px, reference.ais_log_px_std_error
    return table.assign(
        refined_log_px=log_px,
        refined_log_px_std_error=error,
        approximation_gap=log_px - table.refined_elbo,
        approximation_gap_std_error=np.hypot(error, table.refined_elbo_std_error),
    )
