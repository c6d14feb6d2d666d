r"""Token shards: Megatron's `.bin/.idx` pair, so that Megatron-LM and GPT-NeoX read ours and we read theirs.

Layout, as `megatron/core/datasets/indexed_dataset.py` writes and reads it; little-endian throughout:

    .bin   the tokens of all sequences, one after another, no header
    .idx   "MMIDIDX\0\0" | u64 version 1 | u8 dtype code | u64 S | u64 D+1
           | i32[S] sequence lengths | i64[S] byte offsets into .bin | i64[D+1] first sequence of each document, and S

A document of ours is one sequence; others may have several (sentences), which the reader joins. Offsets are kept as
64-bit numbers all the way: Megatron's own merge overflowed at 2^31 (Megatron-LM#1519). The optional modes that
multimodal data append to the index are ignored.
An empty document is a document of length 0, never skipped, so that documents keep their numbers.

A token folder is a `tokenize` artefact: shards of this kind, each with its documents' table (formats/documents.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptool.errors import DamagedInput
from ptool.formats.documents import Create, DocumentTable, map_array

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")

DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
"""Megatron's codes for integer types (6 and 7 are floats, which are no tokens)."""
_CODES = {name: code for code, name in DTYPES.items()}

U16_VOCABULARY = 65500
"""Megatron's `DType.optimal_dtype`: u16 below this vocabulary size, i32 from it on."""


def token_dtype(vocab_size: int) -> str:
    """The numpy name of the type tokens are stored in."""
    return "uint16" if vocab_size < U16_VOCABULARY else "int32"


class ShardWriter:
    """Appends documents to one `.bin/.idx` pair; tokens go to disk at once, 4 bytes a document stay in memory."""

    def __init__(self, create: Create, name: str, dtype: str) -> None:
        self._create = create
        self._name = name
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._code = _CODES[dtype]
        self._lengths: list[npt.NDArray[np.int32]] = []
        self.num_tokens = 0

    @contextmanager
    def opened(self) -> Iterator[ShardWriter]:
        """Both files, each whole or not there when the block ends."""
        with ExitStack() as stack:
            self._bin = stack.enter_context(self._create(f"{self._name}.bin"))
            yield self
            with self._create(f"{self._name}.idx") as index:
                index.write(self._index())

    def add(self, tokens: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> None:
        """Append documents of `lengths` tokens each, side by side in `tokens`, whose values the dtype must hold."""
        assert int(lengths.sum()) == len(tokens)
        self._bin.write(np.ascontiguousarray(tokens, dtype=self._dtype).view(np.uint8).data)
        self._lengths.append(lengths.astype(np.int32))
        self.num_tokens += len(tokens)

    def _index(self) -> bytes:
        lengths = np.concatenate([np.empty(0, dtype=np.int32), *self._lengths])
        ends = np.cumsum(lengths, dtype=np.int64) * self._dtype.itemsize
        count = len(lengths)
        return b"".join(
            [
                HEADER.pack(MAGIC, VERSION, self._code, count, count + 1),
                lengths.astype("<i4").tobytes(),
                np.concatenate([np.zeros(min(count, 1), dtype=np.int64), ends[:-1]]).astype("<i8").tobytes(),
                np.arange(count + 1, dtype="<i8").tobytes(),
            ]
        )


class Shard:
    """Reads one `.bin/.idx` pair: `tokens` (memory-mapped), and where each document begins in it."""

    def __init__(self, prefix: Path) -> None:
        """Raises DamagedInput for a file that is cut, altered, or no Megatron index."""
        index = prefix.with_name(prefix.name + ".idx")
        try:
            data = index.read_bytes()
        except OSError as error:
            raise DamagedInput(f"cannot read: {(error.strerror or str(error)).lower()}", where=str(index)) from error
        if len(data) < HEADER.size or not data.startswith(MAGIC):
            raise DamagedInput("not a Megatron index (MMIDIDX)", where=str(index))
        _, version, code, num_sequences, num_bounds = HEADER.unpack_from(data)
        if version != VERSION or code not in DTYPES:
            message = f"version {version} with dtype code {code}; ptool reads version {VERSION} with integer tokens"
            raise DamagedInput(message, where=str(index))
        size = HEADER.size + 12 * num_sequences + 8 * num_bounds
        if len(data) not in (size, size + num_sequences) or num_bounds == 0:
            raise DamagedInput(f"{len(data)} bytes where the header promises {size}", where=str(index))
        lengths = np.frombuffer(data, "<i4", num_sequences, HEADER.size).astype(np.int64)
        offsets = np.frombuffer(data, "<i8", num_sequences, HEADER.size + 4 * num_sequences)
        bounds = np.frombuffer(data, "<i8", num_bounds, HEADER.size + 12 * num_sequences)

        self.dtype = DTYPES[code]
        self.tokens: npt.NDArray[Any] = map_array(
            prefix.with_name(prefix.name + ".bin"), np.dtype(self.dtype).newbyteorder("<")
        )
        starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        sound = (
            bool((lengths >= 0).all())
            and np.array_equal(offsets, starts[:-1] * self.tokens.dtype.itemsize)
            and bool((np.diff(bounds) >= 0).all())
            and (int(bounds[0]), int(bounds[-1])) == (0, num_sequences)
            and int(starts[-1]) == len(self.tokens)
        )
        if not sound:
            raise DamagedInput("lengths, offsets and documents do not fit the .bin file", where=str(index))
        self.starts: npt.NDArray[np.int64] = starts[bounds]
        """Shape [num_documents + 1]: the first token of each document, and the number of tokens."""

    @property
    def num_documents(self) -> int:
        """Documents in this shard, empty ones included."""
        return len(self.starts) - 1


class TokenShards:
    """The shards of a token folder, in order, with their documents' tables."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        """Raises DamagedInput where shards and tables do not fit together."""
        self.shards: list[Shard] = []
        self.tables: list[DocumentTable] = []
        for name in names:
            shard, table = Shard(folder / name), DocumentTable(folder, name)
            if not np.array_equal(np.diff(shard.starts), table.records["num_tokens"]):
                raise DamagedInput("the documents' table is of other tokens", where=str(folder / f"{name}.docs"))
            self.shards.append(shard)
            self.tables.append(table)


def shard_name(number: int) -> str:
    """The name of a shard, without its suffix."""
    return f"shard-{number:05d}"
