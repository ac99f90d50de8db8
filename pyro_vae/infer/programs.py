"""Programs made of programs: latents that are enumerated, and latents that were observed.

Both are what a mixed or semi-supervised model needs. With a discrete site y beside others z,

    ELBO(x)    = sum_y q(y|x) [ L(x, y) - log q(y|x) ],
    L(x, y)    = E_q(z|x,y)[ log p(x, y, z) - log q(z|x,y) ],

the second where y was observed, by `given` and any ELBO; the first where y is unknown, by `summed`
and any ELBO that is a mean over draws, or by `enumerated` and Pyro's `TraceEnum_ELBO`, which
samples the KL of every other site, but takes several discrete ones.
"""

from __future__ import annotations

__all__ = ["enumerated", "given", "summed"]

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import pyro.distributions as dist
import torch
import torch.distributions as td
from pyro.distributions import TorchDistribution
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_vae.checks import require
from pyro_vae.infer.terms import distribution_name
from pyro_vae.kl.enumeration import LARGEST, support_of
from pyro_vae.supports import inside, space_of

Program: TypeAlias = Callable[..., Any]


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


def summed(model: Program, guide: Program, site: str) -> tuple[Program, Program]:
    """Return model and guide in which an ELBO sums over a discrete site, whatever the ELBO is.

    ELBO(x) = sum_y q(y|x) L(x, y) - KL(q(y|x) || p(y)). The site is hidden in the guide, and
    observed in the model at all its values, along a plate of its own; every other site is drawn
    once for each of them, and weighed by q(y|x), whose parameters have their gradient through that
    weight. So `TraceExactKL_ELBO` has the KL of the other sites exactly, `TraceSTL_ELBO` their
    path alone, and both can be captured, which `TraceEnum_ELBO` cannot.

    What y costs, KL(q(y|x) || p(y)), is told by `terms` as `log_likelihood.y`, negated. Vectorised
    particles need one more dimension: leave `max_plate_nesting` to be found, or add 1.
    `TraceIWAE_ELBO` refuses weights within a datum.

    Arguments:
        model: A Pyro model.
        guide: Its guide, which draws the site before all others.
        site: The name of a discrete site of at most 1024 values.

    Returns:
        Both programs, of the same arguments, to be run in turn: the guide, then the model; modules
        that hold the given ones.

    Raises:
        ValueError: When called, if the guide has no such site, draws another one before it, or
            cannot list its values, or if the model is run alone.

    Example:
        >>> from pyro_vae import HierarchicalVAE, families as fam, infer
        >>> vae = HierarchicalVAE(
        ...     priors={"y": fam.Bernoulli(1), "z": fam.Normal(1, context=1)},
        ...     encoders={"y": fam.Bernoulli(1, context=3), "z": fam.Normal(1, context=4)},
        ...     decoder=fam.Normal(3, context=2),
        ...     skip=True,
        ... )
        >>> elbo = infer.TraceExactKL_ELBO(strict=True)
        >>> loss = elbo.loss(*summed(vae.model, vae.guide, "y"), torch.zeros(5, 3))
        >>> elbo.routes["z"].kind
        'closed'
    """
    values = _Values(site)
    return (
        _Within(model, lambda: _SumModel(values)),
        _Within(guide, lambda: _SumGuide(values)),
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


class _Values:
    """All values of a site, and what q says of them: the guide leaves it, the model reads it."""

    def __init__(self, site: str) -> None:
        self.site, self.frame = site, None
        self.log_q, self.value = torch.empty(0), torch.empty(0)
        self.scales: dict[Any, Tensor] = {}

    def list(self, msg: Any) -> None:
        fn = _listed(self.site, msg["fn"])
        if fn is None:
            raise ValueError(
                f"site {self.site!r}: the values of a {distribution_name(msg['fn'])} cannot be "
                "listed, so there is no sum over them; only finite discrete sites have one."
            )
        depths = [-f.dim for f in msg["cond_indep_stack"] if f.vectorized]
        dim = -1 - max([*depths, len(fn.batch_shape)])
        value = fn.enumerate_support(expand=True)
        lead = [1] * (-1 - dim - len(fn.batch_shape))
        self.value = value.reshape(len(value), *lead, *value.shape[1:])
        self.log_q = fn.log_prob(self.value)
        self.frame = CondIndepStackFrame(f"values of {self.site}", dim, len(value), 0, len(value))
        self.scales = {1.0: self.log_q.exp()}

    def spread(self, msg: Any) -> None:
        """Put another site into the plate of the values, each weighed by q."""
        scale = msg["scale"]
        if not isinstance(scale, Tensor) and scale not in self.scales:
            self.scales[scale] = scale * self.scales[1.0]
        # guide and model are to hold the same tensor, so that they are known to weigh alike
        msg["scale"] = (
            scale * self.scales[1.0] if isinstance(scale, Tensor) else self.scales[scale]
        )
        # last, for the outermost plate is that of the data
        msg["cond_indep_stack"] = (*msg["cond_indep_stack"], self.frame)
        BroadcastMessenger._pyro_sample(msg)


class _Sum(Messenger):
    """Holds the dimension of the values, so that no other plate takes it."""

    def __init__(self, values: _Values) -> None:
        super().__init__()
        self.values, self.held = values, None

    def hold(self) -> None:
        frame = self.values.frame
        assert frame is not None
        self.held = frame.name, _DIM_ALLOCATOR.allocate(frame.name, frame.dim)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self.held is not None:
            _DIM_ALLOCATOR.free(*self.held)
        super().__exit__(kind, error, traceback)


class _SumGuide(_Sum):
    def __enter__(self) -> Any:
        self.values.frame = None
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        if msg["name"] == self.values.site:
            self.values.list(msg)
            self.hold()
            msg["value"], msg["is_observed"], msg["stop"] = self.values.value, True, True
        elif self.values.frame is None:
            raise ValueError(
                f"the guide draws {msg['name']!r} before {self.values.site!r}; it must draw first "
                "what is summed over."
            )
        else:
            self.values.spread(msg)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)
        if kind is None and self.values.frame is None:
            raise ValueError(f"the guide has no site {self.values.site!r} to be summed over.")


