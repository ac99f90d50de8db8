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


def negative_binomial(rate, total_count):
    return stats.nbinom(total_count, total_count / (total_count + rate))


def zero_inflated(x, rate, total_count, gate_logits):
    g = probability(gate_logits)
    counted = (1 - g) * negative_binomial(rate, total_count).pmf(x)
    return np.log(g * (x == 0) + counted).sum(-1)


def between(law, x, marks):
    """Log masses between marks that increase in the last dimension, with the tails outside."""
    below = np.concatenate([np.zeros_like(marks[..., :1]), law.cdf(marks)], -1)
    above = np.concatenate([law.cdf(marks), np.ones_like(marks[..., :1])], -1)
    shares = np.broadcast_to(above - below, (*x.shape, below.shape[-1]))
    return np.log(np.take_along_axis(shares, x.astype(int)[..., None], -1)[..., 0]).sum(-1)


def grey_levels(x, loc, scale):
    marks = np.arange(0.5, 255) / 255
    return between(stats.logistic(loc[:, None], scale[:, None]), x, np.tile(marks, (len(loc), 1)))


def grey_mixture(x, logits, loc, scale):
    """Each feature has a mixture of its own."""
    weights = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    humps = [
        [grey_levels(x[:, i : i + 1], loc[i, k : k + 1], scale[i, k : k + 1]) for k in range(3)]
        for i in range(3)
    ]
    return np.log(np.einsum("ik,ikn->in", weights, np.exp(humps))).sum(0)


def ordinal(x, predictor, cutpoints):
    return between(stats.logistic(predictor[:, None]), x, cutpoints)


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


def relaxed_bits(x, logits, temperature):
    logistic = stats.logistic(logits / temperature, 1 / temperature)
    jacobian = np.log(x) + np.log1p(-x)
    return (logistic.logpdf(np.log(x) - np.log1p(-x)) - jacobian).sum(-1)


def relaxed_one_hot(x, logits, temperature):
    t, count = temperature[..., None], x.shape[-1]
    weight = np.logaddexp.reduce(logits - t * np.log(x), axis=-1)
    parts = (logits - (t + 1) * np.log(x)).sum(-1) - count * weight
    return (math.lgamma(count) + (count - 1) * np.log(temperature) + parts).sum(-1)


def bernoulli(x, logits):
    return by_elements(stats.bernoulli(probability(logits)), x, mass=True)


def probability(logits):
    return 1 / (1 + np.exp(-logits))


def kumaraswamy(x, concentration1, concentration0):
    a, b = concentration1, concentration0
    return np.log(a * b) + (a - 1) * np.log(x) + (b - 1) * np.log1p(-(x**a))


def truncated(x, loc, scale, low, high):
    ends = ((low - loc) / scale, (high - loc) / scale)
    return by_elements(stats.truncnorm(*ends, loc, scale), x)


def of_sticks(x, log_density):
    """Three parts broken from two independent sticks, with respect to the first two parts."""
    sticks = np.stack([x[..., 0], x[..., 1] / (1 - x[..., 0])], -1)
    return log_density(sticks).sum(-1) - np.log1p(-x[..., 0])


def logistic_normal(x, loc, scale):
    """The logit of stick k lies at loc_k less the logarithm of the number of later parts."""

    def of_stick(v):
        t = np.log(v / (1 - v))
        law = stats.norm(loc - np.log([2, 1]), scale)
        return law.logpdf(t) - np.log(v) - np.log1p(-v)

    return of_sticks(x, of_stick)


def wrapped_normal(x, loc, scale):
    turns = 2 * np.pi * np.arange(-20, 21)[:, None, None]
    return np.logaddexp.reduce(stats.norm(loc, scale).logpdf(x + turns), axis=0).sum(-1)


