"""Enumerated and observed latents, against sums over the values of a discrete latent."""

import copy
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import WIDTH, binary, copies, net, small_vae, unmoved
from paired import agree
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn

from pyro_vae import VAE, HierarchicalVAE
from pyro_vae import families as fam
from pyro_vae.infer import (
    NotCapturable,
    TraceExactKL_ELBO,
    TraceIWAE_ELBO,
    TraceSTL_ELBO,
    capture,
    enumerated,
    given,
    summed,
)

LATENTS = {
    "one group": lambda context=0: fam.OneHotCategorical(1, context, categories=3),
    "two groups": lambda context=0: fam.OneHotCategorical(2, context, categories=3),
    "a table of groups": lambda context=0: fam.OneHotCategorical((2, 2), context, categories=2),
    "bits": lambda context=0: fam.Bernoulli(3, context),
    "straight-through": lambda context=0: fam.StraightThroughBernoulli(2, context),
}
COUNTS = {"one group": 3, "two groups": 9, "a table of groups": 16, "bits": 8}


def values_of(family):
    """All values of a latent, listed by hand."""
    shape = family.event_shape
    if isinstance(family, fam.OneHotCategorical):
        groups, classes = math.prod(shape[:-1]), shape[-1]
        digits = torch.cartesian_prod(*[torch.arange(classes)] * groups).reshape(-1, groups)
        return nn.functional.one_hot(digits, classes).float().reshape(-1, *shape)
    return torch.cartesian_prod(*[torch.arange(2.0)] * math.prod(shape)).reshape(-1, *shape)


