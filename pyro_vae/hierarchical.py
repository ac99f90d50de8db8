"""The hierarchical variational autoencoder: latent layers, each with a prior of its own.

    p(x, z) = p(z_L) p(z_L-1 | z_L) ... p(z_1 | z_2) p(x | z_1)

The posterior of such a chain can be written in either direction,

    p(z | x) = p(z_L | x) p(z_L-1 | z_L, x) ... p(z_1 | z_2, x)        top down,
             = p(z_1 | x) p(z_2 | z_1) ... p(z_L | z_L-1)              bottom up,

and a guide copies one of the two. From the top down it draws its layers in the order of the model,
so that each layer's KL is one of two laws that look at the same draw. From the bottom up it does
not: p(z_1 | z_2) looks at what the guide draws only after z_1, and the KL of that layer has no
closed form of its own.
"""

from __future__ import annotations

__all__ = ["HierarchicalVAE"]

from functools import partial
from typing import Any

from torch import Tensor, nn

from pyro_vae.families import Family
from pyro_vae.vae import VAE, Conditional, Guide, Latent, Model, Sites, conditioned, joined

DIRECTIONS = ("top_down", "bottom_up")


class HierarchicalVAE(VAE):
    """A variational autoencoder with layers of latents z_1 ... z_L, the highest one drawn first.

    ELBO(x) = E_q[log p(x|z_1)] - E_q[log q(z|x) - log p(z)] <= log p(x), where
    p(z) = p(z_L) prod_l p(z_l | z_l+1), and q(z|x) is, from the top down,
    q(z_L|x) prod_l q(z_l | z_l+1, x), and from the bottom up, q(z_1|x) prod_l q(z_l+1 | z_l).

    `model` and `guide` are called as those of a `VAE`, and have one site for each layer in the
    plate `data`. From the top down `TraceExactKL_ELBO` has the KL of every layer exactly, given
    the draw of the layer above. From the bottom up it has that of the top layer alone, samples the
    others, and says so in `routes`; Pyro's `TraceMeanField_ELBO` is biased there, which `compare`
    finds.

    What looks at a layer receives its draw; what looks at several things (x and a layer, a layer
    and y) receives them flattened and joined in this order: `networks.Beside` leads the first part
    through a network of its own. A layer may be discrete: `infer.summed` and `infer.enumerated`
    sum over it, `infer.given` puts labels in its place.

    Arguments:
        priors: A mapping from the names of the layers, the highest first, to their priors: the
            first is a callable that returns p(z_L), each other a callable of the draw of the layer
            above that returns p(z_l | z_l+1), such as `nn.Sequential(net, family)`.
        encoders: A mapping from the same names to callables that return the guides, in the order
            in which the guide draws them: that of `priors` from the top down, the reverse from the
            bottom up. The first sees x. From the top down each other sees x and the layer above;
            from the bottom up, the layer below alone, and x as well if `skip` is set.
        decoder: A callable of z_1 that returns p(x|z_1).
        direction: "top_down" or "bottom_up".
        skip: Whether the decoder sees all layers, flattened and joined in the order of `priors`,
            so that it returns p(x | z_1, ..., z_L).
        data_size: The number N of data; given, a batch of B counts N / B times.
        name: The prefix of the parameters in Pyro's store, as `VAE` has it.

    Raises:
        ValueError: If there are fewer than two layers, if the names or the order of the encoders
            do not fit, if a lower prior is a family that looks at nothing, or for what `VAE`
            refuses: supports that do not fit, hidden modules.

    References:
        Ladder variational autoencoders (C. K. Sonderby, T. Raiko, L. Maaloe, S. K. Sonderby,
        O. Winther, 2016);
        Stochastic backpropagation and approximate inference in deep generative models
        (D. J. Rezende, S. Mohamed, D. Wierstra, 2014)

    Example:
        >>> import torch
        >>> from pyro_vae import families as fam, infer, networks
        >>> def net(features):
        ...     return networks.MLP(features, 16)
        >>> vae = HierarchicalVAE(
        ...     priors={"z2": fam.Normal(2), "z1": nn.Sequential(net(2), fam.Normal(4, 16))},
        ...     encoders={
        ...         "z2": nn.Sequential(net(6), fam.Normal(2, 16)),
        ...         "z1": nn.Sequential(net(6 + 2), fam.Normal(4, 16)),
        ...     },
        ...     decoder=nn.Sequential(net(4), fam.Bernoulli(6, 16)),
        ... )
        >>> elbo = infer.TraceExactKL_ELBO()
        >>> loss = elbo.differentiable_loss(vae.model, vae.guide, torch.ones(10, 6))
        >>> {name: route.kind for name, route in elbo.routes.items()}
        {'z2': 'closed', 'z1': 'closed'}
    """

    def __init__(
        self,
        priors: Sites,
        encoders: Sites,
        decoder: Conditional,
        *,
        direction: str = "top_down",
        skip: bool = False,
        data_size: int | None = None,
        name: str | None = None,
    ) -> None:
        nn.Module.__init__(self)
        if direction not in DIRECTIONS:
            raise ValueError(
                f"direction must be one of {', '.join(DIRECTIONS)}, not {direction!r}."
            )
        _check_layers(priors, encoders, direction)
        self.direction, self.skip = direction, skip
        self._make(
            partial(HierarchicalModel, skip=skip),
            partial(HierarchicalGuide, from_top=direction == "top_down", skip=skip),
            priors,
            encoders,
            decoder,
            data_size,
            name,
        )


