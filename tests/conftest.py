"""Every test starts from the same place, and must leave torch and Pyro as it found them."""

import warnings

import pyro
import pytest
import torch

# small tensors on shared cores: more threads only get in each other's way
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def clean_slate():
    pyro.clear_param_store()
    torch.manual_seed(0)
    before = _global_state()
    yield
    assert _global_state() == before, "a test changed a global setting of torch or Pyro"
    pyro.clear_param_store()


def _global_state():
    return (
        torch.get_default_dtype(),
        torch.distributions.Distribution._validate_args,
        pyro.settings.get(),
        torch.is_grad_enabled(),
    )


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def few_draws():
    """For tests that look at other things than at how far numbers can be trusted."""
    from pyro_vae.diagnostics import DiagnosticWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticWarning)
        yield
