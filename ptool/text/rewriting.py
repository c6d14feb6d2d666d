"""Lines with a new text: the value of one key is replaced, everything else keeps its bytes.

A kernel finds the value of the key at the top of each JSON object, another writes texts as JSON strings (0.3 ns per
byte). The line is known to be JSON, so only strings and brackets have to be followed. Where a key is written with
escapes, a decoder looks whether it is the one that is wanted; then the object is written anew in the same order.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.text.batch import columns_of
from ptool.text.compiled import kernel
from ptool.text.vectors import bytes_between, count_ones, eight_at, first_one, put_eight

Offsets = npt.NDArray[np.int64]

_ROOM = 72  # bytes behind the last string: it is written 64 at a time
_SHORT_ESCAPES = b"        btn fr                  "
"""What stands after the backslash for the control characters that have a letter of their own."""


def replace_texts(
    lines: bytes,
    line_starts: npt.NDArray[np.int64],
    key: str,
    which: npt.NDArray[np.int64],
    texts: Sequence[bytes],
) -> list[bytes]:
    """The lines `which` (positions) with the string under `key` replaced by `texts` (UTF-8), newlines included."""
    wanted = np.frombuffer(msgspec.json.encode(key), dtype=np.uint8)
    values, value_starts = json_strings(*columns_of(texts))
    starts, ends, unsure = _find_values(np.frombuffer(lines, dtype=np.uint8), line_starts, which, wanted)
    view = memoryview(lines)
    replaced = []
    spans = itertools.pairwise(value_starts.tolist())
    found = zip(which.tolist(), starts.tolist(), ends.tolist(), unsure.tolist(), spans, strict=True)
    for index, start, end, is_unsure, span in found:
        first, last = int(line_starts[index]), int(line_starts[index + 1])
        value = values[span[0] : span[1]]
        if is_unsure and (start < 0 or _keys(lines[first:last]).count(key) > 1):
            replaced.append(_written_anew(lines[first:last], key, bytes(value)))
        else:
            replaced.append(b"".join((view[first:start], value, view[end:last])))
    return replaced


def json_strings(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> tuple[memoryview, Offsets]:
    """Texts (UTF-8) as JSON strings, end to end, and where each begins: the bytes that msgspec writes, 0.2 ns each."""
    starts = np.zeros_like(offsets)
    size = _json_size(text) + 2 * (len(offsets) - 1)
    out = np.empty(size + _ROOM, dtype=np.uint8)
    _write_json(text, offsets, np.frombuffer(_SHORT_ESCAPES, dtype=np.uint8), out, starts)
    return out.data, starts


def _keys(line: bytes) -> list[str]:
    """The keys of the object, decoded; one that stands twice is there twice."""
    pairs: list[tuple[str, Any]] = json.loads(line, object_pairs_hook=list, parse_int=str)  # of any length
    return [key for key, _ in pairs]


def _written_anew(line: bytes, key: str, value: bytes) -> bytes:
    fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    fields[key] = msgspec.Raw(value)
    return msgspec.json.encode(fields) + b"\n"


@kernel
def _special(text: npt.NDArray[np.uint8], position: int) -> np.uint64:
    """Which of 64 bytes JSON writes otherwise."""
    found = bytes_between(text, position, 0x00, 0x1F) | bytes_between(text, position, 0x22, 0x22)
    return found | bytes_between(text, position, 0x5C, 0x5C)


@kernel
def _json_size(text: npt.NDArray[np.uint8]) -> int:
    """An upper bound of the bytes between the quotes: a control character takes six at most."""
    whole = len(text) // 64 * 64
    size = len(text)
    for position in range(0, whole, 64):
        size += count_ones(bytes_between(text, position, 0x00, 0x1F)) * 5
        size += count_ones(bytes_between(text, position, 0x22, 0x22) | bytes_between(text, position, 0x5C, 0x5C))
    return size + 5 * (len(text) - whole)


@kernel
def _write_json(
    text: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    short: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
) -> None:
    to = 0
    for document in range(len(offsets) - 1):
        out[to] = 0x22
        to += 1
        position = offsets[document]
        stop = offsets[document + 1]
        while position < stop:
            if position + 64 <= len(text):
                for step in range(0, 64, 8):
                    put_eight(out, to + step, eight_at(text, position + step))
                size = min(first_one(_special(text, position)), stop - position)
            else:
                size = 0
                while position + size < stop and not _is_special(text[position + size]):
                    out[to + size] = text[position + size]
                    size += 1
            position += size
            to += size
            if position < stop and _is_special(text[position]):
                to += _write_escape(text[position], short, out, to)
                position += 1
        out[to] = 0x22
        to += 1
        starts[document + 1] = to


@kernel
def _is_special(byte: int) -> bool:
    return byte < 0x20 or byte == 0x22 or byte == 0x5C


@kernel
def _write_escape(byte: int, short: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8], to: int) -> int:
    out[to] = 0x5C
    if byte >= 0x20 or short[byte] != 0x20:
        out[to + 1] = byte if byte >= 0x20 else short[byte]
        return 2
    digit = byte & 0x0F
    out[to + 1] = 0x75
    out[to + 2] = 0x30
    out[to + 3] = 0x30
    out[to + 4] = 0x30 + (byte >> 4)
    out[to + 5] = digit + 0x30 if digit < 10 else digit + 0x57
    return 6


@kernel
def _string_end(lines: npt.NDArray[np.uint8], position: int) -> tuple[int, bool]:
    """Behind the quote that ends the string whose first byte is at `position`, and whether it has escapes."""
    escaped = False
    while True:
        if position + 64 <= len(lines):
            found = bytes_between(lines, position, 0x22, 0x22) | bytes_between(lines, position, 0x5C, 0x5C)
            position += first_one(found)
            if not found:
                continue
        elif lines[position] != 0x22 and lines[position] != 0x5C:
            position += 1
            continue
        if lines[position] == 0x22:
            return position + 1, escaped
        escaped = True
        position += 2


@kernel
def _find_values(
    lines: npt.NDArray[np.uint8],
    line_starts: npt.NDArray[np.int64],
    which: npt.NDArray[np.int64],
    key: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    unsure = np.zeros(len(which), dtype=np.bool_)
    starts = np.full(len(which), -1, dtype=np.int64)
    ends = np.full(len(which), -1, dtype=np.int64)
    for number in range(len(which)):
        position = line_starts[which[number]]
        stop = line_starts[which[number] + 1]
        depth = 0
        at_key = False
        wanted = False
        while position < stop:
            byte = lines[position]
            if byte == 0x22:
                end, escaped = _string_end(lines, position + 1)
                if depth == 1 and at_key:
                    unsure[number] |= escaped  # it might spell the key
                    size = end - position
                    matched = 0
                    while size == len(key) and matched < size and lines[position + matched] == key[matched]:
                        matched += 1
                    wanted = matched == len(key)
                    at_key = False
                elif depth == 1 and wanted:  # of equal keys the last one counts, for every decoder in use
                    starts[number] = position
                    ends[number] = end
                position = end
                continue
            if byte in (0x7B, 0x5B):
                depth += 1
                at_key = depth == 1
            elif byte in (0x7D, 0x5D):
                depth -= 1
            elif byte == 0x2C and depth == 1:
                at_key = True
            position += 1
    return starts, ends, unsure
