"""What happened in a run, in three files of JSON lines that survive `kill -9` between any two writes.

    events.jsonl    the ledger: starts, saves, decisions about spikes, stops. Each line is on the disk before what it
                    says is done, so a decision is never forgotten by the rollback it asks for
    metrics.jsonl   the accepted history: one line per optimiser step, each step once
    attempts.jsonl  lines of metrics.jsonl that a kill or a rollback undid, and refused attempts

A line that was cut by a kill is dropped when the file is opened again. Undone lines are first appended to
attempts.jsonl, brought to the disk, and then cut off metrics.jsonl; a kill in between leaves them in both, and the next
rewind appends only those that are not there yet. Torch-free.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ptool.errors import DamagedInput
from ptool.formats.atomic import describing_os_errors
from ptool.training.spikes import Action, Decision

EVENTS, METRICS, ATTEMPTS = "events.jsonl", "metrics.jsonl", "attempts.jsonl"
SAVES_LOOKED_AT = 8  # of earlier starts too; one hiccup of the disk, long ago, says nothing of the next save

Record = dict[str, Any]


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A line of metrics.jsonl. `samples` is [first, last) in data order, `tokens` counts from the run's start."""

    step: int
    tokens: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_second: float
    attempt: int
    samples: tuple[int, int]
    model_tflops: float | None = None
    """Of one device, by `utilisation.py`; `mfu` is its share of the peak, None where that is not known."""
    mfu: float | None = None


class JsonLines:
    """A file of JSON lines that is appended to; a line cut by a kill is removed on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with describing_os_errors(path):
            self._file: BinaryIO = open(path, "ab+", buffering=0)  # noqa: SIM115 (closed by close)
            size = self._file.seek(0, os.SEEK_END)
            whole = _end_of_last_line(self._file, size)
            if whole < size:
                self._file.truncate(whole)

    def append(self, *records: object, sync: bool = False) -> None:
        """Write one line per record, in one write; `sync` brings everything written so far to the disk."""
        with describing_os_errors(self.path):
            data = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            if sync:
                self.sync()

    def sync(self) -> None:
        """Bring everything written so far to the disk."""
        with describing_os_errors(self.path):
            os.fsync(self._file.fileno())

    def __iter__(self) -> Iterator[Record]:
        return read_lines(self.path)

    def cut(self, offset: int) -> None:
        """Remove everything from byte `offset` on."""
        with describing_os_errors(self.path):
            self._file.truncate(offset)
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Ledger:
    """events.jsonl: what was decided. Appends reach the disk before they return."""

    def __init__(self, run: Path) -> None:
        self._lines = JsonLines(run / EVENTS)
        self.decisions: list[Decision] = read_decisions(run)
        past = (record.get("seconds", 0.0) for record in self._lines if record.get("event") == "save")
        self._save_seconds: deque[float] = deque(past, maxlen=SAVES_LOOKED_AT)

    @property
    def slowest_save(self) -> float:
        """Seconds from the beginning of a save to its publication, the longest of the last few; 0.0 before any."""
        return max(self._save_seconds, default=0.0)

    def record(self, event: str, **fields: Any) -> None:
        """Append an event with the time it happened."""
        self._lines.append({"event": event, **fields, "time": round(time.time(), 3)}, sync=True)
        if event == "save":
            self._save_seconds.append(fields.get("seconds", 0.0))

    def has(self, event: str) -> bool:
        """Whether such an event was ever recorded."""
        return any(record.get("event") == event for record in self._lines)

    def decide(self, decision: Decision) -> None:
        """Append a decision; from now on it is part of the run."""
        self.record("decision", **msgspec.to_builtins(decision))
        self.decisions.append(decision)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


class Metrics:
    """metrics.jsonl and attempts.jsonl."""

    def __init__(self, run: Path) -> None:
        self._accepted = JsonLines(run / METRICS)
        self._undone = JsonLines(run / ATTEMPTS)

    def append(self, record: StepRecord) -> None:
        """Add an accepted step."""
        self._accepted.append(record)

    def refuse(self, record: StepRecord, reason: str) -> None:
        """Note an attempt that was refused, with the reason; it never was in the accepted history."""
        self._undone.append({**msgspec.to_builtins(record), "refused": reason})

    def sync(self) -> None:
        """Bring both to the disk: done before a checkpoint is published, whose steps must not be lost."""
        self._undone.sync()
        self._accepted.sync()

    def rewind(self, step: int) -> int:
        """Move the lines after `step` to attempts.jsonl; returns how many there were.

        Raises DamagedInput where the history does not reach `step`.
        """
        offset, kept = 0, 0
        undone: list[Record] = []
        for line in self._accepted.path.open("rb"):
            record = _decode(line, self._accepted.path)
            if record["step"] <= step and not undone:
                offset += len(line)
                kept = record["step"]
            else:
                undone.append(record)
        if kept != step:
            message = f"the accepted history ends at step {kept}, the checkpoint is of step {step}"
            raise DamagedInput(message, where=str(self._accepted.path))
        known = {(r["attempt"], r["step"]) for r in self._undone if "refused" not in r} if undone else set()
        missing = [record for record in undone if (record["attempt"], record["step"]) not in known]
        self._undone.append(*missing, sync=True)
        self._accepted.cut(offset)
        return len(undone)

    def close(self) -> None:
        """Close both files."""
        self._accepted.close()
        self._undone.close()


def read_lines(path: Path) -> Iterator[Record]:
    """The whole lines of a file of JSON objects; nothing where there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield _decode(line, path)


def read_decisions(run: Path) -> list[Decision]:
    """The decisions of a run, in order."""
    events = (record for record in read_lines(run / EVENTS) if record.get("event") == "decision")
    fields = Decision.__struct_fields__
    return [msgspec.convert({k: v for k, v in record.items() if k in fields}, Decision) for record in events]


def next_attempt(run: Path) -> int:
    """1 for a run that never started; one more for each start and each rollback since."""
    return 1 + sum(
        1
        for record in read_lines(run / EVENTS)
        if record.get("event") == "start" or record.get("action") == Action.ROLLBACK
    )


def stands(checkpoint_step: int, decisions_known: int, decisions: Sequence[Decision]) -> bool:
    """Whether a checkpoint belongs to the run's present: no rollback decided after it went back past it."""
    later = decisions[decisions_known:]
    return all(checkpoint_step <= d.target for d in later if d.action == Action.ROLLBACK and d.target is not None)


def _decode(line: bytes, path: Path) -> Record:
    try:
        record: Record = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise DamagedInput(f"not a line of JSON: {error}", where=str(path)) from error
    return record


def _end_of_last_line(file: BinaryIO, size: int) -> int:
    position = size
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0
