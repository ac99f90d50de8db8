"""`TraceIWAE_ELBO` against quadrature, enumeration and models whose log p(x) is known."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracle import example
from paired import FAILURE, agree, calls, mean_is
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from scipy import stats

from pyro_vae.infer import TraceIWAE_ELBO

pytestmark = pytest.mark.usefixtures("float64")
GRADIENTS = ("standard", "stl", "dreg")
vectorised = pytest.mark.parametrize("vectorised", [False, True], ids=["loop", "vectorised"])


def param(name, value):
    return pyro.param(name, torch.as_tensor(value, dtype=torch.float64))


def iwae(particles, gradient="standard", vectorised=True, **options):
    return TraceIWAE_ELBO(
        particles, gradient, vectorize_particles=vectorised, max_plate_nesting=1, **options
    )


# ------------------------------------------------------------------------------ log p(x) is known


def posterior_programs(truth, size=None):
    def model(x):
        with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = z @ truth.weight.T + truth.bias
            pyro.sample("x", dist.Normal(loc, truth.variance.sqrt()).to_event(1), obs=x)

    def guide(x):
        spread = param("spread", 1.0) * torch.linalg.cholesky(truth.covariance)
        with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
            q = dist.MultivariateNormal(truth.mean(x), scale_tril=spread)
            pyro.sample("z", q)

    return model, guide


@vectorised
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("scale", [1.0, 7.0])
@pytest.mark.parametrize("size", [None, 1000])
def test_with_the_exact_posterior_it_is_log_p(gradient, vectorised, scale, size):
    truth = example()
    x = truth.sample(10)
    model, guide = (poutine.scale(f, scale) for f in posterior_programs(truth, size))
    elbo = iwae(5, gradient, vectorised)
    weight = scale * (size or 10) / 10
    assert elbo.loss(model, guide, x) == pytest.approx(
        -weight * truth.log_marginal(x).sum().item()
    )
    torch.testing.assert_close(
        elbo.terms(model, guide, x)["elbo"], truth.log_marginal(x), rtol=1e-9, atol=1e-9
    )


WEIGHTS = {"all data": (None, 1.0), "a subsample": (1000, 1.0), "scaled": (None, 4.0)}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_it_is_a_bound_that_grows_with_particles_also_where_data_weigh_more(weights):
    """Must catch: in Pyro's `RenyiELBO` the weight tempers, and its loss is below -log p(x)."""
    size, scale = weights
    truth = example()
    x = truth.sample(10)
    model, guide = (poutine.scale(f, scale) for f in posterior_programs(truth, size))
    pyro.param("spread", torch.tensor(2.0))
    exact = -truth.log_marginal(x).sum().item() * scale * (size or 10) / 10
    limit = stats.norm.isf(FAILURE / 6)

    def losses(elbo):
        torch.manual_seed(0)
        found = np.array([elbo.loss(model, guide, x) for _ in range(200)])
        return found.mean(), limit * found.std(ddof=1) / len(found) ** 0.5

    particles = {"vectorize_particles": True, "max_plate_nesting": 1}
    found = [losses(iwae(k)) for k in (1, 10, 100)]
    for (few, wide), (many, narrow) in itertools.pairwise(found):
        assert few - many > math.hypot(wide, narrow)
    assert all(loss > exact - error for loss, error in found)
    theirs, error = losses(RenyiELBO(0.0, num_particles=100, **particles))
    assert bool(theirs < exact - error) is (weights != WEIGHTS["all data"])


# ---------------------------------------------------- particles (`test_gradients` has the truth)