@pytest.mark.parametrize("kind", LATENTS)
def test_the_sum_over_all_values_is_exact(kind):
    guide = LATENTS[kind](WIDTH)
    prior = fam.Bernoulli(2) if kind == "straight-through" else LATENTS[kind]()
    with torch.no_grad():
        prior.logits.copy_(torch.randn_like(prior.logits))
    vae, x = small_vae(prior, guide), binary()
    values = values_of(guide)
    assert len(values) == COUNTS.get(kind, 4)
    z = values.unsqueeze(1).expand(-1, len(x), *values.shape[1:])
    log_q = vae.guide.encoder.z(x).log_prob(z)
    joint = prior().log_prob(z) + vae.model.decoder(z).log_prob(x)
    truth = -(log_q.exp() * (joint - log_q)).sum()
    wanted = torch.autograd.grad(truth, list(vae.parameters()))
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(
        vae.model, enumerated(vae.guide), x
    )
    found = torch.autograd.grad(loss, list(vae.parameters()))
    torch.testing.assert_close(loss, truth, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------- y and z

CLASSES, PIXELS = 3, 4


class Mixed:
    """y ~ Categorical, z ~ N(0, 1), x | y, z ~ N(w z + b_y, s^2 I): all is known."""

    def __init__(self):
        generator = torch.Generator().manual_seed(5)

        def randn(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.logits, self.w, self.b, self.s = randn(CLASSES), randn(PIXELS), randn(3, PIXELS), 0.7
        self.precision = 1 + self.w.square().sum() / self.s**2
        self.x = 1.5 * randn(12, PIXELS)

    def log_joint(self):
        """log p(x, y), one column for each y."""
        covariance = self.w.outer(self.w) + self.s**2 * torch.eye(PIXELS).double()
        columns = [dist.MultivariateNormal(b, covariance).log_prob(self.x) for b in self.b]
        return torch.stack(columns, -1) + self.logits.log_softmax(0)

    def vae(self, log_q):
        """With the exact q(z|x,y), and q(y|x) as given, by datum."""

        def one_hot(logits):
            return dist.OneHotCategorical(logits=logits.unsqueeze(-2)).to_event(1)

        def posterior(seen):
            x, y = seen[..., :PIXELS], seen[..., PIXELS:]
            mean = (x - y @ self.b) @ self.w / self.s**2 / self.precision
            return dist.Normal(mean.unsqueeze(-1), self.precision**-0.5).to_event(1)

        def decoder(seen):
            y, z = seen[..., :CLASSES], seen[..., CLASSES:]
            return dist.Normal(z * self.w + y @ self.b, self.s).to_event(1)

        def standard(y):
            return dist.Normal(y.new_zeros(*y.shape[:-2], 1), 1.0).to_event(1)

        return HierarchicalVAE(
            {"y": lambda: one_hot(self.logits), "z": standard},
            {"y": lambda x: one_hot(log_q), "z": posterior},
            decoder,
            skip=True,
        )


def test_what_comes_after_a_discrete_site_is_summed_exactly():
    mixed = Mixed()
    joint, elbo = mixed.log_joint(), TraceEnum_ELBO(max_plate_nesting=1)
    log_q = torch.linspace(-1, 1, 12 * CLASSES).double().reshape(12, CLASSES).log_softmax(-1)
    for q in (log_q, joint.log_softmax(-1)):
        vae = mixed.vae(q)
        loss = elbo.loss(vae.model, enumerated(vae.guide), mixed.x)
        assert loss == pytest.approx(-(q.exp() * (joint - q)).sum().item(), rel=1e-9)
    assert loss == pytest.approx(-joint.logsumexp(-1).sum().item(), rel=1e-9)


@pytest.mark.parametrize(
    "elbo", [Trace_ELBO(), TraceSTL_ELBO(2), TraceIWAE_ELBO(3, vectorize_particles=True)]
)
def test_what_was_observed_is_scored_and_seen(elbo):
    mixed = Mixed()
    vae, joint = mixed.vae(torch.zeros(12, CLASSES).double()), mixed.log_joint()
    labels = torch.arange(12) % CLASSES
    y = nn.functional.one_hot(labels, CLASSES).double().unsqueeze(-2)
    loss = elbo.loss(*given(vae.model, vae.guide, y=y), mixed.x)
    truth = -joint[torch.arange(12), labels].sum().item()
    assert loss == pytest.approx(truth, rel=1e-9)


def test_an_exact_kl_is_left_of_what_was_not_observed():
    mixed = Mixed()
    vae = mixed.vae(torch.zeros(12, CLASSES).double())
    y = torch.eye(CLASSES).double()[:1].expand(12, 1, CLASSES)
    model, guide = given(vae.model, vae.guide, y=y)
    elbo = TraceExactKL_ELBO(strict=True)
    found = np.array([elbo.loss(model, guide, mixed.x) for _ in range(200)])
    assert list(elbo.routes) == ["z"]
    error = found.std(ddof=1) / len(found) ** 0.5
    assert abs(found.mean() + mixed.log_joint()[:, 0].sum().item()) < 5.5 * error


def learned(**options):
    return HierarchicalVAE(
        {
            "y": fam.OneHotCategorical(1, categories=3),
            "z": nn.Sequential(nn.Flatten(-2), fam.Normal(2, 3)),
        },
        {
            "y": nn.Sequential(net(6), fam.OneHotCategorical(1, WIDTH, categories=3)),
            "z": nn.Sequential(net(9), fam.Normal(2, WIDTH)),
        },
        nn.Sequential(net(5), fam.Bernoulli(6, WIDTH)),
        skip=True,
        **options,
    )


def labels(count=10):
    return nn.functional.one_hot(torch.arange(count) % 3, 3).float().unsqueeze(-2)


def test_both_train_what_they_hold():
    vae, x = learned(), binary()
    for program in (enumerated(vae.guide), given(vae.model, vae.guide, y=labels())[1]):
        assert set(program.parameters()) == set(vae.guide.parameters())
    before = copies(vae)
    optimizer = pyro.optim.Adam({"lr": 0.01})
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    pyro.infer.SVI(vae.model, enumerated(vae.guide), optimizer, elbo).step(x)
    assert not unmoved(vae, before)
    other = copy.deepcopy(vae)
    model, guide = given(other.model, other.guide, y=labels())
    before = copies(other)
    loss = TraceExactKL_ELBO()(model, guide)(x)
    loss.backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    still = [name for name in unmoved(other, before) if "encoder.y" not in name]
    assert not still


def test_observed_programs_are_captured():
    vae, x = learned(), binary()
    model, guide = given(vae.model, vae.guide, y=labels())
    elbo = TraceExactKL_ELBO()
    captured = capture(elbo, model, guide, x)
    torch.manual_seed(1)
    loss = captured(x).item()
    torch.manual_seed(1)
    assert elbo.loss(model, guide, x) == pytest.approx(loss, rel=1e-6)


def test_pyros_enumeration_reads_numbers_and_is_not_captured():
    vae = learned()
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    with pytest.raises(NotCapturable, match=r"mask\.all"):
        capture(elbo, vae.model, enumerated(vae.guide), binary())


# ---------------------------------------------------------------------- sums under any ELBO


@pytest.mark.parametrize("kind", LATENTS)
def test_a_sum_over_the_only_site_is_exact_under_any_elbo(kind):
    guide = LATENTS[kind](WIDTH)
    prior = fam.Bernoulli(2) if kind == "straight-through" else LATENTS[kind]()
    vae, x = small_vae(prior, guide, data_size=50), binary()
    exact = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(
        vae.model, enumerated(vae.guide), x
    )
    wanted = torch.autograd.grad(exact, list(vae.parameters()))
    for elbo in (Trace_ELBO(), TraceExactKL_ELBO(), TraceSTL_ELBO()):
        loss = elbo.differentiable_loss(*summed(vae.model, vae.guide, "z"), x)
        torch.testing.assert_close(loss, exact, rtol=1e-5, atol=1e-3)
        found = torch.autograd.grad(loss, list(vae.parameters()))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "elbo", [Trace_ELBO(), TraceSTL_ELBO(2), TraceSTL_ELBO(3, vectorize_particles=True)]
)
def test_a_sum_with_the_exact_posterior_is_the_closed_form(elbo):
    mixed = Mixed()
    joint = mixed.log_joint()
    q = torch.linspace(-1, 1, 12 * CLASSES).double().reshape(12, CLASSES).log_softmax(-1)
    vae = mixed.vae(q)
    loss = elbo.loss(*summed(vae.model, vae.guide, "y"), mixed.x)
    assert loss == pytest.approx(-(q.exp() * (joint - q)).sum().item(), rel=1e-9)


def test_terms_tell_what_the_site_costs_by_datum():
    mixed = Mixed()
    q = torch.linspace(-1, 1, 12 * CLASSES).double().reshape(12, CLASSES).log_softmax(-1)
    vae = mixed.vae(q)
    found = TraceSTL_ELBO().terms(*summed(vae.model, vae.guide, "y"), mixed.x)
    kl = (q.exp() * (q - mixed.logits.log_softmax(0))).sum(-1)
    torch.testing.assert_close(found["log_likelihood.y"], -kl)
    torch.testing.assert_close(found["elbo"], (q.exp() * (mixed.log_joint() - q)).sum(-1))


@pytest.mark.parametrize("options", [{}, {"num_particles": 2, "vectorize_particles": True}])
def test_sums_with_an_exact_kl_have_the_gradient_of_pyros_enumeration(options):
    vae, x = learned(data_size=40), binary()
    elbo, other = TraceExactKL_ELBO(strict=True, **options), TraceEnum_ELBO(max_plate_nesting=1)
    parameters, rows = list(vae.parameters()), []
    for _ in range(150):
        pair = []
        for loss in (
            elbo.differentiable_loss(*summed(vae.model, vae.guide, "y"), x),
            other.differentiable_loss(vae.model, enumerated(vae.guide), x),
        ):
            gradient = torch.autograd.grad(loss, parameters)
            pair.append(torch.cat([loss.reshape(1), *[g.flatten() for g in gradient]]).detach())
        rows.append(torch.stack(pair).double())
    ours, pyros = torch.stack(rows).numpy().swapaxes(0, 1)
    assert agree(ours, pyros)
    route = elbo.routes["z"]  # scaled by a plate of particles, weights are compared by value
    assert route.kind == "closed" or (route.kind == "mixed" and route.sampled == 0)
    # a faulty sum would be seen: another weight of the classes is another gradient
    assert not agree(1.1 * ours, pyros)


@pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceExactKL_ELBO(), TraceSTL_ELBO()])
def test_sums_are_captured(elbo):
    vae, x = learned(), binary()
    programs = summed(vae.model, vae.guide, "y")
    captured = capture(elbo, *programs, x)
    found = []
    for captures in (True, False):
        torch.manual_seed(1)
        vae.zero_grad()
        loss = captured(x) if captures else elbo.differentiable_loss(*programs, x)
        if not captures:
            loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in vae.parameters()]))
    torch.testing.assert_close(found[0], found[1])


