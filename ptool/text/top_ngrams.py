"""The commonest n-gram of each document, for several n at once, in documents that fit into memory many times.

Words are numbered by their first occurrence, and an n-gram is two numbers: that of its first n - 1 words and that of
its last one. It is looked for only where both (n - 1)-grams in it occur twice, which in prose is seldom. 17 bytes for
each word of the longest document; long_documents.py counts the same in less.
"""

from __future__ import annotations

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
    put,
    table_size,
    take_entries,
)
from ptool.text.vectors import eight_at

_ONE = np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


def find_tops(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    most: int,
) -> npt.NDArray[np.int64]:
    """int64[most + 1, docs]: for n from 1 to `most`, what `PackedWords.top_ngram_chars` says of n-grams."""
    longest = int(np.diff(doc_offsets).max(initial=0))
    found = np.zeros((most + 1, len(doc_offsets) - 1), dtype=np.int64)
    scratch = np.empty((4, longest + 1), dtype=starts.dtype)
    twice = np.empty(longest + 1, dtype=np.bool_)
    table = np.empty(table_size(longest), dtype=starts.dtype)  # only what is used becomes memory
    _find_tops(text, starts, doc_offsets, table, scratch, twice, found)
    return found


@kernel
def _find_tops(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    table: npt.NDArray[np.signedinteger],
    scratch: npt.NDArray[np.signedinteger],
    twice: npt.NDArray[np.bool_],
    found: npt.NDArray[np.int64],
) -> None:
    """Fill `found[n]` for each n. Words and n-grams are known by the position of their first occurrence, from 0."""
    words, heads, numbers, todo = scratch[0], scratch[1], scratch[2], scratch[3]
    for document in range(len(doc_offsets) - 1):
        first = doc_offsets[document]
        size = doc_offsets[document + 1] - first
        mine = starts[first : first + size + 1]
        best, most = _count_words(text, mine, table, numbers)
        if size:
            found[1, document] = most * characters(text, int(mine[best]), int(mine[best + 1]))
        for word in range(size):
            owner = int(numbers[word]) if numbers[word] >= 0 else word
            words[word] = owner
            heads[word] = owner
            twice[word] = numbers[owner] < -1
        for n in range(2, min(len(found), size + 1)):
            num = 0  # those that can occur twice, listed without a branch
            for word in range(size - n + 1):
                todo[num] = word
                num += twice[word] & twice[word + 1]
            best, most = _count_pairs(words, heads, n, todo[:num], table, numbers)
            # What occurs once counts only if nothing occurs twice, and then the first n-gram does.
            found[n, document] = most * (characters(text, int(mine[best]), int(mine[best + n])) + n - 1)
            twice[:size] = False
            for index in range(num):
                owner = int(numbers[index]) if numbers[index] >= 0 else index
                heads[todo[index]] = todo[owner]
                twice[todo[index]] = numbers[owner] < -1


@kernel
def _count_words(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    table: npt.NDArray[np.signedinteger],
    numbers: npt.NDArray[np.signedinteger],
) -> tuple[int, int]:
    """For each word of a document its first occurrence; there, less than 0, how often it occurs (`numbers`).

    Returns the commonest word (the first one of several) and how often it occurs.
    """
    num_words = len(starts) - 1
    bits = clear_table(table, num_words)
    shift = np.uint64(64 - bits)
    mask = mask_of(bits)
    num = 0
    best = 0
    most = 1
    for word in range(num_words):
        start = int(starts[word])
        size = int(starts[word + 1]) - start
        # The first and the last eight bytes, which are the same ones in a short word: all of it up to sixteen.
        inner, back, head, tail = _edges(text, start, size)
        slot = _word_hash(text, start, size, head, tail) >> shift
        while True:
            other = int(table[slot])
            if other < 0:
                table[slot] = word
                numbers[word] = -1
                num += 1
                if is_full(table, bits, num):
                    entries = take_entries(table, bits)
                    bits += 1
                    shift, mask = np.uint64(64 - bits), mask_of(bits)
                    for entry in entries:
                        size = int(starts[entry + 1]) - int(starts[entry])
                        _, _, head, tail = _edges(text, int(starts[entry]), size)
                        slot = _word_hash(text, int(starts[entry]), size, head, tail) >> shift
                        put(table, slot, mask, entry)
                break
            begin = int(starts[other])
            if (
                int(starts[other + 1]) - begin == size
                and (eight_at(text, begin) & inner) == head
                and (eight_at(text, begin + back) & inner) == tail
                and (size <= 16 or equal_bytes(text, begin, start, size))
            ):
                best, most = _count_again(numbers, word, other, best, most)
                break
            slot = (slot + _ONE) & mask
    return best, most


