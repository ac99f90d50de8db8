"""`TraceExactKL_ELBO(sampled="entropy")`: -H(q) exact, the cross-entropy sampled, and told so.

Values and gradients by closed forms and enumeration stand in `test_trace_exact_kl`.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from paired import FAILURE, agree, calls
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from scipy import stats
from test_expectations import CASES, data
from torch.distributions import constraints
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import kl
from pyro_vae.infer import TraceExactKL_ELBO, terms

pytestmark = pytest.mark.usefixtures("float64")
COUNT = 40


class Own(dist.Normal):
    """A Normal to everybody but the table of forms."""


class Shifted(dist.Normal):
    """With a density of its own, so that its parent's entropy is not its own."""

    def log_prob(self, value):
        return super().log_prob(value - 1.0)

    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape) + 1.0


def param(name, value, constraint=constraints.real):
    return pyro.param(name, torch.as_tensor(value), constraint=constraint)


def entropy(**options):
    return TraceExactKL_ELBO(sampled="entropy", **options)


# ---------------------------------------------------------------------------------- expectations
AFFECTED = {
    name: {
        site: {"sampled": "entropy", "mixed": "closed"}.get(kind, kind)
        for site, kind in routes.items()
    }
    for name, (_, routes, _) in CASES.items()
    if not {"sampled", "mixed", "auxiliary"}.isdisjoint(routes.values())
}
# whose entropies nobody knows: a Poisson's, that of elements some of which are masked
for unknown in ("discrete, no form", "masked within an event, in the guide"):
    AFFECTED[unknown] = CASES[unknown][1]


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
@pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide but not model")
@pytest.mark.parametrize("name", AFFECTED)
def test_the_expectations_are_those_of_trace_elbo(name):
    make, _, options = CASES[name]
    model, guide = make()
    elbo = entropy(**options)
    elbo.loss(model, guide, data())
    found, expected = (
        calls(e, model, guide, (data(),), count=COUNT) for e in (elbo, Trace_ELBO(**options))
    )
    assert {site: route.kind for site, route in elbo.routes.items()} == AFFECTED[name]
    assert agree(found, expected)


def on_the_simplex(rows=30):
    """Dirichlet || relaxed one-hot: no KL is known, and log q is no function of noise alone."""

    def model():
        logits = param("logits", torch.zeros(3))
        with pyro.plate("data", rows):
            z = pyro.sample("z", dist.RelaxedOneHotCategorical(torch.tensor(0.7), logits=logits))
            pyro.sample("x", dist.Normal(z[..., 0], 0.7), obs=torch.linspace(0, 1, rows))

    def guide():
        concentration = param("a", [[2.0, 3.0, 1.5]] * rows, constraints.positive)
        with pyro.plate("data", rows):
            pyro.sample("z", dist.Dirichlet(concentration))

    return model, guide


def counts(rows=30):
    """Geometric || zero-inflated Poisson: the score function."""

    def model():
        rate, gate = param("rate", 2.0, constraints.positive), torch.tensor(0.3)
        law = dist.ZeroInflatedPoisson(rate, gate=gate)
        with pyro.plate("data", rows):
            k = pyro.sample("k", law)
            pyro.sample("x", dist.Normal(k, 4.0), obs=torch.linspace(0, 3, rows))

    def guide():
        with pyro.plate("data", rows):
            pyro.sample("k", dist.Geometric(logits=param("a", torch.zeros(rows))))

    return model, guide


def of_few(make):
    """With half of the rows masked and all of them scaled."""

    def weighed(rows=30):
        mask = torch.arange(rows) % 2 == 0
        return [poutine.scale(poutine.mask(f, mask=mask), scale=3.0) for f in make(rows)]

    return weighed


PAIRS = {"simplex": on_the_simplex, "counts": counts}
PAIRS |= {f"{name}, scaled and masked": of_few(make) for name, make in PAIRS.items()}


