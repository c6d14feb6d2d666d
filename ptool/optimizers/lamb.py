"""LAMB: Adam whose step has, in every tensor, the size of the tensor itself (You et al. 2020, arXiv:1904.00962).

Meant for very large batches. The ratio is over a whole tensor, so under ZeRO's flat shards it would be another
optimiser: choices.py refuses that. Algorithm 2 with phi the identity; a tensor or a step of norm 0 has ratio 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ptool.optimizers.stepping import Stepping, adam_direction


class Lamb(Stepping):
    """p <- p - lr |p| / |u| u, with u = Adam's direction + wd p."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """A step of Adam, scaled to the tensor."""
        direction = adam_direction(gradient, state, group).add_(parameter, alpha=group["weight_decay"])
        size, length = float(parameter.norm()), float(direction.norm())
        ratio = size / length if size > 0 and length > 0 else 1.0
        parameter.add_(direction, alpha=-group["lr"] * ratio)
