"""What is said of a step that was accepted, and the curves of a line of layers.jsonl."""

from __future__ import annotations

import errno
import math
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ptool.training import tensorboard
from ptool.training.config import Spike
from ptool.training.history import StepRecord
from ptool.training.instruments import layer_values, two_sigma_warning
from ptool.training.spikes import Window

WINDOW = Window(losses=tuple(math.log(2.0 + 0.01 * (k % 5)) for k in range(64)), norms=(0.0,) * 64)


def step(loss: float) -> StepRecord:
    return StepRecord(
        step=1065, tokens=1, loss=loss, lr=0.1, grad_norm=1.0, tokens_per_second=1.0, attempt=1, samples=(0, 8)
    )


def test_mean_and_two_sigma_warn_only_where_they_are_asked_to() -> None:
    on = Spike(warn_two_sigma=True)
    told = two_sigma_warning(on, WINDOW, step(2.06))
    assert told == "step 1,065: loss 2.0600 is above mean + 2 sigma of the last steps; only a warning"
    assert two_sigma_warning(on, WINDOW, step(2.04)) is None
    assert two_sigma_warning(Spike(), WINDOW, step(9.0)) is None, "off by default"
    assert two_sigma_warning(Spike(warn_two_sigma=True, min_history=65), WINDOW, step(9.0)) is None


def test_a_number_that_was_not_finite_is_no_point_on_a_curve() -> None:
    line = {"step": 5, "gradient_norm": {"layers.0": 1.5, "head": None}, "activation_rms": {"head": 2.0}}
    assert layer_values(line) == {"gradient_norm/layers.0": 1.5, "activation_rms/head": 2.0}


def test_curves_go_on_in_another_file_after_a_disk_was_full_and_never_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / tensorboard.FOLDER).write_text("a file where the folder should be")
    monkeypatch.setattr(tensorboard, "OPEN_AGAIN_SECONDS", 0.0)
    curves = tensorboard.Curves(tmp_path)
    curves.add(step(1.0))
    (tmp_path / tensorboard.FOLDER).unlink()
    curves.add_values(1, {"loss": 1.0})
    full = curves._writer

    def no_space() -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(full._async_writer._writer, "flush", no_space)
    monkeypatch.setattr(full._async_writer._worker, "_next_flush_time", 0)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # TensorBoard's thread dies of it
    curves.add_values(2, {"loss": 2.0})
    full._async_writer._worker.join(timeout=20)
    curves.add_values(3, {"loss": 3.0})
    curves.add_values(4, {"loss": 4.0})
    assert curves._writer is not full
    curves.close()
    steps = [point.step for point in EventAccumulator(str(tmp_path / tensorboard.FOLDER)).Reload().Scalars("loss")]
    assert steps[-1] == 4
    assert len(list((tmp_path / tensorboard.FOLDER).iterdir())) == 2
