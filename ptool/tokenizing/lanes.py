"""Memory that worker processes share with the one that reads, so that text need not go through a pipe.

A batch that is sent to a worker is copied five times on its way, and crosses a pipe of 64 KiB in as many turns: a
quarter of the processor time of encoding English. A lane is anonymous memory that is there before the workers are
forked: the reader copies a batch into a free one and sends its number. Nothing is left behind by a run that is killed,
since no lane has a name. Where no lane is free, or a batch is longer than one, the batch itself is sent.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

LANE_BYTES = 8 << 20
"""Twice a batch, which ends with the line that fills it."""

_lanes: list[mmap.mmap] = []


class Lane(NamedTuple):
    """Where a batch lies."""

    number: int
    size: int

    def read(self) -> bytes:
        """The batch; in any process that was forked after `Lanes` was made."""
        return _lanes[self.number][: self.size]


class Lanes:
    """Lanes for one run; one at a time in a process. Memory is taken as batches first fill it."""

    def __init__(self, count: int) -> None:
        for lane in _lanes:
            lane.close()
        _lanes[:] = [mmap.mmap(-1, LANE_BYTES) for _ in range(count)]
        self._free = list(range(count))

    def lend(self, data: bytes) -> Lane | None:
        """A lane with `data` in it, None where there is none for it."""
        if len(data) > LANE_BYTES or not self._free:
            return None
        number = self._free.pop()
        _lanes[number][: len(data)] = data
        return Lane(number, len(data))

    def release(self, lane: Lane | None) -> None:
        """The batch has been encoded: the lane is free again."""
        if lane is not None:
            self._free.append(lane.number)
