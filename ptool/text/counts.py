"""Counts per document: of set flags, of a substring, of distinct words from a list.

The small reductions that turn spans into measurements; each is one pass over its input.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.vectors import bytes_between, first_one


def sum_by_document(values: npt.NDArray[np.generic], doc_offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[n]: the sum of `values[doc_offsets[i]:doc_offsets[i + 1]]` (bool or integers) for each document."""
    return _sum_by_document(values, doc_offsets)


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
def _count_substring(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], wanted: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    size = len(wanted)
    first, last = wanted[0], wanted[size - 1]
    apart = min(size - 1, 63)
    for document in range(len(counts)):
        position = offsets[document]
        stop = offsets[document + 1]
        while position + size <= stop:
            step = 1
            here = np.uint64(1)
            if position + 64 <= len(text) and apart < 32:  # where its first and its last byte stand
                step = 64 - apart
                here = bytes_between(text, position, first, first)
                here &= bytes_between(text, position, last, last) >> np.uint64(apart)
            resume = position
            block = position
            while here:
                at = block + first_one(here)
                here &= here - np.uint64(1)
                if at < resume or at + size > stop:
                    continue
                matched = 0
                while matched < size and text[at + matched] == wanted[matched]:
                    matched += 1
                if matched == size:
                    counts[document] += 1
                    resume = at + size
            position = max(position + step, resume)
    return counts


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
