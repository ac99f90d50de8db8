"""Relaxed bits and one-hot vectors: their law, at any temperature, and inside their space."""

import itertools

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from scipy import stats

from pyro_vae.distributions import RelaxedBernoulli, RelaxedOneHotCategorical

FAILURE = 1e-6  # the probability that a right sampler fails one test
TEMPERATURES = [0.3, 1.0, 7.0]
LOGITS = torch.tensor([-1.0, 0.5, 2.0, 0.0], dtype=torch.float64)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_draws_of_bits_follow_their_law(temperature):
    x = RelaxedBernoulli(temperature, logits=LOGITS).sample((20_000,))
    noise = temperature * torch.logit(x) - LOGITS
    for column in noise.unbind(-1):
        assert stats.kstest(column.numpy(), "logistic").pvalue > FAILURE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_draws_of_vectors_follow_their_law(temperature):
    x = RelaxedOneHotCategorical(temperature, logits=LOGITS).sample((20_000,))
    # a difference of two Gumbels is logistic
    noise = temperature * x.log() - LOGITS
    for i, j in itertools.combinations(range(4), 2):
        difference = (noise[:, i] - noise[:, j]).numpy()
        assert stats.kstest(difference, "logistic").pvalue > FAILURE
    found = torch.bincount(x.argmax(-1), minlength=4).numpy()
    assert stats.chisquare(found, 20_000 * LOGITS.softmax(-1).numpy()).pvalue > FAILURE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (RelaxedBernoulli, td.RelaxedBernoulli),
        (RelaxedOneHotCategorical, td.RelaxedOneHotCategorical),
    ],
)
def test_densities_are_those_of_torch_where_torch_has_them(ours, torchs, temperature):
    logits = torch.randn(5, 4)
    d = ours(temperature, logits=logits)
    other = torchs(torch.tensor(temperature), logits=logits)
    x = d.sample((100,))
    torch.testing.assert_close(d.log_prob(x), other.log_prob(x), rtol=1e-9, atol=1e-9)
    from_probs = ours(temperature, probs=d.probs)
    torch.testing.assert_close(from_probs.log_prob(x), d.log_prob(x), rtol=1e-7, atol=1e-7)


def mean_logit(d):
    """Temperature times the mean logit of draws, which is the logit of the bit."""
    return (10.0 * torch.logit(d.sample((20_000,)))).mean().item()


def test_bits_of_large_logits_are_drawn_as_they_are_scored():
    # at temperature 10 a logit of 30 is nowhere near an end of the interval
    temperature, logits = torch.tensor(10.0), torch.tensor(30.0)
    error = 3.1416 / 3**0.5 / 20_000**0.5
    ours = mean_logit(RelaxedBernoulli(temperature, logits=logits))
    assert ours == pytest.approx(30.0, abs=5 * error)
    # torch clamps the probability, and so draws from a logit of 16
    assert mean_logit(td.RelaxedBernoulli(temperature, logits=logits)) < 17


def test_densities_of_bits_do_not_overflow():
    temperature, logits = torch.tensor(100.0), torch.zeros(1, requires_grad=True)
    x = torch.tensor([0.2])
    value = RelaxedBernoulli(temperature, logits=logits).log_prob(x)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    assert bool(value.isfinite().all())
    torch.testing.assert_close(slope, torch.tensor([-1.0]))
    assert not bool(td.RelaxedBernoulli(temperature, logits=logits).log_prob(x).isfinite())


@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("size", [0.0, 50.0, 1e4])
@pytest.mark.parametrize("cls", [RelaxedBernoulli, RelaxedOneHotCategorical])
@pytest.mark.parametrize("other", [0.01, 100.0])
def test_extremes_are_finite_and_inside(cls, size, temperature, other):
    logits = (size * torch.tensor([1.0, -1.0, 0.5, 0.0])).requires_grad_()
    warm = torch.tensor(temperature, requires_grad=True)
    d, p = cls(warm, logits=logits), cls(other, logits=torch.zeros(4))
    x = d.rsample((500,))
    assert bool(((x > 0) & (x < 1)).all())
    assert bool(d.support.check(x).all())
    # the integrand of a KL and of a decoder, of a draw that carries a gradient
    loss = (d.log_prob(x) - p.log_prob(x)).sum() + x.square().sum()
    assert bool(loss.isfinite())
    for gradient in torch.autograd.grad(loss, [logits, warm]):
        assert bool(gradient.isfinite().all())


def test_draws_of_torch_reach_the_faces_of_the_simplex():
    # what the floor of our draws is for
    logits = torch.tensor([50.0, -50.0, 0.0])
    x = td.RelaxedOneHotCategorical(torch.tensor(0.1), logits=logits).sample((10,))
    assert bool((x == 0).any())
    assert bool((RelaxedOneHotCategorical(0.1, logits=logits).sample((10,)) > 0).all())


def test_temperatures_may_differ_between_elements():
    warm = torch.tensor([0.1, 1.0, 10.0])
    logits = torch.randn(5, 3, 4)
    vectors = RelaxedOneHotCategorical(warm, logits=logits)
    x = vectors.sample((2,))
    assert vectors.batch_shape == (5, 3)
    for i, t in enumerate(warm):
        one = RelaxedOneHotCategorical(t, logits=logits[:, i])
        torch.testing.assert_close(vectors.log_prob(x)[..., i], one.log_prob(x[..., i, :]))
    bits = RelaxedBernoulli(warm, logits=0.5)
    assert bits.batch_shape == (3,)
    assert bits.expand((2, 3)).sample().shape == (2, 3)
    assert vectors.expand((6, 5, 3)).log_prob(x[0]).shape == (6, 5, 3)


def test_means_of_gradients_of_draws_are_gradients_of_means():
    # d E[x] / d logits by quadrature of the noise, against the mean of pathwise gradients
    logits, count = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), 40_000
    x = RelaxedBernoulli(0.5, logits=logits.expand(count)).rsample()
    slopes = (2 * x * (1 - x)).detach()  # d sigmoid(y / t) / d logits, t = 1/2
    (found,) = torch.autograd.grad(x.mean(), logits)
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    y = ((0.7 + torch.logit(u)) / 0.5).sigmoid()
    exact = (2 * y * (1 - y)).mean()
    assert abs(found - exact) < 5 * slopes.std() / count**0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RelaxedBernoulli(-1.0, logits=0.0), "temperature"),
        (lambda: RelaxedOneHotCategorical(0.0, logits=torch.zeros(3)), "temperature"),
        (lambda: RelaxedBernoulli(1.0), "Either `probs` or `logits`"),
        (lambda: RelaxedOneHotCategorical(1.0), "Either `probs` or `logits`"),
        (lambda: RelaxedBernoulli(1.0, probs=2.0), "probs"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with dist.validation_enabled(True), pytest.raises(ValueError, match=message):
        make()
