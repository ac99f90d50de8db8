"""Entropies: against sampled ones over the whole shelf, and which are not believed."""

import math

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from scipy.stats import norm

from pyro_vae import kl
from pyro_vae.kl.entropies import closed_entropy
from pyro_vae.kl.parameters import prepared
from pyro_vae.kl.specimens import build, specimens

FAILURE = 1e-7  # the probability that right entropies fail one test

# torch's own draws and densities are wrong there, so that they are no oracle
WRONG = {"ContinuousBernoulli of large logits", "wide ContinuousBernoulli"}


def entropy(d):
    return closed_entropy(prepared(d, d.batch_shape, None))


KNOWN = [s for s in specimens() if s.name not in WRONG and entropy(build(s)[0]) is not None]


def test_many_are_known():
    names = {s.name for s in KNOWN}
    assert len(names) > 60
    some = "MultivariateNormal", "Dirichlet", "VonMises", "WrappedNormal", "MultivariateStudentT"
    assert names.issuperset((*some, "StraightThroughOneHotCategorical", "VonMisesFisher"))


@pytest.mark.filterwarnings("ignore:Singular sample detected")  # torch's Wishart
@pytest.mark.parametrize("specimen", KNOWN, ids=lambda s: s.name)
def test_value_and_gradient(specimen):
    d, leaves = build(specimen)
    found = entropy(d)
    assert found.shape == (4,)
    with torch.no_grad():
        drawn = -d.log_prob(d.sample((4000,))).double()
    error = drawn.std(0) / len(drawn) ** 0.5
    limit = norm.isf(FAILURE / 8)
    assert ((drawn.mean(0) - found).abs() <= limit * error + 1e-6 * (1 + found.abs())).all()
    if not leaves or not specimen.differentiable or found.grad_fn is None:
        return
    floats = [n for n, v in specimen.parameters.items() if torch.as_tensor(v).is_floating_point()]
    whole = {n: torch.as_tensor(v) for n, v in specimen.parameters.items() if n not in floats}

    def of(*parameters):
        return entropy(specimen.make(**dict(zip(floats, parameters, strict=True)), **whole))

    assert torch.autograd.gradcheck(of, leaves, eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=True)


class Shifted(dist.Normal):
    """A density of its own."""

    def log_prob(self, value):
        return super().log_prob(value).exp().mul(2).log()


class Generic(td.ExponentialFamily):
    """A family with torch's generic entropy, which has no gradient."""

    arg_constraints: dict = {}
    _mean_carrier_measure = 0

    def __init__(self, rate):
        self.rate = rate
        super().__init__(rate.shape, validate_args=False)

    @property
    def _natural_params(self):
        return (-self.rate,)

    def _log_normalizer(self, x):
        return -(-x).log()

    def log_prob(self, value):
        return self.rate.log() - self.rate * value


def test_what_is_not_its_own_or_has_no_gradient_is_not_believed():
    rate = torch.tensor([0.5, 2.0], requires_grad=True)
    right = Generic(rate).entropy()
    torch.testing.assert_close(right, 1 - rate.log())  # as a number, but not in a loss
    assert torch.autograd.grad(right.sum(), rate, allow_unused=True) == (None,)
    counts = dist.Multinomial(3, torch.ones(4))
    mask = torch.tensor([True, False])
    several = dist.Normal(torch.zeros(2), 1.0).mask(mask)
    flow = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.ExpTransform()])
    for d in (Generic(rate), Shifted(0.0, 1.0), counts, several, flow, dist.Delta(torch.ones(()))):
        assert closed_entropy(d) is None


def test_wrappers_are_looked_through():
    class Own(dist.TorchDistribution):
        arg_constraints: dict = {}
        support = dist.constraints.unit_interval

        def __init__(self):
            super().__init__(torch.Size([2]))

        def log_prob(self, value):
            return torch.zeros_like(value) - math.log(3)

        def entropy(self):
            return torch.full((2,), math.log(3))

    expanded = Own().expand([5, 2]).to_event(1)
    torch.testing.assert_close(closed_entropy(expanded), torch.full((5,), 2 * math.log(3)))


@pytest.mark.usefixtures("float64")
def test_estimates_take_it():
    loc = torch.zeros(2)
    q = dist.MultivariateStudentT(torch.tensor(7.0), loc, torch.eye(2))
    found = kl.estimate(q, dist.Normal(loc, 1.0).to_event(1), 20_000, estimator="entropy")
    truth = kl.divergence(q, dist.MultivariateNormal(loc, torch.eye(2)))
    assert abs(found.mean - truth) < norm.isf(FAILURE / 2) * found.std_error
