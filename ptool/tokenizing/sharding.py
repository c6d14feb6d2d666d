"""Encoded batches into one shard after another, going on where a stopped run ended.

A shard that is complete has a note beside it (`shard-00000.done`) that says how much of the input is before its end.
The next run reads that part of the input again, which is quick, finds by the hashes in the shard's own table that it is
the same, and encodes only what follows. The bytes are those of a run that was never stopped; the notes are removed when
the folder becomes an artefact. Where the input turns out to be another one, the run ends before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

import msgspec
import numpy as np

from ptool.errors import DamagedInput
from ptool.formats.artefacts import FolderWriter
from ptool.formats.atomic import write_bytes
from ptool.formats.documents import NO_SOURCE, DocumentTable, DocumentTableWriter, Records
from ptool.formats.shards import Shard, ShardWriter, shard_name
from ptool.tokenizing.encoding import EncodedBatch

_SUFFIXES = ("bin", "idx", "docs", "ids")


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    """What is before a shard's end: whole batches of the input, and documents and tokens of this shard."""

    batches: int
    documents: int
    tokens: int
    work: str
    tripped: int
    lost: list[str]


class ShardSequence:
    """Writes encoded batches to one shard after another, and counts.

    `known_batches` batches from the start of the input need not be encoded: their tokens are on the disk.
    """

    def __init__(
        self,
        writer: FolderWriter,
        dtype: str,
        shard_tokens: int,
        *,
        work: str,
        resume: bool = True,
        with_group_keys: bool = False,
    ) -> None:
        """`work` identifies what determines the tokens: shards of other work are not gone on from."""
        self._suffixes = (*_SUFFIXES, "keys") if with_group_keys else _SUFFIXES
        self._writer = writer
        self._dtype = dtype
        self._shard_tokens = shard_tokens
        self._work = work
        self._resume = resume
        self._current = ExitStack()
        self._shard: ShardWriter | None = None
        self._keys: BinaryIO | None = None
        self._known: list[DocumentTable] = []
        self._known_documents = 0
        self._replayed = 0
        self._batch = 0
        self.known_batches = 0
        self.shards: list[dict[str, int | str]] = []
        self.sources: dict[str, int] = {}
        self.documents_by_source: dict[str, int] = {}
        self.tokens_by_source: dict[str, int] = {}
        self.empty_documents = 0
        self.num_bytes = 0
        self.tripped = 0
        self.lost: list[str] = []

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The shards; the last one is complete when the block ends without an error."""
        if self._resume:
            self._find_known()
        for path in self._writer.folder.glob("shard-*.done"):
            if path.stem not in {shard["name"] for shard in self.shards}:
                path.unlink()
        with self._current:
            if not self.shards:
                self._next_shard()  # there from the start, so that a folder that cannot be written fails at once
            yield
            if self._replayed < self._known_documents:
                self._writer.refuse("holds unfinished work on a longer input")
            self._batch += 1
            self._close_shard()

    def discard(self) -> None:
        """Forget complete shards too, so that no later run goes on from them."""
        self._writer.release()
        self.remove_notes()

    def remove_notes(self) -> None:
        """The notes have served: the folder is whole, or nothing of it is to be used."""
        for path in self._writer.folder.glob("shard-*.done"):
            path.unlink(missing_ok=True)

    def add(self, batch: EncodedBatch) -> None:
        """Append a batch. Raises UsageError where an unfinished folder was made from another input."""
        self._batch = batch.number
        records = batch.records
        first = self._replay(batch)
        self._count(records, batch.sources)
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(records["num_tokens"])])
        while first < len(records):
            shard = self._shard or self._next_shard()
            space = self._shard_tokens - shard.num_tokens
            last = int(np.searchsorted(ends, ends[first] + space, side="right")) - 1
            if last <= first and self._table.num_documents:
                self._close_shard()
                continue
            last = max(last, first + 1)
            shard.add(batch.tokens[ends[first] : ends[last]], records["num_tokens"][first:last])
            self._table.add(records[first:last], batch.ids[first:last])
            if self._keys is not None:
                self._keys.write(batch.group_keys[first:last].astype("<u8").tobytes())
            first = last
        if batch.number >= self.known_batches:
            self.tripped += batch.tripped
            self.lost += batch.lost

    def _find_known(self) -> None:
        """The complete shards of a run that was stopped, from the first on."""
        while True:
            name = shard_name(len(self.shards))
            try:
                note = msgspec.json.decode((self._writer.folder / f"{name}.done").read_bytes(), type=_Note)
                shard, table = Shard(self._writer.folder / name), DocumentTable(self._writer.folder, name)
            except (OSError, msgspec.DecodeError, DamagedInput):
                return
            if note.work != self._work or (len(table), len(shard.tokens)) != (note.documents, note.tokens):
                return
            for suffix in self._suffixes:
                self._writer.adopt(f"{name}.{suffix}")
            self._writer.retain([f"{name}.{suffix}" for suffix in self._suffixes])
            self._known.append(table)
            self._known_documents += len(table)
            self.known_batches = note.batches
            self.tripped, self.lost = note.tripped, note.lost
            self.shards.append({"name": name, "documents": note.documents, "tokens": note.tokens})

    def _replay(self, batch: EncodedBatch) -> int:
        """How many documents of a batch are on the disk, after comparing them with what is there."""
        records = batch.records
        count = min(len(records), self._known_documents - self._replayed)
        if batch.number < self.known_batches and count < len(records):
            self._writer.refuse("holds unfinished work on another input")
        done = 0
        while done < count:
            before = 0
            for table in self._known:
                if self._replayed < before + len(table):
                    break
                before += len(table)
            start = self._replayed - before
            take = min(count - done, len(table) - start)
            there = table.records[start : start + take]
            here = records[done : done + take]
            same = np.array_equal(there["text_hash"], here["text_hash"]) and np.array_equal(
                there["num_bytes"], here["num_bytes"]
            )
            if not same or table.ids(start, start + take) != batch.ids[done : done + take]:
                self._writer.refuse("holds unfinished work on another input")
            here["num_tokens"] = there["num_tokens"]
            done += take
            self._replayed += take
        return count

    def _count(self, records: Records, sources: list[str | None]) -> None:
        self.num_bytes += int(records["num_bytes"].sum())
        self.empty_documents += int((records["num_bytes"] == 0).sum())
        for name in sources:
            if name is not None:
                self.sources.setdefault(name, len(self.sources))
        records["source"] = [-1 if name is None else self.sources[name] for name in sources]
        for name, tokens in zip(sources, records["num_tokens"].tolist(), strict=True):
            key = NO_SOURCE if name is None else name
            self.documents_by_source[key] = self.documents_by_source.get(key, 0) + 1
            self.tokens_by_source[key] = self.tokens_by_source.get(key, 0) + tokens

    def _next_shard(self) -> ShardWriter:
        self._name = shard_name(len(self.shards))
        create = self._writer.create
        self._shard = self._current.enter_context(ShardWriter(create, self._name, self._dtype).opened())
        self._table = self._current.enter_context(DocumentTableWriter(create, self._name))
        if "keys" in self._suffixes:
            self._keys = self._current.enter_context(create(f"{self._name}.keys"))
        return self._shard

    def _close_shard(self) -> None:
        if self._shard is None:
            return
        self._current.close()
        documents, tokens, self._shard = self._table.num_documents, self._shard.num_tokens, None
        self.shards.append({"name": self._name, "documents": documents, "tokens": tokens})
        note = _Note(
            batches=self._batch,
            documents=documents,
            tokens=tokens,
            work=self._work,
            tripped=self.tripped,
            lost=self.lost,
        )
        write_bytes(self._writer.folder / f"{self._name}.done", msgspec.json.encode(note))
        self._writer.retain([f"{self._name}.{suffix}" for suffix in self._suffixes])