def projected_normal(x, concentration):
    """In three dimensions, where the integral over the length is elementary."""
    along = x @ concentration
    length = (1 + along**2) * stats.norm.cdf(along) + along * stats.norm.pdf(along)
    return np.log(length) - (concentration @ concentration - along**2) / 2 - np.log(2 * np.pi)


def fisher(x, loc, concentration):
    k = float(np.squeeze(concentration))
    return k * (x @ loc) + math.log(k / (4 * math.pi * math.sinh(k)))


def hyperbolic(x, scale):
    """About the origin: a Normal in the plane, over the growth of circles."""
    r = np.arccosh(x[..., 0])
    v = x[..., 1:] * (r / np.sinh(r))[..., None]
    return stats.norm.logpdf(v, scale=scale).sum(-1) - np.log(np.sinh(r) / r)


def mixture(x, weights, loc, scale):
    """Log of the weighted sum of densities, each of which is that of all features."""
    joint = [stats.norm(m, s).logpdf(x).sum(-1) for m, s in zip(loc, scale, strict=True)]
    return np.log(np.stack(np.exp(joint), -1) @ weights)


def power_spherical(x, loc, concentration):
    k = float(np.squeeze(concentration))
    return k * np.log1p(x @ loc) + math.log((k + 1) / (4 * math.pi * 2**k))


def vamp(x):
    """The example's encoder by hand: one linear map to means and log scales."""
    prior = fam.VampPrior.example(3)
    weight, bias = (
        p.detach().numpy() for p in (prior.encoder.head.weight, prior.encoder.head.bias)
    )
    out = prior.inputs.numpy() @ weight.T + bias
    parts = [
        by_elements(stats.norm(row[:3], np.exp(row[3:])), x) - math.log(len(out)) for row in out
    ]
    return np.logaddexp.reduce(parts, axis=0)


SCALE_TRIL = [[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-1.0, 0.3, 0.7]]


