"""Any optimiser, able to refuse an update.

DeepSpeed reduces the gradients, computes their norm and calls the optimiser's `step`, all inside one call, so there is
no moment outside at which a step could be vetoed on every ZeRO stage. The veto therefore sits in the optimiser: the
first `step` of an update asks a gate with the global gradient norm; a refused update touches neither weights nor
moments. An accepted one multiplies the gradients by the factor the gate returns, which carries the token weighting and
the clipping, so DeepSpeed's own clipping stays off and means the same on every stage.

The update itself is that of the class the gate is put before: torch's fused AdamW or one of ptool.optimizers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

Gate = Callable[[float], float | None]
"""Global gradient norm before any scaling -> the factor to multiply gradients with, or None to refuse the update."""


class Gated(torch.optim.Optimizer):
    """What `gated` puts before an optimiser: its `step` first asks a gate.

    ZeRO calls `step` once per parameter group, and one answer holds for all. `norm` returns the global gradient norm:
    ZeRO computes it itself, stage 0 leaves it to `gradient_norm`.
    """

    def __init__(self, *arguments: Any, **constants: Any) -> None:
        super().__init__(*arguments, **constants)
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
    def step(self, closure: Any = None) -> None:
        """Update the parameters of `param_groups`, or do nothing at all."""
        if self._gate is None:
            raise RuntimeError(f"{type(self).__name__}.step without an open update")
        if not self._asked:
            self._asked = True
            self._factor = self._gate(self.norm())
        if self._factor is None:
            return
        gradients = self._gradients()
        if self._factor != 1.0 and gradients:
            torch._foreach_mul_(gradients, self._factor)
        super().step(closure)

    def gradient_norm(self) -> float:
        """Norm over the gradients this process holds: the global one where every rank holds all of them."""
        norms = torch._foreach_norm(self._gradients())
        return float(torch.linalg.vector_norm(torch.stack([norm.double() for norm in norms])))

    def _gradients(self) -> list[torch.Tensor]:
        return [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]


def gated(kind: type[torch.optim.Optimizer]) -> type[Gated]:
    """The class `kind` with a gate before its `step`."""
    return cast(type[Gated], type(f"Gated{kind.__name__}", (Gated, kind), {}))
