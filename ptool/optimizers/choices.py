"""The optimisers by name, and which of them keep their meaning when a tensor is cut into flat shards. Torch-free.

ZeRO stages 1 to 3 lay all parameters of a group behind one another, cut the row into equal parts and hand each rank one
part as a vector. An optimiser whose every number depends on its own gradient alone does not notice. One that needs the
norm of a whole tensor, or its rows and columns, would run there without an error and be another optimiser: it is
refused, with that reason. Stage 0 gives every rank whole tensors.

    name       needs      numbers of state per parameter
    adamw      elements   2
    lion       elements   1
    adam8bit   elements   0.5 (one byte each, and a scale for every 256), a GPU and bitsandbytes
    lamb       tensors    2
    adafactor  matrices   one for each row and column, in place of one for each element
    muon       matrices   1 for hidden matrices, 2 for all else
"""

from __future__ import annotations

import difflib
from typing import Literal

import msgspec

from ptool.errors import UsageError

Needs = Literal["elements", "tensors", "matrices"]

_REASONS = {
    "tensors": "it scales each tensor's step by the tensor's own norm",
    "matrices": "it works on the rows and columns of whole matrices",
}


class OptimizerKind(msgspec.Struct, frozen=True, kw_only=True):
    """An optimiser: what it must see of a tensor, and the constants its authors recommend."""

    name: str
    needs: Needs
    betas: tuple[float, float]
    eps: float
    source: str
    state_numbers: float = 2.0
    """Numbers of four bytes that are kept per parameter, at most, and written to checkpoints."""
    lr_ratio: float = 1.0
    """A peak learning rate for AdamW is multiplied by it. Lion: 3 to 10 times smaller, its section 5. Adafactor and
    LAMB take relative steps; 10 is what served all three alike on a tiny model, a starting point and no more."""

    @property
    def stands_shards(self) -> bool:
        """Whether a part of a flattened tensor is updated as the whole tensor would be."""
        return self.needs == "elements"


KINDS = {
    kind.name: kind
    for kind in (
        OptimizerKind(name="adamw", needs="elements", betas=(0.9, 0.95), eps=1e-8, source="arXiv:1711.05101"),
        OptimizerKind(
            name="lion",
            needs="elements",
            betas=(0.95, 0.98),
            eps=0.0,
            source="arXiv:2302.06675",
            state_numbers=1.0,
            lr_ratio=0.2,
        ),
        OptimizerKind(
            name="adam8bit", needs="elements", betas=(0.9, 0.95), eps=1e-8, source="arXiv:2110.02861", state_numbers=0.5
        ),
        OptimizerKind(
            name="lamb", needs="tensors", betas=(0.9, 0.999), eps=1e-6, source="arXiv:1904.00962", lr_ratio=10
        ),
        OptimizerKind(
            name="adafactor",
            needs="matrices",
            betas=(0.0, 0.8),
            eps=1e-3,
            source="arXiv:1804.04235",
            state_numbers=0.0,
            lr_ratio=10,
        ),
        OptimizerKind(name="muon", needs="matrices", betas=(0.9, 0.95), eps=1e-8, source="arXiv:2502.16982"),
    )
}


def kind_of(name: str) -> OptimizerKind:
    """The optimiser called `name`. Raises UsageError with the nearest name."""
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1)
        known = "known: " + ", ".join(KINDS)
        raise UsageError(f"unknown optimizer {name}", hint=f"did you mean {near[0]}? {known}" if near else known)
    return KINDS[name]


def require_zero_stage(name: str, zero: int) -> None:
    """Raise UsageError where ZeRO stage `zero` would make another optimiser of `name`."""
    kind = kind_of(name)
    if zero > 0 and not kind.stands_shards:
        shards = ", ".join(other.name for other in KINDS.values() if other.stands_shards)
        raise UsageError(
            f"{name} does not work under ZeRO-{zero}, which cuts tensors into flat parts: {_REASONS[kind.needs]}",
            hint=f"--zero 0, or one of {shards}",
        )