@pytest.mark.parametrize("particles", [{}, {"num_particles": 3, "vectorize_particles": True}])
@pytest.mark.parametrize("name", PAIRS)
def test_guides_that_are_not_of_location_and_scale(name, particles):
    model, guide = PAIRS[name]()
    elbo = entropy(**particles, **({"max_plate_nesting": 1} if particles else {}))
    elbo.loss(model, guide)
    found, expected = (calls(e, model, guide, count=200) for e in (elbo, Trace_ELBO()))
    assert {route.kind for route in elbo.routes.values()} == {"entropy"}
    assert agree(found, expected)


# ------------------------------------------------------------------------------- which is quieter


def spread(rows):
    return rows.var(0, ddof=1)


def quieter(a, b):
    """Whether the first of two samples of Normals has the smaller variance, by an F test."""
    return stats.f.cdf(spread(a) / spread(b), len(a) - 1, len(b) - 1) < FAILURE


def test_of_location_and_scale_the_gradients_are_one_and_the_log_ratio_is_quieter():
    """The guide is the exact posterior, so that the log ratio does not move at all."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Own(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            scale = param("s", 0.5**0.5, constraints.positive)
            pyro.sample("z", dist.Normal(param("a", 0.5) * x, scale))

    x = torch.linspace(-1.0, 2.0, 20)
    entropy().loss(model, guide, x)
    ratio, other = (
        calls(e, model, guide, (x,), count=COUNT) for e in (TraceExactKL_ELBO(), entropy())
    )
    assert other[:, 1:] == pytest.approx(ratio[:, 1:], abs=1e-10)
    assert spread(ratio)[0] < 1e-20
    assert spread(other)[0] > 1


def test_of_a_dirichlet_the_entropy_has_the_quieter_gradient():
    model, guide = on_the_simplex()
    entropy().loss(model, guide)
    # by row of data; logits have one gradient in both
    ratio, other = (
        calls(e, model, guide, count=200)[:, 1:91] for e in (TraceExactKL_ELBO(), entropy())
    )
    assert quieter(other.sum(1), ratio.sum(1))


def test_with_the_score_function_the_log_ratio_has_the_quieter_gradient():
    model, guide = counts()
    entropy().loss(model, guide)
    ratio, other = (calls(e, model, guide, count=400)[:, 1:31] for e in (Trace_ELBO(), entropy()))
    assert quieter(ratio.sum(1), other.sum(1))


# -------------------------------------------------------------------------------- what is told


def own_model():
    z = pyro.sample("z", Own(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))


def normal_guide():
    pyro.sample("z", dist.Normal(param("a", 0.3), 0.7))


def test_the_record_says_what_and_why():
    elbo = entropy()
    elbo.loss(own_model, normal_guide)
    kind, reason, _ = elbo.routes["z"]
    assert kind == "entropy"
    assert "no closed form" in reason
    assert "the entropy of Normal is exact, the cross-entropy sampled" in reason
    assert TraceExactKL_ELBO().sampled == "log_ratio"


def test_an_unknown_entropy_is_not_made_up():
    elbo = entropy()
    elbo.loss(own_model, lambda: pyro.sample("z", Shifted(param("a", 0.3), 0.7)))
    kind, reason, _ = elbo.routes["z"]
    assert kind == "sampled"
    assert "nor is a closed form of the entropy of Shifted known" in reason


def test_strict_still_refuses_to_sample_a_cross_entropy():
    with pytest.raises(kl.NoExactKL, match=r"'z': KL\(Normal \|\| Own\).*strict=True refuses"):
        entropy(strict=True).loss(own_model, normal_guide)


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="sampled must be one of log_ratio, entropy, not 'exact'"):
        TraceExactKL_ELBO(sampled="exact")


def test_a_draw_outside_the_prior_is_an_error():
    class Positive(dist.Exponential):
        """Of which nobody knows a KL."""

    def model():
        pyro.sample("z", Positive(2.0))

    def guide():
        pyro.sample("z", dist.Normal(-50.0, 1e-3))

    with pyro.validation_enabled(False), pytest.raises(ValueError, match="'z'"):
        entropy().loss(model, guide)


def test_an_autoguides_log_q_has_no_noise():
    """What is sampled is the joint density alone: Stan's objective."""

    def model():
        s = pyro.sample("s", dist.Gamma(2.0, 2.0))
        pyro.sample("x", dist.Normal(0.0, s), obs=torch.tensor(0.5))

    guide = AutoNormal(model)
    guide()
    elbo = entropy(strict=True)
    found, expected = (calls(e, model, guide, count=COUNT) for e in (elbo, Trace_ELBO()))
    kind, reason, _ = elbo.routes["s_unconstrained"]
    assert kind == "auxiliary"
    assert "minus its entropy, exactly" in reason
    assert agree(found, expected)
    found, expected = (
        e.terms(model, guide)["kl.s_unconstrained"] for e in (elbo, TraceExactKL_ELBO())
    )
    truth = -dist.Normal(0.0, guide.scales.s).entropy().detach()
    torch.testing.assert_close(found, truth)
    assert found != expected


