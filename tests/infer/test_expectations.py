"""`TraceExactKL_ELBO` has the expectation of `Trace_ELBO`, value and gradient, on any program."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from paired import agree, calls
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from torch.distributions import constraints

from pyro_vae.infer import TraceExactKL_ELBO, TraceSTL_ELBO

pytestmark = pytest.mark.usefixtures("float64")

ROWS, CALLS = 300, 40
CASES = {}


def case(name, *, routes, **options):
    """Register a function that returns model and guide, the kinds expected, and ELBO options."""

    def register(make):
        CASES[name] = (make, routes, options)
        return make

    return register


def param(name, value):
    return pyro.param(name, torch.tensor(value, dtype=torch.float64))


def positive(name, value):
    return pyro.param(name, torch.tensor(value), constraint=constraints.positive)


def data():
    return torch.linspace(-1.0, 2.0, ROWS)


# ------------------------------------------------------------------------------- hierarchies


def chain(through=lambda weight, z: weight * z):
    """z2 -> z1 -> x"""

    def model(x):
        w = param("w", 1.3)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(through(w, z2), 0.5))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    return model


def vmapped(weight, z):
    return torch.func.vmap(lambda row: weight * row)(z)


@case("same order", routes={"z2": "closed", "z1": "closed"})
def same_order():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z2", dist.Normal(param("a", 0.4) * x, 0.6))
            pyro.sample("z1", dist.Normal(param("b", 0.5) * x, 0.7))

    return chain(), guide


@case("top down", routes={"z2": "closed", "z1": "closed"})
def top_down():
    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(param("a", 0.4) * x, 0.6))
            pyro.sample("z1", dist.Normal(param("b", 0.5) * z2, 0.7))

    return chain(), guide


@case("bottom up", routes={"z2": "closed", "z1": "sampled"})
def bottom_up():
    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(param("a", 0.5) * x, 0.6))
            pyro.sample("z2", dist.Normal(param("b", 0.4) * z1, 0.7))

    return chain(), guide


@case("bottom up, both through vmap", routes={"z2": "closed", "z1": "sampled"})
def bottom_up_through_vmap():
    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(param("a", 0.5) * x, 0.6))
            pyro.sample("z2", dist.Normal(vmapped(param("b", 0.4), z1), 0.7))

    return chain(vmapped), guide


@case(
    "bottom up, by an auxiliary site that is a point mass",
    routes={"z2": "closed", "z1": "sampled", "u": "auxiliary"},
)
def bottom_up_by_others():
    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(param("a", 0.5) * x, 0.6))
            u = pyro.sample("u", dist.Delta(z1), infer={"is_auxiliary": True})
            pyro.sample("z2", dist.Normal(param("b", 0.4) * u, 0.7))

    return chain(), guide


@case("mean field, reversed order", routes={"z2": "closed", "z1": "closed"})
def reversed_mean_field():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(param("a", 0.5) * x, 0.6))
            pyro.sample("z2", dist.Normal(param("b", 0.4) * x, 0.7))

    return chain(), guide


@case("bottom up, the upper one discrete", routes={"k": "closed", "z": "sampled"})
def bottom_up_discrete():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3))
            z = pyro.sample("z", dist.Normal(param("w", 1.3) * k, 0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(param("a", 0.5) * x, 0.6))
            pyro.sample("k", dist.Bernoulli(logits=param("b", 0.4) * (z > 0).double()))

    return model, guide


@case("global and local sites", routes={"m": "closed", "z": "closed"})
def global_and_local():
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, positive("s", 1.5)))
        with pyro.plate("data", len(x)):
            with pyro.plate("inner", 2):
                z = pyro.sample("z", dist.Laplace(m, 1.0))
            pyro.sample("x", dist.Normal(z.sum(0), 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(param("a", 0.3), 0.5))
        with pyro.plate("data", len(x)), pyro.plate("inner", 2):
            pyro.sample("z", dist.Normal(param("b", 0.2) * x, 0.8))

    return model, guide


# ---------------------------------------------------------------------------- scale and mask


def weighed(in_model, in_guide):
    def model(x):
        with pyro.plate("data", len(x)):
            with in_model(x):
                z = pyro.sample("z", dist.Normal(param("m", 0.3), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), in_guide(x):
            pyro.sample("z", dist.Normal(param("a", 0.5) * x, positive("s", 0.6)))

    return model, guide


def nothing(x):
    return poutine.scale(scale=1.0)


def quarter(x):
    return poutine.scale(scale=0.25)


def by_row(x):
    return poutine.scale(scale=torch.linspace(0.1, 2.0, len(x)))


def some(x):
    return poutine.mask(mask=x > 0.5)


def none(x):
    return poutine.mask(mask=False)


def both(x):
    return poutine.mask(mask=x > 0.5)(poutine.scale(scale=0.25))


for label, weighing, kind_of_both in [
    ("scale", quarter, "closed"),
    ("scale by row", by_row, "mixed"),  # tensors of two makes, equal as they turn out to be
    ("mask", some, "mixed"),
    ("mask of all", none, "closed"),
]:
    for side, kind in (("both", kind_of_both), ("model", "mixed"), ("guide", "mixed")):
        sides = {"both": (weighing, weighing), "model": (weighing, nothing)}
        pair = sides.get(side, (nothing, weighing))
        CASES[f"{label}, {side}"] = (
            lambda pair=pair: weighed(*pair),
            {"z": kind},
            {},
        )


@case("mask and scale cross", routes={"z": "mixed"})
def mask_and_scale_cross():
    return weighed(some, by_row)


@case("one mask for both", routes={"z": "closed"})
def one_mask():
    mask = data() > 0.5
    return weighed(lambda x: poutine.mask(mask=mask), lambda x: poutine.mask(mask=mask))


@case("masked distribution in the model", routes={"z": "mixed"})
def masked_distribution():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(param("m", 0.3), 1.0).expand([len(x)]).mask(x > 0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return model, weighed(nothing, nothing)[1]


@case("masked within an event, in the guide", routes={"z": "sampled"})
def masked_within_an_event():
    kept = torch.tensor([True, False, True])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = param("a", 0.5) * x[:, None].expand(-1, 3)
            pyro.sample("z", dist.Normal(loc, 0.6).mask(kept).to_event(1))

    return model, guide


# ----------------------------------------------------------------------- plates and particles


def subsampled():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=50) as rows:
            z = pyro.sample("z", dist.Normal(param("m", 0.3), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=50) as rows:
            pyro.sample("z", dist.Normal(param("a", 0.5) * x[rows], 0.6))

    return model, guide


case("subsampling", routes={"z": "closed"})(subsampled)
case("particles by loop", routes={"z2": "closed", "z1": "sampled"}, num_particles=3)(bottom_up)
case(
    "vectorised particles",
    routes={"z2": "closed", "z1": "sampled"},
    num_particles=5,
    vectorize_particles=True,
)(bottom_up_through_vmap)


# ------------------------------------------------------------------ guides of all other kinds


@case("no form is known", routes={"z": "sampled"})
def no_form():
    class Own(dist.Normal):
        """Whose density nobody knows to be a Normal's."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(param("m", 0.3), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Own(param("a", 0.5) * x, positive("s", 0.6)))

    return model, guide


