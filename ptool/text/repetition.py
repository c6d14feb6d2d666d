"""Pieces of a document that repeat an earlier one, counted exactly: lines, paragraphs.

A hash table per batch finds the first occurrence of a piece; on a hit the bytes themselves are compared, so the result
is that of a Python set. Entries of earlier documents are told by their index and never cleared, which makes a document
of ten lines cost ten lines. 7 ns per piece and 11 to 22 bytes for each piece of the longest document. N-grams of words:
packed_words.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.segments import Segments, paragraphs
from ptool.text.span_table import equal_bytes, hash_bytes, mixed, table_size


@dataclass(frozen=True, eq=False)
class Repeated:
    """Second and later occurrences of a piece in its document: how many, and their code points (int64[n] each)."""

    num: npt.NDArray[np.int64]
    num_chars: npt.NDArray[np.int64]


def repeated_segments(segments: Segments) -> Repeated:
    """Second and later occurrences among the pieces of each document (datatrove 0.10.1: find_duplicates)."""
    longest = int(segments.counts.max(initial=0))
    table = np.full(table_size(longest), -1, dtype=np.int64)
    found = np.zeros((2, len(segments.doc_offsets) - 1), dtype=np.int64)
    _repeated_segments(
        segments.text, segments.starts, segments.ends, segments.num_chars, segments.doc_offsets, table, found
    )
    return Repeated(found[0], found[1])


def consecutive_paragraphs(lines: Segments) -> npt.NDArray[np.int64]:
    """int64[n]: paragraphs of each document that are the same as the one before."""
    found = paragraphs(lines)
    same = np.zeros(len(found.starts), dtype=np.bool_)
    _mark_repeated(found.text, found.starts, found.ends, found.doc_offsets, same)
    return found.num_where(same & ~found.blank)


@kernel
def _mask(table: npt.NDArray[np.signedinteger], entries: int) -> np.uint64:
    """Small documents use the first few slots only: those stay in the processor's cache."""
    size = np.uint64(16)
    while size < np.uint64(len(table)) and size * np.uint64(3) < np.uint64(entries) * np.uint64(4):
        size <<= np.uint64(1)
    return size - np.uint64(1)


@kernel
def _repeated_segments(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    num_chars: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    found: npt.NDArray[np.int64],
) -> None:
    for document in range(len(doc_offsets) - 1):
        first = doc_offsets[document]
        mask = _mask(table, doc_offsets[document + 1] - first)
        for segment in range(first, doc_offsets[document + 1]):
            start = int(starts[segment])
            size = int(ends[segment]) - start
            slot = mixed(hash_bytes(text, start, size)) & mask
            while True:
                other = table[slot]
                if other < first:
                    table[slot] = segment
                    break
                begin = int(starts[other])
                if int(ends[other]) - begin == size and equal_bytes(text, begin, start, size):
                    found[0, document] += 1
                    found[1, document] += num_chars[segment]
                    break
                slot = (slot + np.uint64(1)) & mask


@kernel
def _mark_repeated(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    same: npt.NDArray[np.bool_],
) -> None:
    for document in range(len(doc_offsets) - 1):
        for segment in range(doc_offsets[document] + 1, doc_offsets[document + 1]):
            size = int(ends[segment]) - int(starts[segment])
            if int(ends[segment - 1]) - int(starts[segment - 1]) == size:
                same[segment] = equal_bytes(text, int(starts[segment - 1]), int(starts[segment]), size)
