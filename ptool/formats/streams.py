"""Document streams: one JSON object on a line, in Zstandard frames, gzip, or plain.

`StreamReader` turns any number of inputs into batches of whole lines; `StreamWriter` writes them as ptool's own stream
(frames.py) or as plain JSONL. The kind of an input is told by its first bytes, never by its name.

Damage is never taken for an end: decoding.py follows every frame to its last byte, and a ptool stream to its trailer.
Memory is a few batches, or the longest line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import BinaryIO

import msgspec
import xxhash
import zstandard

from ptool.errors import InputError
from ptool.formats import frames
from ptool.formats.decoding import Decoder, whole_lines
from ptool.formats.manifests import Documents, Manifest
from ptool.reporting import GOING_ON, SILENT, Reporter

STDIN = "-"


class Lines(msgspec.Struct, frozen=True):
    """Consecutive whole lines of one input.

    `data` ends in a newline; `origin` is the input's label in ids ("-" for stdin), `path` its name in messages,
    `first_number` the number of the first line, from 1; `source` the position of the input in the call, from 0.
    """

    data: bytes
    origin: str
    path: str
    first_number: int
    source: int = 0


class StreamReader:
    """The lines of one or several inputs, in order.

    `sources` are paths, or `"-"` for stdin; none means stdin. Iterate once. Afterwards `digest` is that of all lines
    and `upstream` holds the manifests that the trailers carried. Raises DamagedInput for every cut, flipped bit or
    upstream that died, and InputError for an input that is missing or empty (unless `allow_empty`).
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        *,
        stdin: BinaryIO | None = None,
        reporter: Reporter = SILENT,
        allow_empty: bool = False,
        batch_bytes: int = frames.FRAME_BYTES,
        input_labels: Sequence[str] | None = None,
    ) -> None:
        self._sources = [str(source) for source in sources] or [STDIN]
        self._labels = labels(self._sources) if input_labels is None else list(input_labels)
        self._stdin = stdin
        self._reporter = reporter
        self._allow_empty = allow_empty
        self._batch_bytes = batch_bytes
        self._hash = xxhash.xxh3_128()
        self.num_bytes = 0
        self.upstream: list[Manifest] = []
        self.total_bytes = _total_size(self._sources)
        self.bytes_read = 0
        self.is_going_on = False
        """Set by a stage that has come to what is new: what it passed over before says nothing about its speed."""

    @property
    def digest(self) -> str:
        """xxh3-128 of all lines read so far."""
        return f"xxh3-128:{self._hash.hexdigest()}"

    def documents(self, num_documents: int) -> Documents:
        """What was read, as a manifest has it; blank lines are no documents, so the stage counts."""
        return Documents(digest=self.digest, num_documents=num_documents, num_bytes=self.num_bytes)

    def __iter__(self) -> Iterator[Lines]:
        for number, (source, label) in enumerate(zip(self._sources, self._labels, strict=True)):
            yield from self._read_source(number, source, label)

    def _read_source(self, number: int, source: str, label: str) -> Iterator[Lines]:
        where = "stdin" if source == STDIN else source
        with _opened(source, self._stdin) as file:
            chunks = Decoder(file, where, allow_empty=self._allow_empty)
            line_number = 1
            for data in whole_lines(chunks, self._batch_bytes):
                self._hash.update(data)
                self.num_bytes += len(data)
                yield Lines(data=data, origin=label, path=where, first_number=line_number, source=number)
                line_number += data.count(b"\n")
                detail, self.is_going_on = GOING_ON if self.is_going_on else "", False
                self._reporter.progress(
                    self.bytes_read + chunks.bytes_read, self.total_bytes, unit="bytes", detail=detail
                )
            self.bytes_read += chunks.bytes_read
            self.upstream.extend(chunks.manifests)
            if source == STDIN and chunks.bytes_read and not chunks.manifests:
                self._reporter.notice("no manifest came with the documents on stdin: the chain starts here")


