"""VampPrior: a prior made of the guide, at inputs that are learned.

The prior that maximises the ELBO for a given guide is the aggregate posterior
q(z) = 1/N sum_n q(z | x_n). A VampPrior is that mixture at K pseudo-inputs in the place of the N
data, so that it costs little and does not know the data by heart.
"""

from __future__ import annotations

__all__ = ["VampPrior"]

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, transform_to
from torch.distributions.constraints import Constraint
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_vae.distributions import MixtureSameFamily
from pyro_vae.families.family import Family, Role, State, register
from pyro_vae.families.real import Normal
from pyro_vae.registry import nearest
from pyro_vae.supports import space_of

COMPONENTS = 50
NAMES = ("inputs", "logits")
# of the unconstrained numbers from which pseudo-inputs start when none are given
START_SCALE = 0.1


@register
class VampPrior(Family):
    """The guide's mixture over K pseudo-inputs: p(z) = sum_k w_k q(z | u_k).

    With u_k the data, K = N and equal weights it is the aggregate posterior, the best prior for
    that guide on those data, and one that has learned them by heart; few learned u_k are between
    that and a plain prior. It lives where its encoder does, on any space.

    The encoder is meant to be the guide's own: `VampPrior(encoder, ...)` beside
    `VAE(encoder=encoder)` holds one module twice, whose parameters are trained once, by what
    guide and prior both ask of them; to freeze it or to set its mode is to do so in both. An
    encoder that looks at `y` as well reads x and y flattened side by side, and so do
    pseudo-inputs: `input_shape=(D + C,)`.

    p(z) is one density, in training as in evaluation: at pseudo-inputs the encoder runs in eval
    mode, so that dropout leaves it alone and batch normalisation takes the running statistics of
    the data, which pseudo-inputs never move.

    Arguments:
        encoder: A module that takes inputs of shape `(K, *input_shape)` and returns a Pyro
            distribution with batch shape `(K,)`.
        components: The number K of pseudo-inputs; by default that of `inputs`, or 50.
        inputs: Where pseudo-inputs start (or stay), with shape `(K, *input_shape)`; rows of the
            training data are a good start. By default small random numbers, by torch's global
            generator. They take the type and device of the encoder's parameters.
        input_shape: The shape of a datum; needed without `inputs`.
        learnable: What is trained: True or `("inputs",)` for pseudo-inputs,
            `("inputs", "logits")` for their weights w = softmax(logits) too (uniform otherwise),
            or False for neither.
        constraint: Where learned pseudo-inputs are kept, by torch's bijection from the real
            numbers, such as `constraints.unit_interval` for pixels. By default anywhere.
        shared: Whether the encoder is trained by others, as the guide's is. One that is not is
            frozen by `learnable=False`.

    Raises:
        TypeError: If the encoder is not a module or returns no distribution, or if what is to be
            trained has another name.
        ValueError: If shapes do not match, if pseudo-inputs are not finite or lie outside the
            constraint (on its boundary, where no bijection leads, if they are learned), or if the
            encoder normalises a batch by itself, so that one component would depend on the others.

    References:
        VAE with a VampPrior (J. M. Tomczak, M. Welling, 2018)

    Example:
        >>> from pyro_vae import VAE, families as fam, networks
        >>> x = torch.rand(100, 6)
        >>> encoder = nn.Sequential(networks.MLP(6, 16), fam.Normal(2, context=16))
        >>> prior = VampPrior(encoder, inputs=x[:20])
        >>> prior().batch_shape, prior().event_shape
        (torch.Size([]), torch.Size([2]))
        >>> decoder = nn.Sequential(networks.MLP(2, 16), fam.Bernoulli(6, context=16))
        >>> vae = VAE(prior=prior, encoder=encoder, decoder=decoder)
    """

    roles: ClassVar[frozenset[Role]] = frozenset({"prior"})

    raw_inputs: Tensor
    logits: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        components: int | None = None,
        *,
        inputs: Tensor | None = None,
        input_shape: int | Sequence[int] | None = None,
        learnable: bool | Iterable[str] = True,
        constraint: Constraint | None = None,
        shared: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        _check_encoder(encoder)
        self.encoder, self.constraint = encoder, constraint
        self.learned, self.predicted, self.context = _learned(learnable), (), 0
        start = _beside(encoder, _start(components, inputs, input_shape, constraint))
        self.components, self.input_shape = len(start), tuple(start.shape[1:])
        self._keep("raw_inputs", "inputs", self._unconstrained(start))
        self._keep("logits", "logits", start.new_zeros(len(start)))
        if not (shared or self.learned):
            encoder.requires_grad_(False)
        with torch.no_grad():
            self.features = tuple(self._checked_posteriors().event_shape)

    @property
    def inputs(self) -> Tensor:
        """The pseudo-inputs u, with shape `(K, *input_shape)`."""
        free: Any = self._transform()
        return self.raw_inputs if free is None else free(self.raw_inputs)

    @property
    def support(self) -> Constraint:
        """Where draws lie: where the encoder's do."""
        with torch.no_grad():
            support = self._posteriors().support
        assert isinstance(support, Constraint)
        return support

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """Return p(z) = sum_k w_k q(z | u_k), with empty batch shape.

        Arguments:
            context: None; the prior looks at nothing.

        Raises:
            ValueError: If a context is given.
        """
        self._check_context(context)
        return _mixture(self.logits, self._posteriors())

    @classmethod
    def states(cls) -> tuple[State, ...]:
        """Fixed or learnable: its context is its pseudo-inputs."""
        return ("fixed", "learnable")

    @classmethod
    def example(
        cls, features: int | tuple[int, ...] = 3, context: int = 0, *, learnable: bool = False
    ) -> VampPrior:
        """Return a VampPrior with an encoder of its own: one linear head before a Normal."""
        if context:
            raise ValueError(
                f"{cls.__name__} has nothing to predict from a context; its encoder looks at "
                "pseudo-inputs."
            )
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(3, 2, generator=generator)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            encoder = Normal(features, context=2)
            weight = encoder.head.weight
            weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
        return cls(encoder, inputs=inputs, learnable=NAMES if learnable else False, shared=False)

    @classmethod
    def fits(cls, support: Constraint) -> bool:
        """Say whether members put all their mass within `support`: there are some for each."""
        return True

    def __repr__(self) -> str:
        """One line, for the encoder is shown where it is the guide's."""
        shape = self.input_shape[0] if len(self.input_shape) == 1 else self.input_shape
        features = self.features[0] if len(self.features) == 1 else self.features
        parts = [f"{features}, components={self.components}, input_shape={shape}"]
        parts += [f"learnable={self.learned}"] if self.learned else []
        parts += [f"constraint={self.constraint}"] if self.constraint is not None else []
        return f"{type(self).__name__}({', '.join(parts)}, encoder={type(self.encoder).__name__})"

    # ------------------------------------------------------------------ how it is made

    def _posteriors(self) -> TorchDistribution:
        """q(z | u_k), with batch shape (K,)."""
        return _still(self.encoder, self.inputs)

    def _checked_posteriors(self) -> TorchDistribution:
        shape = tuple(self.raw_inputs.shape)
        try:
            q = self._posteriors()
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(
                f"VampPrior: the encoder cannot read pseudo-inputs of shape {shape} "
                f"({' '.join(str(error).split())}). Give input_shape= or inputs= of the shape of "
                "what the encoder sees; if it looks at y as well, that is x and y flattened side "
                "by side, input_shape=(D + C,)."
            ) from error
        if not isinstance(q, Distribution):
            raise TypeError(
                f"VampPrior: the encoder returned a {type(q).__name__}; it must return a Pyro "
                "distribution, as nn.Sequential(net, family) does."
            )
        if tuple(q.batch_shape) != (self.components,):
            raise ValueError(
                f"VampPrior: for {self.components} pseudo-inputs the encoder returned a "
                f"{type(q).__name__} with batch shape {tuple(q.batch_shape)} and event shape "
                f"{tuple(q.event_shape)}; the batch shape must be ({self.components},), or the "
                "mixture would be taken in each dimension by itself. Is .to_event(1) missing?"
            )
        return q

    def _keep(self, name: str, what: str, value: Tensor) -> None:
        if what in self.learned:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def _transform(self) -> Any:
        """From the numbers that are trained to pseudo-inputs, None for the identity."""
        free = self.constraint is None or "inputs" not in self.learned
        return None if free else transform_to(self.constraint)

    def _unconstrained(self, start: Tensor) -> Tensor:
        constraint, free = self.constraint, self._transform()
        if constraint is not None and not bool(constraint.check(start).all()):
            raise ValueError(f"VampPrior: inputs must satisfy {constraint}, and do not.")
        if constraint is None or free is None:
            return start
        # torch's bijections hold the ends off by rounding alone, where nothing is learned
        ends = space_of(constraint)
        if bool(((start <= ends.lower) | (start >= ends.upper)).any()):
            raise ValueError(
                f"VampPrior: inputs on the boundary of {constraint} would stay there, for no "
                "bijection leads to it; move them inside, as by inputs=x.clamp(0.01, 0.99) in "
                "the unit interval."
            )
        return free.inv(start)


