"""Forward passes are timed by hooks, each once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ptool.training import stopwatch
from ptool.training.stopwatch import ForwardTimes


def test_the_time_of_every_call_since_the_last_take_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 1.5, 2.0, 4.0, 7.0, 7.25])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(ticks))
    module = torch.nn.Linear(2, 2)
    times = ForwardTimes(module, torch.device("cpu"))
    for _ in range(2):
        module(torch.ones(1, 2))
    assert times.take() == 2.5
    module(torch.ones(1, 2))
    assert times.take() == 0.25
    assert times.take() == 0.0


def test_on_a_gpu_the_time_is_that_of_the_device() -> None:
    if not Path("/dev/nvidiactl").exists() or not torch.cuda.is_available():
        pytest.skip("no GPU")
    device = torch.device("cuda")
    module = torch.nn.Linear(4096, 4096, device=device)
    times = ForwardTimes(module, device)
    for _ in range(20):
        module(torch.ones(4096, 4096, device=device))
    assert 0 < times.take() < 5