class HierarchicalModel(Model):
    """p(x, z), layer by layer, as a Pyro model; made by `HierarchicalVAE`."""

    def __init__(self, *shared: Any, skip: bool) -> None:
        super().__init__(*shared)
        self.skip = skip

    def _latents(self, y: Tensor | None) -> list[Latent]:
        (top, prior), *lower = self.prior.items()
        latents = [self._draw(top, self._top(prior, y, top))]
        for name, conditional in lower:
            above, batch = joined(latents[-1:])
            latents.append(self._draw(name, conditional(conditioned(above, batch, y))))
        return latents

    def _seen(self, latents: list[Latent]) -> list[Latent]:
        return latents if self.skip else latents[-1:]


class HierarchicalGuide(Guide):
    """q(z|x), layer by layer, as a Pyro guide; made by `HierarchicalVAE`."""

    def __init__(self, *shared: Any, from_top: bool, skip: bool) -> None:
        super().__init__(*shared)
        self.from_top, self.skip = from_top, skip

    def _latents(self, x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
        data, drawn = (x, x.dim() - 1), dict[str, Tensor]()
        seen = [data]
        for name, encoder in self.encoder.items():
            value, batch = joined(seen)
            latent = self._draw(name, encoder(conditioned(value, batch, y)), batch)
            seen = [data, latent] if self.from_top or self.skip else [latent]
            drawn[name] = latent[0]
        return drawn


def _check_layers(priors: Sites, encoders: Sites, direction: str) -> None:
    names = list(priors)
    if len(names) < 2:
        raise ValueError(f"a hierarchy has two layers or more, not {names}; for one, take VAE.")
    wanted = names if direction == "top_down" else names[::-1]
    if list(encoders) != wanted:
        raise ValueError(
            f"the encoders must be {wanted}, the layers in the order in which a guide draws them "
            f'with direction="{direction}", but are {list(encoders)}.'
        )
    for name, above in zip(names[1:], names, strict=False):
        prior = priors[name]
        last = prior[-1] if isinstance(prior, nn.Sequential) else prior
        if isinstance(last, Family) and not last.context:
            raise ValueError(
                f"prior {name!r} is a {type(last).__name__} that looks at nothing, but looks at "
                f"{above!r}; give it context=, as in nn.Sequential(networks.MLP(features, 64), "
                f"families.{type(last).__name__}(..., context=64)). For layers that do not look "
                "at each other, take VAE with several sites."
            )
