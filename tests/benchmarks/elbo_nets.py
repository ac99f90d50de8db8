"""The VAEs whose training steps are timed: each as a Pyro program and as a loss written by hand.

The two are one function: the same networks, the same objective, and the same draws from torch's
generator in the same order, so that at one seed their losses agree. Data are binary, losses are in
nats and summed over the batch.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import JitTrace_ELBO, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import hardtanh

from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO

LOG_2PI = math.log(2 * math.pi)


def dense(*sizes: int) -> nn.Sequential:
    """Linear layers with a ReLU between each two."""
    layers = [nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False)]
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))[:-1]


class GatedDense(nn.Module):
    """h(x) * sigmoid(g(x)), as in "VAE with a VampPrior" (J. Tomczak, M. Welling, 2018)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.h, self.g = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, x):
        return self.h(x) * self.g(x).sigmoid()


class NormalVAE(nn.Module):
    """Normal guide, standard normal prior, with draws as an outermost dimension if K > 1."""

    def __init__(self, pixels: int, hidden: tuple[int, ...], latents: int, particles: int = 1):
        super().__init__()
        self.encoder = dense(pixels, *hidden, 2 * latents)
        self.decoder = dense(latents, *reversed(hidden), pixels)
        self.pixels, self.latents, self.particles = pixels, latents, particles
        # of the parameters in Pyro's store, which all variants share
        self.name = f"program{id(self)}"

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Location and log-variance of the guide."""
        loc, log_var = self.encoder(x).chunk(2, -1)
        return loc, log_var

    # -------------------------------------------------------------------- in Pyro

    def prior(self, x):
        return dist.Normal(x.new_zeros(self.latents), 1.0).to_event(1)

    def model(self, x):
        pyro.module(f"{self.name}.decoder", self.decoder)
        prior = self.prior(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            logits = self.decoder(z)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        pyro.module(f"{self.name}.encoder", self.encoder)
        loc, log_var = self.encode(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, (log_var / 2).exp()).to_event(1))

    def elbos(self):
        """The ELBO classes that have this objective, by the way of a step that takes them."""
        options: dict[str, Any] = {"num_particles": self.particles, "max_plate_nesting": 1}
        options["vectorize_particles"] = self.particles > 1
        return {
            "Trace_ELBO": Trace_ELBO(**options),
            "TraceMeanField_ELBO": TraceMeanField_ELBO(**options),
            "JitTrace_ELBO": JitTrace_ELBO(ignore_jit_warnings=True, **options),
            "ours": TraceExactKL_ELBO(**options),
        }

    # -------------------------------------------------------------------- by hand

    def drawn(self, loc, log_var):
        shape = loc.shape if self.particles == 1 else (self.particles, *loc.shape)
        noise = torch.randn(shape, dtype=loc.dtype, device=loc.device)
        return loc + (log_var / 2).exp() * noise, noise

    def loss(self, x: Tensor) -> Tensor:
        loc, log_var = self.encode(x)
        z, _ = self.drawn(loc, log_var)
        logits = self.decoder(z)
        kl = (loc.square() + log_var.exp() - 1 - log_var).sum() / 2
        return cross_entropy(logits, x.expand_as(logits), reduction="sum") / self.particles + kl


class IWAE(NormalVAE):
    """The same with the importance-weighted bound; Pyro has it as `RenyiELBO` of alpha = 0."""

    def elbos(self):
        options: dict[str, Any] = {"num_particles": self.particles, "max_plate_nesting": 1}
        options["vectorize_particles"] = True
        return {"Trace_ELBO": RenyiELBO(alpha=0, **options), "ours": TraceIWAE_ELBO(**options)}

    def loss(self, x):
        loc, log_var = self.encode(x)
        z, noise = self.drawn(loc, log_var)
        logits = self.decoder(z)
        log_w = (noise.square() - z.square() + log_var).sum(-1) / 2
        log_w = log_w - cross_entropy(logits, x.expand_as(logits), reduction="none").sum(-1)
        return len(x) * math.log(self.particles) - log_w.logsumexp(0).sum()


class PseudoInputs(nn.Module):
    """The inputs whose guides are mixed to a prior, as points of the unit cube."""

    def __init__(self, components: int, pixels: int):
        super().__init__()
        self.inputs = nn.Parameter(torch.rand(components, pixels))

    def forward(self):
        return hardtanh(self.inputs, 0.0, 1.0)


class VampVAE(NormalVAE):
    """Gated layers, and as prior the mixture of the guides of learnable pseudo-inputs."""

    def __init__(self, pixels: int, hidden: tuple[int, ...], latents: int, components: int):
        super().__init__(pixels, hidden, latents)
        self.encoder = gated(pixels, hidden, 2 * latents)
        self.decoder = gated(latents, hidden[::-1], pixels)
        self.pseudo = PseudoInputs(components, pixels)

    def encode(self, x):
        loc, log_var = self.encoder(x).chunk(2, -1)
        return loc, hardtanh(log_var, -6.0, 2.0)

    def prior(self, x):
        pyro.module(f"{self.name}.encoder", self.encoder)
        pyro.module(f"{self.name}.pseudo", self.pseudo)
        loc, log_var = self.encode(self.pseudo())
        components = dist.Normal(loc, (log_var / 2).exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=x.new_zeros(len(loc))), components)

    def loss(self, x):
        loc, log_var = self.encode(x)
        z, noise = self.drawn(loc, log_var)
        log_q = -(noise.square() + log_var).sum(-1) / 2
        places, log_vars = self.encode(self.pseudo())
        squares = (z.unsqueeze(1) - places).square() * (-log_vars).exp()
        log_p = (-(squares + log_vars).sum(-1) / 2).logsumexp(1) - math.log(len(places))
        return cross_entropy(self.decoder(z), x, reduction="sum") + (log_q - log_p).sum()


def gated(inputs, hidden, outputs):
    sizes = (inputs, *hidden)
    layers = [GatedDense(i, o) for i, o in zip(sizes, sizes[1:], strict=False)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


class FlowVAE(NormalVAE):
    """A neural spline flow of zuko as guide, two coupling layers that see the encoder's output."""

    def __init__(self, pixels: int, hidden: tuple[int, ...], latents: int):
        super().__init__(pixels, hidden, latents)
        self.encoder = nn.Sequential(dense(pixels, *hidden), nn.ReLU())
        flows, _ = zuko_parts()
        self.flow = flows.NSF(latents, hidden[-1], transforms=2, passes=2, hidden_features=(64,))

    def guide(self, x):
        pyro.module(f"{self.name}.encoder", self.encoder)
        pyro.module(f"{self.name}.flow", self.flow)
        _, wrapped = zuko_parts()
        context = self.encoder(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", wrapped(self.flow(context)))

    def loss(self, x):
        z, log_q = self.flow(self.encoder(x)).rsample_and_log_prob()
        log_p = -(z.square() + LOG_2PI).sum(-1) / 2
        return cross_entropy(self.decoder(z), x, reduction="sum") + (log_q - log_p).sum()


def zuko_parts():
    """zuko's flows and Pyro's wrapper of them; importing zuko sets a flag of torch's, put back."""
    before = Distribution._validate_args
    try:
        from pyro.contrib.zuko import ZukoToPyro
        from zuko import flows
    finally:
        Distribution.set_default_validate_args(before)
    return flows, ZukoToPyro


class Net(NamedTuple):
    """A case: what to build, how large a batch, and which Pythae model is the same, if any."""

    build: Callable[[], NormalVAE]
    batch: int
    pythae: str | None = None

    def program(self) -> NormalVAE:
        """With the same weights each time."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return self.build()

    def data(self) -> Tensor:
        """The same bits each time."""
        g = torch.Generator().manual_seed(1)
        bits = torch.rand(self.batch, self.program().pixels, generator=g) < 0.3
        return bits.to(torch.get_default_dtype())


NETS = {
    "64-64-8": Net(lambda: NormalVAE(64, (64,), 8), 100, "VAE"),
    "784-400-20": Net(lambda: NormalVAE(784, (400,), 20), 128, "VAE"),
    "784-300-300-40 gated, VampPrior of 500": Net(
        lambda: VampVAE(784, (300, 300), 40, 500), 100, "VAMP"
    ),
    "64-64-8, flow guide": Net(lambda: FlowVAE(64, (64,), 8), 100),
    "784-200-200-50, IWAE of 50": Net(lambda: IWAE(784, (200, 200), 50, particles=50), 20),
}