# -------------------------------------------------------------------- free bits, particles, graphs


@pytest.mark.parametrize("per", ["site", "dimension"])
@pytest.mark.parametrize("nats", [0.0, 0.2, 50.0])
def test_free_bits(nats, per):
    """The mean KL of each group, by enough draws to know on which side of lambda it is."""
    loc = torch.tensor([1.5, 0.05])

    def model():
        with pyro.plate("data", 3):
            pyro.sample("z", Own(torch.zeros(2), 1.0).to_event(1))

    def guide():
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(param("loc", loc), torch.tensor([0.3, 0.98])).to_event(1))

    options = {"num_particles": 2000, "vectorize_particles": True, "max_plate_nesting": 1}
    elbo = entropy(free_bits=nats, free_bits_per=per, **options)
    loss = elbo.differentiable_loss(model, guide)
    assert elbo.routes["z"].kind == "entropy"
    each = kl.divergence(dist.Normal(loc, torch.tensor([0.3, 0.98])), dist.Normal(0.0, 1.0))
    groups = each if per == "dimension" else each.sum(0, keepdim=True)
    exact = 3 * groups.clamp(min=nats).sum().item()
    # -log p = z^2 / 2 + c has a standard deviation of at most sqrt(loc^2 s^2 + s^4 / 2) = 0.83
    error = 3 * 2 * 0.83 / 6000**0.5
    assert loss.item() == pytest.approx(exact, abs=stats.norm.isf(FAILURE / 2) * error)
    (gradient,) = torch.autograd.grad(loss, pyro.param("loc"), allow_unused=True)
    below = (groups < nats).numpy()
    still = np.broadcast_to(below, (2,))
    assert ((gradient == 0).numpy() == still).all()


def test_the_entropy_of_vectorised_particles_is_computed_once(monkeypatch):
    shapes = []
    closed = terms.closed_entropy

    def spy(d):
        shapes.append(d.batch_shape)
        return closed(d)

    monkeypatch.setattr(terms, "closed_entropy", spy)

    def wide(program):
        def run():
            with pyro.plate("data", 3):
                program()

        return run

    options = {"num_particles": 50, "vectorize_particles": True, "max_plate_nesting": 1}
    entropy(**options).loss(wide(own_model), wide(normal_guide))
    assert shapes == [(3,)]


def test_a_graph_can_be_made_of_it():
    def objective(a):
        def guide():
            pyro.sample("z", dist.Normal(a, a.exp()))

        made = entropy(max_plate_nesting=0)._objective(own_model, guide, (), {})
        (gradient,) = torch.autograd.grad(made.surrogate, a)
        return made.loss, gradient, [check.flag for check in made.checks]

    a = torch.tensor(0.3, requires_grad=True)
    with pyro.validation_enabled(False):
        loss, gradient, flags = make_fx(objective)(a)(a)
    assert loss.isfinite()
    assert gradient.isfinite()
    assert all(flags)
