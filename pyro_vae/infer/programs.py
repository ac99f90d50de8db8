"""Programs made of programs: latents that are enumerated, and latents that were observed.

Both are what a mixed or semi-supervised model needs. With a discrete site y beside others z,

    ELBO(x)    = sum_y q(y|x) [ L(x, y) - log q(y|x) ],
    L(x, y)    = E_q(z|x,y)[ log p(x, y, z) - log q(z|x,y) ],

the first where y is unknown, by `enumerated` and Pyro's `TraceEnum_ELBO`, which does the sum
exactly and samples the rest; the second where y was observed, by `given` and any ELBO.
"""

from __future__ import annotations

__all__ = ["enumerated", "given"]

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_vae.checks import require
from pyro_vae.infer.terms import distribution_name
from pyro_vae.supports import inside, space_of

Program: TypeAlias = Callable[..., Any]

LARGEST = 1024
"""The largest number of values that is enumerated."""


def enumerated(guide: Program) -> Program:
    """Return a guide whose discrete sites `TraceEnum_ELBO` sums over, in parallel.

    As `pyro.infer.config_enumerate`, but sites of several discrete elements are enumerated too:
    G groups of K classes (`families.OneHotCategorical(G, categories=K)`) in all K^G ways, G bits
    in 2^G. What is drawn after such a site is drawn once for each of its values, so that each
    site has one more batch dimension on the left; `VAE` and `HierarchicalVAE` see to that. Nothing
    is left of the noise of a score function, at the price of as many evaluations of what follows.

    Arguments:
        guide: A guide whose discrete sites have finitely many values.

    Returns:
        A guide of the same arguments; a module that holds the guide, so that its parameters are
        found.

    Raises:
        ValueError: When called, if a site has more than 1024 values.

    Example:
        >>> from pyro.infer import TraceEnum_ELBO
        >>> from pyro_vae import VAE, families as fam
        >>> vae = VAE(
        ...     prior=fam.OneHotCategorical(2, categories=3),
        ...     encoder=fam.OneHotCategorical(2, context=4, categories=3),
        ...     decoder=nn.Sequential(nn.Flatten(-2), fam.Normal(4, context=6)),
        ... )
        >>> elbo, x = TraceEnum_ELBO(max_plate_nesting=1), torch.zeros(5, 4)
        >>> losses = [elbo.loss(vae.model, enumerated(vae.guide), x) for _ in range(2)]
        >>> losses[0] == losses[1]  # a sum over 9 values, with nothing drawn
        True
    """
    return _Within(guide, _Enumerate)


def given(model: Program, guide: Program, **observed: Tensor) -> tuple[Program, Program]:
    """Return model and guide with some latent sites observed.

    The model scores the values, the guide draws the other sites as if it had drawn them: an ELBO
    of the two is L(x, y) <= log p(x, y). That q(y|x) is right about y it does not ask; add
    `log q(y|x)` to an objective that should.

    Arguments:
        model: A Pyro model.
        guide: Its guide.
        **observed: The values by site, each with the shape of its draws, `(batch, *event_shape)`.

    Returns:
        Both programs, of the same arguments; modules that hold the given ones, so that their
        parameters are found.

    Raises:
        ValueError: If nothing is observed; when called, if the model has no site of a name, or a
            value has another shape than a draw or lies outside the support.

    Example:
        >>> from pyro_vae import HierarchicalVAE, families as fam, infer
        >>> vae = HierarchicalVAE(
        ...     priors={"y": fam.Bernoulli(1), "z": fam.Normal(1, context=1)},
        ...     encoders={"y": fam.Bernoulli(1, context=3), "z": fam.Normal(1, context=4)},
        ...     decoder=fam.Normal(3, context=2),
        ...     skip=True,
        ... )
        >>> x, y = torch.zeros(5, 3), torch.ones(5, 1)
        >>> elbo = infer.TraceExactKL_ELBO()
        >>> loss = elbo.loss(*given(vae.model, vae.guide, y=y), x)
        >>> list(elbo.routes)
        ['z']
    """
    if not observed:
        raise ValueError("nothing is observed; name a site, as in given(model, guide, y=labels).")
    return (
        _Within(model, lambda: _Observe(observed, in_model=True)),
        _Within(guide, lambda: _Observe(observed, in_model=False)),
    )