class _SumModel(_Sum):
    def __enter__(self) -> Any:
        if self.values.frame is None:
            raise ValueError(
                f"the guide lists the values of {self.values.site!r}: run it before the model."
            )
        self.hold()
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        self.values.spread(msg)
        if msg["name"] == self.values.site:
            msg["fn"] = _Against(msg["fn"], self.values.log_q)
            msg["value"], msg["is_observed"] = self.values.value, True


class _Against(TorchDistribution):
    """log p(y) - log q(y), as if it were a density: weighed by q, minus KL(q || p)."""

    arg_constraints = {}  # type: ignore[assignment]

    def __init__(self, p: Any, log_q: Tensor) -> None:
        self.p, self.log_q = p, log_q
        super().__init__(p.batch_shape, p.event_shape, validate_args=False)

    @property
    def support(self) -> Any:  # type: ignore[override]
        """That of p."""
        return self.p.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Against:
        """Return the same with a larger batch shape."""
        return _Against(self.p.expand(batch_shape), self.log_q)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(y) - log q(y), in nats, with the batch shape of p."""
        return self.p.log_prob(value) - self.log_q


class _Enumerate(Messenger):
    """Marks sites for Pyro's enumeration, after giving groups of them a list of their values."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        listed = _listed(msg["name"], fn)
        if listed is not None:
            msg["fn"] = listed
            msg["infer"].setdefault("enumerate", "parallel")


def _listed(name: str, fn: Any) -> Any:
    """The distribution in a form that lists its values; None if it has no list."""
    dims = fn.reinterpreted_batch_ndims if isinstance(fn, dist.Independent) else 0
    base = fn.base_dist if dims else fn
    if not getattr(base, "has_enumerate_support", False):
        return None
    if not (dims or fn.has_rsample):
        return fn
    groups = _Groups(base, dims)
    _check_count(name, groups)
    return groups


class _Groups(dist.Independent):
    """Independent discrete elements, with the product of their supports."""

    has_enumerate_support = True  # type: ignore[assignment]
    # Pyro takes the weight of a site that is reparameterised, as straight-through ones are, for 1
    has_rsample = False  # type: ignore[assignment]

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all K^G values, with shape `(K^G, *batch_shape or ones, *event_shape)`."""
        values = support_of(td.Independent(self.base_dist, self.reinterpreted_batch_ndims))
        assert values is not None  # no more than can be listed
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values


def _check_count(name: str, fn: _Groups) -> None:
    each, batch = len(fn.base_dist.enumerate_support(expand=False)), fn.base_dist.batch_shape
    count = math.prod(batch[len(batch) - fn.reinterpreted_batch_ndims :])
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
