"""First task of the file mode: everything that later steps need to know of one input file, in one file of columns.

text_hashes, keys, num_shingles, signatures     as in signatures.Description
set_ends          int64[n]             where each document's set ends in `shingles`
shingles          uint32[total]        the sets of shingle hashes
pair_keys         uint64[p]            all keys of all documents (text hash and bands), ascending
pair_documents    uint32[p]            whose key it is
lengths           int64[n]             bytes of text
sources           uint32[n]            position in `details["sources"]`
id_bytes, id_ends uint8[], int64[n]    ids, UTF-8

Documents are numbered in the order of the file; lines that are no documents have no number. `details["digest"]` is that
of all lines, by which every later step knows that it speaks of the same file. Keys are stored sorted, so that any
number of partitions is a matter of taking ranges. About 0.5 kB of disk for a document, and 4 bytes for each distinct
shingle; memory while it runs is that without the shingles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ptool.dedup.columns import Columns, ColumnWriter, writing_columns
from ptool.dedup.config import DedupConfig
from ptool.dedup.signatures import Description, describe
from ptool.errors import BadDocument
from ptool.formats.streams import StreamReader
from ptool.text.batch import BadLine, Batch, Keys, decode
from ptool.text.hashing import Offsets


class DescribeTask(msgspec.Struct, frozen=True, kw_only=True):
    """Describe the input `path`, called `label` in ids, into the file `output`. `work` names config and version."""

    path: str
    label: str
    output: str
    config: DedupConfig
    keys: Keys
    work: str
    allow_empty: bool
    stop_at_bad_lines: bool


def describe_shard(task: DescribeTask) -> str:
    """Do the task unless its output is there, made by the same work from a file of the same size and age.

    Returns the digest of the input's lines. Whether the age told the truth is found out when the file is read for
    the last time: its digest is compared then.
    """
    output = Path(task.output)
    identity = {"work": task.work, "input": _size_and_age(Path(task.path))}
    if output.exists():
        there = Columns(output).details
        if {name: there[name] for name in identity} == identity:
            return str(there["digest"])
    with writing_columns(output) as writer:
        digest = _describe(task, writer)
        writer.details |= {**identity, "digest": digest}
    return digest


def _describe(task: DescribeTask, writer: ColumnWriter) -> str:
    reader = StreamReader([task.path], allow_empty=task.allow_empty, input_labels=[task.label])
    sources: dict[str, int] = {}
    num_documents, num_values, num_id_bytes = 0, 0, 0
    pieces: list[Description] = []
    _append(writer, Batch.from_texts([]), describe(*_nothing(), task.config), sources, 0, 0)  # names all columns
    for lines in reader:
        batch, bad = decode(lines, task.keys)
        if bad and task.stop_at_bad_lines:
            raise _bad_document(task.path, bad[0])
        description = describe(batch.text, batch.offsets, task.config)
        num_id_bytes = _append(writer, batch, description, sources, num_values, num_id_bytes)
        num_values += len(description.shingles)
        num_documents += len(batch)
        pieces.append(msgspec.structs.replace(description, shingles=np.zeros(0, dtype=np.uint32)))
    _append_pairs(writer, pieces)
    writer.details |= {"num_documents": num_documents, "sources": list(sources)}
    return reader.digest


def _append(
    writer: ColumnWriter,
    batch: Batch,
    description: Description,
    sources: dict[str, int],
    num_values: int,
    num_id_bytes: int,
) -> int:
    writer.append("text_hashes", description.text_hashes)
    writer.append("keys", description.keys)
    writer.append("num_shingles", description.num_shingles)
    writer.append("signatures", description.signatures)
    writer.append("set_ends", description.shingle_offsets[1:] + num_values)
    writer.stream("shingles", description.shingles)
    writer.append("lengths", np.diff(batch.offsets))
    codes = [sources.setdefault(source or "", len(sources)) for source in batch.sources]
    writer.append("sources", np.array(codes, dtype=np.uint32))
    ids = [one.encode("utf-8", "backslashreplace") for one in batch.ids]
    ends = np.cumsum([len(one) for one in ids], dtype=np.int64) + num_id_bytes
    writer.append("id_bytes", np.frombuffer(b"".join(ids), dtype=np.uint8))
    writer.append("id_ends", ends)
    return int(ends[-1]) if len(ends) else num_id_bytes


def _append_pairs(writer: ColumnWriter, pieces: list[Description]) -> None:
    keys: list[Any] = [np.zeros(0, dtype=np.uint64)]
    documents: list[Any] = [np.zeros(0, dtype=np.uint32)]
    first = 0
    for piece in pieces:
        numbers = np.arange(first, first + len(piece), dtype=np.uint32)
        keys.append(piece.text_hashes[:, 0])
        documents.append(numbers)
        comparable = piece.num_shingles > 0
        keys.append(piece.keys[comparable].ravel())
        documents.append(np.repeat(numbers[comparable], piece.keys.shape[1]))
        first += len(piece)
    all_keys, all_documents = np.concatenate(keys), np.concatenate(documents)
    order = np.argsort(all_keys)
    writer.append("pair_keys", all_keys[order])
    writer.append("pair_documents", all_documents[order])


class Shard:
    """The description of one input file, opened. It holds no arrays: with an input for each of a crawl's 90,000 files
    the arrays of all would be more mappings and descriptors than a process may have (columns.Columns).
    """

    def __init__(self, path: Path) -> None:
        self.columns = Columns(path)
        details = self.columns.details
        self.digest: str = details["digest"]
        self.num_documents: int = details["num_documents"]
        self.source_names: list[str] = details["sources"]

    def id_of(self, document: int) -> str:
        """The id of a document, as its line has it."""
        ends = self.columns["id_ends"]
        start = int(ends[document - 1]) if document else 0
        return self.columns["id_bytes"][start : int(ends[document])].tobytes().decode()

    def rows(self, documents: Offsets) -> Description:
        """What describes some of the documents, in the order given."""
        ends = self.columns["set_ends"]
        stops = ends[documents]
        starts = np.where(documents > 0, ends[documents - 1], 0)
        offsets = np.zeros(len(documents) + 1, dtype=np.int64)
        np.cumsum(stops - starts, out=offsets[1:])
        shingles = self.columns["shingles"]
        sets = [shingles[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        return Description(
            self.columns["text_hashes"][documents],
            self.columns["keys"][documents],
            self.columns["num_shingles"][documents],
            self.columns["signatures"][documents],
            np.concatenate([np.zeros(0, dtype=np.uint32), *sets]),
            offsets,
        )


def _nothing() -> tuple[Any, Any]:
    return np.zeros(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)


def _size_and_age(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _bad_document(path: str, line: BadLine) -> BadDocument:
    return BadDocument(
        line.message, where=f"{path}:{line.number}", hint="--on-error reject sets such lines aside and goes on"
    )
