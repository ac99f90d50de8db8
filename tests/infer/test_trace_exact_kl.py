"""`TraceExactKL_ELBO` against closed forms and enumeration, and its use with Pyro."""

import copy
import itertools
import math
import pickle
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import binary, copies, small_vae, svi, train, unmoved
from oracle import example
from paired import agree, calls, mean_is
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import VAE, compare, fit, kl, networks
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, terms
from pyro_vae.infer.exact_kl import SAMPLED
from pyro_vae.kl.quadrature import accepted

# --------------------------------------------------------------- values and gradients, exactly


@pytest.fixture
def sigma_points(monkeypatch):
    """Draws of a Normal that have exactly its mean and variance: quadratics average exactly."""

    def rsample(self, sample_shape=()):
        particles, size = self.loc.shape[0], self.loc.shape[-1]
        assert particles == 2 * size
        directions = size**0.5 * torch.cat([torch.eye(size), -torch.eye(size)])
        return self.loc + self.scale * directions[:, None, :]

    monkeypatch.setattr(dist.Normal, "rsample", rsample)


def linear_gaussian():
    truth = example()
    x = truth.sample(4)
    loc = nn.Parameter(truth.mean(x) + 0.3)
    log_scale = nn.Parameter(torch.tensor([-0.4, 0.1]))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = z @ truth.weight.T + truth.bias
            pyro.sample("x", dist.Normal(mean, truth.variance.sqrt()).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return truth, x, loc, log_scale, model, guide


@pytest.mark.usefixtures("float64", "sigma_points")
def test_value_and_gradient_are_those_of_the_linear_gaussian_model():
    truth, x, loc, log_scale, model, guide = linear_gaussian()
    elbo = TraceExactKL_ELBO(4, vectorize_particles=True, max_plate_nesting=1)
    loss = elbo.differentiable_loss(model, guide, x)
    exact = -truth.elbo(x, loc, (2 * log_scale).exp().diag()).sum()
    torch.testing.assert_close(loss, exact, rtol=1e-12, atol=0)
    assert elbo.loss(model, guide, x) == pytest.approx(exact.item(), rel=1e-12)
    pairs = zip(*(torch.autograd.grad(v, (loc, log_scale)) for v in (loss, exact)), strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


WEIGHTS = {
    "none": (1.0, 1.0),
    "both": (0.25, 0.25),
    "model only": (0.25, 1.0),
    "guide only": (1.0, 0.25),
    "both, by datum": (torch.tensor([0.1, 0.5, 1.0, 2.0]),) * 2,
    "apart, by datum": (torch.tensor([0.1, 0.5, 1.0, 2.0]), 1.0),
    "mask of both": (torch.tensor([True, False, True, False]),) * 2,
    "mask of the model": (torch.tensor([True, False, True, False]), 1.0),
    "mask of the guide": (1.0, torch.tensor([True, False, True, False])),
}
ALIKE = ("none", "both", "mask of both")  # and known to be, without a look into tensors


def weighing(weight):
    if isinstance(weight, torch.Tensor) and weight.dtype == torch.bool:
        return poutine.mask(mask=weight)
    return poutine.scale(scale=weight)


class Own(dist.Normal):
    """A Normal to everybody but the table of forms."""


@pytest.mark.usefixtures("float64", "sigma_points")
@pytest.mark.parametrize("sampled", SAMPLED)
@pytest.mark.parametrize("prior", [dist.Normal, Own])
@pytest.mark.parametrize("name", WEIGHTS)
def test_four_data_of_a_normal_model_weighed_by_scale_and_mask(name, prior, sampled):
    in_model, in_guide = WEIGHTS[name]
    x, m = torch.tensor([[0.3], [-1.0], [2.0], [1.1]]), nn.Parameter(torch.tensor(0.3))
    a, s = nn.Parameter(torch.tensor(0.4)), nn.Parameter(torch.tensor(0.6))

    def model():
        with pyro.plate("data", 4):
            with weighing(in_model):
                z = pyro.sample("z", prior(m.expand(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide():
        with pyro.plate("data", 4), weighing(in_guide):
            pyro.sample("z", dist.Normal(a * x, s).to_event(1))

    options = {"vectorize_particles": True, "max_plate_nesting": 1, "sampled": sampled}
    elbo = TraceExactKL_ELBO(2, **options)
    loss = elbo.differentiable_loss(model, guide)
    q = torch.distributions.Normal(a * x[:, 0], s)
    second = (q.loc - m) ** 2 + s**2
    cross_entropy = 0.5 * (math.log(2 * math.pi) + second)
    likelihood = -0.5 * (math.log(2 * math.pi) + (x[:, 0] - q.loc) ** 2 + s**2)
    exact = (in_model * cross_entropy - in_guide * q.entropy() - likelihood).sum()
    torch.testing.assert_close(loss, exact, rtol=1e-12, atol=0)
    found, expected = (torch.autograd.grad(v, (m, a, s)) for v in (loss, exact))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    if prior is Own:
        assert elbo.routes["z"].kind == ("entropy" if sampled == "entropy" else "sampled")
    elif sampled == "entropy":  # it takes the difference of the weights, and nothing is sampled
        assert elbo.routes["z"].kind == "closed"
    else:
        assert elbo.routes["z"].kind == ("closed" if name in ALIKE else "mixed")


class Forced(Messenger):
    """Draws that come out as we say."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg):
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, 0.5), (0.5, 1.0)], ids=str)
@pytest.mark.parametrize("direction", ["top down", "bottom up"])
@pytest.mark.parametrize("sampled", SAMPLED)
def test_the_gradient_of_a_discrete_guide_is_that_of_enumeration(sampled, direction, scales):
    """k of 3 values, j of 2 in each of 2 rows: every draw, weighed by its probability."""
    top_down = direction == "top down"  # then there is one k for both rows, or else two
    x = torch.tensor([0.4, -1.2])
    means = nn.Parameter(torch.randn(3, 2))
    prior, q_k, q_j = (nn.Parameter(torch.randn(shape)) for shape in ((3, 2), (2, 3), (2, 3, 2)))
    rows = torch.arange(2)

    def model():
        plate = pyro.plate("rows", 2)
        with nullcontext() if top_down else plate:
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
        with plate:
            with poutine.scale(scale=scales[0]):
                j = pyro.sample("j", dist.Categorical(logits=prior[k]))
            pyro.sample("x", dist.Normal(means[k, j], 0.7), obs=x)

    def guide():
        k = pyro.sample("k", dist.Categorical(logits=q_k.sum(0))) if top_down else 0
        with pyro.plate("rows", 2):
            with poutine.scale(scale=scales[1]):
                j = pyro.sample("j", dist.Categorical(logits=q_j[rows, k]))
            if not top_down:
                pyro.sample("k", dist.Categorical(logits=q_k[j] + q_j[rows, :, 1]))

    elbo, leaves = TraceExactKL_ELBO(sampled=sampled), (means, prior, q_k, q_j)
    exact, mean = torch.zeros(()), [torch.zeros_like(leaf) for leaf in leaves]
    choices = [range(3)] * (1 if top_down else 2) + [range(2)] * 2
    for *k, first, second in itertools.product(*choices):
        draw = {"k": torch.tensor(k[0] if top_down else k), "j": torch.tensor([first, second])}
        drawn = poutine.trace(Forced(draw)(guide)).get_trace()
        replayed = poutine.trace(poutine.replay(model, trace=drawn)).get_trace()
        weighed = replayed.log_prob_sum() - drawn.log_prob_sum()
        log_q = sum(drawn.nodes[n]["fn"].log_prob(draw[n]).sum() for n in "kj")
        exact = exact - log_q.exp() * weighed
        loss = elbo.differentiable_loss(model, Forced(draw)(guide))
        for total, gradient in zip(mean, torch.autograd.grad(loss, leaves), strict=True):
            total += log_q.exp().detach() * gradient
    entropy = sampled == "entropy"
    kind = "mixed" if scales[0] != scales[1] and not entropy else "closed"
    other = "entropy" if entropy else "sampled"
    expected = {"k": "closed", "j": kind if top_down else other}
    assert {name: route.kind for name, route in elbo.routes.items()} == expected
    for found, wanted in zip(mean, torch.autograd.grad(exact, leaves), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_entropy_of_a_discrete_auxiliary_site_has_its_gradient():
    """By enumeration; in `Trace_ELBO` the gradient of log q(u) is left out of the score."""
    a, q = nn.Parameter(torch.tensor(0.8)), nn.Parameter(torch.randn(2, 3))
    means = torch.tensor([-1.0, 0.0, 2.0])

    def model():
        k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("x", dist.Normal(means[k], 0.7), obs=torch.tensor(0.4))

    def guide():
        u = pyro.sample("u", dist.Bernoulli(logits=a), infer={"is_auxiliary": True})
        pyro.sample("k", dist.Categorical(logits=q[u.long()]))

    elbos = {
        "sampled": TraceExactKL_ELBO(),
        "exact": TraceExactKL_ELBO(sampled="entropy", strict=True),
        "theirs": Trace_ELBO(),
    }
    gradients = {elbo: [torch.zeros(()), torch.zeros(2, 3)] for elbo in elbos}
    exact = torch.zeros(())
    for u, k in itertools.product(range(2), range(3)):
        draw = {"u": torch.tensor(float(u)), "k": torch.tensor(k)}
        drawn = poutine.trace(Forced(draw)(guide)).get_trace()
        replayed = poutine.trace(poutine.replay(model, trace=drawn)).get_trace()
        log_q = drawn.log_prob_sum()
        exact = exact - log_q.exp() * (replayed.log_prob_sum() - log_q)
        for elbo, mean in gradients.items():
            loss = elbos[elbo].differentiable_loss(model, Forced(draw)(guide))
            for total, gradient in zip(mean, torch.autograd.grad(loss, (a, q)), strict=True):
                total += log_q.exp().detach() * gradient
    wanted = list(torch.autograd.grad(exact, (a, q)))
    for name in ("sampled", "exact"):
        torch.testing.assert_close(gradients[name], wanted, rtol=1e-10, atol=1e-12)
    assert abs(gradients["theirs"][0] - wanted[0]) > 0.01


@pytest.mark.usefixtures("float64")
def test_without_a_likelihood_an_exact_kl_has_no_noise():
    def model():
        pyro.sample("k", dist.Categorical(torch.ones(3) / 3))

    def guide():
        pyro.sample("k", dist.Categorical(logits=pyro.param("l", torch.tensor([0.2, -0.1, 0.3]))))

    rows = calls(TraceExactKL_ELBO(), model, guide, count=5)
    assert np.ptp(rows, axis=0).max() < 1e-15
    q = torch.distributions.Categorical(logits=torch.tensor([0.2, -0.1, 0.3]))
    assert rows[0, 0] == pytest.approx(math.log(3) - q.entropy().item(), rel=1e-12)


@pytest.mark.usefixtures("float64")
def test_elements_that_a_quadrature_misses_are_sampled(monkeypatch):
    """Every other row, of a KL(Normal || StudentT) whose value comes by quadrature."""

    def model():
        with pyro.plate("data", 50):
            z = pyro.sample("z", dist.StudentT(5.0, pyro.param("m", torch.tensor(0.3)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.linspace(-1.0, 2.0, 50))

    def guide():
        with pyro.plate("data", 50):
            pyro.sample("z", dist.Normal(pyro.param("a", torch.tensor(0.1)), 0.7))

    def every_other(value, error):
        return (torch.arange(50) % 2 == 0) & accepted(value, error)

    elbo, strict = TraceExactKL_ELBO(), TraceExactKL_ELBO(strict=True)
    strict.loss(model, guide)
    assert strict.routes["z"].kind == "quadrature"
    assert strict.routes["z"].sampled.item() == 0
    reference = calls(Trace_ELBO(), model, guide, count=60)
    whole = calls(elbo, model, guide, count=60)
    monkeypatch.setattr(terms, "accepted", every_other)
    half = calls(elbo, model, guide, count=60)
    assert elbo.routes["z"].sampled.item() == 25
    assert agree(whole, reference)
    assert agree(half, reference)
    assert not np.allclose(half, whole)
    with pytest.raises(kl.NoExactKL, match="some elements would be sampled"):
        strict.loss(model, guide)


@pytest.mark.usefixtures("float64")
def test_autonormal_on_a_gamma_has_its_jacobian():
    """E_q over s = exp(u), u ~ N(1, .3): the loss is KL(LogNormal(1, .3) || Gamma(2, 2))."""

    def model():
        pyro.sample("s", dist.Gamma(2.0, 2.0))

    def loc(site):
        return torch.tensor(math.e)

    guide = AutoNormal(model, init_loc_fn=loc, init_scale=0.3)
    truth = kl.divergence(dist.LogNormal(1.0, 0.3), dist.Gamma(2.0, 2.0)).item()
    elbos = {"ours": TraceExactKL_ELBO(), "theirs": TraceMeanField_ELBO()}
    options = {"count": 400}
    losses = {n: calls(e, model, guide, **options)[:, :1] for n, e in elbos.items()}
    assert mean_is(losses["ours"], truth)
    assert not mean_is(losses["theirs"], truth)
    assert mean_is(losses["theirs"], truth + 1.0)  # off by E[log |ds/du|] = 1


# ------------------------------------------------------------------------------ use with Pyro


PAIRS = {
    "Normal": (fam.Normal(2), fam.Normal(2, context=8)),
    "Student-t prior": (fam.StudentT(2), fam.Normal(2, context=8)),
    "Gamma": (fam.Gamma(2, learnable=True), fam.Gamma(2, context=8)),
    "one-hot": (fam.OneHotCategorical(2, categories=3),)
    + (fam.OneHotCategorical(2, categories=3, context=8),),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("validation", [True, False], ids=["validated", "unvalidated"])
@pytest.mark.parametrize("way", ["SVI", "torch", "fit"])
def test_a_vae_trains(pair, way, validation):
    vae = small_vae(*copy.deepcopy(pair))
    before, x, elbo = copies(vae), binary(), TraceExactKL_ELBO()
    with pyro.validation_enabled(validation):
        if way == "SVI":
            engine = svi(vae, elbo)
            losses = [engine.step(x) for _ in range(2)] + [engine.evaluate_loss(x)]
        elif way == "torch":
            losses = train(vae, elbo, x, steps=2)
        else:
            losses = fit(vae, x, objective=elbo, epochs=2, progress=False).elbo.values
    assert np.isfinite(losses).all()
    assert unmoved(vae, before) == []


def test_two_sites_of_ours_with_missing_data():
    vae = VAE(
        prior={"style": fam.Normal(2), "kind": fam.OneHotCategorical(1, categories=3)},
        encoder={
            "style": nn.Sequential(networks.MLP(6, 8), fam.FullNormal(2, context=8)),
            "kind": nn.Sequential(
                networks.MLP(6, 8), fam.OneHotCategorical(1, categories=3, context=8)
            ),
        },
        decoder=nn.Sequential(networks.MLP(5, 8), fam.Bernoulli(6, context=8)),
        data_size=100,
    )
    elbo, before = TraceExactKL_ELBO(strict=True), copies(vae)
    train(vae, elbo, binary(), steps=2, mask=torch.rand(10, 6) > 0.2)
    assert {name: route.kind for name, route in elbo.routes.items()} == {
        "style": "closed",
        "kind": "closed",
    }
    assert unmoved(vae, before) == []


def test_compare_shows_it_beside_those_of_pyro():
    vae = small_vae()
    elbos = (Trace_ELBO, TraceMeanField_ELBO, TraceExactKL_ELBO)
    table = compare(vae.model, vae.guide, binary(), num_particles=100, elbos=elbos)
    assert list(table.elbo.values) == [elbo.__name__ for elbo in elbos]
    assert (table.failure == "").all()
    assert (table.gradients_agree == 1).all()


def test_guides_that_are_messengers():
    class Posterior(GuideMessenger):
        def get_posterior(self, name, prior):
            return dist.Normal(pyro.param("a", torch.tensor(0.5)), 0.7)

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    elbo = TraceExactKL_ELBO(strict=True)
    assert elbo.differentiable_loss(model, Posterior(model)).requires_grad
    assert elbo.routes["z"].kind == "closed"


@pytest.mark.parametrize("vectorised", [True, False])
def test_the_loss_is_read_once_and_at_the_end(vectorised):
    """A graph can be made of the objective, in which no number is read."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 2.0))
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z + k, 1.0), obs=x)

    def objective(x, a):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Gamma(a.exp().expand(len(x)), 1.0))
                with poutine.scale(scale=torch.ones(())):
                    pyro.sample("k", dist.Bernoulli(logits=a * x))

        options = {"max_plate_nesting": 1, "vectorize_particles": vectorised}
        made = TraceExactKL_ELBO(2, strict=True, **options)._objective(model, guide, (x,), {})
        (gradient,) = torch.autograd.grad(made.surrogate, a)
        return made.loss, gradient, [check.flag for check in made.checks]

    inputs = torch.randn(3), torch.tensor(0.3, requires_grad=True)
    with pyro.validation_enabled(False):
        graph = make_fx(objective)(*inputs)
    loss, gradient, flags = graph(*inputs)
    assert loss.isfinite()
    assert gradient.isfinite()
    assert all(flags)
    assert len(flags) >= 4


def test_copies_and_pickles_are_of_their_own():
    vae, elbo = small_vae(), TraceExactKL_ELBO(num_particles=2, strict=True)
    elbo.loss(vae.model, vae.guide, binary())
    for other in (copy.deepcopy(elbo), pickle.loads(pickle.dumps(elbo))):
        assert other.strict
        assert other.num_particles == 2
        assert math.isfinite(other.loss(vae.model, vae.guide, binary()))
