"""The command `diagnose`: what can be known of a saved model, as table, NetCDF file and page."""

from __future__ import annotations

__all__ = ["add"]

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae import plots, report, saved
from pyro_vae.cli.common import (
    DONE,
    SPLITS,
    STOPPED,
    check_threads,
    check_writable,
    data_of,
    say,
    threads,
    usage_errors,
)
from pyro_vae.diagnostics import DIAGNOSTICS, diagnose
from pyro_vae.pairings import store
from pyro_vae.registry import nearest
from pyro_vae.vae import VAE


def add(commands: Any) -> None:
    """Add the command to those of a parser."""
    parser = commands.add_parser(
        "diagnose",
        help="diagnose a saved model: table, verdict, pictures",
        description="Diagnose a model that train saved, on held-out data: print table and "
        "verdict, and write diagnosis.nc and diagnosis.html, a page with a picture of every "
        "diagnostic.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=_diagnose)
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="the folder of a saved model")
    add("--data", help="a data set's name, or a file (default: that of training)")
    add("--root", help="the folder of a data set that needs one")
    add("--split", choices=SPLITS, default="test", help="which rows (default: test)")
    add("--num-samples", type=int, default=1000, help="draws by datum (default: 1000)")
    text = "diagnostics to run, with commas or spaces between (default: all but expensive ones)"
    add("--steps", nargs="+", metavar="NAME", help=text)
    add(
        "--no-gate", action="store_true", help="run also what an earlier finding makes meaningless"
    )
    add("--seed", type=int, default=0, help="of all draws (default: 0)")
    add("--threads", type=int, default=1, help="of torch (default: 1)")
    add("--out", metavar="DIR", help="the folder to write to (default: that of the model)")
    add("--quiet", action="store_true", help="no progress bars and no table, errors only")


def _diagnose(args: argparse.Namespace) -> int:
    try:
        with usage_errors():
            plots.require_matplotlib()
            check_threads(args.threads)
            steps = _steps(args.steps)
            vae, recipe = saved.load(args.model)
            out = Path(args.out or args.model).expanduser()
            x = _rows(args, vae, recipe)
            check_writable(out)
        with threads(args.threads):
            found = diagnose(
                vae.model,
                vae.guide,
                x,
                num_samples=args.num_samples,
                seed=args.seed,
                steps=steps,
                gate=not args.no_gate,
                show=not args.quiet,
                progress=not args.quiet,
            )
            images = _images(vae, x, recipe, args)
        page = report.diagnosis_page(found, images, _about(recipe, args, len(x)))
        with usage_errors((OSError,)):
            store.write(found, out / "diagnosis.nc")
            (out / "diagnosis.html").write_text(page, encoding="utf-8")
    except KeyboardInterrupt:
        say("pyro-vae: stopped; nothing was written.")
        return STOPPED
    if not args.quiet:
        print(f"\nWritten: {out / 'diagnosis.nc'}, {out / 'diagnosis.html'}")  # noqa: T201
    return DONE


def _steps(given: list[str] | None) -> list[str] | None:
    if given is None:
        return None
    names = [name for text in given for name in text.replace(",", " ").split()]
    for name in names:
        if name not in DIAGNOSTICS:
            raise ValueError(f"no diagnostic is named {name!r}. {nearest(name, DIAGNOSTICS)}")
    return names


def _rows(args: argparse.Namespace, vae: VAE, recipe: saved.Recipe) -> Tensor:
    """Data that the model takes, in its dtype."""
    if args.num_samples < 1:
        raise ValueError(f"num-samples must be at least 1, not {args.num_samples}.")
    name = args.data or recipe.data
    x = data_of(name, args.root, recipe.likelihood).splits[args.split]
    if tuple(x.shape[1:]) != recipe.event_shape:
        raise ValueError(
            f"the data of {name} have shape {tuple(x.shape[1:])}, but the model in {args.model} "
            f"was trained on data of shape {recipe.event_shape}; name others by --data."
        )
    dtype = next((p.dtype for p in vae.parameters()), x.dtype)
    x = x.to(dtype)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        vae.model(x)  # data outside the support of the likelihood are refused here
    return x


def _about(recipe: saved.Recipe, args: argparse.Namespace, count: int) -> dict[str, str]:
    return {
        "guide": recipe.guide,
        "prior": recipe.prior,
        "likelihood": recipe.likelihood,
        "latents": str(recipe.latent),
        "data": f"{count} of {args.data or recipe.data} ({args.split})",
    }


# ---------------------------------------------------------------------------------------- images
def _images(
    vae: VAE, x: Tensor, recipe: saved.Recipe, args: argparse.Namespace
) -> dict[str, bytes]:
    """Pictures of images, where data are some."""
    if not recipe.image_shape:
        return {}
    draw: dict[str, Callable[..., Any]] = {
        "Samples": plots.samples,
        "Reconstructions": plots.reconstructions,
        "Traversals of latents": plots.traversals,
        "Manifold of latents": plots.manifold,
    }
    made: dict[str, bytes] = {}
    for title, picture in tqdm(
        draw.items(), desc="images", delay=2, disable=args.quiet, leave=False
    ):
        try:
            figure = picture(vae.model, vae.guide, x, recipe.image_shape, seed=args.seed)
        except plots.NoSuchPicture:
            continue
        made[title] = plots.png(figure)
    return made
