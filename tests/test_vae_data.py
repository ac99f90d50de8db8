"""What a VAE makes of its data: masks, missing values, wrong values and wrong shapes."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import WIDTH, binary, copies, net, small_vae, svi, unmoved
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_vae import VAE
from pyro_vae import families as fam
from pyro_vae.observations import masked

PIXELS = 6
ELEMENTS = torch.rand(10, PIXELS, generator=torch.Generator().manual_seed(1)) > 0.3
ROWS = torch.arange(10) % 3 > 0
MASKS = {"elements": ELEMENTS, "rows": ROWS, "row column": ROWS[:, None], "pixels": ELEMENTS[:1]}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
elbos = pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])


def as_elements(mask):
    return (mask[:, None] if mask.dim() == 1 else mask).expand(10, PIXELS)


def loss_and_gradients(vae, elbo, x, mask):
    torch.manual_seed(4)
    vae.zero_grad()
    loss = elbo(vae.model, vae.guide)(x, mask=mask)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in vae.parameters()]


# ---------------------------------------------------------------------- masks


@masks
@elbos
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -7.5, 1.0])
def test_what_stands_under_the_mask_does_not_matter(mask, elbo, junk):
    vae, x = small_vae(fam.Normal(2, learnable=True)), binary()
    clean = torch.where(as_elements(mask), x, torch.zeros(()))
    dirty = torch.where(as_elements(mask), x, torch.tensor(junk))
    loss, gradients = loss_and_gradients(vae, elbo(), clean, mask)
    loss_dirty, gradients_dirty = loss_and_gradients(vae, elbo(), dirty, mask)
    assert torch.equal(loss, loss_dirty)
    assert all(torch.equal(g, h) for g, h in zip(gradients, gradients_dirty, strict=True))
    assert all(bool(g.isfinite().all()) for g in gradients)


@masks
def test_the_likelihood_counts_what_was_observed_alone(mask):
    vae, x = small_vae(), binary()
    trace = pyro.poutine.trace(vae.model).get_trace(x, mask=mask)
    trace.compute_log_prob()
    bernoulli = vae.model.decoder(trace.nodes["z"]["value"]).base_dist
    expected = torch.where(as_elements(mask), bernoulli.log_prob(x), torch.zeros(())).sum(-1)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)


@pytest.mark.parametrize("name", [n for n, c in fam.registry.items() if "likelihood" in c.roles])
@masks
def test_every_likelihood_can_be_masked(name, mask):
    likelihood = fam.registry[name].example(PIXELS, context=WIDTH)
    vae = small_vae(likelihood=likelihood)
    with torch.no_grad():
        x = vae.model(size=10).float()
    x = torch.where(as_elements(mask), x, torch.tensor(float("nan")))
    before = copies(vae)
    svi(vae, Trace_ELBO(num_particles=2, vectorize_particles=True)).step(x, mask=mask)
    assert not unmoved(vae, before)
    assert all(bool(p.isfinite().all()) for p in vae.parameters())


def test_masking_everything_leaves_the_prior():
    vae, x = small_vae(), torch.full((10, PIXELS), float("nan"))
    trace = pyro.poutine.trace(vae.model).get_trace(x, mask=torch.zeros(10, dtype=torch.bool))
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].eq(0).all()


def test_a_full_mask_is_no_mask():
    vae, x = small_vae(), binary()
    loss, gradients = loss_and_gradients(vae, Trace_ELBO(), x, None)
    full = torch.ones(10, dtype=torch.bool)
    loss_full, gradients_full = loss_and_gradients(vae, Trace_ELBO(), x, full)
    torch.testing.assert_close(loss, loss_full)
    torch.testing.assert_close(gradients, gradients_full)


class OnSimplex(nn.Module):
    """A likelihood of the user's own that does not factorise over entries."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, PIXELS)

    def forward(self, z):
        return dist.Dirichlet(self.inner(z).exp())


