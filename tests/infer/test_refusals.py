"""What `TraceExactKL_ELBO` refuses, before anything moves, and what it says of it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import binary, copies, small_vae, svi, train, unmoved
from pyro import poutine

from pyro_vae import families as fam
from pyro_vae import kl
from pyro_vae.infer import TraceExactKL_ELBO


def infinite_vae():
    return small_vae(fam.Normal(2), fam.StudentT(2, context=8, df=1.5))


@pytest.mark.parametrize("way", ["SVI", "torch", "loss"])
def test_an_infinite_kl_is_an_error_and_nothing_moves(way):
    vae, elbo, x = infinite_vae(), TraceExactKL_ELBO(num_particles=2), binary()
    before = copies(vae)
    step = {
        "SVI": lambda: svi(vae, elbo).step(x),
        "torch": lambda: train(vae, elbo, x, steps=1),
        "loss": lambda: elbo.loss(vae.model, vae.guide, x),
    }[way]
    with pytest.raises(
        ValueError, match=r"site 'z': KL\(StudentT \|\| Normal\) is infinite: .*df"
    ):
        step()
    assert len(unmoved(vae, before)) == len(before)
    assert all(p.grad is None for p in vae.parameters())


def test_an_infinite_kl_in_one_element_is_enough_unless_it_is_masked():
    df = torch.tensor([1.5, 5.0, 5.0])

    def programs(mask):
        def model():
            with pyro.plate("data", 3), poutine.mask(mask=mask):
                pyro.sample("z", dist.Normal(0.0, 1.0))

        def guide():
            with pyro.plate("data", 3), poutine.mask(mask=mask):
                pyro.sample("z", dist.StudentT(df, 0.0, 1.0))

        return model, guide

    elbo = TraceExactKL_ELBO()
    with pytest.raises(ValueError, match="is infinite: .*1 of 3 elements"):
        elbo.loss(*programs(torch.tensor(True)))
    assert math.isfinite(elbo.loss(*programs(torch.tensor([False, True, True]))))


def test_a_sampled_kl_that_is_known_to_be_infinite_is_an_error_too():
    """No exact way is known for elements that may be finite, and one of them is not."""

    class Own(dist.Normal):
        """Whose density nobody knows to be a Normal's."""

    def model():
        pyro.sample("z", dist.Uniform(0.0, 1.0))

    def guide():
        pyro.sample("z", Own(torch.tensor(0.5), 1e-3))

    elbo = TraceExactKL_ELBO()
    told = kl.route(Own(0.5, 1e-3), dist.Uniform(0.0, 1.0))
    assert not told.finite.all()
    with pytest.raises(ValueError, match=r"site 'z': KL\(Own \|\| Uniform\) is infinite"):
        elbo.loss(model, guide)


PRIORS = {
    "closed": lambda loc: dist.Normal(loc, 1.0),
    "quadrature": lambda loc: dist.StudentT(5.0, loc, 1.0),
    "sampled": lambda loc: type("Own", (dist.Normal,), {})(loc, 1.0),
}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS.keys())
@pytest.mark.parametrize("side", ["guide", "model"])
def test_a_nan_is_an_error_that_names_the_side(side, prior):
    loc = {name: torch.tensor(math.nan if name == side else 0.0) for name in ("guide", "model")}
    a = torch.tensor(0.3, requires_grad=True)

    def model():
        pyro.sample("z", prior(loc["model"]))

    def guide():
        pyro.sample("z", dist.Normal(a + loc["guide"], 1.0))

    with pyro.validation_enabled(False):
        for call in (TraceExactKL_ELBO().differentiable_loss, TraceExactKL_ELBO().loss_and_grads):
            message = f"site 'z': .*parameter of the {side} is not finite"
            with pytest.raises(ValueError, match=message):
                call(model, guide)
    assert a.grad is None


def test_a_nan_likelihood_is_told_as_pyro_tells_it():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(math.nan))

    def guide():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pyro.validation_enabled(False), pytest.warns(UserWarning, match="NaN: loss"):
        assert math.isnan(TraceExactKL_ELBO().loss(model, guide))


def test_a_draw_outside_the_prior_is_an_error():
    def model():
        pyro.sample("z", dist.Gamma(2.0, 2.0))

    def guide():
        pyro.sample("z", dist.Normal(-50.0, 1e-3))

    with pyro.validation_enabled(False), pytest.raises(ValueError, match=r"'z': .*is infinite"):
        TraceExactKL_ELBO().loss(model, guide)


def test_undefined_kls_and_missing_sites_are_errors():
    def model():
        pyro.sample("z", dist.Bernoulli(0.5))

    def relaxed():
        pyro.sample("z", dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), probs=0.5))

    with pytest.raises(ValueError, match=r"site 'z': KL\(.* Bernoulli\) is undefined"):
        TraceExactKL_ELBO().loss(model, relaxed)
    with (
        pytest.raises(ValueError, match="latent site 'z' is not drawn by the guide"),
        pytest.warns(UserWarning, match="Found vars in model but not guide"),
        pyro.validation_enabled(True),
    ):
        TraceExactKL_ELBO().loss(model, lambda: None)


def test_sites_of_unequal_shapes_are_an_error():
    def model():
        pyro.sample("z", dist.Normal(torch.zeros(4), 1.0))

    def guide():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pyro.validation_enabled(False):
        with pytest.raises(ValueError, match=r"'z': .* shape \(\) and the model's \(4,\)"):
            TraceExactKL_ELBO().loss(model, guide)
        with pytest.raises(ValueError, match="same plates"):
            TraceExactKL_ELBO().loss(guide, poutine.mask(guide, mask=torch.ones(3).bool()))


REFUSED = {
    "no form": (
        lambda: pyro.sample("z", dist.Normal(0.0, 1.0)),
        lambda: pyro.sample("z", type("Own", (dist.Normal,), {})(0.0, 1.0)),
        r"site 'z': KL\(Own \|\| Normal\) would have to be sampled.*no closed form",
    ),
    "scales differ": (
        poutine.scale(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)), scale=0.25),
        lambda: pyro.sample("z", dist.Normal(0.0, 1.0)),
        r"scale 1 with no masks and scale 0.25 with no masks",
    ),
    "auxiliary": (
        lambda: None,
        lambda: pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True}),
        r"site 'u': log Normal\(z\) would have to be sampled.*guide alone",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_strict_refuses_to_sample(name):
    model, guide, message = REFUSED[name]
    assert math.isfinite(TraceExactKL_ELBO().loss(model, guide))
    with pytest.raises(kl.NoExactKL, match=message):
        TraceExactKL_ELBO(strict=True).loss(model, guide)


def test_the_record_says_why():
    model, guide, _ = REFUSED["no form"]
    elbo = TraceExactKL_ELBO()
    elbo.loss(model, guide)
    assert elbo.routes["z"].kind == "sampled"
    assert "Own" in elbo.routes["z"].reason
    model, guide, _ = REFUSED["scales differ"]
    elbo.loss(model, guide)
    assert elbo.routes["z"].kind == "mixed"
    assert elbo.routes["z"].sampled.item() == 1
