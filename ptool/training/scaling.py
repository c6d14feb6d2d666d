"""Dynamic loss scaling: what fp16 needs and bf16 does not.

fp16 ends at 65,504 and loses everything below 6e-8, and most gradients lie near that floor. So the loss is multiplied
by a power of two before the backward pass and the gradients are divided by it afterwards: exactly, both times. Where
they overflow, the scale is halved and the same step is taken again: an overflow is no spike, and neither step, samples
nor tokens count it. After `GROW_AFTER` applied steps in a row the scale is doubled (Micikevicius et al. 2018,
arXiv:1710.03740, section 3.2; the numbers are those of torch.amp.GradScaler). Torch-free; a pure function of what
happened, so it goes into a checkpoint as two numbers and resumes to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

FIRST, LOWEST, HIGHEST = 2.0**16, 1.0, 2.0**24
GROW_AFTER = 2000


class LossScale(msgspec.Struct):
    """The factor on the loss, and the steps applied since it last changed."""

    value: float = FIRST
    applied_steps: int = 0

    def overflowed(self) -> bool:
        """Lower the scale after gradients that were not finite; False where it is at its floor already."""
        if self.value <= LOWEST:
            return False
        self.value /= 2
        self.applied_steps = 0
        return True

    def applied(self) -> None:
        """Count a step that was applied."""
        self.applied_steps += 1
        if self.applied_steps >= GROW_AFTER:
            self.value = min(HIGHEST, 2 * self.value)
            self.applied_steps = 0

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"loss_scale": self.value, "loss_scale_steps": float(self.applied_steps)}

    def restore(self, state: Mapping[str, float]) -> None:
        """Put back what `state` gave; a checkpoint of another precision has none, and changes nothing."""
        self.value = state.get("loss_scale", self.value)
        self.applied_steps = int(state.get("loss_scale_steps", self.applied_steps))
