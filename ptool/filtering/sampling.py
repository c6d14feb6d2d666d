"""Random pieces of a file, so that a sample of it is no sample of its beginning.

A ptool stream is cut at its data frames, which hold whole lines, and plain JSON lines at every 4 MiB; the pieces are
taken in an order that a seed decides, some documents from the start of each. Frames are found by walking over the
headers of their blocks (RFC 8878, section 3.1.1): a few hundred nanoseconds for each 128 KiB, and nothing is unpacked.
Pipes, gzip and other people's Zstandard files, whose frames may end within a line, cannot be sampled so.
"""

from __future__ import annotations

import mmap
import random
from pathlib import Path

import msgspec
import zstandard

from ptool.errors import DamagedInput
from ptool.formats import frames
from ptool.formats.streams import STDIN

PIECE_BYTES = 4 << 20
MOST_PIECES = 32
"""Pieces of one file that a sample comes from, if it has as many."""

_LINE = b"\n"[0]


class Piece(msgspec.Struct, frozen=True):
    """Part of a file: a data frame, or the plain lines that begin in these bytes; `number` counts from 1."""

    path: str
    number: int
    start: int
    size: int
    compressed: bool

    def read(self) -> bytes:
        """Its lines. Raises DamagedInput."""
        with Path(self.path).open("rb") as file:
            file.seek(self.start)
            data = file.read(self.size)
            if self.compressed:
                try:
                    return zstandard.ZstdDecompressor().decompressobj().decompress(data)
                except zstandard.ZstdError as error:
                    raise DamagedInput(
                        f"damaged Zstandard frame at byte {self.start}: {error}", where=self.path
                    ) from error
            if self.start:  # a line that began before belongs to the piece before
                file.seek(self.start - 1)
                if file.read(1)[0] != _LINE:
                    data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
                file.seek(self.start + self.size)
            while data and data[-1] != _LINE and (more := file.readline(PIECE_BYTES)):
                data += more
        return data if not data or data[-1] == _LINE else data + b"\n"


def random_pieces(source: str | Path, seed: int) -> list[Piece] | None:
    """The pieces of a file in random order; None where there are no two, or where they cannot be found."""
    path = Path(source)
    if str(source) == STDIN or not path.is_file() or not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] == frames.ZSTD_MAGIC or frames.is_skippable(data[:4]):
            spans = _data_frames(data) if frames.is_ours(data[8 : 8 + frames.TAG_BYTES]) else []
            compressed = True
        elif data[:2] == frames.GZIP_MAGIC:
            return None
        else:
            spans = [(start, min(PIECE_BYTES, len(data) - start)) for start in range(0, len(data), PIECE_BYTES)]
            compressed = False
    if len(spans) < 2:
        return None
    found = [
        Piece(path=str(path), number=number, start=start, size=size, compressed=compressed)
        for number, (start, size) in enumerate(spans, start=1)
    ]
    random.Random(seed).shuffle(found)
    return found


def _data_frames(data: mmap.mmap) -> list[tuple[int, int]]:
    """Start and size of every data frame; nothing for a file that is cut."""
    found = []
    at = 0
    while at < len(data):
        if frames.is_skippable(data[at : at + 4]):
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            continue
        end = _frame_end(data, at)
        if end is None:
            return []
        found.append((at, end - at))
        at = end
    return found


def _frame_end(data: mmap.mmap, start: int) -> int | None:
    if data[start : start + 4] != frames.ZSTD_MAGIC or start + 5 > len(data):
        return None
    descriptor = data[start + 4]
    is_single = descriptor >> 5 & 1
    at = start + 5 + (1 - is_single) + (0, 1, 2, 4)[descriptor & 3] + (is_single, 2, 4, 8)[descriptor >> 6]
    while at + 3 <= len(data):
        block = int.from_bytes(data[at : at + 3], "little")
        at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)  # a run of one byte takes one byte
        if block & 1:
            at += 4 if descriptor & 4 else 0
            return at if at <= len(data) else None
    return None