class StreamWriter:
    """Writes document lines to `sink`: as a ptool stream, or with `compress=False` as plain lines.

    A frame holds as many whole lines as fit in 4 MiB, or one longer line: a function of the lines alone, so that equal
    lines give equal bytes however they were handed over. The header is written at once. A stream that is not finished
    has no trailer, which every reader notices.
    """

    def __init__(self, sink: BinaryIO, *, stage: str, compress: bool = True, level: int = 3) -> None:
        from ptool import __version__

        self._sink = sink
        self._compress = compress
        self._level = level
        self._compressor: zstandard.ZstdCompressor | None = None
        self._pending = bytearray()
        if compress:
            sink.write(frames.header_frame(stage, __version__))
            sink.flush()  # whoever reads the pipe learns at once that a stream is coming

    def write(self, lines: bytes | memoryview) -> None:
        """Append whole lines, each ending in a newline."""
        if not self._compress:
            self._sink.write(lines)
            return
        data = bytes(lines)
        position = 0
        while position < len(data):
            space = frames.FRAME_BYTES - len(self._pending)
            if len(data) - position <= space:
                self._pending += memoryview(data)[position:]
                return
            end = data.rfind(b"\n", position, position + space) + 1
            if end == 0 and not self._pending:  # a line longer than a frame has a frame of its own
                end = data.find(b"\n", position) + 1 or len(data)
            if end:
                self._pending += memoryview(data)[position:end]
                position = end
            self._flush_frame()

    def rest(self) -> None:
        """Write what is pending, and let go of what takes memory: no more lines come."""
        self._flush_frame()
        self._sink.flush()
        self._compressor = None

    def go_on(self, sink: BinaryIO) -> None:
        """Write to `sink` from now on."""
        self._sink = sink

    def finish(self, manifest: Manifest) -> None:
        """Write what is pending and the trailer."""
        if self._compress:
            self._flush_frame()
            self._sink.write(frames.trailer_frame(manifest))
        self._sink.flush()

    def _flush_frame(self) -> None:
        if self._pending:
            if self._compressor is None:
                self._compressor = zstandard.ZstdCompressor(
                    level=self._level, write_checksum=True, write_content_size=True
                )
            self._sink.write(self._compressor.compress(self._pending))
            self._sink.flush()
            self._pending.clear()


def labels(sources: Sequence[str]) -> list[str]:
    r"""A short name for each input: its file name, or the shortest path tail that tells equal names apart.

    It goes into JSON, so of a name that is no UTF-8 the bytes that are none are written out (`\udce9`).
    """
    tails = [1] * len(sources)
    parts = [(STDIN,) if source == STDIN else PurePath(source).parts for source in sources]
    while True:
        names = ["/".join(part[-tail:]) for part, tail in zip(parts, tails, strict=True)]
        called: dict[str, set[tuple[str, ...]]] = {}
        for name, part in zip(names, parts, strict=True):
            called.setdefault(name, set()).add(part)
        longer = [
            index for index, name in enumerate(names) if tails[index] < len(parts[index]) and len(called[name]) > 1
        ]
        if not longer:
            return [name.encode("utf-8", "backslashreplace").decode() for name in names]
        for index in longer:
            tails[index] += 1


def read_once(sources: Sequence[str]) -> list[str]:
    """Those of the inputs that can be read only once: stdin, pipes (`<(zcat …)`), devices."""
    return [one for one in sources if one == STDIN or (Path(one).exists() and not Path(one).is_file())]


def read_trailer(path: Path) -> Manifest | None:
    """The manifest at the end of a ptool stream file, without reading the rest; None where there is none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        length = frames.trailer_at_end(file.read(8))
        if length is None or not 16 < length <= size:
            return None
        file.seek(size - length)
        frame = file.read(length)
    if not frames.is_skippable(frame[:4]) or not frames.is_ours(frame[8:]):
        return None
    found = frames.read_payload(frame[8:], where=str(path))
    return found if isinstance(found, Manifest) else None


def _opened(source: str, stdin: BinaryIO | None) -> BinaryIO:
    if source == STDIN:
        # A copy of the descriptor, unbuffered: closing it leaves the process's own stdin open.
        return stdin if stdin is not None else open(os.dup(0), "rb", buffering=0)
    try:
        return open(source, "rb", buffering=0)
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", where=source) from error


def _total_size(sources: Sequence[str]) -> int | None:
    total = 0
    for source in sources:
        if source == STDIN or not Path(source).is_file():
            return None
        total += Path(source).stat().st_size
    return total