@case("discrete", routes={"k": "closed"})
def discrete():
    def model(x):
        means = pyro.param("means", torch.tensor([-1.0, 0.0, 2.0]))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(means[k], 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            slope = pyro.param("slope", torch.tensor([0.2, -0.1, 0.3]))
            pyro.sample("k", dist.Categorical(logits=slope * x[:, None]))

    return model, guide


@case("discrete, no form", routes={"k": "sampled"})
def discrete_without_a_form():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.NegativeBinomial(4.0, logits=param("m", -0.5)))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", Counts((param("a", 0.3) * x).exp()))

    return model, guide


class Counts(dist.Poisson):
    """A Poisson to everybody but the table of forms."""


@case("discrete above continuous, scaled apart", routes={"k": "mixed", "z": "closed"})
def discrete_above_continuous():
    def model(x):
        with poutine.scale(scale=0.5):
            k = pyro.sample("k", dist.Bernoulli(0.3))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(param("w", 0.1) * k, 1.0))
            pyro.sample("x", dist.Normal(z, 9.0), obs=x)

    def guide(x):
        k = pyro.sample("k", dist.Bernoulli(logits=param("b", 0.4)))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(param("a", 0.5) * x + 0.1 * k, 0.6))

    return model, guide


@case("not reparameterised", routes={"z": "closed"})
def not_reparameterised():
    def guide(x):
        with pyro.plate("data", len(x)):
            q = dist.Normal(param("a", 0.5) * x, positive("s", 0.6))
            pyro.sample("z", q.has_rsample_(False))

    return weighed(nothing, nothing)[0], guide


