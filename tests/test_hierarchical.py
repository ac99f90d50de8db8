"""A hierarchy of latents goes wherever a VAE goes."""

import copy

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import WIDTH, binary, copies, net, svi, train, unmoved
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_vae import HierarchicalVAE, compare, diagnose, fit, saved
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, TraceSTL_ELBO
from pyro_vae.inference_data import to_datasets

LAYERS = {"z3": (2, 2), "z2": (2,), "z1": (3,)}
directions = pytest.mark.parametrize("direction", ["top_down", "bottom_up"])


def size(shape):
    return int(np.prod(shape))


def seeing(features, family):
    return nn.Sequential(net(features), family)


def hierarchy(direction="top_down", *, skip=False, extra=0, layers=LAYERS, **options):
    """Layers of different shapes over 6 pixels; `extra` is the size of y."""
    names = list(layers)
    order = names if direction == "top_down" else names[::-1]
    priors = {names[0]: fam.Normal(layers[names[0]], learnable=True)}
    for above, name in zip(names, names[1:], strict=False):
        looks = size(layers[above]) + extra if extra else layers[above]
        priors[name] = seeing(looks, fam.Normal(layers[name], WIDTH))
    encoders = {order[0]: seeing(6 + extra, fam.Normal(layers[order[0]], WIDTH))}
    for before, name in zip(order, order[1:], strict=False):
        with_x = direction == "top_down" or skip
        looks = size(layers[before]) + 6 * with_x + extra
        looks = looks if with_x or extra else layers[before]
        encoders[name] = seeing(looks, fam.Normal(layers[name], WIDTH))
    seen = sum(map(size, layers.values())) if skip else size(layers[names[-1]])
    decoder = seeing(seen + extra, fam.Bernoulli(6, WIDTH))
    return HierarchicalVAE(priors, encoders, decoder, direction=direction, skip=skip, **options)


@directions
@pytest.mark.parametrize("skip", [False, True])
def test_order_of_sites_and_what_each_looks_at(direction, skip):
    vae, x = hierarchy(direction, skip=skip), binary(5)
    drawn = poutine.trace(vae.guide).get_trace(x)
    replayed = poutine.trace(poutine.replay(vae.model, drawn)).get_trace(x)
    down = ["z3", "z2", "z1"]
    assert replayed.stochastic_nodes == ["data", *down]
    assert drawn.stochastic_nodes == ["data", *(down if direction == "top_down" else down[::-1])]
    for name, shape in LAYERS.items():
        assert drawn.nodes[name]["value"].shape == (5, *shape)
        assert [f.name for f in drawn.nodes[name]["cond_indep_stack"]] == ["data"]
    # a change of one draw is seen by the layer below and, with skip, by x
    moved = {**{n: drawn.nodes[n]["value"] for n in down}}
    moved["z3"] = moved["z3"] + 1.0
    other = poutine.trace(poutine.condition(vae.model, moved)).get_trace(x)
    changed = [
        n for n in ("z2", "z1", "x") if not torch.equal(_mean(other, n), _mean(replayed, n))
    ]
    assert changed == (["z2", "x"] if skip else ["z2"])


def _mean(trace, name):
    return trace.nodes[name]["fn"].mean


@directions
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceExactKL_ELBO, TraceSTL_ELBO, TraceIWAE_ELBO])
def test_every_parameter_is_trained(elbo, skip, direction):
    vae, x = hierarchy(direction, skip=skip, data_size=50), binary()
    before = copies(vae)
    train(vae, elbo(2, vectorize_particles=True), x)
    assert not unmoved(vae, before)
    before = copies(vae)
    svi(vae, elbo(2)).step(x)
    assert not unmoved(vae, before)
    assert all(name.startswith(f"{vae.name}.") for name in pyro.get_param_store())


