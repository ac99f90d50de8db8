"""The multivariate Student-t and the low-rank Normal: against scipy, and at extreme parameters."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from scipy import integrate, stats
from torch import tensor

from pyro_vae import distributions as own
from pyro_vae import kl

DIM, RANK = 4, 2


def parts(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tril = normal(DIM, DIM).tril(-1) + torch.diag_embed(normal(DIM).exp())
    return normal(DIM), tril, normal(DIM, RANK), normal(DIM).exp()


@pytest.mark.parametrize("df", [0.5, 3.0, 40.0, 1e6])
def test_student_density_is_that_of_scipy(df):
    loc, tril, *_ = parts()
    d = own.MultivariateStudentT(tensor(df, dtype=torch.float64), loc, tril)
    x = d.sample((50,))
    truth = stats.multivariate_t(loc.numpy(), (tril @ tril.T).numpy(), df).logpdf(x.numpy())
    error = (d.log_prob(x) - torch.from_numpy(truth)).abs() / (1 + d.log_prob(x).abs())
    assert error.max() < 1e-9


def test_low_rank_density_is_that_of_scipy():
    loc, _, factor, diag = parts()
    d = own.LowRankMultivariateNormal(loc, factor, diag)
    covariance = factor @ factor.T + diag.diag()
    torch.testing.assert_close(d.covariance_matrix, covariance)
    x = d.sample((50,))
    truth = stats.multivariate_normal(loc.numpy(), covariance.numpy()).logpdf(x.numpy())
    torch.testing.assert_close(d.log_prob(x), torch.from_numpy(truth), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(d.precision_matrix, torch.linalg.inv(covariance))
    truth = td.MultivariateNormal(loc, covariance)
    torch.testing.assert_close(d.entropy(), truth.entropy())
    torch.testing.assert_close(d.scale_tril, truth.scale_tril)


def test_low_rank_gradients_are_those_of_the_full_covariance():
    loc, _, factor, diag = (t.requires_grad_() for t in parts())
    x = torch.randn(20, DIM, dtype=torch.float64)
    leaves = (loc, factor, diag)
    ours = own.LowRankMultivariateNormal(*leaves).log_prob(x)
    full = td.MultivariateNormal(loc, factor @ factor.T + diag.diag()).log_prob(x)
    for a, b in zip(
        torch.autograd.grad(ours.sum(), leaves),
        torch.autograd.grad(full.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def along(direction, x):
    return torch.tanh(x @ direction)


def expected_tanh(df, loc, tril, direction):
    """E tanh(a . x): a . x is a Student-t of one dimension (a Normal for infinite df)."""
    centre, scale = (direction @ loc).item(), (direction @ tril).norm().item()
    law = stats.norm(centre, scale) if math.isinf(df) else stats.t(df, centre, scale)
    pieces = [(0, 1e-3), (1e-3, 0.5), (0.5, 1 - 1e-3), (1 - 1e-3, 1)]
    return sum(
        integrate.quad(lambda u: math.tanh(law.ppf(u)), a, b, epsabs=1e-12)[0] for a, b in pieces
    )


@pytest.mark.parametrize("kind", ["student", "low rank"])
def test_pathwise_gradients_are_those_of_the_expectation(kind):
    loc, tril, factor, diag = parts()
    direction = tensor([0.5, -0.3, 0.2, 0.4], dtype=torch.float64)
    df = tensor(3.0, dtype=torch.float64)
    names = {"df": df, "loc": loc, "scale_tril": tril}
    if kind == "low rank":
        names = {"loc": loc, "cov_factor": factor, "cov_diag": diag}

    def truth(**at):
        if kind == "student":
            return expected_tanh(at["df"].item(), at["loc"], at["scale_tril"], direction)
        root = torch.cat([at["cov_factor"], at["cov_diag"].sqrt().diag()], -1)
        return expected_tanh(math.inf, at["loc"], root, direction)

    draws, step = 100_000, 1e-4
    cls = own.MultivariateStudentT if kind == "student" else own.LowRankMultivariateNormal
    leaves = {n: v.expand(draws, *v.shape).clone().requires_grad_() for n, v in names.items()}
    along(direction, cls(**leaves).rsample()).sum().backward()
    for name, value in names.items():
        places = itertools.product(*map(range, value.shape))
        for place in places:
            if name == "scale_tril" and place[0] < place[1]:
                continue
            shifted = []
            for s in (step, -step):
                moved = value.clone()
                moved[place] += s
                shifted.append(truth(**{**names, name: moved}))
            exact = (shifted[0] - shifted[1]) / (2 * step)
            gradient = leaves[name].grad[(slice(None), *place)]
            # 31 checks in all: right gradients fail once in 500 seeds
            bound = 4 * gradient.std().item() / math.sqrt(draws) + 1e-8
            assert abs(gradient.mean().item() - exact) < bound, (name, place)


SIZES = (1e-6, 1.0, 1e6)


def is_sound(make, leaves):
    """Whether draws, densities and all gradients are finite in float32."""
    d = make(**leaves)
    x = d.rsample((200,))
    values = [x, d.log_prob(x.detach()), d.log_prob(x)]
    gradients = [
        g
        for value in values
        for g in torch.autograd.grad(
            value.sum(), list(leaves.values()), retain_graph=True, allow_unused=True
        )
        if g is not None
    ]
    return all(bool(t.isfinite().all()) for t in values + gradients)


@pytest.mark.parametrize("df", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("scale", SIZES)
@pytest.mark.parametrize("loc", [-1e6, 0.0, 1e6])
def test_extreme_student_is_sound(df, scale, loc):
    leaves = {"df": tensor(df), "loc": torch.full((3,), loc), "scale_tril": scale * torch.eye(3)}
    assert is_sound(own.MultivariateStudentT, {n: t.requires_grad_() for n, t in leaves.items()})


@pytest.mark.parametrize("factor", [0.0, *SIZES])
@pytest.mark.parametrize("diag", SIZES)
@pytest.mark.parametrize("loc", [-1e6, 0.0, 1e6])
def test_extreme_low_rank_is_sound(factor, diag, loc):
    leaves = {
        "loc": torch.full((3,), loc),
        "cov_factor": torch.full((3, 2), factor),  # equal columns: the worst there are
        "cov_diag": torch.full((3,), diag),
    }
    assert is_sound(
        own.LowRankMultivariateNormal, {n: t.requires_grad_() for n, t in leaves.items()}
    )


def test_torch_fails_where_the_factor_is_large():
    loc, diag, x = torch.zeros(3), torch.full((3,), 1e-6), torch.ones(3)
    with pytest.raises(torch.linalg.LinAlgError):
        td.LowRankMultivariateNormal(loc, torch.full((3, 2), 1e6), diag)
    factor = torch.full((3, 2), 30.0)
    truth = td.MultivariateNormal(
        loc.double(), factor.double() @ factor.double().T + diag.double().diag()
    )
    exact = truth.log_prob(x.double()).item()
    ours = own.LowRankMultivariateNormal(loc, factor, diag).log_prob(x).item()
    assert ours == pytest.approx(exact, abs=1e-5)
    try:  # by the processor's rounding
        theirs = td.LowRankMultivariateNormal(loc, factor, diag).log_prob(x).item()
    except torch.linalg.LinAlgError:
        return
    assert abs(theirs - exact) > 1
    leaves = {"df": tensor(1e-3), "loc": torch.zeros(3), "scale_tril": torch.eye(3)}
    student = {n: t.requires_grad_() for n, t in leaves.items()}
    assert not is_sound(dist.MultivariateStudentT, student)


def test_student_at_its_centre_has_a_gradient():
    loc = torch.zeros(3, requires_grad=True)
    d = own.MultivariateStudentT(tensor(3.0), loc, torch.eye(3))
    (gradient,) = torch.autograd.grad(d.log_prob(torch.zeros(3)), loc)
    assert gradient.eq(0).all()


def batch_of(cls, *batch):
    loc, tril, factor, diag = (t.float().expand(*batch, *t.shape) for t in parts())
    if cls is own.MultivariateStudentT:
        return cls(tensor(3.0).expand(batch), loc, tril)
    return cls(loc, factor, diag)


@pytest.mark.parametrize("cls", [own.MultivariateStudentT, own.LowRankMultivariateNormal])
def test_manners(cls):
    d = batch_of(cls, 5)
    x = d.rsample((2,))
    assert (x.shape, x.dtype, d.log_prob(x).dtype) == ((2, 5, DIM), torch.float32, torch.float32)
    wider = d.expand((3, 5))
    assert type(wider) is cls
    assert wider.sample().shape == (3, 5, DIM)
    torch.testing.assert_close(wider.log_prob(x[0]), d.log_prob(x[0]).expand(3, 5))
    assert d.mask(False).log_prob(x).eq(0).all()
    assert d.to_event(1).log_prob(x).shape == (2,)
    with pytest.raises(ValueError, match="within the support"):
        d.log_prob(torch.full((DIM,), math.nan))


def test_low_rank_parameters_broadcast():
    loc, _, factor, diag = parts()
    d = own.LowRankMultivariateNormal(loc.expand(3, 1, DIM), factor, diag.expand(2, DIM))
    assert d.batch_shape == (3, 2)
    assert d.log_prob(d.sample((5,))).shape == (5, 3, 2)
    assert d.expand((4, 3, 2)).variance.shape == (4, 3, 2, DIM)


@pytest.mark.parametrize(
    ("factor", "diag"), [((3, 2), (4,)), ((4, 2), (3,)), ((4,), (4,))], ids=str
)
def test_low_rank_shapes_are_checked(factor, diag):
    with pytest.raises(ValueError, match=r"loc has shape \(4,\), so cov_factor must have shape"):
        own.LowRankMultivariateNormal(torch.zeros(4), torch.ones(factor), torch.ones(diag))


def test_kl_is_that_of_the_originals():
    loc, tril, factor, diag = parts()
    df = tensor(5.0, dtype=torch.float64)
    pairs = [
        (
            own.MultivariateStudentT(df, loc, tril),
            dist.MultivariateStudentT(df, loc, tril),
        ),
        (
            own.LowRankMultivariateNormal(loc, factor, diag),
            td.LowRankMultivariateNormal(loc, factor, diag),
        ),
    ]
    prior = td.MultivariateNormal(torch.zeros_like(loc), scale_tril=tril)
    for ours, theirs in pairs:
        assert kl.route(ours, prior).kind == kl.route(theirs, prior).kind == "closed"
        torch.testing.assert_close(kl.divergence(ours, prior), kl.divergence(theirs, prior))
        torch.testing.assert_close(kl.divergence(prior, ours), kl.divergence(prior, theirs))