@kernel
def _word_hash(text: npt.NDArray[np.uint8], start: int, size: int, head: np.uint64, tail: np.uint64) -> np.uint64:
    """A hash of a word by its edges; of a long one, by what is between them too: links of a list have equal edges."""
    value = head ^ (tail * MIX) ^ np.uint64(size)
    if size > 16:
        value ^= hash_bytes(text, start + 8, size - 16)
    return value * BASE


@kernel
def _count_pairs(
    words: npt.NDArray[np.signedinteger],
    heads: npt.NDArray[np.signedinteger],
    n: int,
    todo: npt.NDArray[np.signedinteger],
    table: npt.NDArray[np.signedinteger],
    numbers: npt.NDArray[np.signedinteger],
) -> tuple[int, int]:
    """For the n-gram at each of the words `todo` what `_count_words` says of words, as positions in `todo`.

    An n-gram is known by its first n - 1 words (`heads`) and its last one (`words`). Returns the first word of the
    commonest one, 0 where none occurs twice, and how often it occurs.
    """
    bits = clear_table(table, len(todo))
    shift = np.uint64(64 - bits)
    mask = mask_of(bits)
    num = 0
    best = -1
    most = 1
    for index in range(len(todo)):
        word = int(todo[index])
        head = heads[word]
        tail = words[word + n - 1]
        slot = (((np.uint64(head) << np.uint64(32)) ^ np.uint64(tail)) * BASE) >> shift
        while True:
            other = int(table[slot])
            if other < 0:
                table[slot] = index
                numbers[index] = -1
                num += 1
                if is_full(table, bits, num):
                    entries = take_entries(table, bits)
                    bits += 1
                    shift, mask = np.uint64(64 - bits), mask_of(bits)
                    for entry in entries:
                        key = np.uint64(heads[todo[entry]]) << np.uint64(32) ^ np.uint64(words[todo[entry] + n - 1])
                        put(table, (key * BASE) >> shift, mask, entry)
                break
            begin = int(todo[other])
            if heads[begin] == head and words[begin + n - 1] == tail:
                best, most = _count_again(numbers, index, other, best, most)
                break
            slot = (slot + _ONE) & mask
    return int(todo[best]) if best >= 0 else 0, most


@kernel
def _count_again(numbers: npt.NDArray[np.signedinteger], at: int, other: int, best: int, most: int) -> tuple[int, int]:
    """Note that what stands at `at` is what stands at `other`; the commonest one now, and how often it occurs."""
    numbers[at] = other
    numbers[other] -= 1
    count = -int(numbers[other])
    if count > most or (count == most and other < best):
        return other, count
    return best, most


@kernel
def _edges(text: npt.NDArray[np.uint8], start: int, size: int) -> tuple[np.uint64, int, np.uint64, np.uint64]:
    """A word's first eight bytes and its last; before these the mask of both, and how far the last are behind."""
    inner = _ALL >> np.uint64(64 - 8 * min(size, 8))
    back = max(size - 8, 0)
    return inner, back, eight_at(text, start) & inner, eight_at(text, start + back) & inner