@directions
def test_double_precision_masks_and_conditions(direction):
    vae, x = hierarchy(direction, extra=2).double(), binary().double()
    y, mask = torch.randn(10, 2).double(), torch.rand(10, 6) > 0.3
    x[~mask] = torch.nan
    losses = train(vae, TraceExactKL_ELBO(2, vectorize_particles=True), x, y=y, mask=mask)
    assert np.isfinite(losses).all()
    assert vae.model(y=y).dtype == torch.float64
    # y is seen by every layer that looks at something
    z = {n: v.detach() for n, v in vae.guide(x, y=y, mask=mask).items()}
    fixed = poutine.condition(vae.model, z)
    one, two = (poutine.trace(fixed).get_trace(y=v) for v in (y, y + 1))
    assert [
        n for n in ("z3", "z2", "z1", "x") if not torch.equal(_mean(one, n), _mean(two, n))
    ] == [
        "z2",
        "z1",
        "x",
    ]


def test_a_copy_is_another_and_states_load():
    vae, x = hierarchy(), binary()
    other = copy.deepcopy(vae)
    assert (other.direction, other.skip) == (vae.direction, vae.skip)
    assert other.name != vae.name
    assert other.guide.name == other.name
    before = copies(vae)
    svi(other, Trace_ELBO()).step(x)
    assert len(unmoved(vae, before)) == len(before)
    vae.load_state_dict(other.state_dict())
    torch.manual_seed(1)
    loss = Trace_ELBO().loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    assert Trace_ELBO().loss(other.model, other.guide, x) == pytest.approx(loss)


@directions
@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(direction, parallel):
    vae = hierarchy(direction)
    draws = Predictive(vae.model, num_samples=4, parallel=parallel)(size=5)
    assert {n: tuple(v.shape) for n, v in draws.items()} == {
        "z3": (4, 5, 2, 2),
        "z2": (4, 5, 2),
        "z1": (4, 5, 3),
        "x": (4, 5, 6),
    }
    model = poutine.uncondition(vae.model)
    draws = Predictive(model, guide=vae.guide, num_samples=4, parallel=parallel)(binary(5))
    assert draws["x"].shape == (4, 5, 6)


@directions
def test_fit_replays_it(direction):
    vae, x = hierarchy(direction), binary(64)
    histories = []
    for capture in (False, True):
        one = copy.deepcopy(vae)
        objective = TraceExactKL_ELBO()
        options = {"epochs": 2, "batch_size": 20, "progress": False, "seed": 0}
        histories.append(
            fit(one, x, validation=x, objective=objective, capture=capture, **options)
        )
    np.testing.assert_allclose(histories[1].elbo, histories[0].elbo, rtol=1e-4)


@directions
def test_compare_tells_what_each_layer_costs(direction):
    vae, x = hierarchy(direction), binary()
    table = compare(vae.model, vae.guide, x, num_particles=50)
    biased = {str(s): "not_mean_field" in str(table.findings.sel(site=s).item()) for s in LAYERS}
    expected = direction == "bottom_up"
    assert biased == {"z3": False, "z2": expected, "z1": expected}


@directions
def test_diagnose_and_arviz(direction, few_draws):
    vae, x = hierarchy(direction), binary(30)
    table = diagnose(vae.model, vae.guide, x, num_samples=50, show=False, progress=False)
    assert table.sizes["data"] == 30
    # sites in the order of the model, whatever that of the guide is
    assert list(table.site.values) == list(LAYERS)
    assert bool(table[["site_kl_sampled", "decoder_gain_site"]].notnull().all().to_array().all())
    groups = to_datasets(vae.model, vae.guide, x, num_samples=20)
    for group in ("posterior", "prior"):
        shapes = {n: groups[group][n].shape for n in LAYERS}
        assert shapes == {n: (1, 20, 30, *shape) for n, shape in LAYERS.items()}


def test_a_discrete_top_layer_and_bounded_ones():
    kind = fam.OneHotCategorical(1, categories=3, learnable=True)
    vae = HierarchicalVAE(
        priors={"kind": kind, "z": seeing((1, 3), fam.Beta(2, WIDTH))},
        encoders={
            "kind": seeing(6, fam.OneHotCategorical(1, WIDTH, categories=3)),
            "z": seeing(6 + 3, fam.Kumaraswamy(2, WIDTH)),
        },
        decoder=seeing(2 + 3, fam.Bernoulli(6, WIDTH)),
        skip=True,
    )
    before, elbo = copies(vae), TraceExactKL_ELBO(strict=True)
    train(vae, elbo, binary())
    assert not unmoved(vae, before)
    assert elbo.routes["kind"].kind == "closed"


