"""beta, free bits, terms by datum, flags and particles: the same for every ELBO of the room."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import binary, copies, small_vae, svi, train, unmoved
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import families as fam
from pyro_vae import kl
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, TraceSTL_ELBO, terms

pytestmark = pytest.mark.usefixtures("float64")


def dreg(**options):
    return TraceIWAE_ELBO(**({"num_particles": 3} | options), gradient="dreg")


ELBOS = {
    "exact": TraceExactKL_ELBO,
    "stl": TraceSTL_ELBO,
    "iwae": lambda **options: TraceIWAE_ELBO(**({"num_particles": 3} | options)),
    "dreg": dreg,
}
elbos = pytest.mark.parametrize("make", ELBOS.values(), ids=ELBOS)
simple = pytest.mark.parametrize("make", [TraceExactKL_ELBO, TraceSTL_ELBO], ids=["exact", "stl"])


def param(name, value):
    return pyro.param(name, torch.as_tensor(value, dtype=torch.float64))


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        y = pyro.sample("y", dist.Laplace(0.0, 1.0))
        loc = param("w", 0.7) * z.sum(-1) + y
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        loc = torch.stack([param("a", 1.5) * x, param("b", 0.05) * x], -1)
        pyro.sample("z", dist.Normal(loc, torch.tensor([0.3, 0.98])).to_event(1))
        pyro.sample("y", dist.Normal(param("c", 0.5) * x, 0.5))


X = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)


def at_a_seed(elbo, name="loss", seed=0, programs=(model, guide)):
    torch.manual_seed(seed)
    return getattr(elbo, name)(*programs, X)


# -------------------------------------------------------------------------------- terms and beta


OBJECTIVES = {
    "beta 0": {"beta": 0.0},
    "beta .3": {"beta": 0.3},
    "beta 1": {"beta": 1.0},
    "beta 4": {"beta": 4.0},
    "a site's bits": {"free_bits": 0.4, "beta": 0.5},
    "a dimension's bits": {"free_bits": {"z": 0.4}, "free_bits_per": "dimension"},
    "bits at beta 0": {"free_bits": 0.4, "beta": 0.0},
}


@elbos
@pytest.mark.parametrize("options", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_loss_is_the_objective_and_the_terms_hold_the_bound_of_the_same_draws(make, options):
    loss = at_a_seed(make(**options))
    found, plain = at_a_seed(make(**options), "terms"), at_a_seed(make(), "terms")
    assert loss == pytest.approx(-found["objective"].sum().item())
    for name in ("elbo", "kl", "log_likelihood", "kl.z", "kl.y", "log_likelihood.x"):
        assert found[name].shape == (3,)
        assert not found[name].requires_grad
        torch.testing.assert_close(found[name], plain[name])
    torch.testing.assert_close(plain["elbo"], plain["objective"])


@simple
def test_beta_weighs_the_kls(make):
    found = at_a_seed(make(beta=3.0), "terms")
    torch.testing.assert_close(found["objective"], found["log_likelihood"] - 3 * found["kl"])
    torch.testing.assert_close(found["kl"], found["kl.z"] + found["kl.y"])
    torch.testing.assert_close(found["elbo"], found["log_likelihood"] - found["kl"])


@elbos
def test_beta_may_be_a_tensor_that_its_owner_updates(make):
    beta = torch.tensor(0.5)
    elbo = make(beta=beta)
    before = at_a_seed(elbo)
    beta.fill_(2.0)
    assert at_a_seed(elbo) == pytest.approx(at_a_seed(make(beta=2.0)))
    assert before == pytest.approx(at_a_seed(make(beta=0.5)))


@elbos
def test_without_kls_the_guide_maximises_the_likelihood(make):
    elbo = make(beta=0.0)
    loss = at_a_seed(elbo, "differentiable_loss")
    (gradient,) = torch.autograd.grad(loss, [pyro.param("c").unconstrained()])
    plain = at_a_seed(make(beta=0.0), "terms")
    assert loss.item() == pytest.approx(-plain["objective"].sum().item())
    assert gradient != 0


@pytest.mark.parametrize("beta", [-1.0, math.inf, math.nan, "1", True, torch.ones(2)])
def test_a_beta_that_is_none_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be"):
        TraceExactKL_ELBO(beta=beta)


@elbos
def test_terms_are_those_of_a_datum_however_it_is_weighed(make):
    def weighed(program):
        def run(x):
            with pyro.plate("data", 300, subsample=torch.arange(3)):
                return program(x)

        return run

    def inner_model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def inner_guide(x):
        pyro.sample("z", dist.Normal(param("a", 0.5) * x, 0.7))

    programs = weighed(inner_model), weighed(inner_guide)
    found = at_a_seed(make(), "terms", programs=programs)
    assert found["elbo"].shape == (3,)
    loss = at_a_seed(make(), programs=programs)
    assert loss == pytest.approx(-100 * found["elbo"].sum().item())


def test_a_site_outside_the_data_plate_has_a_term_of_its_own():
    def outer(x):
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(g, 1.0), obs=x)

    def own(x):
        pyro.sample("g", dist.Normal(param("a", 0.5), 0.7))

    found = at_a_seed(TraceExactKL_ELBO(), "terms", programs=(outer, own))
    assert found["kl.g"].shape == ()
    assert found["kl.g"] > 0
    torch.testing.assert_close(found["elbo"], found["log_likelihood"])


@simple
def test_inner_plates_are_summed_and_particles_averaged(make):
    def inner(program):
        def run(x):
            with pyro.plate("data", 3, dim=-2), pyro.plate("parts", 4, dim=-1):
                return program(x[:, None])

        return run

    def parts(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.expand(3, 4))

    def own(x):
        pyro.sample("z", dist.Normal(param("a", 0.5) * x, 0.7))

    elbo = make(num_particles=5, vectorize_particles=True)
    found = at_a_seed(elbo, "terms", programs=(inner(parts), inner(own)))
    exact = kl.divergence(dist.Normal(0.5 * X, 0.7), dist.Normal(0.0, 1.0)) * 4
    assert found["elbo"].shape == (3,)
    if make is TraceExactKL_ELBO:
        torch.testing.assert_close(found["kl.z"], exact)


# ------------------------------------------------------------------------------------- free bits


def by_hand(nats, per):
    """-sum max(mean KL, lambda), dimension by dimension or site by site, and the KLs."""
    loc = torch.stack([1.5 * X, 0.05 * X], -1)
    z = kl.divergence(dist.Normal(loc, torch.tensor([0.3, 0.98])), dist.Normal(0.0, 1.0))
    y = kl.divergence(dist.Normal(0.5 * X, 0.5), dist.Laplace(torch.zeros(()), 1.0))
    groups = [z[:, 0], z[:, 1], y] if per == "dimension" else [z.sum(-1), y]
    return sum(max(g.mean().item(), nats) * len(X) for g in groups)


def split_guide(x):
    with pyro.plate("data", len(x)):
        loc = torch.stack([param("a", 1.5) * x, param("b", 0.05) * x], -1)
        pyro.sample("z", dist.Normal(loc, torch.tensor([0.3, 0.98])).to_event(1))
        pyro.sample("y", dist.Normal((param("c", 0.5) * x)[:, None], 0.5).to_event(1))


def split_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        y = pyro.sample("y", dist.Laplace(torch.zeros(1), 1.0).to_event(1))
        loc = param("w", 0.7) * z.sum(-1) + y.squeeze(-1)
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


@pytest.mark.parametrize("per", ["site", "dimension"])
@pytest.mark.parametrize("nats", [0.0, 0.1, 0.5, 100.0])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_free_bits_cost_lambda_below_it(per, nats, beta):
    elbo = TraceExactKL_ELBO(free_bits=nats, free_bits_per=per, beta=beta)
    found = at_a_seed(elbo, "terms", programs=(split_model, split_guide))
    expected = found["log_likelihood"].sum().item() - beta * by_hand(nats, per)
    assert found["objective"].sum().item() == pytest.approx(expected, rel=1e-9)
    loss = at_a_seed(elbo, programs=(split_model, split_guide))
    assert loss == pytest.approx(-expected, rel=1e-9)
    torch.testing.assert_close(found["elbo"], found["log_likelihood"] - found["kl"])


@elbos
@pytest.mark.parametrize("per", ["site", "dimension"])
def test_a_kl_below_lambda_does_not_move_the_guide(make, per):
    """The likelihood does not look at z, so that nothing but the KLs has a gradient."""

    def gradient(nats):
        elbo = make(num_particles=3, free_bits=nats, free_bits_per=per)

        def only_kls(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("y", dist.Laplace(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

        loss = at_a_seed(elbo, "differentiable_loss", programs=(only_kls, split_guide))
        leaves = [pyro.param(n).unconstrained() for n in ("a", "b", "c")]
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        return torch.stack([torch.zeros(()) if g is None else g for g in found])

    free = gradient(0.0)
    assert (free != 0).all()
    if make in (TraceExactKL_ELBO, TraceSTL_ELBO):
        assert (gradient(50.0).abs() < 1e-12).all()
        some = gradient(0.2)  # only dimension b of z is below
        if per == "dimension":
            assert some[1].abs() < 1e-12
            torch.testing.assert_close(some[[0, 2]], free[[0, 2]])
    else:  # the weights still hold the KLs; what they lack up to lambda is added
        assert not torch.allclose(gradient(50.0), free)


def test_free_bits_by_site_and_what_is_refused():
    elbo = TraceExactKL_ELBO(free_bits={"y": 30.0})
    found = at_a_seed(elbo, "terms")
    expected = found["log_likelihood"] - found["kl.z"] - 30.0
    torch.testing.assert_close(found["objective"], expected)
    with pytest.raises(ValueError, match="'u', which is no latent site; those are 'z', 'y'"):
        at_a_seed(TraceExactKL_ELBO(free_bits={"u": 1.0}))
    with pytest.raises(ValueError, match="at least 0"):
        TraceExactKL_ELBO(free_bits=-1.0)
    with pytest.raises(ValueError, match="'site' or 'dimension'"):
        TraceExactKL_ELBO(free_bits=1.0, free_bits_per="datum")

    def full(x):
        with pyro.plate("data", len(x)):
            root = torch.eye(2).expand(len(x), 2, 2)
            loc = param("a", 0.1) * x[:, None].expand(-1, 2)
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=root))
            pyro.sample("y", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"'z'.*independent.*free_bits_per='site'"):
        at_a_seed(
            TraceExactKL_ELBO(free_bits=1.0, free_bits_per="dimension"), programs=(model, full)
        )


# ----------------------------------------------------------------------------- flags, particles


def tailed(df):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(df, param("a", 0.1) * x, 1.0))

    return guide


heavy, fine = tailed(1.5), tailed(5.0)  # whose KL with a Normal is infinite, and finite


def light(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_flags_are_read_in_every_nth_call():
    elbo = TraceSTL_ELBO(check_every=3)
    for _ in range(2):
        elbo.differentiable_loss(light, heavy, X)
    with pytest.raises(ValueError, match=r"site 'z'.*infinite"):
        elbo.differentiable_loss(light, heavy, X)
    with pytest.raises(ValueError, match=r"site 'z'.*infinite"):  # a float is read at once
        elbo.loss_and_grads(light, heavy, X)
    with pytest.raises(ValueError, match="check_every"):
        TraceSTL_ELBO(check_every=0)


@pytest.mark.parametrize("make", [TraceSTL_ELBO, TraceIWAE_ELBO], ids=["stl", "iwae"])
def test_a_flag_that_waits_is_not_forgotten(make):
    """Neither by calls that are right, nor by a loss, nor where the next programs are others."""
    elbo = make(check_every=3)
    elbo.differentiable_loss(light, heavy, X)
    elbo.differentiable_loss(light, fine, X)
    with pytest.raises(ValueError, match="site 'z': KL.* came out as NaN or infinite"):
        elbo.differentiable_loss(light, fine, X)
    elbo.differentiable_loss(light, heavy, X)
    with pytest.raises(ValueError, match="site 'z'"):
        elbo.loss(light, fine, X)
    elbo.differentiable_loss(light, heavy, X)
    with pytest.raises(ValueError, match="site 'z'.* in an earlier call, of other programs"):
        elbo.differentiable_loss(model, guide, X)
    for _ in range(4):  # what was told is over
        elbo.differentiable_loss(light, fine, X)
    assert math.isfinite(elbo.loss(light, fine, X))


@elbos
def test_a_graph_returns_its_flags(make):
    """Made where all is finite, it tells of an infinite KL in a later call."""

    def objective(df, a):
        def student(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.StudentT(df, a * x, 1.0))

        made = make(max_plate_nesting=1)._objective(light, student, (X,), {})
        (gradient,) = torch.autograd.grad(made.surrogate, a)
        return made.loss, gradient, torch.stack([check.flag for check in made.checks])

    a = torch.tensor(0.3, requires_grad=True)
    with pyro.validation_enabled(False):
        graph = make_fx(objective)(torch.tensor(5.0), a)
    assert graph(torch.tensor(5.0), a)[2].all()
    assert not graph(torch.tensor(1.5), a)[2].all()


def test_the_kl_of_vectorised_particles_is_computed_once(monkeypatch):
    shapes = []
    plan = terms.plan

    def spy(q, p):
        shapes.append(q.batch_shape)
        return plan(q, p)

    monkeypatch.setattr(terms, "plan", spy)
    elbo = TraceExactKL_ELBO(50, vectorize_particles=True, max_plate_nesting=1)
    found = at_a_seed(elbo, "terms")
    assert shapes == [(3,), (3,)]
    single = at_a_seed(TraceExactKL_ELBO(), "terms")
    torch.testing.assert_close(found["kl"], single["kl"])


@pytest.mark.usefixtures("float64")
@elbos
@pytest.mark.parametrize("vectorised", [False, True], ids=["loop", "vectorised"])
def test_svi_and_torch_train_every_parameter(make, vectorised):
    x = binary().double()
    options = {"num_particles": 2, "vectorize_particles": vectorised, "free_bits": 0.01}
    for way in ("svi", "torch"):
        vae = small_vae(fam.Laplace(2, learnable=True))
        before = copies(vae)
        if way == "svi":
            step = svi(vae, make(**options))
            for _ in range(3):
                assert math.isfinite(step.step(x))
        else:
            train(vae, make(**options), x)
        assert not unmoved(vae, before)
