"""Lines with a new text: the value of one key is replaced, everything else keeps its bytes.

A kernel finds the value of the key at the top of each JSON object (1 ns per byte). The line is known to be JSON, so
only strings and brackets have to be followed. Where a key is written with escapes, a decoder looks whether it is the
one that is wanted; then the object is written anew in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel


def replace_texts(
    lines: bytes,
    line_starts: npt.NDArray[np.int64],
    key: str,
    which: npt.NDArray[np.int64],
    texts: Sequence[bytes],
) -> list[bytes]:
    """The lines `which` (positions) with the string under `key` replaced by `texts` (UTF-8), newlines included."""
    wanted = np.frombuffer(msgspec.json.encode(key), dtype=np.uint8)
    starts, ends, unsure = _find_values(np.frombuffer(lines, dtype=np.uint8), line_starts, which, wanted)
    view = memoryview(lines)
    replaced = []
    found = zip(which.tolist(), starts.tolist(), ends.tolist(), unsure.tolist(), texts, strict=True)
    for index, start, end, is_unsure, text in found:
        first, last = int(line_starts[index]), int(line_starts[index + 1])
        value = msgspec.json.encode(text.decode())
        if is_unsure and (start < 0 or _keys(lines[first:last]).count(key) > 1):
            replaced.append(_written_anew(lines[first:last], key, value))
        else:
            replaced.append(b"".join((view[first:start], value, view[end:last])))
    return replaced


def _keys(line: bytes) -> list[str]:
    """The keys of the object, decoded; one that stands twice is there twice."""
    pairs: list[tuple[str, Any]] = json.loads(line, object_pairs_hook=list)
    return [key for key, _ in pairs]


def _written_anew(line: bytes, key: str, value: bytes) -> bytes:
    fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    fields[key] = msgspec.Raw(value)
    return msgspec.json.encode(fields) + b"\n"


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
                end = position + 1
                escaped = False
                while lines[end] != 0x22:
                    if lines[end] == 0x5C:
                        escaped = True
                        end += 1
                    end += 1
                end += 1
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
