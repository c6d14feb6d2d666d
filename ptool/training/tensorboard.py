"""TensorBoard curves beside metrics.jsonl: one event file per start; loss, lr, grad_norm, tokens_per_second of every
step, validation and layer statistics where they are taken.

The JSON lines are the record; these files are for looking. They are flushed every few seconds, never fsynced, and keep
what a rollback undid, which TensorBoard draws over by step. The writer is TensorBoard's own: torch's `SummaryWriter`
would add half a second to every start.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ptool.training.history import StepRecord

FOLDER = "tensorboard"
OPEN_AGAIN_SECONDS = 60.0
TAGS = ("loss", "lr", "grad_norm", "tokens_per_second")


def values_of(record: StepRecord) -> dict[str, float]:
    """The curves' values of a step."""
    return {tag: getattr(record, tag) for tag in TAGS}


class Curves:
    """Opens its file at the first step, so that importing TensorBoard delays nobody's start."""

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER
        self._writer: Any = None
        self._open_again_at = 0.0

    def add(self, record: StepRecord) -> None:
        """One point on the curve of each tag."""
        self.add_values(record.step, values_of(record))

    def add_values(self, step: int, values: Mapping[str, float]) -> None:
        """One point on each of the curves named."""
        import time

        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is None and time.monotonic() < self._open_again_at:
            return
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        try:  # a full disk is the checkpoints' business; curves do not end a run
            if self._writer is None:
                from tensorboard.summary.writer.event_file_writer import EventFileWriter

                self._writer = EventFileWriter(str(self._folder), flush_secs=10)
            self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))
        except OSError:  # its thread is dead for good: another file, when there may be room again
            self._writer = None
            self._open_again_at = time.monotonic() + OPEN_AGAIN_SECONDS

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
