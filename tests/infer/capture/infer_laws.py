"""How the loss and the gradients of a captured ELBO spread over calls."""

import torch


def spread(captured, x, vae, count):
    """Loss and gradients of `count` calls, one row each."""
    parameters = list(vae.parameters())
    rows = []
    for seed in range(count):
        torch.manual_seed(seed)
        for p in parameters:
            p.grad = None
        loss = captured(x)
        rows.append(torch.cat([loss.reshape(1), *[p.grad.reshape(-1) for p in parameters]]))
    return torch.stack(rows).double()