def normals(x, loc, scale):
    return by_elements(stats.norm(loc, scale), x)


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
    "cauchy": (
        {"loc": LOC, "scale": SPREAD},
        lambda x, loc, scale: by_elements(stats.cauchy(loc, scale), x),
    ),
    "logistic": (
        {"loc": LOC, "scale": SPREAD},
        lambda x, loc, scale: by_elements(stats.logistic(loc, scale), x),
    ),
    "gumbel": (
        {"loc": LOC, "scale": SPREAD},
        lambda x, loc, scale: by_elements(stats.gumbel_r(loc, scale), x),
    ),
    "mixture": (
        {
            "weights": [0.2, 0.5, 0.3],
            "loc": SCALE_TRIL,
            "scale": [SPREAD, [1.0, 1.0, 1.0], [2.0, 0.3, 0.7]],
        },
        mixture,
    ),
    "low_rank_normal": (
        {"loc": LOC, "cov_factor": [[1.0], [0.5], [-2.0]], "cov_diag": SPREAD},
        lambda x, loc, cov_factor, cov_diag: stats.multivariate_normal(
            loc, cov_factor @ cov_factor.T + np.diag(cov_diag)
        ).logpdf(x),
    ),
    "multivariate_student_t": (
        {"df": 3.0, "loc": LOC, "scale_tril": SCALE_TRIL},
        lambda x, df, loc, scale_tril: stats.multivariate_t(
            loc, scale_tril @ scale_tril.T, float(df)
        ).logpdf(x),
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
    "inverse_gamma": (
        {"concentration": [0.5, 1.0, 4.0], "rate": SPREAD},
        lambda x, concentration, rate: by_elements(stats.invgamma(concentration, scale=rate), x),
    ),
    "weibull": (
        {"scale": SPREAD, "concentration": [0.5, 1.0, 4.0]},
        lambda x, scale, concentration: by_elements(
            stats.weibull_min(concentration, scale=scale), x
        ),
    ),
    "log_normal": (
        {"loc": LOC, "scale": SPREAD},
        lambda x, loc, scale: by_elements(stats.lognorm(scale, scale=np.exp(loc)), x),
    ),
    "exponential": (
        {"rate": SPREAD},
        lambda x, rate: by_elements(stats.expon(scale=1 / rate), x),
    ),
    "half_normal": (
        {"scale": SPREAD},
        lambda x, scale: by_elements(stats.halfnorm(scale=scale), x),
    ),
    "half_cauchy": (
        {"scale": SPREAD},
        lambda x, scale: by_elements(stats.halfcauchy(scale=scale), x),
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
    "straight_through_one_hot_categorical": ({"logits": CLASSES}, one_hot),
    "bernoulli": ({"logits": LOGITS}, bernoulli),
    "straight_through_bernoulli": ({"logits": LOGITS}, bernoulli),
    "relaxed_bernoulli": ({"logits": LOGITS, "temperature": SPREAD}, relaxed_bits),
    "relaxed_one_hot_categorical": ({"logits": CLASSES, "temperature": SPREAD}, relaxed_one_hot),
    "poisson": (
        {"rate": SPREAD},
        lambda x, rate: by_elements(stats.poisson(rate), x, mass=True),
    ),
    "negative_binomial": (
        {"rate": SPREAD, "total_count": [0.5, 2.0, 400.0]},
        lambda x, **p: by_elements(negative_binomial(**p), x, mass=True),
    ),
    "zero_inflated_negative_binomial": (
        {"rate": SPREAD, "total_count": [0.5, 2.0, 400.0], "gate_logits": LOGITS},
        zero_inflated,
    ),
    "discretized_logistic": ({"loc": [0.1, 0.5, 1.2], "scale": [0.1, 0.01, 0.2]}, grey_levels),
    "discretized_logistic_mixture": (
        {
            "logits": [[0.0, 1.0, -1.0]] * 3,
            "loc": [[0.1, 0.5, 1.2], [0.2, 0.5, 0.9], [-0.1, 0.0, 0.3]],
            "scale": [[0.1, 0.02, 0.2]] * 3,
        },
        grey_mixture,
    ),
    "ordinal": (
        {"predictor": LOC, "cutpoints": [[-1.0, 0.0, 2.0], [-3.0, -1.0, 0.5], [1.0, 2.0, 3.0]]},
        ordinal,
    ),
    "kumaraswamy": (
        {"concentration1": [0.5, 1.0, 4.0], "concentration0": [2.0, 1.0, 3.0]},
        lambda x, **parameters: kumaraswamy(x, **parameters).sum(-1),
    ),
    "truncated_normal": (
        {"loc": LOC, "scale": SPREAD, "low": -1.0, "high": 2.0},
        truncated,
    ),
    "uniform": (
        {"low": -1.0, "high": 2.0},
        lambda x, low, high: by_elements(stats.uniform(low, high - low), x),
    ),
    "logistic_normal": ({"loc": LOC[:2], "scale": SPREAD[:2]}, logistic_normal),
    "stick_breaking": (
        {"concentration1": [0.5, 4.0], "concentration0": [2.0, 3.0]},
        lambda x, **parameters: of_sticks(x, lambda v: kumaraswamy(v, **parameters)),
    ),
    "gem": (
        {"concentration": 3.0},
        lambda x, concentration: of_sticks(x, stats.beta(1.0, concentration).logpdf),
    ),
    "von_mises": (
        {"loc": LOC, "concentration": SPREAD},
        lambda x, loc, concentration: by_elements(stats.vonmises(concentration, loc), x),
    ),
    "wrapped_normal": ({"loc": LOC, "scale": SPREAD}, wrapped_normal),
    "circular_uniform": ({}, lambda x: np.full(len(x), -3 * math.log(2 * math.pi))),
    "projected_normal": ({"concentration": [0.5, -1.0, 2.0]}, projected_normal),
    "hyperbolic_normal": ({"scale": [0.5, 1.5]}, hyperbolic),
    "von_mises_fisher": ({"loc": [0.6, 0.0, 0.8], "concentration": 3.0}, fisher),
    "power_spherical": ({"loc": [0.6, 0.0, 0.8], "concentration": 3.0}, power_spherical),
    "spherical_uniform": ({}, lambda x: np.full(len(x), -math.log(4 * math.pi))),
    # two standard Normals beside an exponential
    "product": ({}, lambda x: stats.norm.logpdf(x[:, :2]).sum(-1) - x[:, 2]),
    # flows whose networks do nothing yet
    "nsf": ({"loc": LOC, "scale": SPREAD}, normals),
    "maf": ({"loc": LOC, "scale": SPREAD}, normals),
    "real_nvp": ({"loc": LOC, "scale": SPREAD}, normals),
    "ncsf": ({"loc": LOC}, lambda x, loc: np.full(len(x), -3 * math.log(2 * math.pi))),
    # a mixture of three Normals, in three dimensions jointly
    "vamp_prior": ({}, vamp),
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
    close = 1e-10 if "likelihood" in cls.roles else 1e-9
    np.testing.assert_allclose(family().log_prob(x).numpy(), truth, rtol=close, atol=close)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (fam.FullNormal, {"scale_tril": SCALE_TRIL}),
        (fam.MultivariateStudentT, {"scale_tril": SCALE_TRIL, "df": 3.0}),
        (fam.LowRankNormal, {"rank": 2, "cov_factor": [[1.0, 0.0], [0.5, 2.0], [-1.0, 0.3]]}),
    ],
)
def test_vectors_flatten_their_features(cls, options):
    family = cls((3, 1), loc=LOC, **options)
    x = family().sample((20,))
    assert x.shape == (20, 3, 1)
    flat = cls(3, loc=LOC, **options)()
    torch.testing.assert_close(family().log_prob(x), flat.log_prob(x.reshape(20, 3)))


