"""A discrete and a continuous site in one VAE, against a model whose posterior is known.

    c ~ Categorical(pi) one-hot,  z ~ N(0, I),  x = M' c + A z + N(0, s^2 I)

with the rows of M at right angles to the columns of A. Then log p(x) is a sum over c of Gaussian
marginals, and the posterior factorises: q(c|x) q(z|x), as the guide of a VAE does.
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import WIDTH, binary, copies, net, train, unmoved
from paired import mean_is
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_vae import VAE, compare, diagnose, diagnostics, fit, to_arviz
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, TraceSTL_ELBO, capture

CLASSES, LATENTS, PIXELS, NOISE = 3, 2, 6, 0.7


class Linear(nn.Module):
    """The decoder of the model above, and its posterior, with a knob to be wrong by."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        basis = torch.linalg.qr(torch.randn(PIXELS, PIXELS))[0]
        scales = torch.tensor([1.5, 0.8])
        self.map = nn.Parameter((basis[:, :LATENTS] * scales).contiguous())  # A
        self.means = nn.Parameter(torch.randn(CLASSES, 3) @ basis[:, LATENTS:5].T)  # M
        self.logits = torch.tensor([0.5, 0.0, -1.0])
        self.variance = NOISE**2 / (scales.square() + NOISE**2)

    def forward(self, joined):
        c, z = joined.split([CLASSES, LATENTS], -1)
        return dist.Normal(c @ self.means + z @ self.map.T, NOISE).to_event(1)

    def class_logits(self, x):
        """Logits of q(c|x), without a common constant."""
        score = x @ self.means.T - self.means.square().sum(-1) / 2
        return self.logits + score / NOISE**2

    def moments(self, x):
        """Mean and standard deviation of q(z|x)."""
        mean = x @ self.map * self.variance / NOISE**2
        return mean, self.variance.sqrt().expand_as(mean)

    def log_marginal(self, x):
        """log p(x), by the sum over classes."""
        covariance = self.map @ self.map.T + NOISE**2 * torch.eye(PIXELS)
        each = dist.MultivariateNormal(self.means, covariance).log_prob(x.unsqueeze(-2))
        return (each + self.logits.log_softmax(-1)).logsumexp(-1)


def truth(blur=0.0, site=fam.OneHotCategorical):
    """The VAE of the model; with `blur`, its guide is off the posterior."""
    model = Linear()
    straight = site is fam.StraightThroughOneHotCategorical
    kind = site(1, categories=CLASSES, logits=model.logits.unsqueeze(0))().base_dist

    def classes(x):
        logits = (model.class_logits(x) * (1 - blur)).unsqueeze(-2)
        return type(kind)(logits=logits).to_event(1)

    def numbers(x):
        mean, std = model.moments(x)
        return dist.Normal(mean + blur, std * (1 + blur)).to_event(1)

    assert straight or not kind.has_rsample
    prior = fam.OneHotCategorical(1, categories=CLASSES, logits=model.logits.unsqueeze(0))
    vae = VAE(
        prior={"c": prior, "z": fam.Normal(LATENTS)},
        encoder={"c": Encoder(model, classes), "z": Encoder(model, numbers)},
        decoder=model,
    )
    with torch.no_grad():
        x = vae.model(size=40).detach()
    return vae, model, x


class Encoder(nn.Module):
    """A function of x that is shown to have the parameters of a model."""

    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x):
        return self.function(x)


def exact_elbo(vae, model, x):
    """The ELBO of each datum: c summed over, z integrated."""
    q = vae.guide.encoder
    q_c, q_z = q.c(x), q.z(x)
    weights, mean, var = q_c.base_dist.probs.squeeze(-2), q_z.mean, q_z.variance
    residual = x.unsqueeze(-2) - model.means - (mean @ model.map.T).unsqueeze(-2)
    square = residual.square().sum(-1) + (var @ model.map.square().sum(0)).unsqueeze(-1)
    log_x = -square / (2 * NOISE**2) - PIXELS / 2 * math.log(2 * math.pi * NOISE**2)
    kl_c = (weights * (weights.log() - model.logits.log_softmax(-1))).sum(-1)
    kl_z = ((mean.square() + var - var.log() - 1) / 2).sum(-1)
    return (weights * log_x).sum(-1) - kl_c - kl_z, kl_c, kl_z


