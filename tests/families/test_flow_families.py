"""Flows as families: what they are made of, whose KL is exact, and that they learn the truth."""

import copy
import importlib.util
import math
import sys

import pytest
import torch
from builders import WIDTH, binary, copies, net, small_vae, svi, train, unmoved
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import Distribution
from torch.distributions.kl import kl_divergence

from pyro_vae import families as fam
from pyro_vae import kl, pairings
from pyro_vae.distributions import VonMises
from pyro_vae.distributions.circular import circle
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, TraceSTL_ELBO, capture
from pyro_vae.supports import inside

FLOWS = {name: cls for name, cls in fam.registry.items() if issubclass(cls, fam.Flow)}
ON_THE_LINE = ["nsf", "maf", "real_nvp"]
SMALL = {"transforms": 2, "hidden_features": 8}


def zuko():
    validation = Distribution._validate_args
    import zuko  # switches it off

    Distribution.set_default_validate_args(validation)
    return zuko


def shake(module, size=0.3):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


# -------------------------------------------------------------------------------- what it is
def test_the_shelf_has_four():
    assert set(FLOWS) == {*ON_THE_LINE, "ncsf"}


@pytest.mark.parametrize("name", FLOWS)
def test_networks_are_trained_by_name(name):
    cls = FLOWS[name]
    alone = cls(3, learnable=("flow",), **SMALL)
    assert alone.learned == ()
    assert all(n.startswith("flow.") for n, _ in alone.named_parameters())
    assert "learnable=('flow',)" in repr(alone)
    place = cls(3, learnable="loc", **SMALL)
    assert [n for n, _ in place.named_parameters()] == ["raw_loc"]
    assert place.state_dict().keys() >= {f"flow.{n}" for n, _ in alone.flow.named_parameters()}


@pytest.mark.parametrize("name", ON_THE_LINE)
def test_given_location_and_scale_stay_while_the_networks_look(name):
    guide = FLOWS[name](3, context=5, loc=1.0, scale=2.0, **SMALL)
    assert guide.predicted == ()
    assert all(n.startswith("flow.") for n, _ in guide.named_parameters())
    q = guide(torch.randn(7, 5))
    assert q.batch_shape == (7,)
    x = q.sample()
    torch.testing.assert_close(q.log_prob(x), fam.Normal(3, loc=1.0, scale=2.0)().log_prob(x))


@pytest.mark.parametrize("name", ON_THE_LINE)
def test_an_amortized_flow_begins_as_the_amortized_normal(name):
    guide = FLOWS[name](3, context=5, **SMALL)
    normal = fam.Normal(3, context=5)
    normal.load_state_dict(guide.state_dict(), strict=False)
    context, x = torch.randn(7, 5), torch.randn(7, 3)
    torch.testing.assert_close(guide(context).log_prob(x), normal(context).log_prob(x))


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("features", [1, 3])
def test_every_layer_does_something_once_trained(name, features):
    family = shake(FLOWS[name](features, context=5, **SMALL))
    x, context = family(torch.zeros(5)).sample((20,)), torch.randn(20, 5)
    assert bool((family(context).log_prob(x) != family(context + 1).log_prob(x)).all())
    standard = FLOWS[name](features)().log_prob(x)
    assert bool((family(torch.zeros(20, 5)).log_prob(x) != standard).all())


@pytest.mark.parametrize("name", ["nsf", "maf", "ncsf"])
def test_both_directions_are_one_kind_of_density(name):
    for inverse in (False, True):
        family = shake(FLOWS[name](3, learnable=True, inverse=inverse, **SMALL))
        assert f"inverse={inverse}" in repr(family)
        q = family().expand((50,))
        x = q.sample()
        torch.testing.assert_close(q.log_prob(x), q.log_prob(x.clone()), rtol=1e-3, atol=1e-3)
    assert "inverse=True" in repr(FLOWS[name](3, context=2))
    assert "inverse=False" in repr(FLOWS[name](3))


