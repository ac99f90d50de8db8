"""Two linear-Gaussian layers, whose marginal and posterior are known, under every ELBO.

    z2 ~ N(0, I),   z1 | z2 ~ N(V z2, Q),   x | z1 ~ N(W z1 + b, Psi),   Q and Psi diagonal

With z = (z2, z1) Gaussian, so are x and z|x: every bound of a linear-Gaussian guide is
log p(x) - KL(q(z|x) || p(z|x)), by the KL of two Gaussians.
"""

import math

import numpy as np
import pytest
import torch
from oracle import example as one_layer
from oracle import factor_analysis
from paired import mean_is
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae import HierarchicalVAE, compare, kl
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, TraceSTL_ELBO, capture

pytestmark = pytest.mark.usefixtures("float64")

P, TOP, LOW = 5, 2, 3
DIRECTIONS = ("top_down", "bottom_up")
directions = pytest.mark.parametrize("direction", DIRECTIONS)


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


V, W, BIAS = randn(LOW, TOP, seed=1), randn(P, LOW, seed=2), randn(P, seed=3)
Q, PSI = torch.tensor([0.5, 0.8, 0.3]).double(), torch.linspace(0.4, 1.0, P).double()
X = randn(20, P, seed=4) * 2


def joint():
    """p(z2, z1) and p(x), and the affine map from x to the mean of p(z|x) with its covariance."""
    cross = torch.cat([torch.eye(TOP), V]).double()
    prior = cross @ cross.T
    prior[TOP:, TOP:] += Q.diag()
    loading = torch.cat([torch.zeros(P, TOP).double(), W], 1)
    marginal = loading @ prior @ loading.T + PSI.diag()
    gain = prior @ loading.T @ torch.linalg.inv(marginal)
    return MultivariateNormal(BIAS, marginal), gain, prior - gain @ loading @ prior


PX, GAIN, POSTERIOR = joint()
LOG_P = PX.log_prob(X)


def conditional(rows, given):
    """Of the posterior, z[rows] | z[given], x: weights of x and of z[given], bias, covariance."""
    slope = POSTERIOR[rows][:, given] @ torch.linalg.inv(POSTERIOR[given][:, given])
    of_x = GAIN[rows] - slope @ GAIN[given]
    return of_x, slope, -of_x @ BIAS, POSTERIOR[rows][:, rows] - slope @ POSTERIOR[given][:, rows]


HIGH, DEEP = slice(0, TOP), slice(TOP, TOP + LOW)


def placed(family, weight, bias):
    with torch.no_grad():
        family.head.weight.copy_(weight)
        family.head.bias.copy_(bias)
    return family


def full(weight, bias, covariance, wrong):
    """A linear-Gaussian guide; `wrong` moves its mean and its spread."""
    root = torch.linalg.cholesky(covariance) * (1 + wrong)
    family = fam.FullNormal(len(bias), weight.shape[1], scale_tril=root)
    return placed(family, weight * (1 - wrong), bias + wrong)


def vae_of(direction, wrong=0.0, **options):
    """The model, and a guide that is its posterior if nothing is wrong."""
    first, then = (HIGH, DEEP) if direction == "top_down" else (DEEP, HIGH)
    names = ["z2", "z1"] if direction == "top_down" else ["z1", "z2"]
    of_x, slope, bias, covariance = conditional(then, first)
    if direction == "bottom_up":  # a chain: the layer below says all there is to say
        assert of_x.abs().max() < 1e-12
        weight = slope
    else:
        weight = torch.cat([of_x, slope], 1)
    start = full(GAIN[first], -GAIN[first] @ BIAS, POSTERIOR[first][:, first], wrong)
    encoders = dict(zip(names, [start, full(weight, bias, covariance, wrong)], strict=True))
    lower = fam.Normal(LOW, TOP, scale=Q.sqrt(), learnable=("scale",))
    return HierarchicalVAE(
        priors={"z2": fam.Normal(TOP), "z1": placed(lower, V, torch.zeros(LOW))},
        encoders=encoders,
        decoder=placed(fam.Normal(P, LOW, scale=PSI.sqrt()), W, BIAS),
        direction=direction,
        **options,
    )


def bound(vae, x=X):
    """ELBO(x) by log p(x) - KL(q || p(z|x)), a function of the guide's parameters."""
    (first, q1), (then, q2) = vae.guide.encoder.items()
    a, c = q1.head.weight, q1.head.bias
    of_x = q2.head.weight[:, :P] if vae.direction == "top_down" else 0 * q2.head.weight[:, :1]
    slope = q2.head.weight[:, P:] if vae.direction == "top_down" else q2.head.weight
    mean1 = x @ a.T + c
    mean2 = (x @ of_x.T if vae.direction == "top_down" else 0) + mean1 @ slope.T + q2.head.bias
    roots = [q.values(torch.zeros(1, q.context))["scale_tril"] for q in (q1, q2)]
    s1, s2 = (root @ root.T for root in roots)
    cross = slope @ s1
    corner = cross @ slope.T + s2
    if first == "z2":
        mean = torch.cat([mean1, mean2], 1)
        covariance = torch.cat([torch.cat([s1, cross.T], 1), torch.cat([cross, corner], 1)])
    else:
        mean = torch.cat([mean2, mean1], 1)
        covariance = torch.cat([torch.cat([corner, cross], 1), torch.cat([cross.T, s1], 1)])
    posterior = MultivariateNormal((x - BIAS) @ GAIN.T, POSTERIOR)
    return PX.log_prob(x) - kl_divergence(MultivariateNormal(mean, covariance), posterior)


