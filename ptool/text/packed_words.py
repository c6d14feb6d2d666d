"""The words of documents packed end to end, and what Gopher asks of their n-grams.

Without the whitespace between words an n-gram is one span of bytes: it is hashed and compared at once, and each word
needs one number: a second copy of the text and 4 bytes for each word.

How n-grams are counted depends on the longest document. Up to some millions of words the ways that are fast for prose
are taken (top_ngrams.py, repeated_ngrams.py: 17 bytes for each word and 6 for each different n-gram); beyond, those
whose memory does not grow with the document (long_documents.py). The counts are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ptool.text import long_documents
from ptool.text.compiled import kernel
from ptool.text.marks import Bits, count_in
from ptool.text.repeated_ngrams import Candidates, find_candidates, repeated_ngrams
from ptool.text.spans import span_type
from ptool.text.top_ngrams import find_tops
from ptool.text.vectors import count_ones, eight_at, first_one, put_eight
from ptool.text.words import Words

_SLACK = 32  # bytes after the packed words, so that a head can be read at any of them
_LEAST_LONG = 5  # from these n-grams on, words are sorted out once for all n
_MOST_TOP = 4  # top n-grams up to these are counted together
_MOST_WORDS = 1 << 22  # of a document that is counted the fast way
_ONE = np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True, eq=False)
class PackedWords:
    """The words of n documents end to end, without what stood between them.

    text          uint8[b + _SLACK]  the bytes of all words, and some to read on into
    starts        int32|int64[w+1]   where each word begins in `text`
    doc_offsets   int64[n+1]         where each document's words begin
    """

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.signedinteger]
    doc_offsets: npt.NDArray[np.int64]
    _tops: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)
    _candidates: dict[int, Candidates] = field(default_factory=dict)

    def repeated_ngram_chars(self, n: int) -> npt.NDArray[np.int64]:
        """int64[docs]: code points of n-grams seen before, found greedily from the left without overlap.

        N-grams are compared joined without spaces, as datatrove 0.10.1 does (find_all_duplicate).
        """
        if self._is_long:
            return long_documents.repeated_ngrams(self.text, self.starts, self.doc_offsets, n)
        least = min(n, _LEAST_LONG)
        if least not in self._candidates:
            self._candidates[least] = find_candidates(self.text, self.starts, self.doc_offsets, least)
        return repeated_ngrams(self.text, self.starts, self.doc_offsets, n, self._candidates[least])

    def top_ngram_chars(self, n: int) -> npt.NDArray[np.int64]:
        """int64[docs]: occurrences of the commonest n-gram times its code points, its n - 1 spaces included.

        Of equally common ones the first counts; one occurrence counts too, as in datatrove 0.10.1
        (find_top_duplicate). 0 where a document has fewer than n words.
        """
        if n not in self._tops:
            if self._is_long:
                self._tops[n] = long_documents.top_ngrams(self.text, self.starts, self.doc_offsets, n)
            else:
                found = find_tops(self.text, self.starts, self.doc_offsets, max(n, _MOST_TOP))
                self._tops.update(enumerate(found))
        return self._tops[n]

    @property
    def _is_long(self) -> bool:
        return int(np.diff(self.doc_offsets).max(initial=0)) > _MOST_WORDS


def pack_words(words: Words) -> PackedWords:
    """Words end to end. 0.5 ns per byte."""
    starts = np.empty(len(words.starts) + 1, dtype=words.starts.dtype)
    size = int((words.ends - words.starts).sum(dtype=np.int64))
    text = np.zeros(size + _SLACK, dtype=np.uint8)
    _pack(words.text, words.starts, words.ends, text, starts)
    return PackedWords(text, starts, words.doc_offsets)


def pack_marked(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], word_starts: Bits, spaces: Bits
) -> PackedWords:
    """The same from the bitmaps of n texts, without 8 bytes for the span of each word; in English half as fast.

    Bits of `text` say where words begin, and what is whitespace.
    """
    doc_offsets = np.zeros(len(offsets), dtype=np.int64)
    np.cumsum(count_in(word_starts, offsets), out=doc_offsets[1:])
    size = len(text) - int(count_in(spaces, np.array([0, len(text)], dtype=np.int64))[0])
    packed = np.zeros(size + _SLACK, dtype=np.uint8)
    starts = np.empty(int(doc_offsets[-1]) + 1, dtype=span_type(text))
    _pack_marked(text, word_starts, spaces, packed, starts)
    return PackedWords(packed, starts, doc_offsets)


@kernel
def _pack(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    packed: npt.NDArray[np.uint8],
    packed_starts: npt.NDArray[np.signedinteger],
) -> None:
    """Copy words, eight bytes at a time, of which the next word overwrites the rest."""
    at = 0
    safe = len(text) - 8
    for word in range(len(starts)):
        packed_starts[word] = at
        position = int(starts[word])
        end = int(ends[word])
        to = at
        while position < end and position <= safe:
            put_eight(packed, to, eight_at(text, position))
            position += 8
            to += 8
        at += end - int(starts[word])
        for last in range(position, end):  # near the end of the buffer
            packed[to] = text[last]
            to += 1
    packed_starts[len(starts)] = at
    for position in range(at, len(packed)):
        packed[position] = 0


@kernel
def _pack_marked(
    text: npt.NDArray[np.uint8],
    word_starts: npt.NDArray[np.uint64],
    spaces: npt.NDArray[np.uint64],
    packed: npt.NDArray[np.uint8],
    packed_starts: npt.NDArray[np.signedinteger],
) -> None:
    """Copy runs of bytes that are no whitespace, eight at a time, of which the next run overwrites the rest."""
    num_bytes = len(text)
    at = 0
    word = 0
    for block in range(num_bytes // 64 + 1):
        first = 64 * block
        filled = ~spaces[block]
        if first + 64 > num_bytes:
            filled &= (_ONE << np.uint64(num_bytes - first)) - _ONE
        begins = word_starts[block]
        while begins:
            packed_starts[word] = at + count_ones(filled & ((begins & (~begins + _ONE)) - _ONE))
            word += 1
            begins &= begins - _ONE
        while filled:
            shift = first_one(filled)
            length = min(first_one(~(filled >> np.uint64(shift))), 64 - shift)
            position, to, stop = first + shift, at, first + shift + length
            while position < stop and position + 8 <= num_bytes:
                put_eight(packed, to, eight_at(text, position))
                position += 8
                to += 8
            for last in range(position, stop):  # near the end of the buffer
                packed[to] = text[last]
                to += 1
            at += length
            filled &= _ALL << np.uint64(shift + length) if shift + length < 64 else np.uint64(0)
    packed_starts[word] = at
    for position in range(at, len(packed)):
        packed[position] = 0
