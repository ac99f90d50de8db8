"""Mixtures whose KL is exact, by quadrature or enumeration, captured."""

import pytest
from builders import binary, small_vae
from equal import assert_same

from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO

BITS = {"family": fam.OneHotCategorical, "categories": 3}
PAIRS = {
    "one number": lambda: (
        fam.Mixture(1, components=2, learnable=True),
        fam.Normal(1, context=8),
    ),
    "few values": lambda: (
        fam.Mixture(2, components=2, learnable=True, **BITS),
        fam.OneHotCategorical(2, context=8, categories=3),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_exact_kls_of_mixtures_are_captured(name):
    prior, guide = PAIRS[name]()
    vae, x = small_vae(prior, guide), binary()
    elbo = TraceExactKL_ELBO(strict=True)
    assert_same(elbo, vae.model, vae.guide, (x,), vae.parameters())
