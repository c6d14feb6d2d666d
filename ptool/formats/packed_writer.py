"""Writes packed datasets: the other half of formats/packed.py, which has the layout.

`PackedWriter` takes rows that are planned already and streams them to disk, so memory stays at one batch of rows.
`write_packed` makes a small dataset from arrays in one call, cutting the documents one after another into rows; for a
corpus use `ptool pack`, which plans with arrays and reads shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from ptool.errors import UsageError
from ptool.formats.artefacts import FolderWriter
from ptool.formats.documents import NO_SOURCE, Create, DocumentTableWriter, Records, new_records
from ptool.formats.manifests import Manifest, new_manifest
from ptool.formats.packed import SPAN, PackedLayout, Spans, SplitCounts, row_file
from ptool.formats.shards import token_dtype

SHARD_BYTES = 4 << 30
"""Rows of one file: few files for a large corpus, each still copied in seconds."""


class SplitWriter:
    """Appends documents and rows to one split. Documents must be added before the rows that hold them are read back."""

    def __init__(self, create: Create, name: str, *, seq_len: int, dtype: str, rows_per_shard: int) -> None:
        self._create = create
        self._name = name
        self._rows_per_shard = rows_per_shard
        self._seq_len = seq_len
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._stack = ExitStack()
        self._shard = ExitStack()
        self._file: BinaryIO | None = None
        self.counts = SplitCounts(tokens_by_source={})

    @contextmanager
    def opened(self) -> Iterator[SplitWriter]:
        """The files of the split, each whole or not there when the block ends."""
        with self._stack as stack:
            self._table = stack.enter_context(DocumentTableWriter(self._create, self._name))
            self._next = stack.enter_context(self._create(f"{self._name}.next"))
            self._spans = stack.enter_context(self._create(f"{self._name}.spans"))
            self._index = stack.enter_context(self._create(f"{self._name}.index"))
            self._index.write(bytes(8))
            stack.enter_context(self._shard)
            yield self

    def add_documents(
        self, records: Records, id_lengths: npt.NDArray[np.int64], ids: bytes, sources: Sequence[str]
    ) -> None:
        """Append to the split's table; `ids` is UTF-8, one after another."""
        self._table.add_raw(records, id_lengths, ids)
        counts = self.counts
        counts.documents += len(records)
        counts.text_bytes += int(records["num_bytes"].sum())
        there, numbers = np.unique(records["source"], return_inverse=True)
        sums = np.zeros(len(there), dtype=np.int64)
        np.add.at(sums, numbers, records["num_tokens"])
        for source, here in zip(there.tolist(), sums.tolist(), strict=True):
            name = sources[source] if source >= 0 else NO_SOURCE
            counts.tokens_by_source[name] = counts.tokens_by_source.get(name, 0) + here

    def add_rows(
        self, tokens: npt.NDArray[Any], following: npt.NDArray[np.int32], spans: Spans, counts: npt.NDArray[np.int64]
    ) -> None:
        """Append rows.

        `tokens` [n, seq_len]; `following` [n], -1 for none; `spans` of all these rows in order; `counts` [n] of them.
        """
        done = 0
        while done < len(tokens):
            if self.counts.rows % self._rows_per_shard == 0:
                self._shard.close()
                self._file = self._shard.enter_context(
                    self._create(row_file(self._name, self.counts.rows // self._rows_per_shard))
                )
            assert self._file is not None
            take = min(len(tokens) - done, self._rows_per_shard - self.counts.rows % self._rows_per_shard)
            rows = np.ascontiguousarray(tokens[done : done + take], dtype=self._dtype)
            self._file.write(rows.reshape(-1).view(np.uint8).data)
            self.counts.rows += take
            done += take
        self._next.write(following.astype("<i4").tobytes())
        self._index.write((self.counts.pieces + np.cumsum(counts)).astype("<i8").tobytes())
        self._spans.write(spans.astype(SPAN, copy=False).tobytes())
        lengths = spans["length"].astype(np.int64)
        self.counts.pieces += len(spans)
        self.counts.tokens += int(lengths.sum())
        self.counts.padding += len(tokens) * self._seq_len - int(lengths.sum())
        self.counts.sum_squared_pieces += int(np.dot(lengths, lengths))


def rows_per_shard(seq_len: int, dtype: str, shard_bytes: int = SHARD_BYTES) -> int:
    """How many rows one file takes."""
    return max(1, shard_bytes // (seq_len * np.dtype(dtype).itemsize))


def write_packed(
    folder: Path,
    documents: Iterable[tuple[str, str | None, int, Sequence[int] | npt.NDArray[Any]]],
    *,
    seq_len: int,
    vocab_size: int,
    eod_id: int | None = None,
    holdout: Callable[[str], bool] = lambda document_id: False,
    tokenizer: Path | None = None,
    tokenizer_fingerprint: str | None = None,
    force: bool = False,
) -> Manifest:
    """Write documents `(id, source, text bytes, tokens)` as a packed folder, one after another, cut every `seq_len`.

    Tokens are stored as they are: where there is an EOD, the caller has put it. Documents whose id `holdout` accepts go
    to the held-out split. Everything is held in memory. Raises UsageError for tokens outside 0..vocab_size-1.
    """
    listed = [(name, source, size, np.asarray(tokens, dtype=np.int64)) for name, source, size, tokens in documents]
    for name, _, _, tokens in listed:
        if len(tokens) and (int(tokens.min()) < 0 or int(tokens.max()) >= vocab_size):
            raise UsageError(f"document {name!r} has tokens outside 0..{vocab_size - 1}")
    sources = sorted({source for _, source, _, _ in listed if source is not None})
    dtype = token_dtype(vocab_size)
    per_shard = rows_per_shard(seq_len, dtype)
    pad_id = eod_id if eod_id is not None else 0
    config = {"strategy": "concat", "seq_len": seq_len}
    splits: dict[str, SplitCounts] = {}
    with FolderWriter(folder, stage="pack", config=config, force=force) as files:
        for split in ("train", "holdout"):
            chosen = [document for document in listed if holdout(document[0]) == (split == "holdout")]
            writer = SplitWriter(files.create, split, seq_len=seq_len, dtype=dtype, rows_per_shard=per_shard)
            with writer.opened():
                _write_split(writer, chosen, sources, seq_len=seq_len, pad_id=pad_id)
            splits[split] = writer.counts
        if tokenizer is not None:
            files.copy(tokenizer, tokenizer.name)
        layout = PackedLayout(
            seq_len=seq_len,
            vocab_size=vocab_size,
            dtype=dtype,
            eod_id=eod_id,
            pad_id=pad_id,
            rows_per_shard=per_shard,
            sources=sources,
            tokenizer=tokenizer.name if tokenizer else None,
            tokenizer_fingerprint=tokenizer_fingerprint,
            splits=splits,
        )
        return files.commit(
            new_manifest(
                "pack",
                config,
                num_documents=len(listed),
                num_tokens=sum(len(tokens) for _, _, _, tokens in listed),
                num_bytes=sum(size for _, _, size, _ in listed),
                details={"layout": msgspec.to_builtins(layout)},
            )
        )


def _write_split(
    writer: SplitWriter,
    documents: Sequence[tuple[str, str | None, int, npt.NDArray[np.int64]]],
    sources: list[str],
    *,
    seq_len: int,
    pad_id: int,
) -> None:
    """Concatenate the documents and cut: the plain loop that `ptool pack --strategy concat` must equal."""
    records = new_records(len(documents))
    records["source"] = [sources.index(source) if source is not None else -1 for _, source, _, _ in documents]
    records["num_bytes"] = [size for _, _, size, _ in documents]
    records["num_tokens"] = [len(tokens) for _, _, _, tokens in documents]
    records["text_hash"] = [xxhash.xxh3_64_intdigest(tokens.astype("<i4").tobytes()) for _, _, _, tokens in documents]
    ids = [name.encode() for name, _, _, _ in documents]
    writer.add_documents(records, np.array([len(name) for name in ids], dtype=np.int64), b"".join(ids), sources)

    stream = np.concatenate([np.empty(0, dtype=np.int64), *(tokens for _, _, _, tokens in documents)])
    num_rows = -(-len(stream) // seq_len)
    rows = np.full(num_rows * seq_len, pad_id, dtype=np.int64)
    rows[: len(stream)] = stream
    following = np.full(num_rows, -1, dtype=np.int32)
    spans: list[tuple[int, int, int, int]] = []
    counts = np.zeros(num_rows, dtype=np.int64)
    at = 0
    for document, (_, _, _, tokens) in enumerate(documents):
        offset = 0
        while offset < len(tokens):
            row, start = divmod(at, seq_len)
            length = min(seq_len - start, len(tokens) - offset)
            spans.append((document, offset, start, length))
            counts[row] += 1
            at += length
            offset += length
            if offset < len(tokens):
                following[row] = tokens[offset]
    writer.add_rows(rows.reshape(num_rows, seq_len), following, np.array(spans, dtype=SPAN), counts)
