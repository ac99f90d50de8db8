"""Calls of two ELBOs from equal seeds, and whether they have one expectation."""

import numpy as np
import pyro
import torch
from scipy import stats

FAILURE = 1e-7  # the probability that a right estimator fails one test


def calls(elbo, model, guide, args=(), *, count, kwargs=None):
    """Loss and gradients of `count` calls: an array (count, 1 + coordinates)."""
    rows = []
    for seed in range(count):
        torch.manual_seed(seed)
        loss = elbo.differentiable_loss(model, guide, *args, **(kwargs or {}))
        leaves = [p.unconstrained() for _, p in sorted(pyro.get_param_store().items())]
        found = torch.autograd.grad(loss, leaves, allow_unused=True) if leaves else ()
        gradients = [
            torch.zeros_like(leaf) if g is None else g
            for leaf, g in zip(leaves, found, strict=True)
        ]
        rows.append(torch.cat([loss.detach().reshape(1), *[g.reshape(-1) for g in gradients]]))
    return torch.stack(rows).double().numpy()


def agree(a, b):
    """Whether the mean of paired rows is the same, column by column, by a t test."""
    return mean_is(np.asarray(a) - np.asarray(b), 0.0, scale=np.abs(a).max(0))


def mean_is(rows, truth, *, scale=1.0):
    """Whether the mean of rows is `truth`, column by column, by a t test."""
    rows = np.atleast_2d(rows)
    error = rows.std(0, ddof=1) / len(rows) ** 0.5
    limit = stats.t.isf(FAILURE / (2 * rows.shape[1]), len(rows) - 1)
    return bool((np.abs(rows.mean(0) - truth) <= limit * error + 1e-9 * (1 + scale)).all())
