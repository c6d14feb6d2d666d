"""AdamW that can refuse an update.

DeepSpeed reduces the gradients, computes their norm and calls the optimiser's `step`, all inside one call, so there is
no moment outside at which a step could be vetoed on every ZeRO stage. The veto therefore sits in the optimiser: the
first `step` of an update asks a gate with the global gradient norm; a refused update touches neither weights nor
moments. An accepted one multiplies the gradients by the factor the gate returns, which carries the token weighting and
the clipping, so DeepSpeed's own clipping stays off and means the same on every stage.

The update itself is torch's AdamW (decoupled weight decay), fused: one pass over the memory on CPU and CUDA alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

Gate = Callable[[float], float | None]
"""Global gradient norm before any scaling -> the factor to multiply gradients with, or None to refuse the update."""


class GatedAdamW(torch.optim.AdamW):
    """AdamW whose `step` first asks `gate`; ZeRO calls it once per parameter group, and one answer holds for all.

    `norm` returns the global gradient norm: ZeRO computes it itself, stage 0 leaves it to `gradient_norm`.
    """

    def __init__(self, params: Iterable[Any], *, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        super().__init__(params, lr=0.0, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        self.norm: Callable[[], float] = self.gradient_norm
        self._gate: Gate | None = None
        self._asked = False
        self._factor: float | None = None

    def open(self, gate: Gate) -> None:
        """Begin an update: the next `step` asks `gate`."""
        self._gate, self._asked, self._factor = gate, False, None

    @property
    def was_asked(self) -> bool:
        """Whether this update got as far as the gate; DeepSpeed itself drops one whose gradients overflow."""
        return self._asked

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update the parameters of `param_groups`, or do nothing at all."""
        if self._gate is None:
            raise RuntimeError("GatedAdamW.step without an open update")
        if not self._asked:
            self._asked = True
            self._factor = self._gate(self.norm())
        if self._factor is None:
            return
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self._factor != 1.0 and gradients:
            torch._foreach_mul_(gradients, self._factor)
        super().step(closure)

    def gradient_norm(self) -> float:
        """Norm over the gradients this process holds: the global one where every rank holds all of them."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        return float(torch.linalg.vector_norm(torch.stack([norm.double() for norm in norms])))


def decay_groups(named_parameters: Iterable[tuple[str, Any]], weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices with weight decay; embeddings, norms and biases without.

    Vectors are norms or biases; an embedding is known by its module's name (a tied one is an embedding).
    """
    decayed: list[Any] = []
    plain: list[Any] = []
    for name, parameter in named_parameters:
        is_embedding = "embedding" in name
        (plain if parameter.dim() < 2 or is_embedding else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
