"""The variational autoencoder: a prior p(z), a guide q(z|x), a likelihood p(x|z).

    log p(x) >= ELBO(x) = E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))

Prior and guide are both free choices; only the support of q must lie within that of p. `VAE`
makes of the three a Pyro `model` and `guide` for `SVI` and every Pyro ELBO. Both are modules of
their own, so that torch optimizers find their parameters:

    Trace_ELBO()(vae.model, vae.guide).parameters()
"""

from __future__ import annotations

__all__ = ["VAE"]

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.params import param_with_module_name
from torch import Tensor, nn

from pyro_vae.checks import is_deferred, require
from pyro_vae.closures import hidden_modules
from pyro_vae.families import Family
from pyro_vae.families.pairing import Side, check_pair, side
from pyro_vae.observations import check_likelihood, check_support, masked, observed
from pyro_vae.param_store import announce
from pyro_vae.supports import inside, interior_point


class Conditional(Protocol):
    """Whatever returns a Pyro distribution: a family, a network ending in one, a function."""

    def __call__(self, *context: Tensor) -> TorchDistribution: ...


Sites: TypeAlias = Mapping[str, Conditional]
# a draw, and the number of its event dimensions
Latent: TypeAlias = tuple[Tensor, int]

_numbers = itertools.count()


class VAE(nn.Module):
    """A variational autoencoder with any prior p(z), guide q(z|x) and likelihood p(x|z).

    ELBO(x) = E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z)) <= log p(x).

    `model` and `guide` are modules called as `(x=None, *, y=None, mask=None, size=None)`:
    `x` with shape `(batch, *event_shape)`; `y` conditions, with shape `(batch, *)`, joined to
    what encoder and decoder see; `mask`, True where `x` was observed, with shape `(batch,)` or
    broadcasting to that of `x`; `size`, the number of replicates to draw when `x` is not given.
    They hold a plate `data`, latent sites `z` (or the names given) and the site `x`.

    Arguments:
        prior: A callable that returns p(z): a family, a module, a function. Several latent
            sites are a mapping from names to these.
        encoder: A callable of x that returns q(z|x), with batch shape `(batch,)`; a mapping
            with the same names if the prior is one. Sites are independent given x.
        decoder: A callable of z that returns p(x|z). Of several sites it receives the
            flattened draws, concatenated in order.
        data_size: The number N of data; given, a batch of B counts N / B times, as minibatches
            under SVI should. Without it a batch counts as it is.
        name: The prefix of the parameters in Pyro's store. Unique if not given; a copy always
            gets a fresh one.

    Raises:
        ValueError: If a guide family has mass outside its prior's support (the message names
            those that would fit), if the sites of prior and encoder differ, or if a plain
            function hides a module whose parameters would never train.

    References:
        Auto-Encoding Variational Bayes (D. P. Kingma, M. Welling, 2014)

    Example:
        >>> from pyro.infer import TraceMeanField_ELBO
        >>> from pyro_vae import families as fam, networks
        >>> vae = VAE(
        ...     prior=fam.StudentT(2),
        ...     encoder=nn.Sequential(networks.MLP(6, 16), fam.Normal(2, context=16)),
        ...     decoder=nn.Sequential(networks.MLP(2, 16), fam.Bernoulli(6, context=16)),
        ... )
        >>> loss = TraceMeanField_ELBO()(vae.model, vae.guide)(torch.ones(10, 6))
        >>> loss.backward()  # in nats, summed over the batch
    """

    def __init__(
        self,
        prior: Conditional | Sites,
        encoder: Conditional | Sites,
        decoder: Conditional,
        *,
        data_size: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        priors, encoders = _sites(prior), _sites(encoder)
        if list(priors) != list(encoders):
            raise ValueError(
                f"prior and encoder must have the same latent sites in the same order, but have "
                f"{list(priors)} and {list(encoders)}."
            )
        self._make(Model, Guide, priors, encoders, decoder, data_size, name)

    def _make(
        self,
        model: Callable[..., Model],
        guide: Callable[..., Guide],
        priors: Sites,
        encoders: Sites,
        decoder: Conditional,
        data_size: int | None,
        name: str | None,
    ) -> None:
        """Make the two halves, by their classes, once what they hold goes together."""
        _check_visible({**{f"prior {k!r}": v for k, v in priors.items()}, "decoder": decoder})
        _check_visible({f"encoder {k!r}": v for k, v in encoders.items()})
        pairing = _Pairing(priors, encoders)
        name, fixed = name or f"vae{next(_numbers)}", name is not None
        fill = _fill(decoder)
        self.model = model(priors, decoder, pairing, data_size, fill, name, fixed)
        self.guide = guide(encoders, pairing, data_size, fill, name, fixed)
        self.model.aliases = _aliases(self.model, self.guide)

    @property
    def name(self) -> str:
        """The prefix of the parameters in Pyro's store."""
        return self.model.name

    def __deepcopy__(self, memo: dict[int, Any]) -> VAE:
        new = _copied(self, memo)
        new.guide.name = new.model.name
        return new


class _Half(nn.Module):
    """What model and guide share: the plate, and their place in Pyro's parameter store."""

    def __init__(
        self, pairing: _Pairing, data_size: int | None, fill: float, name: str, fixed: bool
    ) -> None:
        super().__init__()
        if data_size is not None and data_size < 1:
            raise ValueError(f"data_size must be a positive number of data, not {data_size}.")
        self.pairing, self.data_size, self.fill = pairing, data_size, fill
        self.name, self.name_is_fixed = name, fixed
        self.aliases: dict[str, dict[str, str]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Half:
        new = _copied(self, memo)
        # two that share a name would share, and so lose, their parameters in Pyro's store
        new.name, new.name_is_fixed = f"vae{next(_numbers)}", False
        return new

    def _announce(self) -> None:
        for name, module in self.named_children():
            known = self.aliases.get(name, {})
            aliases = {own: f"{self.name}.{other}" for own, other in known.items()}
            announce(f"{self.name}.{name}", module, fixed=self.name_is_fixed, aliases=aliases)

    def _plate(self, size: int, device: torch.device) -> pyro.plate:
        if self.data_size is None:
            return pyro.plate("data", size, dim=-1)
        if size > self.data_size:
            raise ValueError(f"a batch of {size} is larger than data_size={self.data_size}.")
        indices = torch.arange(size, device=device)
        return pyro.plate("data", self.data_size, subsample=indices, dim=-1)


class Model(_Half):
    """p(x, z): prior and decoder as a Pyro model; made by `VAE`."""

    def __init__(self, priors: Sites, decoder: Conditional, *shared: Any) -> None:
        super().__init__(*shared)
        self.prior, self.decoder = _Conditionals(priors), decoder

    def forward(
        self,
        x: Tensor | None = None,
        *,
        y: Tensor | None = None,
        mask: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        """Score x, or draw `size` replicates if it is not given.

        Arguments:
            x: Data, with shape `(batch, *event_shape)`.
            y: What the decoder is conditioned on, with shape `(batch, *)`.
            mask: True where x was observed, with shape `(batch,)` or broadcasting to x's.
            size: The number of replicates when x is None (1 by default).

        Returns:
            x, or its replicates, with shape `(size, *event_shape)`.

        Raises:
            ValueError: If x is NaN where not masked, outside the likelihood's support, or of
                the wrong shape.
        """
        self._announce()
        x = None if x is None else observed(x, mask, self.fill)
        count = len(x) if x is not None else size or 1 if y is None else len(y)
        like = x if x is not None else y
        device = like.device if like is not None else _device(self)
        with self._plate(count, device):
            z, batch = joined(self._seen(self._latents(y)))
            likelihood = self.decoder(conditioned(z, batch, y))
            check_likelihood(likelihood, batch, x)
            if x is not None:
                x = check_support(x, likelihood, mask)
                likelihood = likelihood if mask is None else masked(likelihood, mask)
            return pyro.sample("x", likelihood, obs=x)

    def _latents(self, y: Tensor | None) -> list[Latent]:
        """The draws of all sites."""
        return [self._draw(name, self._top(p, y, name)) for name, p in self.prior.items()]

    def _top(self, prior: Conditional, y: Tensor | None, name: str) -> Any:
        """p(z), or p(z|y) if the prior is one that looks at something."""
        if not (isinstance(prior, nn.Sequential) or getattr(prior, "context", 0)):
            return prior()
        if y is None:
            raise ValueError(f"prior {name!r} is conditional; pass what it looks at as y=.")
        return prior(y)

    def _seen(self, latents: list[Latent]) -> list[Latent]:
        """Those that the decoder sees."""
        return latents

    def _draw(self, name: str, returned: Any) -> Latent:
        p = _distribution(returned, f"prior {name!r}")
        self.pairing.check(name, p)
        z = pyro.sample(name, p)
        self.pairing.check_draw(name, p, z)
        return z, len(p.event_shape)


class Guide(_Half):
    """q(z|x): the encoder as a Pyro guide; made by `VAE`."""

    def __init__(self, encoders: Sites, *shared: Any) -> None:
        super().__init__(*shared)
        self.encoder = _Conditionals(encoders)

    def forward(
        self,
        x: Tensor | None = None,
        *,
        y: Tensor | None = None,
        mask: Tensor | None = None,
        size: int | None = None,
    ) -> dict[str, Tensor]:
        """Draw z ~ q(z|x).

        Arguments:
            x: Data, with shape `(batch, *event_shape)`.
            y: What the encoder is conditioned on as well, with shape `(batch, *)`.
            mask: True where x was observed, with shape `(batch,)` or broadcasting to x's.
            size: Not used; the signature is the model's.

        Returns:
            The draws by site, each with shape `(batch, *event_shape)`.

        Raises:
            ValueError: If x is missing, or NaN where not masked.
        """
        self._announce()
        if x is None:
            raise ValueError(
                "the guide q(z|x) needs x. For replicates of given data, draw z from the guide "
                "and x from poutine.uncondition(vae.model); for new data, from vae.model alone."
            )
        x = observed(x, mask, self.fill)
        with self._plate(len(x), x.device):
            return self._latents(x, y)

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the latent sites."""
        return self.encoder.names

    def _latents(self, x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
        """The draws of all sites, by name."""
        batch = x.shape[:1]
        seen = conditioned(x, batch, y)
        return {n: self._draw(n, q(seen), batch)[0] for n, q in self.encoder.items()}

    def _draw(self, name: str, returned: Any, batch: torch.Size) -> Latent:
        q = _distribution(returned, f"encoder {name!r}")
        if q.batch_shape not in ((), (1,), batch[-1:], batch):
            raise ValueError(
                f"encoder {name!r} returned a {type(q).__name__} with batch shape "
                f"{tuple(q.batch_shape)} and event shape {tuple(q.event_shape)} for {batch[-1]} "
                f"data; the batch shape must be {tuple(batch)}. Is .to_event(1) missing?"
            )
        self.pairing.see(name, q)
        return pyro.sample(name, q), len(q.event_shape)


class _Conditionals(nn.Module):
    """Named conditionals: like a ModuleDict, but plain functions are welcome."""

    def __init__(self, conditionals: Sites) -> None:
        super().__init__()
        self.names = tuple(conditionals)
        for name, conditional in conditionals.items():
            setattr(self, name, conditional)

    def items(self) -> list[tuple[str, Conditional]]:
        return [(name, getattr(self, name)) for name in self.names]


class _Pairing:
    """Checks that guide and prior go together: at once if both are families, else when called.

    Model and guide hold the same one, since neither holds the other.
    """

    def __init__(self, priors: Sites, encoders: Sites) -> None:
        self.seen: dict[str, Side] = {}
        self.judged_by_draws: set[str] = set()
        self.settled: set[str] = set()
        for name in priors:
            p, q = _family(priors[name]), _family(encoders[name])
            if p is not None and q is not None and check_pair(name, side(q), side(p)):
                self.settled.add(name)

    def see(self, name: str, q: TorchDistribution) -> None:
        if name not in self.settled:
            self.seen[name] = _side(q)

    def check(self, name: str, p: TorchDistribution) -> None:
        # supports are read off numbers, and were, when the program ran before its graph was made
        if name not in self.seen or is_deferred():
            return
        if not check_pair(name, self.seen[name], _side(p)):
            self.judged_by_draws.add(name)

    def check_draw(self, name: str, p: TorchDistribution, z: Tensor) -> None:
        if name in self.judged_by_draws:
            require(
                inside(_side(p).support, z),
                lambda: ValueError(
                    f"site {name!r}: the guide {self.seen[name].name} drew values outside the "
                    f"support of the prior {type(p).__name__}, where KL(q || p) is infinite."
                ),
            )


def _sites(conditional: Conditional | Sites) -> Sites:
    return conditional if isinstance(conditional, Mapping) else {"z": conditional}


def _family(conditional: Conditional) -> Family | None:
    """The family at the end of a conditional, if it is plain to see."""
    last = conditional[-1] if isinstance(conditional, nn.Sequential) else conditional
    return last if isinstance(last, Family) else None


def _side(d: TorchDistribution) -> Side:
    base: Any = d
    while isinstance(base, dist.Independent):
        base = base.base_dist
    return Side(type(base).__name__, d.support, tuple(d.event_shape))  # type: ignore[arg-type]


def _fill(decoder: Conditional) -> float:
    """What stands in for masked entries of x: legal data, where the likelihood is known."""
    family = _family(decoder)
    try:
        return interior_point(family.support) if family is not None else 0.0
    except ValueError:  # no single number is legal data: only whole rows can be masked
        return 0.0


def _distribution(value: Any, what: str) -> TorchDistribution:
    if not (isinstance(value, torch.distributions.Distribution) and callable(value)):
        raise TypeError(
            f"{what} returned a {type(value).__module__}.{type(value).__name__}; it must return "
            "a Pyro distribution, such as pyro.distributions.Normal(loc, scale).to_event(1)."
        )
    return value  # type: ignore[return-value]


def _check_visible(conditionals: Mapping[str, Conditional]) -> None:
    for what, conditional in conditionals.items():
        if not callable(conditional):
            raise TypeError(
                f"{what} must be callable and return a distribution, but is a "
                f"{type(conditional).__name__}; wrap it as `lambda *_: distribution`."
            )
        names = [] if isinstance(conditional, nn.Module) else hidden_modules(conditional)
        if names:
            raise ValueError(
                f"{what} is a plain function that uses the module {names[0]}, whose parameters "
                "the VAE cannot see and would never train. Give nn.Sequential(net, family), or "
                "a module of your own that holds it."
            )


def _aliases(model: Model, guide: Guide) -> dict[str, dict[str, str]]:
    """By child of the model and parameter: what the guide calls those that both hold."""
    theirs = {
        p: param_with_module_name(child, name)
        for child, module in guide.named_children()
        for name, p in module.named_parameters()
    }
    return {
        child: {name: theirs[p] for name, p in module.named_parameters() if p in theirs}
        for child, module in model.named_children()
    }


def joined(latents: list[Latent]) -> tuple[Tensor, torch.Size]:
    """One site as it is, several flattened side by side; and the batch shape they share."""
    shapes = [z.shape[: z.dim() - event_dim] for z, event_dim in latents]
    if len(latents) == 1:
        return latents[0][0], shapes[0]
    batch = torch.broadcast_shapes(*shapes)
    flat = [
        z.reshape(*shape, -1).expand(*batch, -1)
        for (z, _), shape in zip(latents, shapes, strict=True)
    ]
    return torch.cat(flat, dim=-1), batch


def conditioned(value: Tensor, batch: torch.Size, y: Tensor | None) -> Tensor:
    """The value itself, or flattened beside y if y is given."""
    if y is None:
        return value
    y = y.reshape(len(y), -1).to(value.dtype)
    return torch.cat([value.reshape(*batch, -1), y.expand(*batch, -1)], dim=-1)


def _device(module: nn.Module) -> torch.device:
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((t.device for t in tensors), torch.device("cpu"))


def _copied(module: Any, memo: dict[int, Any]) -> Any:
    new = module.__class__.__new__(module.__class__)
    memo[id(module)] = new
    new.__dict__ = copy.deepcopy(module.__dict__, memo)
    return new
