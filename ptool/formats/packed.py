"""Packed datasets: rows of exactly `seq_len` tokens, and which document every token belongs to.

A packed folder holds two splits, `train` and `holdout`, each made of

    SPLIT-00000.rows …  tokens, row after row, u16 or i32 little-endian, `rows_per_shard` rows a file (memory-mapped)
    SPLIT.next          i32 per row: the token that follows the row's last one in its document, -1 where there is none
    SPLIT.spans         24 bytes per span: i64 document, i64 offset in it, i32 first column, i32 length
    SPLIT.index         i64 per row, and one more: where the row's spans begin in SPLIT.spans
    SPLIT.docs, .ids    the documents' table (formats/documents.py)

beside the tokenizer file and manifest.json, whose `details["layout"]` is a `PackedLayout`. A span is an unbroken
piece of one document in one row; the spans of a row stand side by side from column 0, what is left at the end is
padding. Every token of every document is in exactly one span. `formats/packed_writer.py` writes all this; its
`write_packed` makes a small dataset from arrays.

Targets. A token's target is the next token of its document, also where that one stands in another row. An
end-of-document token (EOD) that is followed, in its row, by the start of another document is the first input of that
document's segment: its target is the document's first token. So "first token from EOD" is trained just as evaluation
asks it. An EOD followed by anything else (padding, the row's end, a later piece of a document) has no target.

Reading is array work over whole batches: a few passes per token, no Python per token or per span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.errors import DamagedInput, InputError
from ptool.formats.artefacts import open_artefact
from ptool.formats.documents import DocumentTable, map_array
from ptool.formats.manifests import Manifest, manifest_digest

NO_TARGET = -100
"""What torch's cross_entropy ignores by default."""

SPAN = np.dtype([("document", "<i8"), ("offset", "<i8"), ("start", "<i4"), ("length", "<i4")])
SPLITS = ("train", "holdout")

Spans = npt.NDArray[Any]
"""A structured array of SPAN."""


