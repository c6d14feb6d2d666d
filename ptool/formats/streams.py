"""Document streams: one JSON object on a line, in Zstandard frames, gzip, or plain.

`StreamReader` turns any number of inputs into batches of whole lines; `StreamWriter` writes them as ptool's own stream
(frames.py) or as plain JSONL. The kind of an input is told by its first bytes, never by its name.

What makes a reader worth its name is that it never takes damage for an end. Every Zstandard frame is followed to its
last byte and checksum (`decompressobj`: python-zstandard's `stream_reader` takes a cut frame for the end), every gzip
member to its CRC, and a ptool stream to its trailer, whose digest of the lines must hold. Reading costs one pass of
zstd (about 0.5 to 1 GB/s) and one of xxh3 (10 GB/s); memory is a few batches, or the longest line.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import BinaryIO

import msgspec
import xxhash
import zstandard

from ptool.errors import DamagedInput, InputError
from ptool.formats import frames
from ptool.formats.manifests import Documents, Manifest
from ptool.reporting import SILENT, Reporter

STDIN = "-"
_READ_BYTES = 1 << 20
_FOREIGN = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PAR1": "Parquet", b"PK\x03\x04": "zip", b"\x04\x22\x4d\x18": "lz4"}
_FEED_BYTES = 128 << 10  # compressed bytes given to the decoder at once: bounds what one step can expand to


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
            chunks = _Decoder(file, where, allow_empty=self._allow_empty, reporter=self._reporter)
            line_number = 1
            for data in _whole_lines(chunks, self._batch_bytes):
                self._hash.update(data)
                self.num_bytes += len(data)
                yield Lines(data=data, origin=label, path=where, first_number=line_number, source=number)
                line_number += data.count(b"\n")
                self._reporter.progress(self.bytes_read + chunks.bytes_read, self.total_bytes, unit="bytes")
            self.bytes_read += chunks.bytes_read
            self.upstream.extend(chunks.manifests)


class StreamWriter:
    """Writes document lines to `sink`: as a ptool stream, or with `compress=False` as plain lines.

    A frame holds as many whole lines as fit in 4 MiB, or one longer line: a function of the lines alone, so that equal
    lines give equal bytes however they were handed over. The header is written at once. A stream that is not finished
    has no trailer, which every reader notices.
    """

    def __init__(self, sink: BinaryIO, *, stage: str, compress: bool = True, level: int = 3) -> None:
        from ptool import __version__

        self._sink = sink
        self._compressor = (
            zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True) if compress else None
        )
        self._pending = bytearray()
        if compress:
            sink.write(frames.header_frame(stage, __version__))
            sink.flush()  # whoever reads the pipe learns at once that a stream is coming

    def write(self, lines: bytes | memoryview) -> None:
        """Append whole lines, each ending in a newline."""
        if self._compressor is None:
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

    def finish(self, manifest: Manifest) -> None:
        """Write what is pending and the trailer."""
        if self._compressor is not None:
            self._flush_frame()
            self._sink.write(frames.trailer_frame(manifest))
        self._sink.flush()

    def _flush_frame(self) -> None:
        if self._pending and self._compressor is not None:
            self._sink.write(self._compressor.compress(self._pending))
            self._sink.flush()
            self._pending.clear()


def labels(sources: Sequence[str]) -> list[str]:
    """A short name for each input: its file name, or the shortest path tail that tells equal names apart."""
    tails = [1] * len(sources)
    parts = [(STDIN,) if source == STDIN else PurePath(source).parts for source in sources]
    while True:
        names = ["/".join(part[-tail:]) for part, tail in zip(parts, tails, strict=True)]
        longer = [
            index
            for index, name in enumerate(names)
            if tails[index] < len(parts[index])
            and any(other == name and parts[i] != parts[index] for i, other in enumerate(names))
        ]
        if not longer:
            return names
        for index in longer:
            tails[index] += 1


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


class _Decoder:
    """Decompressed chunks of one input, with every frame, member and trailer checked."""

    def __init__(self, file: BinaryIO, where: str, *, allow_empty: bool, reporter: Reporter) -> None:
        self._file = file
        self._where = where
        self._allow_empty = allow_empty
        self._reporter = reporter
        self._buffer = b""
        self._section: _Section | None = None
        self.bytes_read = 0
        self.manifests: list[Manifest] = []

    def __iter__(self) -> Iterator[bytes]:
        start = self._peek(8)
        if not start:
            if self._allow_empty:
                return
            if self._where == "stdin":
                raise DamagedInput("upstream wrote nothing", where="stdin", hint="--allow-empty accepts it")
            raise InputError("the file is empty", where=self._where, hint="--allow-empty accepts it")
        if start[:4] == frames.ZSTD_MAGIC or frames.is_skippable(start[:4]):
            yield from self._zstd()
        elif start[:2] == frames.GZIP_MAGIC:
            yield from self._gzip()
        else:
            self._check_text(start)
            while chunk := self._take(_READ_BYTES):
                yield chunk

    def _zstd(self) -> Iterator[bytes]:
        while magic := self._peek(4):
            if frames.is_skippable(magic):
                self._skippable()
            elif magic == frames.ZSTD_MAGIC:
                yield from self._data_frame()
            elif len(magic) < 4:
                raise self._cut()
            else:
                raise DamagedInput(
                    f"no Zstandard frame at byte {self._offset}", where=self._where, hint="the file was cut or altered"
                )
        if self._section is not None:
            if self._where == "stdin":
                raise DamagedInput("the stream has no trailer: upstream failed", where="stdin")
            raise DamagedInput("the stream has no trailer", where=self._where, hint="the file was cut; make it again")

    def _data_frame(self) -> Iterator[bytes]:
        decoder = zstandard.ZstdDecompressor().decompressobj()
        finished = False
        while not finished:
            compressed = self._take(_FEED_BYTES)
            if not compressed:
                raise self._cut()
            try:
                chunk = decoder.decompress(compressed)
            except zstandard.ZstdError as error:
                raise DamagedInput(
                    f"damaged Zstandard frame near byte {self._offset}: {error}", where=self._where
                ) from error
            finished = decoder.eof
            if finished:
                self._buffer = decoder.unused_data + self._buffer
            if chunk:
                if self._section is not None:
                    self._section.update(chunk)
                yield chunk

    def _skippable(self) -> None:
        head = self._peek(8 + frames.TAG_BYTES)
        size = int.from_bytes(head[4:8], "little")
        if len(head) < 8:
            raise self._cut()
        if not frames.is_ours(head[8:]):
            self._discard(8 + size)
            return
        if size > frames.MAX_PAYLOAD:
            raise DamagedInput("the header or trailer is damaged", where=self._where)
        frame = self._take_exactly(8 + size)
        found = frames.read_payload(frame[8:], where=self._where)
        if isinstance(found, Manifest):
            if self._section is None:
                raise DamagedInput("a trailer without its header", where=self._where, hint="the file was altered")
            self._section.check(found, self._where)
            self.manifests.append(found)
            self._section = None
        elif self._section is not None:
            raise DamagedInput("a stream without its trailer before another one", where=self._where)
        else:
            self._section = _Section()

    def _gzip(self) -> Iterator[bytes]:
        while self._peek(2):
            if self._peek(2) != frames.GZIP_MAGIC:
                if self._skip_zeros():
                    return
                raise DamagedInput("garbage after the end of the gzip data", where=self._where)
            decoder = zlib.decompressobj(wbits=31)
            while not decoder.eof:
                compressed = self._take(_FEED_BYTES)
                if not compressed:
                    raise self._cut()
                try:
                    chunk = decoder.decompress(compressed)
                except zlib.error as error:
                    raise DamagedInput(f"damaged gzip data: {error}", where=self._where) from error
                if chunk:
                    yield chunk
            self._buffer = decoder.unused_data + self._buffer

    def _skip_zeros(self) -> bool:
        """Tape padding after the last member is no damage (gzip itself ignores it)."""
        while chunk := self._take(_READ_BYTES):
            if chunk.strip(b"\0"):
                return False
        return True

    def _check_text(self, start: bytes) -> None:
        for magic, name in _FOREIGN.items():
            if start.startswith(magic):
                raise InputError(
                    f"this is {name}, not JSON lines", where=self._where, hint="convert it to JSON lines first"
                )
        if b"\0" in start or start in (frames.ZSTD_MAGIC[: len(start)], frames.SKIPPABLE_MAGIC[: len(start)]):
            raise DamagedInput("neither Zstandard, gzip nor JSON lines", where=self._where)

    def _cut(self) -> DamagedInput:
        if self._where == "stdin":
            return DamagedInput(f"the stream ends in the middle of a frame, at byte {self._offset}", where="stdin")
        return DamagedInput(
            f"the file ends in the middle of a frame, at byte {self._offset}",
            where=self._where,
            hint="it was cut; make it again",
        )

    @property
    def _offset(self) -> int:
        return self.bytes_read - len(self._buffer)

    def _peek(self, size: int) -> bytes:
        while len(self._buffer) < size and (chunk := self._read()):
            self._buffer += chunk
        return self._buffer[:size]

    def _take(self, size: int) -> bytes:
        if not self._buffer:
            self._buffer = self._read()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _take_exactly(self, size: int) -> bytes:
        pieces: list[bytes] = []
        while size:
            piece = self._take(size)
            if not piece:
                raise self._cut()
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _discard(self, size: int) -> None:
        while size:
            piece = self._take(min(size, _READ_BYTES))
            if not piece:
                raise self._cut()
            size -= len(piece)

    def _read(self) -> bytes:
        try:
            chunk = self._file.read(_READ_BYTES)
        except OSError as error:
            raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", where=self._where) from error
        self.bytes_read += len(chunk)
        return chunk


class _Section:
    """What passed between a header and its trailer."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self._num_bytes = 0
        self._num_lines = 0
        self._ends_in_newline = True

    def update(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self._num_bytes += len(chunk)
        self._num_lines += chunk.count(b"\n")
        self._ends_in_newline = chunk.endswith(b"\n")

    def check(self, manifest: Manifest, where: str) -> None:
        found = Documents(
            digest=f"xxh3-128:{self._hash.hexdigest()}", num_documents=self._num_lines, num_bytes=self._num_bytes
        )
        if manifest.documents_out != found or not self._ends_in_newline:
            raise DamagedInput("the documents are not those the trailer tells of", where=where)


def _whole_lines(chunks: _Decoder, batch_bytes: int) -> Iterator[bytes]:
    """Regroup chunks into batches that end in a newline; linear also for a line of many chunks."""
    pieces: list[bytes] = []
    size = 0
    has_newline = False
    for chunk in chunks:
        has_newline = has_newline or b"\n" in chunk
        pieces.append(chunk)
        size += len(chunk)
        if size >= batch_bytes and has_newline:
            data = b"".join(pieces)
            end = data.rfind(b"\n") + 1
            yield data if end == len(data) else data[:end]
            pieces, size, has_newline = [data[end:]], len(data) - end, False
    data = b"".join(pieces)
    if data:
        yield data if data.endswith(b"\n") else data + b"\n"


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
