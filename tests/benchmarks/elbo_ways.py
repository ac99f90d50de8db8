"""The ways to take a training step that are timed side by side: Pyro's, by hand, Pythae's, ours.

A way is built from a program and its batch, and returns a function that takes one whole step
(gradients to none, loss, backward, Adam's update) and gives the loss in nats, summed over the
batch. All have the same weights, batch, objective and Adam.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from pyro.infer import SVI
from pyro.optim import Adam
from torch import Tensor, nn

from pyro_vae.infer import capture
from tests.benchmarks.elbo_nets import Net, NormalVAE

LEARNING_RATE = 1e-3
Step = Callable[[], Any]  # a 0-dim tensor, or a number


class Unavailable(Exception):
    """This way has no such step, and that is no failure; says why."""


class Built(NamedTuple):
    """A step, and the parameters that it trains."""

    step: Step
    parameters: list[Tensor]


class Way(NamedTuple):
    """How to build a step, and whether Pyro and torch validate while it runs.

    Pyro validates unless told otherwise, so that this is what `SVI` costs as it comes.
    """

    build: Callable[[Net], Built]
    validated: bool = False


def adam(parameters) -> torch.optim.Optimizer:
    """The optimizer of all ways but `SVI`, whose `pyro.optim.Adam` keeps one for each tensor."""
    return torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)


def stepping(loss: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> Built:
    """The usual loop of torch."""
    optimizer = adam(parameters)

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = loss(x)
        value.backward()
        optimizer.step()
        return value.detach()

    return Built(step, parameters)


def elbo_of(program: NormalVAE, name: str):
    if name not in (elbos := program.elbos()):
        raise Unavailable("no such bound")
    return elbos[name]


# ------------------------------------------------------------------------ Pyro's


def svi(name: str) -> Callable[[Net], Built]:
    def build(net):
        program, x = net.program(), net.data()
        optimizer = Adam({"lr": LEARNING_RATE})
        inference = SVI(program.model, program.guide, optimizer, elbo_of(program, name))
        return Built(lambda: inference.step(x), list(program.parameters()))

    return build


def elbo_module(name: str) -> Callable[[Net], Built]:
    def build(net):
        program, x = net.program(), net.data()
        elbo = elbo_of(program, name)(program.model, program.guide)
        return stepping(elbo, x, list(program.parameters()))

    return build


# ------------------------------------------------------------------------ by hand


def by_hand(compiled: bool) -> Callable[[Net], Built]:
    def build(net):
        program, x = net.program(), net.data()
        loss = torch.compile(program.loss, dynamic=False) if compiled else program.loss
        return stepping(loss, x, list(program.parameters()))

    return build


# ------------------------------------------------------------------------ Pythae's


def pythae(net: Net) -> Built:
    """What Pythae's trainer does with a batch, with the same networks inside."""
    if net.pythae is None:
        raise Unavailable("no such model")
    if find_spec("pythae") is None:
        raise Unavailable("not installed")
    from pythae import models
    from pythae.data.datasets import DatasetOutput

    program, x = net.program(), net.data()
    options = {"input_dim": (program.pixels,), "latent_dim": program.latents}
    if net.pythae == "VAMP":
        options["number_components"] = len(program.pseudo.inputs)
    config = getattr(models, f"{net.pythae}Config")(reconstruction_loss="bce", **options)
    vae = getattr(models, net.pythae)(config, *pythae_networks(program)).train()
    if net.pythae == "VAMP":
        with torch.no_grad():
            vae.pseudo_inputs[0].weight.copy_(program.pseudo.inputs.T)
            vae.pseudo_inputs[0].bias.zero_()
    parameters = list(vae.parameters())
    optimizer, inputs = adam(parameters), DatasetOutput(data=x)

    def step():
        loss = vae(inputs, epoch=1, dataset_size=len(x), uses_ddp=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach() * len(x)

    return Built(step, parameters)


def pythae_networks(program: NormalVAE):
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self):
            BaseEncoder.__init__(self)
            self.net = program.encoder

        def forward(self, x):
            loc, log_var = program.encode(x)
            return ModelOutput(embedding=loc, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self):
            BaseDecoder.__init__(self)
            self.net: nn.Module = program.decoder

        def forward(self, z):
            return ModelOutput(reconstruction=self.net(z).sigmoid())

    return Encoder(), Decoder()


# ------------------------------------------------------------------------ ours


def captured(compiled: bool) -> Callable[[Net], Built]:
    def build(net):
        program, x = net.program(), net.data()
        parameters = list(program.parameters())
        step = capture(
            elbo_of(program, "ours"),
            program.model,
            program.guide,
            x,
            compile=compiled,
            optimizer=adam(parameters),
        ).step
        return Built(lambda: step(x), parameters)

    return build


# names of the ways that the summary compares
SVI_TRACE, SVI_MEAN_FIELD = "SVI(Trace_ELBO)", "SVI(TraceMeanField_ELBO)"
HAND, HAND_COMPILED = "torch by hand", "torch by hand, compiled"
UNCAPTURED, CAPTURED, COMPILED = "ours", "ours, captured", "ours, captured and compiled"

WAYS = {
    SVI_TRACE: Way(svi("Trace_ELBO"), validated=True),
    SVI_MEAN_FIELD: Way(svi("TraceMeanField_ELBO"), validated=True),
    f"{SVI_MEAN_FIELD}, no validation": Way(svi("TraceMeanField_ELBO")),
    "SVI(JitTrace_ELBO)": Way(svi("JitTrace_ELBO"), validated=True),
    "TraceMeanField_ELBO as a module": Way(elbo_module("TraceMeanField_ELBO")),
    HAND: Way(by_hand(compiled=False)),
    HAND_COMPILED: Way(by_hand(compiled=True)),
    "Pythae": Way(pythae),
    UNCAPTURED: Way(elbo_module("ours")),
    CAPTURED: Way(captured(compiled=False)),
    COMPILED: Way(captured(compiled=True)),
}