class SplitCounts(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One split in numbers. `sum_squared_pieces` is the sum of squared span lengths: attention's share of the FLOPs."""

    rows: int = 0
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    padding: int = 0
    pieces: int = 0
    sum_squared_pieces: int = 0
    tokens_by_source: dict[str, int] = {}


class PackedLayout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reader must know; stands in the manifest as `details["layout"]`."""

    seq_len: int
    vocab_size: int
    dtype: str
    eod_id: int | None
    pad_id: int
    rows_per_shard: int
    sources: list[str]
    tokenizer: str | None
    tokenizer_fingerprint: str | None
    splits: dict[str, SplitCounts]


class PackedRows(NamedTuple):
    """Rows as training takes them, all of shape [num_rows, seq_len]."""

    tokens: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    """The token to predict, NO_TARGET where nothing is known to follow."""
    segments: npt.NDArray[np.int32]
    """Attention stays inside a segment; counted from 0 in each row, -1 is padding."""
    positions: npt.NDArray[np.int32]
    """From 0 in each segment."""


class PackedDocument(NamedTuple):
    """A whole document, put together from its pieces."""

    id: str
    source: str | None
    num_bytes: int
    tokens: npt.NDArray[np.int64]


class PackedPiece(NamedTuple):
    """An unbroken piece of a document in a row: its first column, its length, and where in the document it begins."""

    id: str
    source: str | None
    start: int
    length: int
    offset: int


class PackedSplit:
    """One split of a packed dataset; everything in it is memory-mapped and read-only."""

    def __init__(self, folder: Path, name: str, layout: PackedLayout) -> None:
        """Raises DamagedInput where the files do not fit the layout or one another."""
        counts = layout.splits.get(name, SplitCounts())
        self.name = name
        self.num_rows = counts.rows
        self.num_tokens = counts.tokens
        self.num_documents = counts.documents
        self.counts = counts
        self._layout = layout
        dtype = np.dtype(layout.dtype).newbyteorder("<")
        num_shards = -(-counts.rows // layout.rows_per_shard)
        self._shards = [map_array(folder / row_file(name, shard), dtype) for shard in range(num_shards)]
        self._next = map_array(folder / f"{name}.next", np.dtype("<i4"))
        self._index = map_array(folder / f"{name}.index", np.dtype("<i8"))
        self._spans = map_array(folder / f"{name}.spans", SPAN)
        self._documents = DocumentTable(folder, name)
        sizes = (sum(len(shard) for shard in self._shards), len(self._next), len(self._index), len(self._spans))
        expected = (counts.rows * layout.seq_len, counts.rows, counts.rows + 1, counts.pieces)
        if sizes != expected or len(self._documents) != counts.documents:
            message = f"split {name!r} has {sizes} row tokens, next tokens, row starts and spans; expected {expected}"
            raise DamagedInput(message, where=str(folder), hint="pack again with --force")
        self._shards = [shard.reshape(-1, layout.seq_len) for shard in self._shards]

    def rows(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> PackedRows:
        """Rows by number, in the order asked for, repeats allowed."""
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= self.num_rows):
            raise IndexError(f"rows {rows.min()}..{rows.max()} asked for, there are {self.num_rows}")
        num_rows, seq_len = len(rows), self._layout.seq_len
        columns = np.arange(seq_len, dtype=np.int32)
        tokens = self._gather(rows)
        if num_rows == 0:
            empty = np.empty((0, seq_len), dtype=np.int32)
            return PackedRows(tokens, tokens.copy(), empty, empty.copy())

        counts = self._index[rows + 1] - self._index[rows]
        ends = np.cumsum(counts)
        spans = self._spans[np.repeat(self._index[rows] - (ends - counts), counts) + np.arange(int(ends[-1]))]
        row_of_span = np.repeat(np.arange(num_rows), counts)
        first = row_of_span * seq_len + spans["start"]
        last = first + spans["length"] - 1
        joins = self._joins_next(spans, row_of_span, tokens.reshape(-1)[last])

        begins = first.copy()
        begins[1:] -= joins[:-1]
        marks = np.zeros((num_rows, seq_len), dtype=np.int32)
        marks.reshape(-1)[begins] = 1
        segments = np.cumsum(marks, axis=1, dtype=np.int32) - np.int32(1)
        positions = columns - np.maximum.accumulate(marks * columns, axis=1)

        targets = np.empty_like(tokens)
        targets[:, :-1] = tokens[:, 1:]
        targets.reshape(-1)[last[~joins]] = NO_TARGET
        used = (spans["start"] + spans["length"])[ends - 1]
        after = self._next[rows]
        targets[:, -1] = np.where(after >= 0, after, NO_TARGET)
        for row in np.flatnonzero(used < seq_len):
            targets[row, used[row] :] = NO_TARGET
            segments[row, used[row] :] = -1
            positions[row, used[row] :] = 0
        return PackedRows(tokens, targets, segments, positions)

    @property
    def text_hashes(self) -> npt.NDArray[np.uint64]:
        """xxh3-64 of every document's text, in the order of the input."""
        hashes: npt.NDArray[np.uint64] = self._documents.records["text_hash"]
        return hashes

    def documents_in(self, row: int) -> list[tuple[str, int, int]]:
        """The pieces of a row, left to right: (document id, first column, length)."""
        spans = self._spans[int(self._index[row]) : int(self._index[row + 1])]
        return [(self._documents.id(int(s["document"])), int(s["start"]), int(s["length"])) for s in spans]

    def pieces_in(self, row: int) -> list[PackedPiece]:
        """The pieces of a row, left to right, with the sources and offsets of their documents."""
        found = []
        for span in self._spans[int(self._index[row]) : int(self._index[row + 1])]:
            document = int(span["document"])
            source = int(self._documents.records["source"][document])
            name = self._layout.sources[source] if source >= 0 else None
            place = (int(span["start"]), int(span["length"]), int(span["offset"]))
            found.append(PackedPiece(self._documents.id(document), name, *place))
        return found

    def documents(self) -> Iterator[PackedDocument]:
        """Every document of the split, whole, in the order of the input."""
        span_rows = np.repeat(np.arange(self.num_rows), np.diff(self._index))
        order = np.lexsort((self._spans["offset"], self._spans["document"]))
        bounds = np.searchsorted(self._spans["document"][order], np.arange(len(self._documents) + 1))
        for document, record in enumerate(self._documents.records):
            pieces = [np.empty(0, dtype=np.int64)]
            for span in order[bounds[document] : bounds[document + 1]]:
                shard, row = divmod(int(span_rows[span]), self._layout.rows_per_shard)
                start = int(self._spans["start"][span])
                length = int(self._spans["length"][span])
                pieces.append(self._shards[shard][row, start : start + length].astype(np.int64))
            source = int(record["source"])
            yield PackedDocument(
                id=self._documents.id(document),
                source=self._layout.sources[source] if source >= 0 else None,
                num_bytes=int(record["num_bytes"]),
                tokens=np.concatenate(pieces),
            )

    def _gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        tokens = np.empty((len(rows), self._layout.seq_len), dtype=np.int64)
        shard_of, row_in = np.divmod(rows, self._layout.rows_per_shard)
        for shard in np.unique(shard_of):
            here = shard_of == shard
            tokens[here] = self._shards[shard][row_in[here]]
        return tokens

    def _joins_next(self, spans: Spans, row_of_span: Any, last_tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which spans end in an EOD that is the first input of the next span's segment."""
        joins = np.zeros(len(spans), dtype=bool)
        if self._layout.eod_id is None:
            return joins
        whole = spans["offset"] + spans["length"] == self._documents.records["num_tokens"][spans["document"]]
        ends = whole & (last_tokens == self._layout.eod_id)
        joins[:-1] = ends[:-1] & (row_of_span[:-1] == row_of_span[1:]) & (spans["offset"][1:] == 0)
        return joins


class PackedDataset:
    """A packed folder: its splits, its tokenizer, and what identifies it."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        try:
            layout = msgspec.convert(manifest.details.get("layout"), PackedLayout)
        except msgspec.ValidationError as error:
            raise DamagedInput(f"the manifest describes no packed rows: {error}", where=str(folder)) from error
        self.folder = folder
        self.manifest = manifest
        self.fingerprint = manifest_digest(manifest)
        self.layout = layout
        self.seq_len = layout.seq_len
        self.vocab_size = layout.vocab_size
        self.eod_id = layout.eod_id
        self.train = PackedSplit(folder, "train", layout)
        self.holdout = PackedSplit(folder, "holdout", layout)

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> PackedDataset:
        """Open a packed folder; `verify` reads every file and compares its digest.

        Raises InputError for a folder that is no packed dataset, DamagedInput for one that was cut or altered.
        """
        return cls(folder, open_artefact(folder, stage="pack", verify=verify))

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer that made the tokens. Raises InputError where the rows were packed without one."""
        if self.layout.tokenizer is None:
            message = "these rows were packed without a tokenizer file"
            raise InputError(message, where=str(self.folder), hint="pack again with --tokenizer FILE")
        return self.folder / self.layout.tokenizer


def row_file(split: str, shard: int) -> str:
    """The name of a file of rows."""
    return f"{split}-{shard:05d}.rows"
