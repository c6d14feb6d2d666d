"""Activation checkpointing: give up a layer's intermediate results, compute them again when the backward pass asks.

`full` keeps each layer's input and nothing else: one more forward pass, about a third more time, the least memory
(Chen et al. 2016, arXiv:1604.06174). `selective` keeps the results of the expensive operations, matrix products and
attention, and computes the cheap ones between them again: norms, rotations, the gate (Korthikanti et al. 2022,
arXiv:2205.05198, section 5, chooses by the same measure).

The switch stands inside the layer, so that a compiled layer is compiled with its recomputation.

Torch's non-reentrant form is used, which stops recomputing as soon as it has what it needs. Under ZeRO-3 that matters:
run to the end, the recomputation would leave the layer, and ZeRO would take the weights away before the gradients are
made (seen on DeepSpeed 0.19.8). Losses and gradients are the same to the bit in all three ways, at every ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import checkpoint

from ptool.models.execution import Recomputation


def run(function: Callable[..., Tensor], *given: Any, how: Recomputation) -> Tensor:
    """`function(*given)`, remembering as little as `how` says; plainly where no gradient is recorded."""
    if how == "none" or not torch.is_grad_enabled():
        return function(*given)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}  # the decoder draws no numbers
    if how == "selective":
        options["context_fn"] = partial(checkpoint.create_selective_checkpoint_contexts, _keep_expensive)
    result: Tensor = checkpoint.checkpoint(function, *given, **options)
    return result


def _keep_expensive(_context: Any, operation: Any, *_: Any, **__: Any) -> Any:
    policy = checkpoint.CheckpointPolicy
    return policy.MUST_SAVE if operation in _expensive_operations() else policy.PREFER_RECOMPUTE


@cache
def _expensive_operations() -> frozenset[Any]:
    with suppress(ImportError):
        import torch.nn.attention.varlen  # makes its operation known; a first batch without segments has no need of it
    found: list[Any] = []
    for name in _OPERATION_NAMES:
        namespace, operation = name.split("::")
        packet = getattr(getattr(torch.ops, namespace), operation, None)
        found += [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]
    return frozenset(found)


_OPERATION_NAMES = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::linear",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "torch_attn::_varlen_attn",
)
