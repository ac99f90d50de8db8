"""What somebody who imports the package finds where they look, printed as JSON."""

import contextlib
import io
import json

import shelf_extension
import torch

from pyro_vae import cli, compare_pairings, kl
from pyro_vae import families as fam
from pyro_vae.families.pairing import check_pair, side
from pyro_vae.kl.audit import pairs, wrong
from pyro_vae.pairings import kinds


def refusal():
    try:
        check_pair("z", side(fam.Normal(3)), side(shelf_extension.Rayleigh(3)))
    except ValueError as error:
        return str(error)
    return ""


def listed():
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert cli.main(["catalogue"]) == cli.DONE
    return shown.getvalue()


def routed():
    q = shelf_extension.Rayleigh(3)()
    priors = {name: fam.registry[name].example(3)() for name in ("rayleigh", "gamma", "normal")}
    return {name: [*kl.route(q, p)][::4] for name, p in priors.items()}


def torchs():
    q, p = (shelf_extension.Rayleigh(3, scale=scale)() for scale in (2.0, 1.0))
    return torch.distributions.kl_divergence(q, p).item()


def compared():
    torch.manual_seed(0)
    table = compare_pairings(
        ["rayleigh", "gamma"],
        ["rayleigh", "gamma", "beta"],
        torch.bernoulli(torch.full((60, 8), 0.4)),
        latent=2,
        hidden=8,
        epochs=1,
        num_particles=20,
        progress=False,
    )
    gaps = abs(table.kl_analytic - table.kl_sampled) / table.kl_sampled_std_error
    names = ("admissible", "failure", "kl_route", "kl_source", "mean_field_route")
    return {
        "gap": gaps.sel(guide="rayleigh", prior=["rayleigh", "gamma"]).max().item(),
        **{name: table[name].values.tolist() for name in names},
    }


def audited():
    mine = kl.audit(pairs=[p for p in pairs() if "Rayleigh" in p.name], progress=False)
    return {
        "wrong": wrong(mine),
        "verdicts": mine.verdict.values[:, 0].tolist(),
        "sources": dict(zip(mine.pair.values.tolist(), mine.source.values.tolist(), strict=True)),
    }


if __name__ == "__main__":
    near = ["rayleigh", "gamma", "beta", "normal"]
    grid = kinds([*near, "transported"], near).kind
    found = {
        "catalogue": listed(),
        "refusal": refusal(),
        "routes": routed(),
        "torch": torchs(),
        "compared": compared(),
        "priors": grid.sel(guide="rayleigh").to_series().to_dict(),
        "guides": grid.sel(prior="rayleigh").to_series().to_dict(),
        "audit": audited(),
    }
    print(json.dumps(found))  # noqa: T201