def simplex_vae():
    encoder = nn.Sequential(net(PIXELS), fam.Normal(2, context=WIDTH))
    return VAE(fam.Normal(2), encoder, OnSimplex())


def test_joint_likelihood_masked_by_rows():
    vae = simplex_vae()
    x = torch.full((10, PIXELS), 1 / PIXELS)
    x[~ROWS] = float("nan")
    _, gradients = loss_and_gradients(vae, Trace_ELBO(), x, ROWS)
    assert all(bool(g.isfinite().all()) for g in gradients)


class SimplexData(fam.Dirichlet):
    """A Dirichlet that stands as a likelihood."""

    roles = frozenset({"likelihood"})


def test_family_of_a_joint_likelihood_masked_by_rows():
    vae = small_vae(likelihood=SimplexData(PIXELS, context=WIDTH))
    x = torch.full((10, PIXELS), 1 / PIXELS)
    x[~ROWS] = float("nan")
    before = copies(vae)
    svi(vae, Trace_ELBO()).step(x, mask=ROWS)
    assert not unmoved(vae, before)


@pytest.mark.parametrize("mask", [ELEMENTS, ELEMENTS[:1]], ids=["elements", "pixels"])
def test_entries_of_a_mixture_that_are_masked_are_integrated_out(mask):
    mixture = fam.Mixture(PIXELS, context=4, components=3)(torch.randn(10, 4))
    x = mixture.sample()
    found = masked(mixture, mask).log_prob(x)
    choice, parts = mixture.mixture_distribution, mixture.component_distribution.base_dist
    for row in range(10):
        seen = mask.expand(10, PIXELS)[row]
        each = parts.log_prob(x.unsqueeze(-2))[row][:, seen].sum(-1)
        torch.testing.assert_close(found[row], (choice.logits[row] + each).logsumexp(-1))


def test_joint_likelihood_cannot_be_masked_by_elements():
    vae = simplex_vae()
    with pytest.raises(ValueError, match="Dirichlet likelihood does not factorise.*whole data"):
        vae.model(torch.full((10, PIXELS), 1 / PIXELS), mask=ELEMENTS)


@pytest.mark.parametrize(
    ("mask", "kind", "words"),
    [
        (torch.ones(10), TypeError, r"mask must be boolean \(True = observed\), not torch.float"),
        (ROWS[:9], ValueError, r"mask has shape \(9,\); it must have shape \(10,\)"),
        (ELEMENTS[:, :5], ValueError, r"broadcast to that of x, \(10, 6\)"),
        (ELEMENTS[None], ValueError, r"mask has shape \(1, 10, 6\)"),
    ],
    ids=["type", "rows", "pixels", "dimensions"],
)
def test_mask_of_the_wrong_kind(mask, kind, words):
    vae, x = small_vae(), binary()
    for half in (vae.model, vae.guide):
        with pytest.raises(kind, match=words):
            half(x, mask=mask)


def test_mask_for_data_without_event_dimensions():
    encoder = nn.Sequential(nn.Unflatten(0, (-1, 1)), net(1), fam.Normal(2, context=WIDTH))
    vae = VAE(fam.Normal(2), encoder, lambda z: dist.Normal(z.sum(-1), 1.0))
    x = torch.randn(10)
    x[~ROWS] = float("nan")
    _, gradients = loss_and_gradients(vae, Trace_ELBO(), x, ROWS)
    assert all(bool(g.isfinite().all()) for g in gradients)


# ---------------------------------------------------------------------- values


