"""How a decoder is computed: attention kernel, recomputation, compilation. Nothing here changes what it computes.

So none of it belongs to the model's shape: a checkpoint made one way is read the other way.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Recomputation = Literal["none", "selective", "full"]
Kernel = Literal["auto", "sdpa", "varlen", "flex"]


class Execution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Choices that trade time for memory, or need certain hardware."""

    recompute: Recomputation = "none"
    """What the backward pass computes again: nothing; all but matrix products and attention; or whole layers."""
    compile: bool = False
    """Each layer through `torch.compile`: minutes at the start, and results that differ in the last bits.

    Not under ZeRO-3, whose hooks inside a compiled layer hung two ranks (DeepSpeed 0.19.8, seen with learned positions
    and post-norm): the decoder refuses it.
    """
    attention: Kernel = "auto"
    """auto: variable-length attention on a GPU where it agrees with the masked one, see kernels.py."""
