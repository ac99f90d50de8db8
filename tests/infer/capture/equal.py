"""Whether a captured ELBO is the uncaptured one: loss, every gradient, buffers, random stream."""

from contextlib import contextmanager

import torch

from pyro_vae.infer import capture


def gradients(parameters):
    return [None if p.grad is None else p.grad.clone() for p in parameters]


def uncaptured(elbo, model, guide, args, kwargs, parameters, *, seed):
    """Loss and gradients of the program itself, and the random state it leaves behind."""
    for p in parameters:
        p.grad = None
    torch.manual_seed(seed)
    loss = elbo.differentiable_loss(model, guide, *args, **kwargs)
    loss.backward()
    return loss.detach(), gradients(parameters), torch.get_rng_state()


def replayed(captured, args, kwargs, parameters, *, seed):
    for p in parameters:
        p.grad = None
    torch.manual_seed(seed)
    loss = captured(*args, **kwargs)
    return loss, gradients(parameters), torch.get_rng_state()


def close(a, b, rtol, least=0.0):
    """Whether two tensors agree relative to the largest number in the second, or to `least`."""
    if a is None or b is None:
        return a is None and b is None
    scale = max(b.abs().max().item() if b.numel() else 0.0, least)
    return a.shape == b.shape and bool(torch.isclose(a, b, rtol=rtol, atol=rtol * scale).all())


def disagreements(got, want, rtol):
    """What differs between two results, by name."""
    found = []
    if not close(got[0], want[0], rtol):
        found.append(f"loss {got[0].item()} for {want[0].item()}")
    # a gradient that vanishes (a bias before a normalisation) is rounding, small beside the others
    least = 1e-2 * max([g.abs().max().item() for g in want[1] if g is not None], default=0.0)
    for i, (a, b) in enumerate(zip(got[1], want[1], strict=True)):
        if not close(a, b, rtol, least):
            found.append(f"gradient {i}: {a} for {b}")
    return found


@contextmanager
def buffers_put_back(module):
    before = [(b, b.clone()) for b in module.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)


def assert_same(
    elbo, model, guide, args, parameters, *, kwargs=None, rtol=1e-6, compile=False, seeds=(1, 2)
):
    """A captured ELBO has the loss and gradients of the program, from equal seeds; returns it."""
    kwargs, parameters = kwargs or {}, list(parameters)
    before = torch.get_rng_state()
    captured = capture(elbo, model, guide, *args, kwargs=kwargs, compile=compile)
    assert torch.equal(torch.get_rng_state(), before), "capturing used random numbers up"
    for seed in seeds:
        want = uncaptured(elbo, model, guide, args, kwargs, parameters, seed=seed)
        got = replayed(captured, args, kwargs, parameters, seed=seed)
        assert disagreements(got, want, rtol) == []
        if captured.graphs[0].same_stream:
            assert torch.equal(got[2], want[2]), "a replay draws other numbers"
    assert len(captured.graphs) == 1
    return captured