def gamma_model(x):
    s = pyro.sample("s", dist.Gamma(2.0, positive("rate", 2.0)))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, s), obs=x)


@case("AutoNormal on a Gamma", routes={"s": "closed", "s_unconstrained": "auxiliary"})
def auto_normal():
    return gamma_model, AutoNormal(gamma_model)


@case("AutoDiagonalNormal", routes={"s": "closed", "_AutoDiagonalNormal_latent": "auxiliary"})
def auto_diagonal():
    return gamma_model, AutoDiagonalNormal(gamma_model)


@case("AutoDelta", routes={"s": "closed"})
def auto_delta():
    return gamma_model, AutoDelta(gamma_model)


@case("an observed site that the guide draws", routes={"z": "closed", "y": "auxiliary"})
def drawn_and_observed():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(param("m", 0.3), 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=x)
            pyro.deterministic("twice", 2 * z)

    def guide(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(param("a", 0.5) * y, 0.6))
            pyro.deterministic("thrice", 3 * y)

    return model, guide


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
@pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide but not model")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("validation", [True, False], ids=["validated", "unvalidated"])
def test_the_expectations_are_those_of_trace_elbo(name, validation):
    make, routes, options = CASES[name]
    with pyro.validation_enabled(validation):
        model, guide = make()
        exact = TraceExactKL_ELBO(**options)
        reference = Trace_ELBO(**options)
        exact.loss(model, guide, data())  # parameters that are made when first asked for
        found, expected = (
            calls(elbo, model, guide, (data(),), count=CALLS) for elbo in (exact, reference)
        )
    assert {site: route.kind for site, route in exact.routes.items()} == routes
    assert found.shape[1] > 1
    assert agree(found, expected)


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
@pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide but not model")
@pytest.mark.parametrize("name", CASES)
def test_path_only_gradients_have_the_expectations_of_trace_elbo(name):
    make, _, options = CASES[name]
    model, guide = make()
    Trace_ELBO().loss(model, guide, data())
    found, expected = (
        calls(elbo, model, guide, (data(),), count=CALLS)
        for elbo in (TraceSTL_ELBO(**options), Trace_ELBO(**options))
    )
    assert agree(found, expected)
    assert found[:, 0] == pytest.approx(expected[:, 0], rel=1e-9)


@pytest.mark.parametrize("name", ["no form is known", "discrete, no form"])
def test_where_all_is_sampled_the_numbers_are_those_of_trace_elbo(name):
    model, guide = CASES[name][0]()
    Trace_ELBO().loss(model, guide, data())
    elbos = TraceExactKL_ELBO(), Trace_ELBO()
    found, expected = (calls(elbo, model, guide, (data(),), count=3) for elbo in elbos)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "name", ["bottom up", "scale, model", "scale, guide", "mask, model", "AutoNormal on a Gamma"]
)
def test_the_test_catches_the_mean_field_elbo_of_pyro(name):
    with pyro.validation_enabled(False):
        model, guide = CASES[name][0]()
        if name.startswith("Auto"):
            guide.__init__(model, init_loc_fn=lambda site: torch.tensor(2.0))
        Trace_ELBO().loss(model, guide, data())
        found, expected = (
            calls(elbo, model, guide, (data(),), count=CALLS)
            for elbo in (TraceMeanField_ELBO(), Trace_ELBO())
        )
    assert not agree(found, expected)