def test_importance_weights_within_a_datum_are_refused():
    vae = learned()
    with pytest.raises(NotImplementedError, match="scaled datum by datum"):
        TraceIWAE_ELBO(2).loss(*summed(vae.model, vae.guide, "y"), binary())


@pytest.mark.parametrize(
    ("site", "match"),
    [("label", "draws 'y' before 'label'"), ("z", "draws 'y' before 'z'")],
)
def test_the_site_of_a_sum_comes_first(site, match):
    vae = learned()
    with pytest.raises(ValueError, match=match):
        Trace_ELBO().loss(*summed(vae.model, vae.guide, site), binary())


def test_what_cannot_be_summed_is_refused():
    vae, x = small_vae(), binary()
    model, guide = summed(vae.model, vae.guide, "z")
    with pytest.raises(ValueError, match="values of a Normal cannot be listed"):
        Trace_ELBO().loss(model, guide, x)
    with pytest.raises(ValueError, match="run it before the model"):
        summed(vae.model, vae.guide, "z")[0](x)
    with pytest.raises(ValueError, match="the guide has no site 'z'"):
        summed(vae.model, lambda x: None, "z")[1](x)
    many = small_vae(fam.Bernoulli(11), fam.Bernoulli(11, WIDTH))
    with pytest.raises(ValueError, match=r"2\^11 values"):
        Trace_ELBO().loss(*summed(many.model, many.guide, "z"), x)


