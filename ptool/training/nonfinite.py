"""Where a number stopped being finite: watched only while a refused step is done again.

Hooks on every module look at what goes in and what comes out. In the forward pass the first module whose output has a
NaN or an infinity, though its inputs had none, is where it began; when its inputs are at fault already, its weights
were or the loss was spoilt from outside. If the whole forward pass is finite, the gradients at the modules' outputs
tell, in the order of the backward pass, where it happened there. Every rank watches its own micro-batches.

The hooks read and change nothing, so the rerun has the bits of the first try. A watched step takes several times as
long; there are few. Compiled layers are one module to this, and recomputed layers are seen when they are first run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ptool.training.evidence import Finding


class Watcher:
    """Watches forward and backward passes of a model until the first number that is not finite."""

    def __init__(self, module: nn.Module, *, rank: int, host: str) -> None:
        self._module = module
        self._rank = rank
        self._host = host
        self._micro_batch = -1
        self._forward: Finding | None = None
        self._backward: Finding | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch inside this block; the hooks are gone after it."""
        handles = [self._module.register_forward_pre_hook(self._begin)]
        for name, module in self._module.named_modules():
            if name:  # before the other hooks: those of ZeRO-3 take the weights away
                handles.append(module.register_forward_hook(self._hook(name), prepend=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def finding(self) -> Finding | None:
        """What was found first, the forward pass before the backward pass."""
        return self._forward or self._backward

    def note_loss(self, loss: float, micro_batch: int) -> None:
        """Tell the loss of a micro-batch: where all modules were finite and it is not, it was spoilt behind them."""
        if self._forward is None and not math.isfinite(loss):
            because = "all modules put out finite numbers"
            self._forward = self._found("loss", "the micro-batch", torch.tensor(loss), because, micro_batch)

    def _begin(self, module: nn.Module, given: Any) -> None:
        self._micro_batch += 1

    def _hook(self, name: str) -> Any:
        def look(module: nn.Module, given: Any, output: Any) -> None:
            for tensor in _floats(output):
                if self._forward is None and not _is_finite(tensor):
                    self._forward = self._found("forward pass", name, tensor, _cause(module, given), self._micro_batch)
                if tensor.requires_grad:
                    tensor.register_hook(self._backward_hook(name, self._micro_batch))

        return look

    def _backward_hook(self, name: str, micro_batch: int) -> Any:
        def look(gradient: Tensor) -> None:
            if self._backward is None and not _is_finite(gradient):
                because = "the first gradient of a module's output that is not finite, from the loss backwards"
                self._backward = self._found("backward pass", name, gradient, because, micro_batch)

        return look

    def _found(self, pass_: str, module: str, tensor: Tensor, because: str, micro_batch: int) -> Finding:
        return Finding(
            rank=self._rank,
            host=self._host,
            micro_batch=micro_batch,
            pass_=pass_,
            module=module,
            num_nan=int(tensor.isnan().sum()),
            num_inf=int(tensor.isinf().sum()),
            num_values=tensor.numel(),
            because=because,
        )


def _cause(module: nn.Module, given: Any) -> str:
    spoilt = [not _is_finite(tensor) for tensor in _floats(given)]
    if any(spoilt):
        return "its input was not finite already: it arose between the modules before it"
    if any(not _is_finite(parameter) for parameter in module.parameters(recurse=False)):
        return "its weights are not finite"
    return "its inputs and weights are finite"


def _floats(values: Any) -> list[Tensor]:
    listed = values if isinstance(values, tuple | list) else [values]
    return [value for value in listed if isinstance(value, Tensor) and value.is_floating_point()]


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.detach().isfinite().all())
