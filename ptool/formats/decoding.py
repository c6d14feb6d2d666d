"""The bytes inside an input: Zstandard, gzip or plain, told by the first of them, and checked to the last.

What makes a reader worth its name is that it never takes damage for an end. Every Zstandard frame is followed to its
last byte and checksum (`decompressobj`: python-zstandard's `stream_reader` takes a cut frame for the end), every gzip
member to its CRC, and a ptool stream to its trailer, whose digest of the lines must hold. The cost is one pass of zstd
(about 0.5 to 1 GB/s) and one of xxh3 (10 GB/s); memory is what one piece of compressed input expands to.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import xxhash
import zstandard

from ptool.errors import DamagedInput, InputError
from ptool.formats import frames
from ptool.formats.manifests import Documents, Manifest

_READ_BYTES = 1 << 20
_FOREIGN = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PAR1": "Parquet", b"PK\x03\x04": "zip", b"\x04\x22\x4d\x18": "lz4"}
_FEED_BYTES = 128 << 10  # compressed bytes given to the decoder at once: bounds what one step can expand to


class Decoder:
    """Decompressed chunks of one input, with every frame, member and trailer checked."""

    def __init__(self, file: BinaryIO, where: str, *, allow_empty: bool) -> None:
        self._file = file
        self._where = where
        self._allow_empty = allow_empty
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
                raise self._undecodable(str(error)) from error
            finished = decoder.eof
            if finished:
                self._buffer = decoder.unused_data + self._buffer
            if chunk:
                if self._section is not None:
                    self._section.update(chunk)
                yield chunk

    def _undecodable(self, reason: str) -> DamagedInput:
        for words, message, option in (
            ("too much memory", "the frame needs a window of more than 128 MiB, as zstd --long makes it", "--long=31"),
            ("Dictionary mismatch", "the frame was compressed with a dictionary, which is not in it", "-D DICTIONARY"),
        ):
            if words in reason:
                return DamagedInput(message, where=self._where, hint=f"zstd -dc {option} FILE | ptool …")
        return DamagedInput(f"damaged Zstandard frame near byte {self._offset}: {reason}", where=self._where)

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


def whole_lines(chunks: Iterable[bytes], batch_bytes: int) -> Iterator[bytes]:
    """Regroup chunks into batches that end with the line that fills them; linear also for a line of many chunks.

    Where a batch ends depends on the bytes alone, not on the chunks: those of a pipe are as its writer was quick or
    slow, and a run that goes on where a stopped one ended (tokenizing/sharding.py) counts batches.
    """
    pieces: list[bytes] = []
    size = 0
    for chunk in chunks:
        start = 0
        while end := chunk.find(b"\n", start + max(0, batch_bytes - 1 - size)) + 1:
            data = b"".join([*pieces, chunk[start:end]])
            pieces, size, start = [], 0, end  # before the batch is worked on
            yield data
        rest = chunk[start:]
        if rest:
            pieces.append(rest)
            size += len(rest)
    data = b"".join(pieces)
    pieces.clear()
    if data:
        yield data if data.endswith(b"\n") else data + b"\n"
