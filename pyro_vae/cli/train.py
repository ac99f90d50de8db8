"""The command `train`: one VAE, named by its guide and prior, trained and saved."""

from __future__ import annotations

__all__ = ["add"]

import argparse
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from pyro_vae import saved
from pyro_vae.cli.common import (
    DONE,
    STOPPED,
    Rows,
    check_threads,
    check_writable,
    data_of,
    say,
    threads,
    usage_errors,
)
from pyro_vae.infer import NotCapturable
from pyro_vae.pairings import Settings, store
from pyro_vae.pairings.grid import likelihood_options
from pyro_vae.pairings.settings import seeded
from pyro_vae.training import fit
from pyro_vae.vae import VAE


def add(commands: Any) -> None:
    """Add the command to those of a parser."""
    parser = commands.add_parser(
        "train",
        help="train one VAE and save it, for diagnose",
        description="Train a VAE with a guide, a prior and a likelihood named, and save it to a "
        "folder: model.json, weights.pt, history.nc.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=_train)
    default, add = Settings(), parser.add_argument
    add("--guide", default="normal", help="a registered guide (default: normal)")
    text = "a registered prior, or learnable_<prior> (default: normal)"
    add("--prior", default="normal", help=text)
    add("--data", default="digits", help="a data set's name, or a file (default: digits)")
    add("--root", help="the folder of a data set that needs one")
    add("--likelihood", help="a family; by default the data set's own, bernoulli for a file")
    add("--latent", "--latents", type=int, default=default.latent, help="features of z")
    add("--hidden", type=int, default=default.hidden, help="width of the hidden layers")
    text = "classes of one-hot families, parts of those on the simplex"
    add("--categories", type=int, default=default.categories, help=text)
    text = "of a mixture, and pseudo-inputs of a VampPrior, at most as many as training data"
    add("--components", type=int, default=default.components, help=text)
    add("--epochs", type=int, default=50, help="passes over the training data (default: 50)")
    add("--batch-size", type=int, default=default.batch_size, help="data in a step")
    add("--learning-rate", type=float, default=default.learning_rate, help="of Adam")
    text = "stop after so many epochs without a better held-out ELBO, and go back to the best"
    add("--patience", type=int, help=text)
    add("--seed", type=int, default=0, help="of weights, batches and draws (default: 0)")
    add("--threads", type=int, default=1, help="of torch (default: 1)")
    add("--out", default="model", help="the folder to write to (default: model)")
    add("--quiet", action="store_true", help="no progress bar, errors only")


def _train(args: argparse.Namespace) -> int:
    out = Path(args.out).expanduser()
    try:
        with usage_errors():
            check_threads(args.threads)
            rows, recipe = _prepared(args)
            with seeded(args.seed, "cpu"):
                saved.build(recipe)  # what does not go together is said before anything is made
            check_writable(out)
        # an infinite KL, or steps that are too large, are the user's to mend
        with usage_errors((ValueError, FloatingPointError)), threads(args.threads):
            vae, history = _fitted(args, rows, recipe)
        with usage_errors((OSError,)):
            saved.save(out, vae, recipe)
            store.write(history, out / "history.nc")
    except KeyboardInterrupt:
        say("pyro-vae: stopped; nothing was saved.")
        return STOPPED
    if not args.quiet:
        best = history.isel(epoch=history.attrs["best_epoch"])
        print(  # noqa: T201
            f"ELBO of a held-out datum: {float(best.validation_elbo):.3f} +- "
            f"{float(best.validation_elbo_std_error):.3f} nats after "
            f"{history.attrs['best_epoch'] + 1} epochs, {float(history.seconds[-1]):.1f} s.\n"
            f"Saved: {out}. Next: python -m pyro_vae diagnose --model {out}"
        )
    return DONE


def _prepared(args: argparse.Namespace) -> tuple[Rows, saved.Recipe]:
    Settings(
        latent=args.latent,
        categories=args.categories,
        components=args.components,
        hidden=args.hidden,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    rows = data_of(args.data, args.root, args.likelihood)
    train, held_out = rows.splits["train"], rows.splits["validation"]
    recipe = saved.Recipe(
        guide=args.guide,
        prior=args.prior,
        likelihood=rows.likelihood,
        event_shape=tuple(train.shape[1:]),
        latent=args.latent,
        hidden=args.hidden,
        categories=args.categories,
        components=min(args.components, len(train)),
        likelihood_options=likelihood_options(rows.likelihood, train, held_out),
        image_shape=rows.image_shape,
        data=args.data,
    )
    return rows, recipe


def _fitted(args: argparse.Namespace, rows: Rows, recipe: saved.Recipe) -> tuple[VAE, xr.Dataset]:
    def fitted(capture: bool) -> tuple[VAE, xr.Dataset]:
        with seeded(args.seed, "cpu"):
            vae = saved.build(recipe, rows.splits["train"])
        history = fit(
            vae,
            rows.splits["train"],
            validation=rows.splits["validation"],
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=args.learning_rate),
            epochs=args.epochs,
            batch_size=args.batch_size,
            patience=args.patience,
            seed=args.seed,
            capture=capture,
            compile=False,
            progress=not args.quiet,
        )
        return vae, history

    try:
        return fitted(capture=True)
    except NotCapturable as reason:
        if not args.quiet:
            say(f"pyro-vae: trained step by step, for the step cannot be captured: {reason}")
        return fitted(capture=False)