def test_particles_find_another_dimension():
    vae, x = learned(), binary()
    elbo = TraceExactKL_ELBO(3, vectorize_particles=True, max_plate_nesting=1)
    with pytest.raises(ValueError, match="dim"):
        elbo.loss(*summed(vae.model, vae.guide, "y"), x)
    # what failed holds nothing
    elbo = TraceExactKL_ELBO(3, vectorize_particles=True, max_plate_nesting=2)
    assert math.isfinite(elbo.loss(*summed(vae.model, vae.guide, "y"), x))


# ---------------------------------------------------------------------- refusals


def test_too_many_values_are_refused():
    vae = small_vae(fam.Bernoulli(11), fam.Bernoulli(11, WIDTH))
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    with pytest.raises(ValueError, match=r"'z' has 2\^11 values, too many.*TraceExactKL_ELBO"):
        elbo.loss(vae.model, enumerated(vae.guide), binary())


def test_continuous_guides_are_left_alone():
    vae, x = small_vae(), binary()
    torch.manual_seed(1)
    loss = Trace_ELBO().loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    assert Trace_ELBO().loss(vae.model, enumerated(vae.guide), x) == loss


@pytest.mark.parametrize("straight", [False, True])
def test_single_sites_of_plain_programs(straight):
    cls = dist.OneHotCategoricalStraightThrough if straight else dist.OneHotCategorical

    def model():
        with pyro.plate("data", 3):
            y = pyro.sample("y", dist.OneHotCategorical(logits=torch.zeros(4)))
            pyro.sample("x", dist.Normal(y @ torch.arange(4.0), 1.0), obs=torch.ones(3))

    def guide():
        with pyro.plate("data", 3):
            pyro.sample("y", cls(logits=torch.arange(4.0)))

    q = torch.arange(4.0).softmax(0)
    log_x = dist.Normal(torch.arange(4.0), 1.0).log_prob(torch.ones(()))
    truth = -3 * (q * (log_x - math.log(4) - q.log())).sum().item()
    found = TraceEnum_ELBO(max_plate_nesting=1).loss(model, enumerated(guide))
    assert found == pytest.approx(truth, rel=1e-5)


def test_nothing_observed():
    vae = learned()
    with pytest.raises(ValueError, match="nothing is observed; name a site"):
        given(vae.model, vae.guide)


@pytest.mark.parametrize(
    ("observed", "match"),
    [
        ({"label": labels()}, "the model has no site 'label'"),
        ({"y": torch.zeros(10)}, r"shape \(10,\).*OneHotCategorical has shape \(10, 1, 3\)"),
        ({"y": labels(9)}, r"shape \(9, 1, 3\), but one draw .* \(10, 1, 3\)"),
        ({"y": labels() / 2}, "outside the support of the OneHotCategorical"),
    ],
    ids=["name", "class numbers", "too few", "no class"],
)
def test_what_cannot_be_observed_is_refused(observed, match):
    vae = learned()
    with pytest.raises(ValueError, match=match):
        Trace_ELBO().loss(*given(vae.model, vae.guide, **observed), binary())


def test_a_vae_without_the_site_in_its_guide():
    """What the guide does not draw, the model may observe all the same."""
    vae = small_vae()
    z = torch.zeros(10, 2)
    model, guide = given(vae.model, lambda x: None, z=z)
    loss = Trace_ELBO().loss(model, guide, binary())
    assert math.isfinite(loss)
    assert isinstance(vae, VAE)
