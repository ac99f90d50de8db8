"""Every guide of the shelf beside every prior of the shelf: it trains, or it is refused."""

import math

import pyro
import pytest
import torch
from builders import (
    EVENT,
    WIDTH,
    binary,
    copies,
    fits,
    guide_of,
    names,
    net,
    prior_of,
    shaped,
    small_vae,
    svi,
    unmoved,
)
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_vae import VAE, kl
from pyro_vae import families as fam
from pyro_vae.families import registry
from pyro_vae.infer import TraceExactKL_ELBO
from pyro_vae.supports import space_of

STEPS = 5
PAIRS = [(q, p) for q in names("guide") for p in names("prior")]
ADMISSIBLE = [pair for pair in PAIRS if fits(*pair)]


def is_one_of(name, *classes):
    return issubclass(registry[name], classes)


def without_repetition():
    """The admissible pairs, but of the guides of one support one alone beside a composed prior.

    The density of a flow or a mixture has no form in which the guide's would matter: the KL is
    sampled at draws, of which the prior knows no more than where they lie. A guide flow stands
    beside every prior.
    """
    seen = set()
    for q, p in ADMISSIBLE:
        where = str(space_of(guide_of(q).support)), p
        composed = is_one_of(p, fam.Flow, fam.Mixture, fam.VampPrior)
        if composed and not is_one_of(q, fam.Flow):
            if where in seen:
                continue
            seen.add(where)
        yield q, p


TRAINED = list(without_repetition())
INADMISSIBLE = [pair for pair in PAIRS if not fits(*pair)]


def assert_trains(vae, elbo, x):
    module = elbo(vae.model, vae.guide)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    before = copies(vae)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = module(x)
        assert math.isfinite(loss.item())
        loss.backward()
        optimizer.step()
    assert not unmoved(vae, before)
    assert all(bool(p.isfinite().all()) for p in vae.parameters())


def test_shelf_holds_both_kinds_of_pairs():
    assert ("normal", "student_t") in ADMISSIBLE
    assert ("beta", "gamma") in ADMISSIBLE
    assert ("normal", "beta") in INADMISSIBLE
    assert ("dirichlet", "normal") in INADMISSIBLE
    assert all(shaped(name).event_shape == EVENT for pair in PAIRS for name in pair)


@pytest.mark.parametrize(("guide", "prior"), TRAINED)
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_admissible_pair_trains(guide, prior, elbo):
    vae, x = small_vae(prior_of(prior), guide_of(guide)), binary()
    if elbo is TraceMeanField_ELBO and not vae.guide.encoder.z(x).has_rsample:
        with pytest.raises(NotImplementedError, match="reparameterized"):
            assert_trains(vae, elbo(), x)
    else:
        assert_trains(vae, elbo(), x)


@pytest.mark.parametrize(("guide", "prior"), TRAINED)
def test_admissible_pair_tells_its_route_and_trains_with_exact_kls(guide, prior):
    vae, x = small_vae(prior_of(prior), guide_of(guide)), binary()
    route = kl.route(vae.guide.encoder.z(x), vae.model.prior.z())
    assert route.kind in ("closed", "quadrature", "sampled", "infinite")
    assert route.reason or route.kind in ("closed", "quadrature")
    assert route.source or route.kind not in ("closed", "quadrature")
    if route.kind == "infinite":
        with pytest.raises(ValueError, match="infinite"):
            assert_trains(vae, TraceExactKL_ELBO(), x)
    else:
        assert_trains(vae, TraceExactKL_ELBO(), x)


CONTINUOUS = [n for n in names("prior") if fam.Transported.fits(shaped(n).support)]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_real_guide_carried_to_the_prior_trains(name):
    prior = prior_of(name)
    base = fam.Normal(fam.Transported.base_shape(prior), context=WIDTH)
    vae = small_vae(prior, fam.Transported(base, to=prior))
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO(), TraceExactKL_ELBO()):
        assert_trains(vae, elbo, binary())


@pytest.mark.parametrize("name", names("likelihood"))
def test_every_likelihood_trains_on_its_own_replicates(name):
    likelihood = registry[name].example(6, context=WIDTH)
    vae = small_vae(likelihood=likelihood)
    with torch.no_grad():
        x = vae.model(size=10)
    assert x.shape == (10, 6)
    assert_trains(vae, Trace_ELBO(), x)


@pytest.mark.parametrize("guide", names("guide"))
def test_inadmissible_pairs_are_refused_at_construction(guide):
    for prior in [p for q, p in INADMISSIBLE if q == guide]:
        q, p = guide_of(guide), prior_of(prior)
        with pytest.raises(ValueError, match="cannot stand beside") as refusal:
            small_vae(p, q)
        message = str(refusal.value)
        assert f"a {type(q).__name__} guide" in message
        assert f"a {type(p).__name__} prior" in message
        fitting = [n for n in fam.fitting(p.support) if n != "Transported"]
        assert all(f"fam.{n}" in message for n in fitting)
        assert ("fam.Transported" in message) is fam.Transported.fits(p.support)


class Opaque(nn.Module):
    """A user's own module, whose family is not plain to see."""

    def __init__(self, family):
        super().__init__()
        self.inner = nn.Sequential(net(6), family)

    def forward(self, x):
        return self.inner(x)


def class_name(d):
    while isinstance(d, pyro.distributions.Independent):
        d = d.base_dist
    return type(d).__name__


@pytest.mark.parametrize(("guide", "prior"), INADMISSIBLE[::7])
@pytest.mark.parametrize("training", ["svi", "torch"])
def test_inadmissible_pair_of_functions_is_refused_at_the_first_call(guide, prior, training):
    q, p = guide_of(guide), shaped(prior)
    vae = VAE(
        prior=lambda: p(),
        encoder=Opaque(q),
        decoder=nn.Sequential(net(EVENT), fam.Bernoulli(6, context=WIDTH)),
    )
    before, x = copies(vae), binary()
    loss = svi(vae, Trace_ELBO()).step if training == "svi" else Trace_ELBO()(vae.model, vae.guide)
    with pytest.raises(ValueError, match="cannot stand beside") as refusal:
        loss(x)
    assert f"a {class_name(vae.guide.encoder.z(x))} guide" in str(refusal.value)
    assert f"a {class_name(p())} prior" in str(refusal.value)
    assert unmoved(vae, before) == list(before)
    assert all(parameter.grad is None for parameter in vae.parameters())


@pytest.mark.parametrize(("guide", "prior"), TRAINED[::5])
def test_admissible_pair_of_functions_trains(guide, prior):
    p = shaped(prior)
    vae = VAE(
        prior=lambda: p(),
        encoder=Opaque(guide_of(guide)),
        decoder=nn.Sequential(net(EVENT), fam.Bernoulli(6, context=WIDTH)),
    )
    assert_trains(vae, Trace_ELBO(), binary())