def _mixture(logits: Tensor, components: TorchDistribution) -> TorchDistribution:
    """sum_k w_k q_k, the densities of the components summed over the event before."""
    return MixtureSameFamily(dist.Categorical(logits=logits), components)


def _still(encoder: nn.Module, inputs: Tensor) -> Any:
    """Run an encoder in eval mode, leaving it in the mode in which it was.

    Running statistics are read from copies: training moves them between this call and the
    backward pass that needs them.
    """
    training = [module for module in encoder.modules() if module.training]
    moving = {
        f"{path}.{name}" if path else name: value.clone()
        for path, module in encoder.named_modules()
        if training and not isinstance(module, Family)
        for name, value in module.named_buffers(recurse=False)
    }
    for module in training:
        module.training = False
    try:
        return functional_call(encoder, moving, (inputs,)) if moving else encoder(inputs)
    finally:
        for module in training:
            module.training = True


def _beside(encoder: nn.Module, start: Tensor) -> Tensor:
    """The same numbers, of the type and on the device of the encoder's."""
    weights = (p for p in encoder.parameters() if p.is_floating_point())
    weight = next(weights, None)
    return start if weight is None else start.to(weight.device, weight.dtype)


def _start(
    components: int | None,
    inputs: Any,
    input_shape: int | Sequence[int] | None,
    constraint: Constraint | None,
) -> Tensor:
    """Where pseudo-inputs start, with shape (K, *input_shape)."""
    if inputs is None:
        if input_shape is None:
            raise ValueError(
                "VampPrior needs input_shape=, the shape of a datum, or inputs= to start from, "
                "such as rows of the training data."
            )
        count = COMPONENTS if components is None else components
        return _noise((_positive(count, "components"), *_shape(input_shape)), constraint)
    start = torch.as_tensor(inputs).detach().clone()
    if not start.is_floating_point():
        start = start.to(torch.get_default_dtype())
    if start.dim() < 2 or not start.numel():
        raise ValueError(
            f"VampPrior: inputs must have shape (K, *input_shape), not {tuple(start.shape)}."
        )
    if components not in (None, len(start)):
        raise ValueError(
            f"VampPrior: inputs of shape {tuple(start.shape)} are {len(start)} components, not "
            f"components={components}; leave components out, or give so many rows."
        )
    if input_shape is not None and _shape(input_shape) != tuple(start.shape[1:]):
        raise ValueError(
            f"VampPrior: inputs of shape {tuple(start.shape)} are not of "
            f"input_shape={_shape(input_shape)}; leave input_shape out."
        )
    if not bool(start.isfinite().all()):
        raise ValueError("VampPrior: inputs must be finite numbers.")
    return start


