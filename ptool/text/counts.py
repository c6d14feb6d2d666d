"""Counts per document: of set flags, of a substring, of distinct words from a list.

The small reductions that turn spans into measurements; each is one pass over its input.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel

_BLOCK = 64  # bytes compared at once when looking for a first byte: a vector register or two


def sum_by_document(values: npt.NDArray[np.generic], doc_offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[n]: the sum of `values[doc_offsets[i]:doc_offsets[i + 1]]` (bool or integers) for each document."""
    return _sum_by_document(values, doc_offsets)


def count_characters(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[n]: code points of each text. 10 GB/s."""
    return _count_characters(text, offsets)


def count_substring(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], wanted: str) -> npt.NDArray[np.int64]:
    """int64[n]: how often `wanted` occurs in each text without overlap, as `str.count` has it. O(len(text))."""
    if not wanted:
        raise ValueError("an empty string occurs everywhere")
    return _count_substring(text, offsets, np.frombuffer(wanted.encode(), dtype=np.uint8))


def count_distinct(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    wanted: Iterable[str],
) -> npt.NDArray[np.int64]:
    """int64[n]: how many of the words `wanted` are among the words (spans of `text`) of each document at least once.

    Words are compared byte by byte, so case counts. Made for short lists: each word of the text is compared with every
    wanted word of its length.
    """
    encoded = [word.encode() for word in sorted(set(wanted) - {""})]
    lengths = np.array([len(word) for word in encoded], dtype=np.int64)
    letters = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return _count_distinct(text, starts, ends, doc_offsets, letters, lengths)


@kernel
def _sum_by_document(values: npt.NDArray[np.generic], doc_offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    sums = np.zeros(len(doc_offsets) - 1, dtype=np.int64)
    for document in range(len(sums)):
        total = np.int64(0)
        for index in range(doc_offsets[document], doc_offsets[document + 1]):
            total += values[index]
        sums[document] = total
    return sums


@kernel
def _count_characters(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    for document in range(len(counts)):
        count = 0
        for byte in text[offsets[document] : offsets[document + 1]]:
            count += byte & 0xC0 != 0x80  # every byte but those that continue a character
        counts[document] = count
    return counts


@kernel
def _count_substring(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], wanted: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    size = len(wanted)
    first = wanted[0]
    for document in range(len(counts)):
        position = offsets[document]
        last = offsets[document + 1] - size
        while position <= last:
            block_end = min(position + _BLOCK, last + 1)
            if not _has(text, position, first):
                position = block_end
                continue
            while position < block_end:
                matched = 0
                while matched < size and text[position + matched] == wanted[matched]:
                    matched += 1
                if matched == size:
                    counts[document] += 1
                    position += size
                else:
                    position += 1
    return counts


@kernel
def _has(text: npt.NDArray[np.uint8], position: int, byte: int) -> bool:
    """Whether `byte` is among the next _BLOCK bytes, if there are as many; no branch, so it compiles to vector code."""
    found = False
    for one in text[position : position + _BLOCK]:
        found |= one == byte
    return found


@kernel
def _count_distinct(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    letters: npt.NDArray[np.uint8],
    lengths: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    num_wanted = len(lengths)
    longest = lengths.max() if num_wanted else 0
    begins = np.zeros((longest + 1, 256), dtype=np.bool_)  # whether a wanted word of this length begins with this byte
    first = 0
    for candidate in range(num_wanted):
        begins[lengths[candidate], letters[first]] = True
        first += lengths[candidate]
    counts = np.zeros(len(doc_offsets) - 1, dtype=np.int64)
    seen = np.empty(num_wanted, dtype=np.bool_)
    for document in range(len(counts)):
        seen[:] = False
        for word in range(doc_offsets[document], doc_offsets[document + 1]):
            if counts[document] == num_wanted:
                break
            start = np.int64(starts[word])
            size = ends[word] - start
            if size > longest or not begins[size, text[start]]:
                continue
            first = 0  # where the wanted word begins in `letters`
            for candidate in range(num_wanted):
                if lengths[candidate] == size and not seen[candidate]:
                    matched = 0
                    while matched < size and text[start + matched] == letters[first + matched]:
                        matched += 1
                    if matched == size:
                        seen[candidate] = True
                        counts[document] += 1
                first += lengths[candidate]
    return counts