def test_the_torus_has_no_seam():
    """No density jumps where an angle is cut, also not that of an angle given another."""
    family = shake(fam.NCSF(3, learnable=True, **SMALL), 0.5).double()
    x = family().sample((200,))
    for i in range(3):
        left, right = x.clone(), x.clone()
        left[:, i], right[:, i] = -math.pi + 1e-9, math.pi - 1e-9
        torch.testing.assert_close(
            family().log_prob(left), family().log_prob(right), atol=1e-5, rtol=0
        )


def test_printing_a_flow_draws_nothing():
    family = fam.NSF(3)
    state = torch.get_rng_state()
    assert repr(family) == (
        "NSF(3, transforms=3, hidden_features=(64, 64), bins=8, inverse=False)"
    )
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transforms": 0}, "NSF: transforms must be a whole number, 1 at least, not 0"),
        ({"bins": 1}, "bins must be a whole number, 2 at least, not 1"),
        ({"passes": 1}, "passes must be a whole number, 2 at least, not 1"),
        ({"hidden_features": ()}, "hidden_features must be the width of a hidden layer or a"),
        ({"hidden_features": (8, 0)}, "hidden_features must be"),
        ({"inverse": "yes"}, "inverse must be True, False or None, not 'yes'"),
        ({"loc": torch.nan}, "NSF: loc must satisfy"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fam.NSF(3, **options)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(TypeError, match="RealNVP has no parameter 'bins'.*hidden_features"):
        fam.RealNVP(3, bins=4)
    with pytest.raises(TypeError, match="Did you mean 'passes'"):
        fam.MAF(3, pases=2)
    with pytest.raises(TypeError, match="NCSF has no parameter 'scale'"):
        fam.NCSF(3, learnable=("scale",))


# ------------------------------------------------------------------------ flows brought along
def test_any_flow_of_zuko_is_a_family():
    made = zuko().flows.SOSPF(4, 5, degree=2, polynomials=2, transforms=1, hidden_features=(8,))
    guide = fam.Flow(made, context=5, features=(2, 2))
    assert repr(guide) == "Flow((2, 2), context=5, flow=SOSPF)"
    context = torch.randn(7, 5)
    x = torch.randn(7, 2, 2)
    torch.testing.assert_close(guide(context).log_prob(x), made(context).log_prob(x.flatten(1)))
    assert len(list(guide.parameters())) == len(list(made.parameters()))
    vae = small_vae(
        fam.Normal((2, 2)), fam.Flow(zuko().flows.NSF(4, WIDTH, **NETS), WIDTH, features=(2, 2))
    )
    before = copies(vae)
    train(vae, Trace_ELBO(), binary())
    assert not unmoved(vae, before)
    twin = copy.deepcopy(guide)
    assert torch.equal(twin(context).log_prob(x), guide(context).log_prob(x))


NETS = {"transforms": 1, "hidden_features": (8,)}


def test_a_flow_brought_along_may_say_where_it_lives():
    made = zuko().flows.NCSF(2, **NETS)
    prior = fam.Flow(made, support=circle)
    assert fam.fitting(prior.support) == fam.fitting(fam.VonMises(2).support)
    assert inside(prior.support, prior().sample((100,)).clamp(-math.pi, math.pi))


def test_what_is_no_flow_is_refused_by_name():
    with pytest.raises(TypeError, match=r"a lazy flow such as zuko.flows.NSF\(8\).*not a Normal"):
        fam.Flow(torch.distributions.Normal(0.0, 1.0))
    with pytest.raises(TypeError, match="a Mixture is no normalizing flow"):
        fam.Flow(zuko().mixtures.GMM(2, components=3))
    made = zuko().flows.NSF(4, 5, **NETS)
    with pytest.raises(ValueError, match="NSF does not work with context=3.*was built with"):
        fam.Flow(made, context=3)
    with pytest.raises(ValueError, match=r"shape \(4,\), which cannot be given the shape \(3,\)"):
        fam.Flow(made, context=5, features=3)


# ------------------------------------------------------------------------------- exact KLs
PUSHED = {
    "nsf": lambda context: fam.Normal(3, context=context),
    "maf": lambda context: fam.FullNormal(3, context=context),
    "real_nvp": lambda context: fam.StudentT(3, context=context),
    "ncsf": lambda context: fam.VonMises(3, context=context),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", PUSHED)
def test_a_guide_pushed_through_the_priors_flow_has_the_kl_of_the_bases(name):
    prior = shake(FLOWS[name](3, learnable=True, **SMALL), 0.2)
    guide = fam.Pushed(shake(PUSHED[name](5), 0.1), through=prior)
    for parameter in guide.parameters():
        parameter.requires_grad_(False)
    q, p = guide(torch.randn(4, 5)), prior()
    route = kl.route(q, p)
    assert route.kind in ("closed", "quadrature")
    exact = kl.divergence(q, p).detach()
    torch.testing.assert_close(exact, kl.divergence(q.base_dist, p.base_dist))
    # at draws, which know of no bases: 4 standard errors, four times, fail once in 4,000 runs
    x = q.sample((5000,))
    with torch.no_grad():
        ratio = q.log_prob(x.clone()) - p.log_prob(x.clone())
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert bool(((ratio.mean(0) - exact).abs() < 4 * error).all())
    assert float(error.max()) < 0.1


def test_torch_knows_it_too():
    prior = fam.NSF(3, learnable=True, **SMALL)
    guide = fam.Pushed(fam.Normal(3, context=5), through=prior)
    q, p = guide(torch.randn(4, 5)), prior()
    torch.testing.assert_close(kl_divergence(q, p).double(), kl.divergence(q, p).double())


def test_other_pairs_are_sampled_and_say_why():
    flow, other = fam.NSF(3, learnable=True), fam.NSF(3, learnable=True)
    for q, p in [(flow(), other()), (flow(), fam.Normal(3)()), (fam.Normal(3)(), flow())]:
        route = kl.route(q, p)
        assert route.kind == "sampled"
        assert "Flow" in route.reason
        assert "no closed form" in route.reason
        assert bool(route.finite.all())
    assert kl.route(flow(), flow()).kind == "closed"
    assert kl.route(flow(), copy.deepcopy(flow)()).kind == "sampled"


def test_a_flow_of_two_contexts_is_two_flows():
    flow, context = fam.NSF(3, context=5), torch.randn(4, 5)
    assert kl.route(flow(context), flow(context)).kind == "closed"
    assert kl.route(flow(context), flow(context.clone())).kind == "sampled"


@pytest.mark.parametrize(
    "elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceExactKL_ELBO, TraceSTL_ELBO]
)
def test_a_pushed_guide_trains_with_its_prior(elbo):
    prior = fam.NSF(2, learnable=True, **SMALL)
    vae = small_vae(prior, fam.Pushed(fam.Normal(2, context=WIDTH), through=prior))
    assert not any("flow" in name for name, _ in vae.guide.named_parameters())
    before, x = copies(vae), binary()
    train(vae, elbo(), x)
    moved = set(unmoved(vae, before))
    # the noise and the place of the prior cancel in the KL, and reach the data through the draws
    assert not moved
    twin = copy.deepcopy(vae)
    assert twin.guide.encoder.z[-1]._through[0] is twin.model.prior.z


def test_a_pushed_guide_under_svi_and_captured():
    prior = fam.NSF(2, learnable=True, **SMALL)
    vae = small_vae(prior, fam.Pushed(fam.Normal(2, context=WIDTH), through=prior))
    x, before = binary(), copies(vae)
    steps = svi(vae, Trace_ELBO())
    for _ in range(3):
        steps.step(x)
    assert not unmoved(vae, before)
    captured = capture(TraceExactKL_ELBO(), vae.model, vae.guide, x)
    torch.manual_seed(1)
    found = captured(x).item()
    torch.manual_seed(1)
    assert found == pytest.approx(
        TraceExactKL_ELBO().differentiable_loss(vae.model, vae.guide, x).item()
    )


def test_what_cannot_be_pushed_is_refused():
    with pytest.raises(TypeError, match="Pushed carries a family such as fam.Normal"):
        fam.Pushed(nn.Linear(2, 2), through=fam.NSF(2))
    with pytest.raises(TypeError, match="through a flow, such as .* not through a Normal"):
        fam.Pushed(fam.Normal(2), through=fam.Normal(2))
    with pytest.raises(ValueError, match="looks at no context, but this NSF was built with cont"):
        fam.Pushed(fam.Normal(2), through=fam.NSF(2, context=3))
    with pytest.raises(
        ValueError, match=r"noise on the real line with shape \(2,\), but draws of"
    ):
        fam.Pushed(fam.Normal(3), through=fam.NSF(2))
    with pytest.raises(
        ValueError, match="noise on the circle .* VonMisesFisher lie on the sphere"
    ):
        fam.Pushed(fam.VonMisesFisher(2), through=fam.NCSF(2))


# ------------------------------------------------------------------------ beside other families
@pytest.mark.parametrize("name", ON_THE_LINE)
def test_a_flow_guide_may_make_a_vamp_prior(name):
    """The mixture of its densities at pseudo-inputs, each scored where none of them drew."""
    x = binary(10).float()
    encoder = nn.Sequential(net(6), shake(FLOWS[name](2, context=WIDTH, **SMALL)))
    prior, z = fam.VampPrior(encoder, inputs=x[:4]), torch.randn(7, 2)
    each = torch.stack([encoder(one.unsqueeze(0)).log_prob(z) for one in x[:4]])
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(0) - math.log(4))


def test_flows_are_parts_of_a_product():
    parts = [shake(FLOWS[name](2, context=5, **SMALL)) for name in ("nsf", "ncsf")]
    guide, context = fam.Product(*parts), torch.randn(7, 5)
    z = guide(context).rsample()
    apart = [
        part(context).log_prob(z[:, i : i + 2]) for part, i in zip(parts, (0, 2), strict=True)
    ]
    torch.testing.assert_close(guide(context).log_prob(z), sum(apart), rtol=1e-4, atol=1e-4)


def test_a_flow_is_carried_to_where_the_prior_lives():
    guide = fam.Transported(fam.NSF(3, context=5, **SMALL), to=fam.Beta(3))
    q = guide(torch.randn(7, 5))
    x = q.sample()
    assert inside(fam.Beta(3).support, x)
    assert bool(q.log_prob(x).isfinite().all())


# ------------------------------------------------------------------------ under other estimators
@pytest.mark.parametrize("name", ON_THE_LINE)
@pytest.mark.parametrize(
    "elbo",
    [
        TraceSTL_ELBO(),
        TraceIWAE_ELBO(4, "dreg", vectorize_particles=True, max_plate_nesting=1),
    ],
    ids=["stl", "dreg"],
)
def test_path_gradients_train_a_flow_guide(name, elbo):
    vae = small_vae(fam.Normal(2), FLOWS[name](2, context=WIDTH, **SMALL))
    before = copies(vae)
    train(vae, elbo, binary())
    assert not unmoved(vae, before)


# ------------------------------------------------------------------------------ without zuko
@pytest.fixture
def no_zuko(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "zuko", None)


@pytest.mark.usefixtures("no_zuko")
@pytest.mark.parametrize("name", FLOWS)
def test_without_zuko_a_flow_is_registered_and_cannot_be_built(name):
    cls = FLOWS[name]
    assert cls.available() == 'flows need zuko: pip install "pyro-vae[flows]"'
    with pytest.raises(ImportError, match=r'pip install "pyro-vae\[flows\]"'):
        cls(3)
    assert cls.__name__ not in fam.fitting(fam.Normal(3).support)
    assert name not in pairings.shelf("guide")
    assert name in pairings.absent("guide")
    with pytest.raises(ImportError, match=rf"the guide '{name}' cannot be built: flows need zuko"):
        pairings.members([name], "guide")
    assert pairings.kinds(["normal"], ["student_t"]).sizes == {"guide": 1, "prior": 1}


def test_with_zuko_nothing_is_missing():
    assert importlib.util.find_spec("zuko") is not None
    assert all(not cls.available() for cls in fam.registry.values())
    assert pairings.absent("guide") == {}


def test_importing_zuko_leaves_torchs_validation_as_it_was(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    for flag in (True, False):
        monkeypatch.setattr(Distribution, "_validate_args", flag)
        fam.NSF(2)
        assert Distribution._validate_args is flag


# --------------------------------------------------------------------------------- the truth
def fitted(family, draw, steps, batch=400):
    optimizer = torch.optim.Adam(family.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -family().log_prob(draw(batch)).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    return family.double().requires_grad_(False)


def banana(count):
    """x_1 ~ N(0, 1), x_2 = x_1^2 / 2 - 1 + N(0, 0.5^2)."""
    first = torch.randn(count)
    return torch.stack([first, first.square() / 2 - 1 + 0.5 * torch.randn(count)], -1)


def banana_log_prob(x):
    noise = torch.distributions.Normal(0.0, 1.0)
    away = (x[:, 1] - x[:, 0].square() / 2 + 1) / 0.5
    return noise.log_prob(x[:, 0]) + noise.log_prob(away) - math.log(0.5)


def turned(count):
    """Two von Mises clouds on the torus, one across the cut, whose angles go together."""
    which = torch.rand(count, 1) < 0.4
    first = torch.where(
        which, VonMises(3.0, 4.0).sample((count, 1)), VonMises(0.5, 2.0).sample((count, 1))
    )
    second = VonMises(first.squeeze(-1), 3.0).sample()
    return torch.cat([first, second.unsqueeze(-1)], -1)


def turned_log_prob(x):
    parts = [
        VonMises(torch.tensor(m, dtype=x.dtype), torch.tensor(k, dtype=x.dtype)).log_prob(x[:, 0])
        + math.log(w)
        for m, k, w in ((3.0, 4.0, 0.4), (0.5, 2.0, 0.6))
    ]
    given = VonMises(x[:, 0], torch.tensor(3.0, dtype=x.dtype)).log_prob(x[:, 1])
    return torch.stack(parts).logsumexp(0) + given


TRUTHS = {
    "nsf": (banana, banana_log_prob, 300),
    "maf": (banana, banana_log_prob, 300),
    "real_nvp": (banana, banana_log_prob, 400),
    "ncsf": (turned, turned_log_prob, 300),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_it_learns_a_known_density_to_its_entropy(name):
    draw, log_prob, steps = TRUTHS[name]
    torch.manual_seed(2)
    family = fitted(FLOWS[name](2, learnable=True, transforms=2, hidden_features=32), draw, steps)
    x = draw(30_000).double()
    # the mean log loss is H(p) + KL(p || q); with the same draws in both the noise of H(p) cancels
    ratio = family().log_prob(x) - log_prob(x)
    lost, error = -float(ratio.mean()), float(ratio.std()) / math.sqrt(len(x))
    assert -4 * error < lost < 0.02
    assert error < 0.002
    # by importance sampling from p, the integral of q
    mass, error = float(ratio.exp().mean()), float(ratio.exp().std()) / math.sqrt(len(x))
    assert abs(mass - 1) < 4 * error
    assert error < 1e-3
