"""The one idea: a family is a module whose `forward(context)` returns a Pyro distribution.

A prior p(z) is a family that looks at nothing, an encoder q(z|x) ends in a family that looks
at features of x, a decoder p(x|z) in one that looks at features of z. All three are of one
kind, so any prior can stand beside any guide, and one set of laws holds for all.

Each parameter of a family is in one of three states: *constant* (a buffer: the family's
standard value, or the one given), *trained* (named by `learnable`), or *predicted* from the
context by one linear head and the bijection to where the parameter lives. Heads start so that
the family begins near its standard member.
"""

from __future__ import annotations

__all__ = ["Family", "Role", "State", "fitting", "fitting_data", "register", "registry"]

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_vae.families.parameters import Parameter
from pyro_vae.registry import Registry, nearest
from pyro_vae.supports import data_support, lies_within

Role = Literal["prior", "guide", "likelihood"]
State = Literal["fixed", "learnable", "amortized"]

# small beside the usual 1 / sqrt(C): predictions start near the standard member, yet
# gradients reach whatever lies below the head from the first step
HEAD_SCALE = 0.1

# beyond it whole numbers are counts, and nobody means classes
_MOST_CLASSES = 1024

registry: Registry[type[Family]] = Registry("family")
register = registry.register


class Family(nn.Module):
    """A conditional distribution p(. | context) whose parameters are fixed, trained or predicted.

    Arguments:
        features: The event shape, an int n (for `(n,)`) or a tuple; a distribution over each
            element, or over all of them jointly, as the family says.
        context: 0 for a family that looks at nothing, otherwise the size C of the last
            dimension of the context from which every non-structural parameter that is not
            given is predicted.
        learnable: True to train every non-structural parameter that is not predicted, a given
            value being its start; or the names of those to train.
        predict: Names of structural parameters to predict from the context as well.
        **parameters: Values of parameters, by torch's names; what is given stays fixed (unless
            `learnable`), broadcast to the parameter's shape.

    Raises:
        TypeError: If a parameter or option is unknown, or a needed option is missing.
        ValueError: If a value lies outside its constraint or does not broadcast, if nothing is
            left to train or to predict, or if `features` is not an admissible shape.

    References:
        Auto-Encoding Variational Bayes (D. P. Kingma, M. Welling, 2014)

    Example:
        >>> from pyro_vae import families as fam
        >>> prior = fam.Normal(3)
        >>> prior().batch_shape, prior().event_shape
        (torch.Size([]), torch.Size([3]))
        >>> guide = fam.Normal(3, context=16)
        >>> guide(torch.zeros(7, 16)).batch_shape
        torch.Size([7])
    """

    roles: ClassVar[frozenset[Role]] = frozenset({"prior", "guide"})
    spec: Mapping[str, Parameter] = {}
    options: ClassVar[tuple[str, ...]] = ()
    example_options: ClassVar[Mapping[str, int]] = {}
    min_features: ClassVar[int] = 1

    def __init__(
        self,
        features: int | Sequence[int],
        context: int = 0,
        *,
        learnable: bool | Iterable[str] = False,
        predict: Iterable[str] = (),
        **parameters: Any,
    ) -> None:
        super().__init__()
        self.features = self._checked_features(features)
        self.context = _natural(context, "context", type(self).__name__)
        for option in self.options:
            if option not in parameters:
                raise TypeError(f"{type(self).__name__} needs {option}=, a whole number.")
            value = _natural(parameters.pop(option), option, type(self).__name__)
            setattr(self, option, value)
        self._check_names(parameters)
        learned = self._learned(learnable, parameters)
        predicted = self._predicted(_names(predict), parameters, learned)
        self._place(parameters, learned, predicted)

    # ------------------------------------------------------------------ what a family is

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one draw."""
        return self.features

    @property
    def support(self) -> Constraint:
        """Where draws lie; it depends on structural parameters only."""
        with torch.no_grad():
            values = {n: self._standard(n) for n in self.spec} | dict(self.named_buffers())
            constraint = self.distribution(**values).support
        assert isinstance(constraint, Constraint)
        return constraint

    def distribution(self, **parameters: Tensor) -> TorchDistribution:
        """Return the distribution with these parameters.

        Arguments:
            **parameters: One tensor for each name in `spec`, with shape `(*batch, *shape)`.

        Returns:
            A Pyro distribution with batch shape `batch` and event shape `event_shape`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define distribution().")

    def forward(self, context: Tensor | None = None) -> TorchDistribution:
        """Return p(. | context).

        Arguments:
            context: None for a family with `context=0`, otherwise with shape `(*batch, C)`.

        Returns:
            A Pyro distribution with batch shape `batch` (empty without context).

        Raises:
            ValueError: If a context is missing, unexpected, or of the wrong size.
        """
        return self.distribution(**self.values(context))

    @classmethod
    def example(
        cls, features: int | tuple[int, ...] = 3, context: int = 0, *, learnable: bool = False
    ) -> Family:
        """Return a member to test or to list: the standard one, with options that are small."""
        options: dict[str, Any] = dict(cls.example_options)
        return cls(features, context, learnable=learnable, **options)

    @classmethod
    def named(
        cls,
        features: int | tuple[int, ...],
        context: int = 0,
        *,
        learnable: bool = False,
        **options: Any,
    ) -> Family:
        """Return the member that the name of the family stands for, where nothing else is said."""
        return cls(features, context, learnable=learnable, **options)

    @classmethod
    def states(cls) -> tuple[State, ...]:
        """The states of members: all parameters fixed, some trained, some predicted.

        `example(..., learnable=True)` makes a trained one, `example(..., context=C)` one that
        predicts; a family refuses the states that it lacks.
        """
        free = "guide" in cls.roles or any(not p.structural for p in cls.spec.values())
        return ("fixed", "learnable", "amortized") if free else ("fixed",)

    @classmethod
    def options_for(cls, x: Tensor) -> dict[str, Any]:
        """Return options with which members hold data: as many classes or levels as there are.

        Arguments:
            x: Data, with shape `(batch, *event_shape)`.

        Example:
            >>> from pyro_vae import families as fam
            >>> fam.Categorical.options_for(torch.tensor([[0.0, 6.0]]))
            {'categories': 7}
        """
        options: dict[str, Any] = dict(cls.example_options)
        for name in ("categories", "levels"):
            if name in options:
                options[name] = max(2, 1 + int(x.max()))
        return options

    def scaling(self) -> tuple[nn.Module, ...]:
        """Return layers, to put before an encoder, that bring such data to the size of 1.

        Nothing, unless a likelihood is of data of another size: counts, grey levels.
        """
        return ()

    @classmethod
    def fits(cls, support: Constraint) -> bool:
        """Say whether members put all their mass within `support`."""
        return bool(lies_within(cls.where(), support))

    @classmethod
    def where(cls) -> Constraint:
        """Return the support of the members, over the shape of a draw of `example`."""
        return _support_of(cls)

    @classmethod
    def available(cls) -> str:
        """Return what must be installed before a member can be built, "" if nothing."""
        return ""

    # ------------------------------------------------------------------ parameters

    def silent(self) -> dict[str, Tensor]:
        """Return, by the name of a parameter, True where an element has no say in the density.

        No gradient reaches such an element (a masked weight of a network); all others have one.
        """
        return {}

    def values(self, context: Tensor | None = None) -> dict[str, Tensor]:
        """Return the parameters by name, each with shape `(*batch, *shape)` or `shape`.

        Raises:
            ValueError: If a context is missing, unexpected, or of the wrong size.
        """
        self._check_context(context)
        values = dict(self.named_buffers(recurse=False))
        for name in self.learned:
            values[name] = self._constrained(name, getattr(self, f"raw_{name}"))
        if context is not None:
            values |= self._predict(context)
        return values

    def _predict(self, context: Tensor) -> dict[str, Tensor]:
        batch, shapes = context.shape[:-1], [self._raw_shape(name) for name in self.predicted]
        pieces = self.head(context).split([math.prod(s) for s in shapes], dim=-1)
        return {
            name: self._constrained(name, piece.reshape((*batch, *shape)))
            for name, piece, shape in zip(self.predicted, pieces, shapes, strict=True)
        }

    def _constrained(self, name: str, raw: Tensor) -> Tensor:
        value = self.spec[name].transform(raw)
        assert isinstance(value, Tensor)
        return value

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self.spec[name].shape
        return self.features if shape is None else shape(self)

    def _standard(self, name: str) -> Tensor:
        return self.spec[name].standard(self._shape(name))

    def _raw_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.spec[name].transform.inverse_shape(self._shape(name)))

    # ------------------------------------------------------------------ construction

    def _place(
        self, given: Mapping[str, Any], learned: Sequence[str], predicted: Sequence[str]
    ) -> None:
        self.learned, self.predicted = tuple(learned), tuple(predicted)
        for name in self.spec:
            if name in predicted:
                continue
            value = self._checked(name, given[name]) if name in given else self._standard(name)
            if name in learned:
                raw = self.spec[name].unconstrained(self._checked_start(name, value))
                self.register_parameter(f"raw_{name}", nn.Parameter(raw.clone()))
            else:
                self.register_buffer(name, value)
        if predicted:
            self.head = self._make_head()

    def _make_head(self) -> nn.Linear:
        start = [
            self.spec[name].unconstrained(self._standard(name)).flatten()
            for name in self.predicted
        ]
        bias = torch.cat(start)
        head = nn.Linear(self.context, len(bias))
        with torch.no_grad():
            head.weight.mul_(HEAD_SCALE)
            head.bias.copy_(bias)
        return head

    def _learned(self, learnable: bool | Iterable[str], given: Mapping[str, Any]) -> list[str]:
        free = [
            name
            for name, parameter in self.spec.items()
            if not parameter.structural and (self.context == 0 or name in given)
        ]
        if learnable is False:
            return []
        if learnable is not True:
            names = _names(learnable)
            self._check_names(names)
            free = [name for name in self.spec if name in names]
        if not free:
            reason = (
                "every parameter is predicted from the context already; give a start value "
                "(for example scale=1.0) to train one as a constant"
                if self.context and self.spec
                else "the family has no parameter to train"
            )
            raise ValueError(f"{type(self).__name__}(learnable={learnable!r}): {reason}.")
        return free

    def _predicted(
        self, extra: Sequence[str], given: Mapping[str, Any], learned: Sequence[str]
    ) -> list[str]:
        self._check_names(extra)
        if not self.context:
            if extra:
                raise ValueError(
                    f"{type(self).__name__}(predict={tuple(extra)!r}) needs context=C to "
                    "predict from; without one, use learnable=."
                )
            return []
        names = [
            name
            for name, parameter in self.spec.items()
            if name in extra or not (parameter.structural or name in given or name in learned)
        ]
        for name in extra:
            if name in given or name in learned:
                raise ValueError(
                    f"{type(self).__name__}: {name!r} is to be predicted, but was also given "
                    "or named learnable; choose one."
                )
        if not names:
            raise ValueError(
                f"{type(self).__name__}(context={self.context}) has nothing to predict: every "
                "parameter was given. Use context=0, or leave one out."
            )
        return names

    # ------------------------------------------------------------------ checks

    def _checked_features(self, features: int | Sequence[int]) -> tuple[int, ...]:
        shape = (features,) if isinstance(features, int) else tuple(features)
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
        if not shape or not whole:
            raise ValueError(
                f"{type(self).__name__}: features must be a positive int or a tuple of them "
                f"(the shape of one draw), not {features!r}."
            )
        if shape[-1] < self.min_features:
            raise ValueError(
                f"{type(self).__name__} needs at least {self.min_features} features in its last "
                f"dimension, not {shape[-1]}: with fewer it has no freedom."
            )
        return shape

    def _check_names(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.spec:
                raise TypeError(
                    f"{type(self).__name__} has no parameter {name!r}. "
                    f"{nearest(name, [*self.spec, *self.options])}"
                )

    def _checked(self, name: str, value: Any) -> Tensor:
        """The value as a tensor of the parameter's shape, if it is a legal one."""
        tensor = torch.as_tensor(value)
        if not tensor.is_floating_point() or not isinstance(value, Tensor):
            tensor = tensor.to(torch.get_default_dtype())
        where, shape = f"{type(self).__name__}: {name}", self._shape(name)
        try:
            tensor = tensor.detach().expand(shape).clone()
        except RuntimeError:
            raise ValueError(
                f"{where} has shape {tuple(tensor.shape)}, which does not broadcast to {shape}."
            ) from None
        constraint = self.spec[name].constraint
        if not bool(constraint.check(tensor).all()):
            raise ValueError(f"{where} must satisfy {constraint}, but is {_short(tensor)}.")
        return tensor

    def _checked_start(self, name: str, value: Tensor) -> Tensor:
        admissible = self.spec[name].admissible
        if admissible is not None and not bool(admissible.check(value).all()):
            raise ValueError(
                f"{type(self).__name__}: a trained {name} must start where {admissible} holds, "
                f"not at {_short(value)}."
            )
        return value

    def _check_context(self, context: Tensor | None) -> None:
        name = type(self).__name__
        if context is None and self.context:
            raise ValueError(f"{name} predicts from a context of shape (*batch, {self.context}).")
        if context is not None and not self.context:
            cure = (
                f"build it as {name}(..., context={context.shape[-1]})"
                if "amortized" in self.states()
                else "a prior of this family is never conditional"
            )
            raise ValueError(
                f"{name} was built with context=0 and looks at nothing, but received a context "
                f"of shape {tuple(context.shape)}; {cure}."
            )
        if context is not None and context.shape[-1] != self.context:
            raise ValueError(
                f"{name} was built with context={self.context}, but received a context of shape "
                f"{tuple(context.shape)}."
            )

    def extra_repr(self) -> str:
        """Return what `repr` shows: features, context, options and the state of parameters."""
        features = self.features[0] if len(self.features) == 1 else self.features
        parts = [str(features)] + ([f"context={self.context}"] if self.context else [])
        parts += [f"{option}={getattr(self, option)}" for option in self.options]
        parts += [f"learnable={self.learned}"] if self.learned else []
        parts += [f"predicted={self.predicted}"] if self.predicted else []
        constants = self.named_buffers(recurse=False)
        return ", ".join(parts + [f"{name}={self._shown(value)}" for name, value in constants])

    def _shown(self, value: Tensor) -> str:
        return _short(value)


@functools.cache
def _support_of(cls: type[Family]) -> Constraint:
    """The support of a family's members, which is asked for in every refusal of a pair."""
    return cls.example().support


def fitting(support: Constraint, role: Role = "guide") -> list[str]:
    """Return the class names of the registered families whose support lies within `support`.

    Example:
        >>> from pyro.distributions import constraints
        >>> "Dirichlet" in fitting(constraints.simplex)
        True
    """
    return sorted(
        cls.__name__
        for cls in registry.values()
        if role in cls.roles and not cls.available() and cls.fits(support)
    )


def fitting_data(x: Tensor) -> list[str]:
    """Return the class names of the registered likelihoods whose support holds the data.

    Arguments:
        x: Data, with shape `(batch, *event_shape)`.

    Example:
        >>> "ContinuousBernoulli" in fitting_data(torch.tensor([[0.3, 0.9]]))
        True
    """
    likelihoods = [cls for cls in registry.values() if "likelihood" in cls.roles]
    events = x if x.dim() > 1 else x.unsqueeze(-1)
    return sorted(cls.__name__ for cls in likelihoods if _holds(cls, events))


def _holds(cls: type[Family], x: Tensor) -> bool:
    options: dict[str, Any] = dict(cls.example_options)
    if bool((x == x.round()).all()) and 0 <= float(x.max()) < _MOST_CLASSES:
        options = cls.options_for(x)
    d = cls(tuple(x.shape[1:]), **options)()
    return bool(data_support(d).check(x).all())


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _natural(value: Any, name: str, family: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{family}: {name} must be a whole number, not {value!r}.")
    return value


def _short(value: Tensor) -> str:
    flat = value.flatten()
    if bool((flat == flat[0]).all()):
        return f"{flat[0].item():g}"
    shown = ", ".join(f"{v:g}" for v in flat[:3].tolist())
    return f"[{shown}{', ...' if len(flat) > 3 else ''}]"
