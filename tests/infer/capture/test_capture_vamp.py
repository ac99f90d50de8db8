"""A VampPrior that shares the guide's encoder, captured under every ELBO class."""

import pytest
import torch
from builders import binary
from equal import assert_same
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae import VAE, fit
from pyro_vae import families as fam
from pyro_vae.infer import TraceExactKL_ELBO, TraceIWAE_ELBO, TraceSTL_ELBO

ELBOS = {
    "trace": Trace_ELBO,
    "exact": TraceExactKL_ELBO,
    "stl": TraceSTL_ELBO,
    "iwae_dreg": lambda: TraceIWAE_ELBO(3, "dreg"),
}


def shared(*between):
    encoder = nn.Sequential(nn.Linear(6, 8), *between, nn.Tanh(), fam.Normal(2, context=8))
    prior = fam.VampPrior(encoder, 4, input_shape=6, learnable=("inputs", "logits"))
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), fam.Bernoulli(6, context=8))
    return VAE(prior=prior, encoder=encoder, decoder=decoder)


@pytest.mark.parametrize("elbo", ELBOS)
def test_a_shared_encoder_is_replayed_as_it_runs(elbo):
    vae = shared()
    captured = assert_same(ELBOS[elbo](), vae.model, vae.guide, (binary(),), vae.parameters())
    assert captured.graphs[0].same_stream


def test_running_statistics_are_read_as_they_stand_at_each_replay():
    vae, x = shared(nn.BatchNorm1d(8)), binary()
    norm = vae.guide.encoder.z[1]
    vae.eval()
    captured = assert_same(Trace_ELBO(), vae.model, vae.guide, (x,), vae.parameters())
    before = captured(x).item()
    with torch.no_grad():
        norm.running_mean.add_(1.0)
    torch.manual_seed(1)
    found = captured(x).item()
    torch.manual_seed(1)
    assert found == pytest.approx(Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).item())
    assert found != before


def test_training_with_batch_normalisation_is_replayed_and_moves_statistics_alike():
    runs = []
    for replay in (False, True):
        torch.manual_seed(0)
        vae, x = shared(nn.BatchNorm1d(8)), binary(40)
        fit(vae, x, epochs=3, batch_size=10, progress=False, capture=replay, seed=1)
        runs.append(vae.state_dict())
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-5, atol=1e-6)
