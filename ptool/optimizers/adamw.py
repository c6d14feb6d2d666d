"""AdamW as its paper writes it, one tensor at a time: the reference that the fused one is held against.

Training uses torch's fused kernel, which passes once over the memory; this one passes several times, and is what
`muon` applies to everything that is not a hidden matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ptool.optimizers.stepping import Stepping, adam_direction, decay


class AdamW(Stepping):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2)."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Decay, then one step of Adam."""
        decay(parameter, group)
        parameter.add_(adam_direction(gradient, state, group), alpha=-group["lr"])
