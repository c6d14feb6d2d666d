"""Measurements that are taken now and then, beside the line of every step: a file of JSON lines per kind.

    validation.jsonl    layers.jsonl        those of the accepted history
    validation_undone.jsonl …               those of steps that a kill or a rollback undid

A line has `step` and `attempt`. Going back to a step moves the later lines, as with metrics.jsonl: first appended to
the second file, brought to the disk, then cut off the first; a kill in between leaves them in both, and the next rewind
adds none twice. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from ptool.training.history import JsonLines, Record, read_lines

VALIDATION, LAYERS = "validation", "layers"


def file_of(name: str) -> str:
    """The name of a kind's file."""
    return f"{name}.jsonl"


def undone_file_of(name: str) -> str:
    """The name of the file for lines that were undone."""
    return f"{name}_undone.jsonl"


class Series:
    """One kind of measurement; its files are made with the first line."""

    def __init__(self, run: Path, name: str) -> None:
        self._run = run
        self._name = name
        self._lines: JsonLines | None = None

    @property
    def path(self) -> Path:
        """The file of the accepted history."""
        return self._run / file_of(self._name)

    def append(self, record: Record) -> None:
        """Add a line; it is on the disk when this returns, since lines are few."""
        if self._lines is None:
            self._lines = JsonLines(self.path)
        self._lines.append(record, sync=True)

    def has(self, step: int) -> bool:
        """Whether there is a line of this step."""
        return any(record["step"] == step for record in self)

    def rewind(self, step: int) -> int:
        """Move the lines after `step` to the other file; returns how many there were."""
        if not self.path.exists():
            return 0
        if self._lines is None:
            self._lines = JsonLines(self.path)
        offset = 0
        late: list[Record] = []
        for record, line in _with_bytes(self.path):
            if record["step"] <= step and not late:
                offset += len(line)
            else:
                late.append(record)
        if late:
            undone = JsonLines(self._run / undone_file_of(self._name))
            known = {(record["attempt"], record["step"]) for record in undone}
            undone.append(*[r for r in late if (r["attempt"], r["step"]) not in known], sync=True)
            undone.close()
            self._lines.cut(offset)
        return len(late)

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.close()

    def __iter__(self) -> Iterator[Record]:
        return read_lines(self.path)


def _with_bytes(path: Path) -> list[tuple[Record, bytes]]:
    with path.open("rb") as file:
        return [(msgspec.json.decode(line), line) for line in file]
