"""Each family against scipy, and what `Family` promises about parameters and errors."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from scipy import stats
from torch import nn

from pyro_vae import families as fam
from pyro_vae.families import registry
from pyro_vae.families.pairing import check_pair, side
from pyro_vae.families.parameters import Parameter, TriangleToCholesky

# ---------------------------------------------------------------------- densities against scipy


def by_elements(frozen, x, mass=False):
    return (frozen.logpmf if mass else frozen.logpdf)(x).sum(-1)


def logit_normal(x, loc, scale):
    t = np.log(x / (1 - x))
    return (stats.norm.logpdf(t, loc, scale) - np.log(x) - np.log1p(-x)).sum(-1)


def continuous_bernoulli(x, logits):
    # the normalising constant of exp(l x) on [0, 1] is (exp(l) - 1) / l
    return (logits * x - np.log(np.expm1(logits) / logits)).sum(-1)


def categories(x, logits):
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return np.take_along_axis(log_p[None], x.astype(int)[..., None], -1)[..., 0].sum(-1)


def one_hot(x, logits):
    return categories(x.argmax(-1), logits)


def probability(logits):
    return 1 / (1 + np.exp(-logits))


SCALE_TRIL = [[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-1.0, 0.3, 0.7]]
LOC, SPREAD = [0.5, -1.0, 2.0], [0.5, 1.0, 3.0]
LOGITS = [0.5, -1.0, 2.0]
CLASSES = [[0.0, 1.0, -1.0, 0.5]] * 2 + [[2.0, 0.0, 0.0, 0.0]]

# name: (parameters, log density of x by scipy, given the parameters as arrays)
ORACLES = {
    "normal": (
        {"loc": LOC, "scale": SPREAD},
        lambda x, loc, scale: by_elements(stats.norm(loc, scale), x),
    ),
    "laplace": (
        {"loc": LOC, "scale": SPREAD},
        lambda x, loc, scale: by_elements(stats.laplace(loc, scale), x),
    ),
    "student_t": (
        {"df": [3.0, 5.0, 9.0], "loc": LOC, "scale": SPREAD},
        lambda x, df, loc, scale: by_elements(stats.t(df, loc, scale), x),
    ),
    "full_normal": (
        {"loc": LOC, "scale_tril": SCALE_TRIL},
        lambda x, loc, scale_tril: stats.multivariate_normal(
            loc, scale_tril @ scale_tril.T
        ).logpdf(x),
    ),
    "gamma": (
        {"concentration": [0.5, 1.0, 4.0], "rate": SPREAD},
        lambda x, concentration, rate: by_elements(stats.gamma(concentration, scale=1 / rate), x),
    ),
    "beta": (
        {"concentration1": [0.5, 1.0, 4.0], "concentration0": [2.0, 1.0, 3.0]},
        lambda x, concentration1, concentration0: by_elements(
            stats.beta(concentration1, concentration0), x
        ),
    ),
    "logit_normal": ({"loc": LOC, "scale": SPREAD}, logit_normal),
    "continuous_bernoulli": ({"logits": LOGITS}, continuous_bernoulli),
    "dirichlet": (
        {"concentration": [0.5, 1.0, 4.0]},
        lambda x, concentration: np.array([stats.dirichlet(concentration).logpdf(r) for r in x]),
    ),
    "one_hot_categorical": ({"logits": CLASSES}, one_hot),
    "categorical": ({"logits": CLASSES}, categories),
    "bernoulli": (
        {"logits": LOGITS},
        lambda x, logits: by_elements(stats.bernoulli(probability(logits)), x, mass=True),
    ),
    "poisson": (
        {"rate": SPREAD},
        lambda x, rate: by_elements(stats.poisson(rate), x, mass=True),
    ),
    # takes no parameters of its own; the standard Normal in logit coordinates
    "transported": ({}, lambda x: logit_normal(x, np.zeros(3), np.ones(3))),
}


def test_every_family_has_an_oracle():
    assert set(ORACLES) == set(registry)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ORACLES)
def test_density_is_that_of_scipy(name):
    parameters, log_density = ORACLES[name]
    cls = registry[name]
    family = cls(3, **parameters, **cls.example_options) if parameters else cls.example(3)
    x = family().sample((20,))
    if name == "dirichlet":
        x = x / x.sum(-1, keepdim=True)
    truth = log_density(x.numpy(), **{k: np.array(v) for k, v in parameters.items()})
    np.testing.assert_allclose(family().log_prob(x).numpy(), truth, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_full_normal_flattens_its_features():
    family = fam.FullNormal((3, 1), loc=LOC, scale_tril=SCALE_TRIL)
    x = family().sample((20,))
    flat = fam.FullNormal(3, loc=LOC, scale_tril=SCALE_TRIL)()
    torch.testing.assert_close(family().log_prob(x), flat.log_prob(x.reshape(20, 3)))


@pytest.mark.parametrize("cls", [c for c in registry.values() if c.spec])
def test_standard_member(cls):
    for name, value in cls.example(3).values().items():
        parameter = cls.spec[name]
        expected = (
            torch.eye(3) if parameter.identity else torch.full_like(value, parameter.default)
        )
        assert torch.equal(value, expected)
        assert bool(parameter.constraint.check(value).all())


# ---------------------------------------------------------------------- states of parameters


def test_given_stays_fixed_and_broadcasts():
    prior = fam.Normal((2, 3), scale=[1.0, 2.0, 3.0])
    assert not list(prior.parameters())
    assert prior.scale.shape == (2, 3)
    assert prior.values()["loc"].eq(0).all()
    assert "scale=[1, 2, 3, ...]" in repr(prior)


def test_given_tensor_is_copied():
    scale = torch.ones(3)
    prior = fam.Normal(3, scale=scale)
    scale.fill_(9.0)
    assert prior.values()["scale"].eq(1).all()


def test_given_tensor_keeps_its_float_type():
    assert fam.Normal(3, scale=torch.ones(3).double()).scale.dtype == torch.float64
    assert fam.Normal(3, scale=torch.ones(3).int()).scale.dtype == torch.float32


def test_learnable_trains_all_with_the_given_as_start():
    prior = fam.Normal(3, learnable=True, scale=2.5)
    assert [n for n, _ in prior.named_parameters()] == ["raw_loc", "raw_scale"]
    torch.testing.assert_close(prior.values()["scale"], torch.full((3,), 2.5))


@pytest.mark.parametrize(
    "names",
    ["loc", ("loc",), ["loc"], iter(["loc"])],
    ids=["text", "tuple", "list", "iterator"],
)
def test_learnable_names_only_those(names):
    prior = fam.Normal(3, learnable=names, scale=2.5)
    assert prior.learned == ("loc",)
    assert [n for n, _ in prior.named_parameters()] == ["raw_loc"]
    assert prior.scale.eq(2.5).all()


def test_context_predicts_what_was_not_given():
    guide = fam.Normal(3, context=4, scale=0.5)
    assert guide.predicted == ("loc",)
    assert guide.head.out_features == 3
    assert guide(torch.randn(7, 4)).base_dist.scale.eq(0.5).all()


def test_context_and_learnable_together():
    likelihood = fam.Normal(3, context=4, learnable=("scale",))
    assert (likelihood.predicted, likelihood.learned) == (("loc",), ("scale",))
    assert likelihood(torch.zeros(7, 4)).batch_shape == (7,)
    assert fam.Normal(3, context=4, learnable=True, scale=1.0).learned == ("scale",)


def test_degrees_of_freedom_are_structural():
    assert fam.StudentT(3)().base_dist.df.eq(5).all()
    assert "df" not in fam.StudentT(3, context=4).predicted
    assert "df" not in fam.StudentT(3, learnable=True).learned
    assert fam.StudentT(3, df=1.0)().base_dist.df.eq(1).all()  # a constant may be what one likes


@pytest.mark.parametrize("how", ["predicted", "learned"])
def test_degrees_of_freedom_that_move_stay_above_two(how):
    if how == "predicted":
        family = fam.StudentT(3, context=4, predict="df")
        assert family.predicted == ("df", "loc", "scale")
    else:
        family = fam.StudentT(3, learnable=("df",))
        assert family.learned == ("df",)
    with torch.no_grad():
        for p in family.parameters():
            p.sub_(8.0)
    d = family(torch.ones(7, 4)) if family.context else family()
    assert d.base_dist.df.min() > 2
    assert d.base_dist.df.max() < 2.01  # it was pushed against the bound


def test_learned_degrees_of_freedom_start_where_told():
    family = fam.StudentT(3, learnable=("df",), df=7.0)
    torch.testing.assert_close(family.values()["df"], torch.full((3,), 7.0))


def test_triangle_is_a_bijection_onto_cholesky_factors():
    transform, raw = TriangleToCholesky(), torch.randn(5, 6)
    full = transform(raw)
    assert full.shape == (5, *transform.forward_shape((6,)))
    assert bool(constraints.lower_cholesky.check(full).all())
    torch.testing.assert_close(transform.inv(full), raw, rtol=1e-4, atol=1e-4)
    assert transform == TriangleToCholesky()
    assert transform.inverse_shape((5, 3, 3)) == (5, 6)


# ---------------------------------------------------------------------- errors name the cure

ERRORS = {
    "features zero": (lambda: fam.Normal(0), ValueError, "positive int or a tuple.*not 0"),
    "features empty": (lambda: fam.Normal(()), ValueError, "positive int or a tuple"),
    "features bool": (lambda: fam.Normal(True), ValueError, "not True"),
    "features float": (lambda: fam.Normal((2.5,)), ValueError, r"not \(2.5,\)"),
    "too few features": (
        lambda: fam.Dirichlet((4, 1)),
        ValueError,
        "Dirichlet needs at least 2 features in its last dimension, not 1",
    ),
    "context negative": (lambda: fam.Normal(3, -1), ValueError, "context must be a whole number"),
    "context float": (lambda: fam.Normal(3, 4.0), ValueError, "context must be .* not 4.0"),
    "context bool": (lambda: fam.Normal(3, True), ValueError, "not True"),
    "option missing": (lambda: fam.Categorical(3), TypeError, "Categorical needs categories="),
    "option not whole": (
        lambda: fam.Categorical(3, categories=2.5),
        ValueError,
        "categories must be a whole number, not 2.5",
    ),
    "one category": (
        lambda: fam.OneHotCategorical(3, categories=1),
        ValueError,
        "categories must be at least 2, not 1",
    ),
    "unknown parameter": (
        lambda: fam.Normal(3, scales=1.0),
        TypeError,
        "Normal has no parameter 'scales'. Did you mean 'scale'",
    ),
    "unknown learnable": (
        lambda: fam.Normal(3, learnable=("lok",)),
        TypeError,
        "no parameter 'lok'. Did you mean 'loc'",
    ),
    "unknown predict": (
        lambda: fam.Normal(3, 4, predict=("lok",)),
        TypeError,
        "no parameter 'lok'. Did you mean 'loc'",
    ),
    "outside constraint": (
        lambda: fam.Normal(3, scale=-1.0),
        ValueError,
        "Normal: scale must satisfy GreaterThan.*but is -1",
    ),
    "not finite": (lambda: fam.Normal(3, loc=math.nan), ValueError, "loc must satisfy.*nan"),
    "no broadcast": (
        lambda: fam.Normal(3, scale=[1.0, 2.0]),
        ValueError,
        r"scale has shape \(2,\), which does not broadcast to \(3,\)",
    ),
    "nothing to train": (
        lambda: fam.Normal(3, 4, learnable=True),
        ValueError,
        "every parameter is predicted from the context already; give a start value",
    ),
    "no names to train": (
        lambda: fam.Normal(3, learnable=()),
        ValueError,
        "no parameter to train",
    ),
    "predict without context": (
        lambda: fam.StudentT(3, predict=("df",)),
        ValueError,
        r"predict=\('df',\)\) needs context=C to predict from",
    ),
    "predict what is given": (
        lambda: fam.StudentT(3, 4, predict=("df",), df=4.0),
        ValueError,
        "'df' is to be predicted, but was also given or named learnable; choose one",
    ),
    "predict what is learnable": (
        lambda: fam.StudentT(3, 4, predict=("df",), learnable=("df",)),
        ValueError,
        "choose one",
    ),
    "nothing to predict": (
        lambda: fam.Normal(3, 4, loc=0.0, scale=1.0),
        ValueError,
        r"Normal\(context=4\) has nothing to predict.*Use context=0, or leave one out",
    ),
    "inadmissible start": (
        lambda: fam.StudentT(3, learnable=("df",), df=1.5),
        ValueError,
        "a trained df must start where GreaterThan.*2.001.* holds, not at 1.5",
    ),
    "context missing": (
        lambda: fam.Normal(3, 4)(),
        ValueError,
        r"predicts from a context of shape \(\*batch, 4\)",
    ),
    "context unexpected": (
        lambda: fam.Normal(3)(torch.zeros(7, 4)),
        ValueError,
        r"looks at nothing, but received .*\(7, 4\); build it as Normal\(\.\.\., context=4\)",
    ),
    "context of wrong size": (
        lambda: fam.Normal(3, 4)(torch.zeros(7, 5)),
        ValueError,
        r"built with context=4, but received a context of shape \(7, 5\)",
    ),
    "no distribution": (
        lambda: fam.Family(3)(),
        NotImplementedError,
        r"Family must define distribution\(\)",
    ),
    "transported no family": (
        lambda: fam.Transported(nn.Linear(1, 1), to=fam.Beta(3)),
        TypeError,
        "carries a family such as .*not a Linear",
    ),
    "transported not from the line": (
        lambda: fam.Transported(fam.Gamma(3), to=fam.Beta(3)),
        ValueError,
        "Gamma lives on the positive half-line; only a family on the real line",
    ),
    "transported to nowhere": (
        lambda: fam.Transported(fam.Normal(3), to="beta"),
        TypeError,
        "to= must be a family, a distribution or a constraint, not a str",
    ),
    "transported without bijection": (
        lambda: fam.Transported(fam.Normal(3), to=fam.OneHotCategorical(1, categories=3)),
        ValueError,
        "no bijection leads from the real line onto the one-hot vectors; use a guide that lives",
    ),
    "transported shapes": (
        lambda: fam.Transported(fam.Normal(4), to=fam.Dirichlet(4)),
        ValueError,
        r"have shape \(5,\), but the prior's have \(4,\); give the base family features=\(3,\)",
    ),
    "pair of shapes": (
        lambda: check_pair("z", side(fam.Normal(3)), side(fam.Laplace(4))),
        ValueError,
        r"site 'z': one draw of the guide Normal has shape \(3,\).*Laplace has shape \(4,\)",
    ),
    "pair of supports": (
        lambda: check_pair("z", side(fam.Normal(3)), side(fam.Beta(3))),
        ValueError,
        r"site 'z': a Normal guide \(on the real line\) cannot stand beside a Beta prior \(on the "
        r"unit interval\): the guide has mass where .*Guides that fit this prior: fam.Beta, "
        r"fam.LogitNormal.*fam.Transported\(fam.Normal\(\.\.\., context=C\), to=prior\)",
    ),
    "mass and density": (
        lambda: check_pair(
            "z", side(fam.Normal((3, 4))), side(fam.OneHotCategorical(3, categories=4))
        ),
        ValueError,
        "one is a mass and the other a density, so .*undefined.*fit this prior: "
        "fam.OneHotCategorical",
    ),
}


@pytest.mark.parametrize(("build", "kind", "words"), ERRORS.values(), ids=ERRORS)
def test_error(build, kind, words):
    with pytest.raises(kind, match=words):
        build()


def test_pair_of_unknown_support_is_left_to_its_draws():
    known, unknown = (
        side(fam.Normal(3)),
        side(fam.Normal(3))._replace(support=constraints.lower_cholesky),
    )
    assert check_pair("z", known, known) is True
    assert check_pair("z", known, unknown) is False


# ---------------------------------------------------------------------- the shelf


@pytest.mark.parametrize(
    ("x", "among", "not_among"),
    [
        (torch.tensor([[0.0, 1.0]]), {"Bernoulli", "Poisson", "Normal"}, set()),
        (torch.tensor([[0.3, 0.9]]), {"ContinuousBernoulli", "Normal"}, {"Bernoulli", "Poisson"}),
        (torch.tensor([[-1.0, 3.0]]), {"Normal"}, {"ContinuousBernoulli", "Poisson"}),
        (torch.tensor([0.3, 0.9]), {"ContinuousBernoulli"}, {"Bernoulli"}),
    ],
    ids=["binary", "grey", "real", "without event dimensions"],
)
def test_fitting_data(x, among, not_among):
    fitting = set(fam.fitting_data(x))
    assert among <= fitting
    assert not not_among & fitting


def test_fitting_by_role():
    assert {"Normal", "Laplace", "StudentT"} <= set(fam.fitting(constraints.real, "likelihood"))
    assert "Poisson" not in fam.fitting(constraints.nonnegative_integer, "guide")
    assert fam.fitting(constraints.nonnegative_integer, "likelihood").count("Poisson") == 1


def test_third_party_family_is_taken_up(monkeypatch):
    monkeypatch.setattr(registry, "_items", dict(registry))

    @fam.register
    class HalfCauchyish(fam.Family):
        """Independent half-Cauchys, from another package."""

        spec = {"scale": Parameter(constraints.positive, 1.0)}

        def distribution(self, scale):
            return dist.HalfCauchy(scale).to_event(len(self.features))

    assert registry["half_cauchyish"] is HalfCauchyish
    assert "HalfCauchyish" in fam.fitting(constraints.positive)
    assert HalfCauchyish(3, context=4)(torch.zeros(7, 4)).batch_shape == (7,)
    assert HalfCauchyish.example().features == (3,)
    with pytest.raises(ValueError, match="fam.HalfCauchyish"):
        check_pair("z", side(fam.Normal(3)), side(fam.Gamma(3)))
    with pytest.raises(ValueError, match="cannot stand beside a HalfCauchyish prior"):
        check_pair("z", side(fam.Normal(3)), side(HalfCauchyish(3)))