class _Within(nn.Module):
    """A program, run within a handler; a module, so that the parameters below it are found."""

    def __init__(self, program: Program, handler: Callable[[], Messenger]) -> None:
        super().__init__()
        self.program, self.handler = program, handler

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.handler():
            return self.program(*args, **kwargs)


class _Observe(Messenger):
    """Puts values in the place of draws; in a guide, out of sight of whatever scores it."""

    def __init__(self, values: Mapping[str, Tensor], *, in_model: bool) -> None:
        super().__init__()
        self.values, self.in_model = values, in_model
        self.missing = set(values)

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.values or site_is_subsample(msg):
            return
        value, fn = self.values[name], msg["fn"]
        _check_value(name, value, fn)
        msg["value"], msg["is_observed"], msg["stop"] = value, True, not self.in_model
        self.missing.discard(name)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)
        if kind is None and self.in_model and self.missing:
            raise ValueError(f"the model has no site {sorted(self.missing)[0]!r} to be observed.")


class _Enumerate(Messenger):
    """Marks sites for Pyro's enumeration, after giving groups of them a list of their values."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        dims = fn.reinterpreted_batch_ndims if isinstance(fn, dist.Independent) else 0
        base = fn.base_dist if dims else fn
        if not getattr(base, "has_enumerate_support", False):
            return
        if dims or fn.has_rsample:
            fn = msg["fn"] = _Groups(base, dims)
            _check_count(msg["name"], fn)
        msg["infer"].setdefault("enumerate", "parallel")


class _Groups(dist.Independent):
    """Independent discrete elements, with the product of their supports."""

    has_enumerate_support = True  # type: ignore[assignment]
    # Pyro takes the weight of a site that is reparameterised, as straight-through ones are, for 1
    has_rsample = False  # type: ignore[assignment]

    @property
    def each(self) -> Tensor:
        """The values of one element, with shape `(K, *event_shape)`."""
        values = self.base_dist.enumerate_support(expand=False)
        return values.reshape(len(values), *self.base_dist.event_shape)

    @property
    def groups(self) -> torch.Size:
        """The shape of the elements."""
        batch = self.base_dist.batch_shape
        return batch[len(batch) - self.reinterpreted_batch_ndims :]

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all K^G values, with shape `(K^G, *batch_shape or ones, *event_shape)`."""
        each, count = self.each, math.prod(self.groups)
        numbers = torch.arange(len(each), device=each.device)
        # of a single list this is the list itself, a dimension short
        index = torch.cartesian_prod(*[numbers] * count).reshape(-1, count)
        ones = [1] * len(self.batch_shape)
        values = each[index].reshape(len(index), *ones, *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values


def _check_count(name: str, fn: _Groups) -> None:
    each, count = len(fn.each), math.prod(fn.groups)
    if count * math.log(each) > math.log(LARGEST) + 1e-9:
        raise ValueError(
            f"site {name!r} has {each}^{count} values, too many to enumerate (at most {LARGEST}); "
            "take an ELBO that draws them, such as infer.TraceExactKL_ELBO, or a straight-through "
            "guide."
        )


def _check_value(name: str, value: Tensor, fn: Any) -> None:
    wanted = tuple(fn.shape())
    fits = value.dim() >= fn.event_dim and tuple(value.shape) == wanted[-value.dim() :]
    if not fits:
        raise ValueError(
            f"site {name!r}: what was observed has shape {tuple(value.shape)}, but one draw of "
            f"the {distribution_name(fn)} has shape {wanted}."
        )
    require(
        inside(fn.support, value),
        lambda: ValueError(
            f"site {name!r}: what was observed lies outside the support of the "
            f"{distribution_name(fn)} ({space_of(fn.support).name})."
        ),
    )
