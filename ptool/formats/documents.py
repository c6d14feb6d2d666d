"""The documents of an artefact as a table on disk: what each one is called, where it came from, how long it is.

`tokenize` and `pack` keep one beside the tokens, so that any token can be traced to its document. A table NAME is two
files, both memory-mapped by the reader, so that a billion documents cost no memory:

    NAME.docs   one 40-byte little-endian record per document, in order
        u64 text_hash   xxh3-64 of the text's UTF-8 bytes (of the token bytes where the text was never seen)
        i64 num_bytes   UTF-8 bytes of the text
        i64 num_tokens  with the end-of-document token, where there is one
        i64 id_end      where this document's id ends in NAME.ids (it begins where the one before ends)
        i32 source      index into the artefact's list of sources, -1 for none
        u32 flags       0
    NAME.ids    the ids, UTF-8, one after another

Ids need not be unique, and nothing is decided by them: random choices hash the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from ptool.errors import DamagedInput

RECORD = np.dtype(
    [
        ("text_hash", "<u8"),
        ("num_bytes", "<i8"),
        ("num_tokens", "<i8"),
        ("id_end", "<i8"),
        ("source", "<i4"),
        ("flags", "<u4"),
    ]
)

NO_SOURCE = "-"
"""How documents without a source are named in counts."""

Records = npt.NDArray[Any]
"""A structured array of RECORD."""

Create = Callable[[str], AbstractContextManager[BinaryIO]]
"""Opens a file of an artefact by name, such as `FolderWriter.create`."""


class DocumentTable:
    """Reads a table: `records` is a read-only memory map of shape [num_documents]."""

    def __init__(self, folder: Path, name: str) -> None:
        """Raises DamagedInput where the two files do not fit together."""
        self.records: Records = map_array(folder / f"{name}.docs", RECORD)
        self._ids = map_array(folder / f"{name}.ids", np.dtype(np.uint8))
        end = int(self.records["id_end"][-1]) if len(self.records) else 0
        if end != len(self._ids):
            message = f"ids take {len(self._ids)} bytes where the documents' records say {end}"
            raise DamagedInput(message, where=str(folder / f"{name}.ids"))

    def __len__(self) -> int:
        return len(self.records)

    def id(self, index: int) -> str:
        """The id of document `index`."""
        start = int(self.records["id_end"][index - 1]) if index else 0
        return self.raw_ids(start, int(self.records["id_end"][index])).decode("utf-8", "surrogatepass")

    def ids(self, start: int, stop: int) -> list[str]:
        """The ids of documents start <= index < stop."""
        return [self.id(index) for index in range(start, stop)]

    def raw_ids(self, start: int, stop: int) -> bytes:
        """Bytes start <= offset < stop of the id file."""
        return self._ids[start:stop].tobytes()


class DocumentTableWriter:
    """Writes a table through `create`; a context manager, because each file is whole or not there."""

    def __init__(self, create: Create, name: str) -> None:
        self._stack = ExitStack()
        with ExitStack() as opening:
            self._docs = opening.enter_context(create(f"{name}.docs"))
            self._ids = opening.enter_context(create(f"{name}.ids"))
            self._stack = opening.pop_all()
        self._id_end = 0
        self.num_documents = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, records: Records, ids: Sequence[str]) -> None:
        """Append documents; `id_end` of the records is filled in here."""
        encoded = [name.encode("utf-8", "surrogatepass") for name in ids]
        self.add_raw(records, np.array([len(name) for name in encoded], dtype=np.int64), b"".join(encoded))

    def add_raw(self, records: Records, id_lengths: npt.NDArray[np.int64], ids: bytes) -> None:
        """Append documents whose ids are UTF-8 already, one after another in `ids`."""
        records = records.astype(RECORD, copy=True)
        records["id_end"] = self._id_end + np.cumsum(id_lengths)
        self._docs.write(records.tobytes())
        self._ids.write(ids)
        self._id_end += len(ids)
        self.num_documents += len(records)


def new_records(num_documents: int) -> Records:
    """Records to fill: everything 0, no source."""
    records = np.zeros(num_documents, dtype=RECORD)
    records["source"] = -1
    return records


def map_array(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A read-only memory map of the whole file; an ordinary empty array for an empty one (mmap refuses those).

    Raises DamagedInput where the file is missing or no whole number of items.
    """
    try:
        size = path.stat().st_size
        if size % dtype.itemsize:
            raise DamagedInput(f"{size} bytes are no whole number of {dtype.itemsize}-byte records", where=str(path))
        return np.memmap(path, dtype=dtype, mode="r") if size else np.empty(0, dtype=dtype)
    except OSError as error:
        raise DamagedInput(f"cannot read: {(error.strerror or str(error)).lower()}", where=str(path)) from error
