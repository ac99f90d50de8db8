"""The benchmarks of training steps time the same work: losses by hand are those of the ELBOs."""

from importlib.util import find_spec

import pytest
import torch

from tests.benchmarks import elbo_speed
from tests.benchmarks.elbo_nets import IWAE, NETS, FlowVAE, Net, NormalVAE, VampVAE
from tests.benchmarks.elbo_ways import HAND, WAYS

# the kinds of net of the benchmark, made small, and the ELBOs that are the loss by hand draw for
# draw (Trace_ELBO samples the KL of two normals that is analytic by hand)
EXACT = ("TraceMeanField_ELBO", "ours")
SMALL = {
    "normal": (lambda: NormalVAE(12, (7,), 3), EXACT),
    "particles": (lambda: NormalVAE(12, (7,), 3, particles=4), EXACT),
    "VampPrior": (lambda: VampVAE(12, (7, 5), 3, 6), ("Trace_ELBO", *EXACT)),
    "flow": (lambda: FlowVAE(12, (7,), 3), ("Trace_ELBO", *EXACT)),
    "IWAE": (lambda: IWAE(12, (7, 6), 3, particles=4), ("Trace_ELBO", "ours")),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", SMALL)
def test_the_loss_by_hand_and_its_gradient_are_those_of_the_elbos_at_equal_noise(kind):
    if kind == "flow" and find_spec("zuko") is None:  # importing it here would set a flag
        pytest.skip("needs zuko")
    build, names = SMALL[kind]
    net = Net(build, 9)
    program, x = net.program(), net.data()
    parameters = list(program.parameters())
    torch.manual_seed(1)
    by_hand = program.loss(x)
    gradient = torch.autograd.grad(by_hand, parameters)
    for name in names:
        for parameter in parameters:
            parameter.grad = None
        torch.manual_seed(1)
        loss = program.elbos()[name].loss_and_grads(program.model, program.guide, x)
        assert loss == pytest.approx(by_hand.item()), name
        for parameter, expected in zip(parameters, gradient, strict=True):
            torch.testing.assert_close(parameter.grad, expected, msg=f"{name}: gradient")


def test_two_builds_of_a_net_have_the_same_weights_and_data():
    net = NETS["64-64-8"]
    for one, other in zip(net.program().parameters(), net.program().parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(net.data(), net.data())


def _found(start, end):
    """A measurement of two ways, the second of which has the losses given."""
    noise = [0.1 * (-1) ** i for i in range(10)]
    losses = {HAND: (50.0, 40.0), next(iter(WAYS)): (start, end)}
    return {
        name: {
            "seconds": [0.001] * 10,
            "first_call": 1.0,
            "loss_at_start": [s + e for e in noise],
            "loss_at_end": [t + e for e in noise],
        }
        for name, (s, t) in losses.items()
    }


@pytest.mark.parametrize(
    ("start", "end", "wrong"),
    [
        (50.1, 40.2, []),
        (51.0, 40.2, ["loss_at_start"]),  # another objective
        (50.1, 49.9, ["loss_at_end"]),  # nothing is trained
        (float("nan"), 40.0, ["loss_at_start"]),
    ],
)
def test_a_way_that_does_other_work_is_named(start, end, wrong):
    lines = elbo_speed.disagreements(_found(start, end))
    assert len(lines) == len(wrong)
    assert all(key in line for key, line in zip(wrong, lines, strict=True))


def test_the_table_tells_of_ways_that_are_missing_or_failed():
    ways = _found(50.0, 40.0)
    ways |= {name: {"missing": "not installed"} for name in WAYS if name not in ways}
    ways["Pythae"] = {"failed": "ValueError: no"}
    found = [{"net": "64-64-8", "threads": n, "ways": ways, "disagreements": []} for n in (1, 2)]
    table = elbo_speed.elbo_table(found)
    assert "| 1.00 / 1.00 " in table
    assert "| not installed" in table
    assert "| failed" in table
    assert len(elbo_speed.failures(found)) == 2
