r"""Arrays of one set of documents in one file, written once and mapped into memory to be read.

    ptool columns 1\n | array | array | ... | directory (JSON) | its length, u64 little-endian | ptool columns 1\n

Arrays begin at multiples of 64 bytes. One column may be written as it comes (`stream`), because shingle sets are larger
than all else together; the others are collected and written at the end. The file appears under its name when it is
whole, so a task that was killed has no file and is done again.
"""

from __future__ import annotations

import math
import mmap
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.errors import DamagedInput
from ptool.formats.atomic import replacing

_MAGIC = b"ptool columns 1\n"
_ALIGNMENT = 64
_MOST_MAPPED = 64  # files at once: each takes a descriptor, of which a process has 1024 unless somebody raised it

Array = npt.NDArray[Any]


class _Column(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[int]
    offset: int


class _Directory(msgspec.Struct, frozen=True):
    details: dict[str, Any]
    columns: dict[str, _Column]


class ColumnWriter:
    """Takes arrays piece by piece; `details` is what the file says about itself. Made by `writing_columns`."""

    def __init__(self, file: BinaryIO) -> None:
        self.details: dict[str, Any] = {}
        self._file = file
        self._pieces: dict[str, list[Array]] = {}
        self._columns: dict[str, _Column] = {}
        self._position = self._file.write(_MAGIC)
        self._streamed = ""
        self._streamed_values = 0

    def append(self, name: str, array: Array) -> None:
        """Add rows to a column."""
        self._pieces.setdefault(name, []).append(array)

    def stream(self, name: str, array: Array) -> None:
        """Add values to the one column that is written at once."""
        if not self._streamed:
            self._streamed = name
            self._pad()
            self._columns[name] = _Column(array.dtype.str, [0], self._position)
        self._position += self._file.write(np.ascontiguousarray(array).data)
        self._streamed_values += len(array)
        self._columns[name] = msgspec.structs.replace(self._columns[name], shape=[self._streamed_values])

    def finish(self) -> None:
        """Write what was collected, and the directory."""
        for name, pieces in self._pieces.items():
            self._pad()
            rows = sum(len(piece) for piece in pieces)
            self._columns[name] = _Column(pieces[0].dtype.str, [rows, *pieces[0].shape[1:]], self._position)
            for piece in pieces:
                self._position += self._file.write(np.ascontiguousarray(piece).data)
        directory = msgspec.json.encode(_Directory(self.details, self._columns), order="sorted")
        self._file.write(directory + len(directory).to_bytes(8, "little") + _MAGIC)

    def _pad(self) -> None:
        self._position += self._file.write(b"\0" * (-self._position % _ALIGNMENT))


class Columns:
    """A file of columns, opened: `columns[name]` is an array mapped into memory. Raises DamagedInput for a cut file.

    Any number of them can be open: the file is mapped when an array is asked for, and let go of when `_MOST_MAPPED`
    others were mapped after it. An array that somebody still has keeps its mapping, and with it a descriptor.
    """

    _mapped: ClassVar[deque[Columns]] = deque()

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - len(_MAGIC) - 8))
            length = int.from_bytes(file.read(8), "little")
            if file.read() != _MAGIC or not 0 < length < size:
                raise DamagedInput("not a file of columns", where=str(path), hint="remove it and run again")
            file.seek(size - len(_MAGIC) - 8 - length)
            try:
                directory = msgspec.json.decode(file.read(length), type=_Directory)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                raise DamagedInput(f"not a file of columns: {error}", where=str(path)) from error
        self.details = directory.details
        self._columns = directory.columns
        self._mapping: mmap.mmap | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> Array:
        column = self._columns[name]
        shape = tuple(column.shape)
        if not all(shape):  # nothing to be mapped
            return np.zeros(shape, dtype=column.dtype)
        # A plain array over the mapping: a memmap object would cost a microsecond for every slice.
        array = np.frombuffer(self._map(), dtype=column.dtype, count=math.prod(shape), offset=column.offset)
        return array.reshape(shape)

    def _map(self) -> mmap.mmap:
        if self._mapping is None:
            with self.path.open("rb") as file:
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._mapped.append(self)
            if len(self._mapped) > _MOST_MAPPED:
                self._mapped.popleft()._mapping = None
        return self._mapping


@contextmanager
def writing_columns(path: Path) -> Iterator[ColumnWriter]:
    """A writer whose file becomes `path` when the block ends, and leaves nothing behind when it raises."""
    with replacing(path) as file:
        writer = ColumnWriter(file)
        yield writer
        writer.finish()