def one_dimension():
    """z ~ N(0, 1), x | z ~ N(z, 1), and a guide that is wrong in place and width."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(param("w", 1.1) * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(param("a", 0.8) * x, param("s", 0.5).abs()))

    return torch.tensor([-0.7, 0.4, 1.5]), model, guide


def test_loop_and_vectorised_particles_agree():
    x, model, guide = one_dimension()
    iwae(2).loss(model, guide, x)
    x = x.repeat(20)
    found = [calls(iwae(3, "dreg", v), model, guide, (x,), count=60) for v in (False, True)]
    means, errors = ([f(v) for v in found] for f in (lambda v: v.mean(0), lambda v: v.var(0) / 60))
    assert (np.abs(means[0] - means[1]) < 5.5 * np.sqrt(sum(errors))).all()


def test_one_particle_is_trace_elbo():
    x, model, guide = one_dimension()
    iwae(1).loss(model, guide, x)
    found, expected = (
        calls(elbo, model, guide, (x,), count=3) for elbo in (iwae(1), Trace_ELBO())
    )
    assert found == pytest.approx(expected, rel=1e-12)


def test_dreg_keeps_its_signal_to_noise_as_particles_grow_and_the_standard_one_does_not():
    x, model, guide = one_dimension()
    x = x.repeat(30)  # the ratio of a sum over data is that of one by the root of their number
    pyro.param("s", torch.tensor(0.9))  # wider than the posterior: weights of finite variance
    iwae(2).loss(model, guide, x)
    limit = stats.norm.isf(FAILURE / 8)

    def ratio(gradient, particles):
        """|mean| / sd of the gradient in a, and its standard error."""
        found = calls(iwae(particles, gradient), model, guide, (x,), count=80)[:, 1]
        value = np.abs(found.mean()) / found.std(ddof=1)
        return value, ((1 + value**2 / 2) / len(found)) ** 0.5

    def falls(few, many):
        return bool(few[0] - many[0] > limit * math.hypot(few[1], many[1]))

    dreg = [ratio("dreg", k) for k in (1, 4, 16, 64)]
    standard = [ratio("standard", k) for k in (1, 64)]
    assert not any(falls(*pair) for pair in itertools.pairwise(dreg))
    assert falls(dreg[-1], dreg[0])  # it grows, like the square root of K
    assert falls(*standard)


# ------------------------------------------------------------------------------- discrete guides


def discrete():
    def model(x):
        means = param("means", [-1.0, 0.5, 2.0])
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            pyro.sample("x", dist.Normal(means[k], 0.8), obs=x)

    def guide(x):
        slope = param("slope", [0.5, -0.2, 0.1])
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=slope * x[:, None]))

    return torch.tensor([-0.7, 1.2]), model, guide


def enumerated(x, means, slope, particles):
    """-sum_x L_K(x) by all 3^K draws."""
    log_q = torch.log_softmax(slope * x[:, None], -1)
    log_p = torch.tensor([0.2, 0.3, 0.5]).log() + dist.Normal(means, 0.8).log_prob(x[:, None])
    log_w = log_p - log_q
    total = 0.0
    for draw in itertools.product(range(3), repeat=particles):
        picked = list(draw)
        bound = log_w[:, picked].logsumexp(-1) - math.log(particles)
        total = total + (log_q[:, picked].sum(-1).exp() * bound).sum()
    return -total


@vectorised
@pytest.mark.parametrize("particles", [1, 3])
def test_a_discrete_guide_has_the_gradient_of_the_exact_objective(particles, vectorised):
    x, model, guide = discrete()
    elbo = iwae(particles, vectorised=vectorised)
    elbo.loss(model, guide, x)
    means = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    slope = torch.tensor([0.5, -0.2, 0.1], requires_grad=True)
    exact = enumerated(x, means, slope, particles)
    truth = [exact.reshape(1), *torch.autograd.grad(exact, [means, slope])]
    found = calls(elbo, model, guide, (x.repeat(20),), count=80)
    truth = 20 * torch.cat(truth).detach().numpy()
    assert mean_is(found, truth, scale=abs(truth))


def test_a_discrete_site_above_a_continuous_one_has_the_gradient_of_trace_elbo():
    """One particle, where the bound is the ELBO; and both sites learn with more of them."""

    def model(x):
        means = param("means", [-1.0, 0.5, 2.0])
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            z = pyro.sample("z", dist.Normal(means[k], 0.8))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        slope, shift = param("slope", [0.5, -0.2, 0.1]), param("shift", [0.1, 0.0, -0.1])
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=slope * x[:, None]))
            pyro.sample("z", dist.Normal(0.7 * x + shift[k], 0.5))

    x = torch.linspace(-1, 2, 60)
    iwae(1).loss(model, guide, x)
    found, expected = (
        calls(elbo, model, guide, (x,), count=80) for elbo in (iwae(1), Trace_ELBO())
    )
    assert agree(found, expected)
    many = calls(iwae(5), model, guide, (x,), count=3)
    assert (many != 0).all()
    with pytest.raises(NotImplementedError, match="'k' is not reparameterised"):
        iwae(5, "dreg").loss(model, guide, x)


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_a_path_needs_a_reparameterised_guide(gradient):
    x, model, guide = discrete()
    with pytest.raises(NotImplementedError, match=r"'k' is not reparameterised.*standard"):
        iwae(3, gradient).differentiable_loss(model, guide, x)
    with pytest.raises(NotImplementedError, match="free_bits"):
        iwae(3, free_bits=0.1).differentiable_loss(model, guide, x)


# -------------------------------------------------------------------------------------- refusals


def test_what_leaves_no_bound_is_refused():
    def model(x):
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(g, 1.0), obs=x)

    def guide(x):
        pyro.sample("g", dist.Normal(param("a", 0.1), 1.0))

    with pytest.raises(ValueError, match="'g' lies outside the data plate 'data'"):
        iwae(3).loss(model, guide, torch.zeros(4))

    def thinned(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", 10, subsample_size=2, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, :2])

    def own(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(param("a", 0.1), 1.0))

    with pytest.raises(ValueError, match="'pixels', of which only a part is at hand"):
        TraceIWAE_ELBO(3).loss(thinned, own, torch.zeros(4, 10))


def test_without_a_plate_all_is_one_datum():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("z", dist.Normal(param("a", 0.5), 0.5**0.5))

    exact = dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0))
    for elbo in (TraceIWAE_ELBO(4), TraceIWAE_ELBO(4, vectorize_particles=True)):
        assert elbo.loss(model, guide) == pytest.approx(-exact.item())
        assert elbo.terms(model, guide)["elbo"].shape == ()


def test_sites_scaled_apart_are_told_to_give_no_bound():
    x, model, guide = one_dimension()

    def tempered(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(param("w", 1.1) * z, 1.0), obs=x)

    with pytest.warns(UserWarning, match="no bound on log p"):
        iwae(3).loss(tempered, guide, x)
    with (
        pytest.warns(UserWarning, match="no bound on log p"),
        pytest.raises(NotImplementedError, match="scaled differently.*standard"),
    ):
        iwae(3, "dreg").differentiable_loss(tempered, guide, x)
    weights = torch.tensor([1.0, 2.0, 3.0])
    each = (poutine.scale(f, weights) for f in (model, guide))
    with pytest.raises(NotImplementedError, match="datum by datum"):
        iwae(3).loss(*each, x)


def test_an_unknown_gradient_is_refused():
    with pytest.raises(ValueError, match="standard, stl, dreg"):
        TraceIWAE_ELBO(3, "dregs")


def test_masked_data_add_nothing():
    x, model, guide = one_dimension()
    mask = torch.tensor([True, False, True])
    masked = [poutine.mask(f, mask) for f in (model, guide)]
    iwae(3).loss(model, guide, x)
    for gradient in GRADIENTS:
        torch.manual_seed(1)
        found = iwae(3, gradient).terms(*masked, x)["elbo"]
        torch.manual_seed(1)
        whole = iwae(3, gradient).terms(model, guide, x)["elbo"]
        torch.testing.assert_close(found, torch.where(mask, whole, 0.0))
    assert agree(
        calls(iwae(3, "dreg"), *masked, (x,), count=300),
        calls(iwae(3), *masked, (x,), count=300),
    )
