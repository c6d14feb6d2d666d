"""N-grams of documents of many millions of words, counted in memory that hardly grows with the document.

What is fast for prose keeps some twenty bytes for each word (top_ngrams.py, repeated_ngrams.py); a Chinese document of
50 MB has 17 million words. Here n-grams are looked up by their bytes where they stand, and what is kept is bounded:

- the commonest n-gram is counted in parts of the hash space, one pass over the words for each, with a table of fixed
  size; a table that fills up is begun again with twice as many parts, so a document that repeats itself needs few;
- for repeated n-grams a first pass sets one bit for each n-gram, and another one where the first was set before. Only
  n-grams whose second bit is set enter the table, since any other occurs once.

64 MiB for the first; 16 MiB for the second and 4 bytes for each slot of a table of n-grams that occur twice. About 30
ns for each word and n.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.repeated_ngrams import ANY_REPEATS, add_repeated
from ptool.text.span_table import (
    BASE,
    characters,
    clear_table,
    equal_bytes,
    hash_bytes,
    mixed,
    table_size,
)

_COUNTED_AT_ONCE = 1 << 23  # slots; a document of fewer n-grams than three quarters of it is counted in one pass
_FILTER_BITS = 26  # of a slot: four slots and more for each word of a document of 50 MB
_LISTED_AT_ONCE = 1 << 16  # words
_ONE = np.uint64(1)


def top_ngrams(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    n: int,
    *,
    slots: int = _COUNTED_AT_ONCE,
) -> npt.NDArray[np.int64]:
    """int64[docs]: what `PackedWords.top_ngram_chars` says; `slots`, a power of two, bounds the table."""
    found = np.zeros(len(doc_offsets) - 1, dtype=np.int64)
    table = np.empty(slots, dtype=starts.dtype)
    counts = np.empty(slots, dtype=starts.dtype)
    for document in range(len(found)):
        mine = starts[doc_offsets[document] : doc_offsets[document + 1] + 1]
        if len(mine) <= n:
            continue
        num_parts, chars = 1, -1
        while chars < 0:
            chars = _count_in_parts(text, mine, n, num_parts, table, counts)
            num_parts *= 2
        found[document] = chars
    return found


def repeated_ngrams(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    n: int,
    *,
    filter_bits: int = _FILTER_BITS,
    at_once: int = _LISTED_AT_ONCE,
) -> npt.NDArray[np.int64]:
    """int64[docs]: what `PackedWords.repeated_ngram_chars` says; `filter_bits`, at least 6, of a slot of the filter.

    `at_once` words are looked at together.
    """
    listed = np.empty(at_once, dtype=starts.dtype)
    flags = np.full(at_once, ANY_REPEATS, dtype=np.uint8)
    found = np.zeros(len(doc_offsets) - 1, dtype=np.int64)
    for document in range(len(found)):
        mine = starts[doc_offsets[document] : doc_offsets[document + 1] + 1]
        once = np.zeros(1 << filter_bits - 6, dtype=np.uint64)
        twice = np.zeros_like(once)
        most = _mark_repeated(text, mine, n, once, twice)
        del once  # before the table
        table = np.empty(table_size(2 * most), dtype=starts.dtype)  # only what is used becomes memory
        found[document] = _repeated_chars(text, mine, n, twice, table, listed, flags)
    return found


@kernel
def _count_in_parts(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    n: int,
    num_parts: int,
    table: npt.NDArray[np.signedinteger],
    counts: npt.NDArray[np.signedinteger],
) -> int:
    """Occurrences of a document's commonest n-gram times its characters; -1 where a part does not fit the table."""
    mask = np.uint64(len(table) - 1)
    best = 0
    most = 1
    for part in range(num_parts):
        table[:] = -1
        num = 0
        for word in range(len(starts) - n):
            start = int(starts[word])
            size = int(starts[word + n]) - start
            value = hash_bytes(text, start, size)
            for inner in range(word + 1, word + n):
                value = (value ^ np.uint64(int(starts[inner]) - start)) * BASE
            value = mixed(value)
            if (value >> np.uint64(40)) & np.uint64(num_parts - 1) != np.uint64(part):
                continue
            slot = value & mask
            while table[slot] >= 0 and not _same_words(text, starts, n, int(table[slot]), word):
                slot = (slot + _ONE) & mask
            if table[slot] < 0:
                table[slot] = word
                counts[slot] = 1
                num += 1
                if 4 * num > 3 * len(table):
                    return -1
                continue
            counts[slot] += 1
            if counts[slot] > most or (counts[slot] == most and table[slot] < best):
                most = int(counts[slot])
                best = int(table[slot])
    return most * (characters(text, int(starts[best]), int(starts[best + n])) + n - 1)


@kernel
def _same_words(
    text: npt.NDArray[np.uint8], starts: npt.NDArray[np.signedinteger], n: int, first: int, second: int
) -> bool:
    """Whether two n-grams are the same words: the same bytes, cut at the same places."""
    begin = int(starts[first])
    start = int(starts[second])
    for word in range(1, n + 1):
        if int(starts[first + word]) - begin != int(starts[second + word]) - start:
            return False
    return equal_bytes(text, begin, start, int(starts[second + n]) - start)


@kernel
def _mark_repeated(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    n: int,
    once: npt.NDArray[np.uint64],
    twice: npt.NDArray[np.uint64],
) -> int:
    """Set the bits of a document's n-grams; how many found theirs set: at least half of those whose second bit is."""
    num = 0
    for word in range(len(starts) - n):
        start = int(starts[word])
        block, bit = _bit_of(mixed(hash_bytes(text, start, int(starts[word + n]) - start)), len(once))
        if once[block] & bit:
            twice[block] |= bit
            num += 1
        once[block] |= bit
    return num


@kernel
def _bit_of(value: np.uint64, num_blocks: int) -> tuple[np.uint64, np.uint64]:
    """Where a hash has its bit in a filter: the element, and the bit in it."""
    return (value >> np.uint64(6)) & np.uint64(num_blocks - 1), _ONE << (value & np.uint64(63))


@kernel
def _repeated_chars(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    n: int,
    twice: npt.NDArray[np.uint64],
    table: npt.NDArray[np.signedinteger],
    listed: npt.NDArray[np.signedinteger],
    flags: npt.NDArray[np.uint8],
) -> int:
    """Characters of the n-grams of a document that it has had before, from the left, without overlap."""
    bits = clear_table(table, len(table) // 2)
    chars = entries = resume = 0
    for first in range(0, len(starts) - n, len(listed)):
        num = 0
        for word in range(first, min(first + len(listed), len(starts) - n)):
            start = int(starts[word])
            block, bit = _bit_of(mixed(hash_bytes(text, start, int(starts[word + n]) - start)), len(twice))
            listed[num] = word
            num += twice[block] & bit != 0
        more, bits, entries, resume = add_repeated(
            text, starts, n, listed[:num], flags[:num], table, bits, entries, resume
        )
        chars += more
    return chars