@pytest.mark.parametrize("mask", [None, torch.ones(10, dtype=torch.bool)], ids=["no mask", "mask"])
def test_unmasked_nan_is_counted_and_cured(mask):
    vae, x = small_vae(), binary()
    x[3, :2] = x[7, 0] = float("nan")
    words = r"3 NaN entries in 2 of 10 data \(first in row 3\).*mask=, a boolean tensor"
    for half in (vae.model, vae.guide):
        with pytest.raises(ValueError, match=words):
            half(x, mask=mask)


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("training", ["svi", "module"])
def test_grey_pixels_are_no_bernoulli_data(validation, training):
    vae, x = small_vae(), torch.full((10, PIXELS), 0.3)
    x[0] = 1.0
    before = copies(vae)
    words = (
        r"outside the support of the Bernoulli likelihood \(\{0, 1\}\) in \d+ of 10 data: values "
        r"such as 0.3.*\(row 1\); x ranges over \[0.3, 1\].*fam.ContinuousBernoulli.*binarize"
    )
    loss = svi(vae, Trace_ELBO()).step if training == "svi" else Trace_ELBO()(vae.model, vae.guide)
    with pyro.validation_enabled(validation), pytest.raises(ValueError, match=words):
        loss(x)
    assert unmoved(vae, before) == list(before)


def test_rows_outside_the_support_are_counted_once():
    x = binary()
    x[2] = 0.5
    x[4, 1] = 0.5
    with pytest.raises(ValueError, match="in 2 of 10 data"):
        small_vae().model(x)


def test_elements_under_the_mask_are_not_judged():
    x = torch.full((10, PIXELS), 0.3)
    assert small_vae().model(x, mask=torch.zeros(10, dtype=torch.bool)).shape == (10, PIXELS)


def test_joint_likelihood_names_a_row():
    with pytest.raises(ValueError, match=r"Dirichlet likelihood \(simplex\) in 10 of 10 data"):
        simplex_vae().model(torch.ones(10, PIXELS))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8], ids=str)
def test_whole_numbers_are_taken_as_numbers(dtype):
    vae, x = small_vae(), binary()
    loss, _ = loss_and_gradients(vae, Trace_ELBO(), x, None)
    assert torch.equal(loss, loss_and_gradients(vae, Trace_ELBO(), x.to(dtype), None)[0])


# ---------------------------------------------------------------------- shapes and kinds


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        ([[0.0] * PIXELS], TypeError, r"x must be a tensor, not a list; use torch.as_tensor"),
        (torch.tensor(1.0), ValueError, r"shape \(batch, \*event_shape\), but is a single number"),
    ],
    ids=["list", "number"],
)
def test_what_is_no_data(x, kind, words):
    vae = small_vae()
    for half in (vae.model, vae.guide):
        with pytest.raises(kind, match=words):
            half(x)


def test_data_of_the_wrong_shape():
    vae = small_vae()
    words = r"x has shape \(10, 5\), but one draw of the Bernoulli.*shape \(6,\).*\('batch', 6\)"
    with pytest.raises(ValueError, match=words):
        vae.model(torch.zeros(10, 5))
    with pytest.raises(ValueError, match=r"events of shape \(6,\)"):
        vae.guide(torch.zeros(10, 5))


def with_functions(prior=None, encoder=None, decoder=None):
    return VAE(
        prior or (lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1)),
        encoder or (lambda x: dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)),
        decoder or (lambda z: dist.Normal(z, 1.0).to_event(1)),
    )


def first_step(vae):
    return Trace_ELBO()(vae.model, vae.guide)(torch.zeros(5, 2))


def test_plain_functions_serve():
    assert first_step(with_functions()).isfinite()
    narrow = functools.partial(dist.Normal, scale=0.1)
    assert first_step(with_functions(decoder=lambda z: narrow(z).to_event(1))).isfinite()