# a mixture sets its components apart, for which it has a test of its own
ONE_NUMBER = [c for c in registry.values() if c.spec and c._standard is fam.Family._standard]


@pytest.mark.parametrize("cls", ONE_NUMBER)
def test_standard_member(cls):
    for name, value in cls.example(3).values().items():
        parameter = cls.spec[name]
        ones = torch.ones_like(value)
        if parameter.identity:
            ones = torch.eye(*value.shape)
        if parameter.pattern:
            ones = parameter.pattern(tuple(value.shape))
        expected = parameter.default * ones
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


def test_degrees_of_freedom_of_vectors_are_one_number():
    guide = fam.MultivariateStudentT((2, 3), context=4, predict=("df",))
    d = guide(torch.randn(7, 4))
    assert d.event_shape == (2, 3)
    assert d.base_dist.df.shape == (7,)
    assert fam.MultivariateStudentT(3)().df.shape == ()


def test_columns_of_a_low_rank_start_apart_and_off_zero():
    prior = fam.LowRankNormal(4, rank=2, learnable=True)
    x = torch.randn(50, 4)
    before = prior.values()["cov_factor"].detach().clone()
    assert torch.equal(before, 0.1 * torch.eye(4, 2))
    (-prior().log_prob(x).mean()).backward()
    gradient = prior.raw_cov_factor.grad
    assert bool((gradient != 0).all())
    assert not torch.allclose(gradient[:, 0], gradient[:, 1])


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
    "rank zero": (
        lambda: fam.LowRankNormal(3, rank=0),
        ValueError,
        "rank must lie between 1 and the number of features, 3, not be 0; FullNormal",
    ),
    "rank above features": (
        lambda: fam.LowRankNormal((2, 2), rank=5),
        ValueError,
        "rank must lie between 1 and the number of features, 4, not be 5",
    ),
    "rank missing": (lambda: fam.LowRankNormal(3), TypeError, "LowRankNormal needs rank="),
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
        r"unit interval\): the guide has mass where .*Guides that fit this prior: fam.Beta, .*"
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
