"""TensorBoard curves beside metrics.jsonl: one event file per start, tags loss, lr, grad_norm, tokens_per_second.

The JSON lines are the record; these files are for looking. They are flushed every few seconds, never fsynced, and keep
what a rollback undid, which TensorBoard draws over by step. The writer is TensorBoard's own: torch's `SummaryWriter`
would add half a second to every start.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ptool.training.history import StepRecord

FOLDER = "tensorboard"
TAGS = ("loss", "lr", "grad_norm", "tokens_per_second")


class Curves:
    """Opens its file at the first step, so that importing TensorBoard delays nobody's start."""

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER
        self._writer: Any = None

    def add(self, record: StepRecord) -> None:
        """One point on every curve."""
        import time

        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is None:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._writer = EventFileWriter(str(self._folder), flush_secs=10)
        values = [Summary.Value(tag=tag, simple_value=getattr(record, tag)) for tag in TAGS]
        with suppress(OSError):  # a full disk is the checkpoints' business; curves do not end a run
            self._writer.add_event(Event(wall_time=time.time(), step=record.step, summary=Summary(value=values)))

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