NORMAL = torch.distributions.Normal
FUNCTIONS = {
    "decoder without to_event": (
        {"decoder": lambda z: dist.Normal(z, 1.0)},
        ValueError,
        r"Normal with batch shape \(5, 2\) and event shape \(\).*Is .to_event\(1\) missing",
    ),
    "encoder without to_event": (
        {"encoder": lambda x: dist.Normal(x, 1.0)},
        ValueError,
        r"encoder 'z' returned a Normal with batch shape \(5, 2\).*must be \(5,\).*to_event",
    ),
    "prior without to_event": (
        {"prior": lambda: dist.Normal(torch.zeros(2), 1.0)},
        ValueError,
        r"guide Normal has shape \(2,\), one of the prior Normal has shape \(\)",
    ),
    "decoder of torch": (
        {"decoder": lambda z: torch.distributions.Independent(NORMAL(z, 1.0), 1)},
        TypeError,
        "decoder returned a torch.distributions.independent.Independent; .* a Pyro distribution",
    ),
    "encoder of torch": (
        {"encoder": lambda x: NORMAL(x, 1.0)},
        TypeError,
        "encoder 'z' returned a torch.distributions.normal.Normal",
    ),
    "prior of torch": (
        {"prior": lambda: NORMAL(torch.zeros(2), 1.0)},
        TypeError,
        "prior 'z' returned a torch.distributions.normal.Normal; .*to_event",
    ),
    "decoder of numbers": (
        {"decoder": lambda z: z},
        TypeError,
        "decoder returned a torch.Tensor",
    ),
    "encoder of numbers": ({"encoder": lambda x: x}, TypeError, "returned a torch.Tensor"),
}


@pytest.mark.parametrize(("parts", "kind", "words"), FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("validation", [True, False])
def test_functions_that_return_the_wrong_thing(parts, kind, words, validation):
    vae = with_functions(**parts)
    with pyro.validation_enabled(validation), pytest.raises(kind, match=words):
        first_step(vae)


@pytest.mark.parametrize("part", ["prior", "encoder", "decoder"])
def test_what_is_not_callable_is_refused_at_construction(part):
    normal = NORMAL(0.0, 1.0)
    with pytest.raises(TypeError, match=rf"{part}.* must be callable .* a Normal; wrap it as"):
        with_functions(**{part: normal})


class Decoder:
    """A callable that is no module, though it holds one."""

    def __init__(self):
        self.net = nn.Linear(2, 2)

    def __call__(self, z):
        return dist.Normal(self.net(z), 1.0).to_event(1)


def hidden_in_a_closure():
    hidden = nn.Linear(2, 2)
    return lambda v: dist.Normal(hidden(v), 1.0).to_event(1)


@pytest.mark.parametrize("part", ["prior", "encoder", "decoder"])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (hidden_in_a_closure, "hidden"),
        (Decoder, "net"),
        (lambda: Decoder().__call__, "net"),
        (lambda: functools.partial(lambda net, v: net(v), nn.Linear(2, 2)), "Linear"),
        (lambda: nn.Linear(2, 2).forward, "Linear"),
    ],
    ids=["closure", "object", "bound method", "partial", "bound method of a module"],
)
def test_hidden_modules_are_refused(part, make, name):
    with pytest.raises(ValueError, match=rf"{part}.* uses the module {name}, .* never train"):
        with_functions(**{part: make()})


# ---------------------------------------------------------------------- supports not recognised


class Odd(dist.Normal):
    """A distribution with a support that no table knows."""

    @property
    def support(self):
        return _Odd()


class _Odd(constraints.Constraint):
    event_dim = 0
    is_discrete = False

    def check(self, value):
        return value > -1.0


@pytest.mark.parametrize("validation", [True, False])
def test_unknown_supports_are_judged_by_their_draws(validation):
    def vae(loc):
        return with_functions(
            prior=lambda: Odd(torch.zeros(2), 1.0).to_event(1),
            encoder=lambda x: dist.Normal(torch.full((len(x), 2), loc), 0.01).to_event(1),
        )

    with pyro.validation_enabled(validation):
        assert first_step(vae(1.0)).isfinite()
        with pytest.raises(ValueError, match="guide Normal drew values outside the support"):
            first_step(vae(-2.0))
