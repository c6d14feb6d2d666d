"""Where words begin and end, and nothing else: what shingles are made of.

The words are those of words.py, which also measures them. Here a text is read in pieces of 32 bytes. Of a piece of
ASCII the bytes that are no white space become the bits of one number; words begin and end where neighbouring bits
differ, and those places are written without a branch, which nobody could predict: 3 ns a word of English. Other pieces
are read a character at a time.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from ptool.text.characters import CJK, JOINING, SPACE, character_flags
from ptool.text.compiled import kernel
from ptool.text.utf8 import character_at
from ptool.text.xxh64 import Bytes, Offsets

_u64 = np.uint64
_ONE = _u64(1)
_PIECE = 32
_OUTSIDE, _INSIDE, _ALONE = 0, 1, 2  # of any word, of a run, of an ideograph or kana to which only marks can be added


def word_spans(text: Bytes, offsets: Offsets, rule: Literal["cjk", "whitespace"] = "cjk") -> tuple[Offsets, Offsets]:
    """Byte spans of the words of n texts, int64[w, 2], and where each text's words begin, int64[n + 1].

    Text i is the valid UTF-8 at `text[offsets[i]:offsets[i + 1]]`.
    """
    # A word of one byte has a space after it, any other has two bytes or more; one place is written too much.
    edges = np.empty(len(text) + len(offsets) + 1, dtype=np.int64)
    doc_offsets = np.zeros(len(offsets), dtype=np.int64)
    count = _find_edges(text, offsets, character_flags(), rule == "cjk", edges, doc_offsets)
    return edges[:count].reshape(-1, 2), doc_offsets


@kernel
def _find_edges(
    text: Bytes,
    offsets: Offsets,
    table: npt.NDArray[np.uint8],
    cjk_apart: bool,
    edges: Offsets,
    doc_offsets: Offsets,
) -> int:
    """Start and end of each word, in turn; returns how many of both."""
    count = _u64(0)
    for document in range(len(doc_offsets) - 1):
        position, stop = _u64(offsets[document]), _u64(offsets[document + 1])
        state = _OUTSIDE
        while position < stop:
            if position + _u64(_PIECE) <= stop and _is_ascii(text, position):
                if state == _ALONE:
                    edges[count], state = position, _OUTSIDE
                    count += _ONE
                bits = _words_of(text, position)
                changes = bits ^ (bits << _ONE | _u64(state))
                for at in range(_PIECE):
                    edges[count] = position + _u64(at)
                    count += changes >> _u64(at) & _ONE
                state = _INSIDE if bits >> _u64(_PIECE - 1) else _OUTSIDE
                position += _u64(_PIECE)
                continue
            end = min(position + _u64(_PIECE), stop)
            while position < end:
                code, size = character_at(text, _signed(position))
                kind = table[code] if cjk_apart else table[code] & SPACE
                goes_on = kind & JOINING if state == _ALONE else not kind & (SPACE | CJK)
                if state != _OUTSIDE and not goes_on:
                    edges[count], state = position, _OUTSIDE
                    count += _ONE
                if state == _OUTSIDE and not kind & SPACE:
                    edges[count], state = position, _ALONE if kind & CJK else _INSIDE
                    count += _ONE
                position += _u64(size)
        if state != _OUTSIDE:
            edges[count] = stop
            count += _ONE
        doc_offsets[document + 1] = _signed(count >> _ONE)
    return _signed(count)


@kernel
def _is_ascii(text: Bytes, position: np.uint64) -> np.bool_:
    together = np.uint8(0)
    for at in range(_PIECE):
        together |= text[position + _u64(at)]
    return together < 0x80


@kernel
def _words_of(text: Bytes, position: np.uint64) -> np.uint64:
    """A bit for each byte of a piece of ASCII: 0 where `str.isspace` holds (9 to 13, 28 to 31, 32)."""
    bits = _u64(0)
    for at in range(_PIECE):
        byte = text[position + _u64(at)]
        is_space = (byte == 32) | (np.uint8(byte - np.uint8(9)) <= 4) | (np.uint8(byte - np.uint8(28)) <= 3)
        bits |= _u64(not is_space) << _u64(at)
    return bits


@kernel
def _signed(value: np.uint64) -> int:
    return np.int64(value)  # type: ignore[return-value]  # numba's int() leaves an unsigned number unsigned