def _noise(shape: tuple[int, ...], constraint: Constraint | None) -> Tensor:
    if constraint is None:
        return START_SCALE * torch.randn(shape)
    try:
        free: Any = transform_to(constraint)
    except NotImplementedError as error:
        raise ValueError(
            f"VampPrior: no bijection leads to {constraint}; pseudo-inputs are real numbers, so "
            "give the smallest interval that holds the data, or no constraint."
        ) from error
    return free(START_SCALE * torch.randn(tuple(free.inverse_shape(shape))))


def _shape(given: int | Sequence[int]) -> tuple[int, ...]:
    shape = (given,) if isinstance(given, int) else tuple(given)
    if not shape:
        raise ValueError("VampPrior: input_shape must be a positive int or a tuple of them.")
    return tuple(_positive(size, "input_shape") for size in shape)


def _positive(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"VampPrior: {name} must be a positive whole number, not {value!r}.")
    return value


def _learned(learnable: bool | Iterable[str]) -> tuple[str, ...]:
    if isinstance(learnable, bool):
        # weights are structural: trained only where they are named
        return NAMES[:1] if learnable else ()
    names = (learnable,) if isinstance(learnable, str) else tuple(learnable)
    for name in names:
        if name not in NAMES:
            raise TypeError(f"VampPrior has no parameter {name!r}. {nearest(name, NAMES)}")
    return tuple(name for name in NAMES if name in names)


def _check_encoder(encoder: Any) -> None:
    if not isinstance(encoder, nn.Module):
        raise TypeError(
            f"VampPrior: the encoder must be a module, as nn.Sequential(net, family), not a "
            f"{type(encoder).__name__}: the parameters of a plain function would not be seen."
        )
    for module in encoder.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"VampPrior: the encoder's {type(module).__name__} keeps no running statistics, "
                "so that each component would depend on the other pseudo-inputs; build it with "
                "track_running_stats=True, or use nn.LayerNorm."
            )
