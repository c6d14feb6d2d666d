"""N-grams that a document has had before, found greedily, where the document fits into memory many times.

Most long n-grams of prose stand there once, and cost next to nothing: an n-gram is looked up only where another word of
the document begins with the same 16, then 24 bytes. A filter of one byte per slot says so, and may say so too often,
never too seldom; it is made once for all n. 17 bytes for each word of the longest document while the filter is made, 5
for each word that passes it, 6 for each different n-gram; long_documents.py finds the same in less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.span_table import (
    BASE,
    MIX,
    characters,
    clear_table,
    equal_bytes,
    hash_bytes,
    is_full,
    mask_of,
    mixed,
    put,
    table_size,
    take_entries,
)
from ptool.text.vectors import eight_at

_MOST_SLOTS = 1 << 24  # eight to a word of the documents that come here

# What words that begin a long n-gram are told apart by: their first 16 bytes, and where these are shared, 24.
_SHORT_BYTES = 16
_HEAD_BYTES = 24
_SHORT_ONLY = 1  # only n-grams of fewer than 16 bytes can repeat here
_SHORT_SHARED = 2  # those of fewer than 24 too
ANY_REPEATS = 3
"""Flag of a word where any n-gram may repeat."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Words that may begin an n-gram that occurs twice: positions, what may repeat there, and by document."""

    words: npt.NDArray[np.signedinteger]
    shared: npt.NDArray[np.uint8]
    doc_offsets: npt.NDArray[np.int64]


def find_candidates(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    n: int,
) -> Candidates:
    """The words where an n-gram or longer one may begin that occurs twice in its document."""
    longest = int(np.diff(doc_offsets).max(initial=0))
    slots = np.zeros(min(1 << max(6, (8 * longest).bit_length()), _MOST_SLOTS), dtype=np.uint8)
    words = np.empty_like(starts)  # only what is written becomes memory
    shared = np.empty(len(starts), dtype=np.uint8)
    candidate_offsets = np.zeros_like(doc_offsets)
    heads = np.empty(longest, dtype=np.uint32)
    num = _find_shared_heads(text, starts, doc_offsets, n, slots, heads, words, shared, candidate_offsets)
    return Candidates(words[:num], shared[:num], candidate_offsets)


def repeated_ngrams(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    n: int,
    candidates: Candidates,
) -> npt.NDArray[np.int64]:
    """int64[docs]: what `PackedWords.repeated_ngram_chars` says of n-grams."""
    most = int(np.diff(candidates.doc_offsets).max(initial=0))
    table = np.empty(table_size(most), dtype=starts.dtype)  # only what is used becomes memory
    return _repeated_ngrams(
        text, starts, doc_offsets, n, table, candidates.words, candidates.shared, candidates.doc_offsets
    )


@kernel
def _repeated_ngrams(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    n: int,
    table: npt.NDArray[np.signedinteger],
    candidates: npt.NDArray[np.signedinteger],
    shared: npt.NDArray[np.uint8],
    candidate_offsets: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    found = np.zeros(len(doc_offsets) - 1, dtype=np.int64)
    for document in range(len(found)):
        first, last = candidate_offsets[document], candidate_offsets[document + 1]
        bits = clear_table(table, last - first)
        mine = starts[: doc_offsets[document + 1] + 1]
        chars, _, _, _ = add_repeated(text, mine, n, candidates[first:last], shared[first:last], table, bits, 0, 0)
        found[document] = chars
    return found


@kernel
def add_repeated(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    n: int,
    candidates: npt.NDArray[np.signedinteger],
    shared: npt.NDArray[np.uint8],
    table: npt.NDArray[np.signedinteger],
    bits: int,
    num: int,
    resume: int,
) -> tuple[int, int, int, int]:
    """Characters of the n-grams at some words of a document that the table has had before.

    `starts` ends with the document. After the characters come `bits`, `num`, `resume` for the next words of the same
    document: the table's size, its entries, and the first word that is in no n-gram counted so far.
    """
    chars = 0
    last = len(starts) - 1 - n
    mask = mask_of(bits)
    for index in range(len(candidates)):
        word = int(candidates[index])
        if word < resume or word > last:
            continue
        start = int(starts[word])
        size = int(starts[word + n]) - start
        if size >= _HEAD_BYTES and shared[index] < ANY_REPEATS:  # the only one that begins so
            continue
        if size >= _SHORT_BYTES and shared[index] < _SHORT_SHARED:
            continue
        slot = mixed(hash_bytes(text, start, size)) & mask
        while True:
            other = int(table[slot])
            if other < 0:
                table[slot] = word
                num += 1
                if is_full(table, bits, num):
                    entries = take_entries(table, bits)
                    bits += 1
                    mask = mask_of(bits)
                    for entry in entries:
                        begin = int(starts[entry])
                        put(table, mixed(hash_bytes(text, begin, int(starts[entry + n]) - begin)) & mask, mask, entry)
                break
            begin = int(starts[other])
            if int(starts[other + n]) - begin == size and equal_bytes(text, begin, start, size):
                chars += characters(text, start, start + size)
                resume = word + n
                break
            slot = (slot + np.uint64(1)) & mask
    return chars, bits, num, resume


@kernel
def _find_shared_heads(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    n: int,
    slots: npt.NDArray[np.uint8],
    heads: npt.NDArray[np.uint32],
    words: npt.NDArray[np.signedinteger],
    shared: npt.NDArray[np.uint8],
    candidate_offsets: npt.NDArray[np.int64],
) -> int:
    """List the words that may begin a repeated n-gram or longer one (`words`), each with its flag (`shared`)."""
    num = 0
    for document in range(len(doc_offsets) - 1):
        first = doc_offsets[document]
        last = doc_offsets[document + 1]
        stop = int(starts[last])
        shift = _clear_slots(slots, last - first)
        for word in range(first, last):
            start = int(starts[word])
            head = (((eight_at(text, start) * MIX) ^ eight_at(text, start + 8)) * BASE) >> shift
            heads[word - first] = head
            slots[head] = slots[head] << 1 | 1
        begin = num
        for word in range(first, last):
            start = int(starts[word])
            is_short = int(starts[min(word + n, last)]) - start < _SHORT_BYTES
            near_end = start + _SHORT_BYTES > stop  # too near to have a head
            flag = max(is_short * _SHORT_ONLY, (slots[heads[word - first]] > 1) * _SHORT_SHARED, near_end * ANY_REPEATS)
            words[num] = word
            shared[num] = flag
            num += flag > 0
        shift = _clear_slots(slots, num - begin)
        for index in range(begin, num):
            start = int(starts[words[index]])
            head = ((eight_at(text, start) * MIX) ^ eight_at(text, start + 8)) * BASE
            head = ((head ^ eight_at(text, start + 16)) * MIX) >> shift
            heads[index - begin] = head
            slots[head] = slots[head] << 1 | 1
        for index in range(begin, num):
            if shared[index] == _SHORT_SHARED and slots[heads[index - begin]] > 1:
                shared[index] = ANY_REPEATS
        candidate_offsets[document + 1] = num
    return num


@kernel
def _clear_slots(slots: npt.NDArray[np.uint8], entries: int) -> np.uint64:
    """Empty eight slots for each entry, where there are as many; 64 less the bits of a slot."""
    bits = 6
    while (np.int64(1) << bits) < len(slots) and (np.int64(1) << bits) < 8 * entries:
        bits += 1
    slots[: np.int64(1) << bits] = 0
    return np.uint64(64 - bits)