# ---------------------------------------------------------------------------------- the truth
@pytest.mark.usefixtures("float64")
def test_with_the_posterior_as_its_guide_every_draw_gives_the_marginal():
    vae, model, x = truth()
    with torch.no_grad():
        log_p = model.log_marginal(x)
        terms = TraceExactKL_ELBO().terms(vae.model, vae.guide, x)
        elbo, kl_c, kl_z = exact_elbo(vae, model, x)
        torch.testing.assert_close(elbo, log_p)
        torch.testing.assert_close(terms["kl.c"], kl_c)
        torch.testing.assert_close(terms["kl.z"], kl_z)
        for objective in (Trace_ELBO(), TraceIWAE_ELBO(3)):
            loss = objective.loss(vae.model, vae.guide, x)
            assert loss == pytest.approx(-log_p.sum().item(), rel=1e-9)


OBJECTIVES = {
    "trace": Trace_ELBO,
    "exact": TraceExactKL_ELBO,
    "stl": TraceSTL_ELBO,
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_elbo_is_the_bound_by_enumeration(name):
    vae, model, x = truth(blur=0.3)
    with torch.no_grad():
        elbo, *_ = exact_elbo(vae, model, x)
        assert bool((elbo < model.log_marginal(x)).all())
        objective = OBJECTIVES[name]()
        losses = [objective.loss(vae.model, vae.guide, x) for _ in range(100)]
    assert mean_is(np.array(losses)[:, None], -elbo.sum().item())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_the_bound(name):
    """Along the guide's location and class logits, against the closed form."""
    vae, model, x = truth(blur=0.3)
    parameters = [model.means, model.map]
    elbo, *_ = exact_elbo(vae, model, x)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(-elbo.sum(), parameters)])
    objective = OBJECTIVES[name](num_particles=10, vectorize_particles=True, max_plate_nesting=1)
    rows = []
    for _ in range(60):
        loss = objective.differentiable_loss(vae.model, vae.guide, x)
        found = torch.autograd.grad(loss, parameters)
        rows.append(torch.cat([g.flatten() for g in found]).numpy())
    assert mean_is(np.array(rows), expected.numpy())


# ------------------------------------------------------------------------------------ training
def mixed(c=fam.OneHotCategorical):
    return VAE(
        prior={
            "c": fam.OneHotCategorical(1, categories=3, learnable=True),
            "z": fam.Normal(2, learnable=True),
        },
        encoder={
            "c": nn.Sequential(net(6), c(1, categories=3, context=WIDTH)),
            "z": nn.Sequential(net(6), fam.Normal(2, context=WIDTH)),
        },
        decoder=nn.Sequential(net(5), fam.Bernoulli(6, context=WIDTH)),
    )


STRAIGHT = fam.StraightThroughOneHotCategorical
TRAINED = [
    (fam.OneHotCategorical, Trace_ELBO, {}),
    (fam.OneHotCategorical, TraceExactKL_ELBO, {}),
    (fam.OneHotCategorical, TraceExactKL_ELBO, {"strict": True}),
    (fam.OneHotCategorical, TraceSTL_ELBO, {}),
    (fam.OneHotCategorical, TraceIWAE_ELBO, {"num_particles": 4}),
    (STRAIGHT, TraceMeanField_ELBO, {}),
    (STRAIGHT, TraceExactKL_ELBO, {}),
]


