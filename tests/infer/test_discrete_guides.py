"""Discrete guides: the bound is the bound, and whose gradient is biased is known.

All truths here are sums over the few values that a discrete latent takes.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import WIDTH, binary, net, small_vae, train
from paired import calls, mean_is
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae import VAE, compare, distributions
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO

F64 = torch.float64
GUIDES = {
    "vectors": (fam.OneHotCategorical, fam.StraightThroughOneHotCategorical),
    "bits": (fam.Bernoulli, fam.StraightThroughBernoulli),
}
kinds = pytest.mark.parametrize("kind", GUIDES)


def latent(kind, cls=None, **options):
    """A latent of three values (one of three classes) or of four (two bits)."""
    cls = GUIDES[kind][0] if cls is None else cls
    return cls(1, categories=3, **options) if kind == "vectors" else cls(2, **options)


def vae_of(kind, guide):
    """A VAE whose prior is not uniform, and all values of its latent."""
    prior = latent(kind, learnable=True)
    with torch.no_grad():
        prior.raw_logits.copy_(torch.randn_like(prior.raw_logits))
    vae = small_vae(prior, latent(kind, guide, context=WIDTH))
    values = (
        torch.eye(3).unsqueeze(1)
        if kind == "vectors"
        else torch.cartesian_prod(*[torch.arange(2.0)] * 2)
    )
    return vae, values


def enumerated(vae, values, x):
    """log p(x) and the ELBO of each datum, by sums over the values of z."""
    z = values.unsqueeze(1).expand(-1, len(x), *values.shape[1:])
    log_q = vae.guide.encoder.z(x).log_prob(z)
    joint = vae.model.prior.z().log_prob(z) + vae.model.decoder(z).log_prob(x)
    return joint.logsumexp(0), (log_q.exp() * (joint - log_q)).sum(0)


@pytest.mark.parametrize("straight", [False, True], ids=["score function", "straight-through"])
@kinds
def test_every_elbo_is_the_bound(kind, straight):
    vae, values = vae_of(kind, GUIDES[kind][straight])
    x = binary(50)
    log_p, elbo = enumerated(vae, values, x)
    assert bool((elbo < log_p).all())
    objectives = [Trace_ELBO(), TraceExactKL_ELBO()]
    if straight:  # Pyro's mean-field ELBO wants reparameterised draws
        objectives.append(TraceMeanField_ELBO())
    for objective in objectives:
        with torch.no_grad():
            losses = [objective.loss(vae.model, vae.guide, x) for _ in range(60)]
        assert mean_is(np.array(losses)[:, None], -elbo.sum().item())


def test_scoring_relaxed_draws_instead_is_another_quantity():
    # Pyro's straight-through class is scored by its relaxed density, against a mass
    logits, prior = torch.tensor([0.5, 0.0, -0.5]), dist.OneHotCategorical(logits=torch.zeros(3))
    q = dist.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.5), logits=logits)
    with torch.no_grad():
        z = [q.rsample() for _ in range(2000)]
        ratio = torch.stack([q.log_prob(v) - prior.log_prob(v) for v in z])
    exact = kl_divergence(dist.OneHotCategorical(logits=logits), prior)
    assert ratio.mean() - exact > 10 * ratio.std() / 2000**0.5


# ------------------------------------------------------------------------------ gradients
def summed_gradient(q, p, logits, values):
    """The expectation of the gradient of log q(z) - log p(z), over all straight-through draws."""
    mean = q.mean
    z = values + (mean - mean.detach())
    ratio = q.log_prob(z) - p.log_prob(z)
    (gradient,) = torch.autograd.grad((q.log_prob(values).exp().detach() * ratio).sum(), logits)
    return gradient


def test_the_kl_of_vectors_keeps_its_gradient():
    logits = torch.tensor([1.0, 0.0, -2.0], dtype=F64, requires_grad=True)
    prior = torch.tensor([0.0, 1.5, 0.3], dtype=F64)
    ours = distributions.StraightThroughOneHotCategorical(logits=logits)
    values = torch.eye(3, dtype=F64)
    exact = kl_divergence(ours, dist.OneHotCategorical(logits=prior))
    (truth,) = torch.autograd.grad(exact, logits, retain_graph=True)
    p = distributions.OneHotCategorical(logits=prior)
    torch.testing.assert_close(summed_gradient(ours, p, logits, values), truth)
    # scored by the position of the largest element, as torch does, it has none
    torchs = dist.OneHotCategoricalStraightThrough(logits=logits)
    none = summed_gradient(torchs, dist.OneHotCategorical(logits=prior), logits, values)
    torch.testing.assert_close(none, torch.zeros_like(none), rtol=0, atol=1e-12)


def test_the_kl_of_bits_keeps_its_gradient():
    logits = torch.tensor(0.8, dtype=F64, requires_grad=True)
    q = distributions.StraightThroughBernoulli(logits=logits)
    p = dist.Bernoulli(logits=torch.tensor(-0.4, dtype=F64))
    (truth,) = torch.autograd.grad(kl_divergence(q, p), logits, retain_graph=True)
    found = summed_gradient(q, p, logits, torch.tensor([0.0, 1.0], dtype=F64))
    torch.testing.assert_close(found, truth)


def mean_gradient(f, probability):
    """The expectation of the straight-through gradient of f at a bit."""
    logits = torch.logit(torch.tensor(probability, dtype=F64)).requires_grad_()
    mean = logits.sigmoid()
    total = sum(
        weight * f(value + (mean - mean.detach()))
        for weight, value in ((1 - probability, 0.0), (probability, 1.0))
    )
    return torch.autograd.grad(total, logits)[0].item() / (probability * (1 - probability))


def test_what_is_not_linear_has_a_biased_gradient():
    # d E[f] / d p is f(1) - f(0), for any f
    assert mean_gradient(lambda z: 3 * z + 1, 0.8) == pytest.approx(3)
    assert mean_gradient(lambda z: (z - 0.4) ** 2, 0.8) == pytest.approx(0.8)  # and not 0.2


@kinds
def test_elbos_have_one_gradient(kind):
    """Sampled or exact, the KL of a straight-through guide has the same expected gradient."""
    q, p = latent(kind, GUIDES[kind][1]), latent(kind)
    with torch.no_grad():
        p.logits += torch.linspace(-1, 1, p.logits.numel()).view_as(p.logits)
    weights = torch.linspace(-1, 2, p.logits.numel())

    def model():
        with pyro.plate("data", 300):
            z = pyro.sample("z", p())
            # linear in z, so that nothing is biased
            pyro.factor("likelihood", z.flatten(1) @ weights)

    def guide():
        logits = pyro.param("logits", torch.full_like(p.logits, 0.3))
        with pyro.plate("data", 300):
            pyro.sample("z", q.distribution(logits))

    elbos = (Trace_ELBO(), TraceMeanField_ELBO(), TraceExactKL_ELBO())
    gradients = [calls(elbo, model, guide, count=40)[:, 1:] for elbo in elbos]
    logits = torch.full_like(p.logits, 0.3).requires_grad_()
    mean = logits.softmax(-1) if kind == "vectors" else logits.sigmoid()
    loss = kl_divergence(q.distribution(logits), p()) - mean.flatten() @ weights
    (truth,) = torch.autograd.grad(300 * loss, logits)
    truth = truth.double().flatten().numpy()
    assert mean_is(gradients[0], truth)
    # with an exact KL and a linear likelihood no noise is left
    for found in gradients[1:]:
        assert abs(found - truth).max() < 1e-3


# ------------------------------------------------------------------------------ the whole house
@kinds
def test_compare_finds_analytic_and_sampled_alike(kind):
    vae, _ = vae_of(kind, GUIDES[kind][1])
    with torch.no_grad():
        vae.guide.encoder.z[-1].head.weight.mul_(20)
    table = compare(vae.model, vae.guide, binary(), num_particles=200)
    assert table.kl_route.item() == "closed"
    assert table.mean_field_route.item() == "analytic"
    assert table.findings.item() == ""
    assert bool((abs(table.kl_z_score) < 5).all())
    assert not bool((table.gradients_agree == 0).any())


@kinds
def test_an_exact_kl_is_told_for_every_discrete_guide(kind):
    for cls in GUIDES[kind]:
        vae, _ = vae_of(kind, cls)
        elbo = TraceExactKL_ELBO(strict=True)
        train(vae, elbo, binary())
        assert elbo.routes["z"].kind == "closed"


@pytest.mark.parametrize(
    ("guide", "prior", "cures"),
    [
        (
            fam.RelaxedOneHotCategorical(1, categories=3, context=WIDTH),
            fam.OneHotCategorical(1, categories=3),
            ["OneHotCategorical", "StraightThroughOneHotCategorical"],
        ),
        (
            fam.RelaxedBernoulli(2, context=WIDTH),
            fam.Bernoulli(2),
            ["Bernoulli", "StraightThroughBernoulli"],
        ),
        (
            fam.StraightThroughBernoulli(2, context=WIDTH),
            fam.RelaxedBernoulli(2),
            ["Beta", "RelaxedBernoulli"],
        ),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, fam.Family) else "",
)
def test_a_density_beside_a_mass_is_refused_with_the_cure(guide, prior, cures):
    with pytest.raises(ValueError, match="one is a mass and the other a density") as refusal:
        small_vae(prior, guide)
    assert all(f"fam.{name}" in str(refusal.value) for name in cures)


def test_a_site_of_each_kind_in_one_vae():
    vae = VAE(
        prior={
            "kind": fam.OneHotCategorical(1, categories=4, learnable=True),
            "bits": fam.Bernoulli(2),
            "soft": fam.RelaxedBernoulli(2),
        },
        encoder={
            "kind": nn.Sequential(
                net(6), fam.StraightThroughOneHotCategorical(1, categories=4, context=WIDTH)
            ),
            "bits": nn.Sequential(net(6), fam.Bernoulli(2, context=WIDTH)),
            "soft": nn.Sequential(net(6), fam.RelaxedBernoulli(2, context=WIDTH)),
        },
        decoder=nn.Sequential(net(8), fam.Bernoulli(6, context=WIDTH)),
    )
    elbo = TraceExactKL_ELBO(strict=True)
    train(vae, elbo, binary())
    assert [elbo.routes[name].kind for name in ("kind", "bits", "soft")] == [
        "closed",
        "closed",
        "quadrature",
    ]


# ------------------------------------------------------------------------------ masses
def test_draws_are_what_they_should_be():
    logits = torch.tensor([[50.0, -50.0, 0.0], [-3.0, 1.0, 2.0]])
    z = distributions.StraightThroughOneHotCategorical(logits=logits).rsample((1000,))
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert bool((z.sum(-1) == 1).all())
    bits = distributions.StraightThroughBernoulli(logits=logits).rsample((1000,))
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    probability = bits[:, 1].mean(0)
    error = (probability * (1 - probability) / 1000).sqrt()
    assert bool((abs(probability - logits[1].sigmoid()) < 6 * error + 1e-3).all())


def test_impossible_classes_have_no_mass():
    d = distributions.OneHotCategorical(logits=torch.tensor([0.0, 0.0, -torch.inf]))
    z = torch.eye(3, requires_grad=True)
    mass = d.log_prob(z)
    torch.testing.assert_close(mass.detach().exp(), torch.tensor([0.5, 0.5, 0.0]))
    (slope,) = torch.autograd.grad(mass[:2].sum(), z)
    assert bool(slope.isfinite().all())


def test_a_class_number_is_no_latent():
    # a network would read it as a quantity, and cannot even read the integers that are drawn
    assert fam.Categorical.roles == {"likelihood"}
    assert not fam.Categorical(2, categories=3)().sample().is_floating_point()


def test_linear_masses_are_those_of_torch():
    logits = torch.randn(7, 5)
    ours = distributions.OneHotCategorical(logits=logits)
    torchs = dist.OneHotCategorical(logits=logits)
    z = torchs.sample((20,))
    assert torch.equal(ours.log_prob(z), torchs.log_prob(z))
    with dist.validation_enabled(True), pytest.raises(ValueError, match="support|Expected value"):
        distributions.OneHotCategorical(logits=logits).log_prob(torch.full((7, 5), 0.2))