def values(vae, elbo, count=40):
    with torch.no_grad():
        return np.array([[-elbo.loss(vae.model, vae.guide, X)] for _ in range(count)])


@directions
def test_the_oracle_knows_the_exact_posterior(direction):
    torch.testing.assert_close(bound(vae_of(direction)), LOG_P)
    assert (LOG_P - bound(vae_of(direction, wrong=0.2)) > 0.1).all()


@directions
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceExactKL_ELBO, TraceSTL_ELBO, TraceIWAE_ELBO])
def test_every_elbo_is_the_closed_form(elbo, direction):
    vae = vae_of(direction, wrong=0.2)
    assert mean_is(values(vae, elbo()), bound(vae).sum().item())


def test_the_mean_field_elbo_is_the_closed_form_from_the_top_down_alone():
    vae = vae_of("top_down", wrong=0.2)
    assert mean_is(values(vae, TraceMeanField_ELBO()), bound(vae).sum().item())
    vae = vae_of("bottom_up", wrong=0.2)
    vectorised = TraceMeanField_ELBO(20, vectorize_particles=True, max_plate_nesting=1)
    with pytest.warns(UserWarning, match="mean field"):
        found = values(vae, vectorised)
    assert not mean_is(found, bound(vae).sum().item())
    table = compare(vae.model, vae.guide, X, num_particles=20, elbos=(Trace_ELBO,))
    findings = {s: str(table.findings.sel(site=s).item()) for s in ("z1", "z2")}
    assert "not_mean_field" in findings["z1"]
    assert "not_mean_field" not in findings["z2"]


@directions
@pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
def test_at_the_posterior_nothing_is_left_to_chance(gradient, direction):
    vae = vae_of(direction)
    for elbo in (TraceIWAE_ELBO(4, gradient), TraceSTL_ELBO(), Trace_ELBO()):
        assert elbo.loss(vae.model, vae.guide, X) == pytest.approx(-LOG_P.sum().item())
    if gradient != "standard":
        vae.zero_grad()
        TraceIWAE_ELBO(4, gradient).differentiable_loss(vae.model, vae.guide, X).backward()
        assert all(p.grad.abs().max() < 1e-9 for p in vae.guide.parameters())


@directions
def test_many_particles_lie_between_the_bound_and_the_truth(direction):
    vae = vae_of(direction, wrong=0.2)
    found = values(vae, TraceIWAE_ELBO(8, vectorize_particles=True, max_plate_nesting=1))
    error = found.std() / math.sqrt(len(found))
    assert bound(vae).sum() < found.mean() - 5 * error
    assert found.mean() + 5 * error < LOG_P.sum()


@directions
def test_exact_kls_have_the_gradient_of_the_closed_form(direction):
    vae, rows = vae_of(direction, wrong=0.2), []
    parameters = list(vae.guide.parameters())
    truth = torch.autograd.grad(-bound(vae).sum(), parameters)
    elbo = TraceExactKL_ELBO(5, vectorize_particles=True, max_plate_nesting=1)
    for _ in range(60):
        loss = elbo.differentiable_loss(vae.model, vae.guide, X)
        found = torch.autograd.grad(loss, parameters)
        rows.append(torch.cat([g.flatten() for g in found]).numpy())
    flat = torch.cat([g.flatten() for g in truth]).numpy()
    assert mean_is(rows, flat, scale=np.abs(flat))


def test_what_can_be_exact_is_told():
    elbo = TraceExactKL_ELBO(strict=True)
    vae = vae_of("top_down")
    elbo.loss(vae.model, vae.guide, X)
    assert {name: route.kind for name, route in elbo.routes.items()} == {
        "z2": "closed",
        "z1": "closed",
    }
    vae = vae_of("bottom_up")
    with pytest.raises(kl.NoExactKL, match="its parent 'z2' in the model descends from it"):
        elbo.loss(vae.model, vae.guide, X)
    elbo = TraceExactKL_ELBO()
    elbo.loss(vae.model, vae.guide, X)
    assert {name: route.kind for name, route in elbo.routes.items()} == {
        "z2": "closed",
        "z1": "sampled",
    }


@directions
def test_trained_it_reaches_the_best_of_all_marginals(direction):
    """With free V, W, b, Psi and Q the marginals are those of factor analysis with two factors."""
    x = one_layer(6, seed=8).sample(300)
    names = ["z2", "z1"] if direction == "top_down" else ["z1", "z2"]
    torch.manual_seed(0)
    seen = {"top_down": 6 + 2, "bottom_up": 2}[direction]
    vae = HierarchicalVAE(
        priors={"z2": fam.Normal(2), "z1": fam.Normal(2, 2, learnable=("scale",))},
        encoders={
            name: fam.FullNormal(2, context, learnable=("scale_tril",))
            for name, context in zip(names, (6, seen), strict=True)
        },
        decoder=fam.Normal(6, 2, learnable=("scale",)),
        direction=direction,
    )
    optimizer = torch.optim.Adam(vae.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=800)
    step = capture(TraceSTL_ELBO(), vae.model, vae.guide, x, optimizer=optimizer)
    for _ in range(800):
        step.step(x)
        schedule.step()
    best = factor_analysis(x, 2).log_marginal(x).mean().item()
    elbo = TraceSTL_ELBO(100, vectorize_particles=True, max_plate_nesting=1)
    with torch.no_grad():
        bounds = -elbo.loss(vae.model, vae.guide, x) / len(x)
    assert best - 1e-3 < bounds < best + 1e-3
