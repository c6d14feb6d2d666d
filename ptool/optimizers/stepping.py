"""What the optimisers here share: one update per tensor, over tensors that have a gradient.

State is kept under torch's names (`step`, `exp_avg`, `exp_avg_sq`), so that checkpoints and tools which look for them
find them. Steps are counted in an fp32 tensor per parameter, as torch does, which survives `state_dict` anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Stepping(torch.optim.Optimizer):
    """An optimiser that is one function of (parameter, gradient, state, group), called for each tensor in turn."""

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        super().__init__(params, {"lr": 0.0, **defaults})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state["step"] = torch.zeros((), dtype=torch.float32)
                    state["step"] += 1
                    self.update(parameter, parameter.grad, state, group)

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change `parameter` in place; `state["step"]` counts from 1."""
        raise TypeError(f"{type(self).__name__} has no update")


def moment(state: dict[str, Any], name: str, like: Tensor) -> Tensor:
    """A running mean of the state, zero at the start."""
    if name not in state:
        state[name] = torch.zeros_like(like, memory_format=torch.preserve_format)
    found: Tensor = state[name]
    return found


def adam_direction(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Adam's step before the learning rate, with bias correction (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1)."""
    beta1, beta2 = group["betas"]
    step = float(state["step"])
    mean = moment(state, "exp_avg", gradient).lerp_(gradient, 1 - beta1)
    square = moment(state, "exp_avg_sq", gradient).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    scale = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
    return mean / (1 - beta1**step) / scale


def decay(parameter: Tensor, group: dict[str, Any]) -> None:
    """Decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101): shrink by lr * weight_decay."""
    if group["weight_decay"]:
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
