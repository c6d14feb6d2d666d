"""Exact copies: an open-addressing table from the 128-bit hash of a text to the kept document that has it.

The table stores 32 bits of the hash beside 4-byte document numbers; the 16-byte hashes stand in one column in the order
of the documents, so a kept document costs 16 bytes and 9 to 11 bytes of table. Two different texts share a hash with
probability n^2 / 2^129: 1e-21 for a billion documents, far below the error rate of the memory they lie in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ptool.dedup.tables import Tables, widen_tables
from ptool.errors import PtoolError

MAX_DOCUMENTS = (1 << 31) - 2
"""Kept documents an index can number: 31 bits, the 32nd marks the end of a bucket (index.py)."""

GROWTH = 1.15
MAX_LOAD = 0.875
"""A table 7/8 full is probed 4.5 times for what is there and 32 times for what is not (Knuth, 6.4), in neighbouring
slots: four cache lines at most. Growing often is cheap, and keeps what is reserved close to what is used."""


class Column:
    """A matrix that grows by rows, in place: the C library remaps large blocks, so growth copies nothing.

    Capacity grows by 1/64 (at least 64 KiB), because numpy writes zeros over what it adds: what is reserved is
    also used. `array` is replaced as a whole while growing; keep no view of it.
    """

    def __init__(self, width: int, dtype: type[np.generic]) -> None:
        self.array: npt.NDArray[Any] = np.zeros((0, width), dtype=dtype)

    def reserve(self, num_rows: int) -> None:
        """Make room for `num_rows` rows in all; new rows are zero."""
        capacity, width = self.array.shape
        if num_rows > capacity and width:
            least = max(1, (64 << 10) // max(1, width * self.array.itemsize))
            self.array.resize((max(num_rows, capacity + capacity // 64 + least), width), refcheck=False)


class ExactIndex:
    """The hashes of the kept documents and the table over them; the kernels read and write both.

    `table` uint64[1, slots] is a table as bands have them (tables.Tables): a slot tells most others apart by itself.
    """

    def __init__(self) -> None:
        self.hashes = Column(2, np.uint64)
        self.table: Tables = np.zeros((1, 1024), dtype=np.uint64)

    def reserve(self, num_documents: int) -> None:
        """Make room for this many documents in all. The documents present are the first rows of `hashes`."""
        if num_documents > MAX_DOCUMENTS:
            raise PtoolError(f"more than {MAX_DOCUMENTS} kept documents in one index", hint="deduplicate in parts")
        self.hashes.reserve(num_documents)
        num_slots = self.table.shape[1]
        if num_documents > MAX_LOAD * num_slots:
            self.table.resize((1, grown(num_slots, num_documents)), refcheck=False)
            widen_tables(self.table, num_slots)


def grown(size: int, num_entries: int) -> int:
    """The next size of a table of `size` slots that must take `num_entries` entries."""
    return max(int(size * GROWTH), int(num_entries / MAX_LOAD) + 1)
