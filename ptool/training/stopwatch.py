"""How long a rank's own forward passes take, without waiting for other ranks: what tells a slow GPU from a patient one.

By two hooks on the model's call. On a GPU the two moments are events of its stream, read a step later, so nothing waits
for the device. ZeRO-3's forward pass waits for the other ranks' weights, so there it says nothing and is not used.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn


class ForwardTimes:
    """Adds up the time between a module's call and its return."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._begun: Any = None
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)

    def take(self) -> float:
        """Seconds since the last take."""
        spans, self._spans = self._spans, []
        if not self._on_gpu:
            return float(sum(end - begin for begin, end in spans))
        if spans:
            spans[-1][1].synchronize()
        return float(sum(begin.elapsed_time(end) for begin, end in spans)) / 1e3

    def _begin(self, module: nn.Module, given: Any) -> None:
        self._begun = self._now()

    def _end(self, module: nn.Module, given: Any, output: Any) -> None:
        self._spans.append((self._begun, self._now()))

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