def test_plain_functions_serve():
    def layer(*parts):
        loc = torch.cat(parts, -1).mean(-1, keepdim=True)
        return dist.Normal(loc, 1.0).to_event(1)

    def decoder(z):
        return dist.Bernoulli(logits=z.expand(*z.shape[:-1], 6)).to_event(1)

    vae = HierarchicalVAE(
        {"b": lambda: dist.Normal(torch.zeros(1), 1.0).to_event(1), "a": layer},
        {"b": layer, "a": layer},
        decoder,
    )
    assert np.isfinite(TraceMeanField_ELBO(3).loss(vae.model, vae.guide, binary()))


# ---------------------------------------------------------------------- refusals


def parts(order=("z2", "z1"), lower=None):
    encoders = {n: seeing(6, fam.Normal(2, WIDTH)) for n in order}
    lower = seeing(2, fam.Normal(2, WIDTH)) if lower is None else lower
    return {"z2": fam.Normal(2), "z1": lower}, encoders, seeing(2, fam.Bernoulli(6, WIDTH))


def test_one_layer_is_no_hierarchy():
    with pytest.raises(ValueError, match=r"two layers or more, not \['z'\]; for one, take VAE"):
        HierarchicalVAE({"z": fam.Normal(2)}, {"z": fam.Normal(2, 6)}, fam.Bernoulli(6, 2))


@pytest.mark.parametrize(
    ("direction", "order"),
    [("top_down", ("z1", "z2")), ("bottom_up", ("z2", "z1")), ("top_down", ("z2", "z"))],
)
def test_encoders_come_in_the_order_of_the_guide(direction, order):
    priors, encoders, decoder = parts(order)
    with pytest.raises(ValueError, match="in the order in which a guide draws them"):
        HierarchicalVAE(priors, encoders, decoder, direction=direction)


def test_the_direction_is_one_of_two():
    with pytest.raises(ValueError, match="top_down, bottom_up, not 'upwards'"):
        HierarchicalVAE(*parts(), direction="upwards")


@pytest.mark.parametrize("last", [fam.Normal(2), nn.Sequential(fam.Normal(2))], ids=str)
def test_a_lower_prior_looks_at_the_layer_above(last):
    with pytest.raises(ValueError, match=r"'z1' is a Normal that looks at nothing.*context="):
        HierarchicalVAE(*parts(lower=last))


def test_supports_are_checked_at_once():
    with pytest.raises(ValueError, match=r"site 'z1'.*Normal guide.*Beta prior.*fam\.Beta"):
        HierarchicalVAE(*parts(lower=seeing(2, fam.Beta(2, WIDTH))))


def test_a_layer_of_the_wrong_size_names_both():
    priors, encoders, decoder = parts()
    vae = HierarchicalVAE(priors, encoders, decoder)  # z1's encoder lacks room for z2
    with pytest.raises(ValueError, match=r"events of shape \(6,\), but .* shape \(10, 8\)"):
        vae.guide(binary())


def test_what_forgets_an_event_dimension_is_told():
    priors, encoders, decoder = parts()
    encoders["z1"] = lambda seen: dist.Normal(seen[..., :2], 1.0)
    vae = HierarchicalVAE(priors, encoders, decoder)
    with pytest.raises(ValueError, match=r"encoder 'z1'.*must be \(10,\). Is .to_event"):
        vae.guide(binary())


def test_a_recipe_does_not_hold_it(tmp_path):
    recipe = saved.Recipe("normal", "normal", "bernoulli", (6,), latent=2, hidden=WIDTH)
    with pytest.raises(ValueError, match="makes a VAE, not a HierarchicalVAE.*torch.save"):
        saved.save(tmp_path, hierarchy(), recipe)