@pytest.mark.parametrize(("c", "elbo", "options"), TRAINED)
def test_mixed_sites_train_and_are_captured(c, elbo, options):
    vae, x = mixed(c), binary()
    before = copies(vae)
    losses = train(vae, elbo(**options), x)
    assert all(map(math.isfinite, losses))
    assert not unmoved(vae, before)
    objective = elbo(**options)
    captured = capture(objective, vae.model, vae.guide, x)
    results = []
    for replayed in (False, True):
        vae.zero_grad()
        torch.manual_seed(1)
        if replayed:
            loss = captured(x)
        else:
            loss = objective.differentiable_loss(vae.model, vae.guide, x)
            loss.backward()
        results.append([loss.detach(), *[p.grad.clone() for p in vae.parameters()]])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_what_needs_reparameterised_draws_refuses_by_name():
    vae, x = mixed(), binary()
    with pytest.raises(NotImplementedError, match="fully reparameterized"):
        TraceMeanField_ELBO().loss(vae.model, vae.guide, x)
    for gradient in ("stl", "dreg"):
        with pytest.raises(NotImplementedError, match="site 'c' is not reparameterised"):
            TraceIWAE_ELBO(4, gradient).differentiable_loss(vae.model, vae.guide, x)


def test_mixed_sites_are_fitted():
    vae, x = mixed(), binary(32)
    history = fit(vae, x, epochs=2, batch_size=16, progress=False, objective=TraceExactKL_ELBO())
    assert bool(np.isfinite(history.elbo).all())


# ---------------------------------------------------------------------------------- told about
def test_compare_has_a_row_for_each_site():
    vae, model, x = truth(blur=0.3)
    with pyro.validation_enabled(False):
        table = compare(vae.model, vae.guide, x, num_particles=100)
    assert table.site.values.tolist() == ["c", "z"]
    assert table.kl_route.values.tolist() == ["closed", "closed"]
    assert "refused" in str(table.mean_field_route.sel(site="c").item())
    with torch.no_grad():
        _, *kls = exact_elbo(vae, model, x)
    for site, kl in zip(("c", "z"), kls, strict=True):
        row = table.sel(site=site)
        assert float(row.kl_analytic_total) == pytest.approx(kl.sum().item(), rel=1e-4)
        off = float(row.kl_sampled_total) - kl.sum().item()
        assert abs(off) < 4.5 * float(row.kl_sampled_total_std_error)


@pytest.mark.parametrize(("blur", "rejected"), [(0.0, 0), (0.5, 1)])
def test_calibration_knows_the_posterior_and_what_is_off_it(blur, rejected):
    vae, _, x = truth(blur)
    found = diagnostics.calibration(
        vae.model, vae.guide, x, num_samples=99, replicates=400, progress=False
    )
    assert found.calibration_rejected == rejected
    # ranks of classes are tied, and yet uniform
    assert {"c[0,0]", "c[0,2]", "z[0]"} <= set(map(str, found.latent.values))


def test_mixed_sites_are_diagnosed_and_exported():
    vae, model, x = truth(blur=0.3)
    told = diagnose(
        vae.model,
        vae.guide,
        x,
        num_samples=500,
        steps=["pareto_k", "elbo", "iwae"],
        show=False,
        progress=False,
    )
    with torch.no_grad():
        elbo, *_ = exact_elbo(vae, model, x)
        log_p = model.log_marginal(x)
    off = float(told.elbo.mean()) - elbo.mean().item()
    assert abs(off) < 4.5 * float((told.elbo_std_error**2).sum() ** 0.5) / len(x)
    assert float(told.psis_log_px.mean()) == pytest.approx(log_p.mean().item(), abs=0.05)
    data = to_arviz(vae.model, vae.guide, x, num_samples=200)
    assert {"c", "z"} <= set(data["posterior"].data_vars)


def test_chains_move_each_site_in_its_own_way():
    vae, model, x = truth(blur=0.3)
    found = diagnostics.ais(vae.model, vae.guide, x[:10], num_steps=15, progress=False)
    assert "independence Metropolis" in str(found.attrs)
    with torch.no_grad():
        log_p = model.log_marginal(x[:10]).numpy()
    gap = found.ais_log_px.values - log_p
    assert np.abs(gap).max() < 0.5
    with pytest.raises(diagnostics.NotApplicable, match=r"latent site 'c' has none.*ais"):
        diagnostics.nuts_check(vae.model, vae.guide, x)
