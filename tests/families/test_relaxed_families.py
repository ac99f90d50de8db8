"""Relaxed families: temperatures, and the KLs that an ELBO finds for them."""

import pytest
import torch
from builders import WIDTH, binary, small_vae, train

from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO

CLASSES = {"categories": 3}
FAMILIES = [(fam.RelaxedBernoulli, {}), (fam.RelaxedOneHotCategorical, CLASSES)]
families = pytest.mark.parametrize(("cls", "options"), FAMILIES, ids=["bits", "vectors"])


@families
def test_temperature_is_a_constant_with_a_default(cls, options):
    assert torch.equal(cls(2, **options).temperature, torch.full((2,), 0.5))
    family = cls(2, context=4, temperature=torch.tensor([0.1, 2.0]), **options)
    assert family.predicted == ("logits",)
    assert "raw_temperature" not in dict(family.named_parameters())
    d = family(torch.zeros(7, 4)).base_dist
    assert torch.equal(d.temperature, torch.tensor([0.1, 2.0]).expand(7, 2))


@families
def test_temperature_can_be_learned_or_predicted_by_name(cls, options):
    learned = cls(2, learnable=("temperature",), **options)
    assert learned.learned == ("temperature",)
    predicted = cls(2, context=4, predict=("temperature",), logits=1.0, **options)
    assert predicted.predicted == ("temperature",)
    assert predicted(torch.randn(7, 4)).batch_shape == (7,)
    for family, d in ((learned, learned()), (predicted, predicted(torch.randn(7, 4)))):
        (d.log_prob(d.rsample((5,))) ** 2).sum().backward()
        assert all(bool((p.grad != 0).all()) for p in family.parameters())


@families
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_temperature_must_be_positive(cls, options, value):
    with pytest.raises(ValueError, match="temperature must satisfy"):
        cls(2, temperature=value, **options)


@families
def test_low_temperatures_are_nearly_discrete_and_high_ones_even(cls, options):
    low, high = (cls(2, temperature=t, **options)().sample((200,)) for t in (0.01, 100.0))
    assert bool((torch.minimum(low, 1 - low) < 0.1).float().mean() > 0.9)
    assert bool((abs(high - (0.5 if not options else 1 / 3)) < 0.1).all())


@pytest.mark.parametrize(
    ("guide", "prior", "kind"),
    [
        (fam.RelaxedBernoulli(2, WIDTH), fam.RelaxedBernoulli(2, learnable=True), "quadrature"),
        (fam.RelaxedBernoulli(2, WIDTH, temperature=0.1), fam.Beta(2), "quadrature"),
        (fam.Beta(2, WIDTH), fam.RelaxedBernoulli(2, learnable=True), "quadrature"),
        (
            fam.RelaxedOneHotCategorical(2, WIDTH, **CLASSES),
            fam.RelaxedOneHotCategorical(2, learnable=True, **CLASSES),
            "closed",
        ),
    ],
    ids=["bits", "bits beside Beta", "Beta beside bits", "vectors"],
)
def test_the_kl_is_exact(guide, prior, kind):
    vae, elbo = small_vae(prior, guide), TraceExactKL_ELBO()
    train(vae, elbo, binary())
    told = elbo.routes["z"]
    assert told.kind == kind
    assert told.sampled is None or told.sampled == 0


@pytest.mark.parametrize(
    ("prior", "missed"),
    [
        (fam.RelaxedOneHotCategorical(2, temperature=1.0, **CLASSES), 10),
        (fam.Dirichlet((2, 3)), None),
    ],
    ids=["other temperature", "Dirichlet"],
)
def test_what_has_no_form_is_sampled_and_told(prior, missed):
    vae = small_vae(prior, fam.RelaxedOneHotCategorical(2, WIDTH, **CLASSES))
    elbo = TraceExactKL_ELBO()
    train(vae, elbo, binary())
    told = elbo.routes["z"]
    if missed is None:
        assert told.kind == "sampled"
    else:
        assert told.sampled == missed


@families
def test_temperatures_far_apart_train(cls, options):
    # the prior is asked for its slope at draws that crowd at the ends
    vae = small_vae(
        cls(2, temperature=100.0, **options), cls(2, WIDTH, temperature=0.01, **options)
    )
    train(vae, TraceExactKL_ELBO(), binary())
    assert all(bool(p.isfinite().all()) for p in vae.parameters())
