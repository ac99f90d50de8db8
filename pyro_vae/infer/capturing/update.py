"""The optimizer's part of a captured step."""

from __future__ import annotations

__all__ = ["Update"]

import sys
from collections.abc import Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer


class Update:
    """Moves parameters by gradients that were computed elsewhere.

    Fused Adam is called with the optimizer's own state and present settings, so that schedules of
    the learning rate, `state_dict` and a change to another way of stepping work as ever.

    Arguments:
        optimizer: One of torch's, or of Pyro's.

    Raises:
        TypeError: If it is neither.
    """

    def __init__(self, optimizer: Optimizer | PyroOptim) -> None:
        if not isinstance(optimizer, Optimizer | PyroOptim):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer or a pyro.optim.PyroOptim, not a "
                f"{type(optimizer).__name__}."
            )
        self.optimizer: Any = optimizer

    def check(self, leaves: Sequence[Tensor]) -> None:
        """Raise unless the optimizer holds a parameter that has a gradient.

        Arguments:
            leaves: The tensors that have gradients.

        Raises:
            ValueError: If it holds none.
        """
        if isinstance(self.optimizer, PyroOptim):
            return
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if not any(id(leaf) in held for leaf in leaves):
            raise ValueError(
                "the optimizer holds none of the parameters that the ELBO has a gradient for (a "
                "copy or a reloaded model has its own); build it anew from their parameters()."
            )

    def __call__(
        self, leaves: Sequence[Tensor], gradients: Sequence[Tensor], holds: Tensor | None = None
    ) -> None:
        """Set the gradients and step; parameters without a gradient get None.

        Arguments:
            leaves: Parameters.
            gradients: A gradient of each.
            holds: Whether to move at all, where nobody has read that yet; see `takes_flags`.
        """
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        if isinstance(self.optimizer, PyroOptim):
            self.optimizer(list(leaves))
            return
        own = {id(leaf) for leaf in leaves}
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if id(p) not in own:
                    p.grad = None
        if not self.takes_flags():
            self.optimizer.step()
            return
        for group in self.optimizer.param_groups:
            _step(self.optimizer, group, holds)

    def takes_flags(self) -> bool:
        """Whether the update can be told on the device itself not to move anything."""
        optimizer = self.optimizer
        if type(optimizer) not in (Adam, AdamW):
            return False
        hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        # a scheduler wraps `step` to count it
        plain = not hooks and not _any_hooks() and "step" not in vars(optimizer)
        return plain and all(map(_is_lean, optimizer.param_groups))


def _any_hooks() -> bool:
    hooks: Any = sys.modules[Optimizer.__module__]
    return bool(hooks._global_optimizer_pre_hooks or hooks._global_optimizer_post_hooks)


def _is_lean(group: dict[str, Any]) -> bool:
    """Whether one call of the fused kernel is all of a step."""
    numbers = not any(isinstance(v, Tensor) for v in group["betas"])
    kinds = {(p.device, p.dtype) for p in group["params"]}
    return bool(group["fused"]) and numbers and not group["differentiable"] and len(kinds) == 1


def _step(optimizer: Any, group: dict[str, Any], holds: Tensor | None) -> None:
    lists: list[list[Tensor]] = [[], [], [], [], [], []]
    # fills the state of parameters that are new, as `step` does
    optimizer._init_group(group, *lists)
    parameters, gradients, means, squares, largest, steps = lists
    if not parameters:
        return
    decoupled = isinstance(optimizer, AdamW) or group.get("decoupled_weight_decay", False)
    kernels: Any = torch
    kernel = kernels._fused_adamw_ if decoupled else kernels._fused_adam_
    stay = None if holds is None else (~holds).to(parameters[0].dtype)
    with torch.no_grad():
        kernels._foreach_add_(steps, 1)
        kernel(
            *(parameters, gradients, means, squares, largest, steps),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
            grad_scale=None,
            found_inf=stay,
        )
        if stay is not None:
            kernels._foreach_sub_(steps, [stay] * len(steps))
