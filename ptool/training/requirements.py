"""What the optimiser, the precision and the kernels need of ZeRO stage and device: said before anything starts.

Each of these would otherwise fail in every rank, minutes later, or go on as something else. Torch-free and pure but for
one look whether bitsandbytes is installed.
"""

from __future__ import annotations

from importlib.util import find_spec

import msgspec

from ptool.errors import UsageError
from ptool.optimizers.choices import kind_of, require_zero_stage
from ptool.training.config import Execution, Optimizer, Parallel

FP16_WARNING = (
    "fp16 keeps 11 bits of numbers from 6e-8 to 65,504, so the loss is scaled and a step whose gradients overflow is "
    "taken again; bf16 has the range of fp32 and needs none of that: use it where the hardware has it"
)


def resolve_optimizer(optimizer: Optimizer, parallel: Parallel, size_lr: float) -> Optimizer:
    """`optimizer` with its own constants where none were given, and `size_lr` (AdamW's peak) scaled to its kind.

    Raises UsageError for an unknown name, a ZeRO stage that makes another optimiser of it, or a missing GPU.
    """
    kind = kind_of(optimizer.name)
    require_zero_stage(kind.name, parallel.zero)
    if kind.name == "adam8bit":
        if parallel.device != "cuda":
            raise UsageError("adam8bit needs a GPU, and this run has none", hint="--set optimizer.name=adamw")
        if find_spec("bitsandbytes") is None:
            raise UsageError("adam8bit needs bitsandbytes, which is not installed", hint="pip install bitsandbytes")
    return msgspec.structs.replace(
        optimizer,
        peak_lr=optimizer.peak_lr or size_lr * kind.lr_ratio,
        beta1=kind.betas[0] if optimizer.beta1 < 0 else optimizer.beta1,
        beta2=kind.betas[1] if optimizer.beta2 < 0 else optimizer.beta2,
        eps=kind.eps if optimizer.eps < 0 else optimizer.eps,
    )


def check_execution(execution: Execution, parallel: Parallel) -> None:
    """Raise UsageError for a way of computing that this run's stage, device or precision does not have."""
    if execution.compile and parallel.zero == 3:
        raise UsageError("a compiled model does not work under ZeRO-3", hint="execution.compile = false, or --zero 2")
    if execution.attention in ("varlen", "flex") and parallel.device != "cuda":
        reason = "has no backward pass on the CPU" if execution.attention == "flex" else "needs a GPU"
        raise UsageError(f"{execution.attention} attention {reason}", hint="execution.attention = auto")
    if execution.attention == "varlen" and parallel.precision == "fp32":
        raise UsageError("varlen attention needs bf16 or fp16", hint="execution.attention = auto")
