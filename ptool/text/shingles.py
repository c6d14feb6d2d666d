"""Shingles beyond runs of words: runs of characters, and the set of a text's shingles.

A character shingle is n consecutive code points of the text as it stands, white space included; its hash is `xxh64` of
their UTF-8 with seed 0, like that of a word shingle (hashing.py). A text shorter than n is one shingle; an empty text
has none.

A set is kept as 32-bit values, the low halves of the hashes, which are what MinHash of the schemes with 32-bit values
sees as well. Two different shingles of texts of a thousand share a value with probability 2e-4, which moves their
similarity by a thousandth. Distinct values are told by one table reused for all texts: 3 ns a shingle, no sorting.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.xxh64 import PADDING, Bytes, Hashes, Offsets, hash_slices

Values = npt.NDArray[np.uint32]

_u32, _u64 = np.uint32, np.uint64


def hash_char_shingles(text: Bytes, offsets: Offsets, ngram: int) -> tuple[Hashes, Offsets]:
    """xxh64 of every run of `ngram` code points of every text, in text order, repeated shingles included.

    Text i is the valid UTF-8 at `text[offsets[i]:offsets[i + 1]]`. Returns the hashes and where each text's begin,
    int64[n + 1].
    """
    padded = np.concatenate([text, np.zeros(PADDING, dtype=np.uint8)])
    shingle_offsets = np.zeros(len(offsets), dtype=np.int64)
    starts = np.empty(len(text) + 1, dtype=np.int64)
    num_chars = _find_characters(text, offsets, ngram, starts, shingle_offsets)
    starts[num_chars] = len(text)
    slices = np.empty((2, int(shingle_offsets[-1])), dtype=np.int64)
    _find_slices(offsets, starts, ngram, shingle_offsets, slices)
    hashes = np.empty(slices.shape[1], dtype=np.uint64)
    hash_slices(padded, slices[0], slices[1], hashes)
    return hashes, shingle_offsets


def distinct_hashes(hashes: Hashes, shingle_offsets: Offsets) -> tuple[Values, Offsets]:
    """The distinct low halves of each text's shingle hashes, in order of first occurrence; where each set begins."""
    values = np.empty(len(hashes), dtype=np.uint32)
    value_offsets = np.zeros(len(shingle_offsets), dtype=np.int64)
    most = int(np.diff(shingle_offsets).max(initial=0))
    table = np.zeros(1 << max(4, int(2 * most).bit_length()), dtype=np.uint64)
    _fill_distinct(hashes, shingle_offsets, table, values, value_offsets)
    return values[: value_offsets[-1]].copy(), value_offsets


@kernel
def _find_characters(text: Bytes, offsets: Offsets, ngram: int, starts: Offsets, shingle_offsets: Offsets) -> int:
    found = 0
    for doc in range(len(offsets) - 1):
        before = found
        for at in range(offsets[doc], offsets[doc + 1]):
            starts[found] = at
            found += (text[at] & 0xC0) != 0x80  # not a continuation byte
        size = found - before
        shingle_offsets[doc + 1] = shingle_offsets[doc] + (max(1, size - ngram + 1) if size > 0 else 0)
    return found


@kernel
def _find_slices(offsets: Offsets, starts: Offsets, ngram: int, shingle_offsets: Offsets, slices: Offsets) -> None:
    first = 0  # the text's first character among all
    for doc in range(len(offsets) - 1):
        place = shingle_offsets[doc]
        size = shingle_offsets[doc + 1] - place
        for number in range(size):
            slices[0, place + number] = starts[first + number]
            slices[1, place + number] = offsets[doc + 1] if number == size - 1 else starts[first + number + ngram]
        at = first + size  # a text has at least as many characters as shingles
        while at < len(starts) - 1 and starts[at] < offsets[doc + 1]:
            at += 1
        first = at


@kernel
def _fill_distinct(
    hashes: Hashes, shingle_offsets: Offsets, table: Hashes, values: Values, value_offsets: Offsets
) -> None:
    written = 0
    for doc in range(len(shingle_offsets) - 1):
        start, end = shingle_offsets[doc], shingle_offsets[doc + 1]
        size = 16
        while size < 2 * (end - start):
            size *= 2
        mask = _u64(size - 1)
        stamp = _u64(doc + 1) << _u64(32)  # what other texts left in the table counts as empty
        for i in range(start, end):
            value = hashes[i] & _u64(0xFFFFFFFF)
            slot = value & mask
            while table[slot] != (stamp | value) and table[slot] >> _u64(32) == _u64(doc + 1):
                slot = (slot + _u64(1)) & mask
            if table[slot] != (stamp | value):
                table[slot] = stamp | value
                values[written] = _u32(value)
                written += 1
        value_offsets[doc + 1] = written
